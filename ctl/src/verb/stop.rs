//! `ctl stop`.

use std::process::ExitCode;

use clap::Args;
use fleetvisor_proto::fleet;

use super::perform::Command;
use super::rollout::Rollout;
use crate::cli::Cli;

/// Stops processes
///
/// In a fleet the wish is remembered: a host that is away stops them when it returns.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  ctl stop web\n  ctl -l role=web stop app:")]
pub(crate) struct Stop {
    /// name, group:name, group:*, host:group:name, host:all or all; any part may be a glob in a fleet
    names: Vec<String>,
    #[command(flatten)]
    rollout: Rollout,
}

impl Stop {
    pub(super) fn run(&self, cli: &Cli) -> ExitCode {
        Command { verb: fleet::Verb::Stop, signal: "", names: &self.names, rollout: &self.rollout }
            .perform(cli)
    }
}
