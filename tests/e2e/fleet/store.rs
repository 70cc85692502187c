//! The store under bad luck: killed while it writes, a full disk, damage, and the way back from a backup.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use fleetvisor_proto::fleet::CreateTokenRequest;
use fleetvisor_proto::fleet::fleet_client::FleetClient;
use fleetvisor_proto::identity::Identity;
use fleetvisor_proto::token::JoinToken;
use fleetvisor_tests::{Fleet, wait_for};
use serde_json::Value;

use super::{block_on, dial, pids, wait_web, web};

const WRITERS: usize = 4;

/// How often the controller is killed; `FLEETVISOR_KILLS=100` for the long run.
fn kills() -> usize {
    std::env::var("FLEETVISOR_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// Ids of the tokens that the store has, from a backup of it.
fn tokens(fleet: &Fleet, file: &Path) -> BTreeSet<String> {
    let dir = fleet.controller_dir().display().to_string();
    let file_name = file.display().to_string();
    let controller = format!("127.0.0.1:{}", fleet.port());
    let line = ["backup", "--dir", &dir, "--to", &file_name, "--controller", &controller];
    fleet.controller_command(&line).expect_code(0);
    fs::read_to_string(file)
        .unwrap()
        .lines()
        .filter_map(|line| {
            let record: Value = serde_json::from_str(line).unwrap();
            Some(record["key"].as_str()?.strip_prefix("token/")?.to_owned())
        })
        .collect()
}

/// Makes tokens as fast as it can until `stop`, and notes the id of each that was acknowledged.
fn write_until(fleet: &Fleet, stop: &AtomicBool, acknowledged: &Mutex<BTreeSet<String>>) {
    let identity = Identity::load(&fleet.admin()).unwrap();
    block_on(async {
        while !stop.load(Ordering::Relaxed) {
            let Ok(channel) = dial(fleet, &identity).await else { continue };
            let mut client = FleetClient::new(channel);
            let request = CreateTokenRequest { ttl_seconds: 3600, host: String::new() };
            while let Ok(made) = client.create_token(request.clone()).await {
                let token: JoinToken = made.into_inner().token.parse().unwrap();
                acknowledged.lock().unwrap().insert(token.id_text());
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        }
    });
}

/// Also where the test fails in between: or it would wait for its writers for ever.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn every_write_that_was_acknowledged_survives_kill_9_of_the_controller() {
    let mut fleet = Fleet::new();
    let acknowledged = Mutex::new(BTreeSet::new());
    let file = fleet.dir().path().join("backup");
    for round in 0..kills() {
        let stop = AtomicBool::new(false);
        let before = acknowledged.lock().unwrap().len();
        let mut controller = fleet.take_controller();
        std::thread::scope(|scope| {
            for _ in 0..WRITERS {
                scope.spawn(|| write_until(&fleet, &stop, &acknowledged));
            }
            let _stop = StopAtEnd(&stop);
            // In the middle of it, a little later each time.
            wait_for("writes to be acknowledged", || {
                let more = acknowledged.lock().unwrap().len() - before;
                if more > 20 + round * 7 % 100 { Ok(()) } else { Err(more.to_string()) }
            });
            controller.kill_alone();
        });
        drop(controller);
        fleet.start_controller();
        let there = tokens(&fleet, &file);
        let lost: Vec<_> = acknowledged.lock().unwrap().difference(&there).cloned().collect();
        assert!(lost.is_empty(), "round {round} has lost {lost:?}");
    }
    println!("{} kills, {} acknowledged writes, none lost", kills(), acknowledged.lock().unwrap().len());
    fleet.controller().kill_alone();
    let dir = fleet.controller_dir().display().to_string();
    fleet.controller_command(&["verify", "--dir", &dir]).expect_code(0).expect_stdout("is whole");
}

/// A file system of a few MiB, gone with the test.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, with a word why, where this machine does not let the test mount one.
    fn mount(path: &Path, bytes: u64) -> Option<SmallDisk> {
        fs::create_dir_all(path).unwrap();
        let options = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).output();
        match mounted {
            Ok(ran) if ran.status.success() => Some(SmallDisk(path.to_owned())),
            Ok(ran) => {
                let reason = String::from_utf8_lossy(&ran.stderr).into_owned();
                println!("a full disk is not tested: a tmpfs cannot be mounted here: {reason}");
                None
            }
            Err(error) => {
                println!("a full disk is not tested: there is no mount: {error}");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the controller may still have it open.
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

#[test]
fn a_full_disk_is_said_loses_nothing_and_is_over_when_there_is_room() {
    let mut fleet = Fleet::new();
    let host = web(&fleet, "web-01");
    fleet.ctl(&["--all-hosts", "stop", "worker:worker_00"]).expect_code(0);
    fleet.controller().kill_alone();
    // The store moves to a small disk.
    let store = fleet.controller_dir().join("store");
    let kept = fleet.controller_dir().join("kept");
    fs::rename(&store, &kept).unwrap();
    let Some(_disk) = SmallDisk::mount(&store, 8 << 20) else { return };
    let copy = Command::new("cp").arg("-a").arg(format!("{}/.", kept.display())).arg(&store).status();
    assert!(copy.unwrap().success());
    fleet.start_controller();
    fleet.wait_host("web-01", "online");

    let filler = store.join("filler");
    let file = fs::File::create(&filler).unwrap();
    let page = [7_u8; 4 << 10];
    let mut at = 0;
    while file.write_at(&page, at).is_ok_and(|written| written == page.len()) {
        at += page.len() as u64;
    }
    // An open file would keep its room after it is removed.
    drop(file);
    let before = pids(&host);
    // What there is room for in the store's files is taken first.
    let stop = ["--all-hosts", "stop", "web:app", "--no-wait"];
    let refused = wait_for("a write to fail", || {
        let ran = fleet.ctl(&stop);
        if ran.code() == 0 { Err(ran.to_string()) } else { Ok(ran) }
    });
    assert!(refused.stderr.contains("No space left on device"), "{refused}");
    assert_eq!(refused.code(), 1, "the controller was reached: {refused}");
    assert_eq!(before["web:nginx"], pids(&host)["web:nginx"]);
    // Reading goes on.
    fleet.ctl(&["--all-hosts", "status", "web:"]).expect_stdout("web-01:web:nginx");

    fs::remove_file(&filler).unwrap();
    wait_for("a write to go through", || {
        let ran = fleet.ctl(&stop);
        if ran.code() == 0 { Ok(()) } else { Err(ran.to_string()) }
    });
    // Operations that were stored and could not go on do so by themselves.
    wait_for("every operation to end", || {
        let ran = fleet.ctl(&["op", "list", "-n", "0"]);
        if ran.stdout.lines().all(|line| line.contains("finished")) { Ok(()) } else { Err(ran.to_string()) }
    });
    assert_eq!(host.state("web:app"), "STOPPED");
    // What was acknowledged before is there still.
    fleet.controller().kill_alone();
    let dir = fleet.controller_dir().display().to_string();
    fleet.controller_command(&["verify", "--dir", &dir]).expect_code(0);
    fleet.start_controller();
    assert_eq!(host.state("worker:worker_00"), "STOPPED");
}

#[test]
fn damage_is_named_and_a_backup_brings_it_all_back() {
    let mut fleet = Fleet::new();
    let host = web(&fleet, "web-01");
    fleet.ctl(&["--all-hosts", "stop", "web:app"]).expect_code(0);
    let dir = fleet.controller_dir().display().to_string();
    let backup = fleet.dir().path().join("store.backup").display().to_string();
    let controller = format!("127.0.0.1:{}", fleet.port());
    let line = ["backup", "--dir", &dir, "--to", &backup, "--controller", &controller];
    fleet.controller_command(&line).expect_code(0).expect_stdout("records, revision");
    fleet.controller_command(&["verify", "--backup", &backup]).expect_code(0);
    // Made after the backup, and gone with it.
    fleet.ctl(&["--all-hosts", "start", "web:app"]).expect_code(0);
    fleet.controller_command(&["verify", "--dir", &dir]).expect_code(1).expect_stderr("in use");
    fleet
        .controller_command(&["restore", "--dir", &dir, "--from", &backup])
        .expect_code(1)
        .expect_stderr("stop it");
    fleet.controller().kill_alone();
    fleet.controller_command(&["verify", "--dir", &dir]).expect_code(0).expect_stdout("audit log");

    // A state from before the last acknowledged write, whole as it may look, is no whole store.
    let witness = fleet.controller_dir().join("store/revision");
    let revision = u64::from_le_bytes(fs::read(&witness).unwrap()[..8].try_into().unwrap());
    fs::write(&witness, (revision + 1).to_le_bytes()).unwrap();
    let ran = fleet.controller_command(&["verify", "--dir", &dir]).expect_code(1);
    assert!(ran.stderr.contains("was acknowledged") && ran.stderr.contains("restore"), "{ran}");
    let run = fleet.controller_command(&["run", "--dir", &dir, "--listen", "127.0.0.1:0"]).expect_code(1);
    assert!(run.stderr.contains("is damaged"), "{run}");

    fleet.controller_command(&["restore", "--dir", &dir, "--from", &backup]).expect_code(0);
    fleet.controller_command(&["verify", "--dir", &dir]).expect_code(0);
    fleet.start_controller();
    fleet.wait_host("web-01", "online");
    // The host comes to what the backup says, and takes what is asked from here on.
    host.wait("web:app", "STOPPED");
    fleet.ctl(&["--all-hosts", "start", "web:app"]).expect_code(0);
    wait_web(&host);
}
