//! What the loop does in an upgrade: shows a candidate what there is, and leaves once everything is in the keeper's hands.

use std::os::fd::OwnedFd;
use std::time::Duration;

use fleetvisor_keeper::frame::REPLACES;
use fleetvisor_model::state::DaemonState;
use fleetvisor_model::time::Monotonic;
use tokio::sync::oneshot;

use super::{Offer, Seen, Upgrade, UpgradeError};
use crate::run::Agent;
use crate::{clock, journal};

/// How long it waits for a moment at which nothing is under way, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(10);
pub(crate) const UNTIL_QUIET: Duration = Duration::from_millis(5);

/// A proven program that is to be the next agent.
#[derive(Debug)]
pub(crate) struct Leaving {
    program: OwnedFd,
    upgrade: Upgrade,
    answer: oneshot::Sender<Result<(), UpgradeError>>,
    until: Monotonic,
}

impl Leaving {
    pub(crate) fn new(
        program: OwnedFd,
        upgrade: Upgrade,
        answer: oneshot::Sender<Result<(), UpgradeError>>,
    ) -> Leaving {
        Leaving { program, upgrade, answer, until: clock::now().monotonic + PATIENCE }
    }
}

impl Agent {
    pub(crate) fn offer(&self) -> Result<Offer, UpgradeError> {
        if self.core().state() != DaemonState::Running {
            return Err(UpgradeError::Ending);
        }
        let frames = self.children.frames();
        if frames < REPLACES {
            return Err(UpgradeError::Keeper);
        }
        let snapshot = self.legacy.snapshot(&self.decisions, &self.groups, self.next_ticket);
        let (journal, _) = snapshot.map_err(UpgradeError::Journal)?;
        Ok(Offer { journal, frames, processes: Seen::all(self.core().statuses(clock::now())) })
    }

    /// Whether everything is in the keeper's hands and this agent is to leave now.
    pub(crate) fn is_leaving(&mut self) -> bool {
        let Some(leaving) = self.leaving.take() else { return false };
        let Leaving { program, upgrade, answer, until } = leaving;
        let refused = if self.core().state() != DaemonState::Running {
            UpgradeError::Ending
        } else if self.legacy.is_quiet(&self.children) {
            match self.leave_to(program, upgrade) {
                Ok(()) => {
                    self.handle.leave();
                    self.logs.then(move || {
                        let _ = answer.send(Ok(()));
                    });
                    return true;
                }
                Err(error) => UpgradeError::Journal(error),
            }
        } else if until <= clock::now().monotonic {
            UpgradeError::Busy
        } else {
            self.leaving = Some(Leaving { program, upgrade, answer, until });
            return false;
        };
        let _ = answer.send(Err(refused));
        false
    }

    /// A snapshot without a step behind it, which is in a form that other releases read; and the program.
    fn leave_to(&mut self, program: OwnedFd, upgrade: Upgrade) -> std::io::Result<()> {
        let before = self.legacy.upgrade.replace(upgrade);
        match self.legacy.snapshot(&self.decisions, &self.groups, self.next_ticket) {
            Ok((descriptor, _)) => {
                self.children.stash(journal::KEY, Vec::new(), vec![descriptor]);
                self.children.replace(program);
                Ok(())
            }
            Err(error) => {
                self.legacy.upgrade = before;
                Err(error)
            }
        }
    }
}
