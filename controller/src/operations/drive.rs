//! One operation under way. Owns the order that makes it safe: what was decided is stored before it is sent, and
//! what a host answered is stored before anything follows from it. So whenever the controller is killed, the next
//! one takes up the operation from its records ([`Driver::load`]) and repeats nothing: hosts know the ids that
//! they have carried out. Which host is next is [`crate::rollout`]'s to say.
//!
//! - `sending`: from a host's turn to its link. `applying`: the same for a revision of a bundle.
//! - `asks`: watch, cancel, resume. `storing`: what is kept of it. `telling`: what others hear of it.
//!
//! ```text
//!   turn: answers and times --store--> rollout::next --store--> send
//!    ^                                                           |
//!    '------ an answer, a host that comes or goes, a time, an ask <'
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fleetvisor_model::time::Wall;
use fleetvisor_proto::fleet::{self, HostResult, RunProgress, Verb, run_event};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::RunError;
use super::caller::Caller;
use super::member::{Member, absence};
use super::record::{self, MemberRecord, OperationRecord, PlanPiece, PlannedHost, Stage, State};
use crate::audit::Outcome;
use crate::bundles::catalog::BundleError;
use crate::clock;
use crate::controller::Controller;
use crate::desired::{self, DesiredError};
use crate::records;
use crate::registry::host::Answer;
use crate::rollout::{self, Next, Standing, Strategy};

mod applying;
mod asks;
mod sending;
mod storing;
mod telling;

/// How soon what the store refused is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// How long all who are left have to be away before a revision is settled: hosts dial twice in that time.
const SETTLE_AFTER: Duration = Duration::from_secs(60);
const LEASE: Duration = Duration::from_secs(60);
const LEASE_RENEWAL: Duration = Duration::from_secs(20);
/// Hosts that share a transaction at most.
const WAVE: usize = 256;
/// Answers that are taken in one go.
const ANSWERS_MAX: usize = 4096;
/// Where so many hosts or more are under way, those that come out within this time are stored together.
const MANY: usize = 64;
const GATHER: Duration = Duration::from_millis(20);
/// Failed hosts that a reason names.
const NAMED: usize = 5;

