//! All groups of a host: one input in, effects out. It keeps the indexes true and answers those who wait.
//! Which process does what is in [`crate::process`], what a verb means in `verbs`, the order of the end in
//! `shutdown`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use fleetvisor_model::config::Group;
use fleetvisor_model::name::ProcessName;
use fleetvisor_model::state::{DaemonState, ProcessState};
use fleetvisor_model::status::ProcessStatus;
use fleetvisor_model::time::{Monotonic, Now};
use serde::{Deserialize, Serialize};

use crate::effect::{Effect, Instance};
use crate::exit::ExitStatus;
use crate::process::{Context, Event, Process};
use crate::request::{Outcome, Processes, Refusal, Request, Ticket, Verb};
use crate::shutdown::Ending;
use crate::tickets::{Awaited, Tickets};
use crate::verbs::has_something_to_do;

/// Everything that can happen, from the core's point of view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    Request {
        ticket: Ticket,
        request: Request,
    },
    Spawned {
        instance: Instance,
        pid: i32,
    },
    SpawnFailed {
        instance: Instance,
        error: String,
    },
    Exited {
        instance: Instance,
        status: ExitStatus,
    },
    SignalFailed {
        instance: Instance,
        error: String,
    },
    /// The deadline has passed.
    Tick,
}

/// A process's place for as long as its group exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Key(u64);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Member {
    config: Group,
    pub(crate) keys: Vec<Key>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Supervisor {
    /// By priority, as they are started.
    pub(crate) groups: Vec<Member>,
    pub(crate) processes: HashMap<Key, Process>,
    #[serde(skip)]
    pub(crate) by_name: HashMap<ProcessName, Key>,
    #[serde(skip)]
    by_instance: HashMap<Instance, Key>,
    #[serde(skip)]
    due: BTreeSet<(Monotonic, Key)>,
    /// When a stop that somebody waits for is remarked on again.
    pub(crate) stop_reports: BTreeMap<Key, Monotonic>,
    pub(crate) tickets: Tickets,
    #[serde(with = "crate::pairs")]
    wishes: BTreeMap<ProcessName, bool>,
    state: DaemonState,
    /// Where the end has got to; `state` says that it has begun.
    ending: Option<Ending>,
    next_key: u64,
    next_instance: u64,
}

impl Supervisor {
    /// Nothing is started yet: groups come in by [`Request::AddGroup`].
    pub fn new(wishes: BTreeMap<ProcessName, bool>) -> Supervisor {
        Supervisor {
            groups: Vec::new(),
            processes: HashMap::new(),
            by_name: HashMap::new(),
            by_instance: HashMap::new(),
            due: BTreeSet::new(),
            stop_reports: BTreeMap::new(),
            tickets: Tickets::default(),
            wishes,
            state: DaemonState::Running,
            ending: None,
            next_key: 0,
            next_instance: 1,
        }
    }

    pub(crate) fn next_instance(&self) -> u64 {
        self.next_instance
    }

    /// Of a daemon that starts over: what is still said of the runs before is said of none of these.
    pub(crate) fn count_instances_from(&mut self, next: u64) {
        self.next_instance = self.next_instance.max(next);
    }

    /// Makes the indexes of what was deserialized.
    pub(crate) fn reindex(&mut self) {
        self.by_name = self.processes.iter().map(|(key, process)| (process.name().clone(), *key)).collect();
        let live = self.processes.iter().filter_map(|(key, process)| Some((process.instance()?, *key)));
        self.by_instance = live.collect();
        let due = self.processes.iter().filter_map(|(key, process)| Some((process.deadline()?, *key)));
        self.due = due.collect();
    }

    pub fn state(&self) -> DaemonState {
        self.state
    }

    /// When [`Input::Tick`] is wanted, if at all.
    pub fn deadline(&self) -> Option<Monotonic> {
        let due = self.due.first().map(|(at, _)| *at);
        let stop_report = self.stop_reports.values().min().copied();
        let report = self.ending.as_ref().and_then(Ending::next_report);
        [due, stop_report, report].into_iter().flatten().min()
    }

