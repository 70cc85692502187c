//! The order in which everything ends: group after group from the highest priority number down, each one's
//! processes likewise, the next group only when nothing of the last one runs.

use std::time::Duration;

use fleetvisor_model::config::LogLevel;
use fleetvisor_model::state::{DaemonState, ProcessState};
use fleetvisor_model::time::{Monotonic, Now};

use crate::effect::Effect;
use crate::process::Event;
use crate::supervisor::Supervisor;

/// How often the log names what is waited for.
const REPORT: Duration = Duration::from_secs(3);

#[derive(Clone, Debug)]
pub(crate) struct Ending {
    state: DaemonState,
    announced: bool,
    finished: bool,
    /// Groups that may still have something running, in the order of starting.
    groups: Vec<String>,
    next_report: Monotonic,
}

impl Ending {
    pub(crate) fn new(state: DaemonState, groups: Vec<String>, now: Now) -> Ending {
        Ending { state, announced: false, finished: false, groups, next_report: now.monotonic }
    }

    pub(crate) fn state(&self) -> DaemonState {
        self.state
    }

    /// A restart can still turn into the end, not the other way round.
    pub(crate) fn becomes(&mut self, state: DaemonState) {
        if self.state != DaemonState::Shutdown {
            self.state = state;
        }
    }

    pub(crate) fn next_report(&self) -> Option<Monotonic> {
        (!self.finished).then_some(self.next_report)
    }

    pub(crate) fn advance(&mut self, supervisor: &mut Supervisor, now: Now, effects: &mut Vec<Effect>) {
        if self.finished {
            return;
        }
        if !self.announced {
            self.announced = true;
            effects.push(Effect::Stopping);
        }
        while let Some(group) = self.groups.last() {
            let keys = supervisor.group_keys(group).to_vec();
            for key in keys.iter().rev() {
                match supervisor.process_at(*key).map(|process| process.state()) {
                    Some(ProcessState::Running | ProcessState::Starting) => {
                        supervisor.drive(*key, Event::Stop, now, effects);
                    }
                    Some(ProcessState::Backoff) => supervisor.drive(*key, Event::GiveUp, now, effects),
                    _ => {}
                }
            }
            let stopped = |key| supervisor.process_at(key).is_none_or(|process| process.state().is_stopped());
            if !keys.into_iter().all(stopped) {
                break;
            }
            self.groups.pop();
        }
        if self.groups.is_empty() {
            self.finished = true;
            effects.push(Effect::Finished(self.state));
        } else if now.monotonic >= self.next_report {
            let waiting_for: Vec<&str> = supervisor
                .processes()
                .filter(|process| !process.state().is_stopped())
                .map(|process| process.name().process.as_str())
                .collect();
            let line = format!("waiting for {} to die", waiting_for.join(", "));
            effects.push(Effect::Log { level: LogLevel::Info, line });
            self.next_report = now.monotonic + REPORT;
        }
    }
}
