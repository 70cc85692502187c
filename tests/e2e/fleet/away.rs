//! Hosts that are away, controllers that are killed: what was acknowledged is carried out.

use fleetvisor_tests::{Fleet, Ran, wait_for};

use super::{changed, pids, wait_web, web};

/// The answer to a wish for a host that is away: named, and remembered.
#[track_caller]
fn pending(ran: Ran) {
    let ran = ran.expect_code(4);
    let line = ran.stdout.lines().find(|line| line.starts_with("web-01: "));
    assert!(
        line.is_some_and(|line| line.contains("away since ") && line.ends_with(" when it returns")),
        "{ran}"
    );
}

#[test]
fn a_stop_reaches_a_host_that_was_cut_off_once_it_is_back() {
    let fleet = Fleet::new();
    let host = web(&fleet, "web-01");
    let before = pids(&host);
    host.cable.cut();
    fleet.wait_host("web-01", "away");
    pending(fleet.ctl(&["--all-hosts", "stop", "web:"]));
    assert_eq!(pids(&host), before, "a host that is cut off goes on");
    host.cable.mend();
    host.wait("web:app", "STOPPED");
    host.wait("web:nginx", "STOPPED");
    assert_eq!(pids(&host)["worker:worker_00"], before["worker:worker_00"]);
}

#[test]
fn a_stop_reaches_a_host_that_was_rebooted() {
    let fleet = Fleet::new();
    let mut host = web(&fleet, "web-01");
    host.kill();
    fleet.wait_host("web-01", "away");
    pending(fleet.ctl(&["--all-hosts", "stop", "web:"]));
    host.start();
    host.wait("web:app", "STOPPED");
    host.wait("web:nginx", "STOPPED");
    host.wait("worker:worker_00", "RUNNING");
}

#[test]
fn a_start_is_remembered_through_a_reboot() {
    let fleet = Fleet::new();
    let mut host =
        fleet.join("web-01", "", "[program:app]\ncommand=/bin/sleep 600\nautostart=false\nstartsecs=0\n");
    fleet.ctl(&["--all-hosts", "start", "app"]).expect_code(0);
    host.stop();
    host.start();
    host.wait("app", "RUNNING");
}

#[test]
fn a_host_keeps_its_wishes_while_there_is_no_controller() {
    let mut fleet = Fleet::new();
    let mut host = web(&fleet, "web-01");
    fleet.ctl(&["--all-hosts", "stop", "web:app"]).expect_code(0);
    fleet.controller().kill_alone();
    host.kill();
    let log = host.log();
    host.start();
    host.wait("web:nginx", "RUNNING");
    assert_eq!(host.state("web:app"), "STOPPED");
    let after = host.log();
    assert!(!after[log.len()..].contains("spawned: 'app'"), "it has not run in between");
}

#[test]
fn what_was_acknowledged_survives_a_kill_of_the_controller() {
    let mut fleet = Fleet::new();
    let mut host = web(&fleet, "web-01");
    host.cable.cut();
    fleet.wait_host("web-01", "away");
    pending(fleet.ctl(&["--all-hosts", "stop", "web:"]));
    fleet.controller().kill_alone();
    fleet.start_controller();
    host.cable.mend();
    host.wait("web:app", "STOPPED");
    host.wait("web:nginx", "STOPPED");

    // And once more with a host that had carried it out, forgot it, and comes back with nothing.
    fleet.ctl(&["--all-hosts", "start", "web:nginx"]).expect_code(0);
    fleet.controller().kill_alone();
    fleet.start_controller();
    host.kill();
    host.start();
    host.wait("web:nginx", "RUNNING");
    host.wait("web:app", "STOPPED");
}

#[test]
fn the_latest_wish_counts() {
    let fleet = Fleet::new();
    let host = web(&fleet, "web-01");
    let before = pids(&host);
    host.cable.cut();
    fleet.wait_host("web-01", "away");
    pending(fleet.ctl(&["--all-hosts", "stop", "web:"]));
    pending(fleet.ctl(&["--all-hosts", "start", "web:app"]));
    host.cable.mend();
    host.wait("web:nginx", "STOPPED");
    assert_eq!(pids(&host)["web:app"], before["web:app"]);
}

