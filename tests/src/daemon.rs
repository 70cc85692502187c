//! A daemon of a test: a child whose output is kept, and that cannot outlive the test, nor can anything it
//! has started.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::marked;
use crate::wait::wait_for;

#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
    /// Directory that marks everything this daemon starts.
    mark: PathBuf,
}

impl Daemon {
    /// Starts it; both outputs are appended to `MARK/NAME.out`.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn start(name: &str, command: &mut Command, mark: &Path) -> Daemon {
        let path = mark.join(format!("{name}.out"));
        let output = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()));
        let child = command
            .env(marked::VARIABLE, mark)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a file can be cloned"))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        Daemon { name: name.to_owned(), child, status: None, mark: mark.to_owned() }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("pids fit")
    }

    /// # Panics
    /// When it has ended already.
    pub fn signal(&mut self, signal: Signal) {
        assert!(self.exited().is_none(), "{} has ended: {:?}", self.name, self.status);
        kill(Pid::from_raw(self.pid()), signal).expect("an own child can be signalled");
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("an own child can be waited for");
        }
        self.status
    }

    /// # Panics
    /// When it doesn't end.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        wait_for(&format!("the end of {}", self.name.clone()), || {
            self.exited().ok_or_else(|| "it still runs".to_owned())
        })
    }

    /// What a power cut does to it and all its programs.
    pub fn kill(&mut self) {
        marked::kill_all(&self.mark);
        self.child.kill().ok();
        self.status = self.child.wait().ok();
    }

    /// SIGKILL for the daemon alone.
    pub fn kill_alone(&mut self) {
        self.child.kill().ok();
        self.status = self.child.wait().ok();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}