/// What somebody wants of an operation that is under way.
#[derive(Debug)]
pub(super) enum Ask {
    Watch(Caller),
    Cancel {
        by: String,
        answer: oneshot::Sender<Result<fleet::Operation, RunError>>,
    },
    Resume {
        by: String,
        answer: oneshot::Sender<Result<fleet::Operation, RunError>>,
    },
    /// Something else may have taken its place.
    Look,
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
    /// Tasks that wait for hosts to have applied a revision; they end with this.
    following: JoinSet<()>,
    presence: broadcast::Receiver<String>,
    /// Hosts may have come, gone or been revoked since they were looked at.
    stirred: bool,
    callers: Vec<Caller>,
    now: watch::Sender<fleet::Operation>,
    /// The first batch that is not good, and since when the one before it is.
    batch: usize,
    good_since: Instant,
    /// Since when all who are left are away.
    only_away: Option<Instant>,
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
    #[error(transparent)]
    Bundle(#[from] BundleError),
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
            following: JoinSet::new(),
            presence,
            stirred: true,
            callers: Vec::new(),
            batch: 0,
            good_since: Instant::now(),
            only_away: None,
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
            planned.extend(records::decode::<PlanPiece>(&key, &piece)?.into_hosts());
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
                    let Ok(ask) = inbox.try_recv() else { return self.leave(inbox).await };
                    self.ask(ask).await;
                    continue;
                }
            }
            let mut ended = false;
            let gathered = Instant::now() + if self.under_way() >= MANY { GATHER } else { Duration::ZERO };
            loop {
                tokio::select! {
                    ask = inbox.recv() => match ask {
                        Some(ask) => self.ask(ask).await,
                        None => return,
                    },
                    _ = self.answers.recv_many(&mut answered, ANSWERS_MAX) => {
                        for (number, answer) in answered.drain(..) {
                            ended |= self.answer(number, answer);
                        }
                        // Nothing follows from it before a host has come out.
                        continue;
                    }
                    () = sleep_until(gathered), if ended => {}
                    () = changed(&mut self.presence, &self.numbers) => self.stirred = true,
                    () = sleep_until(wake) => {}
                }
                break;
            }
        }
    }

    /// Whoever came too late to be heard is told how it ended; who asks for more does it without this driver.
    async fn leave(mut self, mut inbox: mpsc::UnboundedReceiver<Ask>) {
        inbox.close();
        while let Ok(ask) = inbox.try_recv() {
            if let Ask::Watch(_) = ask {
                self.ask(ask).await;
            }
        }
        self.dismiss();
    }

    /// Does all that can be done now, and gives the time at which there is more.
    async fn turn(&mut self) -> Result<Instant, TurnError> {
        let now = Instant::now();
        if let Some(retry) = self.retry_at.filter(|retry| *retry > now) {
            return Ok(retry);
        }
        self.retry_at = None;
        self.keep_claim(now).await?;
        if std::mem::take(&mut self.stirred) {
            self.refuse_revoked();
            match self.verb {
                Verb::Apply => self.follow_begun(),
                _ => self.send_again().await,
            }
        }
        self.end_by_time(now).await?;
        self.give_way().await?;
        self.store_members().await?;
        let mut wake = now + LEASE_RENEWAL;
        if self.record.state == State::Running {
            if let Some(left) = self.go_on(now).await? {
                wake = wake.min(now + left);
            }
            if self.may_expire() {
                let left = u64::try_from(self.record.expires.saturating_sub(clock::now().0)).unwrap_or(0);
                wake = wake.min(now + Duration::from_micros(left));
            }
        }
        self.revert().await?;
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
        let next = rollout::next(&self.strategy, &standings, now - self.good_since);
        if next != Next::OnlyAway {
            self.only_away = None;
        }
        match next {
            Next::Begin { hosts, batch } => {
                self.announce(batch);
                self.remember_absent(self.ends[batch]).await?;
                for wave in hosts.chunks(WAVE) {
                    match self.verb {
                        Verb::Apply => self.reach(wave).await?,
                        _ => self.begin(wave.to_vec()).await?,
                    }
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
            Next::Halt { bad, allowed, batch } => self.stop(bad, allowed, batch).await.map(|()| None),
            Next::OnlyAway => {
                self.remember_absent(self.members.len()).await?;
                // Right after a controller's start nobody is there yet.
                let lasts = now - *self.only_away.get_or_insert(now);
                if lasts >= SETTLE_AFTER {
                    self.settle().await?;
                    return Ok(None);
                }
                Ok(Some(SETTLE_AFTER - lasts))
            }
            Next::Finished => {
                let bad = standings.iter().filter(|standing| **standing == Standing::Bad).count();
                let allowed = self.strategy.failures_allowed(standings.len());
                if self.verb == Verb::Apply && bad > allowed {
                    return self.stop(bad, allowed, self.ends.len()).await.map(|()| None);
                }
                self.settle().await?;
                let (ok, failed) = self.counts();
                let rest = self.members.len() - ok - failed;
                let reason = format!("{ok} ok, {failed} failed, {rest} not done");
                let outcome = if ok == self.members.len() { Outcome::Done } else { Outcome::Failed };
                self.set_state(State::Finished, reason, outcome).await?;
                Ok(None)
            }
        }
    }

    /// More have failed than may.
    async fn stop(&mut self, bad: usize, allowed: usize, batch: usize) -> Result<(), TurnError> {
        let failed = self.members.iter().filter(|member| member.standing() == Standing::Bad);
        let names: Vec<&str> = failed.map(|member| member.planned.host.as_str()).collect();
        let more = if names.len() > NAMED { ", ..." } else { "" };
        let names = names[..names.len().min(NAMED)].join(", ");
        let (batch, of) = ((batch + 1).min(self.ends.len()), self.ends.len());
        let reason =
            format!("{bad} failed ({names}{more}), and {allowed} may; stopped at batch {batch} of {of}");
        self.set_state(State::Stopped, reason, Outcome::Failed).await
    }

    /// Whether the host has come out by it.
    fn answer(&mut self, number: usize, answer: Answer) -> bool {
        let member = &mut self.members[number];
        if !member.is_begun() || member.ending.is_some() {
            return false;
        }
        match answer {
            Answer::Progress(progress) => {
                let results = member.progress(self.verb, progress.results);
                if !results.is_empty() && !self.callers.is_empty() {
                    let (results, host) = (results.to_vec(), member.planned.host.clone());
                    self.tell(run_event::Event::Progress(RunProgress { host, results }));
                }
                false
            }
            Answer::Done(done) => {
                member.finished(done);
                true
            }
        }
    }

    /// Nobody waits for hosts that may not come back.
    fn refuse_revoked(&mut self) {
        let running = self.record.state == State::Running;
        for member in &mut self.members {
            let is_open = member.is_begun() || (running && !member.is_done());
            if is_open && member.ending.is_none() && member.host.is_revoked() {
                member.refused(self.verb);
            }
        }
    }

    /// Ends what took too long: hosts without an answer, and those that have not begun in time.
    async fn end_by_time(&mut self, now: Instant) -> Result<(), TurnError> {
        let expired = self.has_expired() && self.may_expire();
        let (verb, seconds) = (self.verb, self.record.timeout_seconds);
        for at in 0..self.members.len() {
            let member = &mut self.members[at];
            if member.is_done() || member.ending.is_some() {
                continue;
            }
            if member.is_begun() {
                if member.deadline.is_some_and(|deadline| deadline <= now) {
                    member.timed_out(verb, seconds);
                }
                continue;
            }
            if member.planned.processes.is_empty() && !verb.is_of_host() {
                let reason = format!("{}, not {}", absence(&member.host), verb.past());
                member.ending = Some((HostResult::Away, reason));
            } else if expired && self.record.state == State::Running {
                // What is settled reaches a host whenever it returns.
                let keeps_wish = matches!(member.stage, Stage::Remembered { .. }) || verb == Verb::Apply;
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

    /// Nothing happens before a host returns or a time is reached.
    fn is_settled(&self) -> bool {
        let running = self.record.state == State::Running;
        let has_more = |member: &Member| member.is_begun() || (running && !member.is_done());
        // A host that is being upgraded goes, and is about to return.
        let is_expected = |member: &Member| self.verb == Verb::Upgrade && member.is_begun();
        let has_news = |member: &Member| has_more(member) && (member.is_present() || is_expected(member));
        !self.owes_revert() && !self.members.iter().any(|member| member.ending.is_some() || has_news(member))
    }

    fn is_over(&self) -> bool {
        match self.record.state {
            State::Finished => true,
            State::Stopped | State::Cancelled => {
                !self.members.iter().any(Member::is_begun) && !self.owes_revert()
            }
            State::Running => false,
        }
    }

    /// Whether somebody has to carry it out.
    pub(super) fn is_under_way(&self) -> bool {
        !self.is_over()
    }

    fn under_way(&self) -> usize {
        self.members.iter().filter(|member| member.is_begun()).count()
    }

    fn has_expired(&self) -> bool {
        clock::now().0 >= self.record.expires
    }

    fn standings(&self) -> Vec<Standing> {
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
            TurnError::Bundle(error) => RunError::Bundle(error),
            TurnError::Elsewhere(holder) => RunError::Elsewhere(holder),
        }
    }
}

/// Completes when a host of the operation comes or goes, or may have; those that come together count once.
async fn changed(presence: &mut broadcast::Receiver<String>, numbers: &HashMap<String, usize>) {
    loop {
        match presence.recv().await {
            Ok(host) if numbers.contains_key(&host) => break,
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(_)) => break,
            // Without a registry there are no hosts.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
    while !matches!(
        presence.try_recv(),
        Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed)
    ) {}
}
