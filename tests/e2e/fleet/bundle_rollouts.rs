//! Revisions of bundles on their way through many hosts: batch by batch, stopped by failures, put back, cancelled,
//! resumed, and whoever is killed meanwhile.

use std::collections::BTreeMap;

use fleetvisor_tests::{Fleet, FleetHost, Ran, wait_for};
use serde_json::Value;

use super::{changed, pids};

/// What a host has of its own.
const OWN: &str = "[program:own]\ncommand=/bin/sleep 600\nstartsecs=0\n";
const APP: &str = "\
[program:app]\ncommand=/bin/sleep 601\nstartsecs=1\nstartretries=0\n\
[program:same]\ncommand=/bin/sleep 602\nstartsecs=0\n";

/// Hosts `h-01`, `h-02`, ... that have revision 1.
fn hosts(fleet: &Fleet, count: usize) -> Vec<FleetHost> {
    let hosts: Vec<FleetHost> = std::thread::scope(|scope| {
        let join = |number| scope.spawn(move || fleet.join(&format!("h-{number:02}"), "", OWN));
        let joining: Vec<_> = (1..=count).map(join).collect();
        joining.into_iter().map(|host| host.join().unwrap()).collect()
    });
    push(fleet, APP, &["--all-hosts"]).expect_code(0);
    hosts
}

#[track_caller]
fn push(fleet: &Fleet, text: &str, arguments: &[&str]) -> Ran {
    let folder = fleet.dir().path().join("bundle");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("app.conf"), text).unwrap();
    let folder = folder.display().to_string();
    fleet.ctl(&[&["config", "push", "web", &folder], arguments].concat())
}

fn json(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran}"))
}

fn operation(fleet: &Fleet, id: &str) -> Value {
    json(&fleet.ctl(&["op", "show", id, "-o", "json"]).expect_code(0))
}

#[track_caller]
fn wait_state(fleet: &Fleet, id: &str, state: &str) -> Value {
    wait_for(&format!("the operation to be {state}"), || {
        let operation = operation(fleet, id);
        if operation["state"] == state { Ok(operation) } else { Err(operation.to_string()) }
    })
}

/// The command line of `app` on each host; empty where it does not run.
fn commands(hosts: &[FleetHost]) -> Vec<String> {
    let command = |host: &FleetHost| {
        let pid = pids(host).get("app:app").copied().unwrap_or_default();
        let text = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        text.replace('\0', " ").trim().trim_start_matches("/bin/sleep ").to_owned()
    };
    hosts.iter().map(command).collect()
}

fn all_pids(hosts: &[FleetHost]) -> Vec<BTreeMap<String, i64>> {
    hosts.iter().map(|host| pids(host)).collect()
}

#[test]
fn a_rollout_over_twenty_hosts_that_fails_on_its_canary_touches_no_other_and_is_reverted() {
    let fleet = Fleet::new();
    let hosts = hosts(&fleet, 20);
    let before = all_pids(&hosts);
    let broken = APP.replace("/bin/sleep 601", "/bin/false");
    let arguments = ["--canary", "1", "--batch", "25%", "--revert"];
    let ran = push(&fleet, &broken, &arguments).expect_code(1);
    assert!(ran.stdout.starts_with("h-01: ERROR (app does not run: Exited too quickly"), "{ran}");
    assert_eq!(ran.stdout.matches(": not applied\n").count(), 19, "{ran}");
    assert!(ran.stderr.contains("1 failed (h-01), and 0 may; stopped at batch 2 of 5"), "{ran}");
    assert!(ran.stderr.contains("ctl: reverted on 20 of 20 hosts\n"), "{ran}");
    hosts[0].wait("app", "RUNNING");
    assert_eq!(commands(&hosts), ["601"; 20]);
    assert_eq!(changed(&before[0], &pids(&hosts[0])), ["app:app"], "the canary changed what it had to");
    for (host, before) in hosts.iter().zip(&before).skip(1) {
        assert_eq!(&pids(host), before);
        assert!(!host.log().contains("revision 2)"), "{}", host.log());
    }
    let list = fleet.ctl(&["config", "list"]).expect_code(0);
    assert!(list.stdout.starts_with("web            revision 3     20 of 20 hosts "), "{list}");
    let history = fleet.ctl(&["config", "history", "web"]).expect_code(0);
    assert!(
        history.stdout.lines().next().unwrap().ends_with("as revision 1; revision 2 has failed"),
        "{history}"
    );
    let operations = json(&fleet.ctl(&["op", "list", "-o", "json"]).expect_code(0));
    let told = |at: usize| {
        let it = &operations["operations"][at];
        (it["verb"].as_str().unwrap(), it["revision"].as_u64().unwrap(), it["state"].as_str().unwrap())
    };
    assert_eq!(told(1), ("apply", 2, "stopped"));
    assert_eq!(told(2), ("apply", 3, "finished"));
    assert_eq!(operations["operations"][1]["reverted_by"], operations["operations"][2]["id"]);
    let id = operations["operations"][1]["id"].as_str().unwrap();
    fleet.ctl(&["op", "resume", id]).expect_code(1).expect_stderr("has taken the place of revision 2");
    fleet.ctl(&["audit", "verify"]).expect_code(0);

    // A good one goes through, batch by batch.
    let ran = push(&fleet, &APP.replace("601", "613"), &arguments).expect_code(0);
    assert_eq!(ran.stdout.matches(": revision 4 applied\n").count(), 20, "{ran}");
    assert!(ran.stderr.contains("batch 5 of 5: 4 hosts"), "{ran}");
    assert_eq!(commands(&hosts), ["613"; 20]);
    for (host, before) in hosts.iter().zip(&before) {
        assert_eq!(changed(before, &pids(host)), ["app:app"]);
    }
}

