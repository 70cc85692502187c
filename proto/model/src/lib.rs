//! What every program of the project agrees on: names, states, time, the INI dialect and the typed
//! configuration. No I/O and no runtime: whatever must be read from a host comes in through
//! [`config::Host`].

pub mod config;
pub mod name;
pub mod selector;
pub mod signal;
pub mod state;
pub mod status;
pub mod target;
pub mod time;
