//! From a host's turn to its link: what is wished of it and that it has begun are stored, then it is told. What its
//! answers mean is [`super`]'s.

use fleetvisor_model::name::ProcessName;
use fleetvisor_proto::fleet::{Command, RunProgress, Verb, run_event};
use tokio::time::Instant;

use super::super::member::Member;
use super::super::record::{self, Stage, State};
use super::{Driver, TurnError};
use crate::desired::{self, DesiredError};
use crate::reconcile::{Run, Wish};
use crate::records;
use crate::registry::host::Answers;
use crate::store::Transaction;

impl Driver {
    /// Stores that these hosts begin, with what is wished of them, and tells them. The lanes keep the wishes of
    /// several operations in the order of their revisions on the way to a host.
    pub(super) async fn begin(&mut self, mut numbers: Vec<usize>) -> Result<(), TurnError> {
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
                Stage::Begun { wish: Some(member.wish), wished: member.planned.processes.to_vec() }
            } else {
                let (wished, run) = self.wishes(member).await?;
                transaction = desired::put(transaction, &member.planned.host, &wished, run, &self.record.by);
                Stage::Begun { wish: None, wished }
            };
            let stored = member.record(stage.clone());
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
    pub(super) async fn leave_stopped(&mut self, at: usize) -> Result<(), TurnError> {
        if self.verb != Verb::Restart {
            return Ok(());
        }
        let member = &self.members[at];
        let (host, processes) = (member.planned.host.clone(), &member.planned.processes);
        let stopped = desired::stopped(&*self.controller.store, &host, processes).await?;
        for (name, when) in stopped {
            if when.0 > self.record.made
                && let Some(left) = self.members[at].leave(&name)
            {
                let progress = RunProgress { host: host.clone(), results: vec![left] };
                self.tell(run_event::Event::Progress(progress));
            }
        }
        Ok(())
    }

    /// What of the verb is to be remembered. A restart is not, but undoes a stop that is.
    pub(super) async fn wishes(&self, member: &Member) -> Result<(Vec<ProcessName>, Run), DesiredError> {
        let processes = &member.planned.processes;
        Ok(match self.verb {
            Verb::Start => (processes.to_vec(), Run::Started),
            Verb::Stop => (processes.to_vec(), Run::Stopped),
            Verb::Restart => {
                let store = &*self.controller.store;
                let stopped = desired::stopped(store, &member.planned.host, processes).await?;
                let meant = stopped.into_iter().map(|(name, _)| name).filter(|name| !member.leaves(name));
                (meant.collect(), Run::Started)
            }
            Verb::Signal | Verb::Update | Verb::Upgrade | Verb::Apply | Verb::Unspecified => {
                (Vec::new(), Run::Started)
            }
        })
    }

    /// A start or a stop of a host that is away at its turn is stored: it is told with the next link.
    pub(super) async fn remember_absent(&mut self, turn: usize) -> Result<(), TurnError> {
        let run = match self.verb {
            Verb::Start => Run::Started,
            Verb::Stop => Run::Stopped,
            Verb::Restart | Verb::Signal | Verb::Update | Verb::Upgrade | Verb::Apply | Verb::Unspecified => {
                return Ok(());
            }
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
            let stored = member.record(stage.clone());
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
    pub(super) fn send(&mut self, at: usize, recall: bool) -> bool {
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
    pub(super) async fn send_again(&mut self) {
        let recall = self.record.state == State::Cancelled || self.has_expired();
        for at in 0..self.members.len() {
            let member = &self.members[at];
            if !member.is_begun() || member.ending.is_some() {
                continue;
            }
            let link = member.host.link();
            if link.is_none() || link == member.sent {
                continue;
            }
            let host = member.host.clone();
            let _lane = host.lane.lock().await;
            self.send(at, recall);
        }
    }
}
