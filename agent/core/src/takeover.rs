//! What a successor makes of the journal of an agent that has died: the same decisions, and what of their acts is
//! still to be done, given what the keeper knows to have been done. Requests went to the keeper in order and after
//! the steps they follow from, so what is missing is always the last of them.

use std::collections::{BTreeMap, BTreeSet};

use fleetvisor_model::config::LogLevel;
use fleetvisor_model::name::ProcessName;
use fleetvisor_model::signal::Signal;
use fleetvisor_model::state::DaemonState;
use fleetvisor_model::time::{Now, Wall};

use crate::decisions::{Act, Decisions, Step};
use crate::effect::{Effect, Instance};
use crate::pool::Deed;
use crate::process::Process;

/// A program as the keeper knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopted {
    pub instance: Instance,
    pub pid: i32,
    pub exited: bool,
    /// Signals that it was sent, or that could not be sent.
    pub signals: u64,
}

/// To be done in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// The spawn has not reached the keeper, or has failed unheard.
    Spawn {
        instance: Instance,
        name: ProcessName,
    },
    /// Runs, or has ended and waits for somebody to take note.
    Attach {
        instance: Instance,
        name: ProcessName,
    },
    /// Nobody has heard yet that it was spawned.
    Confirm {
        instance: Instance,
        pid: i32,
    },
    Signal {
        instance: Instance,
        signal: Signal,
        to_group: bool,
    },
    /// Its end has been acted on.
    Release {
        instance: Instance,
    },
    /// It runs, and nothing in the journal explains it.
    Kill {
        instance: Instance,
        pid: i32,
    },
    /// It was known to run, and the keeper does not know it.
    Lost {
        instance: Instance,
    },
}

/// A line for the daemon's log with its number (from 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub number: u64,
    pub wall: Wall,
    pub level: LogLevel,
    pub text: String,
}

/// The journal's steps, gone through again.
#[derive(Debug)]
pub struct Replay {
    pub decisions: Decisions,
    /// Signals of instances in the order in which they were asked for.
    signals: BTreeMap<Instance, Vec<(Signal, bool)>>,
    /// Everything that was said, for the daemon's log.
    pub lines: Vec<Line>,
    /// What listeners were to be sent, in order.
    sends: BTreeMap<Instance, Vec<u8>>,
    pub finished: Option<DaemonState>,
    /// Groups that have come and gone meanwhile.
    pub groups_removed: Vec<String>,
}

impl Replay {
    /// Goes on from decisions as they were kept.
    pub fn new(mut decisions: Decisions) -> Replay {
        decisions.reindex();
        Replay {
            decisions,
            signals: BTreeMap::new(),
            lines: Vec::new(),
            sends: BTreeMap::new(),
            finished: None,
            groups_removed: Vec::new(),
        }
    }

    pub fn take(&mut self, step: Step, now: Now) {
        let mut number = self.decisions.lines();
        let mut line = |level, text| {
            number += 1;
            Line { number, wall: now.wall, level, text }
        };
        for act in self.decisions.take(step, now) {
            match act {
                Act::Effect(Effect::Signal { instance, signal, to_group }) => {
                    self.signals.entry(instance).or_default().push((signal, to_group));
                }
                Act::Effect(Effect::Log { level, line: text })
                | Act::Deed(Deed::Log { level, line: text }) => {
                    self.lines.push(line(level, text));
                }
                Act::Effect(Effect::Finished(state)) => self.finished = Some(state),
                Act::Effect(Effect::GroupRemoved(group)) => self.groups_removed.push(group.name),
                Act::Deed(Deed::Send { name, envelope }) => {
                    let process = self.decisions.supervisor().process(&name);
                    if let Some(instance) = process.and_then(|process| process.instance()) {
                        self.sends.entry(instance).or_default().extend_from_slice(envelope.as_bytes());
                    }
                }
                Act::Effect(
                    Effect::Spawn { .. }
                    | Effect::Changed(_)
                    | Effect::Outcome { .. }
                    | Effect::Done { .. }
                    | Effect::GroupAdded(_)
                    | Effect::Stopping,
                )
                | Act::Deed(Deed::Print(_)) => {}
            }
        }
    }

    /// What is left to do, when these are the programs that the keeper has not been told to forget.
    pub fn tasks(&self, adopted: &[Adopted]) -> Vec<Task> {
        let known: BTreeMap<Instance, &Adopted> = adopted.iter().map(|it| (it.instance, it)).collect();
        let ours: BTreeSet<Instance> = self.processes().map(|process| process.1).collect();
        let foreign = adopted.iter().filter(|adopted| !ours.contains(&adopted.instance));
        let mut tasks: Vec<Task> = foreign
            .map(|&Adopted { instance, pid, exited, .. }| match exited {
                true => Task::Release { instance },
                false => Task::Kill { instance, pid },
            })
            .collect();
        for (process, instance) in self.processes() {
            let name = process.name().clone();
            let adopted = known.get(&instance);
            match adopted {
                Some(adopted) => {
                    tasks.push(Task::Attach { instance, name });
                    if process.pid() == 0 {
                        tasks.push(Task::Confirm { instance, pid: adopted.pid });
                    }
                }
                None if process.pid() == 0 => tasks.push(Task::Spawn { instance, name }),
                None => {
                    tasks.push(Task::Lost { instance });
                    continue;
                }
            }
            if adopted.is_none_or(|adopted| !adopted.exited) {
                tasks.extend(self.missing_signals(instance, adopted.map_or(0, |adopted| adopted.signals)));
            }
        }
        tasks
    }

    /// Those that run, or are to.
    fn processes(&self) -> impl Iterator<Item = (&Process, Instance)> {
        let all = self.decisions.supervisor().processes();
        all.filter_map(|process| Some((process, process.instance()?)))
    }

    /// The end of what a listener was to be sent, when `sent` bytes of all were.
    pub fn unsent(&self, instance: Instance, sent: u64) -> &[u8] {
        let missing = self.decisions.account(instance).sent.saturating_sub(sent);
        let sends = self.sends.get(&instance).map_or(&[][..], Vec::as_slice);
        let missing = usize::try_from(missing).unwrap_or(usize::MAX).min(sends.len());
        &sends[sends.len() - missing..]
    }

    fn missing_signals(&self, instance: Instance, done: u64) -> impl Iterator<Item = Task> + '_ {
        let asked = self.decisions.account(instance).signals;
        let missing = usize::try_from(asked.saturating_sub(done)).unwrap_or(usize::MAX);
        let signals = self.signals.get(&instance).map_or(&[][..], Vec::as_slice);
        let from = signals.len().saturating_sub(missing);
        signals[from..].iter().map(move |(signal, to_group)| Task::Signal {
            instance,
            signal: *signal,
            to_group: *to_group,
        })
    }
}
