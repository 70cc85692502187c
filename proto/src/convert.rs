//! Between the messages of the wire and the types of the model. Owns nothing else: a message that names
//! something impossible is an error here, so that nobody behind has to ask again.

use std::fmt;
use std::time::Duration;

use fleetvisor_model::name::ProcessName;
use fleetvisor_model::state::ProcessState;
use fleetvisor_model::status::ProcessStatus;
use fleetvisor_model::time::{self, Wall};

use crate::fleet;

/// Longest group or process name that is taken from another host, in bytes.
pub const NAME_MAX: usize = 255;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    #[error("a process without a name")]
    NoName,
    #[error("{0:?} cannot be the name of a process")]
    BadName(String),
}

impl From<&ProcessName> for fleet::ProcessName {
    fn from(name: &ProcessName) -> fleet::ProcessName {
        fleet::ProcessName { group: name.group.clone(), process: name.process.clone() }
    }
}

impl TryFrom<fleet::ProcessName> for ProcessName {
    type Error = ConvertError;

    fn try_from(name: fleet::ProcessName) -> Result<ProcessName, ConvertError> {
        check_process_name(Some(&name))?;
        Ok(ProcessName { group: name.group, process: name.process })
    }
}

/// Whether [`process_name`] would take it.
pub fn check_process_name(name: Option<&fleet::ProcessName>) -> Result<(), ConvertError> {
    let fleet::ProcessName { group, process } = name.ok_or(ConvertError::NoName)?;
    let usable = |part: &str| {
        !part.is_empty()
            && part.len() <= NAME_MAX
            && !part.contains([':', '/'])
            && !part.contains(char::is_control)
    };
    if usable(group) && usable(process) {
        Ok(())
    } else {
        Err(ConvertError::BadName(format!("{group}:{process}")))
    }
}

/// The name in a field of a message, which the wire cannot make mandatory.
pub fn process_name(name: Option<fleet::ProcessName>) -> Result<ProcessName, ConvertError> {
    name.ok_or(ConvertError::NoName)?.try_into()
}

/// What a host reports of a process. `local` words a wall time in the host's own zone, as in
/// [`ProcessStatus::description`].
pub fn reported(status: &ProcessStatus, local: impl Fn(Wall) -> String) -> fleet::ProcessStatus {
    let running = status.state == ProcessState::Running;
    fleet::ProcessStatus {
        name: Some((&status.name).into()),
        state: status.state.code(),
        pid: status.pid,
        uptime_ms: if running { status.uptime_secs.saturating_mul(1000) } else { 0 },
        description: if running { String::new() } else { status.description(local) },
        start: status.start.0,
        stop: status.stop.0,
        exitstatus: status.exitstatus,
        spawnerr: status.spawnerr.clone(),
        drift: None,
    }
}

impl fleet::ProcessStatus {
    /// The state; a code that nobody heard of is `Unknown`.
    pub fn process_state(&self) -> ProcessState {
        ProcessState::from_code(self.state)
    }

    /// Supervisor's description, the third column of `status`.
    pub fn describe(&self) -> String {
        match self.process_state() {
            ProcessState::Running => {
                format!("pid {}, uptime {}", self.pid, time::uptime(Duration::from_millis(self.uptime_ms)))
            }
            ProcessState::Stopped
            | ProcessState::Starting
            | ProcessState::Backoff
            | ProcessState::Stopping
            | ProcessState::Exited
            | ProcessState::Fatal
            | ProcessState::Unknown => self.description.clone(),
        }
    }

    /// A process of which only the name is known.
    pub fn unknown(name: &ProcessName) -> fleet::ProcessStatus {
        fleet::ProcessStatus {
            name: Some(name.into()),
            state: ProcessState::Unknown.code(),
            ..fleet::ProcessStatus::default()
        }
    }
}

impl fleet::Scope {
    /// Whether it leaves out no host.
    pub fn is_everything(&self) -> bool {
        self.hosts.is_empty() && self.labels.is_empty()
    }
}

impl fmt::Display for fleet::Target {
    /// As it is typed: `web-*:app:*`, `app:*` for any host.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let process = if self.process.is_empty() { "*" } else { &self.process };
        if self.host.is_empty() {
            write!(f, "{}:{process}", self.group)
        } else {
            write!(f, "{}:{}:{process}", self.host, self.group)
        }
    }
}

impl fleet::Verb {
    /// `start`, for messages.
    pub fn word(self) -> &'static str {
        match self {
            fleet::Verb::Unspecified => "do nothing",
            fleet::Verb::Start => "start",
            fleet::Verb::Stop => "stop",
            fleet::Verb::Restart => "restart",
            fleet::Verb::Signal => "signal",
            fleet::Verb::Update => "update",
            fleet::Verb::Apply => "apply",
            fleet::Verb::Upgrade => "upgrade",
        }
    }

    /// `started`.
    pub fn past(self) -> &'static str {
        match self {
            fleet::Verb::Unspecified => "left alone",
            fleet::Verb::Start => "started",
            fleet::Verb::Stop => "stopped",
            fleet::Verb::Restart => "restarted",
            fleet::Verb::Signal => "signalled",
            fleet::Verb::Update => "updated",
            fleet::Verb::Apply => "applied",
            fleet::Verb::Upgrade => "upgraded",
        }
    }

    /// Whether it is for hosts as they are, rather than for processes that are known beforehand.
    pub fn is_of_host(self) -> bool {
        match self {
            fleet::Verb::Update | fleet::Verb::Apply | fleet::Verb::Upgrade => true,
            fleet::Verb::Unspecified
            | fleet::Verb::Start
            | fleet::Verb::Stop
            | fleet::Verb::Restart
            | fleet::Verb::Signal => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: ProcessState) -> ProcessStatus {
        ProcessStatus {
            name: ProcessName::new("web", "web_00"),
            state,
            start: Wall(5),
            stop: Wall(4),
            now: Wall(9),
            uptime_secs: 3_723,
            pid: 12,
            exitstatus: 3,
            spawnerr: "spawn error".to_owned(),
            started_once: true,
            stdout_logfile: String::new(),
            stderr_logfile: String::new(),
        }
    }

    #[test]
    fn a_report_reads_on_the_other_side_as_on_the_host() {
        for state in ProcessState::ALL {
            let status = status(state);
            let local = |wall: Wall| format!("at {}", wall.0);
            let wire = reported(&status, local);
            assert_eq!(wire.process_state(), state);
            assert_eq!(wire.describe(), status.description(local));
            assert_eq!(process_name(wire.name), Ok(status.name));
        }
    }

    #[test]
    fn impossible_names_are_refused() {
        let name = |group: &str, process: &str| {
            ProcessName::try_from(fleet::ProcessName { group: group.to_owned(), process: process.to_owned() })
        };
        assert!(name("web", "web_00").is_ok());
        for (group, process) in [("", "a"), ("a", ""), ("a:b", "c"), ("a", "b/c"), ("a", "b\nc")] {
            assert!(name(group, process).is_err(), "{group:?} {process:?}");
        }
        assert!(name(&"a".repeat(256), "b").is_err());
        assert_eq!(process_name(None), Err(ConvertError::NoName));
    }

    #[test]
    fn targets_print_as_they_are_typed() {
        let target = |host: &str, group: &str, process: &str| fleet::Target {
            host: host.to_owned(),
            group: group.to_owned(),
            process: process.to_owned(),
        };
        assert_eq!(target("web-*", "app", "").to_string(), "web-*:app:*");
        assert_eq!(target("", "app", "app_00").to_string(), "app:app_00");
    }
}
