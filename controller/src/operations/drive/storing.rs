//! What is stored of an operation that is under way, before anything follows from it: how hosts came out, its state,
//! and who carries it out.

use fleetvisor_proto::fleet::{HostDone, HostResult, run_event};
use tokio::time::Instant;

use super::super::record::{self, OperationRecord, Stage, State};
use super::{Driver, LEASE, LEASE_RENEWAL, TurnError, WAVE};
use crate::audit::{Entry, Outcome};
use crate::clock;
use crate::records;
use crate::store::{Claim, Transaction};

impl Driver {
    /// Stores how hosts came out, and then says so.
    pub(super) async fn store_members(&mut self) -> Result<(), TurnError> {
        let ended: Vec<usize> =
            (0..self.members.len()).filter(|at| self.members[*at].ending.is_some()).collect();
        let unstored = std::mem::take(&mut self.unstored);
        let changed: Vec<usize> = ended.into_iter().chain(unstored.iter().copied()).collect();
        for wave in changed.chunks(WAVE) {
            let mut transaction = Transaction::default();
            for at in wave {
                let member = &self.members[*at];
                let stored = member.record(member.ending.as_ref().map_or(member.stage.clone(), done));
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
            if let Some(following) = member.following.take() {
                following.abort();
            }
            let (result, reason) = ending;
            let done = HostDone { host: Some(member.host.describe()), result: result.into(), reason };
            self.tell(run_event::Event::HostDone(done));
        }
    }

    pub(super) async fn set_state(
        &mut self,
        state: State,
        reason: String,
        outcome: Outcome,
    ) -> Result<(), TurnError> {
        self.store_state(self.record.clone(), state, reason, outcome).await
    }

    pub(super) async fn store_state(
        &mut self,
        mut next: OperationRecord,
        state: State,
        reason: String,
        outcome: Outcome,
    ) -> Result<(), TurnError> {
        next.state = state;
        next.reason = reason;
        next.ended = (state != State::Running).then(|| clock::now().0);
        (next.ok, next.failed) = self.counts();
        let key = record::operation_key(&self.id);
        self.controller.store.commit(Transaction::default().put(key, records::encode(&next))).await?;
        self.record = next;
        if state != State::Running {
            let (by, what) = (self.record.by.clone(), self.record.audited());
            let detail = format!("{}: {}", self.state_word(), self.record.reason);
            self.audit(&by, &what, outcome, detail).await;
        }
        tracing::info!("operation {} is {}: {}", self.id, self.state_word(), self.record.reason);
        self.show();
        let now = self.now.borrow().clone();
        self.tell(run_event::Event::Operation(now));
        Ok(())
    }

    pub(super) async fn audit(&self, by: &str, what: &str, outcome: Outcome, detail: String) {
        self.controller.audit.note(Entry::new(by, what, &*self.id).detail(detail).outcome(outcome)).await;
    }

    /// Of several controllers one carries it out.
    pub(super) async fn keep_claim(&mut self, now: Instant) -> Result<(), TurnError> {
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
    pub(super) async fn store_counts(&mut self) -> Result<(), TurnError> {
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
}

fn done((result, reason): &(HostResult, String)) -> Stage {
    let result = record::result_word(*result).to_owned();
    Stage::Done { result, reason: reason.clone(), ended: clock::now().0, forgiven: false }
}
