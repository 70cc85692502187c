//! Bundles: configuration that the fleet gives its hosts. What a push brings is read with the agent's own parser
//! before it is kept; who has which revision follows from what is kept.
//!
//! - [`record`]: what the store keeps of a bundle, and the limits.
//! - [`check`]: whether a content is good on the hosts that would get it.
//! - [`plan`]: what a change comes to on a host. [`diff`]: what it comes to in the files, without secrets.
//! - [`catalog`]: all bundles in memory, and which of them a host should have. [`reach`]: how that changes while a
//!   revision is on its way.
//! - [`told`]: what one host was told, and what it says it has.
//! - [`change`]: push, rollback, delete. [`view`]: list, show, history, pull.
//! - [`service`]: the calls.

pub(crate) mod catalog;
mod change;
mod check;
mod diff;
mod plan;
mod reach;
pub(crate) mod record;
pub(crate) mod service;
pub(crate) mod told;
mod view;

pub(crate) use catalog::Bundles;
pub(crate) use change::{RevertError, revert};
pub(crate) use reach::Later;
