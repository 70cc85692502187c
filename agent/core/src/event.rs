//! What event listeners can be told: event types with their supertypes, payloads, and the envelope on the
//! wire. Who listens is in [`crate::pool`].

use std::fmt::Write;

use fleetvisor_model::name::ProcessName;
use fleetvisor_model::state::ProcessState;
use serde::{Deserialize, Serialize};

use crate::effect::Change;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Channel {
    Stdout,
    Stderr,
}

impl Channel {
    pub fn name(self) -> &'static str {
        match self {
            Channel::Stdout => "stdout",
            Channel::Stderr => "stderr",
        }
    }
}

/// Seconds between two ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Period {
    Five,
    Minute,
    Hour,
}

impl Period {
    pub const ALL: [Period; 3] = [Period::Five, Period::Minute, Period::Hour];

    pub fn secs(self) -> i64 {
        match self {
            Period::Five => 5,
            Period::Minute => 60,
            Period::Hour => 3600,
        }
    }

    pub fn event_name(self) -> &'static str {
        match self {
            Period::Five => "TICK_5",
            Period::Minute => "TICK_60",
            Period::Hour => "TICK_3600",
        }
    }
}

/// What a process wrote, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    pub name: ProcessName,
    pub pid: i32,
    pub channel: Channel,
    pub data: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    State(Change),
    Log(Written),
    /// Written in capture mode.
    Communication(Written),
    Remote {
        kind: String,
        data: String,
    },
    DaemonRunning,
    DaemonStopping,
    /// `when` is the beginning of the period, in seconds since 1970.
    Tick {
        period: Period,
        when: i64,
    },
    GroupAdded(String),
    GroupRemoved(String),
}

impl Event {
    /// The name on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Event::State(change) => match change.to {
                ProcessState::Stopped => "PROCESS_STATE_STOPPED",
                ProcessState::Starting => "PROCESS_STATE_STARTING",
                ProcessState::Running => "PROCESS_STATE_RUNNING",
                ProcessState::Backoff => "PROCESS_STATE_BACKOFF",
                ProcessState::Stopping => "PROCESS_STATE_STOPPING",
                ProcessState::Exited => "PROCESS_STATE_EXITED",
                ProcessState::Fatal => "PROCESS_STATE_FATAL",
                ProcessState::Unknown => "PROCESS_STATE_UNKNOWN",
            },
            Event::Log(Written { channel: Channel::Stdout, .. }) => "PROCESS_LOG_STDOUT",
            Event::Log(Written { channel: Channel::Stderr, .. }) => "PROCESS_LOG_STDERR",
            Event::Communication(Written { channel: Channel::Stdout, .. }) => "PROCESS_COMMUNICATION_STDOUT",
            Event::Communication(Written { channel: Channel::Stderr, .. }) => "PROCESS_COMMUNICATION_STDERR",
            Event::Remote { .. } => "REMOTE_COMMUNICATION",
            Event::DaemonRunning => "SUPERVISOR_STATE_CHANGE_RUNNING",
            Event::DaemonStopping => "SUPERVISOR_STATE_CHANGE_STOPPING",
            Event::Tick { period, .. } => period.event_name(),
            Event::GroupAdded(_) => "PROCESS_GROUP_ADDED",
            Event::GroupRemoved(_) => "PROCESS_GROUP_REMOVED",
        }
    }

    pub fn payload(&self) -> String {
        match self {
            Event::State(change) => state_payload(change),
            Event::Log(written) => {
                format!("{} channel:{}\n{}", origin(written), written.channel.name(), text(&written.data))
            }
            Event::Communication(written) => format!("{}\n{}", origin(written), text(&written.data)),
            Event::Remote { kind, data } => format!("type:{kind}\n{data}"),
            Event::DaemonRunning | Event::DaemonStopping => String::new(),
            Event::Tick { when, .. } => format!("when:{when}"),
            Event::GroupAdded(group) | Event::GroupRemoved(group) => format!("groupname:{group}\n"),
        }
    }
}