#[test]
fn a_host_that_cannot_apply_stops_a_rollout_and_keeps_what_it_has() {
    let fleet = Fleet::new();
    let mut hosts = hosts(&fleet, 3);
    // A name that this host has taken meanwhile: only it can know.
    let programs = hosts[1].programs();
    hosts[1].reconfigure(&format!("{programs}\n[program:more]\ncommand=/bin/sleep 603\nstartsecs=0\n"));
    hosts[1].supervisorctl(&["update"]).expect_code(0);
    let before = all_pids(&hosts);
    let more = format!("{}[program:more]\ncommand=/bin/sleep 604\n", APP.replace("601", "611"));
    let ran = push(&fleet, &more, &["--batch", "1"]).expect_code(4);
    assert!(
        ran.stdout.starts_with("h-01: revision 2 applied\nh-02: ERROR (more is defined by this host's"),
        "{ran}"
    );
    assert!(ran.stdout.contains("h-03: not applied"), "{ran}");
    assert_eq!(commands(&hosts), ["611", "601", "601"]);
    assert_eq!(all_pids(&hosts)[1..], before[1..]);
    let list = fleet.ctl(&["config", "list"]).expect_code(0);
    assert!(list.stdout.contains("1 of 3 hosts, 1 failed, else revision 1"), "{list}");
    let show = fleet.ctl(&["config", "show", "web"]).expect_code(0);
    assert!(show.stdout.contains("; hosts that it has not reached have revision 1\n"), "{show}");
    assert!(
        show.stdout.contains("h-02: has revision 1, should have revision 2; revision 2 failed: more is"),
        "{show}"
    );
    assert!(show.stdout.contains("h-03: has revision 1\n"), "{show}");

    // Somebody decides to go on without it.
    let shown = json(&fleet.ctl(&["config", "show", "web", "-o", "json"]).expect_code(0));
    let id = shown["operation"].as_str().unwrap();
    fleet.ctl(&["op", "resume", id]).expect_code(0);
    let ended = wait_state(&fleet, id, "finished");
    assert_eq!((ended["ok"].as_u64(), ended["failed"].as_u64()), (Some(2), Some(1)), "{ended}");
    assert_eq!(commands(&hosts), ["611", "601", "611"]);
    // Who is settled gets it by itself once nothing is in its way.
    hosts[1].reconfigure(&programs);
    hosts[1].cable.cut();
    fleet.wait_host("h-02", "away");
    hosts[1].cable.mend();
    wait_for("the third host to have it", || match commands(&hosts)[1].as_str() {
        "611" => Ok(()),
        other => Err(other.to_owned()),
    });
}

