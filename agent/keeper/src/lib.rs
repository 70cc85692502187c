//! The keeper: the tiny parent that a daemon starts as. It forks the agent and every program, reaps them, and
//! holds the ends of their pipes without reading, so that nothing of a program depends on the agent's life.
//! It decides nothing about programs: when to start, stop or restart one is the agent's business.
//!
//! - [`frame`]: what keeper and agent say to each other, and its bytes.
//! - `socket`: frames and their descriptors over a non-blocking unix socket; both sides use it.
//! - [`client`]: the agent's side of the link.
//! - [`launch`]: the first steps of the daemon: launcher, keeper, agent.
//! - `keeper`: the loop: signals, reaping, requests; and what happens once the agent has gone.
//! - `programs`: the table of children and their exits. `spawn`: from a request to a running program.
//! - `prepare`: user, limits, directory and umask of the keeper, which its children inherit.
//! - `relay`: signals on their way to the agent. `succession`: when the next agent follows one that has died;
//!   `executable`: which program it is.
//! - `stash`: what an agent leaves for its successor. `oom`: the keeper is the last to go for memory.
//! - `memory`: what the agent gives back.

pub mod client;
pub mod frame;
pub mod launch;

mod executable;
mod keeper;
mod memory;
mod oom;
mod prepare;
mod programs;
mod relay;
mod socket;
mod spawn;
mod stash;
mod succession;

pub use client::{Flushed, KeeperLink, LinkError, LinkReader, LinkWriter, ProgramEnds};
pub use frame::{Event, Request};
pub use launch::{ATTACH_OPTION, Launch, run};
pub use memory::give_back_freed_memory;

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

    #[test]
    fn errno_names_are_those_of_python() {
        let names = [libc::ENOENT, libc::EAGAIN, libc::EDEADLK, libc::EOPNOTSUPP, 4095].map(errno_name);
        assert_eq!(names, ["ENOENT", "EAGAIN", "EDEADLOCK", "ENOTSUP", "4095"]);
    }
}
