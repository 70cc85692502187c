//! `-o json` of every command is as `ctl schema` describes it.

use fleetvisor_tests::{Fleet, Ran, schema, wait_for};
use serde_json::Value;

use super::{DB, web};

/// Checks every document that a command has printed, of which there is at least one.
#[track_caller]
fn check(fleet: &Fleet, command: &str, ran: &Ran) -> Vec<Value> {
    let words: Vec<&str> = ["schema"].into_iter().chain(command.split(' ')).collect();
    let described = fleet.ctl(&words).expect_code(0);
    let described: Value = serde_json::from_str(&described.stdout).unwrap();
    let documents = serde_json::Deserializer::from_str(&ran.stdout).into_iter::<Value>();
    let documents: Vec<Value> =
        documents.collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{error}: {ran}"));
    assert!(!documents.is_empty(), "{ran}");
    for document in &documents {
        schema::check(&described, document).unwrap_or_else(|why| panic!("{why}: {ran}"));
    }
    documents
}

#[test]
fn every_document_is_as_it_is_described() {
    let fleet = Fleet::new();
    let web_01 = web(&fleet, "web-01");
    let web_02 = web(&fleet, "web-02");
    let db_01 = fleet.join("db-01", "role=db", DB);
    db_01.wait("db", "RUNNING");
    let folder = fleet.dir().path().join("bundle");
    fleet.dir().write("bundle/one.conf", "[program:one]\ncommand=/bin/sleep 600\nstartsecs=0\n");
    let folder = folder.display().to_string();
    let push = ["config", "push", "b", &folder, "-l", "role=web", "-m", "first", "-o", "json"];
    check(&fleet, "config push", &fleet.ctl(&push).expect_code(0));
    fleet.dir().write("bundle/one.conf", "[program:one]\ncommand=/bin/false\nstartretries=0\n");
    let ran = fleet
        .ctl(&["config", "push", "b", &folder, "--canary", "1", "--revert", "-o", "json"])
        .expect_code(1);
    let told = check(&fleet, "config push", &ran);
    assert!(told[0]["reverted_by"].is_string(), "{ran}");
    web_02.cable.cut();
    fleet.wait_host("web-02", "away");
    let restarted = fleet.ctl(&["--all-hosts", "restart", "web:app", "-o", "json"]).expect_code(4);
    let id = check(&fleet, "restart", &restarted)[0]["id"].as_str().unwrap().to_owned();
    // A process that has drifted; beside it are a host that is away, and an operation that waits for it.
    fleet.ctl(&["stop", "web-01:web:app"]).expect_code(0);
    web_01.supervisorctl(&["start", "web:app"]).expect_code(0);
    wait_for("the drift to be seen", || {
        let ran = fleet.ctl(&["drift", "-o", "json"]);
        let drift = check(&fleet, "drift", &ran);
        match drift[0]["drift"][0].is_object() && drift[0]["away"][0].is_object() {
            true => Ok(()),
            false => Err(ran.to_string()),
        }
    });

    let reading: &[(&str, &[&str])] = &[
        ("status", &["--all-hosts", "status"]),
        ("drift", &["drift"]),
        ("host list", &["host", "list"]),
        ("host show", &["host", "show", "web-02"]),
        ("op list", &["op", "list"]),
        ("op show", &["op", "show", &id]),
        ("op watch", &["op", "watch", &id]),
        ("config list", &["config", "list"]),
        ("config show", &["config", "show", "b"]),
        ("config history", &["config", "history", "b"]),
        ("config diff", &["config", "diff", "b", &folder]),
        ("config pull", &["config", "pull", "web-01"]),
        ("operator list", &["operator", "list"]),
        ("audit", &["audit"]),
        ("audit verify", &["audit", "verify"]),
        ("events", &["events"]),
        ("version", &["--all-hosts", "version"]),
        ("start", &["--all-hosts", "start", "web:", "--dry-run"]),
        ("signal", &["signal", "CONT", "web-01:web:nginx", "--no-wait"]),
        ("config rollback", &["config", "rollback", "b", "1", "--dry-run"]),
    ];
    for (command, line) in reading {
        check(&fleet, command, &fleet.ctl(&[line, &["-o", "json"][..]].concat()));
    }

    // This host alone.
    let here = |words: &[&str]| {
        let mut command = fleet.ctl_command(&fleet.admin(), words);
        command.args(["-o", "json", "-c"]).arg(web_01.path("supervisord.conf"));
        fleetvisor_tests::run(&mut command, fleetvisor_tests::LIMIT)
    };
    for (command, line) in
        [("status", &["status"][..]), ("avail", &["avail"]), ("pid", &["pid"]), ("pid", &["pid", "web:app"])]
    {
        check(&fleet, command, &here(line));
    }

    let changing: &[(&str, &[&str])] = &[
        ("op cancel", &["op", "cancel", &id]),
        ("op resume", &["op", "resume", &id]),
        ("host token", &["host", "token", "--ttl", "1h"]),
        ("host label", &["host", "label", "db-01", "rack=1"]),
        ("config delete", &["config", "delete", "b"]),
        ("host revoke", &["host", "revoke", "web-02"]),
        ("host forget", &["host", "forget", "web-02"]),
    ];
    for (command, line) in changing {
        check(&fleet, command, &fleet.ctl(&[line, &["-o", "json"][..]].concat()));
    }
    let out = fleet.dir().path().join("bob").display().to_string();
    let ran = fleet.ctl(&["operator", "add", "bob", "--role", "viewer", "--out", &out, "-o", "json"]);
    check(&fleet, "operator add", &ran);
    check(&fleet, "operator list", &fleet.ctl(&["operator", "list", "-o", "json"]));
    check(&fleet, "operator revoke", &fleet.ctl(&["operator", "revoke", "bob", "-o", "json"]));
    check(&fleet, "operator list", &fleet.ctl(&["operator", "list", "-o", "json"]));
}
