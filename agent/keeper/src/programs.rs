//! The keeper's table of programs: which id is which child, the ends of its pipes, and its exit until that is
//! released. A child is signalled by id and only until it is reaped, so a reused pid is never hit.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};

use crate::frame::{Exit, Exited, Pipes};
use crate::spawn::Spawned;

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) pid: i32,
    pub(crate) pipes: Pipes,
    pub(crate) ends: Vec<Arc<OwnedFd>>,
    pub(crate) exited: Option<Exited>,
    /// That it was sent, or could not be sent.
    pub(crate) signals: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Programs {
    entries: BTreeMap<u64, Entry>,
    /// Those that are not reaped.
    live: HashMap<i32, u64>,
    exits: u64,
}

impl Programs {
    pub(crate) fn contains(&self, id: u64) -> bool {
        self.entries.contains_key(&id)
    }

    pub(crate) fn live(&self) -> usize {
        self.live.len()
    }

    pub(crate) fn entries(&self) -> impl ExactSizeIterator<Item = (u64, &Entry)> {
        self.entries.iter().map(|(id, entry)| (*id, entry))
    }

    pub(crate) fn add(&mut self, id: u64, spawned: Spawned) {
        let Spawned { pid, pipes, ends } = spawned;
        self.live.insert(pid.as_raw(), id);
        self.entries.insert(id, Entry { pid: pid.as_raw(), pipes, ends, exited: None, signals: 0 });
    }

    /// Notes that a child was reaped; its id and exit, if it is a program.
    pub(crate) fn reaped(&mut self, pid: i32, exit: Exit) -> Option<(u64, Exited)> {
        let id = self.live.remove(&pid)?;
        self.exits += 1;
        let exited = Exited { exit, order: self.exits, at_ms: monotonic_ms() };
        self.entries.get_mut(&id)?.exited = Some(exited);
        Some((id, exited))
    }

    /// ESRCH for a program that was reaped, also if others of its group live on: the number may be another's.
    pub(crate) fn signal(&mut self, id: u64, signo: i32, to_group: bool) -> Result<(), Errno> {
        let entry = self.entries.get_mut(&id).ok_or(Errno::ESRCH)?;
        entry.signals += 1;
        if entry.exited.is_some() {
            return Err(Errno::ESRCH);
        }
        kill(if to_group { -entry.pid } else { entry.pid }, signo)
    }

    pub(crate) fn signal_all_groups(&self, signo: i32) {
        for pid in self.live.keys() {
            // One that has changed its group, or is just becoming something else, must not spare the others.
            let _ = kill(-pid, signo).or_else(|_| kill(*pid, signo));
        }
    }

    pub(crate) fn release(&mut self, id: u64) -> Result<(), &'static str> {
        match self.entries.get(&id) {
            None => Err("no such program"),
            Some(entry) if entry.exited.is_none() => Err("the program has not exited"),
            Some(_) => {
                self.entries.remove(&id);
                Ok(())
            }
        }
    }
}

/// nix's `kill` has no real-time signals.
pub(crate) fn kill(pid: i32, signo: i32) -> Result<(), Errno> {
    // SAFETY: takes numbers and touches no memory.
    Errno::result(unsafe { libc::kill(pid, signo) }).map(drop)
}

/// The next child that has ended. (nix has no name for the status of one that a real-time signal ended.)
pub(crate) fn reap() -> Option<(i32, Exit)> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    let exit = exit_of(status);
    (pid > 0).then_some((pid, exit))
}

pub(crate) fn exit_of(status: i32) -> Exit {
    if libc::WIFSIGNALED(status) {
        Exit::Signal { signo: libc::WTERMSIG(status), core_dumped: libc::WCOREDUMP(status) }
    } else {
        Exit::Code(libc::WEXITSTATUS(status))
    }
}

fn monotonic_ms() -> u64 {
    let since = clock_gettime(ClockId::CLOCK_MONOTONIC).map(std::time::Duration::from).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
