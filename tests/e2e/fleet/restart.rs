//! start, stop and restart on many hosts.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use fleetvisor_tests::Fleet;

use super::{DB, Three, WEB, changed, pids, wait_web, web};

#[test]
fn restart_of_a_group_changes_exactly_its_pids_on_every_host() {
    let three = Three::start();
    let before = [pids(&three.web_01), pids(&three.web_02), pids(&three.db_01)];
    let ran = three.fleet.ctl(&["--all-hosts", "restart", "web:"]).expect_code(0);
    for host in ["web-01", "web-02"] {
        for name in ["nginx", "app"] {
            assert!(
                ran.stdout.lines().any(|line| line == format!("{host}:web:{name}: restarted")),
                "a line for {host}:web:{name}: {ran}"
            );
        }
    }
    assert_eq!(ran.stdout.lines().count(), 4, "{ran}");
    let after = [pids(&three.web_01), pids(&three.web_02), pids(&three.db_01)];
    assert_eq!(changed(&before[0], &after[0]), ["web:app", "web:nginx"]);
    assert_eq!(changed(&before[1], &after[1]), ["web:app", "web:nginx"]);
    assert_eq!(changed(&before[2], &after[2]), [""; 0]);
    // It has waited until they run.
    wait_web(&three.web_01);
    for pid in after[0].values().chain(after[1].values()) {
        assert_ne!(*pid, 0);
    }
}

#[test]
fn a_killed_agent_is_named_while_the_others_finish() {
    let mut three = Three::start();
    let before = pids(&three.web_01);
    three.web_02.kill();
    let ran = three.fleet.ctl(&["--all-hosts", "restart", "web:"]).expect_code(4);
    assert_eq!(changed(&before, &pids(&three.web_01)), ["web:app", "web:nginx"]);
    assert!(ran.stdout.contains("web-01:web:nginx: restarted"), "{ran}");
    // `away since`, or `went away during the command` where that was sooner than the news of it.
    assert!(ran.stdout.lines().any(|line| line.starts_with("web-02: ") && line.contains("away")), "{ran}");
}

#[test]
fn scopes_choose_the_hosts() {
    let three = Three::start();
    let restarted = |arguments: &[&str]| {
        let ran = three.fleet.ctl(arguments).expect_code(0);
        let mut names: Vec<String> = ran
            .stdout
            .lines()
            .filter_map(|line| line.strip_suffix(": restarted").map(str::to_owned))
            .collect();
        names.sort();
        names
    };
    assert_eq!(restarted(&["--hosts", "db-*", "restart", "all"]), ["db-01:db:db"]);
    assert_eq!(
        restarted(&["-l", "role=web,dc!=us", "restart", "web:app"]),
        ["web-01:web:app", "web-02:web:app"]
    );
    assert_eq!(
        restarted(&["--hosts", "web-02,db-01", "restart", "web:"]),
        ["web-02:web:app", "web-02:web:nginx"]
    );
    assert_eq!(
        restarted(&["restart", "web-0*:*:*_01"]),
        ["web-01:worker:worker_01", "web-02:worker:worker_01"]
    );
    assert_eq!(
        restarted(&["restart", "web-01:worker:"]),
        ["web-01:worker:worker_00", "web-01:worker:worker_01"]
    );
    assert_eq!(restarted(&["restart", "db-01:all"]), ["db-01:db:db"]);
}

#[test]
fn stop_and_start_answer_for_each_process() {
    let fleet = Fleet::new();
    let host = web(&fleet, "web-01");
    let before = pids(&host);
    fleet
        .ctl(&["--all-hosts", "stop", "web:"])
        .expect_code(0)
        .expect_stdout("web-01:web:app: stopped\n")
        .expect_stdout("web-01:web:nginx: stopped\n");
    assert_eq!(host.state("web:app"), "STOPPED");
    assert_eq!(pids(&host)["worker:worker_00"], before["worker:worker_00"]);
    // What is so already is no failure.
    fleet.ctl(&["--all-hosts", "stop", "web:"]).expect_code(0);
    fleet
        .ctl(&["--all-hosts", "start", "web:"])
        .expect_code(0)
        .expect_stdout("web-01:web:app: started\n")
        .expect_stdout("web-01:web:nginx: started\n");
    assert_eq!(host.state("web:app"), "RUNNING");
    fleet.ctl(&["--all-hosts", "start", "web:"]).expect_code(0);
}

