//! `ctl start`.

use std::process::ExitCode;

use clap::Args;
use fleetvisor_proto::fleet;

use super::perform::Command;
use super::rollout::Rollout;
use crate::cli::Cli;

/// Starts processes
///
/// In a fleet the wish is remembered: a host that is away starts them when it returns.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  ctl start web\n  ctl --hosts 'db-*' start all")]
pub(crate) struct Start {
    /// name, group:name, group:*, host:group:name, host:all or all; any part may be a glob in a fleet
    names: Vec<String>,
    #[command(flatten)]
    rollout: Rollout,
}

impl Start {
    pub(super) fn run(&self, cli: &Cli) -> ExitCode {
        Command { verb: fleet::Verb::Start, signal: "", names: &self.names, rollout: &self.rollout }
            .perform(cli)
    }
}
