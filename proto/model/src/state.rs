//! States of a process and of the daemon, with the codes and names that Supervisor's API publishes.

use serde::{Deserialize, Serialize};

/// State of one process; [`ProcessState::code`] is what XML-RPC calls `state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ProcessState {
    Stopped,
    Starting,
    Running,
    Backoff,
    Stopping,
    Exited,
    Fatal,
    Unknown,
}

impl ProcessState {
    pub const ALL: [ProcessState; 8] = [
        ProcessState::Stopped,
        ProcessState::Starting,
        ProcessState::Running,
        ProcessState::Backoff,
        ProcessState::Stopping,
        ProcessState::Exited,
        ProcessState::Fatal,
        ProcessState::Unknown,
    ];

    pub const fn code(self) -> i32 {
        match self {
            ProcessState::Stopped => 0,
            ProcessState::Starting => 10,
            ProcessState::Running => 20,
            ProcessState::Backoff => 30,
            ProcessState::Stopping => 40,
            ProcessState::Exited => 100,
            ProcessState::Fatal => 200,
            ProcessState::Unknown => 1000,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            ProcessState::Stopped => "STOPPED",
            ProcessState::Starting => "STARTING",
            ProcessState::Running => "RUNNING",
            ProcessState::Backoff => "BACKOFF",
            ProcessState::Stopping => "STOPPING",
            ProcessState::Exited => "EXITED",
            ProcessState::Fatal => "FATAL",
            ProcessState::Unknown => "UNKNOWN",
        }
    }

    /// Whether somebody has stopped what shall run, or started what shall not. A program that ended by itself has
    /// not drifted, and one on its way is not looked at before it is there.
    pub fn drifts_from(self, run: bool) -> bool {
        match self {
            ProcessState::Stopped => run,
            ProcessState::Starting | ProcessState::Running | ProcessState::Backoff => !run,
            ProcessState::Stopping | ProcessState::Exited | ProcessState::Fatal | ProcessState::Unknown => {
                false
            }
        }
    }

    /// The state with this code; an unheard-of code is `Unknown`.
    pub fn from_code(code: i32) -> ProcessState {
        ProcessState::ALL.into_iter().find(|state| state.code() == code).unwrap_or(ProcessState::Unknown)
    }

    /// Supervisor's "running states": a start of these is ALREADY_STARTED, a stop is possible.
    pub const fn is_running(self) -> bool {
        matches!(self, ProcessState::Starting | ProcessState::Running | ProcessState::Backoff)
    }

    /// Nothing runs and nothing will happen without being asked.
    pub const fn is_stopped(self) -> bool {
        matches!(
            self,
            ProcessState::Stopped | ProcessState::Exited | ProcessState::Fatal | ProcessState::Unknown
        )
    }
}

impl std::fmt::Display for ProcessState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// State of the daemon as `getState` reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DaemonState {
    Fatal,
    Running,
    Restarting,
    Shutdown,
}

impl DaemonState {
    pub const fn code(self) -> i32 {
        match self {
            DaemonState::Fatal => 2,
            DaemonState::Running => 1,
            DaemonState::Restarting => 0,
            DaemonState::Shutdown => -1,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            DaemonState::Fatal => "FATAL",
            DaemonState::Running => "RUNNING",
            DaemonState::Restarting => "RESTARTING",
            DaemonState::Shutdown => "SHUTDOWN",
        }
    }
}