    /// Groups by priority.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().map(|member| &member.config)
    }

    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups().find(|group| group.name == name)
    }

    pub fn process(&self, name: &ProcessName) -> Option<&Process> {
        self.processes.get(self.by_name.get(name)?)
    }

    /// Processes by the priority of their group, then their own.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.groups.iter().flat_map(|member| member.keys.iter().map(|key| &self.processes[key]))
    }

    /// Sorted by group and name, as `getAllProcessInfo` lists them.
    pub fn statuses(&self, now: Now) -> Vec<ProcessStatus> {
        let mut all: Vec<ProcessStatus> = self.processes().map(|process| process.status(now)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The name of the process that an instance runs, while it runs.
    pub fn name_of(&self, instance: Instance) -> Option<&ProcessName> {
        Some(self.processes[self.by_instance.get(&instance)?].name())
    }

    /// The processes that a verb would be tried on, so that their programs can be looked for first.
    pub fn affected(&self, verb: Verb, processes: &Processes) -> Vec<&Process> {
        match processes {
            Processes::Named(names) => names.iter().filter_map(|name| self.process(name)).collect(),
            Processes::Group(_) | Processes::All => self
                .keys_of(processes)
                .into_iter()
                .map(|key| &self.processes[&key])
                .filter(|process| has_something_to_do(verb, process.state()))
                .collect(),
        }
    }

    pub fn step(&mut self, input: Input, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Request { ticket, request } => self.request(ticket, request, now, &mut effects),
            Input::Spawned { instance, pid } => {
                self.drive_instance(instance, Event::Spawned { pid }, now, &mut effects);
            }
            Input::SpawnFailed { instance, error } => {
                self.drive_instance(instance, Event::SpawnFailed { error }, now, &mut effects);
            }
            Input::Exited { instance, status } => {
                self.drive_instance(instance, Event::Exited { status }, now, &mut effects);
            }
            Input::SignalFailed { instance, error } => {
                self.drive_instance(instance, Event::SignalFailed { error }, now, &mut effects);
            }
            Input::Tick => self.tick(now, &mut effects),
        }
        self.advance_ending(now, &mut effects);
        effects
    }

    fn request(&mut self, ticket: Ticket, request: Request, now: Now, effects: &mut Vec<Effect>) {
        let settled = match request {
            Request::Verb { verb, processes, refused } => {
                return self.verb(ticket, verb, &processes, &refused, now, effects);
            }
            Request::AddGroup(group) => self.add_group(group, now, effects),
            Request::RemoveGroup(name) => self.remove_group(&name, effects),
            Request::Wish { name, run } => {
                self.wishes.insert(name, run);
                Ok(())
            }
            Request::Shutdown => {
                self.end(DaemonState::Shutdown, now);
                Ok(())
            }
            Request::Restart => {
                self.end(DaemonState::Restarting, now);
                Ok(())
            }
        };
        let name = ProcessName::new("", "");
        effects.push(Effect::Outcome { ticket, name, outcome: settled });
        effects.push(Effect::Done { ticket });
    }

    fn add_group(&mut self, group: Group, now: Now, effects: &mut Vec<Effect>) -> Outcome {
        if self.group(&group.name).is_some() {
            return Err(Refusal::AlreadyAdded);
        }
        let mut keys = Vec::new();
        let mut by_priority: Vec<_> = group.processes.iter().collect();
        by_priority.sort_by_key(|config| config.priority);
        for config in by_priority {
            let key = Key(self.next_key);
            self.next_key += 1;
            self.by_name.insert(config.name.clone(), key);
            self.processes.insert(key, Process::new(config.clone()));
            keys.push(key);
        }
        effects.push(Effect::GroupAdded(group.clone()));
        let at = self.groups.partition_point(|member| member.config.priority <= group.priority);
        self.groups.insert(at, Member { config: group, keys: keys.clone() });
        if self.starts_allowed() {
            for key in keys {
                let config = self.processes[&key].config();
                if self.wishes.get(&config.name).copied().unwrap_or(config.autostart) {
                    self.drive(key, Event::Start, now, effects);
                }
            }
        }
        Ok(())
    }

    fn remove_group(&mut self, name: &str, effects: &mut Vec<Effect>) -> Outcome {
        let at = self.groups.iter().position(|member| member.config.name == name).ok_or(Refusal::BadName)?;
        let keys = &self.groups[at].keys;
        // A process in UNKNOWN counts as stopped for Supervisor; here its child must not be forgotten.
        if keys.iter().any(|key| self.processes[key].instance().is_some()) {
            return Err(Refusal::StillRunning);
        }
        let member = self.groups.remove(at);
        for key in member.keys {
            if let Some(process) = self.processes.remove(&key) {
                self.by_name.remove(process.name());
                if let Some(at) = process.deadline() {
                    self.due.remove(&(at, key));
                }
                if let Some(instance) = process.instance() {
                    self.by_instance.remove(&instance);
                }
            }
        }
        effects.push(Effect::GroupRemoved(member.config));
        Ok(())
    }

    fn tick(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while let Some(&(at, key)) = self.due.first() {
            if at > now.monotonic {
                break;
            }
            self.drive(key, Event::Due, now, effects);
        }
        let again = self.stop_reports.iter().filter(|(_, at)| **at <= now.monotonic);
        for key in again.map(|(key, _)| *key).collect::<Vec<Key>>() {
            self.report_stop(key, now, effects);
        }
    }

    fn drive_instance(&mut self, instance: Instance, event: Event, now: Now, effects: &mut Vec<Effect>) {
        if let Some(&key) = self.by_instance.get(&instance) {
            self.drive(key, event, now, effects);
        }
    }

    /// The one place where a process steps: keeps the indexes true and answers those who wait for it.
    pub(crate) fn drive(&mut self, key: Key, event: Event, now: Now, effects: &mut Vec<Effect>) {
        let starts_allowed = self.starts_allowed();
        let Some(process) = self.processes.get_mut(&key) else { return };
        let (deadline, instance) = (process.deadline(), process.instance());
        process.step(
            event,
            &mut Context { now, starts_allowed, next_instance: &mut self.next_instance, effects },
        );
        if process.deadline() != deadline {
            if let Some(at) = deadline {
                self.due.remove(&(at, key));
            }
            if let Some(at) = process.deadline() {
                self.due.insert((at, key));
            }
        }
        if process.instance() != instance {
            if let Some(instance) = instance {
                self.by_instance.remove(&instance);
            }
            if let Some(instance) = process.instance() {
                self.by_instance.insert(instance, key);
            }
        }
        if process.state() != ProcessState::Stopping {
            self.stop_reports.remove(&key);
        }
        // All are judged by the state as it is now, before an answer to one changes it for the next.
        let process = &self.processes[&key];
        let answers: Vec<(Ticket, Awaited, Option<Outcome>)> = self
            .tickets
            .take(key)
            .into_iter()
            .map(|(ticket, awaited)| (ticket, awaited, answer(awaited, process)))
            .collect();
        for (ticket, awaited, answer) in answers {
            self.answer_or_wait(key, ticket, awaited, answer, now, effects);
        }
    }

    /// Answers a ticket if what it awaits in this process has come about, else lets it wait.
    pub(crate) fn await_in(
        &mut self,
        key: Key,
        ticket: Ticket,
        awaited: Awaited,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let answer = answer(awaited, &self.processes[&key]);
        self.answer_or_wait(key, ticket, awaited, answer, now, effects);
    }

    fn answer_or_wait(
        &mut self,
        key: Key,
        ticket: Ticket,
        awaited: Awaited,
        answer: Option<Outcome>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        match (answer, awaited) {
            (None, _) => self.tickets.wait(key, ticket, awaited),
            (Some(_), Awaited::StoppedForRestart) => {
                if let Some(named) = self.tickets.stopped_for_restart(ticket) {
                    self.start_all(ticket, named, now, effects);
                }
            }
            (Some(outcome), Awaited::Spawned | Awaited::Running | Awaited::Stopped) => {
                let name = self.processes[&key].name().clone();
                self.settle(ticket, name, outcome, effects);
            }
        }
    }

    pub(crate) fn settle(
        &mut self,
        ticket: Ticket,
        name: ProcessName,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        effects.push(Effect::Outcome { ticket, name, outcome });
        if self.tickets.settle(ticket) {
            effects.push(Effect::Done { ticket });
        }
    }

    fn end(&mut self, state: DaemonState, now: Now) {
        // A restart can still turn into the end, not the other way round.
        if self.state == DaemonState::Shutdown {
            return;
        }
        self.state = state;
        if self.ending.is_none() {
            let groups = self.groups.iter().map(|member| member.config.name.clone()).collect();
            self.ending = Some(Ending::new(groups, now));
        }
    }

    /// Nothing is started any more once the end has begun.
    pub(crate) fn starts_allowed(&self) -> bool {
        self.state == DaemonState::Running
    }

    fn advance_ending(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if let Some(mut ending) = self.ending.take() {
            ending.advance(self, now, effects);
            self.ending = Some(ending);
        }
    }

    pub(crate) fn keys_of(&self, processes: &Processes) -> Vec<Key> {
        match processes {
            Processes::Named(names) => {
                names.iter().filter_map(|name| self.by_name.get(name).copied()).collect()
            }
            Processes::Group(name) => self.group_keys(name).to_vec(),
            Processes::All => self.groups.iter().flat_map(|member| member.keys.iter().copied()).collect(),
        }
    }

    /// Keys of a group by priority; none where there is no such group.
    pub(crate) fn group_keys(&self, name: &str) -> &[Key] {
        self.groups
            .iter()
            .find(|member| member.config.name == name)
            .map_or(&[], |member| member.keys.as_slice())
    }

    pub(crate) fn process_at(&self, key: Key) -> Option<&Process> {
        self.processes.get(&key)
    }

    #[cfg(test)]
    pub(crate) fn nobody_waits(&self) -> bool {
        self.tickets.is_empty()
    }
}

