//! Carries out one command of an operator, at most once, and words what became of it in each process.

use std::collections::VecDeque;
use std::sync::Mutex;

use fleetvisor_core::request::{self, Processes, Refusal};
use fleetvisor_model::config::LogLevel;
use fleetvisor_model::name::ProcessName;
use fleetvisor_proto::convert::{process_name, reported};
use fleetvisor_proto::fleet::{Command, CommandDone, FromHost, Outcome, Progress, Verb, from_host};
use tokio::sync::mpsc;

use crate::daemon::Daemon;
use crate::membership::{LinkError, Membership};

/// How many ids are remembered: far more than can be under way.
const REMEMBERED: usize = 4096;

/// Ids of commands, the latest last.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<VecDeque<String>>);

impl Seen {
    /// True the first time.
    fn first_time(&self, id: &str) -> bool {
        let mut ids = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if ids.iter().any(|seen| seen == id) {
            return false;
        }
        if ids.len() == REMEMBERED {
            ids.pop_front();
        }
        ids.push_back(id.to_owned());
        true
    }
}

/// Answers go to `link` as they come about; the end is always said.
pub(crate) async fn carry_out<D: Daemon>(
    membership: &Membership<D>,
    command: Command,
    link: &mpsc::Sender<FromHost>,
) -> Result<(), LinkError> {
    if !membership.seen.first_time(&command.id) {
        return Ok(());
    }
    let verb = command.verb();
    let line = format!("fleet: {} asks to {} {}", command.by, verb.word(), shown(&command));
    membership.daemon.log(LogLevel::Info, line);
    if let Some(desired) = command.desired {
        membership.remember(desired, link).await?;
    }
    let names: Vec<ProcessName> =
        command.processes.iter().filter_map(|name| process_name(Some(name.clone())).ok()).collect();
    if let Some(verb) = core_verb(verb) {
        let mut outcomes = membership.daemon.verb(verb, Processes::Named(names))?;
        while let Some((name, outcome)) = outcomes.recv().await {
            let (outcome, text) = worded(verb, outcome);
            let status = membership.daemon.status(name.clone()).await?;
            let progress = Progress {
                id: command.id.clone(),
                name: Some((&name).into()),
                outcome: outcome.into(),
                text,
                status: status.map(|status| reported(&status, |time| membership.daemon.local(time))),
            };
            say(link, from_host::Message::Progress(progress)).await;
        }
    }
    say(link, from_host::Message::CommandDone(CommandDone { id: command.id })).await;
    Ok(())
}

/// A link that is gone has nobody to hear it; what was asked has been done all the same.
pub(crate) async fn say(link: &mpsc::Sender<FromHost>, message: from_host::Message) {
    let _ = link.send(FromHost { message: Some(message) }).await;
}

fn core_verb(verb: Verb) -> Option<request::Verb> {
    match verb {
        Verb::Unspecified => None,
        Verb::Start => Some(request::Verb::Start { wait: true }),
        Verb::Stop => Some(request::Verb::Stop { wait: true }),
        Verb::Restart => Some(request::Verb::Restart),
    }
}

fn shown(command: &Command) -> String {
    let names: Vec<String> = command
        .processes
        .iter()
        .filter_map(|name| process_name(Some(name.clone())).ok())
        .map(|name| name.to_string())
        .collect();
    names.join(" ")
}

/// As supervisorctl words it.
fn worded(verb: request::Verb, outcome: request::Outcome) -> (Outcome, String) {
    let done = match verb {
        request::Verb::Start { .. } => "started",
        request::Verb::Stop { .. } => "stopped",
        request::Verb::Restart => "restarted",
        request::Verb::Signal(_) => "signalled",
    };
    let failed = |reason: &str| (Outcome::Failed, format!("ERROR ({reason})"));
    match outcome {
        Ok(()) => (Outcome::Done, done.to_owned()),
        Err(Refusal::AlreadyStarted) => (Outcome::Unchanged, "already started".to_owned()),
        Err(Refusal::NotRunning) if matches!(verb, request::Verb::Stop { .. }) => {
            (Outcome::Unchanged, "not running".to_owned())
        }
        Err(Refusal::NotRunning) => failed("not running"),
        Err(Refusal::BadName) => failed("no such process"),
        Err(Refusal::NoFile(_)) => failed("no such file"),
        Err(Refusal::NotExecutable(_)) => failed("file is not executable"),
        Err(Refusal::SpawnError) => failed("spawn error"),
        Err(Refusal::AbnormalTermination) => failed("abnormal termination"),
        Err(Refusal::AlreadyAdded) => failed("process group already active"),
        Err(Refusal::StillRunning) => failed("process group still has running processes"),
        Err(Refusal::ShutdownState) => failed("the daemon is shutting down"),
        Err(Refusal::Failed(reason)) => failed(&reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_carried_out_once() {
        let seen = Seen::default();
        assert!(seen.first_time("a"));
        assert!(!seen.first_time("a"));
        for number in 0..REMEMBERED {
            assert!(seen.first_time(&number.to_string()));
        }
    }
}
