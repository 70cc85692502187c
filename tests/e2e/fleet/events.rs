//! `ctl events`: what happens is told with its reason and who asked, and nothing is missed without a word.

use fleetvisor_tests::Fleet;
use serde_json::Value;

use super::followed::Followed;
use super::web;

#[test]
fn events_tell_how_it_ended_and_who_asked() {
    let fleet = Fleet::new();
    let host = web(&fleet, "web-01");
    let followed = Followed::start(&fleet, &["events", "-f", "-o", "json", "--all-hosts"]);
    // What is asked of the fleet is told to whoever follows by now; until it does, again.
    let stopped = loop {
        fleet.ctl(&["--all-hosts", "restart", "web:app"]).expect_code(0);
        if let Ok(line) = followed.lines.recv_timeout(std::time::Duration::from_millis(500)) {
            let first: Value = serde_json::from_str(&line).expect("a document");
            let stopped = |event: &Value| event["process"] == "web:app" && event["kind"] == "stopped";
            break if stopped(&first) { first } else { followed.until(stopped) };
        }
    };
    assert_eq!(stopped["signal"], "SIGTERM");
    assert_eq!(stopped["by"], "operator admin");
    assert_eq!((stopped["host"].as_str(), stopped["from"].as_str()), (Some("web-01"), Some("stopping")));

    let pid = host.pid("web:nginx");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .expect("it runs");
    let exited = followed.until(|event| event["process"] == "web:nginx" && event["kind"] == "exited");
    assert_eq!((exited["signal"].as_str(), exited["expected"].as_bool()), (Some("SIGKILL"), Some(false)));
    assert!(exited["by"].is_null(), "{exited}");

    host.cable.cut();
    followed.until(|event| event["host"] == "web-01" && event["kind"] == "away");
    // What happens meanwhile is told later.
    let pid = host.pid("worker:worker_00");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM)
        .expect("it runs");
    host.wait_new_pid("worker:worker_00", pid);
    host.cable.mend();
    followed.until(|event| event["kind"] == "online");
    followed.until(|event| event["process"] == "worker:worker_00" && event["kind"] == "exited");
}

#[test]
fn a_token_goes_on_where_one_left_off_and_a_gap_is_said() {
    let mut fleet = Fleet::new();
    let host = web(&fleet, "web-01");
    for _ in 0..3 {
        fleet.ctl(&["--all-hosts", "restart", "web:app"]).expect_code(0);
    }
    let documents = |arguments: &[&str]| -> Vec<Value> {
        let ran = fleet.ctl(arguments).expect_code(0);
        ran.stdout.lines().map(|line| serde_json::from_str(line).expect("a document")).collect()
    };
    let all = fleetvisor_tests::wait_for("three restarts to be told", || {
        let all = documents(&["events", "-o", "json", "web-01:web:app", "--kind", "starting,stopped"]);
        if all.len() >= 6 { Ok(all) } else { Err(format!("{all:?}")) }
    });
    let token = all[2]["token"].as_str().expect("every event has one").to_owned();
    let rest = documents(&[
        "events",
        "-o",
        "json",
        "web-01:web:app",
        "--kind",
        "starting,stopped",
        "--after",
        &token,
    ]);
    assert_eq!(rest, all[3..]);
    // In words, for people.
    let ran = fleet.ctl(&["events", "web-01:web:app"]).expect_code(0);
    assert!(ran.stdout.contains("web-01:web:app  stopped (terminated by SIGTERM)"), "{ran}");
    assert!(ran.stdout.contains("by operator admin"), "{ran}");
    fleet.ctl(&["events", "--kind", "nonsense"]).expect_code(2).expect_stderr("nonsense");
    fleet.ctl(&["events", "--after", "nonsense"]).expect_code(2).expect_stderr("token");

    let followed = Followed::start(&fleet, &["events", "-f", "-o", "json", "--all-hosts", "--after", &token]);
    followed.until(|event| event["kind"] == "stopped");
    fleet.controller().kill_alone();
    fleet.start_controller();
    // The stream goes on by itself, and says that it cannot know what it missed.
    followed.until(|event| event["kind"] == "missed");
    followed.until(|event| event["kind"] == "online");
    drop(host);
}
