//! The verbs of `ctl`, one file each; those that know this host only share `here`.

mod audit;
mod completion;
mod config;
mod drift;
mod events;
mod here;
mod host;
mod man;
mod op;
mod operator;
mod perform;
mod restart;
mod rollout;
mod schema;
mod signal;
mod start;
mod status;
mod stop;
mod tail;
mod update;
mod upgrade;
mod version;

use std::process::ExitCode;

use clap::Subcommand;

use crate::cli::{Cli, Scope, usage};
use crate::fleet::client::FleetError;
use crate::fleet::exit::Exit;

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    Status(status::Status),
    Start(start::Start),
    Stop(stop::Stop),
    Restart(restart::Restart),
    Signal(signal::Signal),
    Update(update::Update),
    Upgrade(upgrade::Upgrade),
    Op(op::Op),
    Drift(drift::Drift),
    Tail(tail::Tail),
    Maintail(tail::Maintail),
    #[command(flatten)]
    Here(here::Here),
    Host(host::Host),
    Config(config::Config),
    Operator(operator::Operator),
    Audit(audit::Audit),
    Events(events::Events),
    Version(version::Version),
    Completion(completion::Completion),
    Man(man::Man),
    Schema(schema::Schema),
}

impl Verb {
    pub(crate) fn run(&self, cli: &Cli) -> ExitCode {
        match self {
            Verb::Status(status) => status.run(cli),
            Verb::Start(start) => start.run(cli),
            Verb::Stop(stop) => stop.run(cli),
            Verb::Restart(restart) => restart.run(cli),
            Verb::Signal(signal) => signal.run(cli),
            Verb::Update(update) => update.run(cli),
            Verb::Upgrade(upgrade) => upgrade.run(cli),
            Verb::Op(op) => op.run(cli),
            Verb::Drift(drift) => drift.run(cli),
            Verb::Tail(tail) => tail.run(cli),
            Verb::Maintail(maintail) => maintail.run(cli),
            Verb::Here(here) => here.run(cli),
            Verb::Host(host) => host.run(cli),
            Verb::Config(config) => config.run(cli),
            Verb::Operator(operator) => operator.run(cli),
            Verb::Audit(audit) => audit.run(cli),
            Verb::Events(events) => events.run(cli),
            Verb::Version(version) => version.run(cli),
            Verb::Completion(completion) => completion.run(cli),
            Verb::Man(man) => man.run(cli),
            Verb::Schema(schema) => schema.run(cli),
        }
    }
}

/// Does what a verb does in the fleet. Ctrl-C, unless the verb has words for it, ends it quietly: reading
/// leaves nothing behind.
fn in_fleet<F>(cli: &Cli, work: F) -> ExitCode
where
    F: Future<Output = Result<Exit, FleetError>>,
{
    if let Err(message) = cli.only_fleet() {
        return usage(&message);
    }
    let worked = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(async {
            tokio::select! {
                biased;
                worked = work => worked,
                _ = tokio::signal::ctrl_c() => Ok(Exit::Interrupted),
            }
        }),
        Err(error) => Err(FleetError::Runtime(error)),
    };
    match worked {
        Ok(exit) => exit.into(),
        Err(error) => {
            if !matches!(error, FleetError::Output(_)) {
                eprintln!("ctl: {error}");
            }
            error.exit().into()
        }
    }
}

/// One JSON document on stdout.
fn print_json(document: &impl serde::Serialize) -> Result<(), FleetError> {
    let text = serde_json::to_string_pretty(document).map_err(std::io::Error::from)?;
    Ok(crate::fleet::print::lines(&[text])?)
}

/// For verbs that mean the fleet as a whole, or a host that they are given.
fn refuse_scope(scope: &Scope) -> Result<(), FleetError> {
    if scope.is_given() {
        return Err(FleetError::Usage("this command takes no --all-hosts, --hosts or -l".to_owned()));
    }
    Ok(())
}
