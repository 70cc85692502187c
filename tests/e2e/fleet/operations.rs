//! Rollouts over many hosts, and operations that go on whoever is killed.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use fleetvisor_tests::{Fleet, FleetHost, Ran, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{WEB, changed, pids, wait_web, web};

/// A program that says each of its starts, and fails where the host has a file `bad`.
const APP: &str = "\
[program:app]\ncommand=/bin/sh -c 'echo start >> {dir}/starts; [ ! -e {dir}/bad ] || exit 1; exec sleep 600'\n\
startsecs=1\nstartretries=0\nautorestart=false\n";

/// Hosts `h-01`, `h-02`, ... on which the program runs.
fn hosts(fleet: &Fleet, count: usize) -> Vec<FleetHost> {
    std::thread::scope(|scope| {
        let joining: Vec<_> = (1..=count)
            .map(|number| {
                scope.spawn(move || {
                    let host = fleet.join(&format!("h-{number:02}"), "", APP);
                    host.wait("app", "RUNNING");
                    host
                })
            })
            .collect();
        joining.into_iter().map(|host| host.join().unwrap()).collect()
    })
}

/// How often the program has been started.
fn starts(host: &FleetHost) -> usize {
    host.dir().read("starts").lines().count()
}

fn touched(hosts: &[FleetHost]) -> Vec<usize> {
    hosts.iter().enumerate().filter(|(_, host)| starts(host) != 1).map(|(at, _)| at + 1).collect()
}

fn json(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran}"))
}

/// The only operation, or the latest.
fn latest(fleet: &Fleet) -> Value {
    let listed = json(&fleet.ctl(&["op", "list", "-o", "json"]).expect_code(0));
    listed["operations"].as_array().unwrap().last().cloned().expect("an operation")
}

#[track_caller]
fn wait_state(fleet: &Fleet, state: &str) -> Value {
    wait_for(&format!("the operation to be {state}"), || {
        let operation = latest(fleet);
        if operation["state"] == state { Ok(operation) } else { Err(operation.to_string()) }
    })
}

#[test]
fn a_canary_that_fails_is_the_only_host_of_twenty_that_is_touched() {
    let mut fleet = Fleet::new();
    let hosts = hosts(&fleet, 20);
    hosts[0].dir().write("bad", "");
    let ran = fleet.ctl(&["--all-hosts", "restart", "app", "--canary", "1"]).expect_code(1);
    assert!(ran.stdout.contains("h-01:app:app: ERROR (spawn error)"), "{ran}");
    assert!(ran.stdout.contains("h-20: not restarted"), "{ran}");
    assert!(ran.stderr.contains("1 failed (h-01)") && ran.stderr.contains("ctl op resume"), "{ran}");
    assert_eq!(touched(&hosts), [1]);

    // Batches of five with one failure allowed: the second failure is in the second batch, the third is not begun.
    for bad in [3, 8, 9] {
        hosts[bad - 1].dir().write("bad", "");
    }
    std::fs::remove_file(hosts[0].path("bad")).unwrap();
    let line = ["--all-hosts", "restart", "app", "--batch", "25%", "--max-failures", "1"];
    let ran = fleet.ctl(&line).expect_code(4);
    assert!(ran.stderr.contains("batch 2 of 4") && !ran.stderr.contains("batch 3 of 4: "), "{ran}");
    assert_eq!(touched(&hosts), (1..=10).collect::<Vec<_>>());
    let stopped = latest(&fleet);
    assert_eq!((&stopped["state"], &stopped["failed"]), (&"stopped".into(), &3.into()), "{stopped}");

    // And the next goes on, killed in the middle, host by host.
    for host in &hosts {
        let _ = std::fs::remove_file(host.path("bad"));
    }
    let before: Vec<usize> = hosts.iter().map(starts).collect();
    let line = ["--all-hosts", "restart", "app", "--parallel", "2", "--no-wait"];
    let id = fleet.ctl(&line).expect_code(0).stdout.trim().to_owned();
    for _ in 0..3 {
        wait_for("a host more to be done", || {
            let done = hosts.iter().zip(&before).filter(|(host, before)| starts(host) > **before).count();
            if done > 2 { Ok(()) } else { Err(done.to_string()) }
        });
        fleet.controller().kill_alone();
        fleet.start_controller();
    }
    fleet.ctl(&["op", "watch", &id]);
    let operation = wait_state(&fleet, "finished");
    assert_eq!((operation["ok"].as_u64(), operation["hosts"].as_u64()), (Some(20), Some(20)), "{operation}");
    for (host, before) in hosts.iter().zip(&before) {
        assert_eq!(starts(host), before + 1, "every host has done it once");
    }
}

