//! One operation under way. Owns the order that makes it safe: what was decided is stored before it is sent, and
//! what a host answered is stored before anything follows from it. So whenever the controller is killed, the next
//! one takes up the operation from its records ([`Driver::load`]) and repeats nothing: hosts know the ids that
//! they have carried out. Which host is next is [`crate::rollout`]'s to say.
//!
//! ```text
//!   turn: answers and times --store--> rollout::next --store--> send
//!    ^                                                           |
//!    '------ an answer, a host that comes or goes, a time, an ask <'
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fleetvisor_model::name::ProcessName;
use fleetvisor_model::time::Wall;
use fleetvisor_proto::fleet::{
    self, BatchBegun, Command, HostDone, HostResult, OperationState, RunProgress, RunStarted, Verb, run_event,
};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::RunError;
use super::caller::Caller;
use super::member::{Member, absence};
use super::record::{self, MemberRecord, OperationRecord, PlannedHost, Stage, State};
use crate::audit::{Entry, Outcome};
use crate::clock;
use crate::controller::Controller;
use crate::desired::{self, DesiredError};
use crate::reconcile::{Run, Wish};
use crate::records;
use crate::registry::host::{Answer, Answers};
use crate::rollout::{self, Next, Strategy};
use crate::store::{Claim, Transaction};

/// How soon what the store refused is tried again.
const RETRY: Duration = Duration::from_secs(2);
const LEASE: Duration = Duration::from_secs(60);
const LEASE_RENEWAL: Duration = Duration::from_secs(20);
/// Hosts that share a transaction at most.
const WAVE: usize = 256;
/// Answers that are taken in one go.
const ANSWERS_MAX: usize = 4096;
/// Failed hosts that a reason names.
const NAMED: usize = 5;

/// What somebody wants of an operation that is under way.
#[derive(Debug)]
pub(super) enum Ask {
    Watch(Caller),
    Cancel { by: String, answer: oneshot::Sender<Result<fleet::Operation, RunError>> },
    Resume { by: String, answer: oneshot::Sender<Result<fleet::Operation, RunError>> },
}

pub(super) struct Driver {
    controller: Arc<Controller>,
    id: String,
    record: OperationRecord,
    verb: Verb,
    strategy: Strategy,
    /// Where each batch ends.
    ends: Vec<usize>,
    members: Vec<Member>,
    numbers: HashMap<String, usize>,
    answers: mpsc::UnboundedReceiver<(usize, Answer)>,
    answers_to: mpsc::UnboundedSender<(usize, Answer)>,
    presence: broadcast::Receiver<String>,
    callers: Vec<Caller>,
    now: watch::Sender<fleet::Operation>,
    /// The first batch that is not good, and since when the one before it is.
    batch: usize,
    good_since: Instant,
    announced: Option<usize>,
    paused: Option<usize>,
    /// Members whose record is behind.
    unstored: Vec<usize>,
    retry_at: Option<Instant>,
    /// Why it could not go on, as it was told last.
    hindrance: String,
    claimed_at: Option<Instant>,
}

#[derive(Debug, thiserror::Error)]
enum TurnError {
    #[error(transparent)]
    Desired(#[from] DesiredError),
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    #[error("{0} carries it out")]
    Elsewhere(String),
}

impl Driver {
    pub(super) fn new(
        controller: Arc<Controller>,
        id: String,
        record: OperationRecord,
        strategy: Strategy,
        planned: Vec<PlannedHost>,
    ) -> Driver {
        let presence = controller.registry.presence();
        let (answers_to, answers) = mpsc::unbounded_channel();
        let verb = record.verb();
        let members: Vec<Member> = planned
            .into_iter()
            .map(|planned| Member::new(controller.registry.host(&planned.host), planned))
            .collect();
        let numbers =
            members.iter().enumerate().map(|(at, member)| (member.planned.host.clone(), at)).collect();
        Driver {
            now: watch::Sender::new(record.shown(&id)),
            ends: strategy.batches(members.len()),
            controller,
            id,
            record,
            verb,
            strategy,
            members,
            numbers,
            answers,
            answers_to,
            presence,
            callers: Vec::new(),
            batch: 0,
            good_since: Instant::now(),
            announced: None,
            paused: None,
            unstored: Vec::new(),
            retry_at: None,
            hindrance: String::new(),
            claimed_at: None,
        }
    }

