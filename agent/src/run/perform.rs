//! What was decided is done: effects of the core and deeds of the pools go to the children, the logs, and whoever waits
//! for an outcome or watches.

use std::sync::Arc;
use std::time::Duration;

use fleetvisor_core::decisions::Step;
use fleetvisor_core::effect::{Change, Effect, Instance};
use fleetvisor_core::pool::Deed;
use fleetvisor_core::request::{Outcome, Ticket};
use fleetvisor_core::supervisor::Input;
use fleetvisor_model::config::GroupKind;
use fleetvisor_model::name::ProcessName;
use fleetvisor_model::signal::Signal;
use fleetvisor_model::state::DaemonState;
use fleetvisor_model::time::Monotonic;

use super::{Agent, Asker};
use crate::clock;
use crate::fcgi;
use crate::inbox::Watched;

/// How long the signal that ends a listener waits for its answer to an event, where the daemon ends: about as long
/// as it takes Supervisor's loop to come by again.
const LAST_WORDS: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct LastWords {
    instance: Instance,
    signal: Signal,
    to_group: bool,
    pub(super) until: Monotonic,
}

impl Agent {
    pub(crate) fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Spawn { instance, name } => {
                if let Err(error) = self.spawn(instance, &name) {
                    // After the acts that are still to be performed.
                    self.steps.push_back(Step::Input(Input::SpawnFailed { instance, error }));
                }
            }
            Effect::Signal { instance, signal, to_group } => {
                let last_words =
                    LastWords { instance, signal, to_group, until: clock::now().monotonic + LAST_WORDS };
                if signal != Signal::KILL
                    && self.core().state() != DaemonState::Running
                    && self.speaks(instance)
                {
                    self.last_words.push(last_words);
                } else {
                    self.children.signal(instance, signal, to_group);
                }
            }
            Effect::Changed(change) => self.changed(&change),
            Effect::Outcome { ticket, name, outcome } => self.answer(ticket, name, outcome),
            Effect::Done { ticket } => {
                self.askers.remove(&ticket);
            }
            Effect::GroupAdded(group) => {
                for process in &group.processes {
                    self.tell_watchers(&process.name);
                }
            }
            Effect::GroupRemoved(group) => {
                self.groups.removed(&group.name);
                for process in group.processes {
                    self.watchers
                        .retain(|watcher| watcher.send(Watched::Removed(process.name.clone())).is_ok());
                }
            }
            Effect::Log { level, line } => self.legacy.line(level, line, &self.logs),
            Effect::Stopping => {}
            Effect::Finished(state) => self.finished = Some(state),
        }
    }

    pub(super) fn perform_deed(&mut self, deed: Deed) {
        match deed {
            Deed::Send { name, envelope } => {
                let instance = self.core().process(&name).and_then(|process| process.instance());
                let sent =
                    instance.is_some_and(|it| self.children.write_stdin(it, envelope.as_bytes()).is_ok());
                if !sent {
                    self.steps.push_back(Step::SendFailed { name });
                }
            }
            Deed::Log { level, line } => self.legacy.line(level, line, &self.logs),
            Deed::Print(text) => self.logs.print(text),
        }
    }

    fn spawn(&mut self, instance: Instance, name: &ProcessName) -> Result<(), String> {
        let Some(config) = self.core().process(name).map(|process| process.config().clone()) else {
            return Ok(());
        };
        let kind = self.decisions.supervisor().group(&name.group).map(|group| &group.kind);
        let stdin = match kind {
            Some(GroupKind::Fcgi(socket)) => {
                let held = self.sockets.hold(name, socket, &self.logs).map_err(|error| error.to_string())?;
                if let Ok(kept) = held.try_clone() {
                    self.children.stash(&(fcgi::STASH.to_owned() + &name.group), Vec::new(), vec![kept]);
                }
                Some(held)
            }
            Some(GroupKind::Programs | GroupKind::Listeners { .. }) | None => None,
        };
        let is_listener = matches!(kind, Some(GroupKind::Listeners { .. }));
        self.children.spawn(instance, &config, is_listener, stdin)
    }

    /// Whoever asked may have gone; what was asked goes on.
    fn answer(&mut self, ticket: Ticket, name: ProcessName, outcome: Outcome) {
        if let Some(Asker::Verb(outcomes)) = self.askers.get(&ticket) {
            let outcomes = outcomes.clone();
            return self.answers.give(&self.logs, move || {
                let _ = outcomes.send((name, outcome));
            });
        }
        match self.askers.remove(&ticket) {
            Some(Asker::Group(answer)) => self.answers.give(&self.logs, move || {
                let _ = answer.send(outcome);
            }),
            Some(Asker::Daemon(answer)) => self.answers.give(&self.logs, move || {
                let _ = answer.send(());
            }),
            Some(Asker::Verb(_) | Asker::Nobody) | None => {}
        }
    }

    /// Whether it is a listener that has an event to answer.
    fn speaks(&self, instance: Instance) -> bool {
        self.core().name_of(instance).is_some_and(|name| self.decisions.pools().is_busy(name))
    }

    /// Signals the listeners that have answered, or had their time.
    pub(super) fn end_last_words(&mut self) {
        let now = clock::now().monotonic;
        let (speaking, done): (Vec<_>, Vec<_>) = std::mem::take(&mut self.last_words)
            .into_iter()
            .partition(|listener| listener.until > now && self.speaks(listener.instance));
        self.last_words = speaking;
        for LastWords { instance, signal, to_group, .. } in done {
            self.children.signal(instance, signal, to_group);
        }
    }

    fn changed(&mut self, change: &Change) {
        self.tell_watchers(&change.name);
        if !self.watchers.is_empty() {
            let change = Arc::new(change.clone());
            self.watchers.retain(|watcher| watcher.send(Watched::Happened(change.clone())).is_ok());
        }
    }

    fn tell_watchers(&mut self, name: &ProcessName) {
        if self.watchers.is_empty() {
            return;
        }
        if let Some(status) = self.core().process(name).map(|process| process.status(clock::now())) {
            let status = Arc::new(status);
            self.watchers.retain(|watcher| watcher.send(Watched::Changed(status.clone())).is_ok());
        }
    }
}