#[test]
fn hosts_that_are_not_reached_keep_the_revision_before_whoever_is_killed() {
    let mut fleet = Fleet::new();
    let mut hosts = hosts(&fleet, 3);
    let before = all_pids(&hosts);
    let arguments = ["--batch", "1", "--pause", "1h", "--no-wait"];
    let id = push(&fleet, &APP.replace("601", "611"), &arguments).expect_code(0).stdout.trim().to_owned();
    let first_is_done = |fleet: &Fleet| {
        wait_for("the first host to be done", || {
            let now = operation(fleet, &id);
            if now["ok"] == 1 { Ok(()) } else { Err(now.to_string()) }
        });
    };
    first_is_done(&fleet);
    fleet.controller().kill_alone();
    hosts[2].kill();
    hosts[2].start();
    fleet.start_controller();
    for name in ["h-01", "h-02", "h-03"] {
        fleet.wait_host(name, "online");
    }
    first_is_done(&fleet);
    assert_eq!(operation(&fleet, &id)["state"], "running");
    hosts[2].wait("app", "RUNNING");
    assert_eq!(commands(&hosts), ["611", "601", "601"]);
    assert_eq!(pids(&hosts[1]), before[1]);

    // The same again is on its way already; cancelled, it can begin anew.
    let ran = push(&fleet, &APP.replace("601", "611"), &[]).expect_code(0);
    assert_eq!(ran.stdout, "web: no change, revision 2 has this already\n");
    fleet.ctl(&["op", "cancel", &id]).expect_code(0).expect_stdout("apply web revision 2");
    assert_eq!(commands(&hosts), ["611", "601", "601"]);
    let mid = all_pids(&hosts);
    let line = ["--batch", "1", "--pause", "500ms", "--no-wait"];
    let id = push(&fleet, &APP.replace("601", "611"), &line).expect_code(0).stdout.trim().to_owned();
    wait_for("a host more to have it", || {
        let now = commands(&hosts);
        if now[1] == "611" { Ok(()) } else { Err(now.join(" ")) }
    });
    fleet.controller().kill_alone();
    fleet.start_controller();
    let ended = wait_state(&fleet, &id, "finished");
    assert_eq!((ended["ok"].as_u64(), ended["revision"].as_u64()), (Some(3), Some(3)), "{ended}");
    assert_eq!(commands(&hosts), ["611"; 3]);
    assert_eq!(pids(&hosts[0]), mid[0], "it had this content already");
}

#[test]
fn a_later_revision_takes_the_place_of_one_that_is_on_its_way() {
    let fleet = Fleet::new();
    let hosts = hosts(&fleet, 2);
    let arguments = ["--batch", "1", "--pause", "1h", "--no-wait"];
    let id = push(&fleet, &APP.replace("601", "611"), &arguments).expect_code(0).stdout.trim().to_owned();
    wait_for("the first host to have it", || {
        let now = commands(&hosts);
        if now[0] == "611" { Ok(()) } else { Err(now.join(" ")) }
    });
    // What a dry run says is by what each host has now.
    let folder = fleet.dir().path().join("bundle").display().to_string();
    std::fs::write(fleet.dir().path().join("bundle/app.conf"), APP).unwrap();
    let ran = fleet.ctl(&["config", "push", "web", &folder, "--dry-run", "--batch", "1"]).expect_code(0);
    assert!(ran.stdout.ends_with("batch 1 of 2: 1 host\nh-01: restart app\nbatch 2 of 2: 1 host\n"), "{ran}");
    let ran = fleet.ctl(&["config", "rollback", "web", "1", "--batch", "50%"]).expect_code(0);
    assert_eq!(ran.stdout, "h-01: revision 3 applied\nh-02: revision 3 applied\n");
    assert_eq!(commands(&hosts), ["601", "601"]);
    let ended = wait_state(&fleet, &id, "cancelled");
    assert_eq!(ended["reason"], "revision 3 has taken its place");
    // What is settled is not cancelled.
    hosts[1].cable.cut();
    fleet.wait_host("h-02", "away");
    let ran = push(&fleet, &APP.replace("601", "612"), &[]).expect_code(4);
    let id =
        json(&fleet.ctl(&["op", "list", "-o", "json"]))["operations"][3]["id"].as_str().unwrap().to_owned();
    assert!(ran.stderr.contains(&id), "{ran}");
    assert_eq!(operation(&fleet, &id)["state"], "waiting");
    fleet.ctl(&["op", "cancel", &id]).expect_code(1).expect_stderr("revision 4 of bundle web is settled");
    hosts[1].cable.mend();
    wait_state(&fleet, &id, "finished");
    assert_eq!(commands(&hosts), ["612", "612"]);
}
