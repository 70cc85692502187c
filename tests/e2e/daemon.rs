//! The daemon itself: background, pid file, signals, a second one on the same socket.

use fleetvisor_tests::{Host, HostConfig, ProcessStat, is_alive, wait_for, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const CAT: &str = "[program:cat]\ncommand=/bin/cat\nstartsecs=0\n";

#[test]
fn without_n_it_goes_to_the_background_and_leaves_its_pid() {
    let host = HostConfig::new(CAT).prepare();
    host.daemonize().expect_code(0);
    host.wait("cat", "RUNNING");
    let pid: i32 = host.dir().read("supervisord.pid").trim().parse().unwrap();
    let stat = ProcessStat::of(pid).unwrap();
    assert_eq!(stat.session, pid, "the daemon leads a session of its own");
    let open: Vec<String> = (0..3)
        .map(|fd| std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap().display().to_string())
        .collect();
    assert_eq!(open, ["/dev/null"; 3]);
    host.supervisorctl_of_suite(&["pid"]).expect_code(0).expect_stdout(&format!("{pid}\n"));
    let cat = host.pid("cat");
    host.supervisorctl_of_suite(&["shutdown"]).expect_code(0).expect_stdout("Shut down\n");
    wait_until("the daemon and its program have ended", || !is_alive(pid) && !is_alive(cat));
    wait_until("pid file and socket are gone", || {
        !host.path("supervisord.pid").exists() && !host.path("s.sock").exists()
    });
}

#[test]
fn term_int_and_quit_stop_everything_and_exit_with_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let mut host = Host::with(CAT);
        host.wait("cat", "RUNNING");
        let cat = host.pid("cat");
        host.daemon().signal(signal);
        assert_eq!(host.daemon().wait_exit().code(), Some(0), "{signal}");
        assert!(!is_alive(cat));
        assert!(!host.path("supervisord.pid").exists());
        assert!(!host.path("s.sock").exists());
        let log = host.log();
        assert!(log.contains(&format!("received {signal} indicating exit request")), "{log}");
        assert!(log.contains("waiting for cat to die"), "{log}");
        assert!(log.contains("stopped: cat (terminated by SIGTERM)"), "{log}");
    }
}

#[test]
fn a_program_may_end_the_daemon_through_its_parent() {
    let mut host = HostConfig::new("[program:p]\ncommand={dir}/p\nstartsecs=0\nautorestart=false\n")
        .script("p", "kill -TERM $PPID; exec sleep 600")
        .prepare();
    host.launch();
    assert_eq!(host.daemon().wait_exit().code(), Some(0));
    host.wait_file("supervisord.log", "received SIGTERM indicating exit request");
}

#[test]
fn hup_reads_the_configuration_again_and_keeps_the_pid() {
    let mut host = Host::with(CAT);
    host.wait("cat", "RUNNING");
    let cat = host.pid("cat");
    host.reconfigure("[program:dog]\ncommand=/bin/cat\nstartsecs=0\n");
    host.daemon().signal(Signal::SIGHUP);
    host.wait("dog", "RUNNING");
    assert!(!is_alive(cat));
    assert_eq!(host.call("supervisor.getProcessInfo", &["cat".into()]).unwrap_err().code, 10);
    let pid = host.daemon().pid();
    assert_eq!(host.call("supervisor.getPID", &[]).unwrap().as_int(), Some(i64::from(pid)));
    host.wait_file("supervisord.log", "received SIGHUP indicating restart request");
}

#[test]
fn usr2_reopens_the_logs() {
    let mut host = HostConfig::new("[program:p]\ncommand={dir}/p\nstartsecs=0\nstdout_logfile={dir}/p.log\n")
        .script("p", "while :; do echo line; sleep 0.05; done")
        .start();
    host.wait_file("p.log", "line\n");
    std::fs::rename(host.path("p.log"), host.path("p.log.moved")).unwrap();
    std::fs::rename(host.path("supervisord.log"), host.path("supervisord.log.moved")).unwrap();
    host.daemon().signal(Signal::SIGUSR2);
    host.wait_file("p.log", "line\n");
    wait_until("the daemon has a new log", || host.path("supervisord.log").exists());
    let moved = host.dir().read("supervisord.log.moved");
    assert!(moved.contains("received SIGUSR2 indicating log reopen request"), "{moved}");
    assert!(moved.contains("supervisord logreopen"), "{moved}");
}

#[test]
fn a_second_daemon_on_the_same_socket_is_refused() {
    let host = Host::with(CAT);
    host.wait("cat", "RUNNING");
    let cat = host.pid("cat");
    let config = host.path("supervisord.conf").display().to_string();
    let second = fleetvisor_tests::run(&mut host.command(&["-n", "-c", &config]), fleetvisor_tests::LIMIT);
    second.expect_code(2).expect_stderr("Error: Another program is already listening on a port");
    assert_eq!(host.pid("cat"), cat, "the first goes on");
}

#[test]
fn a_socket_left_behind_by_a_dead_daemon_is_no_obstacle() {
    let mut host = Host::with(CAT);
    host.wait("cat", "RUNNING");
    host.kill();
    assert!(host.path("s.sock").exists());
    host.start();
    host.wait("cat", "RUNNING");
}

#[test]
fn no_zombie_stays_below_the_daemon() {
    let mut host = Host::with(CAT);
    host.wait("cat", "RUNNING");
    let daemon = host.daemon().pid();
    kill(Pid::from_raw(host.pid("cat")), Signal::SIGKILL).unwrap();
    wait_for("no zombie below the daemon", || {
        let zombies: Vec<i32> = std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                ProcessStat::of(*pid).is_some_and(|stat| stat.parent == daemon && stat.state == 'Z')
            })
            .collect();
        if zombies.is_empty() { Ok(()) } else { Err(format!("{zombies:?}")) }
    });
}
