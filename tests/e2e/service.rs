//! The daemon as a service: the units of systemd, and as pid 1 of a container.

use std::process::Command;

use fleetvisor_tests::{Daemon, Flavour, HostConfig, LIMIT, WorkDir, binary, children_of, run, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let found = Command::new("systemd-analyze").arg("--version").output();
    if !found.is_ok_and(|output| output.status.success()) {
        println!("there is no systemd-analyze on this machine: not looked at");
        return;
    }
    let folder = WorkDir::new();
    let units = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/systemd");
    for name in ["supervisord", "fleetvisor-controller"] {
        let unit = format!("{name}.service");
        let text = std::fs::read_to_string(format!("{units}/{unit}")).unwrap();
        // Nothing is installed here, and a program that is missing would be found.
        let installed = format!("/usr/bin/{name} ");
        assert!(text.contains(&installed), "{text}");
        folder.write(&unit, text.replace(&installed, &format!("{} ", binary(name).display())));
        let mut verify = Command::new("systemd-analyze");
        verify.args(["verify", "--man=no"]).arg(folder.path().join(&unit));
        let verified = run(&mut verify, LIMIT);
        let about_it: Vec<&str> = verified.stderr.lines().filter(|line| line.contains(name)).collect();
        assert!(verified.status.success() && about_it.is_empty(), "{verified:?}");
    }
}

#[test]
fn as_pid_1_orphans_are_reaped_and_term_ends_everything_in_order() {
    if Flavour::of_suite() == Flavour::Python {
        println!("Supervisor as pid 1 is not looked at");
        return;
    }
    let namespace = ["--pid", "--fork", "--mount-proc", "--user", "--map-root-user"];
    let possible = Command::new("unshare").args(namespace).arg("true").output();
    if !possible.is_ok_and(|output| output.status.success()) {
        println!("this machine allows no pid namespace: not looked at");
        return;
    }
    let host = HostConfig::new(
        "[program:first]\ncommand={dir}/steady first\npriority=1\n\
         [program:last]\ncommand={dir}/steady last\npriority=2\n\
         [program:parent]\ncommand={dir}/parent\nstartsecs=0\nautorestart=false\n",
    )
    .supervisord("user=root\n")
    .script("steady", "trap 'echo $1 >>$(dirname $0)/ends; exit 0' TERM; while :; do sleep 0.1; done")
    .script("parent", "(sleep 0.3; exit 9) & exit 0")
    .prepare();
    let mut command = Command::new("unshare");
    command.args(namespace).arg(binary("supervisord")).args(["-n", "-c"]).arg(host.path("supervisord.conf"));
    let mut daemon = Daemon::start("unshare", &mut command, host.dir().path());
    host.wait_file("supervisord.log", "reaped unknown pid");
    let log = host.wait_file("supervisord.log", "success: last entered RUNNING");
    assert!(log.contains("supervisord started with pid 1\n") && log.contains("(exit status 9)\n"), "{log}");
    let inside = wait_for("the daemon", || {
        children_of(daemon.pid()).first().copied().ok_or_else(|| "none".to_owned())
    });
    kill(Pid::from_raw(inside), Signal::SIGTERM).unwrap();
    assert!(daemon.wait_exit().success());
    assert_eq!(host.dir().read("ends"), "last\nfirst\n");
    let log = host.log();
    assert!(log.ends_with("stopped: first (exit status 0)\n"), "{log}");
}
