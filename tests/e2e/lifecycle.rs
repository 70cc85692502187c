//! The life of a program: started, restarted, given up, stopped.

use fleetvisor_proto::xmlrpc::Value;
use fleetvisor_tests::{Flavour, Host, HostConfig, is_alive, wait_for, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often something happened according to the log, which may be a moment behind what the daemon answers.
fn expect_count(host: &Host, part: &str, expected: usize) {
    wait_for(&format!("{expected} times {part:?} in the log"), || {
        let log = host.log();
        if log.matches(part).count() == expected { Ok(()) } else { Err(log) }
    });
}

/// The names behind `spawned:` or `stopped:` in the order of the log.
fn names(host: &Host, word: &str) -> Vec<String> {
    host.log()
        .lines()
        .filter_map(|line| line.split_once(word)?.1.split('\'').nth(1).map(str::to_owned))
        .collect()
}

#[test]
fn autostart_decides_what_runs_at_first() {
    let host = Host::with(
        "[program:on]\ncommand=/bin/sleep 600\nstartsecs=0\n\
         [program:off]\ncommand=/bin/sleep 600\nstartsecs=0\nautostart=false\n",
    );
    host.wait("on", "RUNNING");
    assert_eq!(host.state("off"), "STOPPED");
    assert_eq!(host.pid("off"), 0);
    host.call("supervisor.startProcess", &["off".into()]).unwrap();
    assert_eq!(host.state("off"), "RUNNING");
}

#[test]
fn a_program_is_starting_until_startsecs_have_passed() {
    let host = Host::with("[program:slow]\ncommand=/bin/sleep 600\nstartsecs=1\n");
    host.wait("slow", "STARTING");
    host.wait("slow", "RUNNING");
    let line = "success: slow entered RUNNING state, process has stayed up for > than 1 seconds";
    host.wait_file("supervisord.log", line);
}

#[test]
fn exits_too_quickly_until_fatal() {
    let host = Host::with("[program:bad]\ncommand=/bin/false\nstartsecs=5\nstartretries=1\n");
    host.wait("bad", "BACKOFF");
    let info = host.wait("bad", "FATAL");
    assert_eq!(
        info.get("spawnerr").and_then(Value::as_str),
        Some("Exited too quickly (process log may have details)")
    );
    expect_count(&host, "spawned: 'bad'", 2);
    expect_count(&host, "gave up: bad entered FATAL state, too many start retries too quickly", 1);
}

#[test]
fn a_command_that_does_not_exist_is_fatal_after_its_retries() {
    let host = Host::with("[program:none]\ncommand=/no/such/program\nstartretries=0\n");
    let info = host.wait("none", "FATAL");
    assert_eq!(info.get("spawnerr").and_then(Value::as_str), Some("can't find command '/no/such/program'"));
    let fault = host.call("supervisor.startProcess", &["none".into()]).unwrap_err();
    assert_eq!(fault.code, 20);
}

#[test]
fn only_an_unexpected_exit_restarts() {
    let host = HostConfig::new(
        "[program:expected]\ncommand={dir}/once expected 3\nexitcodes=0,3\nstartsecs=0\n\
         [program:unexpected]\ncommand={dir}/once unexpected 4\nexitcodes=0,3\nstartsecs=0\n",
    )
    // The second run stays, so that the test sees one restart and not a storm of them.
    .script("once", "echo run >> $1.runs; [ $(wc -l < $1.runs) -lt 2 ] || exec sleep 600; exit $2")
    .supervisord("directory={dir}")
    .start();
    host.wait_file("unexpected.runs", "run\nrun\n");
    let info = host.wait("expected", "EXITED");
    assert_eq!(info.get("exitstatus").and_then(Value::as_int), Some(3));
    host.wait("unexpected", "RUNNING");
    assert_eq!(host.dir().read("expected.runs"), "run\n");
    host.wait_file("supervisord.log", "exited: expected (exit status 3; expected)");
    host.wait_file("supervisord.log", "exited: unexpected (exit status 4; not expected)");
}

#[test]
fn autorestart_true_always_restarts_and_false_never_does() {
    let host = HostConfig::new(
        "[program:always]\ncommand={dir}/once always 0\nautorestart=true\nstartsecs=0\n\
         [program:never]\ncommand={dir}/once never 7\nautorestart=false\nstartsecs=0\n",
    )
    .script("once", "echo run >> $1.runs; [ $(wc -l < $1.runs) -lt 2 ] || exec sleep 600; exit $2")
    .supervisord("directory={dir}")
    .start();
    host.wait_file("always.runs", "run\nrun\n");
    host.wait("always", "RUNNING");
    host.wait("never", "EXITED");
    assert_eq!(host.dir().read("never.runs"), "run\n");
}

#[test]
fn a_killed_program_comes_back_with_a_new_pid_and_alone() {
    let host = Host::with(
        "[program:w]\ncommand=/bin/sleep 600\nprocess_name=w_%(process_num)02d\nnumprocs=2\nstartsecs=0\n",
    );
    let old = host.wait("w:w_00", "RUNNING").get("pid").and_then(Value::as_int).unwrap() as i32;
    host.wait("w:w_01", "RUNNING");
    let other = host.pid("w:w_01");
    kill(Pid::from_raw(old), Signal::SIGKILL).unwrap();
    host.wait_new_pid("w:w_00", old);
    assert_eq!(host.pid("w:w_01"), other);
    host.wait_file("supervisord.log", "exited: w_00 (terminated by SIGKILL; not expected)");
}

#[test]
fn a_stop_that_is_ignored_becomes_a_kill() {
    let host = HostConfig::new(
        "[program:stubborn]\ncommand={dir}/stubborn\nstopwaitsecs=1\nstartsecs=0\nstdout_logfile={dir}/stubborn.log\n",
    )
    .script("stubborn", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    .start();
    host.wait_file("stubborn.log", "ready");
    host.call("supervisor.stopProcess", &["stubborn".into()]).unwrap();
    assert_eq!(host.state("stubborn"), "STOPPED");
    let log = host.log();
    assert!(log.contains("waiting for stubborn to stop"), "{log}");
    assert!(log.contains("killing 'stubborn'"), "{log}");
    assert!(log.contains("stopped: stubborn (terminated by SIGKILL)"), "{log}");
}

#[test]
fn the_stopsignal_is_the_one_that_is_sent() {
    let host = HostConfig::new(
        "[program:t]\ncommand={dir}/t\nstopsignal=USR1\nstartsecs=0\nstdout_logfile={dir}/t.log\n",
    )
    .script("t", "trap 'echo got USR1; exit 0' USR1; echo ready; while :; do sleep 0.05; done")
    .start();
    host.wait_file("t.log", "ready");
    host.call("supervisor.stopProcess", &["t".into()]).unwrap();
    host.wait_file("t.log", "got USR1");
    host.wait_file("supervisord.log", "stopped: t (exit status 0)");
}

/// A program with a child of its own, whose pid it writes to a file.
const PARENT: &str = "sleep 600 & echo $! > $1.child; trap 'exit 0' TERM; wait";
const STUBBORN_PARENT: &str =
    "trap '' TERM; sh -c 'while :; do sleep 0.1; done' & echo $! > $1.child; wait; wait";

fn child(host: &Host, name: &str) -> i32 {
    wait_for(&format!("the pid of {name}'s child"), || {
        host.dir().read(&format!("{name}.child")).trim().parse().map_err(|error| format!("{error}"))
    })
}

#[test]
fn stopasgroup_stops_grandchildren_and_a_plain_stop_leaves_them() {
    let host = HostConfig::new(
        "[program:plain]\ncommand={dir}/parent plain\nstartsecs=0\n\
         [program:group]\ncommand={dir}/parent group\nstartsecs=0\nstopasgroup=true\n",
    )
    .script("parent", PARENT)
    .supervisord("directory={dir}")
    .start();
    let (plain, group) = (child(&host, "plain"), child(&host, "group"));
    for name in ["plain", "group"] {
        host.call("supervisor.stopProcess", &[name.into()]).unwrap();
    }
    wait_until("the grandchild of the group has ended", || !is_alive(group));
    assert!(is_alive(plain));
}

#[test]
fn killasgroup_kills_grandchildren_too() {
    let host = HostConfig::new(
        "[program:p]\ncommand={dir}/parent p\nstartsecs=0\nstopwaitsecs=1\nkillasgroup=true\n",
    )
    .script("parent", STUBBORN_PARENT)
    .supervisord("directory={dir}")
    .start();
    let grandchild = child(&host, "p");
    host.call("supervisor.stopProcess", &["p".into()]).unwrap();
    wait_until("the grandchild has been killed", || !is_alive(grandchild));
}

#[test]
fn priorities_order_the_start_and_the_end() {
    let mut host = Host::with(
        "[program:c]\ncommand=/bin/sleep 600\npriority=10\nstartsecs=0\n\
         [program:a]\ncommand=/bin/sleep 600\npriority=30\nstartsecs=0\n\
         [program:b]\ncommand=/bin/sleep 600\npriority=20\nstartsecs=0\n",
    );
    for name in ["a", "b", "c"] {
        host.wait(name, "RUNNING");
    }
    assert!(host.stop().success());
    assert_eq!(names(&host, "spawned: "), ["c", "b", "a"]);
    let stopped: Vec<String> = host
        .log()
        .lines()
        .filter_map(|line| line.split_once("stopped: ")?.1.split(' ').next().map(str::to_owned))
        .collect();
    assert_eq!(stopped, ["a", "b", "c"]);
}

#[test]
fn numprocs_makes_a_group_that_starts_and_stops_as_one() {
    let host = Host::with(
        "[program:w]\ncommand=/bin/sleep 600\nprocess_name=%(program_name)s_%(process_num)02d\nnumprocs=3\n\
         numprocs_start=8\nstartsecs=0\n",
    );
    let names = ["w:w_08", "w:w_09", "w:w_10"];
    for name in names {
        host.wait(name, "RUNNING");
    }
    host.call("supervisor.stopProcessGroup", &["w".into()]).unwrap();
    for name in names {
        assert_eq!(host.state(name), "STOPPED");
    }
    host.call("supervisor.startProcessGroup", &["w".into()]).unwrap();
    for name in names {
        assert_eq!(host.state(name), "RUNNING");
    }
}

#[test]
fn a_stop_right_after_a_start_never_loses_its_signal() {
    if Flavour::of_suite() == Flavour::Python {
        // Supervisor loses about every second one.
        return;
    }
    let host = Host::with(
        "[program:quick]\ncommand=/bin/sleep 600\nautostart=false\nstartsecs=0\nstopwaitsecs=20\n",
    );
    for _ in 0..50 {
        host.call("supervisor.startProcess", &["quick".into()]).unwrap();
        host.call("supervisor.stopProcess", &["quick".into()]).unwrap();
    }
    expect_count(&host, "stopped: quick (terminated by SIGTERM)", 50);
    expect_count(&host, "killing 'quick'", 0);
}

#[test]
fn faults_are_supervisors() {
    let host = Host::with(
        "[program:on]\ncommand=/bin/sleep 600\nstartsecs=0\n\
         [program:off]\ncommand=/bin/sleep 600\nautostart=false\n",
    );
    host.wait("on", "RUNNING");
    let code = |method: &str, name: &str| host.call(method, &[name.into()]).unwrap_err().code;
    assert_eq!(code("supervisor.startProcess", "on"), 60);
    assert_eq!(code("supervisor.stopProcess", "off"), 70);
    assert_eq!(code("supervisor.startProcess", "nosuch"), 10);
    assert_eq!(code("supervisor.getProcessInfo", "nosuch"), 10);
    assert_eq!(code("supervisor.noSuchMethod", "on"), 1);
}
