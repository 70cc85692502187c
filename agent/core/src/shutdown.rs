//! The order in which everything ends: group after group from the highest priority number down, each one's
//! processes likewise, the next group only when nothing of the last one runs.

use std::time::Duration;

use fleetvisor_model::config::LogLevel;
use fleetvisor_model::state::ProcessState;
use fleetvisor_model::time::{Monotonic, Now};
use serde::{Deserialize, Serialize};

use crate::effect::Effect;
use crate::process::Event;
use crate::supervisor::{Key, Supervisor};

/// How often the log names what is waited for.
const REPORT: Duration = Duration::from_secs(3);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ending {
    announced: bool,
    finished: bool,
    /// Groups whose turn to stop is to come, in the order of starting.
    groups: Vec<String>,
    /// Of the group whose turn it is: those that may not have stopped, in the order of starting.
    stopping: Vec<Key>,
    next_report: Monotonic,
}

impl Ending {
    pub(crate) fn new(groups: Vec<String>, now: Now) -> Ending {
        let next_report = now.monotonic;
        Ending { announced: false, finished: false, groups, stopping: Vec::new(), next_report }
    }

    pub(crate) fn next_report(&self) -> Option<Monotonic> {
        (!self.finished).then_some(self.next_report)
    }

    pub(crate) fn advance(&mut self, supervisor: &mut Supervisor, now: Now, effects: &mut Vec<Effect>) {
        if self.finished {
            return;
        }
        let announces = !self.announced;
        if announces {
            self.announced = true;
            effects.push(Effect::Stopping);
        }
        // Looked at from the end until one has not stopped: all of it together looks at each a few times.
        let stopped = |supervisor: &Supervisor, key| {
            supervisor.process_at(key).is_none_or(|process| process.state().is_stopped())
        };
        let mut turns = 0;
        loop {
            while self.stopping.pop_if(|key| stopped(supervisor, *key)).is_some() {}
            if !self.stopping.is_empty() {
                break;
            }
            // Listeners are told of the end before they are stopped, unless theirs is the first turn.
            if announces && turns == 1 && !self.groups.is_empty() {
                return;
            }
            turns += 1;
            let Some(group) = self.groups.pop() else { break };
            self.stopping = supervisor.group_keys(&group).to_vec();
            for key in self.stopping.iter().rev() {
                match supervisor.process_at(*key).map(|process| process.state()) {
                    Some(ProcessState::Running | ProcessState::Starting) => {
                        supervisor.drive(*key, Event::Stop, now, effects);
                    }
                    Some(ProcessState::Backoff) => supervisor.drive(*key, Event::GiveUp, now, effects),
                    _ => {}
                }
            }
        }
        if self.stopping.is_empty() {
            self.finished = true;
            effects.push(Effect::Finished(supervisor.state()));
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
