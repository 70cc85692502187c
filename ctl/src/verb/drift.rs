//! `ctl drift`.

use std::process::ExitCode;

use clap::Args;
use fleetvisor_proto::fleet::StatusRequest;

use super::{in_fleet, print_json};
use crate::cli::{Cli, Form};
use crate::fleet::client::{FleetError, connect, reading};
use crate::fleet::drift::Drifts;
use crate::fleet::exit::Exit;
use crate::fleet::print;
use crate::fleet::scope::meant;

/// Lists processes that somebody on a host has stopped or started against what was asked of the fleet
///
/// A host whose [fleet] section says reconcile = enforce puts them right by itself; on others they stay as they
/// are until somebody asks again. Exits with 3 if there are any, and with 4 if a host is away. With -o json one
/// document: {"drift": [{"name", "state", "desired", "by", "since", "enforced"}], "away": [{"host", "reason"}]}.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  ctl drift\n  ctl drift 'web-*:app:*' -o json\n  ctl -l role=web drift")]
pub(crate) struct Drift {
    /// host:group:name, host:all; with a scope also group:name or group:*; all, if none is given
    names: Vec<String>,
}

impl Drift {
    pub(super) fn run(&self, cli: &Cli) -> ExitCode {
        in_fleet(cli, self.of_fleet(cli))
    }

    async fn of_fleet(&self, cli: &Cli) -> Result<Exit, FleetError> {
        let meant = meant(&cli.scope, &self.names)?;
        let targets = meant.wire_targets();
        let request = StatusRequest { scope: Some(meant.scope), targets };
        let mut fleet = connect(&cli.access).await?;
        let mut answers = fleet.status(reading(request, &cli.access)).await?.into_inner();
        let mut drifts = Drifts::default();
        while let Some(answer) = answers.message().await? {
            drifts.host(&answer);
        }
        match cli.access.form() {
            Form::Text => print::lines(&drifts.lines())?,
            Form::Json => print_json(&drifts)?,
        }
        Ok(drifts.exit())
    }
}
