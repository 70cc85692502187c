//! One process as an observer sees it: what `getProcessInfo`, the fleet's reports and the web page show.

use serde::{Deserialize, Serialize};

use crate::name::ProcessName;
use crate::state::ProcessState;
use crate::time::Wall;

/// `spawnerr` of a process that ended while nobody was there to be told how.
pub const EXIT_UNKNOWN: &str = "exit status unknown";

/// A snapshot of one process. Times are `EPOCH` where the thing has not happened yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatus {
    pub name: ProcessName,
    pub state: ProcessState,
    /// Last spawn.
    pub start: Wall,
    /// Last end.
    pub stop: Wall,
    /// Time of the snapshot.
    pub now: Wall,
    /// Whole seconds since the last spawn by the monotonic clock; 0 where nothing runs.
    pub uptime_secs: u64,
    /// 0 where nothing runs.
    pub pid: i32,
    /// Of the last end: the exit code, -1 after a signal, 0 before any.
    pub exitstatus: i32,
    /// Why the last spawn failed; empty where it did not. [`EXIT_UNKNOWN`] is said here too.
    pub spawnerr: String,
    /// Whether a person or an API stopped it, which Supervisor words as a stop time.
    pub started_once: bool,
    /// Path, or empty where output goes to no file of its own.
    pub stdout_logfile: String,
    pub stderr_logfile: String,
}

impl ProcessStatus {
    /// Supervisor's one-line description, the third column of `status`. `local` turns a wall time into
    /// `Nov 21 10:55 AM` in the host's own zone.
    pub fn description(&self, local: impl Fn(Wall) -> String) -> String {
        match self.state {
            ProcessState::Running => {
                let uptime = crate::time::uptime(std::time::Duration::from_secs(self.uptime_secs));
                format!("pid {}, uptime {uptime}", self.pid)
            }
            ProcessState::Fatal | ProcessState::Backoff => {
                if self.spawnerr.is_empty() {
                    format!("unknown error (try \"tail {}\")", self.name.process)
                } else {
                    self.spawnerr.clone()
                }
            }
            ProcessState::Stopped | ProcessState::Exited => {
                if !self.started_once {
                    "Not started".to_owned()
                } else if self.spawnerr == EXIT_UNKNOWN {
                    format!("{} ({EXIT_UNKNOWN})", local(self.stop))
                } else {
                    local(self.stop)
                }
            }
            ProcessState::Starting | ProcessState::Stopping | ProcessState::Unknown => String::new(),
        }
    }
}
