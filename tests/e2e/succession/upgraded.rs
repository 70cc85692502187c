//! The agent is upgraded in place: again and again under load, by releases that fail, and with callers who wait.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use fleetvisor_tests::{Flavour, Host, HostConfig, agent_of, binary, wait_for};

use super::workers::{Clients, answers, diaries_agree, host, states_are_true};
use super::{Dice, rounds};

const STEADY: &str = "[program:steady]\ncommand=/bin/sleep 600\n\
                      [program:slow]\ncommand=/bin/sleep 600\nautostart=false\nstartsecs=600\n";

fn is_python() -> bool {
    let python = Flavour::of_suite() == Flavour::Python;
    if python {
        println!("Supervisor cannot be upgraded in place: not looked at");
    }
    python
}

fn inode(path: impl AsRef<std::path::Path>) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}

/// The agent's pid, and the inode of the program that it runs.
fn agent(keeper: i32) -> (i32, u64) {
    let pid = wait_for("an agent", || agent_of(keeper).ok_or_else(|| "none".to_owned()));
    (pid, inode(format!("/proc/{pid}/exe")))
}

#[test]
fn nothing_is_lost_or_done_twice_when_the_agent_is_upgraded_again_and_again() {
    if is_python() {
        return;
    }
    let mut host = host().installed().start();
    let keeper = host.daemon().pid();
    let clients = Clients::come(&host.rpc);
    let (mut dice, rounds) = (Dice::new(), rounds(4));
    let mut agents = vec![agent(keeper).0];
    for round in 0..rounds {
        std::thread::sleep(Duration::from_millis(dice.below(700)));
        host.install(["other", "genuine"][round % 2]);
        let said = host.supervisorctl(&["upgrade"]).expect_code(0).stdout;
        let (pid, program) = agent(keeper);
        assert_eq!(program, inode(host.path("bin/supervisord")), "{said}");
        assert!(said.starts_with(&format!("upgraded from 0.1.0 (pid {}) to ", agents[round])), "{said}");
        assert!(said.ends_with(&format!(" (pid {pid})\n")), "{said}");
        agents.push(pid);
    }
    let answered = clients.go();
    states_are_true(&host);
    // The keeper follows, with its pid, and still learns how programs end.
    wait_for("the keeper to become the program", || {
        let runs = (inode(format!("/proc/{keeper}/exe")), inode(host.path("bin/supervisord")));
        if runs.0 == runs.1 { Ok(()) } else { Err(format!("{runs:?}: {}", host.log())) }
    });
    assert!(host.stop().success());
    assert_eq!(diaries_agree(&host), 0, "every exit is known");
    let log = host.log();
    let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!((count(" INFO upgraded from "), count(" has ended (")), (rounds, 0), "{log}");
    println!("{rounds} upgrades, {answered} calls answered");
}

/// With one program that runs, and one that is long in coming up.
fn steady() -> Host {
    let host = HostConfig::new(STEADY).installed().start();
    host.wait("steady", "RUNNING");
    host
}

#[test]
fn a_release_that_fails_to_prove_itself_changes_nothing_and_the_caller_is_told_why() {
    if is_python() {
        return;
    }
    let mut host = steady();
    let (before, pid) = (agent(host.daemon().pid()), host.pid("steady"));
    let script = |body: &str| format!("#!/bin/sh\n{body}\n").into_bytes();
    let half = std::fs::read(host.path("bin/genuine")).unwrap()[..100_000].to_vec();
    let wrapper = format!("exec {} \"$@\"", host.path("bin/other").display());
    let cases: [(&str, Vec<u8>, u32, &str); 6] = [
        ("silent", script("exit 1"), 0o755, "has ended with exit status 1 instead of proving itself\n"),
        (
            "loud",
            script("echo 'no libfoo.so' >&2; exit 127"),
            0o755,
            "exit status 127 instead of proving itself: no libfoo.so\n",
        ),
        ("unexecutable", script("exit 0"), 0o644, "is not executable\n"),
        ("text", b"not a program".to_vec(), 0o755, "is no program\n"),
        ("half", half, 0o755, "supervisord"),
        (
            "wrapper",
            script(&wrapper),
            0o755,
            "it runs another program, which has to be in that place itself\n",
        ),
    ];
    for (name, content, mode, why) in cases {
        let path = host.dir().write(&format!("bin/{name}"), content);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        host.install(name);
        let said = host.supervisorctl(&["upgrade"]).expect_code(1).stdout;
        let begin = "ERROR: not upgraded, supervisord goes on as it was: ";
        assert!(said.starts_with(begin) && said.contains(why), "{name}: {said}");
        assert_eq!(agent(host.daemon().pid()), before, "{name}");
    }
    std::fs::remove_file(host.path("bin/supervisord")).unwrap();
    let said = host.supervisorctl(&["upgrade"]).expect_code(1).stdout;
    assert!(said.contains("bin/supervisord: No such file or directory"), "{said}");
    assert_eq!((host.pid("steady"), host.state("steady").as_str()), (pid, "RUNNING"));
    assert_eq!(host.log().lines().filter(|line| line.contains(" CRIT not upgraded, ")).count(), 7);

    host.install("genuine");
    let said = host.supervisorctl(&["upgrade"]).expect_code(0).stdout;
    assert!(
        said.starts_with("supervisord 0.1.0 runs /") && said.ends_with("/bin/supervisord already\n"),
        "{said}"
    );
    // What is on the disk now must be what a new release can read, too.
    host.reconfigure("[program:steady]\ncommand=/bin/cat\nstartsecs=nonsense\n");
    host.install("other");
    let said = host.supervisorctl(&["upgrade"]).expect_code(1).stdout;
    assert!(said.contains("proving itself: invalid literal for int() with base 10: 'nonsense'"), "{said}");
    assert_eq!(agent(host.daemon().pid()), before);
}