#[test]
fn what_would_be_done_is_printed_batch_by_batch_and_not_done() {
    let fleet = Fleet::new();
    let hosts = hosts(&fleet, 3);
    let plan = "batch 1 of 2: restart on 1 host\n  h-01:app:app\n\
                batch 2 of 2: restart on 2 hosts\n  h-02:app:app\n  h-03:app:app\n";
    let line = ["--all-hosts", "restart", "app", "--canary", "1", "--dry-run"];
    assert_eq!(fleet.ctl(&line).expect_code(0).stdout, plan);
    for verb in [&["start", "app"][..], &["stop", "app"], &["signal", "HUP", "app"], &["update"]] {
        let line = [&["--all-hosts"], verb, &["--dry-run", "-o", "json"]].concat();
        let plan = json(&fleet.ctl(&line).expect_code(0));
        assert_eq!(plan["batches"][0]["hosts"].as_array().unwrap().len(), 3, "{plan}");
    }
    assert!(touched(&hosts).is_empty());
    assert_eq!(json(&fleet.ctl(&["op", "list", "-o", "json"]))["operations"], Value::Array(Vec::new()));
    fleet.ctl(&["--all-hosts", "restart", "nosuch", "--dry-run"]).expect_code(1);
    fleet.ctl(&["restart", "app", "--dry-run"]).expect_code(2).expect_stderr("--dry-run is for a fleet");
    fleet.ctl(&["--all-hosts", "restart", "app", "--batch", "0"]).expect_code(2);
    fleet.ctl(&["--all-hosts", "restart", "app", "--batch", "101%"]).expect_code(2);
}

#[test]
fn an_operation_is_cancelled_and_resumed_and_ctrl_c_leaves_it_alone() {
    let fleet = Fleet::new();
    let hosts = hosts(&fleet, 3);
    let line = ["--all-hosts", "restart", "app", "--batch", "1", "--pause", "1h"];
    let mut ctl = fleet
        .ctl_command(&fleet.admin(), &line)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(ctl.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "h-01:app:app: restarted");
    kill(Pid::from_raw(i32::try_from(ctl.id()).unwrap()), Signal::SIGINT).unwrap();
    let left = ctl.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&left.stderr);
    assert_eq!(left.status.code(), Some(130), "{said}");
    assert!(said.contains("goes on: ctl op watch") && said.contains("ctl op cancel"), "{said}");

    let operation = latest(&fleet);
    assert_eq!(operation["state"], "running");
    let id = operation["id"].as_str().unwrap();
    fleet.ctl(&["op", "cancel", &id[..10]]).expect_code(0).expect_stdout("cancelled");
    let ran = fleet.ctl(&["op", "watch", id]).expect_code(4);
    assert!(ran.stdout.contains("h-02: not restarted"), "{ran}");
    assert_eq!(touched(&hosts), [1]);
    fleet.ctl(&["op", "cancel", id]).expect_code(1).expect_stderr("is cancelled");
    fleet.ctl(&["op", "show", "00000000"]).expect_code(1).expect_stderr("no operation 00000000");

    // Resumed, it pauses before the second batch as it was asked to.
    fleet.ctl(&["op", "resume", id]).expect_code(0).expect_stdout("running");
    assert_eq!(latest(&fleet)["state"], "running");
    assert_eq!(touched(&hosts), [1]);
    fleet.ctl(&["op", "cancel", id]).expect_code(0);
    let shown = json(&fleet.ctl(&["op", "show", id, "-o", "json"]).expect_code(0));
    let results: Vec<&Value> = shown["results"].as_array().unwrap().iter().map(|it| &it["result"]).collect();
    assert_eq!(results, ["ok", "waiting", "waiting"]);
    let audit = fleet.ctl(&["audit"]).expect_code(0);
    for what in ["run.restart", "operation.cancel", "operation.resume"] {
        assert!(audit.stdout.contains(what), "{what}: {audit}");
    }
}

#[test]
fn a_rollout_goes_on_when_it_is_resumed_after_a_failure() {
    let fleet = Fleet::new();
    let hosts = hosts(&fleet, 3);
    hosts[0].dir().write("bad", "");
    fleet.ctl(&["--all-hosts", "restart", "app", "--canary", "1"]).expect_code(1);
    let id = latest(&fleet)["id"].as_str().unwrap().to_owned();
    fleet.ctl(&["op", "resume", &id]).expect_code(0);
    let operation = wait_state(&fleet, "finished");
    assert_eq!((operation["ok"].as_u64(), operation["failed"].as_u64()), (Some(2), Some(1)), "{operation}");
    assert_eq!(hosts.iter().map(starts).collect::<Vec<_>>(), [2, 2, 2]);
}

