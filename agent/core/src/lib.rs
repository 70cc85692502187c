//! Every decision of the agent, pure: inputs come in with the time, effects go out.
//!
//! Read [`process`] first: the life of one process as a table of states and events. [`supervisor`] owns all
//! groups and answers requests; [`shutdown`] is the order in which everything ends; [`pool`] tells event
//! listeners; [`decisions`] joins them and [`takeover`] is what a successor makes of a journal of its steps.
//! Nothing here reads a clock, a file or a descriptor.

pub mod ansi;
pub mod capture;
pub mod command;
pub mod decisions;
pub mod effect;
pub mod event;
pub mod exit;
mod listener;
mod pairs;
pub mod pool;
pub mod process;
pub mod request;
mod shutdown;
pub mod supervisor;
pub mod takeover;
mod tickets;
mod verbs;

#[cfg(test)]
mod world;
