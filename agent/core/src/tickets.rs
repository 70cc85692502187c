//! Who waits for what: a request's processes that have not got their outcome yet.
//! It counts and remembers; what an outcome is, `supervisor` decides.

use std::collections::HashMap;

use fleetvisor_model::name::ProcessName;
use serde::{Deserialize, Serialize};

use crate::request::Ticket;
use crate::supervisor::Key;

/// What a request waits for in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Awaited {
    Spawned,
    Running,
    Stopped,
    /// Stopped, to be started again once all of the request have stopped.
    StoppedForRestart,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tickets {
    waiting: HashMap<Key, Vec<(Ticket, Awaited)>>,
    /// Outcomes that a ticket still owes.
    owed: HashMap<Ticket, usize>,
    restarts: HashMap<Ticket, Restarting>,
}

/// A restart in its first half.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Restarting {
    stopping: usize,
    /// To start, in this order.
    then_start: Vec<(Key, ProcessName)>,
}

impl Tickets {
    /// A new ticket that owes `count` outcomes.
    pub(crate) fn open(&mut self, ticket: Ticket, count: usize) {
        self.owed.insert(ticket, count);
    }

    pub(crate) fn wait(&mut self, key: Key, ticket: Ticket, awaited: Awaited) {
        self.waiting.entry(key).or_default().push((ticket, awaited));
    }

    /// All who wait for this process; the caller puts back those that go on waiting.
    pub(crate) fn take(&mut self, key: Key) -> Vec<(Ticket, Awaited)> {
        self.waiting.remove(&key).unwrap_or_default()
    }

    /// One outcome less; true when it was the last.
    pub(crate) fn settle(&mut self, ticket: Ticket) -> bool {
        match self.owed.get_mut(&ticket) {
            Some(left) if *left > 1 => {
                *left -= 1;
                false
            }
            Some(_) => {
                self.owed.remove(&ticket);
                true
            }
            None => false,
        }
    }

    pub(crate) fn begin_restart(
        &mut self,
        ticket: Ticket,
        stopping: usize,
        then_start: Vec<(Key, ProcessName)>,
    ) {
        self.restarts.insert(ticket, Restarting { stopping, then_start });
    }

    /// One process of a restart has stopped; what to start when it was the last.
    pub(crate) fn stopped_for_restart(&mut self, ticket: Ticket) -> Option<Vec<(Key, ProcessName)>> {
        let restarting = self.restarts.get_mut(&ticket)?;
        restarting.stopping = restarting.stopping.saturating_sub(1);
        if restarting.stopping > 0 {
            return None;
        }
        self.restarts.remove(&ticket).map(|restarting| restarting.then_start)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.owed.is_empty() && self.restarts.is_empty()
    }
}
