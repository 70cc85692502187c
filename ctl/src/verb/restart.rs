//! `ctl restart`.

use std::process::ExitCode;

use clap::Args;
use fleetvisor_proto::fleet;

use super::perform::perform;
use crate::cli::Cli;

/// Stops processes and starts them again
///
/// In a fleet a host that is away is named and left out.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  ctl restart web\n  ctl --all-hosts restart web:")]
pub(crate) struct Restart {
    /// name, group:name, group:*, host:group:name, host:all or all; any part may be a glob in a fleet
    names: Vec<String>,
}

impl Restart {
    pub(super) fn run(&self, cli: &Cli) -> ExitCode {
        perform(cli, fleet::Verb::Restart, "restart", &self.names)
    }
}
