//! `ctl config`: what is pushed is checked before any host sees it, and changes on hosts what it must and no more.

use fleetvisor_tests::{Fleet, FleetHost, Ran, wait_for};
use serde_json::Value;

use super::{changed, pids};

/// A program of the host's own, which no bundle may touch.
const OWN: &str = "[program:own]\ncommand=/bin/sleep 600\nstartsecs=0\n";

const APP: &str =
    "[program:app]\ncommand=/bin/sleep 601\nprocess_name=app_%(process_num)02d\nnumprocs=2\nstartsecs=0\n";
const NGINX: &str = "[program:nginx]\ncommand=/bin/sleep 602\nstartsecs=0\n";

#[track_caller]
fn join(fleet: &Fleet, name: &str, role: &str) -> FleetHost {
    let host = fleet.join(name, &format!("role={role}"), OWN);
    host.wait("own", "RUNNING");
    host
}

/// Writes files into a directory and pushes it; further arguments go behind.
#[track_caller]
fn push(fleet: &Fleet, bundle: &str, files: &[(&str, &str)], arguments: &[&str]) -> Ran {
    let folder = write(fleet, bundle, files);
    let mut line = vec!["config", "push", bundle, &folder];
    line.extend(arguments);
    fleet.ctl(&line)
}

fn write(fleet: &Fleet, bundle: &str, files: &[(&str, &str)]) -> String {
    let folder = fleet.dir().path().join("bundles").join(bundle);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    for (name, text) in files {
        std::fs::write(folder.join(name), text).unwrap();
    }
    folder.display().to_string()
}

#[track_caller]
fn json(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran}"))
}

/// The command line of a program, as it runs; empty while an update has it out.
fn command_of(host: &FleetHost, name: &str) -> String {
    let pid = pids(host).get(name).copied().unwrap_or_default();
    std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
        .unwrap_or_default()
        .replace('\0', " ")
        .trim()
        .to_owned()
}

