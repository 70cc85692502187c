//! A process's name on a host: the group it belongs to and its own name in it.

use serde::{Deserialize, Serialize};

/// `group:process`, unique on a host. Displays as Supervisor prints it: one part where both are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessName {
    pub group: String,
    pub process: String,
}

impl ProcessName {
    pub fn new(group: impl Into<String>, process: impl Into<String>) -> ProcessName {
        ProcessName { group: group.into(), process: process.into() }
    }

    /// Both parts, always (`web:web`): the form the XML-RPC API takes.
    pub fn full(&self) -> String {
        format!("{}:{}", self.group, self.process)
    }
}

impl std::fmt::Display for ProcessName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.group == self.process { f.pad(&self.process) } else { f.pad(&self.full()) }
    }
}
