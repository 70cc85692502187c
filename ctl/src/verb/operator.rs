//! `ctl operator`: who may use the fleet, and the identities that say so. A private key is made here, and stays here.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use fleetvisor_model::selector::Selector;
use fleetvisor_proto::fleet::{
    self, AddOperatorRequest, ListOperatorsRequest, OperatorState, RenewOperatorRequest,
    RevokeOperatorRequest,
};
use fleetvisor_proto::identity::{CHAIN_FILE, Identity, KEY_FILE, signing_request};
use fleetvisor_proto::principal::{Principal, check_operator_name};
use serde::Serialize;

use super::{in_fleet, print_json, refuse_scope};
use crate::cli::{Cli, Form};
use crate::fleet::client::{FleetError, connect, reading};
use crate::fleet::exit::Exit;
use crate::fleet::print;
use crate::fleet::settings::Settings;
use crate::fleet::when;
use crate::table::aligned;

/// Adds, lists, renews and revokes operators
#[derive(Args, Debug)]
#[command(after_help = "Example: ctl operator add alice --role viewer --out ~/alice")]
pub(crate) struct Operator {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    Add(Add),
    List(List),
    Renew(Renew),
    Revoke(Revoke),
}

/// Makes an operator, and its identity in a new directory
///
/// Hand the directory over to whom it is for: whoever holds it is that operator. With -o json one document:
/// {"name", "identity", "expires"}.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  ctl operator add alice --role viewer --out ./alice\n  ctl operator add bob --role operator --only role=web,dc!=eu --out ./bob"
)]
struct Add {
    /// Letters, digits, '.', '_' and '-'
    name: String,
    /// What it may do; each role includes those before it
    #[arg(long, value_enum)]
    role: RoleName,
    /// The hosts that it may see and use, by label: role=web,dc!=eu
    #[arg(long, value_name = "LABELS")]
    only: Option<String>,
    /// Directory for ca.crt, tls.crt and tls.key
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How long the certificate is valid
    #[arg(long, value_name = "TIME", default_value = "365d", value_parser = humantime::parse_duration)]
    ttl: Duration,
}

/// Lists operators: name, role, state, end of the latest certificate, the hosts it is limited to
///
/// With -o json one document: {"operators": [{"name", "role", "only", "state", "made", "by", "expires",
/// "revoked"}]}; "state" is active, expired or revoked; times are RFC 3339 or null.
#[derive(Args, Debug)]
#[command(after_help = "Example: ctl operator list")]
struct List;

/// Renews an identity before it ends: one's own, or by an admin anybody's
///
/// Without a name it is the identity that ctl uses, renewed in place over the same key; with --out it is another
/// one, with a key of its own. With -o json one document: {"name", "identity", "expires"}.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  ctl operator renew\n  ctl operator renew alice --out ./alice")]
struct Renew {
    /// Whose; one's own if not given
    #[arg(requires = "out")]
    name: Option<String>,
    /// Directory for the identity; if it holds one of this operator, that is renewed
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How long the certificate is valid
    #[arg(long, value_name = "TIME", default_value = "365d", value_parser = humantime::parse_duration)]
    ttl: Duration,
}

/// Makes all certificates of an operator void at once, also on connections that it has
#[derive(Args, Debug)]
#[command(after_help = "Example: ctl operator revoke alice")]
struct Revoke {
    /// Its name
    name: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleName {
    /// Sees
    Viewer,
    /// Starts, stops and restarts, too
    Operator,
    /// Lets hosts and operators in and out, too
    Admin,
}

#[derive(Debug, Serialize)]
struct IdentityJson {
    name: String,
    /// The directory.
    identity: PathBuf,
    expires: String,
}

#[derive(Debug, Serialize)]
struct OperatorsJson {
    operators: Vec<OperatorJson>,
}

#[derive(Debug, Serialize)]
struct OperatorJson {
    name: String,
    role: String,
    /// `null` for the whole fleet.
    only: Option<String>,
    state: &'static str,
    made: String,
    by: String,
    expires: String,
    revoked: Option<String>,
}

#[derive(Debug, Serialize)]
struct RevokedJson<'a> {
    revoked: &'a str,
}

