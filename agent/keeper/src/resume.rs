//! The first steps of a keeper that goes on with what another one had: with an agent and children of its own, where
//! it was that other one before, or with programs that have lost their parent.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{getppid, write};

use crate::execute::start_agent;
use crate::keeper::{Agent, Keeper};
use crate::launch::{FAILURE, Launch, LaunchError, failed, listen};
use crate::oom::OomScore;
use crate::programs::kill;
use crate::state::{Origin, State, inherited};

/// In milliseconds, for an agent that has begun a keeper to leave.
const DEPARTURE: u16 = 10_000;

/// Runs a keeper in the place of another one, whose state is behind the descriptor. `args` are the agent's, the
/// name first. Returns as [`run`](crate::run).
pub fn resume(descriptor: RawFd, args: Vec<OsString>) -> i32 {
    go_on(descriptor, args).unwrap_or_else(|error| say(&error))
}

/// The exit status says whether [`resume`] would understand the state.
pub fn check(descriptor: RawFd) -> i32 {
    State::read(descriptor).map_or_else(|error| say(&error.into()), |_| 0)
}

fn say(error: &LaunchError) -> i32 {
    let _ = writeln!(io::stderr(), "supervisord: cannot take over from the keeper before: {error}");
    FAILURE
}

fn go_on(descriptor: RawFd, agent_args: Vec<OsString>) -> Result<i32, LaunchError> {
    let signals = listen()?;
    let state = State::read(descriptor)?;
    let agent_program = PathBuf::from("/proc/self/exe");
    let (origin, holdings) = state.take()?;
    let keeper = match origin {
        Origin::Agent { keeper_pid, socket, files, oom } => {
            if let Some(files) = files {
                let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed("read a limit"))?;
                setrlimit(Resource::RLIMIT_NOFILE, files.min(hard), hard).map_err(failed("set a limit"))?;
            }
            let oom = OomScore::protected(oom);
            await_departure(&inherited(socket)?)?;
            let agent = start_agent(&agent_program, &agent_args, &oom)?;
            let launch = Launch { daemonize: false, agent_program, agent_args };
            let mut keeper = Keeper::new(signals, launch, agent, oom, None)?;
            keeper.succeed_to(keeper_pid, holdings)?;
            keeper
        }
        Origin::Keeper { agent, socket, link } => {
            let agent = Agent { pid: agent, socket: inherited(socket)? };
            let launch = Launch { daemonize: link.daemonize, agent_program, agent_args };
            let oom = OomScore::protected(link.oom);
            let mut keeper = Keeper::new(signals, launch, agent, oom, None)?;
            keeper.go_on_as(link, holdings)?;
            keeper
        }
    };
    Ok(keeper.run())
}

/// The agent that has begun this keeper is told that it may go, and is gone when this returns.
fn await_departure(agent: &OwnedFd) -> Result<(), LaunchError> {
    let pid = getppid();
    write(agent, &[0]).map_err(failed("answer the agent"))?;
    let mut watched = [PollFd::new(agent.as_fd(), PollFlags::POLLIN)];
    while poll(&mut watched, DEPARTURE) != Ok(1) {
        // Still its child, so the number is still its own.
        if getppid() == pid {
            let _ = kill(pid.as_raw(), libc::SIGKILL);
        }
    }
    Ok(())
}
