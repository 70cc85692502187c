//! What the core asks of the world. The loop performs effects in the order they come.

use fleetvisor_model::config::{Group, LogLevel};
use fleetvisor_model::name::ProcessName;
use fleetvisor_model::signal::Signal;
use fleetvisor_model::state::{DaemonState, ProcessState};
use serde::{Deserialize, Serialize};

use crate::exit::ExitStatus;
use crate::request::{Outcome, Ticket};

/// One run of a process, never used again: a signal by it can't reach another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Instance(pub u64);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// To be answered by `Spawned` or `SpawnFailed`.
    Spawn {
        instance: Instance,
        name: ProcessName,
    },
    /// To be answered only if it fails.
    Signal {
        instance: Instance,
        signal: Signal,
        to_group: bool,
    },
    Changed(Change),
    /// One process of a request has got its answer.
    Outcome {
        ticket: Ticket,
        name: ProcessName,
        outcome: Outcome,
    },
    /// A request has no process left that it waits for.
    Done {
        ticket: Ticket,
    },
    GroupAdded(Group),
    GroupRemoved(Group),
    Log {
        level: LogLevel,
        line: String,
    },
    /// The daemon begins to stop, to end or to start over.
    Stopping,
    /// Everything has stopped: time to end, or to start over with the configuration as it is now.
    Finished(DaemonState),
}

/// A process went from one state to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub name: ProcessName,
    pub from: ProcessState,
    pub to: ProcessState,
    /// 0 where nothing runs.
    pub pid: i32,
    /// Whether an exit was one of `exitcodes`.
    pub expected: bool,
    /// Failed attempts in a row.
    pub tries: i64,
    /// How the child ended, where that is why.
    pub exit: Option<ExitStatus>,
}
