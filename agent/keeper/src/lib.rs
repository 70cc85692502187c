//! The keeper: the tiny parent that a daemon starts as. It forks the agent and every program, reaps them, and
//! holds the ends of their pipes without reading, so that nothing of a program depends on the agent's life.
//! It decides nothing about programs: when to start, stop or restart one is the agent's business.
//!
//! - [`frame`]: what keeper and agent say to each other, and its bytes.
//! - `socket`: frames and their descriptors over a non-blocking unix socket; both sides use it.
//! - [`client`]: the agent's side of the link.
//! - [`launch`]: the first steps of the daemon: launcher, keeper. `execute`: agents and other keepers. `resume`: the
//!   first steps of a keeper that goes on with what another one had.
//! - `keeper`: the loop: signals, reaping, requests; and what happens once the agent has gone. `renewal`: how it
//!   becomes another program.
//! - `programs`: the table of programs and their exits. `spawn`: from a request to a running program. `pidfd`: of
//!   those that are no children.
//! - `prepare`: user, limits, directory and umask of the keeper, which its children inherit.
//! - `relay`: signals on their way to the agent. `succession`: when the next agent follows one that has died;
//!   `executable`: which program it is.
//! - `stash`: what an agent leaves for its successor. `oom`: the keeper is the last to go for memory.
//! - `memory`: what the agent gives back.
//! - [`holdings`]: what outlives both agents and keepers, and the agent's copy of it. [`revive`]: what an agent does
//!   whose keeper was killed. `state`: what the next keeper reads.

pub mod client;
pub mod frame;
pub mod holdings;
pub mod launch;
pub mod revive;

mod executable;
mod execute;
mod keeper;
mod memory;
mod oom;
mod pidfd;
mod prepare;
mod programs;
mod relay;
mod resume;
mod socket;
mod spawn;
mod stash;
mod state;
mod succession;

pub use client::{Flushed, KeeperLink, LinkError, LinkReader, LinkWriter, ProgramEnds};
pub use execute::{ATTACH_OPTION, CHECK_OPTION, RESUME_OPTION};
pub use frame::{Event, Request};
pub use launch::{Launch, run};
pub use memory::give_back_freed_memory;
pub use resume::{check, resume};

/// The name of an errno as Python's `errno.errorcode` has it (`ENOENT`), or its number where it has none.
pub fn errno_name(errno: i32) -> String {
    use nix::errno::Errno;
    match Errno::from_raw(errno) {
        Errno::UnknownErrno => errno.to_string(),
        Errno::EDEADLK => "EDEADLOCK".to_owned(),
        Errno::EOPNOTSUPP => "ENOTSUP".to_owned(),
        known => format!("{known:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::errno_name;

    /// What the keeper runs once it is up; the tables and the frames it has in common with the agent.
    #[test]
    fn the_keeper_is_small() {
        let files = [
            include_str!("keeper.rs"),
            include_str!("keeper/requests.rs"),
            include_str!("spawn.rs"),
            include_str!("execute.rs"),
            include_str!("executable.rs"),
            include_str!("prepare.rs"),
            include_str!("relay.rs"),
            include_str!("succession.rs"),
            include_str!("oom.rs"),
        ];
        let code = |file: &str| {
            let lines = file.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
            lines.filter(|line| !line.trim().is_empty() && !line.trim().starts_with("//")).count()
        };
        let lines: usize = files.into_iter().map(code).sum();
        assert!(lines < 1000, "{lines} lines of code");
    }

    #[test]
    fn errno_names_are_those_of_python() {
        let names = [libc::ENOENT, libc::EAGAIN, libc::EDEADLK, libc::EOPNOTSUPP, 4095].map(errno_name);
        assert_eq!(names, ["ENOENT", "EAGAIN", "EDEADLOCK", "ENOTSUP", "4095"]);
    }
}
