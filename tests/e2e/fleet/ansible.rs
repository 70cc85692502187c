//! The Ansible collection (`deploy/ansible`), by Ansible itself: what is not as it should be is changed once, check
//! mode says so before, and a diff shows it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fleetvisor_tests::{Fleet, Ran, binary, python_supervisord, run, wait_for};
use serde_json::{Value, json};

use super::pids;

/// Ansible takes seconds for a step, and longer beside other tests.
const LIMIT: Duration = Duration::from_secs(300);

const OWN: &str = "[program:own]\ncommand=/bin/sleep 600\nstartsecs=0\n";

struct Ansible<'a> {
    fleet: &'a Fleet,
    variables: Value,
}

impl Ansible<'_> {
    fn new(fleet: &Fleet, mut variables: Value) -> Ansible<'_> {
        let programs = python_supervisord().parent().expect("it is in a directory").to_owned();
        variables["ansible_python_interpreter"] = json!(programs.join("python"));
        variables["ctl"] = json!(binary("ctl"));
        variables["controller"] = json!(fleet.address());
        variables["identity"] = json!(fleet.admin());
        let collections = fleet.dir().path().join("collections/ansible_collections/fleetvisor");
        std::fs::create_dir_all(&collections).unwrap();
        let collection = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/ansible");
        let link = collections.join("fleet");
        if !link.exists() {
            std::os::unix::fs::symlink(collection.canonicalize().unwrap(), link).unwrap();
        }
        Ansible { fleet, variables }
    }

    /// Plays it, with the given callback for stdout.
    #[track_caller]
    fn play(&self, playbook: &str, callback: &str, arguments: &[&str]) -> Ran {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("ansible");
        let program = python_supervisord().with_file_name("ansible-playbook");
        let dir = self.fleet.dir().path();
        let mut command = Command::new(program);
        command
            .arg(folder.join(playbook))
            .args(["--extra-vars", &self.variables.to_string()])
            .args(arguments)
            .current_dir(dir)
            .env_clear()
            .env("ANSIBLE_CONFIG", folder.join("ansible.cfg"))
            .env("ANSIBLE_COLLECTIONS_PATH", dir.join("collections"))
            .env("ANSIBLE_STDOUT_CALLBACK", callback)
            .env("HOME", dir)
            .env("LANG", "C.UTF-8")
            .env("PATH", "/usr/bin:/bin");
        run(&mut command, LIMIT)
    }

    /// Names of the tasks that have changed something, or would.
    #[track_caller]
    fn changes(&self, playbook: &str, arguments: &[&str]) -> Vec<String> {
        let ran = self.play(playbook, "outcomes", arguments).expect_code(0);
        let step = |line: &str| -> Value {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}: {ran}"))
        };
        let steps: Vec<Value> = ran.stdout.lines().map(step).collect();
        assert!(!steps.is_empty(), "no step was taken: {ran}");
        let changed = steps.iter().filter(|step| step["changed"] == json!(true));
        changed.map(|step| step["task"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn modules_change_what_is_not_as_it_should_be_and_check_mode_says_so_before() {
    let fleet = Fleet::new();
    let host = fleet.join("web-01", "role=web", OWN);
    host.wait("own", "RUNNING");
    let folder = fleet.dir().path().join("conf.d");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("app.conf");
    std::fs::write(&file, "[program:app]\ncommand=/bin/sleep 601\nstartsecs=0\nenvironment=KEY=\"geheim\"\n")
        .unwrap();
    let ansible = Ansible::new(&fleet, json!({"bundle": folder}));
    let before = pids(&host);

    assert_eq!(ansible.changes("fleet_modules.yml", &["--check"]), ["bundle", "run state"]);
    assert_eq!(pids(&host), before, "check mode has changed nothing");
    assert_eq!(ansible.changes("fleet_modules.yml", &[]), ["bundle", "run state"]);
    host.wait("app", "RUNNING");
    host.wait("own", "STOPPED");
    let settled = pids(&host);
    assert!(ansible.changes("fleet_modules.yml", &["--check"]).is_empty());
    assert!(ansible.changes("fleet_modules.yml", &[]).is_empty());
    assert_eq!(pids(&host), settled);

    std::fs::write(&file, "[program:app]\ncommand=/bin/sleep 602\nstartsecs=0\nenvironment=KEY=\"geheim\"\n")
        .unwrap();
    let shown = ansible.play("fleet_modules.yml", "default", &["--check", "--diff"]).expect_code(0);
    for line in ["-command=/bin/sleep 601", "+command=/bin/sleep 602", "web-01: restart app"] {
        assert!(shown.stdout.lines().any(|shown| shown == line), "{line} in {shown}");
    }
    assert!(!shown.stdout.contains("geheim"), "{shown}");
    assert_eq!(pids(&host), settled);
    assert_eq!(ansible.changes("fleet_modules.yml", &[]), ["bundle"]);

    // A mistake fails with its place, also in check mode.
    std::fs::write(&file, "[program:app]\ncommand=/bin/sleep 602\nnumprocs=many\n").unwrap();
    for arguments in [&["--check"][..], &[]] {
        let ran = ansible.play("fleet_modules.yml", "outcomes", arguments).expect_code(2);
        assert!(ran.stdout.contains("app.conf:3: numprocs in [program:app]: "), "{ran}");
    }
    host.wait("app", "RUNNING");
}

/// Ends the daemon that a role has started.
struct Started {
    root: PathBuf,
}

impl Drop for Started {
    fn drop(&mut self) {
        let mut command = Command::new(binary("supervisorctl"));
        command.arg("-c").arg(self.root.join("etc/supervisord.conf")).arg("shutdown");
        // Where nothing was started there is nothing to end.
        let _ = command.output();
    }
}

#[test]
fn the_role_makes_a_host_a_member_once() {
    let fleet = Fleet::new();
    let root = fleet.dir().path().join("root");
    let programs = binary("supervisord").parent().unwrap().to_owned();
    let variables = json!({"root": root, "programs": programs, "rack": "r1"});
    let mut ansible = Ansible::new(&fleet, variables);
    let _started = Started { root: root.clone() };

    let predicted = ansible.changes("fleet_role.yml", &["--check"]);
    assert!(predicted.iter().any(|task| task.ends_with("Configuration")), "{predicted:?}");
    assert!(!root.exists(), "check mode has changed nothing");
    let changed = ansible.changes("fleet_role.yml", &[]);
    assert!(predicted.iter().all(|task| changed.contains(task)), "{predicted:?} and then {changed:?}");
    let shown = fleet.ctl(&["host", "show", "web-09"]).expect_code(0);
    assert!(shown.stdout.contains("online") && shown.stdout.contains("rack=r1,role=web"), "{shown}");
    assert!(ansible.changes("fleet_role.yml", &["--check"]).is_empty());
    assert!(ansible.changes("fleet_role.yml", &[]).is_empty());

    ansible.variables["rack"] = json!("r2");
    let shown = ansible.play("fleet_role.yml", "default", &["--check", "--diff"]).expect_code(0);
    for line in ["-labels = rack=r1,role=web", "+labels = rack=r2,role=web"] {
        assert!(shown.stdout.lines().any(|shown| shown == line), "{line} in {shown}");
    }
    ansible.changes("fleet_role.yml", &[]);
    wait_for("the host to have its new label", || {
        let shown = fleet.ctl(&["host", "show", "web-09"]).expect_code(0);
        if shown.stdout.contains("rack=r2,role=web") { Ok(()) } else { Err(shown.to_string()) }
    });
}
