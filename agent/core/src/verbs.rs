//! What start, stop, restart and signal mean for the processes they name: who is refused, who is told at
//! once, and who has to wait.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use fleetvisor_model::config::LogLevel;
use fleetvisor_model::name::ProcessName;
use fleetvisor_model::signal::Signal;
use fleetvisor_model::state::ProcessState;
use fleetvisor_model::time::Now;

use crate::effect::Effect;
use crate::process::{Event, Process};
use crate::request::{Outcome, Processes, Refusal, Ticket, Verb};
use crate::supervisor::{Key, Supervisor};
use crate::tickets::Awaited;

/// How often a stop that somebody waits for is remarked on in the log.
const STOP_REPORT: Duration = Duration::from_secs(2);

impl Supervisor {
    pub(crate) fn verb(
        &mut self,
        ticket: Ticket,
        verb: Verb,
        processes: &Processes,
        refused: &BTreeMap<ProcessName, Refusal>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let named: Vec<(ProcessName, Option<Key>)> = match processes {
            Processes::Named(names) => {
                names.iter().map(|name| (name.clone(), self.by_name.get(name).copied())).collect()
            }
            Processes::Group(group) if self.group(group).is_none() => {
                vec![(ProcessName::new(group.clone(), "*"), None)]
            }
            Processes::Group(_) | Processes::All => self
                .keys_of(processes)
                .into_iter()
                .filter(|key| has_something_to_do(verb, self.processes[key].state()))
                .map(|key| (self.processes[&key].name().clone(), Some(key)))
                .collect(),
        };
        if named.is_empty() {
            effects.push(Effect::Done { ticket });
            return;
        }
        self.tickets.open(ticket, named.len());
        let mut to_restart = Vec::new();
        for (name, key) in named {
            let refusal = match key {
                None => Some(Refusal::BadName),
                Some(_) => refused.get(&name).cloned(),
            };
            match (refusal, key) {
                (Some(refusal), _) => self.settle(ticket, name, Err(refusal), effects),
                (None, Some(key)) if verb == Verb::Restart => to_restart.push((key, name)),
                (None, Some(key)) => self.verb_on(ticket, verb, key, now, effects),
                (None, None) => {}
            }
        }
        if !to_restart.is_empty() {
            self.restart(ticket, to_restart, now, effects);
        }
    }

    fn verb_on(&mut self, ticket: Ticket, verb: Verb, key: Key, now: Now, effects: &mut Vec<Effect>) {
        let process = &self.processes[&key];
        let (name, state) = (process.name().clone(), process.state());
        let outcome = match verb {
            Verb::Start { .. } if !self.starts_allowed() => Err(Refusal::ShutdownState),
            Verb::Start { .. } if state.is_running() => Err(Refusal::AlreadyStarted),
            Verb::Start { .. } if state == ProcessState::Unknown => {
                Err(Refusal::Failed(format!("{name} is in an unknown process state")))
            }
            Verb::Start { wait } if state == ProcessState::Stopping => {
                let line = format!("process '{}' already running", name.process);
                effects.push(Effect::Log { level: LogLevel::Warn, line });
                if wait { Err(Refusal::AbnormalTermination) } else { Ok(()) }
            }
            Verb::Start { wait } => {
                let awaited = if wait { Awaited::Running } else { Awaited::Spawned };
                self.drive(key, Event::Start, now, effects);
                return self.await_in(key, ticket, awaited, now, effects);
            }
            Verb::Stop { wait } => {
                self.drive(key, Event::Stop, now, effects);
                if !state.is_running() {
                    Err(Refusal::NotRunning)
                } else if wait {
                    if !self.processes[&key].state().is_stopped() {
                        self.report_stop(key, now, effects);
                    }
                    return self.await_in(key, ticket, Awaited::Stopped, now, effects);
                } else {
                    Ok(())
                }
            }
            Verb::Signal(signal) => self.signal(key, signal, effects),
            Verb::Restart => return self.restart(ticket, vec![(key, name)], now, effects),
        };
        self.settle(ticket, name, outcome, effects);
    }

    fn restart(
        &mut self,
        ticket: Ticket,
        mut named: Vec<(Key, ProcessName)>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let order: HashMap<Key, usize> =
            self.groups.iter().flat_map(|member| &member.keys).copied().zip(0..).collect();
        named.sort_by_key(|(key, _)| order.get(key).copied());
        let live: Vec<Key> = named
            .iter()
            .map(|(key, _)| *key)
            .filter(|key| !self.processes[key].state().is_stopped())
            .collect();
        if live.is_empty() {
            return self.start_all(ticket, named, now, effects);
        }
        self.tickets.begin_restart(ticket, live.len(), named);
        for key in live.into_iter().rev() {
            self.drive(key, Event::Stop, now, effects);
            self.await_in(key, ticket, Awaited::StoppedForRestart, now, effects);
        }
    }

    pub(crate) fn start_all(
        &mut self,
        ticket: Ticket,
        named: Vec<(Key, ProcessName)>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        for (key, name) in named {
            match self.processes.get(&key).map(Process::state) {
                // Its group was removed while the others were being stopped.
                None => self.settle(ticket, name, Err(Refusal::BadName), effects),
                // Somebody else has started it meanwhile.
                Some(ProcessState::Starting | ProcessState::Running) => {
                    self.await_in(key, ticket, Awaited::Running, now, effects);
                }
                Some(_) => self.verb_on(ticket, Verb::Start { wait: true }, key, now, effects),
            }
        }
    }

    fn signal(&mut self, key: Key, signal: Signal, effects: &mut Vec<Effect>) -> Outcome {
        let process = &self.processes[&key];
        match (process.state(), process.instance()) {
            (ProcessState::Running | ProcessState::Starting | ProcessState::Stopping, Some(instance)) => {
                let line = format!(
                    "sending {} (pid {}) sig {}",
                    process.name().process,
                    process.pid(),
                    signal.name()
                );
                effects.push(Effect::Log { level: LogLevel::Debug, line });
                effects.push(Effect::Signal { instance, signal, to_group: false });
                Ok(())
            }
            _ => Err(Refusal::NotRunning),
        }
    }

    pub(crate) fn report_stop(&mut self, key: Key, now: Now, effects: &mut Vec<Effect>) {
        let line = format!("waiting for {} to stop", self.processes[&key].name().process);
        effects.push(Effect::Log { level: LogLevel::Info, line });
        self.stop_reports.insert(key, now.monotonic + STOP_REPORT);
    }
}

/// Supervisor's predicates: a verb on a group passes over the processes for which it means nothing.
pub(crate) fn has_something_to_do(verb: Verb, state: ProcessState) -> bool {
    match verb {
        Verb::Start { .. } => !state.is_running(),
        Verb::Stop { .. } => state.is_running(),
        Verb::Restart => true,
        Verb::Signal(_) => {
            matches!(state, ProcessState::Running | ProcessState::Starting | ProcessState::Stopping)
        }
    }
}
