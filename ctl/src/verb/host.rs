//! `ctl host`: tokens to join with, and the hosts that joined.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use fleetvisor_model::target::Target;
use fleetvisor_proto::fleet::{
    self, CreateTokenRequest, ForgetHostRequest, HostRequest, LabelHostRequest, ListHostsRequest,
};
use serde::Serialize;

use super::{in_fleet, print_json, refuse_scope};
use crate::cli::{Cli, Form};
use crate::fleet::client::{FleetError, connect, reading};
use crate::fleet::exit::Exit;
use crate::fleet::hosts::{self, HostJson};
use crate::fleet::print;
use crate::fleet::scope::meant;
use crate::fleet::when;

/// Shows hosts, lets new ones join, labels, revokes and forgets them
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
    Label(Label),
    Revoke(Revoke),
    Forget(Forget),
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

/// Lists hosts: state, running of all processes, age of the last report, since when, version, labels
///
/// What is said of a host's processes is marked (old) when the host is away or has been silent for long. An agent
/// that claimed a host's name lately and was refused is told of on stderr. With -o json one document: {"hosts":
/// [{"host", "state", "since", "labels", "operator_labels", "version", "address", "report_age_ms", "stale",
/// "running", "total", "desired_revision", "observed_revision", "bundles", "certificate_expires", "refused"}]};
/// "state" is online, away, never-seen or revoked; "bundles" is [{"bundle",
/// "desired", "revision", "failed_revision", "reason"}]; times are RFC 3339; "refused" is null or {"address", "age_ms", "reason"}.
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

/// Sets and removes labels of a host
///
/// They go before labels of the same key in the host's own configuration, and last until they are removed. A
/// label that the host itself has cannot be removed, only overridden. With -o json the host, as host show has it.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  ctl host label web-01 role=db rack=7\n  ctl host label web-01 rack-")]
struct Label {
    /// Its name
    host: String,
    /// key=value to set a label, key- to remove one
    #[arg(required = true, value_name = "LABEL")]
    labels: Vec<String>,
}

/// Makes a host's certificates void at once, also on the link that it has
///
/// Its programs go on. It is refused until it enrols anew, with a token made by `ctl host token --host HOST`.
/// With -o json the host, as host show has it.
#[derive(Args, Debug)]
#[command(after_help = "Example: ctl host revoke web-01")]
struct Revoke {
    /// Its name
    host: String,
}

/// Deletes all that is known of a host: its labels, what it should run, its name
#[derive(Args, Debug)]
#[command(after_help = "Example: ctl host forget web-01")]
struct Forget {
    /// Its name
    host: String,
    /// Also while it is online; its agent is refused from then on
    #[arg(long)]
    force: bool,
}

#[derive(Serialize)]
struct ForgottenJson<'a> {
    forgotten: &'a str,
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
            What::Label(label) => in_fleet(cli, label.of_fleet(cli)),
            What::Revoke(revoke) => in_fleet(cli, revoke.of_fleet(cli)),
            What::Forget(forget) => in_fleet(cli, forget.of_fleet(cli)),
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
        Form::Text => {
            print::lines(&hosts::list(&found))?;
            for line in hosts::refusals(&found) {
                eprintln!("ctl: {line}");
            }
        }
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

impl Label {
    async fn of_fleet(&self, cli: &Cli) -> Result<Exit, FleetError> {
        refuse_scope(&cli.scope)?;
        let mut request = LabelHostRequest { host: self.host.clone(), ..LabelHostRequest::default() };
        for label in &self.labels {
            if let Some((key, value)) = label.split_once('=') {
                request.set.insert(key.to_owned(), value.to_owned());
            } else if let Some(key) = label.strip_suffix('-').filter(|key| !key.is_empty()) {
                request.remove.push(key.to_owned());
            } else {
                return Err(FleetError::Usage(format!("{label} is neither key=value nor key-")));
            }
        }
        let mut fleet = connect(&cli.access).await?;
        let host = fleet.label_host(reading(request, &cli.access)).await?.into_inner();
        match cli.access.form() {
            Form::Text => print::lines(&[format!("{}: labels {}", host.name, hosts::labels(&host))])?,
            Form::Json => print_json(&HostJson::from(&host))?,
        }
        Ok(Exit::Done)
    }
}

impl Revoke {
    async fn of_fleet(&self, cli: &Cli) -> Result<Exit, FleetError> {
        refuse_scope(&cli.scope)?;
        let request = HostRequest { host: self.host.clone() };
        let mut fleet = connect(&cli.access).await?;
        let host = fleet.revoke_host(reading(request, &cli.access)).await?.into_inner();
        match cli.access.form() {
            Form::Text => print::lines(&[format!("{}: revoked", host.name)])?,
            Form::Json => print_json(&HostJson::from(&host))?,
        }
        Ok(Exit::Done)
    }
}

impl Forget {
    async fn of_fleet(&self, cli: &Cli) -> Result<Exit, FleetError> {
        refuse_scope(&cli.scope)?;
        let request = ForgetHostRequest { host: self.host.clone(), force: self.force };
        let mut fleet = connect(&cli.access).await?;
        fleet.forget_host(reading(request, &cli.access)).await?;
        match cli.access.form() {
            Form::Text => print::lines(&[format!("{}: forgotten", self.host)])?,
            Form::Json => print_json(&ForgottenJson { forgotten: &self.host })?,
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
