//! A disk that hangs: a file system of its own, frozen. Who writes to it waits until it is thawed, and can't be killed
//! meanwhile. Programs that log elsewhere, and everybody who asks the daemon something, notice nothing of it.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use fleetvisor_tests::{Flavour, Host, HostConfig, agent_of, is_alive, run, wait_for, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A file system in a file; thawed and gone again at the end of the test.
struct Disk {
    path: PathBuf,
    /// Thaws it after a while, whatever becomes of the test.
    thaws: Option<Child>,
}

impl Disk {
    /// `None`, with the reason printed, where nothing may be mounted.
    fn mount(host: &Host) -> Option<Disk> {
        if Flavour::of_suite() == Flavour::Python {
            println!("Supervisor as a whole waits for the disk: not looked at");
            return None;
        }
        let (path, image) = (host.path("disk"), host.path("disk.img"));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
        let mut make = Command::new("mkfs.ext4");
        make.arg("-q").arg(&image);
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(&image).arg(&path);
        let mut thaw = Command::new("fsfreeze");
        thaw.arg("--version");
        for mut command in [make, thaw, mount] {
            match command.output() {
                Ok(done) if done.status.success() => {}
                Ok(done) => {
                    let said = String::from_utf8_lossy(&done.stderr).into_owned();
                    println!("left out: {command:?}: {}", said.trim());
                    return None;
                }
                Err(error) => {
                    println!("left out: {command:?}: {error}");
                    return None;
                }
            }
        }
        Some(Disk { path, thaws: None })
    }

    fn freeze(&mut self) {
        let later = "sleep 100; exec fsfreeze -u \"$0\"";
        self.thaws = Some(Command::new("sh").args(["-c", later]).arg(&self.path).spawn().unwrap());
        let mut freeze = Command::new("fsfreeze");
        run(freeze.arg("-f").arg(&self.path), Duration::from_secs(30)).expect_code(0);
    }

