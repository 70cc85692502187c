//! What outlives both agents and keepers: programs with their pipes and exits, and the stash. The keeper has it;
//! an agent keeps a copy, true to what it has asked and was told, so that it can begin another keeper when its
//! own was killed ([`crate::revive`]).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::frame::{Event, Exit, Pipes, REPLACEABLE, Request};
use crate::pidfd;
use crate::programs::{Entry, Programs};
use crate::stash::Stash;

#[derive(Debug, Default)]
pub(crate) struct Holdings {
    pub(crate) programs: Programs,
    pub(crate) stash: Stash,
}

/// The agent's copy, of the keeper it is attached to.
#[derive(Debug, Default)]
pub struct Ledger {
    pub(crate) holdings: Holdings,
    /// Of the frames.
    version: u16,
    /// Programs' score, where the agent has another.
    pub(crate) oom: Option<i32>,
    /// Of the next [`Event::Adopted`].
    signals: u64,
}

impl Ledger {
    /// To be called for every request that was queued.
    pub fn sent(&mut self, request: &Request, descriptors: &[Arc<OwnedFd>]) {
        let Holdings { programs, stash } = &mut self.holdings;
        match request {
            Request::Stash { key, bytes } => {
                // The keeper refuses by the same rule, and then the key keeps what it had in both.
                let _ = stash.put(key.clone(), bytes.clone(), descriptors.to_vec());
            }
            Request::Unstash { key } => stash.remove(key),
            Request::Release { id } => drop(programs.release(*id)),
            Request::Hello { .. }
            | Request::Prepare(_)
            | Request::Spawn(_)
            | Request::Signal { .. }
            | Request::Ready
            | Request::Stop { .. }
            | Request::Heard { .. }
            | Request::Replace
            | Request::Renew => {}
        }
    }

    /// To be called for every event that came. Takes the descriptors that are only the ledger's.
    pub fn came(&mut self, event: &Event, descriptors: &mut Vec<OwnedFd>) {
        let Holdings { programs, stash } = &mut self.holdings;
        match event {
            Event::Hello { version, .. } => self.version = *version,
            Event::OomScore { programs } => self.oom = Some(*programs),
            Event::Spawned { id, pid, pipes } => programs.add(*id, entry(*pid, *pipes, descriptors)),
            Event::Adopted { id, pid, pipes, exited } => {
                let signals = std::mem::take(&mut self.signals);
                let entry = Entry { exited: *exited, signals, ..entry(*pid, *pipes, descriptors) };
                programs.exits = programs.exits.max(exited.map_or(0, |exited| exited.order));
                programs.add(*id, entry);
            }
            Event::Exited { id, exited } => {
                programs.exits = programs.exits.max(exited.order);
                if let Some(entry) = programs.get_mut(*id) {
                    entry.exited = Some(*exited);
                }
            }
            Event::Signalled { id, count } => match programs.get_mut(*id) {
                Some(entry) => entry.signals = *count,
                None => self.signals = *count,
            },
            Event::Stashed { key, bytes } => {
                let _ = stash.put(key.clone(), bytes.clone(), duplicates(descriptors));
            }
            Event::Prepared
            | Event::PrepareFailed { .. }
            | Event::SpawnFailed { .. }
            | Event::SignalFailed { .. }
            | Event::Reaped { .. }
            | Event::Relayed { .. }
            | Event::Refused { .. }
            | Event::Succeeded { .. }
            | Event::Revived { .. }
            | Event::Renewed { .. }
            | Event::Said { .. } => {}
        }
    }

    /// The keeper has told enough to be replaced.
    pub fn is_complete(&self) -> bool {
        self.version >= REPLACEABLE
    }

    /// As the next keeper is to have it: none of the programs is its child.
    pub(crate) fn of_no_children(&mut self) -> &Holdings {
        let programs = &mut self.holdings.programs;
        let live = programs.entries().filter(|(_, entry)| entry.exited.is_none() && entry.pidfd.is_none());
        for (id, pid) in live.map(|(id, entry)| (id, entry.pid)).collect::<Vec<_>>() {
            // There was no room for its pidfd when it was spawned; it is a moment since its parent was killed.
            match (pidfd::open(pid), programs.get_mut(id)) {
                (Ok(pidfd), Some(entry)) => entry.pidfd = Some(Arc::new(pidfd)),
                _ => drop(programs.ended(id, Exit::Unknown)),
            }
        }
        &self.holdings
    }
}

fn entry(pid: i32, pipes: Pipes, descriptors: &mut Vec<OwnedFd>) -> Entry {
    let count = 1 + usize::from(pipes.stdin) + usize::from(pipes.stderr);
    let pidfd = if descriptors.len() > count { descriptors.pop().map(Arc::new) } else { None };
    Entry { pidfd, ..Entry::new(pid, pipes, duplicates(descriptors)) }
}

/// As many as there is room for.
fn duplicates(descriptors: &[OwnedFd]) -> Vec<Arc<OwnedFd>> {
    descriptors.iter().map_while(|descriptor| descriptor.try_clone().ok().map(Arc::new)).collect()
}
