//! A keeper's state on its way into the next one, which is executed: in a file in memory, with descriptors named by
//! the numbers under which they are inherited. Written by a keeper that executes another in its own place, and by
//! an agent whose keeper was killed.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::frame::{Exited, Pipes, VERSIONS, decode};
use crate::holdings::Holdings;
use crate::programs::Entry;
use crate::relay::Relay;

/// Of what is written; the only one that is read, for now.
const FORMAT: u16 = 1;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) from: Origin,
    programs: Vec<Program>,
    exits: u64,
    stash: Vec<(String, Vec<u8>, Vec<RawFd>)>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Origin {
    /// An agent whose keeper was killed. It leaves once it has got a byte on the socket; the next agent comes then.
    Agent {
        keeper_pid: i32,
        socket: RawFd,
        /// The soft RLIMIT_NOFILE of programs.
        files: Option<u64>,
        oom: Option<i32>,
    },
    /// A keeper that has become another program. The agent and the programs are its children still.
    Keeper { agent: i32, socket: RawFd, link: Link },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Link {
    /// Of the frames, as agreed with the agent.
    pub(crate) version: u16,
    pub(crate) daemonize: bool,
    /// Programs' score for an end by want of memory.
    pub(crate) oom: Option<i32>,
    pub(crate) relay: Relay,
    pub(crate) messages: Option<RawFd>,
    pub(crate) stop: Option<i32>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Program {
    id: u64,
    pid: i32,
    pipes: Pipes,
    ends: Vec<RawFd>,
    exited: Option<Exited>,
    signals: u64,
    pidfd: Option<RawFd>,
}

#[derive(Debug, Error)]
pub(crate) enum StateError {
    #[error("cannot read the state: {0}")]
    Io(#[from] io::Error),
    #[error("the state is of format {0}, and this is {FORMAT}")]
    Format(u16),
    #[error("the agent speaks version {0} of the frames, and this keeper {VERSIONS:?}")]
    Version(u16),
    #[error("the state: {0}")]
    Content(#[from] crate::frame::FrameError),
    #[error("descriptor {descriptor} was not inherited: {}", .errno.desc())]
    Missing { descriptor: RawFd, errno: Errno },
}

impl State {
    pub(crate) fn new(from: Origin, holdings: &Holdings) -> State {
        let numbers = |descriptors: &[Arc<OwnedFd>]| descriptors.iter().map(|it| it.as_raw_fd()).collect();
        let programs = holdings.programs.entries().map(|(id, entry)| {
            let Entry { pid, pipes, ends, exited, signals, pidfd } = entry;
            Program {
                id,
                pid: *pid,
                pipes: *pipes,
                ends: numbers(ends),
                exited: *exited,
                signals: *signals,
                pidfd: pidfd.as_ref().map(|it| it.as_raw_fd()),
            }
        });
        let stash = holdings.stash.entries();
        State {
            from,
            programs: programs.collect(),
            exits: holdings.programs.exits,
            stash: stash.map(|(key, it)| (key.clone(), it.bytes.clone(), numbers(&it.descriptors))).collect(),
        }
    }

    /// Those that the next keeper is to inherit, but for the file of [`write`](Self::write).
    pub(crate) fn descriptors(&self) -> Vec<RawFd> {
        let link = match &self.from {
            Origin::Agent { socket, .. } => [Some(*socket), None],
            Origin::Keeper { socket, link, .. } => [Some(*socket), link.messages],
        };
        let programs = self.programs.iter().flat_map(|it| it.ends.iter().chain(&it.pidfd));
        programs
            .chain(self.stash.iter().flat_map(|(.., descriptors)| descriptors))
            .copied()
            .chain(link.into_iter().flatten())
            .collect()
    }

    pub(crate) fn write(&self) -> io::Result<OwnedFd> {
        let mut file = File::from(memfd_create("keeper", MFdFlags::MFD_CLOEXEC)?);
        let bytes = postcard::to_extend(self, FORMAT.to_le_bytes().to_vec()).map_err(io::Error::other)?;
        file.write_all(&bytes)?;
        Ok(file.into())
    }

    pub(crate) fn read(descriptor: RawFd) -> Result<State, StateError> {
        let mut file = File::from(inherited(descriptor)?);
        file.seek(SeekFrom::Start(0))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let (format, state) = bytes.split_first_chunk::<2>().ok_or(StateError::Format(0))?;
        match u16::from_le_bytes(*format) {
            FORMAT => {}
            other => return Err(StateError::Format(other)),
        }
        let state: State = decode(state)?;
        match state.from {
            Origin::Keeper { link: Link { version, .. }, .. } if !VERSIONS.contains(&version) => {
                Err(StateError::Version(version))
            }
            Origin::Keeper { .. } | Origin::Agent { .. } => Ok(state),
        }
    }

    /// Takes what was inherited, but for what the origin names.
    pub(crate) fn take(self) -> Result<(Origin, Holdings), StateError> {
        let all = |numbers: Vec<RawFd>| {
            numbers.into_iter().map(|it| inherited(it).map(Arc::new)).collect::<Result<Vec<_>, _>>()
        };
        let mut holdings = Holdings::default();
        for Program { id, pid, pipes, ends, exited, signals, pidfd } in self.programs {
            let pidfd = pidfd.map(inherited).transpose()?.map(Arc::new);
            holdings.programs.add(id, Entry { exited, signals, pidfd, ..Entry::new(pid, pipes, all(ends)?) });
        }
        holdings.programs.exits = self.exits;
        for (key, bytes, descriptors) in self.stash {
            // It was within the limits before.
            let _ = holdings.stash.put(key, bytes, all(descriptors)?);
        }
        Ok((self.from, holdings))
    }
}

/// A descriptor that whoever executed this process has left for it. Each is to be taken once.
pub(crate) fn inherited(descriptor: RawFd) -> Result<OwnedFd, StateError> {
    // SAFETY: only to ask whether it is open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor.max(0)) };
    fcntl(borrowed.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
        .map_err(|errno| StateError::Missing { descriptor, errno })?;
    // SAFETY: it is open, was inherited for this purpose, and nothing else in the process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
