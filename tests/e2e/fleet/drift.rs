//! What somebody does on a host against what was asked of the fleet: shown, and put right where the host says so.

use fleetvisor_tests::{Fleet, FleetHost, Proxy, wait_for};
use serde_json::Value;

use super::web;

const APP: &str = "[program:app]\ncommand=/bin/sleep 600\nstartsecs=0\n";

fn drift(fleet: &Fleet, code: i32) -> Value {
    let ran = fleet.ctl(&["drift", "-o", "json"]).expect_code(code);
    serde_json::from_str(&ran.stdout).unwrap()
}

#[track_caller]
fn wait_drift(fleet: &Fleet, code: i32) {
    wait_for("the drift to be seen", || {
        let ran = fleet.ctl(&["drift"]);
        if ran.code() == code { Ok(()) } else { Err(ran.to_string()) }
    });
}

#[test]
fn a_local_stop_or_start_is_shown_as_drift_and_left_alone() {
    let fleet = Fleet::new();
    let host = web(&fleet, "web-01");
    // Nothing was asked for, so nothing can differ from it.
    host.supervisorctl(&["stop", "worker:worker_00"]).expect_code(0);
    assert_eq!(drift(&fleet, 0)["drift"], Value::Array(Vec::new()));

    fleet.ctl(&["--all-hosts", "stop", "web:app"]).expect_code(0);
    fleet.ctl(&["--all-hosts", "start", "web:nginx"]).expect_code(0);
    drift(&fleet, 0);
    host.supervisorctl(&["start", "web:app"]).expect_code(0);
    host.supervisorctl(&["stop", "web:nginx"]).expect_code(0);
    wait_for("both to be seen", || {
        let ran = fleet.ctl(&["drift"]);
        let seen = ran.stdout.contains("web-01:web:app ") && ran.stdout.contains("web-01:web:nginx ");
        if seen { Ok(ran) } else { Err(ran.to_string()) }
    })
    .expect_code(3)
    .expect_stdout("should be stopped (by operator admin")
    .expect_stdout("should be started (by operator admin");
    let found = drift(&fleet, 3);
    let first = &found["drift"][0];
    assert_eq!((&first["name"], &first["state"]), (&"web-01:web:app".into(), &"RUNNING".into()), "{found}");
    assert_eq!((&first["desired"], &first["enforced"]), (&"stopped".into(), &false.into()), "{found}");
    fleet
        .ctl(&["--all-hosts", "status"])
        .expect_stdout("(drift: should be stopped)")
        .expect_stdout("(drift: should be started)");
    // Asked again, it is put right.
    fleet.ctl(&["--all-hosts", "stop", "web:app"]).expect_code(0);
    fleet.ctl(&["--all-hosts", "start", "web:nginx"]).expect_code(0);
    wait_drift(&fleet, 0);
}

#[test]
fn a_host_that_enforces_puts_it_right_even_without_a_controller() {
    let mut fleet = Fleet::new();
    let token = fleet.token(&["--ttl", "1h"]);
    let cable = Proxy::to(fleet.port());
    let programs = APP.to_owned();
    let config = fleet.host_config("h-01", "", &token, cable.port(), &programs);
    let mut host = FleetHost { host: config.prepare(), cable };
    let enforcing = host.programs().replace("host=h-01\n", "host=h-01\nreconcile=enforce\n");
    host.reconfigure(&enforcing);
    host.start();
    fleet.wait_host("h-01", "online");
    fleet.ctl(&["--all-hosts", "stop", "app"]).expect_code(0);
    host.supervisorctl(&["start", "app"]).expect_code(0);
    host.wait("app", "STOPPED");
    assert!(host.log().contains("against the fleet's wish: stop"), "{}", host.log());

    fleet.ctl(&["--all-hosts", "start", "app"]).expect_code(0);
    fleet.controller().kill_alone();
    let pid = host.pid("app");
    host.supervisorctl(&["stop", "app"]).expect_code(0);
    host.wait_new_pid("app", pid);
    // A restart by hand is no drift.
    host.supervisorctl(&["restart", "app"]).expect_code(0);
    host.wait("app", "RUNNING");
}