impl Operator {
    pub(super) fn run(&self, cli: &Cli) -> ExitCode {
        match &self.what {
            What::Add(add) => in_fleet(cli, add.of_fleet(cli)),
            What::List(_) => in_fleet(cli, list(cli)),
            What::Renew(renew) => in_fleet(cli, renew.of_fleet(cli)),
            What::Revoke(revoke) => in_fleet(cli, revoke.of_fleet(cli)),
        }
    }
}

impl RoleName {
    fn word(self) -> &'static str {
        match self {
            RoleName::Viewer => "viewer",
            RoleName::Operator => "operator",
            RoleName::Admin => "admin",
        }
    }
}

impl Add {
    async fn of_fleet(&self, cli: &Cli) -> Result<Exit, FleetError> {
        refuse_scope(&cli.scope)?;
        check_operator_name(&self.name).map_err(|error| FleetError::Usage(error.to_string()))?;
        let only = self.only.as_deref().unwrap_or_default();
        let selector =
            Selector::parse(only).map_err(|error| FleetError::Usage(format!("--only: {error}")))?;
        // An unset shell variable must not mean the whole fleet.
        if self.only.is_some() && selector.is_empty() {
            return Err(FleetError::Usage("--only: an empty selector".to_owned()));
        }
        refuse_identity_in(&self.out)?;
        let made = signing_request()?;
        let request = AddOperatorRequest {
            name: self.name.clone(),
            role: self.role.word().to_owned(),
            only: selector.to_string(),
            ttl_seconds: seconds(self.ttl)?,
            csr: made.csr,
        };
        let mut fleet = connect(&cli.access).await?;
        let certificate = fleet.add_operator(reading(request, &cli.access)).await?.into_inner();
        keep(cli, certificate, made.key, &self.out)
    }
}

impl Renew {
    async fn of_fleet(&self, cli: &Cli) -> Result<Exit, FleetError> {
        refuse_scope(&cli.scope)?;
        let own = Settings::read(&cli.access)?.identity;
        let dir = self.out.as_ref().unwrap_or(&own);
        let name = match &self.name {
            Some(name) => name.clone(),
            None => operator_of(&Identity::load(&own)?)?,
        };
        let there = dir.join(CHAIN_FILE).exists() || dir.join(KEY_FILE).exists();
        let (csr, key) = if there {
            let present = Identity::load(dir)?;
            let holder = operator_of(&present)?;
            if holder != name {
                let dir = dir.display();
                return Err(FleetError::Usage(format!(
                    "{dir} holds the identity of {holder}, not of {name}"
                )));
            }
            (present.renewal_request()?, present.key().to_owned())
        } else {
            let made = signing_request()?;
            (made.csr, made.key)
        };
        let name = self.name.clone().unwrap_or_default();
        let request = RenewOperatorRequest { name, ttl_seconds: seconds(self.ttl)?, csr };
        let mut fleet = connect(&cli.access).await?;
        let certificate = fleet.renew_operator(reading(request, &cli.access)).await?.into_inner();
        keep(cli, certificate, key, dir)
    }
}

async fn list(cli: &Cli) -> Result<Exit, FleetError> {
    refuse_scope(&cli.scope)?;
    let mut fleet = connect(&cli.access).await?;
    let request = reading(ListOperatorsRequest {}, &cli.access);
    let operators = fleet.list_operators(request).await?.into_inner().operators;
    match cli.access.form() {
        Form::Text => print::lines(&lines(&operators))?,
        Form::Json => print_json(&OperatorsJson { operators: operators.iter().map(json).collect() })?,
    }
    Ok(Exit::Done)
}

impl Revoke {
    async fn of_fleet(&self, cli: &Cli) -> Result<Exit, FleetError> {
        refuse_scope(&cli.scope)?;
        let mut fleet = connect(&cli.access).await?;
        let request = RevokeOperatorRequest { name: self.name.clone() };
        fleet.revoke_operator(reading(request, &cli.access)).await?;
        match cli.access.form() {
            Form::Text => print::lines(&[format!("{}: revoked", self.name)])?,
            Form::Json => print_json(&RevokedJson { revoked: &self.name })?,
        }
        Ok(Exit::Done)
    }
}

