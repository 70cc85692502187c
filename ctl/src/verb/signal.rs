//! `ctl signal`.

use std::process::ExitCode;

use clap::Args;
use fleetvisor_proto::fleet;

use super::perform::Command;
use super::rollout::Rollout;
use crate::cli::Cli;

/// Sends a signal to processes
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  ctl signal HUP nginx\n  ctl --all-hosts signal HUP nginx")]
pub(crate) struct Signal {
    /// HUP, SIGHUP or 1
    signal: String,
    /// name, group:name, group:*, host:group:name, host:all or all; any part may be a glob in a fleet
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    rollout: Rollout,
}

impl Signal {
    pub(super) fn run(&self, cli: &Cli) -> ExitCode {
        let (verb, signal) = (fleet::Verb::Signal, self.signal.as_str());
        Command { verb, signal, names: &self.names, rollout: &self.rollout }.perform(cli)
    }
}
