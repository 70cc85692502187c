//! What the fleet looks like: `status` and `host`.

use serde_json::Value as Json;

use super::{Three, web};
use fleetvisor_tests::{Fleet, Ran, wait_for};

/// First column of each line.
fn names(ran: &Ran) -> Vec<&str> {
    ran.stdout.lines().filter_map(|line| line.split_whitespace().next()).collect()
}

#[test]
fn status_names_every_process_in_three_parts() {
    let three = Three::start();
    let ran = three.fleet.ctl(&["--all-hosts", "status"]).expect_code(0);
    assert_eq!(
        names(&ran),
        [
            "db-01:db:db",
            "web-01:web:app",
            "web-01:web:nginx",
            "web-01:worker:worker_00",
            "web-01:worker:worker_01",
            "web-02:web:app",
            "web-02:web:nginx",
            "web-02:worker:worker_00",
            "web-02:worker:worker_01",
        ],
        "{ran}"
    );
    let pid = three.db_01.pid("db");
    let line = ran.stdout.lines().next().unwrap();
    assert!(line.contains(&format!("RUNNING   pid {pid}, uptime 0:")), "as supervisorctl prints it: {line}");

    let ran = three.fleet.ctl(&["status", "web-*:*:*_01"]).expect_code(0);
    assert_eq!(names(&ran), ["web-01:worker:worker_01", "web-02:worker:worker_01"]);
    let ran = three.fleet.ctl(&["-l", "role=db", "status"]).expect_code(0);
    assert_eq!(names(&ran), ["db-01:db:db"]);
    let ran = three.fleet.ctl(&["--hosts", "web-01", "status", "web:"]).expect_code(0);
    assert_eq!(names(&ran), ["web-01:web:app", "web-01:web:nginx"]);
}

#[test]
fn status_is_3_when_something_does_not_run() {
    let fleet = Fleet::new();
    let _host = web(&fleet, "web-01");
    fleet.ctl(&["--all-hosts", "stop", "web:app"]).expect_code(0);
    let ran = fleet.ctl(&["--all-hosts", "status"]).expect_code(3);
    let line = ran.stdout.lines().find(|line| line.starts_with("web-01:web:app ")).unwrap();
    assert!(line.contains("STOPPED"), "{line}");
    fleet.ctl(&["status", "web-01:worker:"]).expect_code(0);
}

#[test]
fn what_a_host_does_by_itself_is_seen() {
    let fleet = Fleet::new();
    let host = web(&fleet, "web-01");
    host.supervisorctl(&["stop", "web:app"]).expect_code(0);
    wait_for("the fleet to see the local stop", || {
        let ran = fleet.ctl(&["status", "web-01:web:app"]);
        if ran.stdout.contains("STOPPED") { Ok(()) } else { Err(ran.to_string()) }
    });
}

#[test]
fn a_host_that_is_away_has_a_line_of_its_own() {
    let mut three = Three::start();
    three.web_02.kill();
    three.fleet.wait_host("web-02", "away");
    let ran = three.fleet.ctl(&["--all-hosts", "status"]);
    assert_ne!(ran.code(), 0);
    assert!(ran.stdout.lines().any(|line| line.starts_with("web-02: away since ")), "{ran}");
    assert!(ran.stdout.contains("web-01:web:app"), "{ran}");
}

#[test]
fn json_is_one_document() {
    let mut three = Three::start();
    let json = |arguments: &[&str]| -> Json {
        let ran = three.fleet.ctl(arguments).expect_code(0);
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran}"))
    };
    for arguments in [
        &["-o", "json", "--all-hosts", "status"][..],
        &["-o", "json", "host", "list"],
        &["-o", "json", "host", "show", "web-01"],
    ] {
        let document = json(arguments).to_string();
        assert!(document.contains("\"web-01\""), "{document}");
    }
    three.web_02.kill();
    three.fleet.wait_host("web-02", "away");
    let ran = three.fleet.ctl(&["-o", "json", "--all-hosts", "status"]);
    serde_json::from_str::<Json>(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran}"));
}

#[test]
fn host_list_and_show_tell_who_there_is() {
    let three = Three::start();
    let ran = three.fleet.ctl(&["host", "list"]).expect_code(0);
    for name in ["web-01", "web-02", "db-01"] {
        assert!(ran.stdout.lines().any(|line| line.starts_with(name)), "{ran}");
    }
    three
        .fleet
        .ctl(&["host", "show", "web-01"])
        .expect_code(0)
        .expect_stdout("web-01")
        .expect_stdout("role=web");
    let ran = three.fleet.ctl(&["host", "show", "nosuch"]).expect_code(1);
    assert!(ran.stderr.contains("nosuch"), "{ran}");
}

#[test]
fn without_a_scope_ctl_is_local() {
    let fleet = Fleet::new();
    let host = web(&fleet, "web-01");
    let config = host.path("supervisord.conf").display().to_string();
    let ran = fleet.ctl(&["-c", &config, "status", "web:app"]).expect_code(0);
    assert!(ran.stdout.starts_with("web:app "), "{ran}");
}
