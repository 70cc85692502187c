//! What can be asked of the core, by whichever front end, and how it refuses.

use std::collections::BTreeMap;

use fleetvisor_model::config::Group;
use fleetvisor_model::name::ProcessName;
use fleetvisor_model::signal::Signal;
use serde::{Deserialize, Serialize};

/// The asker's mark on a request; its outcomes carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ticket(pub u64);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    Verb {
        verb: Verb,
        processes: Processes,
        /// Processes whose program can't be executed, found out beforehand: they are not tried.
        refused: BTreeMap<ProcessName, Refusal>,
    },
    AddGroup(Group),
    RemoveGroup(String),
    /// Whether a process should run when its group comes to life, in place of `autostart`.
    Wish {
        name: ProcessName,
        run: bool,
    },
    Shutdown,
    Restart,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    /// With `wait`, answered when RUNNING or failed; else when spawned.
    Start {
        wait: bool,
    },
    /// With `wait`, answered when nothing runs any more; else when the signal is sent.
    Stop {
        wait: bool,
    },
    /// Stop what runs, and when all of it has stopped, start all.
    Restart,
    Signal(Signal),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Processes {
    /// Each is answered, also where it has nothing to do.
    Named(Vec<ProcessName>),
    /// Only those for which the verb has something to do are answered.
    Group(String),
    All,
}

/// What became of a request in one process.
pub type Outcome = Result<(), Refusal>;

/// Why a request could not be carried out; front ends word it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    BadName,
    NoFile(String),
    NotExecutable(String),
    AlreadyStarted,
    NotRunning,
    SpawnError,
    AbnormalTermination,
    AlreadyAdded,
    StillRunning,
    /// The daemon is ending.
    ShutdownState,
    Failed(String),
}