    fn thaw(&mut self) {
        if let Some(mut thaws) = self.thaws.take() {
            let _ = Command::new("fsfreeze").arg("-u").arg(&self.path).status();
            let _ = thaws.kill();
            let _ = thaws.wait();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.thaw();
        // Files on it may still be open.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

/// Numbers its lines, and says how it was ended.
const WRITER: &str = "trap 'echo end; exit 0' TERM\ni=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done";

/// `a` and `c` log to the disk, `c` only with its stdout; `b` and the daemon do not.
const PROGRAMS: &str = "[program:a]\ncommand={dir}/w\nstartsecs=0\nstdout_logfile={dir}/disk/a.log\n\
    [program:b]\ncommand={dir}/w\nstartsecs=0\nstdout_logfile={dir}/b.log\n\
    [program:c]\ncommand={dir}/w\nstartsecs=0\nautostart=false\nstdout_logfile={dir}/disk/c.log\n\
    stderr_logfile={dir}/c.err.log\n";

/// `own` is where the daemon's own log is a link to.
fn frozen(supervisord: &str, own: Option<&str>) -> Option<(Host, Disk)> {
    let mut host = HostConfig::new(PROGRAMS).supervisord(supervisord).script("w", WRITER).prepare();
    let mut disk = Disk::mount(&host)?;
    if let Some(own) = own {
        std::os::unix::fs::symlink(own, host.path("supervisord.log")).unwrap();
    }
    host.start();
    for log in ["disk/a.log", "b.log"] {
        host.wait_file(log, "10\n");
    }
    disk.freeze();
    Some((host, disk))
}

fn lines(host: &Host, log: &str) -> usize {
    host.dir().read(log).lines().count()
}

/// What `b` writes comes at once, and it can be stopped and started.
#[track_caller]
fn b_lives(host: &Host) {
    let before = lines(host, "b.log");
    wait_until("what b writes comes to its log", || lines(host, "b.log") > before + 20);
    host.supervisorctl(&["stop", "b"]).expect_stdout("b: stopped");
    host.supervisorctl(&["start", "b"]).expect_stdout("b: started");
    host.supervisorctl(&["restart", "b"]).expect_stdout("b: started");
    host.supervisorctl(&["status"]).expect_stdout("RUNNING");
    assert_eq!(host.state("b"), "RUNNING");
}

/// Each run's lines are there once and in order, and its end where it has come to that.
#[track_caller]
fn is_whole(host: &Host, log: &str, ends: usize) {
    wait_for(&format!("{ends} runs that have ended in {log}"), || {
        let text = host.dir().read(log);
        if text.matches("end\n").count() == ends { Ok(()) } else { Err(text) }
    });
    let text = host.dir().read(log);
    let mut expected = 0;
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        match line.trim_end() {
            "end" => expected = 0,
            // An end that was not said.
            "0" => expected = 1,
            number => {
                assert_eq!(number, expected.to_string(), "in {log}:\n{text}");
                expected += 1;
            }
        }
    }
}

fn others_go_on(supervisord: &str) {
    let Some((host, mut disk)) = frozen(supervisord, None) else { return };
    b_lives(&host);
    let pid = host.pid("a");
    assert_ne!(pid, 0);
    // Whoever asks for these is answered once the disk is back.
    let asked = [("startProcess", "c"), ("stopProcess", "a")].map(|(method, name)| {
        let rpc = host.rpc.clone();
        std::thread::spawn(move || rpc.call(&format!("supervisor.{method}"), &[name.into()]))
    });
    host.wait("a", "STOPPING");
    host.wait("c", "STARTING");
    wait_until("a has ended", || !is_alive(pid));
    b_lives(&host);
    assert_eq!((host.state("a"), host.state("c")), ("STOPPING".to_owned(), "STARTING".to_owned()));
    disk.thaw();
    for answer in asked {
        assert_eq!(answer.join().unwrap(), Ok(Ok(true.into())));
    }
    host.wait("a", "STOPPED");
    host.wait("c", "RUNNING");
    is_whole(&host, "disk/a.log", 1);
    assert!(lines(&host, "disk/a.log") > 20);
    host.wait_file("disk/c.log", "10\n");
    host.supervisorctl(&["stop", "b", "c"]).expect_code(0);
    is_whole(&host, "disk/c.log", 1);
    is_whole(&host, "b.log", 5);
}

#[test]
fn a_disk_that_hangs_holds_up_its_own_logs_and_nothing_else() {
    others_go_on("");
}

#[test]
fn a_disk_that_hangs_is_no_different_for_output_that_is_looked_at() {
    others_go_on("strip_ansi=true\n");
}

#[test]
fn a_disk_that_was_mounted_while_the_daemon_ran_is_told_from_others() {
    let (_, programs) = PROGRAMS.split_once("[program:b]").unwrap();
    let mut host = HostConfig::new(&format!("[program:b]{programs}")).script("w", WRITER).prepare();
    std::fs::create_dir(host.path("disk")).unwrap();
    host.start();
    host.wait_file("b.log", "10\n");
    let Some(mut disk) = Disk::mount(&host) else { return };
    host.supervisorctl(&["start", "c"]).expect_code(0);
    host.wait_file("disk/c.log", "10\n");
    disk.freeze();
    b_lives(&host);
    disk.thaw();
    host.supervisorctl(&["stop", "b", "c"]).expect_code(0);
    is_whole(&host, "disk/c.log", 1);
    is_whole(&host, "b.log", 3);
}

#[test]
fn answers_come_while_the_daemons_own_log_is_on_a_disk_that_hangs() {
    let Some((host, mut disk)) = frozen("", Some("disk/own.log")) else { return };
    b_lives(&host);
    disk.thaw();
    host.wait_file("disk/own.log", "stopped: b");
    host.supervisorctl(&["stop", "b"]).expect_code(0);
    is_whole(&host, "b.log", 3);
}

#[test]
fn the_daemon_ends_while_a_disk_hangs() {
    let Some((mut host, disk)) = frozen("", None) else { return };
    let rpc = host.rpc.clone();
    let asked = std::thread::spawn(move || rpc.call("supervisor.startProcess", &["c".into()]));
    host.wait("c", "STARTING");
    let status = host.stop();
    assert_eq!(status.code(), Some(0));
    let _ = asked.join().unwrap();
    is_whole(&host, "b.log", 1);
    let log = host.log();
    assert!(log.contains("logs of a take nothing: what it wrote last is not waited for"), "{log}");
    drop(disk);
}

#[test]
fn the_daemon_ends_while_the_disk_of_its_own_log_hangs() {
    let Some((mut host, disk)) = frozen("", Some("disk/own.log")) else { return };
    let status = host.stop();
    assert_eq!(status.code(), Some(0));
    is_whole(&host, "b.log", 1);
    drop(disk);
}

#[test]
fn the_daemon_starts_over_while_a_disk_hangs() {
    let Some((mut host, mut disk)) = frozen("", None) else { return };
    let old = host.pid("b");
    host.daemon().signal(Signal::SIGHUP);
    wait_for("b to run anew", || {
        let info =
            host.rpc.call("supervisor.getProcessInfo", &["b".into()])?.map_err(|it| format!("{it:?}"))?;
        match info.get("pid").and_then(fleetvisor_proto::xmlrpc::Value::as_int) {
            Some(pid) if pid != 0 && pid != i64::from(old) => Ok(()),
            _ => Err(format!("{info:?}")),
        }
    });
    b_lives(&host);
    disk.thaw();
    wait_for("both runs of a", || {
        let text = host.dir().read("disk/a.log");
        text.split_once("end\n").filter(|(_, second)| second.lines().count() > 10).map(drop).ok_or(text)
    });
    host.supervisorctl(&["stop", "a"]).expect_code(0);
    is_whole(&host, "disk/a.log", 2);
}

#[test]
fn an_agent_that_is_killed_while_a_disk_hangs_loses_nothing() {
    let Some((mut host, mut disk)) = frozen("", None) else { return };
    let before = lines(&host, "b.log");
    wait_until("a has written something meanwhile", || lines(&host, "b.log") > before + 20);
    let agent = agent_of(host.daemon().pid()).unwrap();
    kill(Pid::from_raw(agent), Signal::SIGKILL).unwrap();
    disk.thaw();
    host.wait_file("supervisord.log", "go on under pid");
    host.supervisorctl(&["stop", "all"]).expect_code(0);
    is_whole(&host, "disk/a.log", 1);
    is_whole(&host, "b.log", 1);
}

#[test]
fn no_agent_leaves_for_another_release_while_a_disk_hangs() {
    let mut host = HostConfig::new(PROGRAMS).script("w", WRITER).installed().prepare();
    let Some(mut disk) = Disk::mount(&host) else { return };
    host.start();
    host.wait_file("disk/a.log", "10\n");
    let agent = agent_of(host.daemon().pid());
    host.install("other");
    disk.freeze();
    let before = lines(&host, "b.log");
    wait_until("a has written something meanwhile", || lines(&host, "b.log") > before + 20);
    let refused = host.supervisorctl(&["upgrade"]);
    assert!(format!("{refused}").contains("a disk with logs does not answer"), "{refused}");
    assert_eq!(agent_of(host.daemon().pid()), agent);
    disk.thaw();
    host.supervisorctl(&["upgrade"]).expect_code(0);
    host.supervisorctl(&["stop", "all"]).expect_code(0);
    is_whole(&host, "disk/a.log", 1);
}

#[test]
fn a_program_whose_streams_are_on_two_disks_loses_nothing_however_often_the_agent_is_killed() {
    let both = "trap 'echo end; echo end >&2; exit 0' TERM\n\
        i=0; while :; do echo $i; echo $i >&2; i=$((i+1)); sleep 0.002; done";
    let programs = "[program:p]\ncommand={dir}/w\nstartsecs=0\nstdout_logfile={dir}/disk/p.log\n\
        stderr_logfile={dir}/p.err.log\n";
    let mut host = HostConfig::new(programs).supervisord("strip_ansi=true\n").script("w", both).prepare();
    let Some(_disk) = Disk::mount(&host) else { return };
    host.start();
    let keeper = host.daemon().pid();
    let mut last = 0;
    for _ in 0..5 {
        for log in ["disk/p.log", "p.err.log"] {
            let before = lines(&host, log);
            wait_until("its log goes on", || lines(&host, log) > before + 20);
        }
        last = wait_for("another agent", || {
            agent_of(keeper).filter(|agent| *agent != last).ok_or_else(|| "none".to_owned())
        });
        kill(Pid::from_raw(last), Signal::SIGKILL).unwrap();
    }
    host.wait_answer();
    host.supervisorctl(&["stop", "p"]).expect_code(0);
    is_whole(&host, "disk/p.log", 1);
    is_whole(&host, "p.err.log", 1);
    assert_eq!(host.dir().read("disk/p.log"), host.dir().read("p.err.log"));
}
