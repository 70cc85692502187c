//! The agent's way out of a keeper's death: it begins another one with all that it knows the programs by, and
//! leaves, and the new keeper begins an agent that takes up from there. That an agent can be succeeded at any
//! moment is what this rests on.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::read;
use thiserror::Error;

use crate::execute::{RESUME_OPTION, leave_open};
use crate::holdings::Ledger;
use crate::launch::daemon_signals;
use crate::state::{Origin, State};

/// For the new keeper to read its state.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Error)]
pub enum ReviveError {
    #[error("the keeper was of a release that does not tell enough to be replaced")]
    Incomplete,
    #[error("cannot begin another keeper: {0}")]
    System(#[from] io::Error),
    #[error("the new keeper did not read its state")]
    Silent,
}

/// What a keeper that was killed leaves to the one that comes after, other than [`Ledger`].
#[derive(Clone, Copy, Debug)]
pub struct Former {
    pub keeper_pid: i32,
    /// The soft RLIMIT_NOFILE that programs get.
    pub files: Option<u64>,
}

/// Begins a keeper with the agent's arguments (its name first). When this comes back, the agent is to end at once:
/// another one is started when it has. After an error everything is as it was.
pub fn revive(ledger: &mut Ledger, former: Former, args: &[OsString]) -> Result<(), ReviveError> {
    if !ledger.is_complete() {
        return Err(ReviveError::Incomplete);
    }
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
        .map_err(io::Error::from)?;
    let Former { keeper_pid, files } = former;
    let from = Origin::Agent { keeper_pid, socket: theirs.as_raw_fd(), files, oom: ledger.oom };
    let state = State::new(from, ledger.of_no_children());
    let file = state.write()?;
    let mut inherited = state.descriptors();
    inherited.push(file.as_raw_fd());
    let mut command = Command::new("/proc/self/exe");
    if let Some((name, args)) = args.split_first() {
        command.arg0(name).arg(format!("{RESUME_OPTION}{}", file.as_raw_fd())).args(args);
    }
    let signals = daemon_signals();
    let prepare = move || {
        leave_open(&inherited, true)?;
        // None that comes before the new keeper listens is lost.
        Ok(signals.thread_block()?)
    };
    // SAFETY: between fork and exec it makes system calls only, and allocates nothing.
    unsafe { command.pre_exec(prepare) };
    let mut child = command.spawn()?;
    drop(theirs);
    if is_answered(&ours) {
        // Closed by the end of this process, which the keeper waits for.
        std::mem::forget(ours);
        return Ok(());
    }
    let _ = child.kill();
    let _ = child.wait();
    Err(ReviveError::Silent)
}

fn is_answered(socket: &OwnedFd) -> bool {
    let limit = PollTimeout::try_from(LIMIT).unwrap_or(PollTimeout::MAX);
    loop {
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], limit) {
            Err(Errno::EINTR) => {}
            Ok(0) | Err(_) => return false,
            Ok(_) => return read(socket, &mut [0]) == Ok(1),
        }
    }
}
