//! What people want of an operation that is under way: to watch, to cancel, to resume.

use fleetvisor_proto::fleet;

use super::super::RunError;
use super::super::record::{Stage, State};
use super::{Ask, Driver};
use crate::audit::Outcome;
use crate::clock;
use crate::rollout;

impl Driver {
    pub(super) async fn ask(&mut self, ask: Ask) {
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
            // The next turn does.
            Ask::Look => {}
        }
    }

    /// Lets no further host begin.
    pub(in crate::operations) async fn cancel(&mut self, by: &str) -> Result<fleet::Operation, RunError> {
        match self.record.state {
            State::Running | State::Stopped => {}
            State::Cancelled | State::Finished => {
                return Err(RunError::State { id: self.id.clone(), state: self.state_word() });
            }
        }
        self.refuse_cancel()?;
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
    pub(in crate::operations) async fn resume(&mut self, by: &str) -> Result<fleet::Operation, RunError> {
        match self.record.state {
            State::Stopped | State::Cancelled => {}
            State::Running | State::Finished => {
                return Err(RunError::State { id: self.id.clone(), state: self.state_word() });
            }
        }
        self.refuse_resume()?;
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
}
