//! `ctl update`.

use std::process::ExitCode;

use clap::Args;
use fleetvisor_proto::fleet;

use super::perform::Command;
use super::rollout::Rollout;
use crate::cli::Cli;

/// Reads the configuration again and carries out what has changed
///
/// In a fleet every host reads its own; a host whose configuration is refused says why and changes nothing.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  ctl update\n  ctl update web\n  ctl --all-hosts update\n  ctl -l role=web update web: --batch 1"
)]
pub(crate) struct Update {
    /// Groups, host:group: in a fleet; all, if none is given
    names: Vec<String>,
    #[command(flatten)]
    rollout: Rollout,
}

impl Update {
    pub(super) fn run(&self, cli: &Cli) -> ExitCode {
        let verb = fleet::Verb::Update;
        Command { verb, signal: "", names: &self.names, rollout: &self.rollout }.perform(cli)
    }
}