#[test]
fn an_agent_that_is_killed_in_the_middle_does_it_no_second_time() {
    let fleet = Fleet::new();
    let mut host = fleet.join("h-01", "", APP);
    host.wait("app", "RUNNING");
    // It takes a second to count as started: the power goes in between.
    let mut ctl = fleet
        .ctl_command(&fleet.admin(), &["--all-hosts", "restart", "app"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    host.wait_file("starts", "start\nstart\n");
    host.kill();
    host.start();
    let operation = wait_state(&fleet, "finished");
    assert_eq!(operation["failed"], 1, "{operation}");
    let shown = fleet.ctl(&["op", "show", operation["id"].as_str().unwrap()]).expect_code(0);
    assert!(shown.stdout.contains("the daemon ended while it carried this out"), "{shown}");
    // Once before, once by the operation, once by autostart.
    host.wait("app", "RUNNING");
    assert_eq!(starts(&host), 3);
    ctl.wait().unwrap();
}

#[test]
fn signals_and_updates_reach_the_fleet() {
    let fleet = Fleet::new();
    let trap = "[program:app]\ncommand=/bin/sh -c 'trap \"echo HUP >> {dir}/signals\" HUP; \
                echo ready >> {dir}/signals; while :; do sleep 0.05; done'\nstartsecs=0\n";
    let mut one = fleet.join("one", "", trap);
    let two = fleet.join("two", "", trap);
    for host in [&one, &two] {
        host.wait_file("signals", "ready");
    }
    fleet
        .ctl(&["--all-hosts", "signal", "HUP", "app"])
        .expect_code(0)
        .expect_stdout("one:app:app: signalled\n")
        .expect_stdout("two:app:app: signalled\n");
    for host in [&one, &two] {
        host.wait_file("signals", "HUP");
    }
    fleet.ctl(&["--all-hosts", "signal", "NOPE", "app"]).expect_code(2).expect_stderr("NOPE");

    // Nothing has changed: nothing is touched.
    let before = [pids(&one), pids(&two)];
    fleet.ctl(&["--all-hosts", "update"]).expect_code(0);
    assert_eq!(changed(&before[0], &pids(&one)), [""; 0]);
    let programs = one.programs();
    one.reconfigure(&format!(
        "{programs}\n[program:more]\ncommand=/bin/sleep 600\nstartsecs=0\n\
         [program:bad]\ncommand=/bin/false\nstartretries=0\n"
    ));
    let ran = fleet.ctl(&["--all-hosts", "update"]).expect_code(4);
    assert!(ran.stdout.contains("one:more:*: added process group\n"), "{ran}");
    assert!(ran.stdout.contains("one:bad:bad: ERROR (spawn error)\n"), "{ran}");
    assert_eq!(one.state("more"), "RUNNING");
    assert_eq!(changed(&before[1], &pids(&two)), [""; 0]);
    // A configuration that cannot be read is refused with its reason, and nothing happens.
    let text = one.programs();
    one.reconfigure("[program:x]\n");
    let before = pids(&one);
    let ran = fleet.ctl(&["update", "one:all"]).expect_code(1);
    assert!(ran.stdout.contains("one: the configuration is refused: "), "{ran}");
    assert_eq!(pids(&one), before);
    one.reconfigure(&text);
}

#[test]
fn a_link_that_breaks_while_a_host_works_brings_its_answers_later() {
    let fleet = Fleet::new();
    let host = web(&fleet, "web-01");
    let token = fleet.token(&["--ttl", "1h"]);
    let cable = fleetvisor_tests::Proxy::to(fleet.port());
    let slow = fleet
        .host_config("slow", "", &token, cable.port(), "[program:db]\ncommand={dir}/slow\nstartsecs=0\nstopwaitsecs=60\n")
        .script("slow", "cd \"$(dirname \"$0\")\"; trap 'while [ ! -e go ]; do sleep 0.05; done; exit 0' TERM; echo ready >> ready\nwhile :; do sleep 0.05; done")
        .start();
    fleet.wait_host("slow", "online");
    slow.wait_file("ready", "ready");
    let id = fleet.ctl(&["--all-hosts", "restart", "all", "--no-wait"]).expect_code(0).stdout;
    slow.wait("db", "STOPPING");
    cable.cut();
    fleet.wait_host("slow", "away");
    slow.dir().write("go", "");
    slow.wait_file("ready", "ready\nready\n");
    cable.mend();
    let operation = wait_state(&fleet, "finished");
    assert_eq!(operation["ok"], 2, "{operation}");
    assert_eq!(operation["id"].as_str(), Some(id.trim()));
    assert_eq!(slow.dir().read("ready"), "ready\nready\n", "once");
    wait_web(&host);
    assert!(WEB.contains("nginx"));
}