#[test]
fn a_program_that_cannot_start_fails_its_host_alone() {
    let fleet = Fleet::new();
    let good =
        fleet.join("good", "", "[program:app]\ncommand=/bin/sleep 600\nautostart=false\nstartsecs=0\n");
    let _bad =
        fleet.join("bad", "", "[program:app]\ncommand=/no/such/program\nautostart=false\nstartretries=0\n");
    fleet
        .ctl(&["--all-hosts", "start", "app"])
        .expect_code(4)
        .expect_stdout("good:app:app: started\n")
        .expect_stdout("bad:app:app: ERROR (no such file)\n");
    assert_eq!(good.state("app"), "RUNNING");
}

#[test]
fn a_target_that_is_nowhere_is_an_error_that_names_it() {
    let fleet = Fleet::new();
    let host = web(&fleet, "web-01");
    let before = pids(&host);
    let ran = fleet.ctl(&["--all-hosts", "restart", "nosuch:"]).expect_code(1);
    assert!((ran.stdout.clone() + &ran.stderr).contains("nosuch:"), "{ran}");
    let ran = fleet.ctl(&["restart", "nosuch-host:web:"]).expect_code(1);
    assert!((ran.stdout.clone() + &ran.stderr).contains("nosuch-host:web:"), "{ran}");
    assert_eq!(pids(&host), before);
}

#[test]
fn results_arrive_as_they_happen_and_a_slow_host_delays_nobody() {
    let fleet = Fleet::new();
    let fast = fleet.join("fast", "", DB);
    fast.wait("db", "RUNNING");
    let token = fleet.token(&["--ttl", "1h"]);
    let slow = fleet
        .host_config("slow", "", &token, fleet.port(), "[program:db]\ncommand={dir}/slow\nstartsecs=0\nstopwaitsecs=60\n")
        // Ends when the test says so.
        .script("slow", "cd \"$(dirname \"$0\")\"; trap 'while [ ! -e go ]; do sleep 0.05; done; exit 0' TERM; echo ready > ready\nwhile :; do sleep 0.05; done")
        .start();
    fleet.wait_host("slow", "online");
    slow.wait_file("ready", "ready");

    let mut ctl = fleet
        .ctl_command(&fleet.admin(), &["--all-hosts", "restart", "db"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(ctl.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "fast:db:db: restarted");
    assert_eq!(slow.state("db"), "STOPPING");
    slow.dir().write("go", "");
    assert_eq!(lines.next().unwrap().unwrap(), "slow:db:db: restarted");
    assert!(ctl.wait().unwrap().success());
}

#[test]
fn a_controller_that_is_not_there_is_exit_5() {
    let mut fleet = Fleet::new();
    let host = web(&fleet, "web-01");
    let before = pids(&host);
    fleet.controller().kill_alone();
    let port = fleet.port().to_string();
    fleet.ctl(&["--all-hosts", "restart", "web:"]).expect_code(5).expect_stderr(&port);
    assert_eq!(pids(&host), before, "losing the controller touches no program");
    fleet.start_controller();
    fleet.wait_host("web-01", "online");
    assert_eq!(pids(&host), before);
    fleet.ctl(&["--all-hosts", "restart", "web:"]).expect_code(0);
}

#[test]
fn wrong_usage_is_exit_2() {
    let fleet = Fleet::new();
    for arguments in [
        &["--all-hosts", "nosuch"][..],
        &["--all-hosts", "restart"],
        &["-l", "role==", "status"],
        &["-l", "", "restart", "web:"],
        &["restart", "a:b:c:d"],
    ] {
        let ran = fleet.ctl(arguments);
        assert_eq!(ran.code(), 2, "{ran}");
        assert!(!ran.stderr.is_empty(), "{ran}");
    }
}

#[test]
fn two_hosts_of_a_hundred_processes_restart_in_one_go() {
    let many = format!(
        "[program:m]\ncommand=/bin/sleep 600\nprocess_name=m_%(process_num)03d\nnumprocs=100\nstartsecs=0\n{WEB}"
    );
    let fleet = Fleet::new();
    let hosts = [fleet.join("a", "", &many), fleet.join("b", "", &many)];
    for host in &hosts {
        host.wait("m:m_099", "RUNNING");
    }
    let before = hosts.each_ref().map(|host| pids(host));
    let ran = fleet.ctl(&["--all-hosts", "restart", "m:"]).expect_code(0);
    assert_eq!(ran.stdout.lines().count(), 200, "{ran}");
    for (host, before) in hosts.iter().zip(&before) {
        assert_eq!(changed(before, &pids(host)).len(), 100);
    }
}
