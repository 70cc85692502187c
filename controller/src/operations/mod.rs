//! What an operator asks of many hosts at once.
//!
//! - [`run`]: start, stop and restart, followed by the caller.

pub(crate) mod run;
