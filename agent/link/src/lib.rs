//! This host's side of a fleet. Without a controller everything on the host goes on.
//!
//! - [`daemon`]: what it needs of the daemon that it speaks for; the daemon and the simulator are the two there are.
//! - `membership`: enrols once, and keeps one link up for as long as the daemon runs.
//! - `link`: one link, from its Hello to its loss. `backoff`: when to dial again.
//! - `command`: carries out what is asked, at most once; `journal`: what that takes. `wishes`: what is asked to last,
//!   `enforce`: and made so again.
//! - `bundles`: the configuration that the fleet gives this host, on its disk. `config`: comes to have it.
//! - `events`: what has happened, so that nothing is missed between two links.
//! - `logs`: logs for readers far away.
//! - `enrol`, `renew`: the host's certificate.

mod backoff;
mod bundles;
mod command;
mod config;
mod daemon;
mod enforce;
mod enrol;
mod events;
mod journal;
mod link;
mod logs;
mod membership;
mod renew;
mod wishes;

pub use bundles::{Kept, KeptError};
pub use command::refused;
pub use daemon::{Accepted, Begun, Daemon, Gone, Own, Tried, Updated, Watched};
pub use membership::run;
pub use wishes::{Wishes, WishesError};
