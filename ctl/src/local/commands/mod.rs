//! What each verb of `supervisorctl` does: the calls it makes, what it prints for every outcome, and the exit
//! status it leaves.

pub(super) mod config;
pub(super) mod daemon;
pub(super) mod fg;
pub(super) mod logs;
pub(super) mod name;
pub(super) mod run;
pub(super) mod status;
pub(super) mod upgrade;
