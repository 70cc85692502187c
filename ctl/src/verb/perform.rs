//! What `start`, `stop`, `restart`, `signal`, `update` and `upgrade` have in common: the call, and results as they come.

use std::process::ExitCode;

use fleetvisor_proto::fleet::fleet_client::FleetClient;
use fleetvisor_proto::fleet::{self, RunEvent, RunRequest};
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::rollout::Rollout;
use super::{here, in_fleet, print_json};
use crate::cli::{Cli, Form, usage};
use crate::fleet::client::{FleetError, connect};
use crate::fleet::exit::Exit;
use crate::fleet::plan;
use crate::fleet::print::{self, Colour, Screen};
use crate::fleet::progress::{Run, Say};
use crate::fleet::scope::meant;

/// A command as it was typed.
pub(super) struct Command<'a> {
    pub(super) verb: fleet::Verb,
    /// Of a signal.
    pub(super) signal: &'a str,
    pub(super) names: &'a [String],
    pub(super) rollout: &'a Rollout,
}

impl Command<'_> {
    /// On this host, or in the fleet.
    pub(super) fn perform(&self, cli: &Cli) -> ExitCode {
        if cli.means_fleet(self.names) {
            return in_fleet(cli, self.on_fleet(cli));
        }
        if let Some(flag) = self.rollout.given() {
            return usage(&format!(
                "{flag} is for a fleet; add --all-hosts, --hosts or -l, or a host in front of the name"
            ));
        }
        let signal = (self.verb == fleet::Verb::Signal).then(|| self.signal.to_owned());
        let words = std::iter::once(self.verb.word().to_owned()).chain(signal);
        here::run(cli, words.chain(self.names.iter().cloned()).collect(), false)
    }

    fn request(&self, cli: &Cli) -> Result<RunRequest, FleetError> {
        if self.names.is_empty() && !self.verb.is_of_host() {
            let word = self.verb.word();
            return Err(FleetError::Usage(format!("{word} requires a process name; all for every process")));
        }
        let meant = meant(&cli.scope, self.names)?;
        let seconds = cli.access.timeout.map_or(0, |timeout| timeout.as_secs().max(1));
        Ok(RunRequest {
            targets: meant.wire_targets(),
            scope: Some(meant.scope),
            verb: self.verb.into(),
            timeout_seconds: u32::try_from(seconds)
                .map_err(|_| FleetError::Usage("--timeout is too long".to_owned()))?,
            signal: self.signal.to_owned(),
            strategy: Some(self.rollout.strategy()?),
            expire_seconds: self.rollout.expire_seconds(),
        })
    }

    async fn on_fleet(&self, cli: &Cli) -> Result<Exit, FleetError> {
        let request = self.request(cli)?;
        let mut fleet = connect(&cli.access).await?;
        if self.rollout.dry_run {
            return self.print_plan(cli, &mut fleet, request).await;
        }
        // From here on Ctrl-C leaves an operation that may have begun.
        let mut run = Run::default();
        let answer = tokio::select! {
            answer = fleet.run(request) => answer?.into_inner(),
            _ = tokio::signal::ctrl_c() => {
                eprintln!("ctl: {}", run.farewell());
                return Ok(Exit::Interrupted);
            }
        };
        if self.rollout.no_wait() {
            leave(cli, &mut run, answer).await
        } else {
            follow(cli, run, answer).await
        }
    }

    async fn print_plan(
        &self,
        cli: &Cli,
        fleet: &mut FleetClient<Channel>,
        request: RunRequest,
    ) -> Result<Exit, FleetError> {
        let found = fleet.plan(request).await?.into_inner();
        match cli.access.form() {
            Form::Text => print::lines(&plan::lines(self.verb, &found))?,
            Form::Json => print_json(&plan::PlanJson::from(&found))?,
        }
        Ok(plan::exit(&found))
    }
}

/// Reads the beginning of an operation, and says how to find it again.
async fn leave(cli: &Cli, run: &mut Run, mut events: Streaming<RunEvent>) -> Result<Exit, FleetError> {
    let event = events.message().await?.and_then(|event| event.event);
    let unmatched = match &event {
        Some(fleet::run_event::Event::Started(started)) => started.unmatched.clone(),
        _ => Vec::new(),
    };
    for event in event.into_iter().chain(unmatched.into_iter().map(fleet::run_event::Event::Unmatched)) {
        match run.event(event) {
            Some(Say::Result(line)) => eprintln!("ctl: {line}"),
            Some(Say::Remark(remark)) => eprintln!("ctl: {remark}"),
            Some(Say::Outcomes(_)) | None => {}
        }
    }
    let begun = run.is_begun();
    if !begun {
        eprintln!("ctl: no host fits");
    }
    match cli.access.form() {
        Form::Text if begun => print::lines(&[run.id().to_owned()])?,
        Form::Text => {}
        Form::Json => print_json(&serde_json::json!({ "id": run.id() }))?,
    }
    Ok(if begun && !run.has_unmatched() { Exit::Done } else { Exit::Failed })
}

/// Prints results as they come, until there is nothing more to hear. With `-o json` the document comes at the end.
pub(super) async fn follow(cli: &Cli, mut run: Run, events: Streaming<RunEvent>) -> Result<Exit, FleetError> {
    let text = cli.access.form() == Form::Text;
    if let Heard::Interrupted = hear(text, &mut run, events).await? {
        return Ok(Exit::Interrupted);
    }
    let lines = run.end();
    let exit = run.exit();
    if run.is_empty() {
        eprintln!("ctl: no host fits");
    }
    if text {
        print::lines(&lines)?;
    } else {
        print_json(&run.into_json())?;
    }
    Ok(exit)
}

/// How listening has ended.
pub(super) enum Heard {
    All,
    Interrupted,
}

/// Prints results and remarks as they come, and gathers them in `run`. Ctrl-C leaves the operation alone.
pub(super) async fn hear(
    text: bool,
    run: &mut Run,
    events: impl Stream<Item = Result<RunEvent, Status>>,
) -> Result<Heard, FleetError> {
    let mut screen = Screen::new(if text { Colour::of_stdout() } else { Colour::Plain });
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted, events);
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = &mut interrupted => {
                screen.remark(&run.farewell());
                return Ok(Heard::Interrupted);
            }
        };
        let event = match event {
            Some(Ok(event)) => event,
            None => break,
            Some(Err(status)) => {
                screen.remark(&run.broken_off());
                return Err(status.into());
            }
        };
        match event.event.and_then(|event| run.event(event)) {
            Some(Say::Outcomes(lines)) if text => screen.outcomes(&lines)?,
            Some(Say::Result(line)) if text => screen.line(&line)?,
            Some(Say::Remark(remark)) => screen.remark(&remark),
            Some(Say::Result(_) | Say::Outcomes(_)) | None => {}
        }
        screen.status(|| run.summary());
    }
    screen.clear();
    Ok(Heard::All)
}
