//! `ctl restart`.

use std::process::ExitCode;

use clap::Args;
use fleetvisor_proto::fleet;

use super::perform::Command;
use super::rollout::Rollout;
use crate::cli::Cli;

/// Stops processes and starts them again
///
/// In a fleet a host that is away is named, and restarts them if it returns before the operation expires. The
/// operation goes on without its caller: ctl op list, show, watch, cancel, resume.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  ctl restart web\n  ctl --all-hosts restart web:\n  ctl --all-hosts restart web: --canary 1 --batch 25% --pause 10s --max-failures 1\n  ctl -l role=web restart app: --parallel 10 --dry-run"
)]
pub(crate) struct Restart {
    /// name, group:name, group:*, host:group:name, host:all or all; any part may be a glob in a fleet
    names: Vec<String>,
    #[command(flatten)]
    rollout: Rollout,
}

impl Restart {
    pub(super) fn run(&self, cli: &Cli) -> ExitCode {
        Command { verb: fleet::Verb::Restart, signal: "", names: &self.names, rollout: &self.rollout }
            .perform(cli)
    }
}