    /// An operation as it is stored.
    pub(super) async fn load(controller: Arc<Controller>, id: &str) -> Result<Driver, RunError> {
        let store = controller.store.clone();
        let key = record::operation_key(id);
        let stored = store.get(&key).await?.ok_or_else(|| RunError::NoSuch(id.to_owned()))?;
        let record: OperationRecord = records::decode(&key, &stored)?;
        let strategy = record.strategy.strategy()?;
        let mut planned = Vec::new();
        for (key, piece) in store.list(&record::plan_prefix(id)).await?.records {
            planned.extend(records::decode::<Vec<PlannedHost>>(&key, &piece)?);
        }
        let mut driver = Driver::new(controller, id.to_owned(), record, strategy, planned);
        for (key, stored) in store.list(&record::members_prefix(id)).await?.records {
            let member: MemberRecord = records::decode(&key, &stored)?;
            let host = key.rsplit('/').next().unwrap_or_default();
            if let Some(at) = driver.numbers.get(host) {
                driver.members[*at].take_up(member, stored.revision);
            }
        }
        let deadline = Instant::now() + driver.timeout();
        for member in driver.members.iter_mut().filter(|member| member.is_begun()) {
            member.deadline = Some(deadline);
        }
        driver.batch = rollout::first_open(&driver.ends, &driver.standings());
        driver.show();
        Ok(driver)
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Whether it concerns no host at all.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Events that its hosts and processes can give.
    pub(super) fn size(&self) -> usize {
        self.members.iter().map(|member| member.planned.processes.len().max(member.results.len()) + 2).sum()
    }

    pub(super) fn heard_by(mut self, caller: Caller) -> Driver {
        self.callers.push(caller);
        self
    }

    /// What it is like, whenever that changes.
    pub(super) fn subscribe(&self) -> watch::Receiver<fleet::Operation> {
        self.now.subscribe()
    }

    /// Runs until nothing is left to do before somebody asks for more.
    pub(super) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Ask>) {
        let mut answered = Vec::new();
        loop {
            let wake = match self.turn().await {
                Ok(wake) => wake,
                Err(TurnError::Elsewhere(holder)) => {
                    return tracing::warn!("operation {}: {holder} carries it out", self.id);
                }
                Err(error) => {
                    let error = error.to_string();
                    if error != self.hindrance {
                        tracing::error!("operation {} cannot go on yet: {error}", self.id);
                        self.tell(run_event::Event::Remark(format!("cannot go on yet: {error}")));
                        self.hindrance = error;
                    }
                    let retry = Instant::now() + RETRY;
                    self.retry_at = Some(retry);
                    retry
                }
            };
            self.show();
            if self.retry_at.is_none() {
                self.hindrance.clear();
                if self.is_settled() {
                    self.dismiss();
                }
                if self.is_over() {
                    return;
                }
            }
            tokio::select! {
                ask = inbox.recv() => match ask {
                    Some(ask) => self.ask(ask).await,
                    None => return,
                },
                _ = self.answers.recv_many(&mut answered, ANSWERS_MAX) => {
                    for (number, answer) in answered.drain(..) {
                        self.answer(number, answer);
                    }
                }
                () = changed(&mut self.presence, &self.numbers) => {}
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Does all that can be done now, and gives the time at which there is more.
    async fn turn(&mut self) -> Result<Instant, TurnError> {
        let now = Instant::now();
        if let Some(retry) = self.retry_at.filter(|retry| *retry > now) {
            return Ok(retry);
        }
        self.retry_at = None;
        self.keep_claim(now).await?;
        self.end_by_time(now).await?;
        self.store_members().await?;
        let mut wake = now + LEASE_RENEWAL;
        if self.record.state == State::Running {
            if let Some(left) = self.go_on(now).await? {
                wake = wake.min(now + left);
            }
            let left = u64::try_from(self.record.expires.saturating_sub(clock::now().0)).unwrap_or(0);
            wake = wake.min(now + Duration::from_micros(left));
        }
        self.send_again().await;
        self.store_members().await?;
        self.store_counts().await?;
        Ok(self.members.iter().filter_map(|member| member.deadline).fold(wake, Instant::min))
    }

    /// Lets begin whose turn it is; how long nothing else happens, where there is a pause.
    async fn go_on(&mut self, now: Instant) -> Result<Option<Duration>, TurnError> {
        let standings = self.standings();
        let reached = rollout::first_open(&self.ends, &standings);
        if reached > self.batch {
            self.good_since = now;
        }
        self.batch = reached;
        match rollout::next(&self.strategy, &standings, now - self.good_since) {
            Next::Begin { hosts, batch } => {
                self.announce(batch);
                self.remember_absent(self.ends[batch]).await?;
                for wave in hosts.chunks(WAVE) {
                    self.begin(wave.to_vec()).await?;
                }
                Ok(None)
            }
            Next::Pause { left, batch } => {
                if self.paused != Some(batch) {
                    self.paused = Some(batch);
                    let (number, of, seconds) = (batch + 1, self.ends.len(), left.as_secs_f64().ceil());
                    let remark = format!("batch {number} of {of} begins in {seconds} s");
                    self.tell(run_event::Event::Remark(remark));
                }
                Ok(Some(left))
            }
            Next::Halt { bad, allowed, batch } => {
                let failed = self.members.iter().filter(|member| member.standing() == rollout::Standing::Bad);
                let names: Vec<&str> = failed.map(|member| member.planned.host.as_str()).collect();
                let more = if names.len() > NAMED { ", ..." } else { "" };
                let names = names[..names.len().min(NAMED)].join(", ");
                let batch = (batch + 1).min(self.ends.len());
                let reason = format!(
                    "{bad} failed ({names}{more}), and {allowed} may; stopped at batch {batch} of {}",
                    self.ends.len()
                );
                self.set_state(State::Stopped, reason, Outcome::Failed).await?;
                Ok(None)
            }
            Next::OnlyAway => {
                self.remember_absent(self.members.len()).await?;
                Ok(None)
            }
            Next::Finished => {
                let (ok, failed) = self.counts();
                let rest = self.members.len() - ok - failed;
                let reason = format!("{ok} ok, {failed} failed, {rest} not done");
                let outcome = if ok == self.members.len() { Outcome::Done } else { Outcome::Failed };
                self.set_state(State::Finished, reason, outcome).await?;
                Ok(None)
            }
        }
    }

    /// Stores that these hosts begin, with what is wished of them, and tells them. The lanes keep the wishes of
    /// several operations in the order of their revisions on the way to a host.
    async fn begin(&mut self, mut numbers: Vec<usize>) -> Result<(), TurnError> {
        // In one order for everybody, so that two operations can't wait for each other.
        numbers.sort_by(|a, b| self.members[*a].planned.host.cmp(&self.members[*b].planned.host));
        let hosts: Vec<_> = numbers.iter().map(|at| self.members[*at].host.clone()).collect();
        let mut lanes = Vec::with_capacity(hosts.len());
        for host in &hosts {
            lanes.push(host.lane.lock().await);
        }
        for at in &numbers {
            self.leave_stopped(*at).await?;
        }
        let mut transaction = Transaction::default();
        let mut stages = Vec::with_capacity(numbers.len());
        for at in &numbers {
            let member = &self.members[*at];
            let stage = if let Stage::Remembered { .. } = member.stage {
                Stage::Begun { wish: Some(member.wish), wished: member.planned.processes.clone() }
            } else {
                let (wished, run) = self.wishes(member).await?;
                transaction = desired::put(transaction, &member.planned.host, &wished, run, &self.record.by);
                Stage::Begun { wish: None, wished }
            };
            let stored = MemberRecord { stage: stage.clone(), results: member.results.clone() };
            let key = record::member_key(&self.id, &member.planned.host);
            transaction = transaction.put(key, records::encode(&stored));
            stages.push(stage);
        }
        let revision = self.controller.store.commit(transaction).await?;
        let deadline = Instant::now() + self.timeout();
        for (at, stage) in numbers.into_iter().zip(stages) {
            let member = &mut self.members[at];
            let before = std::mem::replace(&mut member.stage, stage);
            if let Stage::Begun { wish: None, wished } = &member.stage {
                member.wish = if wished.is_empty() { 0 } else { revision };
            }
            member.deadline = Some(deadline);
            if !self.send(at, false) {
                // It went away a moment ago: as if it had been away all along.
                let member = &mut self.members[at];
                member.deadline = None;
                member.stage = match before {
                    Stage::Waiting if member.wish != 0 => {
                        Stage::Remembered { wish: Some(member.wish), before: Vec::new() }
                    }
                    before => before,
                };
                self.unstored.push(at);
            }
        }
        Ok(())
    }

    /// A restart that comes late, as its host was away, is older than a stop that was asked for since.
    async fn leave_stopped(&mut self, at: usize) -> Result<(), TurnError> {
        if self.verb != Verb::Restart {
            return Ok(());
        }
        let member = &self.members[at];
        let (host, processes) = (member.planned.host.clone(), &member.planned.processes);
        let stopped = desired::stopped(&*self.controller.store, &host, processes).await?;
        for (name, when) in stopped {
            if when.0 > self.record.made
                && let Some(progress) = self.members[at].leave(&self.id, name)
            {
                let progress = RunProgress { host: host.clone(), progress: Some(progress) };
                self.tell(run_event::Event::Progress(progress));
            }
        }
        Ok(())
    }

    /// What of the verb is to be remembered. A restart is not, but undoes a stop that is.
    async fn wishes(&self, member: &Member) -> Result<(Vec<ProcessName>, Run), DesiredError> {
        let processes = &member.planned.processes;
        Ok(match self.verb {
            Verb::Start => (processes.clone(), Run::Started),
            Verb::Stop => (processes.clone(), Run::Stopped),
            Verb::Restart => {
                let store = &*self.controller.store;
                let stopped = desired::stopped(store, &member.planned.host, processes).await?;
                let meant = stopped.into_iter().map(|(name, _)| name).filter(|name| !member.leaves(name));
                (meant.collect(), Run::Started)
            }
            Verb::Signal | Verb::Update | Verb::Unspecified => (Vec::new(), Run::Started),
        })
    }

    /// A start or a stop of a host that is away at its turn is stored: it is told with the next link.
    async fn remember_absent(&mut self, turn: usize) -> Result<(), TurnError> {
        let run = match self.verb {
            Verb::Start => Run::Started,
            Verb::Stop => Run::Stopped,
            Verb::Restart | Verb::Signal | Verb::Update | Verb::Unspecified => return Ok(()),
        };
        let store = self.controller.store.clone();
        for at in 0..turn {
            let member = &mut self.members[at];
            if member.stage != Stage::Waiting || member.is_present() || member.planned.processes.is_empty() {
                continue;
            }
            let host = member.host.clone();
            let _lane = host.lane.lock().await;
            let before = desired::of(&*store, &host.name, &member.planned.processes).await?;
            let stage = Stage::Remembered { wish: None, before };
            let stored = MemberRecord { stage: stage.clone(), results: Vec::new() };
            let key = record::member_key(&self.id, &host.name);
            let transaction = Transaction::default().put(key, records::encode(&stored));
            let transaction =
                desired::put(transaction, &host.name, &member.planned.processes, run, &self.record.by);
            member.wish = store.commit(transaction).await?;
            member.stage = stage;
            host.set_desired(member.wish);
        }
        Ok(())
    }

    /// Whether it could be sent. The caller holds the lane.
    fn send(&mut self, at: usize, recall: bool) -> bool {
        let member = &mut self.members[at];
        let Stage::Begun { wished, .. } = &member.stage else { return false };
        let run = if self.verb == Verb::Stop { Run::Stopped } else { Run::Started };
        let wish = |name: &ProcessName| Wish { name: name.clone(), run, revision: member.wish };
        let wishes: Vec<Wish> = wished.iter().map(wish).collect();
        let command = Command {
            id: self.id.clone(),
            verb: self.verb.into(),
            processes: member
                .planned
                .processes
                .iter()
                .filter(|name| !member.leaves(name))
                .map(Into::into)
                .collect(),
            desired: (!wishes.is_empty()).then(|| desired::message(false, member.wish, &wishes)),
            by: self.record.by.clone(),
            signal: self.record.signal.clone(),
            groups: member.planned.groups.clone(),
            recall,
        };
        let most = member.answers_most(self.verb);
        let answers = Answers { to: self.answers_to.clone(), number: at, most };
        member.sent = member.host.command(command, answers).ok();
        member.host.set_desired(member.wish);
        member.sent.is_some()
    }

    /// Hosts that have begun, and have linked again since: they are asked once more, and know what they did.
    async fn send_again(&mut self) {
        let recall = self.record.state == State::Cancelled || self.has_expired();
        for at in 0..self.members.len() {
            let member = &self.members[at];
            let link = member.host.link();
            if !member.is_begun() || member.ending.is_some() || link.is_none() || link == member.sent {
                continue;
            }
            let host = member.host.clone();
            let _lane = host.lane.lock().await;
            self.send(at, recall);
        }
    }

    fn answer(&mut self, number: usize, answer: Answer) {
        let member = &mut self.members[number];
        if !member.is_begun() || member.ending.is_some() {
            return;
        }
        match answer {
            Answer::Progress(progress) => {
                if let Some(progress) = member.progress(self.verb, *progress) {
                    let host = member.planned.host.clone();
                    let progress = RunProgress { host, progress: Some(progress) };
                    self.tell(run_event::Event::Progress(progress));
                }
            }
            Answer::Done(done) => member.finished(done),
        }
    }

    /// Ends what took too long: hosts without an answer, and those that have not begun in time.
    async fn end_by_time(&mut self, now: Instant) -> Result<(), TurnError> {
        let expired = self.has_expired();
        let (verb, seconds) = (self.verb, self.record.timeout_seconds);
        for at in 0..self.members.len() {
            let member = &mut self.members[at];
            if member.is_done() || member.ending.is_some() {
                continue;
            }
            if member.is_begun() {
                if member.deadline.is_some_and(|deadline| deadline <= now) {
                    member.timed_out(seconds);
                }
                continue;
            }
            if member.planned.processes.is_empty() && verb != Verb::Update {
                let reason = format!("{}, not {}", absence(&member.host), verb.past());
                member.ending = Some((HostResult::Away, reason));
            } else if expired && self.record.state == State::Running {
                let keeps_wish = matches!(member.stage, Stage::Remembered { .. });
                member.ending = Some(if keeps_wish && !self.record.expires_as_asked {
                    member.unfinished(verb, false, Wall(self.record.expires))
                } else {
                    let when = clock::utc(Wall(self.record.expires));
                    (HostResult::Expired, format!("not {}: the operation expired at {when}", verb.past()))
                });
                if keeps_wish && self.record.expires_as_asked {
                    self.withdraw(at).await?;
                }
            }
        }
        Ok(())
    }

    /// Takes back a wish that no host has heard of.
    async fn withdraw(&mut self, at: usize) -> Result<(), TurnError> {
        let member = &self.members[at];
        let Stage::Remembered { before, .. } = &member.stage else { return Ok(()) };
        let host = member.host.clone();
        let _lane = host.lane.lock().await;
        let store = &*self.controller.store;
        let revision = desired::withdraw(store, &host.name, member.wish, before, &self.record.by).await?;
        host.set_desired(revision);
        Ok(())
    }

    /// Stores how hosts came out, and then says so.
    async fn store_members(&mut self) -> Result<(), TurnError> {
        let ended: Vec<usize> =
            (0..self.members.len()).filter(|at| self.members[*at].ending.is_some()).collect();
        let unstored = std::mem::take(&mut self.unstored);
        let changed: Vec<usize> = ended.into_iter().chain(unstored.iter().copied()).collect();
        for wave in changed.chunks(WAVE) {
            let mut transaction = Transaction::default();
            for at in wave {
                let member = &self.members[*at];
                let mut stored = member.record();
                if let Some(ending) = &member.ending {
                    stored.stage = done(ending);
                }
                let key = record::member_key(&self.id, &member.planned.host);
                transaction = transaction.put(key, records::encode(&stored));
            }
            match self.controller.store.commit(transaction).await {
                Ok(_) => self.stored(wave),
                Err(error) => {
                    self.unstored = unstored;
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    fn stored(&mut self, wave: &[usize]) {
        for at in wave {
            let member = &mut self.members[*at];
            let Some(ending) = member.ending.take() else { continue };
            member.stage = done(&ending);
            member.deadline = None;
            let (result, reason) = ending;
            let done = HostDone { host: Some(member.host.describe()), result: result.into(), reason };
            self.tell(run_event::Event::HostDone(done));
        }
    }

    async fn ask(&mut self, ask: Ask) {
        match ask {
            Ask::Watch(caller) => {
                if self.replay().into_iter().all(|event| caller.tell(event)) {
                    self.callers.push(caller);
                }
            }
            Ask::Cancel { by, answer } => {
                let result = self.cancel(&by).await;
                let _ = answer.send(result);
            }
            Ask::Resume { by, answer } => {
                let result = self.resume(&by).await;
                let _ = answer.send(result);
            }
        }
    }

    /// Lets no further host begin.
    pub(super) async fn cancel(&mut self, by: &str) -> Result<fleet::Operation, RunError> {
        match self.record.state {
            State::Running | State::Stopped => {}
            State::Cancelled | State::Finished => {
                return Err(RunError::State { id: self.id.clone(), state: self.state_word() });
            }
        }
        self.audit(by, "operation.cancel", Outcome::Done, String::new()).await;
        let changed = async {
            for at in 0..self.members.len() {
                if let Stage::Remembered { .. } = self.members[at].stage {
                    self.withdraw(at).await?;
                    self.members[at].stage = Stage::Waiting;
                    self.members[at].wish = 0;
                    self.unstored.push(at);
                }
            }
            self.set_state(State::Cancelled, format!("by {by}"), Outcome::Failed).await?;
            self.store_members().await
        };
        changed.await.map_err(RunError::from)?;
        self.show();
        Ok(self.now.borrow().clone())
    }

    /// Goes on with what was cancelled or has stopped. Failures so far count no longer.
    pub(super) async fn resume(&mut self, by: &str) -> Result<fleet::Operation, RunError> {
        match self.record.state {
            State::Stopped | State::Cancelled => {}
            State::Running | State::Finished => {
                return Err(RunError::State { id: self.id.clone(), state: self.state_word() });
            }
        }
        self.audit(by, "operation.resume", Outcome::Done, String::new()).await;
        let lasts = self.record.expires.saturating_sub(self.record.made);
        for at in 0..self.members.len() {
            let standing = self.members[at].standing();
            if let Stage::Done { forgiven, .. } = &mut self.members[at].stage
                && standing == rollout::Standing::Bad
            {
                *forgiven = true;
                self.unstored.push(at);
            }
        }
        self.record.expires = clock::now().0.saturating_add(lasts);
        let changed = async {
            self.store_members().await?;
            self.set_state(State::Running, format!("resumed by {by}"), Outcome::Started).await
        };
        changed.await.map_err(RunError::from)?;
        self.show();
        Ok(self.now.borrow().clone())
    }

    async fn set_state(&mut self, state: State, reason: String, outcome: Outcome) -> Result<(), TurnError> {
        let mut next = self.record.clone();
        next.state = state;
        next.reason = reason;
        next.ended = (state != State::Running).then(|| clock::now().0);
        (next.ok, next.failed) = self.counts();
        let key = record::operation_key(&self.id);
        self.controller.store.commit(Transaction::default().put(key, records::encode(&next))).await?;
        self.record = next;
        if state != State::Running {
            let (by, what) = (self.record.by.clone(), format!("run.{}", self.record.verb));
            let detail = format!("{}: {}", self.state_word(), self.record.reason);
            self.audit(&by, &what, outcome, detail).await;
        }
        tracing::info!("operation {} is {}: {}", self.id, self.state_word(), self.record.reason);
        self.show();
        let now = self.now.borrow().clone();
        self.tell(run_event::Event::Operation(now));
        Ok(())
    }

    async fn audit(&self, by: &str, what: &str, outcome: Outcome, detail: String) {
        self.controller.audit.note(Entry::new(by, what, &*self.id).detail(detail).outcome(outcome)).await;
    }

    /// Of several controllers one carries it out.
    async fn keep_claim(&mut self, now: Instant) -> Result<(), TurnError> {
        if self.claimed_at.is_some_and(|at| now - at < LEASE_RENEWAL) {
            return Ok(());
        }
        let (key, holder) = (record::operation_key(&self.id), &self.controller.operations.holder);
        match self.controller.store.claim(&key, holder, LEASE).await? {
            Claim::Held => {
                self.claimed_at = Some(now);
                Ok(())
            }
            Claim::HeldBy(other) => Err(TurnError::Elsewhere(other)),
        }
    }

    /// Hosts that were under way when it stopped, or was cancelled, have come out since.
    async fn store_counts(&mut self) -> Result<(), TurnError> {
        let counts = self.counts();
        if self.record.state == State::Running || counts == (self.record.ok, self.record.failed) {
            return Ok(());
        }
        let mut next = self.record.clone();
        (next.ok, next.failed) = counts;
        let key = record::operation_key(&self.id);
        self.controller.store.commit(Transaction::default().put(key, records::encode(&next))).await?;
        self.record = next;
        Ok(())
    }

    fn announce(&mut self, batch: usize) {
        if self.ends.len() > 1 && self.announced != Some(batch) {
            self.announced = Some(batch);
            let begin = if batch == 0 { 0 } else { self.ends[batch - 1] };
            let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            self.tell(run_event::Event::Batch(BatchBegun {
                batch: count(batch + 1),
                batches: count(self.ends.len()),
                hosts: count(self.ends[batch] - begin),
            }));
        }
    }

    /// What has happened so far, as it was told to those who listened.
    pub(super) fn replay(&self) -> Vec<run_event::Event> {
        let hosts = self.members.iter().map(|member| member.planned.host.clone()).collect();
        let mut events =
            vec![run_event::Event::Started(RunStarted { id: self.id.clone(), hosts, unmatched: Vec::new() })];
        for member in &self.members {
            for result in &member.results {
                let progress = Some(result.progress(&self.id));
                let progress = RunProgress { host: member.planned.host.clone(), progress };
                events.push(run_event::Event::Progress(progress));
            }
            if let Stage::Done { result, reason, .. } = &member.stage {
                events.push(run_event::Event::HostDone(HostDone {
                    host: Some(member.host.describe()),
                    result: record::result(result).into(),
                    reason: reason.clone(),
                }));
            }
        }
        events
    }

    /// What is told last: the hosts that are not done, and the state.
    pub(super) fn farewell(&self) -> Vec<run_event::Event> {
        let stopped = matches!(self.record.state, State::Stopped | State::Cancelled);
        let expires = Wall(self.record.expires);
        let unfinished = self.members.iter().filter(|member| !member.is_done());
        let mut events: Vec<run_event::Event> = unfinished
            .map(|member| {
                let (result, reason) = member.unfinished(self.verb, stopped, expires);
                let host = Some(member.host.describe());
                run_event::Event::HostDone(HostDone { host, result: result.into(), reason })
            })
            .collect();
        if self.record.state == State::Running {
            events.push(run_event::Event::Operation(self.now.borrow().clone()));
        }
        events
    }

    /// The operation, as it is `now` if it is under way elsewhere, and its hosts.
    pub(super) fn parts(&self, now: Option<fleet::Operation>) -> Vec<fleet::OperationPart> {
        use fleet::operation_part::Part;
        let batch = |at: usize| self.ends.iter().take_while(|end| **end <= at).count() + 1;
        let hosts = self.members.iter().enumerate();
        let hosts = hosts.map(|(at, member)| Part::Host(member.shown(&self.id, batch(at))));
        let operation = Part::Operation(now.unwrap_or_else(|| self.now.borrow().clone()));
        std::iter::once(operation)
            .chain(hosts)
            .map(|part| fleet::OperationPart { part: Some(part) })
            .collect()
    }

    fn tell(&mut self, event: run_event::Event) {
        self.callers.retain(|caller| caller.tell(event.clone()));
    }

    /// Those who listen are told what is left, and that there is nothing more to hear for now.
    fn dismiss(&mut self) {
        if self.callers.is_empty() {
            return;
        }
        for event in self.farewell() {
            self.tell(event);
        }
        self.callers.clear();
    }

    fn show(&self) {
        let (ok, failed) = self.counts();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let mut shown = self.record.shown(&self.id);
        if self.record.state == State::Running && self.is_settled() {
            shown.state = OperationState::Waiting.into();
        }
        shown.ok = count(ok);
        shown.failed = count(failed);
        shown.under_way = count(self.members.iter().filter(|member| member.is_begun()).count());
        shown.batch = count((self.batch + 1).min(self.ends.len()));
        shown.batches = count(self.ends.len());
        self.now.send_replace(shown);
    }

    /// Nothing happens before a host returns or a time is reached.
    fn is_settled(&self) -> bool {
        let running = self.record.state == State::Running;
        let has_more = |member: &Member| member.is_begun() || (running && !member.is_done());
        !self
            .members
            .iter()
            .any(|member| member.ending.is_some() || (member.is_present() && has_more(member)))
    }

    fn is_over(&self) -> bool {
        match self.record.state {
            State::Finished => true,
            State::Stopped | State::Cancelled => !self.members.iter().any(Member::is_begun),
            State::Running => false,
        }
    }

    /// Whether somebody has to carry it out.
    pub(super) fn is_under_way(&self) -> bool {
        !self.is_over()
    }

    fn has_expired(&self) -> bool {
        clock::now().0 >= self.record.expires
    }

    fn standings(&self) -> Vec<rollout::Standing> {
        self.members.iter().map(Member::standing).collect()
    }

    fn counts(&self) -> (usize, usize) {
        let results = self.members.iter().filter_map(|member| match &member.stage {
            Stage::Done { result, .. } => Some(record::result(result)),
            Stage::Waiting | Stage::Remembered { .. } | Stage::Begun { .. } => None,
        });
        results.fold((0, 0), |(ok, failed), result| match result {
            HostResult::Ok => (ok + 1, failed),
            HostResult::Failed | HostResult::TimedOut => (ok, failed + 1),
            _ => (ok, failed),
        })
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.record.timeout_seconds))
    }

    fn state_word(&self) -> &'static str {
        match self.record.state {
            State::Running => "running",
            State::Stopped => "stopped",
            State::Cancelled => "cancelled",
            State::Finished => "finished",
        }
    }
}

impl From<TurnError> for RunError {
    fn from(error: TurnError) -> RunError {
        match error {
            TurnError::Desired(DesiredError::Store(error)) | TurnError::Store(error) => {
                RunError::Store(error)
            }
            TurnError::Desired(DesiredError::Record(error)) => RunError::Record(error),
            TurnError::Elsewhere(holder) => RunError::Elsewhere(holder),
        }
    }
}

fn done((result, reason): &(HostResult, String)) -> Stage {
    let result = record::result_word(*result).to_owned();
    Stage::Done { result, reason: reason.clone(), ended: clock::now().0, forgiven: false }
}

/// Completes when a host of the operation comes or goes, or may have.
async fn changed(presence: &mut broadcast::Receiver<String>, numbers: &HashMap<String, usize>) {
    loop {
        match presence.recv().await {
            Ok(host) if numbers.contains_key(&host) => return,
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(_)) => return,
            // Without a registry there are no hosts.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
