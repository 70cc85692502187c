//! The logs' thread is killed at random moments, again and again, and each time another goes on: every byte must
//! be in the logs once and in order. The thread runs in a process of its own, this test program started again;
//! the test itself stands for the keeper and holds pipes and memory.
//!
//! `FLEETVISOR_KILLS` is how often each case kills (40).

use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fleetvisor_core::effect::Instance;
use fleetvisor_model::config::{LogTarget, OutputLog};
use fleetvisor_model::name::ProcessName;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use serde::{Deserialize, Serialize};

use super::output::{Output, Parts};
use super::rotate::backup;
use super::transform::Transform;
use super::{Adoption, DaemonLog, LogStash, Outputs, start};
use crate::inbox::{Facts, Handle};

const ROLE: &str = "FLEETVISOR_TEST_PUMP";
const LIMIT: Duration = Duration::from_secs(120);

/// What a case is about.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Kind {
    strips: bool,
    captures: bool,
    rotates: bool,
    /// stderr goes to the same file.
    is_shared: bool,
    /// Something else that the same file gets is only looked at.
    is_listener: bool,
}

/// What the process is told. Descriptors are the test's.
#[derive(Debug, Serialize, Deserialize)]
struct Role {
    kind: Kind,
    log: PathBuf,
    keeper: u32,
    pipes: Vec<RawFd>,
    memories: Vec<Option<RawFd>>,
}

fn output_log(kind: Kind, log: &Path) -> OutputLog {
    OutputLog {
        logfile: LogTarget::File(log.to_owned()),
        logfile_maxbytes: if kind.rotates { 20_000 } else { 0 },
        logfile_backups: 1000,
        capture_maxbytes: if kind.captures { 1000 } else { 0 },
        events_enabled: false,
        syslog: false,
    }
}

/// Not a test: the process that is killed.
#[test]
fn in_a_process_of_its_own() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let role: Role = serde_json::from_str(&role).unwrap();
    let open = |descriptor: RawFd, writes: bool| -> OwnedFd {
        let path = format!("/proc/{}/fd/{descriptor}", role.keeper);
        let mut options = File::options();
        let options = options.read(true).write(writes);
        std::os::unix::fs::OpenOptionsExt::custom_flags(options, 0o4000).open(path).unwrap().into()
    };
    let (messages, mut inbox) = tokio::sync::mpsc::unbounded_channel();
    let facts = Facts {
        pid: 1,
        identifier: String::new(),
        logfile: LogTarget::None,
        config_path: PathBuf::new(),
        executable: PathBuf::new(),
    };
    let logs = start(DaemonLog::nowhere(), role.kind.strips, Handle::new(messages, facts)).unwrap();
    let mut pipes = role.pipes.iter().map(|pipe| open(*pipe, false));
    let mut stash = LogStash::default();
    for (stream, memory) in (0..).zip(&role.memories) {
        if let Some(memory) = memory {
            stash.bytes.push(stream);
            stash.descriptors.push(open(*memory, true));
        }
    }
    let outputs = Outputs {
        name: ProcessName { group: "g".to_owned(), process: "p".to_owned() },
        stdout: output_log(role.kind, &role.log),
        stderr: role.kind.is_shared.then(|| output_log(role.kind, &role.log)),
        is_listener: role.kind.is_listener,
    };
    let adoption = Adoption { outputs, stash, stdout: pipes.next().unwrap(), stderr: pipes.next(), heard: 0 };
    logs.adopt(Instance(1), adoption);
    logs.resume();
    while inbox.blocking_recv().is_some() {}
}

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// What one program writes, in the pieces in which it writes it, and what is to be in its log.
fn story(kind: Kind, who: char, kills: u64, dice: &mut Dice) -> (Vec<String>, String) {
    let (mut pieces, mut expected) = (Vec::new(), String::new());
    for number in 0..kills * 250 {
        let line = format!("{who} {number} {}\n", "x".repeat(dice.roll(90) as usize));
        let mut piece = String::new();
        if kind.captures && number % 7 == 0 {
            let _ = write!(piece, "<!--XSUPERVISOR:BEGIN-->{line}<!--XSUPERVISOR:END-->");
        }
        if kind.strips && number % 3 == 0 {
            piece.push_str("\x1b[1;31m");
        }
        piece.push_str(&line);
        expected.push_str(&line);
        pieces.push(piece);
    }
    (pieces, expected)
}

