//! `ctl op`: operations that run on many hosts, whoever began them.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use fleetvisor_proto::fleet::operation_part::Part;
use fleetvisor_proto::fleet::{ListOperationsRequest, Operation, OperationRequest};
use serde::Serialize;

use super::perform::follow;
use super::{in_fleet, print_json};
use crate::cli::{Cli, Form};
use crate::fleet::client::{FleetError, connect, reading};
use crate::fleet::exit::Exit;
use crate::fleet::operations::{self, OperationJson, ShownJson};
use crate::fleet::print;
use crate::fleet::progress::Run;

/// Shows, follows, cancels and resumes operations of the fleet
#[derive(Args, Debug)]
#[command(after_help = "Example: ctl op list")]
pub(crate) struct Op {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    List(List),
    Show(Show),
    Watch(Watch),
    Cancel(Cancel),
    Resume(Resume),
}

/// Lists operations: id, state, hosts that are done of all, when, who, what
///
/// With -o json one document: {"operations": [{"id", "verb", "signal", "by", "made", "expires", "ended",
/// "state", "reason", "scope", "targets", "bundle", "revision", "revert", "reverted_by", "strategy",
/// "timeout_seconds", "hosts", "ok", "failed", "under_way"}]}. The latest is the last.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  ctl op list\n  ctl op list -n 100 -o json")]
struct List {
    /// The latest so many; 0 for all
    #[arg(short = 'n', long, default_value_t = 20)]
    limit: u32,
}

/// Shows an operation with what became of every host and process
///
/// With -o json one document: as one of "operations" of op list, with "results": [{"host", "batch", "result",
/// "reason", "ended", "processes": [{"name", "outcome", "text"}]}].
#[derive(Args, Debug)]
#[command(after_help = "Example: ctl op show 8144323f8966")]
struct Show {
    /// Its id, or the beginning of it
    id: String,
}

/// Follows an operation from its beginning, until nothing more happens before a host returns
///
/// Output and exit status are those of the command that began it.
#[derive(Args, Debug)]
#[command(after_help = "Example: ctl op watch 8144323f8966")]
struct Watch {
    /// Its id, or the beginning of it
    id: String,
}

/// Lets no further host begin; those that have begun finish
#[derive(Args, Debug)]
#[command(after_help = "Example: ctl op cancel 8144323f8966")]
struct Cancel {
    /// Its id, or the beginning of it
    id: String,
}

/// Goes on with an operation that was cancelled, or that has stopped by itself
///
/// Hosts that have failed are not tried again, and count no longer.
#[derive(Args, Debug)]
#[command(after_help = "Example: ctl op resume 8144323f8966")]
struct Resume {
    /// Its id, or the beginning of it
    id: String,
}

#[derive(Serialize)]
struct OperationsJson {
    operations: Vec<OperationJson>,
}

impl Op {
    pub(super) fn run(&self, cli: &Cli) -> ExitCode {
        in_fleet(cli, async {
            if cli.scope.is_given() {
                return Err(FleetError::Usage("op takes no --all-hosts, --hosts or -l".to_owned()));
            }
            match &self.what {
                What::List(list) => list.of_fleet(cli).await,
                What::Show(show) => show.of_fleet(cli).await,
                What::Watch(watch) => watch.of_fleet(cli).await,
                What::Cancel(Cancel { id }) => {
                    let request = reading(request(id), &cli.access);
                    let changed = connect(&cli.access).await?.cancel_operation(request).await?;
                    print_changed(cli, &changed.into_inner())
                }
                What::Resume(Resume { id }) => {
                    let request = reading(request(id), &cli.access);
                    let changed = connect(&cli.access).await?.resume_operation(request).await?;
                    print_changed(cli, &changed.into_inner())
                }
            }
        })
    }
}

impl List {
    async fn of_fleet(&self, cli: &Cli) -> Result<Exit, FleetError> {
        let request = reading(ListOperationsRequest { limit: self.limit }, &cli.access);
        let found = connect(&cli.access).await?.list_operations(request).await?.into_inner().operations;
        match cli.access.form() {
            Form::Text => print::lines(&operations::list(&found))?,
            Form::Json => {
                print_json(&OperationsJson { operations: found.iter().map(OperationJson::from).collect() })?;
            }
        }
        Ok(Exit::Done)
    }
}

impl Show {
    async fn of_fleet(&self, cli: &Cli) -> Result<Exit, FleetError> {
        let mut fleet = connect(&cli.access).await?;
        let mut parts = fleet.show_operation(reading(request(&self.id), &cli.access)).await?.into_inner();
        let mut operation = Operation::default();
        let mut hosts = Vec::new();
        while let Some(part) = parts.message().await? {
            match part.part {
                Some(Part::Operation(it)) => operation = it,
                Some(Part::Host(host)) => hosts.push(host),
                None => {}
            }
        }
        match cli.access.form() {
            Form::Text => print::lines(&operations::show(&operation, &hosts))?,
            Form::Json => print_json(&ShownJson::new(&operation, &hosts))?,
        }
        Ok(Exit::Done)
    }
}

impl Watch {
    async fn of_fleet(&self, cli: &Cli) -> Result<Exit, FleetError> {
        let mut fleet = connect(&cli.access).await?;
        let events = fleet.watch_operation(request(&self.id)).await?.into_inner();
        follow(cli, Run::default(), events).await
    }
}

fn print_changed(cli: &Cli, operation: &Operation) -> Result<Exit, FleetError> {
    match cli.access.form() {
        Form::Text => print::lines(&operations::list(std::slice::from_ref(operation)))?,
        Form::Json => print_json(&OperationJson::from(operation))?,
    }
    Ok(Exit::Done)
}

fn request(id: &str) -> OperationRequest {
    OperationRequest { id: id.to_owned() }
}
