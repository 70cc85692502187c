//! A revision of a bundle on its way through its hosts. That a host should have it from now on is stored before it is
//! told. Once every host that is there has had its turn the revision is settled: whoever joins later gets it, too; who
//! was away keeps what it has until its turn, which comes when it returns. Too many failures stop it, and may put back
//! what was settled before, which is an operation of its own.
//!
//! ```text
//!   turns ----> settled ----> finished
//!     |            |
//!     '------------'-- too many failed --> stopped --revert--> a later revision takes its place
//! ```

use std::collections::BTreeSet;

use fleetvisor_proto::fleet::{CommandDone, HostResult, Verb, run_event};
use tokio::time::Instant;

use super::super::RunError;
use super::super::record::{self, AppliedRecord, MemberRecord, OperationRecord, Stage, State};
use super::{Driver, TurnError};
use crate::audit::Outcome;
use crate::bundles::{self, Later, RevertError};
use crate::records;
use crate::registry::host::Answer;
use crate::store::Transaction;

impl Driver {
    /// Stores that these hosts should have the revision, and tells them.
    pub(super) async fn reach(&mut self, numbers: &[usize]) -> Result<(), TurnError> {
        let Some(applied) = self.record.applied.clone() else { return Ok(()) };
        let begun =
            MemberRecord { stage: Stage::Begun { wish: None, wished: Vec::new() }, results: Vec::new() };
        let hosts: Vec<String> = numbers.iter().map(|at| self.members[*at].planned.host.clone()).collect();
        let transaction = hosts.iter().fold(Transaction::default(), |transaction, host| {
            transaction.put(record::member_key(&self.id, host), records::encode(&begun))
        });
        let controller = self.controller.clone();
        let AppliedRecord { bundle, revision, .. } = &applied;
        if !controller.bundles.reach(&*controller.store, bundle, *revision, &hosts, transaction).await? {
            // A later revision was faster; the next turn gives way to it.
            return Ok(());
        }
        let deadline = Instant::now() + self.timeout();
        for at in numbers {
            self.members[*at].stage = begun.stage.clone();
            self.members[*at].deadline = Some(deadline);
        }
        self.follow_begun();
        Ok(())
    }

    /// Tells hosts that have begun, and waits for them to say how it went.
    pub(super) fn follow_begun(&mut self) {
        let Some(AppliedRecord { bundle, revision, .. }) = &self.record.applied else { return };
        for (at, member) in self.members.iter_mut().enumerate() {
            if !member.is_begun() || member.ending.is_some() || member.following.is_some() {
                continue;
            }
            let (host, bundle, id) = (member.host.clone(), bundle.clone(), self.id.clone());
            // One that does not get it, having had the revision before, is to be without.
            let wanted = self.controller.bundles.is_for(&bundle, &host).then_some(*revision);
            let answers = self.answers_to.clone();
            let since = host.told.touch();
            host.news.notify_one();
            member.following = Some(self.following.spawn(async move {
                let error = host.told.applied(&bundle, wanted, since).await.err().unwrap_or_default();
                let done = CommandDone { id, error, ..CommandDone::default() };
                // The operation may have ended meanwhile.
                let _ = answers.send((at, Answer::Done(done)));
            }));
        }
    }

    /// Everybody should have it from now on who does not wait for a turn.
    pub(super) async fn settle(&mut self) -> Result<(), TurnError> {
        let Some(AppliedRecord { bundle, revision, .. }) = &self.record.applied else { return Ok(()) };
        let controller = &self.controller;
        let waits = self.members.iter().filter(|member| member.stage == Stage::Waiting);
        let waits: BTreeSet<String> = waits.map(|member| member.planned.host.clone()).collect();
        if controller.bundles.settle(&*controller.store, bundle, *revision, &waits).await? {
            for host in controller.registry.all() {
                if !self.numbers.contains_key(&host.name) {
                    host.told.touch();
                    host.news.notify_one();
                }
            }
        }
        Ok(())
    }

