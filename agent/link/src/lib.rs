//! This host's side of a fleet. Without a controller everything on the host goes on.
//!
//! - [`daemon`]: what it needs of the daemon that it speaks for; the daemon and the simulator are the two there are.
//! - `membership`: enrols once, and keeps one link up for as long as the daemon runs.
//! - `link`: one link, from its Hello to its loss. `backoff`: when to dial again.
//! - `command`: carries out what is asked, at most once. `wishes`: what is asked to last.
//! - `enrol`, `renew`: the host's certificate.

mod backoff;
mod command;
mod daemon;
mod enrol;
mod link;
mod membership;
mod renew;
mod wishes;

pub use daemon::{Daemon, Gone, Watched};
pub use membership::run;
pub use wishes::{Wishes, WishesError};
