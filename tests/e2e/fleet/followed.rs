//! A command that follows something in the fleet.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread;

use fleetvisor_tests::{Fleet, LIMIT};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A `ctl` that follows; its lines are read as they come.
pub(super) struct Followed {
    ctl: Child,
    pub(super) lines: mpsc::Receiver<String>,
}

impl Followed {
    pub(super) fn start(fleet: &Fleet, arguments: &[&str]) -> Followed {
        let mut command = fleet.ctl_command(&fleet.admin(), arguments);
        let mut ctl = command.stdout(Stdio::piped()).spawn().expect("ctl starts");
        let stdout = BufReader::new(ctl.stdout.take().expect("it is piped"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Followed { ctl, lines }
    }

    /// The next event that fits, as a document.
    #[track_caller]
    pub(super) fn until(&self, fits: impl Fn(&Value) -> bool) -> Value {
        let mut seen = Vec::new();
        loop {
            let line = self.lines.recv_timeout(LIMIT).unwrap_or_else(|why| panic!("{why} after {seen:#?}"));
            let event: Value = serde_json::from_str(&line).expect("one document per line");
            if fits(&event) {
                return event;
            }
            seen.push(line);
        }
    }
}

impl Followed {
    /// The next line.
    #[track_caller]
    pub(super) fn line(&self) -> String {
        self.lines.recv_timeout(LIMIT).expect("another line")
    }

    /// As Ctrl-C ends it.
    #[track_caller]
    pub(super) fn interrupt(&mut self) {
        let pid = i32::try_from(self.ctl.id()).expect("pids fit");
        kill(Pid::from_raw(pid), Signal::SIGINT).expect("an own child can be signalled");
        let status = self.ctl.wait().expect("it ends");
        assert_eq!(status.code(), Some(130));
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.ctl.kill().ok();
        self.ctl.wait().ok();
    }
}
