//! `ctl host`: tokens to join with, and the hosts that joined.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use fleetvisor_model::target::Target;
use fleetvisor_proto::fleet::{self, CreateTokenRequest, ListHostsRequest};
use serde::Serialize;

use super::{in_fleet, print_json, refuse_scope};
use crate::cli::{Cli, Form};
use crate::fleet::client::{FleetError, connect, reading};
use crate::fleet::exit::Exit;
use crate::fleet::hosts::{self, HostJson};
use crate::fleet::print;
use crate::fleet::scope::meant;
use crate::fleet::when;

/// Shows hosts, and lets new ones join
#[derive(Args, Debug)]
#[command(after_help = "Example: ctl host list")]
pub(crate) struct Host {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    Token(Token),
    List(List),
    Show(Show),
}

/// Prints a token that lets one host join, and nothing else
#[derive(Args, Debug)]
#[command(after_help = "Example: ctl host token --ttl 1h --host web-01 > token")]
struct Token {
    /// How long it can be used: 30m, 1h
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// The one host that may use it; any, if not given
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
}

/// Lists hosts: name, state, running of all processes, since when, labels
///
/// With -o json one document: {"hosts": [{"host", "state", "since", "labels", "version", "address",
/// "report_age_ms", "running", "total", "desired_revision", "observed_revision", "bundles": [{"bundle",
/// "desired", "revision", "failed_revision", "reason"}]}]}.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  ctl host list\n  ctl host list -l role=web -o json")]
struct List;

/// Shows what is known of a host
///
/// With -o json one document, as one of "hosts" of host list.
#[derive(Args, Debug)]
#[command(after_help = "Example: ctl host show web-01")]
struct Show {
    /// Its name
    host: String,
}

#[derive(Serialize)]
struct TokenJson {
    token: String,
    /// RFC 3339
    expires: String,
}

#[derive(Serialize)]
struct HostsJson {
    hosts: Vec<HostJson>,
}

impl Host {
    pub(super) fn run(&self, cli: &Cli) -> ExitCode {
        match &self.what {
            What::Token(token) => in_fleet(cli, token.of_fleet(cli)),
            What::List(_) => in_fleet(cli, list(cli)),
            What::Show(show) => in_fleet(cli, show.of_fleet(cli)),
        }
    }
}

impl Token {
    async fn of_fleet(&self, cli: &Cli) -> Result<Exit, FleetError> {
        refuse_scope(&cli.scope)?;
        if self.ttl.as_secs() == 0 {
            return Err(FleetError::Usage("--ttl is less than a second".to_owned()));
        }
        let request = CreateTokenRequest {
            ttl_seconds: self.ttl.as_secs(),
            host: self.host.clone().unwrap_or_default(),
        };
        let mut fleet = connect(&cli.access).await?;
        let answer = fleet.create_token(reading(request, &cli.access)).await?.into_inner();
        match cli.access.form() {
            Form::Text => print::lines(&[answer.token])?,
            Form::Json => {
                print_json(&TokenJson { token: answer.token, expires: when::rfc3339(answer.expires) })?;
            }
        }
        Ok(Exit::Done)
    }
}

async fn list(cli: &Cli) -> Result<Exit, FleetError> {
    let found = find(cli, meant(&cli.scope, &[])?.scope).await?;
    match cli.access.form() {
        Form::Text => print::lines(&hosts::list(&found))?,
        Form::Json => print_json(&HostsJson { hosts: found.iter().map(HostJson::from).collect() })?,
    }
    Ok(Exit::Done)
}

impl Show {
    async fn of_fleet(&self, cli: &Cli) -> Result<Exit, FleetError> {
        refuse_scope(&cli.scope)?;
        Target::from_parts(&self.host, "", "").map_err(|error| FleetError::Usage(error.to_string()))?;
        let scope = fleet::Scope { hosts: vec![self.host.clone()], labels: String::new() };
        let found = find(cli, scope).await?;
        let Some(host) = found.iter().find(|host| host.name == self.host) else {
            eprintln!("ctl: no such host: {}", self.host);
            return Ok(Exit::Failed);
        };
        match cli.access.form() {
            Form::Text => print::lines(&hosts::show(host))?,
            Form::Json => print_json(&HostJson::from(host))?,
        }
        Ok(Exit::Done)
    }
}

/// Hosts of a scope, by name.
pub(super) async fn find(cli: &Cli, scope: fleet::Scope) -> Result<Vec<fleet::Host>, FleetError> {
    let mut fleet = connect(&cli.access).await?;
    let request = ListHostsRequest { scope: Some(scope) };
    let mut found = fleet.list_hosts(reading(request, &cli.access)).await?.into_inner().hosts;
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}
