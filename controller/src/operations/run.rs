//! Start, stop and restart on many hosts. Owns the order that makes it safe: the wish is durable before the
//! command is sent, and the command is sent once. Every host has a task of its own and a deadline, so
//! the slowest delays nobody. It goes on when the caller is gone: what was sent cannot be taken back.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fleetvisor_model::name::ProcessName;
use fleetvisor_model::time::Wall;
use fleetvisor_proto::convert;
use fleetvisor_proto::fleet::{
    Command, HostDone, HostResult, HostState, Outcome, Progress, RunEvent, RunProgress, RunRequest,
    RunStarted, Target, Verb, run_event,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::clock;
use crate::controller::Controller;
use crate::desired::{self, DesiredError};
use crate::reconcile::{Run as RunWish, Wish};
use crate::registry::Host;
use crate::registry::host::Answer;
use crate::select::{Selection, SelectionError};

const TIMEOUT_DEFAULT: u32 = 300;
const TIMEOUT_MAX: u32 = 24 * 3600;
/// Events that wait for the caller at most; how long a caller may take none before it counts as gone.
const EVENTS_MAX: usize = 256;
const CALLER_PATIENCE: Duration = Duration::from_secs(60);
/// Names that a reason lists at most.
const NAMES_SHOWN: usize = 5;

#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("no verb: start, stop or restart")]
    NoVerb,
    #[error("a timeout of {0} seconds is too long (the limit is {TIMEOUT_MAX})")]
    Timeout(u32),
    #[error(transparent)]
    Selection(#[from] SelectionError),
    #[error("too many operations are under way; try again when one has ended")]
    TooMany,
    #[error("the system's random source failed: {0}")]
    Random(#[from] getrandom::Error),
}

/// What is asked, once it is known to make sense.
struct Operation {
    id: String,
    verb: Verb,
    by: String,
    timeout: Duration,
}

/// The hosts it concerns with their processes, and the targets that mean nothing.
struct Matches {
    hosts: Vec<(Arc<Host>, Vec<ProcessName>)>,
    unmatched: Vec<Target>,
}

/// Starts the operation. Its events arrive at the receiver, which ends after the last.
pub(crate) fn start(
    controller: Arc<Controller>,
    request: RunRequest,
    by: String,
) -> Result<mpsc::Receiver<RunEvent>, RunError> {
    let verb = request.verb();
    if verb == Verb::Unspecified {
        return Err(RunError::NoVerb);
    }
    let timeout = match request.timeout_seconds {
        0 => TIMEOUT_DEFAULT,
        seconds if seconds > TIMEOUT_MAX => return Err(RunError::Timeout(seconds)),
        seconds => seconds,
    };
    let selection = Selection::parse(request.scope, request.targets)?;
    let permit = controller.runs.clone().try_acquire_owned().map_err(|_| RunError::TooMany)?;
    let operation = Operation { id: new_id()?, verb, by, timeout: Duration::from_secs(timeout.into()) };
    let matches = matches(&controller, &selection);
    tracing::info!(
        "{} asks to {} processes on {} hosts (operation {})",
        operation.by,
        operation.verb.word(),
        matches.hosts.len(),
        operation.id
    );
    let (events, receiver) = mpsc::channel(EVENTS_MAX);
    tokio::spawn(run(controller, Arc::new(operation), matches, Caller::new(events), permit));
    Ok(receiver)
}

fn matches(controller: &Controller, selection: &Selection) -> Matches {
    let mut found = vec![false; selection.targets().len()];
    let mut hosts = Vec::new();
    for host in controller.registry.all() {
        if !selection.includes(&host.name, &host.labels()) {
            continue;
        }
        let all = host.process_names();
        for (found, target) in found.iter_mut().zip(selection.targets()) {
            *found = *found || all.iter().any(|name| target.wants(&host.name, name));
        }
        let never_seen = host.describe().state() == HostState::NeverSeen;
        let wanted: Vec<ProcessName> =
            all.into_iter().filter(|name| selection.wants(&host.name, name)).collect();
        if !wanted.is_empty() || (never_seen && selection.wants_all_of(&host.name)) {
            hosts.push((host, wanted));
        }
    }
    let targets = selection.targets().iter().zip(found);
    let unmatched = targets.filter(|(_, found)| !found).map(|(target, _)| target.typed().clone()).collect();
    Matches { hosts, unmatched }
}

async fn run(
    controller: Arc<Controller>,
    operation: Arc<Operation>,
    matches: Matches,
    caller: Caller,
    _permit: OwnedSemaphorePermit,
) {
    let hosts = matches.hosts.iter().map(|(host, _)| host.name.clone()).collect();
    caller.tell(run_event::Event::Started(RunStarted { id: operation.id.clone(), hosts })).await;
    for target in matches.unmatched {
        caller.tell(run_event::Event::Unmatched(target)).await;
    }
    let mut tasks = JoinSet::new();
    for (host, names) in matches.hosts {
        let (controller, operation, caller) = (controller.clone(), operation.clone(), caller.clone());
        tasks.spawn(async move {
            let (result, reason) = operation.on_host(&controller, &host, names, &caller).await;
            let done = HostDone { host: Some(host.describe()), result: result.into(), reason };
            caller.tell(run_event::Event::HostDone(done)).await;
        });
    }
    while tasks.join_next().await.is_some() {}
}

impl Operation {
    async fn on_host(
        &self,
        controller: &Controller,
        host: &Arc<Host>,
        names: Vec<ProcessName>,
        caller: &Caller,
    ) -> (HostResult, String) {
        let deadline = Instant::now() + self.timeout;
        let lane = host.lane.lock().await;
        if names.is_empty() || (self.verb == Verb::Restart && !host.is_online()) {
            return (HostResult::Away, format!("{}, not {}", absence(host), self.verb.past()));
        }
        let wishes = match self.store_wishes(controller, host, &names).await {
            Ok(wishes) => wishes,
            Err(error) => return (HostResult::Failed, format!("nothing was done: {error}")),
        };
        let revision = wishes.iter().map(|wish| wish.revision).max().unwrap_or(0);
        let sent = host.command(Command {
            id: self.id.clone(),
            verb: self.verb.into(),
            processes: names.iter().map(Into::into).collect(),
            desired: (!wishes.is_empty()).then(|| desired::message(false, revision, &wishes)),
            by: self.by.clone(),
        });
        host.set_desired(revision);
        drop(lane);
        match sent {
            Ok(answers) => {
                let result = self.follow(host, names, answers, deadline, caller).await;
                host.forget_command(&self.id);
                result
            }
            Err(_) if wishes.is_empty() => {
                (HostResult::Away, format!("{}, not {}", absence(host), self.verb.past()))
            }
            Err(_) => {
                (HostResult::Pending, format!("{}; will {} when it returns", absence(host), self.verb.word()))
            }
        }
    }

    /// What of the verb is to be remembered. A restart is not, but undoes a stop that is.
    async fn store_wishes(
        &self,
        controller: &Controller,
        host: &Host,
        names: &[ProcessName],
    ) -> Result<Vec<Wish>, DesiredError> {
        let store = &*controller.store;
        let (names, run) = match self.verb {
            Verb::Start => (names.to_vec(), RunWish::Started),
            Verb::Stop => (names.to_vec(), RunWish::Stopped),
            Verb::Restart => (desired::stopped(store, &host.name, names).await?, RunWish::Started),
            Verb::Unspecified => (Vec::new(), RunWish::Started),
        };
        if names.is_empty() {
            return Ok(Vec::new());
        }
        Ok(desired::write(store, &host.name, &names, run, &self.by).await?)
    }

    /// Passes the host's answers on until it is done.
    async fn follow(
        &self,
        host: &Host,
        names: Vec<ProcessName>,
        mut answers: mpsc::Receiver<Answer>,
        deadline: Instant,
        caller: &Caller,
    ) -> (HostResult, String) {
        let total = names.len();
        let mut open: BTreeSet<ProcessName> = names.into_iter().collect();
        let mut failed = 0;
        loop {
            match timeout_at(deadline, answers.recv()).await {
                Ok(Some(Answer::Progress(progress))) => {
                    // Each process answers once, and only those that were asked.
                    let named = convert::process_name(progress.name.clone());
                    if named.is_ok_and(|name| open.remove(&name)) {
                        failed += usize::from(has_failed(&progress));
                        let progress = RunProgress { host: host.name.clone(), progress: Some(*progress) };
                        caller.tell(run_event::Event::Progress(progress)).await;
                    }
                }
                Ok(Some(Answer::Done)) => break,
                Ok(None) => {
                    let reason = format!("went away during the command; no answer for {}", list(&open));
                    return (HostResult::Failed, reason);
                }
                Err(_) => {
                    let seconds = self.timeout.as_secs();
                    return (
                        HostResult::TimedOut,
                        format!("no answer for {} within {seconds} s", list(&open)),
                    );
                }
            }
        }
        if !open.is_empty() {
            (HostResult::Failed, format!("no answer for {}", list(&open)))
        } else if failed > 0 {
            (HostResult::Failed, format!("{failed} of {total} failed"))
        } else {
            (HostResult::Ok, String::new())
        }
    }
}

fn has_failed(progress: &Progress) -> bool {
    match progress.outcome() {
        Outcome::Done | Outcome::Unchanged => false,
        Outcome::Failed | Outcome::Unspecified => true,
    }
}

/// `away since 2026-11-21 10:55:00 UTC`.
fn absence(host: &Host) -> String {
    let host = host.describe();
    match host.state() {
        HostState::NeverSeen => "enrolled, but never linked so far".to_owned(),
        HostState::Revoked => "revoked, and refused until it enrols anew".to_owned(),
        HostState::Away | HostState::Online | HostState::Unspecified => {
            format!("away since {}", clock::utc(Wall(host.since)))
        }
    }
}

fn list(names: &BTreeSet<ProcessName>) -> String {
    let shown: Vec<String> = names.iter().take(NAMES_SHOWN).map(ToString::to_string).collect();
    let mut text = shown.join(", ");
    if names.len() > NAMES_SHOWN {
        let _ = write!(text, " and {} more", names.len() - NAMES_SHOWN);
    }
    text
}

/// 128 random bits: no two commands share an id, so a host can tell a repeated one.
fn new_id() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}")))
}

/// Whoever asked, for as long as it listens.
#[derive(Clone)]
struct Caller {
    events: mpsc::Sender<RunEvent>,
    asleep: Arc<AtomicBool>,
}

impl Caller {
    fn new(events: mpsc::Sender<RunEvent>) -> Caller {
        Caller { events, asleep: Arc::default() }
    }

    /// One that hung up or fell asleep misses the rest; the operation does not wait for it.
    async fn tell(&self, event: run_event::Event) {
        if self.asleep.load(Ordering::Relaxed) {
            return;
        }
        if self.events.send_timeout(RunEvent { event: Some(event) }, CALLER_PATIENCE).await.is_err() {
            self.asleep.store(true, Ordering::Relaxed);
        }
    }
}