/// Whether what is awaited in a process has come about, and how.
fn answer(awaited: Awaited, process: &Process) -> Option<Outcome> {
    let state = process.state();
    match awaited {
        Awaited::Spawned | Awaited::Running if process.spawn_failed() => Some(Err(Refusal::SpawnError)),
        Awaited::Spawned => (process.instance().is_none() || process.pid() != 0).then_some(Ok(())),
        Awaited::Running => match state {
            ProcessState::Running => Some(Ok(())),
            ProcessState::Starting => None,
            _ => Some(Err(Refusal::AbnormalTermination)),
        },
        Awaited::Stopped | Awaited::StoppedForRestart => state.is_stopped().then_some(Ok(())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::world::{World, group, program};

    fn three() -> World {
        let named = |name: &str, priority| {
            let mut config = program("web", name);
            config.priority = priority;
            config
        };
        let other = program("db", "db");
        let mut world = World::new(vec![
            group("web", 10, vec![named("a", 1), named("b", 2)]),
            group("db", 5, vec![other]),
        ]);
        world.settle();
        world.pass(Duration::from_secs(2));
        world
    }

    #[test]
    fn a_restart_stops_all_before_it_starts_any_and_touches_nothing_else() {
        let mut world = three();
        world.changes.clear();
        let processes = Processes::Group("web".to_owned());
        let ticket =
            world.request(Request::Verb { verb: Verb::Restart, processes, refused: BTreeMap::new() });
        world.settle();
        world.pass(Duration::from_secs(2));
        let outcomes = &world.outcomes[&ticket];
        assert!(outcomes.iter().all(|(_, outcome)| outcome.is_ok()));
        assert_eq!(outcomes.len(), 2);
        let seen: Vec<(&str, ProcessState)> =
            world.changes.iter().map(|(name, _, to)| (name.process.as_str(), *to)).collect();
        use ProcessState as S;
        assert_eq!(
            seen,
            [
                ("b", S::Stopping),
                ("a", S::Stopping),
                ("b", S::Stopped),
                ("a", S::Stopped),
                ("a", S::Starting),
                ("b", S::Starting),
                ("a", S::Running),
                ("b", S::Running),
            ]
        );
    }

    #[test]
    fn a_restart_of_a_program_that_cannot_run_leaves_it_running() {
        let mut world = three();
        let name = ProcessName::new("db", "db");
        let refused = BTreeMap::from([(name.clone(), Refusal::NoFile("db".to_owned()))]);
        let processes = Processes::Named(vec![name]);
        let ticket = world.request(Request::Verb { verb: Verb::Restart, processes, refused });
        assert_eq!(world.outcomes[&ticket][0].1, Err(Refusal::NoFile("db".to_owned())));
        assert_eq!(world.state("db", "db"), ProcessState::Running);
    }

    #[test]
    fn groups_end_one_after_the_other_from_the_highest_number() {
        let mut world = three();
        world.changes.clear();
        world.request(Request::Shutdown);
        world.settle();
        let stopping: Vec<&str> = world
            .changes
            .iter()
            .filter(|(_, _, to)| *to == ProcessState::Stopping)
            .map(|(name, _, _)| name.process.as_str())
            .collect();
        assert_eq!(stopping, ["b", "a", "db"]);
        assert_eq!(world.finished, Some(DaemonState::Shutdown));
    }

    #[test]
    fn a_wish_takes_the_place_of_autostart() {
        let wishes = BTreeMap::from([(ProcessName::new("g", "p"), false)]);
        let mut core = Supervisor::new(wishes);
        let request = Request::AddGroup(group("g", 1, vec![program("g", "p")]));
        let effects = core.step(Input::Request { ticket: Ticket(0), request }, Now::default());
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Spawn { .. })));
    }

    #[test]
    fn an_unknown_name_is_answered() {
        let mut world = three();
        let ticket = world.verb(Verb::Start { wait: true }, "web", "nosuch");
        assert_eq!(world.outcomes[&ticket][0].1, Err(Refusal::BadName));
        let ticket = world.verb(Verb::Start { wait: true }, "web", "a");
        assert_eq!(world.outcomes[&ticket][0].1, Err(Refusal::AlreadyStarted));
    }

    #[test]
    fn a_group_with_something_running_is_not_removed() {
        let mut world = three();
        let ticket = world.request(Request::RemoveGroup("web".to_owned()));
        assert_eq!(world.outcomes[&ticket][0].1, Err(Refusal::StillRunning));
    }
}