/// Whether who subscribes to the first type gets events of the second.
pub fn covers(subscribed: &str, name: &str) -> bool {
    subscribed == "EVENT"
        || name.strip_prefix(subscribed).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

/// Header line and payload. `len` counts characters, not bytes.
pub fn envelope(identifier: &str, pool: &str, serial: u64, poolserial: u64, event: &Event) -> String {
    let payload = event.payload();
    format!(
        "ver:3.0 server:{identifier} serial:{serial} pool:{pool} poolserial:{poolserial} eventname:{} len:{}\n\
         {payload}",
        event.name(),
        payload.chars().count(),
    )
}

fn origin(written: &Written) -> String {
    let Written { name, pid, .. } = written;
    format!("processname:{} groupname:{} pid:{pid}", name.process, name.group)
}

fn state_payload(change: &Change) -> String {
    let Change { name, from, to, pid, expected, tries, exit: _ } = change;
    let first = format!("processname:{} groupname:{} from_state:{}", name.process, name.group, from.name());
    match to {
        ProcessState::Starting | ProcessState::Backoff => format!("{first} tries:{tries}"),
        ProcessState::Exited => format!("{first} expected:{} pid:{pid}", i32::from(*expected)),
        ProcessState::Running | ProcessState::Stopping | ProcessState::Stopped => {
            format!("{first} pid:{pid}")
        }
        ProcessState::Fatal | ProcessState::Unknown => first,
    }
}

fn text(data: &[u8]) -> String {
    String::from_utf8(data.to_vec()).unwrap_or_else(|_| format!("Undecodable: {}", bytes_repr(data)))
}

/// Bytes as Python shows them: `b'READY\n'`.
pub fn bytes_repr(data: &[u8]) -> String {
    let quote = if data.contains(&b'\'') && !data.contains(&b'"') { '"' } else { '\'' };
    let mut shown = format!("b{quote}");
    for &byte in data {
        match byte {
            b'\n' => shown.push_str("\\n"),
            b'\r' => shown.push_str("\\r"),
            b'\t' => shown.push_str("\\t"),
            b'\\' => shown.push_str("\\\\"),
            _ if char::from(byte) == quote => {
                shown.push('\\');
                shown.push(quote);
            }
            0x20..0x7f => shown.push(char::from(byte)),
            _ => {
                let _ = write!(shown, "\\x{byte:02x}");
            }
        }
    }
    shown.push(quote);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supertypes_cover_their_types_and_no_others() {
        for (subscribed, name, covered) in [
            ("EVENT", "TICK_5", true),
            ("TICK", "TICK_3600", true),
            ("TICK_5", "TICK_5", true),
            ("TICK_6", "TICK_60", false),
            ("PROCESS_LOG", "PROCESS_LOG_STDERR", true),
            ("PROCESS_STATE", "PROCESS_LOG_STDERR", false),
        ] {
            assert_eq!(covers(subscribed, name), covered, "{subscribed} {name}");
        }
    }

    #[test]
    fn the_length_counts_characters() {
        let event = Event::Remote { kind: "ü".to_owned(), data: "çö".to_owned() };
        assert_eq!(
            envelope("supervisor", "ev", 3, 1, &event),
            "ver:3.0 server:supervisor serial:3 pool:ev poolserial:1 eventname:REMOTE_COMMUNICATION len:9\n\
             type:ü\nçö"
        );
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_as_python_shows_them() {
        let written = Written {
            name: ProcessName::new("g", "p"),
            pid: 7,
            channel: Channel::Stderr,
            data: b"a'\xff\n".to_vec(),
        };
        assert_eq!(
            Event::Log(written).payload(),
            "processname:p groupname:g pid:7 channel:stderr\nUndecodable: b\"a'\\xff\\n\""
        );
    }
}
