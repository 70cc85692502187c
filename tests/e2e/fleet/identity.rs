//! Certificates and operators over time: renewing, revoking, coming back late, two agents with one identity.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use fleetvisor_proto::identity::{CA_FILE, CHAIN_FILE, Identity, KEY_FILE};
use fleetvisor_tests::{Fleet, Ran, wait_for, wait_until};
use serde_json::Value as Json;

use super::{DB, pids, web};

fn json(ran: &Ran) -> Json {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran}"))
}

#[track_caller]
fn operator(fleet: &Fleet, name: &str, more: &[&str]) -> PathBuf {
    let dir = fleet.dir().path().join(name);
    let out = dir.display().to_string();
    fleet.ctl(&[&["operator", "add", name, "--out", &out], more].concat()).expect_code(0).expect_stdout(name);
    dir
}

fn chain(state_dir: &Path) -> String {
    fs::read_to_string(state_dir.join(CHAIN_FILE)).unwrap_or_default()
}

#[test]
fn a_host_renews_its_certificate_without_losing_its_link() {
    let fleet = Fleet::with(&["--host-certificate-life", "12s"]);
    let host = web(&fleet, "web-01");
    let before = pids(&host);
    let linked = json(&fleet.ctl(&["-o", "json", "host", "show", "web-01"]).expect_code(0))["since"].clone();
    // Past the end of the first certificate, and of the second.
    for _ in 0..4 {
        let old = chain(&host.path("fleet"));
        wait_until("the certificate is another one", || chain(&host.path("fleet")) != old);
    }
    let shown = json(&fleet.ctl(&["-o", "json", "host", "show", "web-01"]).expect_code(0));
    assert_eq!((shown["state"].as_str(), &shown["since"]), (Some("online"), &linked));
    fleet.ctl(&["--all-hosts", "stop", "web:app"]).expect_code(0);
    assert_eq!(host.state("web:app"), "STOPPED");
    assert_eq!(pids(&host)["web:nginx"], before["web:nginx"]);
    assert_eq!(host.log().matches("fleet: linked to").count(), 1, "{}", host.log());
}

#[test]
fn a_host_that_was_off_until_its_certificate_had_ended_comes_back_by_itself() {
    let fleet = Fleet::with(&["--host-certificate-life", "5s"]);
    let mut host = fleet.join("db-01", "", DB);
    host.stop();
    let identity = Identity::load(&host.path("fleet")).unwrap();
    wait_until("its certificate has ended", || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        i64::try_from(now).unwrap() > identity.validity().1.secs()
    });
    fleet.wait_host("db-01", "away");
    host.start();
    fleet.wait_host("db-01", "online");
    host.wait_file("supervisord.log", "had ended, and is renewed");
}

#[test]
fn without_grace_a_late_host_is_told_what_to_do_and_comes_back_with_a_new_token() {
    let fleet = Fleet::with(&["--host-certificate-life", "5s", "--renewal-grace", "0s"]);
    let mut host = fleet.join("db-01", "", DB);
    host.stop();
    let identity = Identity::load(&host.path("fleet")).unwrap();
    wait_until("its certificate has ended", || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        i64::try_from(now).unwrap() > identity.validity().1.secs() + 1
    });
    host.start();
    host.wait_file("supervisord.log", "ctl host token --host db-01");
    host.dir().write("token", fleet.token(&["--ttl", "1h", "--host", "db-01"]));
    fleet.wait_host("db-01", "online");
    host.wait_file("supervisord.log", "enrolled anew");
}

#[test]
fn a_revoked_host_is_cut_off_at_once_and_let_in_again_by_a_token_for_it() {
    let fleet = Fleet::new();
    let host = web(&fleet, "web-01");
    let before = pids(&host);
    fleet.ctl(&["host", "revoke", "web-01"]).expect_code(0).expect_stdout("web-01: revoked");
    fleet
        .ctl(&["--all-hosts", "restart", "web:"])
        .expect_code(1)
        .expect_stdout("web-01: revoked, and refused until it enrols anew; not restarted");
    host.wait_file("supervisord.log", "has been revoked by operator admin");
    host.wait_file("supervisord.log", "ctl host token --host web-01");
    let shown = json(&fleet.ctl(&["-o", "json", "host", "show", "web-01"]).expect_code(0));
    assert_eq!(shown["state"], "revoked");
    let ran = fleet.ctl(&["host", "revoke", "web-01"]).expect_code(1);
    assert!(ran.stderr.contains("already"), "{ran}");
    assert_eq!(pids(&host), before, "its programs go on");

    host.dir().write("token", fleet.token(&["--ttl", "1h", "--host", "web-01"]));
    fleet.wait_host("web-01", "online");
    fleet.ctl(&["--all-hosts", "stop", "web:app"]).expect_code(0);
    assert_eq!(host.state("web:app"), "STOPPED");
    assert_eq!(pids(&host)["web:nginx"], before["web:nginx"], "the restart was refused for it");
}

