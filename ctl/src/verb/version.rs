//! `ctl version`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{host, in_fleet, print_json};
use crate::cli::{Cli, Form, usage};
use crate::fleet::client::FleetError;
use crate::fleet::exit::Exit;
use crate::fleet::print;
use crate::fleet::scope::meant;

/// Prints the version of this program; with a scope flag, of each host's agent
///
/// With -o json one document: {"version", "hosts": [{"host", "version"}]}.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  ctl version\n  ctl --all-hosts version")]
pub(crate) struct Version;

#[derive(Serialize)]
struct VersionJson {
    version: &'static str,
    hosts: Vec<HostVersion>,
}

#[derive(Serialize)]
struct HostVersion {
    host: String,
    version: String,
}

impl Version {
    pub(super) fn run(&self, cli: &Cli) -> ExitCode {
        if cli.scope.is_given() {
            return in_fleet(cli, of_fleet(cli));
        }
        let given =
            [cli.only_fleet().is_err(), cli.access.controller.is_some(), cli.access.identity.is_some()];
        if given.contains(&true) || cli.access.timeout.is_some() {
            return usage("version asks nobody without --all-hosts, --hosts or -l");
        }
        let printed = match cli.access.form() {
            Form::Text => print::lines(&[fleetvisor_proto::VERSION.to_owned()]).map_err(FleetError::from),
            Form::Json => print_json(&VersionJson { version: fleetvisor_proto::VERSION, hosts: Vec::new() }),
        };
        match printed {
            Ok(()) => Exit::Done.into(),
            Err(_) => Exit::Failed.into(),
        }
    }
}

async fn of_fleet(cli: &Cli) -> Result<Exit, FleetError> {
    let hosts = host::find(cli, meant(&cli.scope, &[])?.scope).await?;
    let hosts = hosts.into_iter().map(|host| HostVersion { host: host.name, version: host.version });
    match cli.access.form() {
        Form::Text => {
            let lines: Vec<String> =
                hosts.map(|HostVersion { host, version }| format!("{host}: {version}")).collect();
            print::lines(&lines)?;
        }
        Form::Json => {
            print_json(&VersionJson { version: fleetvisor_proto::VERSION, hosts: hosts.collect() })?;
        }
    }
    Ok(Exit::Done)
}