#[test]
fn a_push_changes_what_it_must_and_leaves_the_rest_running() {
    let fleet = Fleet::new();
    let (web, db) = (join(&fleet, "web-01", "web"), join(&fleet, "db-01", "db"));
    let (web_before, db_before) = (pids(&web), pids(&db));
    let ran =
        push(&fleet, "web", &[("app.conf", APP), ("nginx.conf", NGINX)], &["-l", "role=web", "-m", "first"]);
    assert_eq!(ran.expect_code(0).stdout, "web-01: revision 1 applied\n");
    for name in ["app:app_00", "app:app_01", "nginx"] {
        web.wait(name, "RUNNING");
    }
    assert_eq!(pids(&web)["own:own"], web_before["own:own"]);
    assert_eq!(pids(&db), db_before, "it is not for this host");

    // Again: nothing happens, and it says so.
    let before = pids(&web);
    let files = [("app.conf", APP), ("nginx.conf", NGINX)];
    let ran = push(&fleet, "web", &files, &["-l", "role=web"]).expect_code(0);
    assert_eq!(ran.stdout, "web: no change, revision 1 has this already\n");
    assert_eq!(pids(&web), before);

    // One program changes, the other keeps its pid. The hosts stay who they are.
    let changed_nginx = NGINX.replace("602", "603");
    let files = [("app.conf", APP), ("nginx.conf", changed_nginx.as_str())];
    push(&fleet, "web", &files, &["-m", "nginx sleeps longer"]).expect_code(0);
    web.wait("nginx", "RUNNING");
    assert_eq!(changed(&before, &pids(&web)), ["nginx:nginx"]);
    assert_eq!(command_of(&web, "nginx:nginx"), "/bin/sleep 603");

    // Local tools see the bundle's programs as part of the configuration.
    assert_eq!(web.supervisorctl(&["reread"]).expect_code(0).stdout, "No config updates to processes\n");
    web.supervisorctl(&["update"]).expect_code(0);
    assert_eq!(changed(&before, &pids(&web)), ["nginx:nginx"]);

    // Which revision, by whom, why.
    let history = json(&fleet.ctl(&["config", "history", "web", "-o", "json"]).expect_code(0));
    let revisions = history["revisions"].as_array().unwrap();
    let told: Vec<_> = revisions
        .iter()
        .map(|it| {
            (
                it["revision"].as_u64().unwrap(),
                it["author"].as_str().unwrap(),
                it["message"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(told, [(2, "operator admin", "nginx sleeps longer"), (1, "operator admin", "first")]);
    let list = fleet.ctl(&["config", "list"]).expect_code(0);
    assert!(list.stdout.starts_with("web            revision 2     1 of 1 hosts"), "{list}");
    let show = fleet.ctl(&["config", "show", "web"]).expect_code(0);
    assert!(
        show.stdout.contains("web-01: has revision 2\n") && show.stdout.contains("command=/bin/sleep 603"),
        "{show}"
    );
    let show = fleet.ctl(&["config", "show", "web", "1"]).expect_code(0);
    assert!(show.stdout.contains("command=/bin/sleep 602"), "{show}");
    let host = fleet.ctl(&["host", "show", "web-01"]).expect_code(0);
    assert!(host.stdout.contains("bundle      web: revision 2\n"), "{host}");
}

#[test]
fn a_bad_bundle_is_refused_as_a_whole_and_no_host_sees_it() {
    let fleet = Fleet::new();
    let web = join(&fleet, "web-01", "web");
    let before = pids(&web);
    let bad = "[program:web]\ncommand=/bin/sleep 600\n\nstartsecs=soon\n";
    let ran =
        push(&fleet, "web", &[("app.conf", APP), ("web.conf", bad)], &["-l", "role=web"]).expect_code(1);
    assert_eq!(
        ran.stderr,
        "ctl: the controller says: bundle web is refused, and no host has seen it: web.conf:4: startsecs in \
         [program:web]: invalid literal for int() with base 10: 'soon'\n"
    );
    let daemon = "[supervisord]\nlogfile=/tmp/x\n";
    let ran = push(&fleet, "web", &[("web.conf", daemon)], &["-l", "role=web"]).expect_code(1);
    assert!(ran.stderr.contains("web.conf:1: section [supervisord] cannot be in a bundle"), "{ran}");
    let label = "[program:web]\ncommand=/bin/sleep %(host_label_rack)s\n";
    let ran = push(&fleet, "web", &[("web.conf", label)], &["-l", "role=web"]).expect_code(1);
    assert!(ran.stderr.contains("on host web-01: web.conf:2: command in [program:web]: "), "{ran}");
    let ran = push(&fleet, "web", &[("app.conf", APP)], &[]).expect_code(2);
    assert!(ran.stderr.contains("bundle web is new: say which hosts get it"), "{ran}");
    let large = "#".repeat(1 << 20);
    let ran = push(&fleet, "web", &[("app.conf", &large)], &["--all-hosts"]).expect_code(2);
    assert!(ran.stderr.contains("1048576 bytes are too many for a bundle"), "{ran}");
    assert_eq!(pids(&web), before);
    assert_eq!(fleet.ctl(&["config", "list"]).expect_code(0).stdout, "");

    // Two bundles cannot define one program for one host.
    push(&fleet, "one", &[("app.conf", APP)], &["-l", "role=web"]).expect_code(0);
    let ran = push(&fleet, "two", &[("x.conf", APP)], &["--all-hosts"]).expect_code(1);
    assert!(ran.stderr.contains("app is defined by bundle one already, which host web-01 has"), "{ran}");
    push(&fleet, "two", &[("x.conf", APP)], &["-l", "role=db"]).expect_code(0);
}

#[test]
fn a_host_that_cannot_apply_keeps_its_last_good_revision_and_says_why() {
    let fleet = Fleet::new();
    let web = join(&fleet, "web-01", "web");
    push(&fleet, "web", &[("app.conf", APP)], &["-l", "role=web"]).expect_code(0);
    web.wait("app:app_00", "RUNNING");
    let before = pids(&web);

    let nobody = format!("{APP}user=nosuchuser\n");
    let ran = push(&fleet, "web", &[("app.conf", &nobody)], &[]).expect_code(1);
    assert!(ran.stdout.starts_with("web-01: ERROR (app.conf:6: Invalid user name nosuchuser"), "{ran}");
    assert_eq!(pids(&web), before);
    let show = json(&fleet.ctl(&["config", "show", "web", "-o", "json"]).expect_code(0));
    let host = &show["hosts"][0];
    assert_eq!((host["desired"].as_u64(), host["revision"].as_u64()), (Some(2), Some(1)), "{host}");
    assert_eq!(host["failed_revision"].as_u64(), Some(2));
    assert!(host["reason"].as_str().unwrap().contains("nosuchuser"), "{host}");
    let shown = fleet.ctl(&["host", "show", "web-01"]).expect_code(0);
    assert!(
        shown.stdout.contains("should have revision 2; revision 2 failed: app.conf:6: Invalid user"),
        "{shown}"
    );

    // What starts and does not stay up has failed too.
    let short = "[program:app]\ncommand=/bin/false\nstartsecs=1\nstartretries=0\n";
    let ran = push(&fleet, "web", &[("app.conf", short)], &[]).expect_code(1);
    assert!(ran.stdout.contains("web-01: ERROR (app does not run: Exited too quickly"), "{ran}");

    // A name that the host has itself.
    let ran = push(&fleet, "own", &[("own.conf", OWN)], &["-l", "role=web"]).expect_code(1);
    assert!(
        ran.stdout.contains("own is defined by this host's own configuration, and by bundle own too"),
        "{ran}"
    );
    assert_eq!(pids(&web)["own:own"], before["own:own"]);

    // And a good one puts it right.
    push(&fleet, "web", &[("app.conf", APP)], &[]).expect_code(0);
    web.wait("app:app_00", "RUNNING");
}

#[test]
fn a_host_that_was_away_catches_up_and_starts_without_a_controller() {
    let mut fleet = Fleet::new();
    let mut web = join(&fleet, "web-01", "web");
    push(&fleet, "web", &[("app.conf", APP), ("nginx.conf", NGINX)], &["-l", "role=web"]).expect_code(0);
    web.wait("nginx", "RUNNING");
    let before = pids(&web);
    web.cable.cut();
    fleet.wait_host("web-01", "away");
    push(&fleet, "web", &[("app.conf", &APP.replace("601", "611")), ("nginx.conf", NGINX)], &[])
        .expect_code(4);
    let ran = push(&fleet, "web", &[("app.conf", &APP.replace("601", "612")), ("nginx.conf", NGINX)], &[]);
    let ran = ran.expect_code(4);
    assert!(ran.stdout.starts_with("web-01: away since ") && ran.stdout.contains("will catch up"), "{ran}");
    // The controller is killed, and has kept what it has acknowledged.
    fleet.controller().kill_alone();
    fleet.start_controller();
    web.cable.mend();
    wait_for("the host to catch up", || match command_of(&web, "app:app_00").as_str() {
        "/bin/sleep 612" => Ok(()),
        other => Err(other.to_owned()),
    });
    assert_eq!(pids(&web)["nginx:nginx"], before["nginx:nginx"]);
    assert!(!web.log().contains("revision 2)"), "what was replaced meanwhile is not applied");

    fleet.controller().kill_alone();
    web.kill();
    web.start();
    web.wait("app:app_01", "RUNNING");
    assert_eq!(command_of(&web, "app:app_01"), "/bin/sleep 612");
    assert_eq!(web.supervisorctl(&["reload"]).expect_code(0).stdout, "Restarted supervisord\n");
    web.wait("app:app_01", "RUNNING");
    web.wait("nginx", "RUNNING");
}

#[test]
fn plans_and_diffs_show_what_a_push_would_do_and_no_secrets() {
    let fleet = Fleet::new();
    let (web, _other) = (join(&fleet, "web-01", "web"), join(&fleet, "web-02", "web"));
    let old = format!("{APP}environment=DB_PASSWORD=\"geheim1\",MODE=a\n");
    push(&fleet, "web", &[("app.conf", &old), ("nginx.conf", NGINX)], &["-l", "role=web"]).expect_code(0);
    web.wait("app:app_00", "RUNNING");
    let before = pids(&web);
    let new =
        format!("{APP}environment=DB_PASSWORD=\"geheim2\",MODE=b\n[program:more]\ncommand=/bin/sleep 604\n");
    let folder = write(&fleet, "web", &[("app.conf", &new)]);
    let expected = "\
--- app.conf (revision 1)
+++ app.conf (revision 2)
@@ -3,4 +3,6 @@
 process_name=app_%(process_num)02d
 numprocs=2
 startsecs=0
-environment=DB_PASSWORD=\"(hidden)\",MODE=a
+environment=DB_PASSWORD=\"(hidden, changed)\",MODE=b
+[program:more]
+command=/bin/sleep 604
--- nginx.conf (revision 1)
+++ /dev/null
@@ -1,3 +0,0 @@
-[program:nginx]
-command=/bin/sleep 602
-startsecs=0
web-01: start more, stop nginx, restart app:app_00 app:app_01
web-02: start more, stop nginx, restart app:app_00 app:app_01
";
    assert_eq!(fleet.ctl(&["config", "diff", "web", &folder]).expect_code(0).stdout, expected);
    assert_eq!(fleet.ctl(&["config", "push", "web", &folder, "--dry-run"]).expect_code(0).stdout, expected);
    let plan = json(&fleet.ctl(&["config", "diff", "web", &folder, "-o", "json"]).expect_code(0));
    assert_eq!(plan["plans"][0]["start"], serde_json::json!(["more"]));
    assert_eq!((plan["dry_run"].as_bool(), plan["changed"].as_bool()), (Some(true), Some(true)));
    assert_eq!(pids(&web), before, "nothing has happened");
    assert_eq!(
        json(&fleet.ctl(&["config", "history", "web", "-o", "json"]))["revisions"].as_array().unwrap().len(),
        1
    );

    fleet.ctl(&["config", "push", "web", &folder]).expect_code(0);
    for arguments in [&["config", "show", "web"][..], &["config", "show", "web", "-o", "json"], &["audit"]] {
        let ran = fleet.ctl(arguments).expect_code(0);
        assert!(!ran.stdout.contains("geheim"), "{ran}");
    }
    assert!(fleet.ctl(&["config", "show", "web", "--reveal"]).expect_code(0).stdout.contains("geheim2"));
    assert!(!fleet.dir().read("controller.out").contains("geheim") && !web.log().contains("geheim"));
}

#[test]
fn a_rollback_is_a_new_revision_and_a_deletion_ends_the_programs() {
    let fleet = Fleet::new();
    let web = join(&fleet, "web-01", "web");
    push(&fleet, "web", &[("app.conf", APP), ("nginx.conf", NGINX)], &["-l", "role=web"]).expect_code(0);
    push(&fleet, "web", &[("app.conf", &APP.replace("601", "611")), ("nginx.conf", NGINX)], &[])
        .expect_code(0);
    web.wait("app:app_00", "RUNNING");
    let before = pids(&web);
    let ran = fleet.ctl(&["config", "rollback", "web", "1", "--dry-run"]).expect_code(0);
    assert!(ran.stdout.ends_with("web-01: restart app:app_00 app:app_01\n"), "{ran}");
    let ran = fleet.ctl(&["config", "rollback", "web", "1", "-m", "611 was wrong"]).expect_code(0);
    assert_eq!(ran.stdout, "web-01: revision 3 applied\n");
    web.wait("app:app_00", "RUNNING");
    assert_eq!(command_of(&web, "app:app_00"), "/bin/sleep 601");
    assert_eq!(changed(&before, &pids(&web)), ["app:app_00", "app:app_01"]);
    let history = fleet.ctl(&["config", "history", "web"]).expect_code(0);
    let first = history.stdout.lines().next().unwrap();
    assert!(first.starts_with("3 ") && first.ends_with("as revision 1; 611 was wrong"), "{history}");

    let ran = fleet.ctl(&["config", "delete", "web"]).expect_code(0);
    assert_eq!(ran.stdout, "web-01: revision 4 applied\n");
    assert_eq!(pids(&web).keys().collect::<Vec<_>>(), ["own:own"]);
    assert_eq!(fleet.ctl(&["config", "list"]).expect_code(0).stdout, "");
    fleet.ctl(&["config", "delete", "web"]).expect_code(1);
    fleet.ctl(&["config", "rollback", "web", "2"]).expect_code(0);
    web.wait("app:app_00", "RUNNING");
    assert_eq!(command_of(&web, "app:app_00"), "/bin/sleep 611");
    let audit = fleet.ctl(&["audit"]).expect_code(0);
    for what in ["config.push", "config.rollback", "config.delete"] {
        assert!(audit.stdout.contains(what), "{audit}");
    }
}

#[test]
fn values_are_each_hosts_own() {
    let fleet = Fleet::new();
    let (web, db) = (join(&fleet, "web-01", "web"), join(&fleet, "db-01", "db"));
    let text = "[program:me]\ncommand=/bin/sh -c 'sleep 605; : %(host_name)s %(host_label_role)s %(here)s'\nstartsecs=0\n";
    push(&fleet, "me", &[("me.conf", text)], &["--all-hosts"]).expect_code(0);
    for (host, expected) in [(&web, "web-01 web"), (&db, "db-01 db")] {
        host.wait("me", "RUNNING");
        let command = command_of(host, "me:me");
        let here = host.path("fleet/bundles/me").display().to_string();
        assert!(command.contains(expected) && command.contains(&here), "{command}");
    }
}

#[test]
fn a_hosts_own_programs_can_be_pulled_and_pushed() {
    let fleet = Fleet::new();
    let web = join(&fleet, "web-01", "web");
    let folder = fleet.dir().path().join("pulled");
    let target = folder.display().to_string();
    let ran = fleet.ctl(&["config", "pull", "web-01", "--to", &target]).expect_code(0);
    assert_eq!(ran.stdout, "supervisord.conf\n");
    assert!(ran.stderr.contains("[fleet] of "), "{ran}");
    assert_eq!(std::fs::read_to_string(folder.join("supervisord.conf")).unwrap().trim(), OWN.trim());
    let own = web.dir().read("supervisord.conf");
    web.dir().write("supervisord.conf", own.replace(OWN, ""));
    web.supervisorctl(&["update"]).expect_code(0);
    assert!(pids(&web).is_empty());
    fleet.ctl(&["config", "push", "own", &target, "--hosts", "web-01"]).expect_code(0);
    web.wait("own", "RUNNING");
}
