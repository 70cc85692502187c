//! `ctl events`: what happens to the processes and hosts of a fleet.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use fleetvisor_model::name::ProcessName;
use fleetvisor_model::signal::Signal;
use fleetvisor_model::state::ProcessState;
use fleetvisor_proto::convert::process_name;
use fleetvisor_proto::fleet::{Event, EventsRequest, ProcessEvent};
use serde::Serialize;
use tonic::Request;

use super::in_fleet;
use crate::cli::{Cli, Form};
use crate::fleet::client::{FleetError, connect, reading};
use crate::fleet::exit::Exit;
use crate::fleet::print;
use crate::fleet::scope::{Meant, meant};
use crate::fleet::when;

/// Between two attempts to go on with a controller that is gone.
const PAUSE: Duration = Duration::from_secs(1);

/// Shows what has happened in the fleet, or follows what happens
///
/// A line has time, process or host, what happened (a state, "online", "away"), and why: how a process ended, who
/// asked for it. The controller keeps the latest 100,000 events until it is started anew. With -f a connection that
/// breaks is made again, and nothing is missed as long as the events are kept; if some are not, a line "missed" says
/// so. With -o json one document per line: {"token", "at", "host", "kind", "process", "from", "pid", "exit_code",
/// "signal", "expected", "by", "missed"}; "at" is RFC 3339, "process" is group:name, and what does not apply is null.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  ctl events -f\n  ctl events --hosts 'web-*' --kind exited,fatal\n  ctl events -f 'web-*:app:*' -o json\n  ctl events -f --after 5d1c-2f"
)]
pub(crate) struct Events {
    /// host:group:name, host:group:, host:all; of every host and process, if not given
    names: Vec<String>,
    /// Go on with what happens, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Only these: starting, running, backoff, stopping, stopped, exited, fatal, unknown, online, away
    #[arg(long, value_name = "KIND,...", value_delimiter = ',')]
    kind: Vec<String>,
    /// Go on after this event: the "token" of -o json
    #[arg(long, value_name = "TOKEN", default_value = "")]
    after: String,
}

#[derive(Debug, Serialize)]
struct EventJson<'a> {
    token: Option<&'a str>,
    at: String,
    host: Option<&'a str>,
    kind: &'a str,
    process: Option<String>,
    from: Option<String>,
    pid: Option<i32>,
    exit_code: Option<i32>,
    signal: Option<String>,
    expected: Option<bool>,
    by: Option<&'a str>,
    missed: Option<u64>,
}

impl Events {
    pub(super) fn run(&self, cli: &Cli) -> ExitCode {
        in_fleet(cli, self.of_fleet(cli))
    }

