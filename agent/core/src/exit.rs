//! How a child ended, and how Supervisor words it.

use fleetvisor_model::signal::Signal;
use fleetvisor_model::status::EXIT_UNKNOWN;
use serde::{Deserialize, Serialize};

/// A decoded wait status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    Code(i32),
    Signal {
        signal: Signal,
        core_dumped: bool,
    },
    /// It ended while nobody was there to be told how.
    Unknown,
}

impl ExitStatus {
    /// What `exitcodes=` is compared with and `exitstatus` reports: the code, or -1 after a signal and where it is not known.
    pub fn code(self) -> i32 {
        match self {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal { .. } | ExitStatus::Unknown => -1,
        }
    }
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ExitStatus::Code(code) => write!(f, "exit status {code}"),
            ExitStatus::Signal { signal, core_dumped } => {
                let core = if *core_dumped { " (core dumped)" } else { "" };
                write!(f, "terminated by {}{core}", signal.name())
            }
            ExitStatus::Unknown => f.write_str(EXIT_UNKNOWN),
        }
    }
}