    /// Where a later revision has been made nobody begins any more, and nobody is waited for.
    pub(super) async fn give_way(&mut self) -> Result<(), TurnError> {
        let Some(applied) = &self.record.applied else { return Ok(()) };
        let later = self.controller.bundles.later_than(&applied.bundle, applied.revision);
        let Some(Later { revision, reverted_by }) = later else { return Ok(()) };
        if applied.superseded || self.record.state == State::Finished {
            return Ok(());
        }
        let reason = format!("revision {revision} has taken its place");
        for member in &mut self.members {
            if member.is_begun() && member.ending.is_none() {
                member.ending = Some((HostResult::NotBegun, reason.clone()));
            }
        }
        let next = self.with_applied(|applied| {
            applied.superseded = true;
            applied.reverted_by = reverted_by;
        });
        match next.state {
            State::Running => self.store_state(next, State::Cancelled, reason, Outcome::Failed).await,
            State::Stopped | State::Cancelled | State::Finished => self.store_record(next).await,
        }
    }

    /// Whether the revision before has yet to be put back.
    pub(super) fn owes_revert(&self) -> bool {
        let owes =
            |applied: &AppliedRecord| applied.revert && applied.reverted_by.is_none() && !applied.superseded;
        self.record.state == State::Stopped && self.record.applied.as_ref().is_some_and(owes)
    }

    /// Puts back what was settled before, if that is owed. It is one transaction, so it happens once whoever is
    /// killed: afterwards a later revision has taken this one's place.
    pub(super) async fn revert(&mut self) -> Result<(), TurnError> {
        let Some(applied) = self.record.applied.clone().filter(|_| self.owes_revert()) else { return Ok(()) };
        let (by, timeout) = (self.record.by.clone(), self.record.timeout_seconds);
        let between = (applied.before, applied.revision);
        match bundles::revert(self.controller.clone(), applied.bundle, between, by, timeout).await {
            Ok(()) => self.give_way().await,
            Err(RevertError::Store(error)) => Err(error.into()),
            Err(RevertError::Refused(why)) => {
                let mut next = self.with_applied(|applied| applied.reverted_by = Some(String::new()));
                next.reason = format!("{}; the revision before cannot be put back: {why}", next.reason);
                self.store_record(next).await
            }
        }
    }

    /// Whether it is kept to its expiry: one that is on its way is not, for then it would end half-way.
    pub(super) fn may_expire(&self) -> bool {
        self.verb != Verb::Apply || self.is_settled_revision()
    }

    fn is_settled_revision(&self) -> bool {
        let applied = self.record.applied.as_ref();
        applied.is_some_and(|it| self.controller.bundles.is_settled(&it.bundle, it.revision))
    }

    /// What every host is going to have cannot be cancelled.
    pub(super) fn refuse_cancel(&self) -> Result<(), RunError> {
        match &self.record.applied {
            Some(applied) if !self.strategy.is_gradual(self.members.len()) => {
                Err(RunError::Settled { bundle: applied.bundle.clone(), revision: applied.revision })
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn refuse_resume(&self) -> Result<(), RunError> {
        let Some(AppliedRecord { bundle, revision, .. }) = &self.record.applied else { return Ok(()) };
        match self.controller.bundles.later_than(bundle, *revision) {
            Some(later) => Err(RunError::Superseded {
                bundle: bundle.clone(),
                revision: *revision,
                later: later.revision,
            }),
            None => Ok(()),
        }
    }

    fn with_applied(&self, change: impl FnOnce(&mut AppliedRecord)) -> OperationRecord {
        let mut next = self.record.clone();
        if let Some(applied) = &mut next.applied {
            change(applied);
        }
        next
    }

    /// What callers should hear of, in the state that it is in.
    async fn store_record(&mut self, next: OperationRecord) -> Result<(), TurnError> {
        let key = record::operation_key(&self.id);
        self.controller.store.commit(Transaction::default().put(key, records::encode(&next))).await?;
        self.record = next;
        self.show();
        let now = self.now.borrow().clone();
        self.tell(run_event::Event::Operation(now));
        Ok(())
    }
}
