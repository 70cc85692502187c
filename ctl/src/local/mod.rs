//! `supervisorctl`: Supervisor's client for one host, and what `ctl` does when it means this host.
//!
//! [`options`] reads the command line and the configuration, [`session`] carries out one command after
//! another with what [`commands`] has, [`shell`] reads them from a person or a pipe. [`server`] speaks to
//! supervisord.

mod commands;
mod endpoint;
mod exit;
mod failure;
mod getopt;
mod host;
mod input;
mod manual;
mod options;
mod output;
mod password;
mod repr;
mod server;
mod session;
mod shell;
mod verb;

pub use manual::manual_page;
pub use options::{Leave, Options};
pub use shell::{main, run};
