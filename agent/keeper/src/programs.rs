//! The table of programs: which id is which process, the ends of its pipes, and its exit until that is released.
//! A program is signalled by id and only until its end is known, so a reused pid is never hit: the number of a
//! child can't be another's before it is reaped, and a program that is no child is signalled by its pidfd.
//! The agent keeps a copy of the table ([`crate::holdings`]).

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};

use crate::frame::{Exit, Exited, Pipes};
use crate::pidfd;

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) pid: i32,
    pub(crate) pipes: Pipes,
    pub(crate) ends: Vec<Arc<OwnedFd>>,
    pub(crate) exited: Option<Exited>,
    /// That it was sent, or could not be sent.
    pub(crate) signals: u64,
    /// Where it is no child of this process.
    pub(crate) pidfd: Option<Arc<OwnedFd>>,
}

impl Entry {
    pub(crate) fn new(pid: i32, pipes: Pipes, ends: Vec<Arc<OwnedFd>>) -> Entry {
        Entry { pid, pipes, ends, exited: None, signals: 0, pidfd: None }
    }

    /// As they go with [`crate::frame::Event::Spawned`]. Of a child, the pidfd is opened for this.
    pub(crate) fn descriptors(&self) -> Vec<Arc<OwnedFd>> {
        let pidfd = match &self.pidfd {
            _ if self.exited.is_some() => None,
            Some(pidfd) => Some(Arc::clone(pidfd)),
            None => pidfd::open(self.pid).ok().map(Arc::new),
        };
        self.ends.iter().cloned().chain(pidfd).collect()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Programs {
    entries: BTreeMap<u64, Entry>,
    /// Those that are to be reaped.
    children: HashMap<i32, u64>,
    /// Told so far.
    pub(crate) exits: u64,
}

impl Programs {
    pub(crate) fn get(&self, id: u64) -> Option<&Entry> {
        self.entries.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut Entry> {
        self.entries.get_mut(&id)
    }

    /// How many have not ended.
    pub(crate) fn live(&self) -> usize {
        self.entries.values().filter(|entry| entry.exited.is_none()).count()
    }

    pub(crate) fn entries(&self) -> impl ExactSizeIterator<Item = (u64, &Entry)> {
        self.entries.iter().map(|(id, entry)| (*id, entry))
    }

    pub(crate) fn add(&mut self, id: u64, entry: Entry) {
        if entry.exited.is_none() && entry.pidfd.is_none() {
            self.children.insert(entry.pid, id);
        }
        self.entries.insert(id, entry);
    }

    /// Notes that a child was reaped; its id and exit, if it is a program.
    pub(crate) fn reaped(&mut self, pid: i32, exit: Exit) -> Option<(u64, Exited)> {
        let id = self.children.remove(&pid)?;
        self.ended(id, exit)
    }

    /// Notes the end of a program; `None` where it was known.
    pub(crate) fn ended(&mut self, id: u64, exit: Exit) -> Option<(u64, Exited)> {
        let entry = self.entries.get_mut(&id).filter(|entry| entry.exited.is_none())?;
        self.exits += 1;
        let exited = Exited { exit, order: self.exits, at_ms: monotonic_ms() };
        entry.exited = Some(exited);
        Some((id, exited))
    }

    /// ESRCH for a program that has ended, also if others of its group live on: the number may be another's.
    pub(crate) fn signal(&mut self, id: u64, signo: i32, to_group: bool) -> Result<(), Errno> {
        let entry = self.entries.get_mut(&id).ok_or(Errno::ESRCH)?;
        entry.signals += 1;
        if entry.exited.is_some() {
            return Err(Errno::ESRCH);
        }
        match &entry.pidfd {
            Some(pidfd) if to_group => pidfd::signal(pidfd, 0).and_then(|()| kill(-entry.pid, signo)),
            Some(pidfd) => pidfd::signal(pidfd, signo),
            None => kill(if to_group { -entry.pid } else { entry.pid }, signo),
        }
    }

    pub(crate) fn signal_all_groups(&mut self, signo: i32) {
        let live = self.entries.iter().filter(|(_, entry)| entry.exited.is_none());
        for id in live.map(|(id, _)| *id).collect::<Vec<_>>() {
            // One that has changed its group, or is just becoming something else, must not spare the others.
            let _ = self.signal(id, signo, true).or_else(|_| self.signal(id, signo, false));
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