/// Saves what came back, and says where.
fn keep(cli: &Cli, certificate: fleet::Certificate, key: String, dir: &Path) -> Result<Exit, FleetError> {
    let identity = Identity::received(certificate, key)?;
    let name = operator_of(&identity)?;
    identity.save(dir)?;
    let expires = identity.validity().1.0;
    match cli.access.form() {
        Form::Text => {
            let line = format!("{name}: identity in {}, valid until {}", dir.display(), when::utc(expires));
            print::lines(&[line])?;
        }
        Form::Json => {
            print_json(&IdentityJson { name, identity: dir.to_owned(), expires: when::rfc3339(expires) })?;
        }
    }
    Ok(Exit::Done)
}

fn refuse_identity_in(dir: &Path) -> Result<(), FleetError> {
    if dir.join(CHAIN_FILE).exists() || dir.join(KEY_FILE).exists() {
        let dir = dir.display();
        return Err(FleetError::Usage(format!(
            "{dir} holds an identity already, and nothing is overwritten"
        )));
    }
    Ok(())
}

fn operator_of(identity: &Identity) -> Result<String, FleetError> {
    match identity.principal()? {
        Principal::Operator { name, .. } => Ok(name),
        other => Err(FleetError::Usage(format!("this identity is that of {other}, not of an operator"))),
    }
}

fn seconds(ttl: Duration) -> Result<u64, FleetError> {
    match ttl.as_secs() {
        0 => Err(FleetError::Usage("--ttl is less than a second".to_owned())),
        seconds => Ok(seconds),
    }
}

fn state_word(state: OperatorState) -> &'static str {
    match state {
        OperatorState::Active => "active",
        OperatorState::Expired => "expired",
        OperatorState::Revoked => "revoked",
        OperatorState::Unspecified => "unknown",
    }
}

fn lines(operators: &[fleet::Operator]) -> Vec<String> {
    let header = ["OPERATOR", "ROLE", "STATE", "VALID UNTIL", "ONLY"].map(str::to_owned);
    let row = |operator: &fleet::Operator| {
        [
            operator.name.clone(),
            operator.role.clone(),
            state_word(operator.state()).to_owned(),
            when::utc(operator.expires),
            operator.only.clone(),
        ]
    };
    aligned(std::iter::once(header).chain(operators.iter().map(row)).collect())
}

fn json(operator: &fleet::Operator) -> OperatorJson {
    OperatorJson {
        name: operator.name.clone(),
        role: operator.role.clone(),
        only: Some(operator.only.clone()).filter(|only| !only.is_empty()),
        state: state_word(operator.state()),
        made: when::rfc3339(operator.made),
        by: operator.by.clone(),
        expires: when::rfc3339(operator.expires),
        revoked: Some(operator.revoked).filter(|at| *at > 0).map(when::rfc3339),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bob() -> fleet::Operator {
        fleet::Operator {
            name: "bob".to_owned(),
            role: "operator".to_owned(),
            only: "role=web".to_owned(),
            state: OperatorState::Active.into(),
            made: 1_795_258_500_000_000,
            by: "operator admin".to_owned(),
            expires: 1_795_258_500_000_000,
            revoked: 0,
        }
    }

    #[test]
    fn operators_are_a_table_or_a_document() {
        assert_eq!(
            lines(&[bob()]),
            [
                "OPERATOR  ROLE      STATE   VALID UNTIL              ONLY",
                "bob       operator  active  2026-11-21 10:55:00 UTC  role=web",
            ]
        );
        let json = serde_json::to_value(json(&bob())).unwrap();
        assert_eq!((&json["only"], &json["revoked"]), (&"role=web".into(), &serde_json::Value::Null));
    }

    #[test]
    fn nothing_is_written_over_an_identity() {
        let dir = tempfile::tempdir().unwrap();
        assert!(refuse_identity_in(dir.path()).is_ok());
        std::fs::write(dir.path().join(KEY_FILE), "x").unwrap();
        assert!(matches!(refuse_identity_in(dir.path()), Err(FleetError::Usage(_))));
    }
}
