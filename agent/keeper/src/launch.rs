//! The first steps of a daemon. In the foreground, the process that was started becomes the keeper. To daemonize,
//! it forks the keeper into a session of its own and stays as the launcher until the daemon is up or has failed.
//! Whether to daemonize, and what the agent is, its caller has decided.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{ForkResult, Pid, fork, pipe2, read, setsid};
use thiserror::Error;

use crate::execute::start_agent;
use crate::frame::Exit;
use crate::keeper::Keeper;
use crate::oom::OomScore;
use crate::programs::{exit_of, kill};
use crate::state::StateError;

/// The daemon's exit status where the keeper or an agent that was up has failed (sysexits' EX_SOFTWARE).
pub(crate) const FAILURE: i32 = 70;

pub(crate) const RELAYED: [Signal; 5] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGUSR2];

#[derive(Clone, Debug)]
pub struct Launch {
    pub daemonize: bool,
    /// Usually `/proc/self/exe`.
    pub agent_program: PathBuf,
    /// The name under which it was called first, as `std::env::args_os` gives them. [`ATTACH_OPTION`](crate::ATTACH_OPTION) is put
    /// behind the name.
    pub agent_args: Vec<OsString>,
}

#[derive(Debug, Error)]
pub(crate) enum LaunchError {
    #[error("cannot fork with {0} threads running")]
    NotAlone(usize),
    #[error("an argument has a NUL byte in it")]
    NulInArgument,
    #[error(transparent)]
    State(#[from] StateError),
    #[error("cannot {what}: {}", .errno.desc())]
    System { what: &'static str, errno: Errno },
}

/// Runs the daemon: as launcher or as keeper, never as the agent. Returns the status that the process is to exit
/// with at once: the launcher's when the daemon is up or has failed, the keeper's at the daemon's end.
///
/// To be called before there is a second thread; if there is one, nothing is started and the status says so.
pub fn run(launch: Launch) -> i32 {
    start(launch).unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "supervisord: {error}");
        FAILURE
    })
}

fn start(launch: Launch) -> Result<i32, LaunchError> {
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        return Err(LaunchError::NotAlone(threads));
    }
    // A caller that ignores its children passes that on, and then none could be waited for.
    // SAFETY: sets no handler.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }.map_err(failed("reset SIGCHLD"))?;
    // From here on, so that none is lost or ends the process, whoever is to read it in the end.
    let mask = SigSet::from_iter(RELAYED);
    mask.thread_block().map_err(failed("block signals"))?;
    let mut launcher = None;
    if launch.daemonize {
        let (read_end, write_end) = pipe2(OFlag::O_CLOEXEC).map_err(failed("create a pipe"))?;
        // SAFETY: there is one thread, so the child may do whatever its parent may.
        match unsafe { fork() }.map_err(failed("fork"))? {
            ForkResult::Parent { child } => {
                drop(write_end);
                return await_daemon(&read_end, child, &mask);
            }
            ForkResult::Child => launcher = Some(write_end),
        }
        setsid().map_err(failed("start a session"))?;
    }
    let signals = listen()?;
    let oom = OomScore::protect();
    let agent = start_agent(&launch.agent_program, &launch.agent_args, &oom)?;
    Ok(Keeper::new(signals, launch, agent, oom, launcher)?.run())
}

/// Signals that are the daemon's to act on, and its children's ends.
pub(crate) fn daemon_signals() -> SigSet {
    RELAYED.into_iter().chain([Signal::SIGCHLD]).collect()
}

pub(crate) fn listen() -> Result<SignalFd, LaunchError> {
    let signals = daemon_signals();
    signals.thread_block().map_err(failed("block signals"))?;
    signal_descriptor(&signals)
}

pub(crate) fn failed(what: &'static str) -> impl Fn(Errno) -> LaunchError {
    move |errno| LaunchError::System { what, errno }
}

fn signal_descriptor(mask: &SigSet) -> Result<SignalFd, LaunchError> {
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    SignalFd::with_flags(mask, flags).map_err(failed("create a signal descriptor"))
}

/// The launcher: 0 once the keeper has said that the daemon is up, or the status that the keeper ended with.
/// Whoever presses Ctrl-C meanwhile means the daemon.
fn await_daemon(daemon: &OwnedFd, keeper: Pid, mask: &SigSet) -> Result<i32, LaunchError> {
    let signals = signal_descriptor(mask)?;
    loop {
        let watched = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut watched = [watched(daemon.as_fd()), watched(signals.as_fd())];
        match poll(&mut watched, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(failed("wait for the daemon")(errno)),
        }
        let said = watched[0].any() == Some(true);
        while let Ok(Some(signal)) = signals.read_signal() {
            let _ = kill(keeper.as_raw(), signal.ssi_signo as i32);
        }
        if said {
            return if read(daemon, &mut [0]) == Ok(1) { Ok(0) } else { end_of(keeper) };
        }
    }
}

fn end_of(keeper: Pid) -> Result<i32, LaunchError> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    Errno::result(unsafe { libc::waitpid(keeper.as_raw(), &raw mut status, 0) })
        .map_err(failed("wait for the keeper"))?;
    Ok(match exit_of(status) {
        Exit::Code(code) => code,
        Exit::Signal { .. } | Exit::Unknown => FAILURE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_started_beside_a_second_thread() {
        let second = std::thread::spawn(std::thread::park);
        let launch = Launch { daemonize: true, agent_program: "/bin/true".into(), agent_args: Vec::new() };
        assert!(matches!(start(launch), Err(LaunchError::NotAlone(2..))));
        second.thread().unpark();
        second.join().unwrap();
    }
}
