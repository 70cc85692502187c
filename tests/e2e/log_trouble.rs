//! Logs that can't be written: a full disk, a folder that is gone, a reader that has left. The programs and the
//! daemon keep running, the reason is said once, what is lost is counted, and writing goes on.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use fleetvisor_proto::xmlrpc::Value;
use fleetvisor_tests::{Host, HostConfig, wait_for, wait_until};

/// A file system of its own that is soon full; gone again at the end of the test.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// `None`, with the reason printed, where nothing may be mounted.
    fn mount(host: &Host) -> Option<SmallDisk> {
        let path = host.path("disk");
        std::fs::create_dir(&path).unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=256k", "fleetvisor-test"]).arg(&path);
        match command.output() {
            Ok(done) if done.status.success() => Some(SmallDisk { path }),
            Ok(done) => {
                println!("left out: cannot mount a tmpfs: {}", String::from_utf8_lossy(&done.stderr).trim());
                None
            }
            Err(error) => {
                println!("left out: cannot run mount: {error}");
                None
            }
        }
    }

    fn fill(&self) {
        let mut filler = File::create(self.path.join("filler")).unwrap();
        while filler.write_all(&[0; 4096]).is_ok() {}
    }

    fn empty(&self) {
        std::fs::remove_file(self.path.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Files on it may still be open.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

/// How often the daemon's log says this.
fn said(host: &Host, what: &str) -> usize {
    host.log().matches(what).count()
}

/// What the daemon's log says was lost.
fn lost(host: &Host, log: &Path) -> Option<usize> {
    let begin = format!("log {} is written again; ", log.display());
    let text = host.log();
    let (_, rest) = text.split_once(&begin)?;
    rest.split(' ').next()?.parse().ok()
}

fn page(host: &Host) -> String {
    let answer = host.rpc.address.request("GET", "/", "", b"").unwrap();
    String::from_utf8_lossy(&answer.body).into_owned()
}

fn feed(host: &Host, text: &str) {
    host.call("supervisor.sendProcessStdin", &["p".into(), text.into()]).unwrap();
}

const WRITER: &str = "while [ ! -e {dir}/go ]; do sleep 0.05; done; i=0
    while [ $i -lt 4000 ]; do echo line $i of what is written while the disk is full, long enough to matter
    i=$((i+1)); done; touch {dir}/wrote; while [ ! -e {dir}/more ]; do sleep 0.05; done; echo the end; exec sleep 600";

fn full_disk(supervisord: &str) {
    let mut host = HostConfig::new(
        "[program:p]\ncommand={dir}/p\nstartsecs=0\nstdout_logfile={dir}/disk/p.log\nautostart=false\n",
    )
    .supervisord(supervisord)
    .prepare();
    let writer = WRITER.replace("{dir}", &host.dir().path().display().to_string());
    host.dir().script("p", &writer);
    let Some(disk) = SmallDisk::mount(&host) else { return };
    host.start();
    host.call("supervisor.startProcess", &["p".into()]).unwrap();
    disk.fill();
    host.dir().write("go", "");
    wait_until("the program is not kept waiting by its log", || host.path("wrote").exists());
    let log = disk.path.join("p.log");
    let reason = format!("cannot write log {}: No space left on device", log.display());
    wait_until("the reason is in the log", || said(&host, &reason) == 1);
    wait_for("the page to say so", || {
        let page = page(&host);
        let is_said =
            page.contains(&format!("Log {} cannot be written: No space left on device", log.display()));
        if is_said { Ok(()) } else { Err(page) }
    });
    let info = host.info("p");
    let text = |key| info.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    assert_eq!(text("statename"), "RUNNING");
    assert!(text("description").starts_with("pid "), "{info:?}");
    disk.empty();
    host.dir().write("more", "");
    let lost = wait_for("writing to go on", || lost(&host, &log).ok_or_else(|| host.log()));
    assert!(lost > 0, "there was more than a pipe holds");
    let total: usize = (0..4000)
        .map(|i| format!("line {i} of what is written while the disk is full, long enough to matter\n").len())
        .sum();
    let total = total + "the end\n".len();
    wait_for("all the rest in the log", || {
        let length = std::fs::metadata(&log).map_or(0, |found| found.len() as usize);
        if length + lost == total { Ok(()) } else { Err(format!("{length} + {lost} of {total} bytes")) }
    });
    assert_eq!(said(&host, &reason), 1);
    wait_until("the page says nothing any more", || !page(&host).contains("cannot be written"));
}

#[test]
fn a_full_disk_keeps_no_program_waiting_and_every_lost_byte_is_counted() {
    full_disk("");
}

#[test]
fn a_full_disk_is_no_different_for_output_that_is_looked_at() {
    full_disk("strip_ansi=true\n");
}

#[test]
fn the_daemon_goes_on_when_its_own_log_is_on_a_full_disk() {
    let mut host = HostConfig::new(
        "[program:p]\ncommand=/bin/cat\nstartsecs=0\nautostart=false\nstdout_logfile={dir}/p.log\n",
    )
    .prepare();
    let Some(disk) = SmallDisk::mount(&host) else { return };
    std::os::unix::fs::symlink("disk/own.log", host.path("supervisord.log")).unwrap();
    host.start();
    disk.fill();
    for _ in 0..40 {
        host.call("supervisor.startProcess", &["p".into()]).unwrap();
        host.call("supervisor.stopProcess", &["p".into()]).unwrap();
    }
    let shown = "supervisord.log cannot be written: No space left on device";
    wait_until("the page says so", || page(&host).contains(shown));
    disk.empty();
    host.call("supervisor.startProcess", &["p".into()]).unwrap();
    host.wait_file("supervisord.log", "spawned: 'p'");
    let log = host.log();
    for line in log.lines() {
        assert!(line.starts_with("20"), "a torn line: {line:?}");
    }
    assert!(lost(&host, &host.path("supervisord.log")) > Some(0), "{log}");
    assert!(!page(&host).contains(shown));
}

#[test]
fn a_folder_that_is_gone_is_said_once_and_nothing_is_lost_when_it_is_back() {
    let host =
        HostConfig::new("[program:p]\ncommand=/bin/cat\nstartsecs=0\nstdout_logfile={dir}/folder/p.log\n")
            .file("folder/there", "")
            .start();
    host.wait("p", "RUNNING");
    feed(&host, "before\n");
    host.wait_file("folder/p.log", "before\n");
    let folder = host.path("folder");
    std::fs::remove_dir_all(&folder).unwrap();
    feed(&host, "while it is gone\n");
    let reason = format!("cannot write log {}: No such file or directory", folder.join("p.log").display());
    wait_until("the reason is in the log", || said(&host, &reason) == 1);
    feed(&host, "still gone\n");
    assert!(page(&host).contains("p.log cannot be written: No such file or directory"));
    assert_eq!(host.state("p"), "RUNNING");
    std::fs::create_dir(&folder).unwrap();
    let found = host.wait_file("folder/p.log", "still gone\n");
    assert_eq!(found, "while it is gone\nstill gone\n");
    wait_until("its end is in the log", || lost(&host, &folder.join("p.log")) == Some(0));
    assert_eq!(said(&host, &reason), 1);
    feed(&host, "afterwards\n");
    host.wait_file("folder/p.log", "afterwards\n");
}

#[test]
fn a_pipe_whose_reader_leaves_and_comes_back_goes_on() {
    let mut host =
        HostConfig::new("[program:p]\ncommand=/bin/cat\nstartsecs=0\nstdout_logfile={dir}/pipe\n").prepare();
    let pipe = host.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let reader = || OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&pipe).unwrap();
    let wait_read = |reader: &mut File, wanted: &str| {
        let mut got = Vec::new();
        wait_for(wanted, || {
            let _ = reader.read_to_end(&mut got);
            let text = String::from_utf8_lossy(&got).into_owned();
            if text.ends_with(wanted) { Ok(()) } else { Err(text) }
        });
    };
    let mut first = reader();
    host.start();
    host.wait("p", "RUNNING");
    feed(&host, "one\n");
    wait_read(&mut first, "one\n");
    drop(first);
    feed(&host, "two\n");
    wait_until("the reason is in the log", || said(&host, "cannot write log ") == 1);
    assert_eq!(host.state("p"), "RUNNING");
    let mut second = reader();
    wait_read(&mut second, "two\n");
    feed(&host, "three\n");
    wait_read(&mut second, "three\n");
    assert_eq!(lost(&host, &pipe), Some(0));
}