fn written(log: &Path) -> String {
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let old: String = (1..=1000).rev().map(|number| read(backup(log, number))).collect();
    old + &read(log.to_owned())
}

fn run(role: &Role) -> Child {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", "logs::kills::in_a_process_of_its_own"]);
    command.env(ROLE, serde_json::to_string(role).unwrap());
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

fn check(kind: Kind) {
    let kills = std::env::var("FLEETVISOR_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(40);
    let mut dice = Dice(7);
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let writers = if kind.is_shared { "AB" } else { "A" };
    let (mut pipes, mut memories, mut expected, mut threads) = (vec![], vec![], vec![], vec![]);
    for who in writers.chars() {
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let (pieces, text) = story(kind, who, kills, &mut dice);
        expected.push((who, text));
        let mut dice = Dice(dice.0);
        threads.push(std::thread::spawn(move || {
            let mut theirs = File::from(theirs);
            for piece in pieces {
                // Cut anywhere, also within a token or a sequence.
                let (begin, end) = piece.split_at(dice.roll(piece.len() as u64) as usize);
                for part in [begin, end] {
                    std::io::Write::write_all(&mut theirs, part.as_bytes()).unwrap();
                }
                std::thread::sleep(Duration::from_micros(dice.roll(120)));
            }
        }));
        let captured = if kind.captures { 1000 } else { 0 };
        let transform = Transform::new(kind.strips, captured, kind.is_listener, false);
        let parts = Parts { file: None, syslog: false, events: false, transform, most_captured: captured };
        let output = Output::new(parts).unwrap();
        memories.push(output.memory().map(|memory| memory.try_clone_to_owned().unwrap()));
        pipes.push(ours);
    }
    let role = Role {
        kind,
        log: log.clone(),
        keeper: std::process::id(),
        pipes: pipes.iter().map(|pipe| pipe.as_fd().as_raw_fd()).collect(),
        memories: memories.iter().map(|memory| Some(memory.as_ref()?.as_raw_fd())).collect(),
    };
    for _ in 0..kills {
        let mut pump = run(&role);
        std::thread::sleep(Duration::from_micros(3_000 + dice.roll(30_000)));
        pump.kill().unwrap();
        pump.wait().unwrap();
    }
    let mut pump = run(&role);
    for thread in threads {
        thread.join().unwrap();
    }
    let length: usize = expected.iter().map(|(_, text)| text.len()).sum();
    let begun = Instant::now();
    let mut found = written(&log);
    while found.len() < length && begun.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(20));
        found = written(&log);
    }
    pump.kill().unwrap();
    pump.wait().unwrap();
    assert_eq!(found.len(), length, "bytes in the logs");
    for (who, text) in expected {
        let of_this: String = found.split_inclusive('\n').filter(|line| line.starts_with(who)).collect();
        assert!(of_this == text, "lines of {who} are lost, doubled, torn or out of order");
    }
    if kind.rotates {
        assert!(backup(&log, 2).exists(), "it has been rotated");
    }
}

#[test]
fn bytes_that_are_only_moved_survive() {
    check(Kind::default());
}

#[test]
fn bytes_that_are_only_moved_survive_through_rotation() {
    check(Kind { rotates: true, ..Kind::default() });
}

#[test]
fn bytes_that_are_stripped_survive() {
    check(Kind { strips: true, ..Kind::default() });
}

#[test]
fn bytes_that_are_stripped_and_captured_survive_through_rotation() {
    check(Kind { strips: true, captures: true, rotates: true, ..Kind::default() });
}

#[test]
fn whole_lines_survive_in_a_file_that_two_share() {
    check(Kind { is_shared: true, rotates: true, ..Kind::default() });
}

#[test]
fn whole_lines_survive_in_a_file_that_two_share_and_that_are_looked_at() {
    check(Kind { is_shared: true, strips: true, rotates: true, ..Kind::default() });
}

#[test]
fn the_log_of_a_listener_survives() {
    check(Kind { is_listener: true, ..Kind::default() });
}
