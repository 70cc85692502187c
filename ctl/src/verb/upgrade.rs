//! `ctl upgrade`.

use std::process::ExitCode;

use clap::Args;
use fleetvisor_proto::fleet;

use super::perform::Command;
use super::rollout::Rollout;
use crate::cli::Cli;

/// Replaces supervisord by the release that is installed now; programs go on
///
/// The new release reads the configuration and the state first; if it cannot, the running one goes on and says why. On
/// a host, install it in the place of the old one before. In a fleet one host follows the other, and the first failure
/// ends it, unless --parallel, --batch or --max-failures say otherwise.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  ctl upgrade\n  ctl --all-hosts upgrade\n  ctl -l role=web upgrade --canary 1 --batch 25% --pause 1m\n  ctl --hosts 'db-*' upgrade --dry-run"
)]
pub(crate) struct Upgrade {
    #[command(flatten)]
    rollout: Rollout,
}

impl Upgrade {
    pub(super) fn run(&self, cli: &Cli) -> ExitCode {
        let verb = fleet::Verb::Upgrade;
        Command { verb, signal: "", names: &[], rollout: &self.rollout }.perform(cli)
    }
}