    async fn of_fleet(&self, cli: &Cli) -> Result<Exit, FleetError> {
        let meant = meant(&cli.scope, &self.names)?;
        let mut after = self.after.clone();
        loop {
            let broken = match self.read(cli, &meant, &mut after).await {
                Ok(()) if !self.follow => return Ok(Exit::Done),
                Ok(()) => "the controller has ended the stream".to_owned(),
                // Only with a place to go on from is it the same stream.
                Err(error) if self.follow && !after.is_empty() && error.may_pass() => error.to_string(),
                Err(error) => return Err(error),
            };
            eprintln!("ctl: {broken}; trying to go on");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Prints events until there are no more, keeping the place in `after`.
    async fn read(&self, cli: &Cli, meant: &Meant, after: &mut String) -> Result<(), FleetError> {
        let request = EventsRequest {
            scope: Some(meant.scope.clone()),
            targets: meant.wire_targets(),
            kinds: self.kind.clone(),
            follow: self.follow,
            after: after.clone(),
        };
        let mut fleet = connect(&cli.access).await?;
        // Who follows has all the time there is.
        let request = if self.follow { Request::new(request) } else { reading(request, &cli.access) };
        let mut events = fleet.events(request).await?.into_inner();
        while let Some(event) = events.message().await? {
            let line = match cli.access.form() {
                Form::Text => text(&event),
                Form::Json => json(&event).map_err(std::io::Error::from)?,
            };
            print::lines(&[line])?;
            if !event.token.is_empty() {
                *after = event.token;
            }
        }
        Ok(())
    }
}

fn name(process: &ProcessEvent) -> Option<ProcessName> {
    process_name(process.name.clone()).ok()
}

/// `web-01:web:app`, and for a host its name.
fn subject(event: &Event) -> String {
    match event.process.as_ref().and_then(name) {
        Some(name) => format!("{}:{}:{}", event.host, name.group, name.process),
        None => event.host.clone(),
    }
}

fn text(event: &Event) -> String {
    if event.kind == "missed" {
        return match event.missed {
            0 => "missed: the controller was started anew; what happened before is not known".to_owned(),
            count => format!("missed: {count} events that are no longer kept"),
        };
    }
    let mut line = format!("{}  {}  {}", when::utc(event.at), subject(event), event.kind);
    if let Some(process) = &event.process {
        if let Some(how) = how(process) {
            line.push_str(&format!(" ({how})"));
        }
        if process.pid != 0 {
            line.push_str(&format!("  pid {}", process.pid));
        }
        if !process.by.is_empty() {
            line.push_str(&format!("  by {}", process.by));
        }
    }
    line
}

fn how(process: &ProcessEvent) -> Option<String> {
    let how = match (process.exit_code, process.exit_signal) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("terminated by {}", Signal(signal).name()),
        (None, None) => return None,
    };
    let exited = ProcessState::from_code(process.to) == ProcessState::Exited;
    Some(if exited && !process.expected { format!("{how}; not expected") } else { how })
}

fn json(event: &Event) -> serde_json::Result<String> {
    let process = event.process.as_ref();
    let some = |text: &'_ String| (!text.is_empty()).then_some(());
    serde_json::to_string(&EventJson {
        token: some(&event.token).map(|()| event.token.as_str()),
        at: when::rfc3339(event.at),
        host: some(&event.host).map(|()| event.host.as_str()),
        kind: &event.kind,
        process: process.and_then(name).map(|name| format!("{}:{}", name.group, name.process)),
        from: process.map(|process| ProcessState::from_code(process.from).name().to_lowercase()),
        pid: process.map(|process| process.pid).filter(|pid| *pid != 0),
        exit_code: process.and_then(|process| process.exit_code),
        signal: process.and_then(|process| process.exit_signal).map(|signal| Signal(signal).name()),
        expected: process
            .filter(|process| process.exit_code.is_some() || process.exit_signal.is_some())
            .map(|process| process.expected),
        by: process.and_then(|process| some(&process.by).map(|()| process.by.as_str())),
        missed: (event.kind == "missed").then_some(event.missed),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(code: Option<i32>, signal: Option<i32>, expected: bool) -> Event {
        let process = ProcessEvent {
            name: Some((&ProcessName::new("web", "app")).into()),
            from: 20,
            to: 100,
            pid: 7,
            exit_code: code,
            exit_signal: signal,
            expected,
            by: "operator alice".to_owned(),
            age_ms: 0,
        };
        Event {
            token: "a-1".to_owned(),
            host: "web-01".to_owned(),
            kind: "exited".to_owned(),
            at: 1_795_258_500_000_000,
            process: Some(process),
            missed: 0,
        }
    }

    #[test]
    fn a_line_says_when_what_how_and_who() {
        assert_eq!(
            text(&exited(Some(3), None, false)),
            "2026-11-21 10:55:00 UTC  web-01:web:app  exited (exit status 3; not expected)  pid 7  by operator alice"
        );
        assert!(text(&exited(None, Some(9), true)).contains("exited (terminated by SIGKILL)"));
        let away = Event { host: "web-01".to_owned(), kind: "away".to_owned(), ..Event::default() };
        assert_eq!(text(&away), "1970-01-01 00:00:00 UTC  web-01  away");
        let missed = Event { kind: "missed".to_owned(), missed: 4, ..Event::default() };
        assert_eq!(text(&missed), "missed: 4 events that are no longer kept");
    }

    #[test]
    fn a_document_has_every_field() {
        let document: serde_json::Value =
            serde_json::from_str(&json(&exited(None, Some(15), true)).unwrap()).unwrap();
        assert_eq!(document["signal"], "SIGTERM");
        assert_eq!(document["process"], "web:app");
        assert_eq!((&document["from"], &document["by"]), (&"running".into(), &"operator alice".into()));
        assert!(document["exit_code"].is_null() && document["missed"].is_null());
        assert_eq!(document.as_object().unwrap().len(), 12);
    }
}