#[test]
fn a_release_that_dies_after_the_hand_over_gives_way_to_the_one_before() {
    if is_python() {
        return;
    }
    let mut host = steady();
    let (before, pid) = (agent(host.daemon().pid()), host.pid("steady"));
    std::fs::copy(binary("faulty-supervisord"), host.path("bin/faulty")).unwrap();
    for round in 1..=2 {
        host.install("faulty");
        let said = host.supervisorctl(&["upgrade"]).expect_code(1).stdout;
        let begin =
            "ERROR: not upgraded, supervisord 0.1.0 goes on: 9.9.9 did not come up: the agent with pid ";
        assert!(
            said.starts_with(begin) && said.ends_with("(terminated by SIGABRT; core dumped)\n")
                || said.ends_with("(terminated by SIGABRT)\n"),
            "{said}"
        );
        let after = agent(host.daemon().pid());
        assert!(after.0 != before.0 && after.1 == before.1, "{before:?} {after:?}");
        host.wait_file("supervisord.out", "as others of its program did; the program before it goes on");
        assert_eq!(
            host.log().lines().filter(|line| line.contains(" CRIT not upgraded, 0.1.0 goes on: ")).count(),
            round
        );
    }
    assert_eq!((host.pid("steady"), host.state("steady").as_str()), (pid, "RUNNING"));
    host.install("other");
    host.supervisorctl(&["upgrade"]).expect_code(0);
    assert_eq!(agent(host.daemon().pid()).1, inode(host.path("bin/other")));
    assert_eq!(host.pid("steady"), pid);
    assert!(host.stop().success());
    assert!(!host.path("s.sock").exists() && !host.path("supervisord.pid").exists());
}

#[test]
fn callers_who_wait_are_told_to_ask_again_and_what_they_asked_for_goes_on() {
    if is_python() {
        return;
    }
    let mut host = steady();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| host.supervisorctl(&["start", "slow"]));
        let raw = scope.spawn(|| {
            host.wait("slow", "STARTING");
            host.rpc.call("supervisor.stopProcessGroup", &["nosuch".into()]).unwrap().unwrap_err();
        });
        raw.join().unwrap();
        host.install("other");
        host.supervisorctl(&["upgrade"]).expect_code(0);
        let said = waiting.join().unwrap().expect_code(1).stdout;
        let why = "the daemon is being upgraded, and what was asked for may have been done: ask again";
        assert_eq!(said, format!("slow: ERROR ({why})\n"));
    });
    assert_eq!(host.state("slow"), "STARTING");
    answers(&host);
    assert!(host.stop().success());
}

#[test]
fn a_daemon_in_the_background_is_upgraded_too_and_by_the_link_that_it_was_started_from() {
    if is_python() {
        return;
    }
    let host = HostConfig::new(STEADY).supervisord("directory={dir}/logs\n").installed().prepare();
    std::fs::rename(host.path("bin/supervisord"), host.path("bin/release-1")).unwrap();
    std::os::unix::fs::symlink("release-1", host.path("bin/supervisord")).unwrap();
    host.daemonize().expect_code(0);
    let keeper = host.call("supervisor.getPID", &[]).unwrap().as_int().unwrap();
    let keeper = i32::try_from(keeper).unwrap();
    std::os::unix::fs::symlink("other", host.path("bin/link")).unwrap();
    std::fs::rename(host.path("bin/link"), host.path("bin/supervisord")).unwrap();
    host.supervisorctl(&["upgrade"]).expect_code(0);
    assert_eq!(agent(keeper).1, inode(host.path("bin/other")));
    assert_eq!(host.dir().read("supervisord.pid"), format!("{keeper}\n"));
    host.supervisorctl(&["shutdown"]).expect_code(0);
    wait_for("the end", || if host.path("s.sock").exists() { Err("there".to_owned()) } else { Ok(()) });
}
