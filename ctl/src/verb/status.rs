//! `ctl status`.

use std::process::ExitCode;

use clap::Args;
use fleetvisor_proto::fleet::StatusRequest;

use super::{here, in_fleet, print_json};
use crate::cli::{Cli, Form};
use crate::fleet::client::{FleetError, connect, reading};
use crate::fleet::exit::Exit;
use crate::fleet::print::{self, Colour};
use crate::fleet::scope::meant;
use crate::fleet::statuses::Statuses;

/// Shows processes with their state
///
/// With -o json one document: {"hosts": [what host list has of a host, and "processes": [{"name", "group",
/// "process", "state", "description", "pid", "uptime_seconds", "exitstatus", "spawnerr", "drift": null |
/// {"desired", "by", "since"}}]}], "unmatched": [target]}. Where a host's "stale" is true, as of one that is
/// away, "processes" is what was last known. For this host alone it is {"processes": [...]} with the same members,
/// and names that fit nothing are said on stderr.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  ctl status\n  ctl --all-hosts status\n  ctl status 'web-*:app:*'")]
pub(crate) struct Status {
    /// name, group:name, group:*, host:group:name, host:all or all; any part may be a glob in a fleet
    names: Vec<String>,
}

impl Status {
    pub(super) fn run(&self, cli: &Cli) -> ExitCode {
        if cli.means_fleet(&self.names) {
            in_fleet(cli, self.of_fleet(cli))
        } else {
            here::run(cli, [&["status".to_owned()], self.names.as_slice()].concat(), true)
        }
    }

    async fn of_fleet(&self, cli: &Cli) -> Result<Exit, FleetError> {
        let meant = meant(&cli.scope, &self.names)?;
        let text = cli.access.form() == Form::Text;
        let colour = if text { Colour::of_stdout() } else { Colour::Plain };
        let targets = meant.wire_targets();
        let mut statuses = Statuses::new(meant.targets, colour);
        let request = StatusRequest { scope: Some(meant.scope), targets };
        let mut fleet = connect(&cli.access).await?;
        let mut answers = fleet.status(reading(request, &cli.access)).await?.into_inner();
        while let Some(answer) = answers.message().await? {
            let lines = statuses.host(&answer);
            if text {
                print::lines(&lines)?;
            }
        }
        let (lines, exit) = statuses.finish();
        if !statuses.has_hosts() {
            eprintln!("ctl: no host fits");
        }
        if text {
            print::lines(&lines)?;
        } else {
            print_json(&statuses.into_json())?;
        }
        Ok(exit)
    }
}