#[test]
fn an_admin_whose_certificates_are_lost_is_made_anew_on_the_controllers_machine() {
    let mut fleet = Fleet::new();
    let lost = fleet.dir().path().join("lost");
    fs::rename(fleet.admin(), &lost).unwrap();
    let (dir, out) = (fleet.controller_dir().display().to_string(), fleet.admin().display().to_string());
    let words = ["admin", "--dir", &dir, "--out", &out];
    let ran = fleet.controller_command(&words).expect_code(1);
    assert!(ran.stderr.contains("stop it first"), "{ran}");
    drop(fleet.take_controller());
    fleet.controller_command(&words).expect_code(0).expect_stdout("role admin");
    fleet.start_controller();
    fleet.ctl_as(&lost, &["host", "list"]).expect_code(6);
    fleet.ctl(&["audit"]).expect_code(0).expect_stdout("operator.recover operator admin");
}

#[test]
fn a_second_agent_with_a_copied_identity_is_refused_and_reported_with_both_addresses() {
    let fleet = Fleet::new();
    let host = web(&fleet, "web-01");
    let mut copy = fleet.host_config("web-01", "", "", fleet.port(), DB).prepare();
    fs::create_dir_all(copy.path("fleet")).unwrap();
    for file in [CA_FILE, CHAIN_FILE, KEY_FILE] {
        fs::copy(host.path("fleet").join(file), copy.path("fleet").join(file)).unwrap();
    }
    copy.start();
    copy.wait("db", "RUNNING");
    copy.wait_file("supervisord.log", "is refused");
    let shown = json(&fleet.ctl(&["-o", "json", "host", "show", "web-01"]).expect_code(0));
    assert_eq!(shown["state"], "online");
    let first = shown["address"].as_str().unwrap();
    let second = shown["refused"]["address"].as_str().unwrap();
    let reason = shown["refused"]["reason"].as_str().unwrap();
    assert!(first != second && reason.contains(first) && reason.contains(second), "{shown}");
    fleet.ctl(&["host", "list"]).expect_code(0).expect_stderr("was refused");
    fleet.ctl(&["audit", "--host", "web-01"]).expect_code(0).expect_stdout("refused").expect_stdout(first);
    // The first is not disturbed.
    fleet.ctl(&["--all-hosts", "stop", "web:app"]).expect_code(0);
    assert_eq!(host.state("web:app"), "STOPPED");
    assert_eq!(copy.state("db"), "RUNNING");
}

#[test]
fn operators_may_what_their_role_says() {
    let fleet = Fleet::new();
    let host = web(&fleet, "web-01");
    let before = pids(&host);
    let viewer = operator(&fleet, "vera", &["--role", "viewer"]);
    let doer = operator(&fleet, "otto", &["--role", "operator"]);
    for arguments in [&["--all-hosts", "status"][..], &["host", "list"], &["audit"], &["audit", "verify"]] {
        fleet.ctl_as(&viewer, arguments).expect_code(0);
    }
    for arguments in [
        &["--all-hosts", "stop", "web:"][..],
        &["host", "token"],
        &["host", "revoke", "web-01"],
        &["host", "forget", "web-01", "--force"],
        &["host", "label", "web-01", "a=b"],
        &["operator", "list"],
        &["operator", "revoke", "admin"],
    ] {
        fleet.ctl_as(&viewer, arguments).expect_code(6).expect_stderr("not allowed");
    }
    assert_eq!(pids(&host), before);
    fleet.ctl_as(&doer, &["--all-hosts", "stop", "web:app"]).expect_code(0);
    fleet.ctl_as(&doer, &["host", "token"]).expect_code(6);
    // What was tried is known.
    fleet
        .ctl(&["audit", "--who", "vera"])
        .expect_code(0)
        .expect_stdout("operator vera")
        .expect_stdout("refused");
}