#[test]
fn a_restart_is_carried_out_once_when_the_host_returns_and_not_after_it_expired() {
    let fleet = Fleet::new();
    let host = web(&fleet, "web-01");
    let before = pids(&host);
    host.cable.cut();
    fleet.wait_host("web-01", "away");
    let away = |arguments: &[&str]| {
        let ran = fleet.ctl(arguments).expect_code(4);
        let line = ran.stdout.lines().find(|line| line.starts_with("web-01: away since "));
        assert!(line.is_some_and(|line| line.contains("; will restart if it returns before ")), "{ran}");
    };
    away(&["--all-hosts", "restart", "web:app"]);
    away(&["--all-hosts", "restart", "web:nginx", "--expire", "1s"]);
    wait_for("the operation to expire", || {
        let ran = fleet.ctl(&["op", "list"]);
        if ran.stdout.contains("finished") { Ok(()) } else { Err(ran.to_string()) }
    });
    host.cable.mend();
    let pid = host.wait_new_pid("web:app", i32::try_from(before["web:app"]).unwrap());
    // A later command has gone through, so an earlier one would have too.
    fleet.ctl(&["--all-hosts", "restart", "worker:worker_00"]).expect_code(0);
    assert_eq!(changed(&before, &pids(&host)), ["web:app", "worker:worker_00"]);
    assert_eq!(host.pid("web:app"), pid, "once");
}

#[test]
fn a_stop_that_came_after_a_restart_wins_when_the_host_returns() {
    let fleet = Fleet::new();
    let host = web(&fleet, "web-01");
    host.cable.cut();
    fleet.wait_host("web-01", "away");
    fleet.ctl(&["--all-hosts", "restart", "web:"]).expect_code(4);
    pending(fleet.ctl(&["--all-hosts", "stop", "web:app"]));
    host.cable.mend();
    wait_for("both operations to end", || {
        let ran = fleet.ctl(&["op", "list"]);
        if ran.stdout.matches("finished").count() == 2 { Ok(()) } else { Err(ran.to_string()) }
    });
    assert_eq!(host.state("web:app"), "STOPPED");
    assert_eq!(host.state("web:nginx"), "RUNNING");
}

#[test]
fn a_link_that_breaks_in_the_middle_leaves_nothing_undone() {
    let fleet = Fleet::new();
    let host = web(&fleet, "web-01");
    for round in 0..3 {
        host.cable.cut();
        fleet.wait_host("web-01", "away");
        host.cable.mend();
        fleet.wait_host("web-01", "online");
        let verb = if round % 2 == 0 { "stop" } else { "start" };
        fleet.ctl(&["--all-hosts", verb, "web:app"]).expect_code(0);
    }
    host.wait("web:app", "STOPPED");
    wait_for("the controller to see that", || {
        let ran = fleet.ctl(&["status", "web-01:web:app"]);
        if ran.stdout.contains("STOPPED") { Ok(()) } else { Err(ran.to_string()) }
    });
    wait_web_but_app(&host);
}

#[track_caller]
fn wait_web_but_app(host: &fleetvisor_tests::Host) {
    for name in ["web:nginx", "worker:worker_00", "worker:worker_01"] {
        host.wait(name, "RUNNING");
    }
}

#[test]
fn a_host_that_comes_back_is_the_same_host() {
    let fleet = Fleet::new();
    let mut host = web(&fleet, "web-01");
    host.kill();
    fleet.wait_host("web-01", "away");
    // The token has been spent; from here on its certificate speaks for it.
    host.start();
    fleet.wait_host("web-01", "online");
    wait_web(&host);
    let ran = fleet.ctl(&["host", "list"]).expect_code(0);
    assert_eq!(ran.stdout.matches("web-01").count(), 1, "{ran}");
}
