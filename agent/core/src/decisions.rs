//! The supervisor and the listeners' pools behind one door: a [`Step`] goes in, [`Act`]s come out. The same steps
//! at the same times give the same decisions, so that a journal of them is all that an agent has to leave to its
//! successor; what the successor makes of it is in [`crate::takeover`].

use std::collections::BTreeMap;

use fleetvisor_model::name::ProcessName;
use fleetvisor_model::time::Now;
use serde::{Deserialize, Serialize};

use crate::effect::{Effect, Instance};
use crate::event::Event;
use crate::pool::{Deed, Pools};
use crate::request::Ticket;
use crate::supervisor::{Input, Supervisor};

/// Everything that changes what has been decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    Input(Input),
    /// Something for listeners that does not follow from an input.
    Tell(Event),
    /// Bytes of a listener's stdout: those up to this one.
    Heard {
        instance: Instance,
        data: Vec<u8>,
        upto: u64,
    },
    /// This many bytes went to a listener's stdin on somebody else's behalf.
    Wrote {
        instance: Instance,
        bytes: u64,
    },
    /// A listener's stdin is closed.
    SendFailed {
        name: ProcessName,
    },
    /// A period that listeners are told of may have ended.
    PoolTick,
    /// All groups that there are at the start have been added.
    Begun,
}

impl Step {
    pub fn ticket(&self) -> Option<Ticket> {
        match self {
            Step::Input(Input::Request { ticket, .. }) => Some(*ticket),
            _ => None,
        }
    }
}

/// To be performed in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    Effect(Effect),
    Deed(Deed),
}

/// What has been decided about an instance, in numbers: others know how much of it has come about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Signals that it was to get.
    pub signals: u64,
    /// Bytes that a listener was to be sent, and bytes that were heard of it.
    pub sent: u64,
    pub heard: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Decisions {
    supervisor: Supervisor,
    pools: Pools,
    /// Until all groups are there nothing but their coming is told; the rest waits here.
    untold: Option<Vec<Event>>,
    /// Of instances that live.
    accounts: BTreeMap<Instance, Account>,
    /// Lines for the daemon's log so far.
    lines: u64,
}

/// What goes on where a daemon that starts over has left off.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// The next event's.
    pub serial: u64,
    /// The next run's of a program.
    pub instance: u64,
}

impl Decisions {
    pub fn new(wishes: BTreeMap<ProcessName, bool>, identifier: String, counters: Counters) -> Decisions {
        let mut supervisor = Supervisor::new(wishes);
        supervisor.count_instances_from(counters.instance);
        Decisions {
            supervisor,
            pools: Pools::new(identifier, counters.serial),
            untold: Some(Vec::new()),
            accounts: BTreeMap::new(),
            lines: 0,
        }
    }

    pub fn counters(&self) -> Counters {
        Counters { serial: self.pools.next_serial(), instance: self.supervisor.next_instance() }
    }

    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    pub fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Whether all groups that there were at the start have been added.
    pub fn have_begun(&self) -> bool {
        self.untold.is_none()
    }

    /// Whether such an event would go to anybody.
    pub fn is_heard(&self, event: &str) -> bool {
        self.untold.is_some() || self.pools.is_heard(event)
    }

    pub fn account(&self, instance: Instance) -> Account {
        self.accounts.get(&instance).copied().unwrap_or_default()
    }

    /// Lines for the daemon's log that have come out so far.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// To be called after deserializing: indexes are not kept.
    pub fn reindex(&mut self) {
        self.supervisor.reindex();
    }

    pub fn take(&mut self, step: Step, now: Now) -> Vec<Act> {
        let mut acts = Vec::new();
        match step {
            Step::Input(input) => {
                let ended = if let Input::Exited { instance, .. } = &input { Some(*instance) } else { None };
                for effect in self.supervisor.step(input, now) {
                    self.follow(&effect, now);
                    acts.push(Act::Effect(effect));
                }
                if let Some(instance) = ended {
                    self.accounts.remove(&instance);
                }
            }
            Step::Tell(event) => self.tell(event),
            Step::Heard { instance, data, upto } => {
                if let Some(name) = self.supervisor.name_of(instance) {
                    self.accounts.entry(instance).or_default().heard = upto;
                    self.pools.read(name, &data);
                }
            }
            Step::Wrote { instance, bytes } => self.accounts.entry(instance).or_default().sent += bytes,
            Step::SendFailed { name } => self.pools.send_failed(&name),
            Step::PoolTick => self.pools.tick(now),
            Step::Begun => {
                let untold = self.untold.take().unwrap_or_default();
                for event in std::iter::once(Event::DaemonRunning).chain(untold) {
                    self.pools.notify(event);
                }
            }
        }
        for deed in self.pools.take_deeds() {
            if let Deed::Send { name, envelope } = &deed
                && let Some(instance) = self.supervisor.process(name).and_then(|process| process.instance())
            {
                self.accounts.entry(instance).or_default().sent += envelope.len() as u64;
            }
            acts.push(Act::Deed(deed));
        }
        self.lines += acts.iter().filter(|act| is_line(act)).count() as u64;
        acts
    }

    /// What an effect means for listeners and for the account of signals.
    fn follow(&mut self, effect: &Effect, now: Now) {
        match effect {
            Effect::Signal { instance, .. } => self.accounts.entry(*instance).or_default().signals += 1,
            Effect::Changed(change) => {
                self.tell(Event::State(change.clone()));
                self.pools.changed(change);
            }
            Effect::GroupAdded(group) => {
                self.pools.add(group, now);
                self.pools.notify(Event::GroupAdded(group.name.clone()));
            }
            Effect::GroupRemoved(group) => {
                self.pools.remove(&group.name, now);
                self.tell(Event::GroupRemoved(group.name.clone()));
            }
            Effect::Stopping => self.tell(Event::DaemonStopping),
            Effect::Spawn { .. }
            | Effect::Outcome { .. }
            | Effect::Done { .. }
            | Effect::Log { .. }
            | Effect::Finished(_) => {}
        }
    }

    fn tell(&mut self, event: Event) {
        match &mut self.untold {
            Some(untold) => untold.push(event),
            None => self.pools.notify(event),
        }
    }
}

pub(crate) fn is_line(act: &Act) -> bool {
    matches!(act, Act::Effect(Effect::Log { .. }) | Act::Deed(Deed::Log { .. }))
}