#[test]
fn an_operator_that_is_limited_to_some_hosts_knows_of_no_others() {
    let fleet = Fleet::new();
    let web_01 = web(&fleet, "web-01");
    let db_01 = fleet.join("db-01", "role=db", DB);
    db_01.wait("db", "RUNNING");
    let limited = operator(&fleet, "wanda", &["--role", "operator", "--only", "role=web"]);
    for arguments in [&["host", "list"][..], &["--all-hosts", "status"], &["-o", "json", "host", "list"]] {
        let ran = fleet.ctl_as(&limited, arguments).expect_code(0);
        assert!(ran.stdout.contains("web-01") && !ran.stdout.contains("db-01"), "{ran}");
    }
    fleet.ctl_as(&limited, &["status", "db-01:all"]).expect_code(1);
    fleet.ctl_as(&limited, &["host", "show", "db-01"]).expect_code(1);
    fleet.ctl_as(&limited, &["--all-hosts", "stop", "all"]).expect_code(0);
    assert_eq!((web_01.state("web:app").as_str(), db_01.state("db").as_str()), ("STOPPED", "RUNNING"));
    fleet.ctl_as(&limited, &["audit"]).expect_code(6).expect_stderr("limited to hosts with role=web");
}

#[test]
fn a_revoked_operator_is_refused_at_once_also_on_what_it_follows() {
    let fleet = Fleet::new();
    let viewer = operator(&fleet, "vera", &["--role", "viewer"]);
    let mut following = fleet
        .ctl_command(&viewer, &["audit", "-f"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("it follows", || following.try_wait().unwrap().is_none());
    fleet.ctl_as(&viewer, &["host", "list"]).expect_code(0);
    fleet.ctl(&["operator", "revoke", "vera"]).expect_code(0).expect_stdout("vera: revoked");
    let status = wait_for("the end of ctl audit -f", || {
        following.try_wait().unwrap().ok_or_else(|| "it goes on".to_owned())
    });
    assert_eq!(status.code(), Some(6));
    fleet.ctl_as(&viewer, &["host", "list"]).expect_code(6).expect_stderr("revoked by operator admin");
    let listed = json(&fleet.ctl(&["-o", "json", "operator", "list"]).expect_code(0));
    let vera = listed["operators"].as_array().unwrap().iter().find(|one| one["name"] == "vera").unwrap();
    assert_eq!(vera["state"], "revoked");
    fleet.ctl(&["operator", "revoke", "admin"]).expect_code(1).expect_stderr("last admin");
}

#[test]
fn an_identity_is_renewed_in_place_and_one_that_has_ended_by_an_admin() {
    let fleet = Fleet::new();
    let viewer = operator(&fleet, "vera", &["--role", "viewer"]);
    let (before, key) = (Identity::load(&viewer).unwrap(), fs::read(viewer.join(KEY_FILE)).unwrap());
    fleet
        .ctl_as(&viewer, &["operator", "renew", "--ttl", "800d"])
        .expect_code(0)
        .expect_stdout("vera: identity in");
    let after = Identity::load(&viewer).unwrap();
    assert!(after.validity().1 > before.validity().1);
    assert_eq!(fs::read(viewer.join(KEY_FILE)).unwrap(), key);

    let brief = operator(&fleet, "bea", &["--role", "viewer", "--ttl", "2s"]);
    wait_for("its end", || {
        let ran = fleet.ctl_as(&brief, &["host", "list"]);
        if ran.code() == 6 && ran.stderr.contains("expired") { Ok(()) } else { Err(ran.to_string()) }
    });
    fleet.ctl_as(&brief, &["host", "list"]).expect_stderr("ctl operator renew bea --out DIR");
    let out = brief.display().to_string();
    fleet.ctl(&["operator", "renew", "bea", "--out", &out]).expect_code(0);
    fleet.ctl_as(&brief, &["host", "list"]).expect_code(0);
    let ran = fleet.ctl(&["operator", "add", "other", "--role", "viewer", "--out", &out]).expect_code(2);
    assert!(ran.stderr.contains("nothing is overwritten"), "{ran}");
}

#[test]
fn labels_and_forgetting() {
    let fleet = Fleet::new();
    let mut host = web(&fleet, "web-01");
    fleet
        .ctl(&["host", "label", "web-01", "role=canary", "rack=7"])
        .expect_code(0)
        .expect_stdout("dc=eu,rack=7,role=canary");
    fleet.ctl(&["-l", "role=canary", "status"]).expect_code(0).expect_stdout("web-01:web:app");
    fleet.ctl(&["host", "label", "web-01", "role-"]).expect_code(0).expect_stdout("role=web");
    fleet.ctl(&["host", "label", "web-01", "role-"]).expect_code(1).expect_stderr("its configuration");
    fleet.ctl(&["host", "label", "web-01", "nonsense"]).expect_code(2);
    fleet.ctl(&["host", "label", "nosuch", "a=b"]).expect_code(1).expect_stderr("nosuch");
    // Labels last through a restart of both.
    host.stop();
    fleet.wait_host("web-01", "away");
    fleet.ctl(&["host", "list"]).expect_code(0).expect_stdout("(old)").expect_stdout("rack=7");
    fleet.ctl(&["host", "forget", "web-01"]).expect_code(0).expect_stdout("web-01: forgotten");
    let ran = fleet.ctl(&["host", "list"]).expect_code(0);
    assert!(!ran.stdout.contains("web-01"), "{ran}");
    host.start();
    host.wait_file("supervisord.log", "not enrolled");
    fleet.ctl(&["host", "forget", "web-01"]).expect_code(1);
}

#[test]
fn the_audit_log_tells_who_did_what_and_shows_when_it_was_touched() {
    let mut fleet = Fleet::new();
    let _host = web(&fleet, "web-01");
    fleet.ctl(&["host", "label", "web-01", "a=b"]).expect_code(0);
    let ran = fleet.ctl(&["audit"]).expect_code(0);
    for part in ["operator.add operator admin", "token.create", "host.enrol web-01", "host.label web-01  a=b"]
    {
        assert!(ran.stdout.contains(part), "{part}: {ran}");
    }
    let ran =
        fleet.ctl(&["-o", "json", "audit", "--who", "admin", "--since", "1h", "--limit", "1"]).expect_code(0);
    let record: Json = serde_json::from_str(ran.stdout.trim()).unwrap();
    assert_eq!((&record["what"], &record["who"]), (&"host.label".into(), &"operator admin".into()));
    let verified = json(&fleet.ctl(&["-o", "json", "audit", "verify"]).expect_code(0));
    let head = verified["head"].as_str().unwrap().to_owned();
    // It goes on where it was after a kill.
    fleet.controller().kill_alone();
    fleet.start_controller();
    fleet.ctl(&["host", "label", "web-01", "a-"]).expect_code(0);
    fleet.ctl(&["audit", "verify", "--contains", &head]).expect_code(0).expect_stdout("whole");
    let other = format!("1:{}", "0".repeat(64));
    fleet.ctl(&["audit", "verify", "--contains", &other]).expect_code(1).expect_stderr("not whole");
}

#[test]
fn a_fleet_lives_under_a_ca_of_the_users_own() {
    let fleet = Fleet::new();
    // Any CA does; here that of another fleet.
    let ca = fleet.controller_dir().join("ca");
    let dir = fleet.dir().path().join("own");
    let path = |path: PathBuf| path.display().to_string();
    let (dir, ca_cert, ca_key) = (path(dir), path(ca.join("ca.crt")), path(ca.join("ca.key")));
    let server_key = path(fleet.controller_dir().join("server").join(KEY_FILE));
    let init = |more: &[&str]| fleet.controller_command(&[&["init", "--dir", &dir], more].concat());
    init(&["--ca-cert", &ca_cert]).expect_code(2).expect_stderr("--ca-key");
    init(&["--ca-cert", &ca_cert, "--ca-key", &server_key]).expect_code(1).expect_stderr("not the key of");
    let admin = path(fleet.admin().join(CHAIN_FILE));
    init(&["--ca-cert", &admin, "--ca-key", &path(fleet.admin().join(KEY_FILE))])
        .expect_code(1)
        .expect_stderr("no CA's");
    init(&["--ca-cert", &ca_cert, "--ca-key", &ca_key]).expect_code(0);
    let made = Identity::load(Path::new(&dir).join("admin").as_path()).unwrap();
    assert_eq!(made.ca_fingerprint(), Identity::load(&fleet.admin()).unwrap().ca_fingerprint());
    // Of the same CA, and yet nobody to the first fleet.
    fleet.ctl_as(&Path::new(&dir).join("admin"), &["host", "list"]).expect_code(6);
}
