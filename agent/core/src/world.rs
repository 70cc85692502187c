//! A simulated world for the core's tests: a keeper that spawns, signals and reaps as told, a clock that
//! moves when told, an agent that dies when told and is succeeded, and a check of every effect against the rules.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use fleetvisor_model::config::{
    Autorestart, Group, GroupKind, LogTarget, OutputLog, Process as ProcessConfig,
};
use fleetvisor_model::name::ProcessName;
use fleetvisor_model::signal::Signal;
use fleetvisor_model::state::{DaemonState, ProcessState};
use fleetvisor_model::time::{Monotonic, Now, Wall};
use proptest::prelude::*;

use crate::decisions::{Act, Counters, Decisions, Step};
use crate::effect::{Effect, Instance};
use crate::exit::ExitStatus;
use crate::request::{Outcome, Processes, Request, Ticket, Verb};
use crate::supervisor::{Input, Supervisor};
use crate::takeover::{Adopted, Replay, Task};

/// A program with Supervisor's defaults.
pub(crate) fn program(group: &str, name: &str) -> ProcessConfig {
    let log = OutputLog {
        logfile: LogTarget::None,
        logfile_maxbytes: 0,
        logfile_backups: 0,
        capture_maxbytes: 0,
        events_enabled: false,
        syslog: false,
    };
    ProcessConfig {
        name: ProcessName::new(group, name),
        command: "/bin/cat".to_owned(),
        directory: None,
        umask: None,
        priority: 999,
        autostart: true,
        autorestart: Autorestart::Unexpected,
        startsecs: 1,
        startretries: 3,
        uid: None,
        stdout: log.clone(),
        stderr: log,
        redirect_stderr: false,
        stopsignal: Signal::TERM,
        stopwaitsecs: 10,
        stopasgroup: false,
        killasgroup: false,
        exitcodes: vec![0],
        environment: BTreeMap::new(),
        serverurl: None,
        fcgi: false,
    }
}

pub(crate) fn group(name: &str, priority: i64, processes: Vec<ProcessConfig>) -> Group {
    Group { name: name.to_owned(), priority, kind: GroupKind::Programs, processes }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Child {
    Unconfirmed,
    Live,
    /// Nobody has taken note of it yet.
    Ended(ExitStatus),
}

/// What the keeper knows of a child.
#[derive(Clone, Debug)]
struct Kept {
    name: ProcessName,
    child: Child,
    signals: u64,
}

/// The core with everything around it.
pub(crate) struct World {
    decisions: Decisions,
    /// Decisions as they were kept, and the steps since.
    snapshot: String,
    journal: Vec<(Now, Step)>,
    /// After how many further acts the agent dies.
    fuse: Option<usize>,
    deaths: usize,
    now: u64,
    children: BTreeMap<Instance, Kept>,
    unanswered: BTreeSet<Ticket>,
    /// Those who asked an agent that has died.
    disappointed: BTreeSet<Ticket>,
    next_ticket: u64,
    pub(crate) outcomes: HashMap<Ticket, Vec<(ProcessName, Outcome)>>,
    pub(crate) signals: Vec<(ProcessName, Signal)>,
    pub(crate) changes: Vec<(ProcessName, ProcessState, ProcessState)>,
    pub(crate) lines: Vec<String>,
    pub(crate) finished: Option<DaemonState>,
    /// Signals end the children they reach.
    pub(crate) obedient: bool,
}

impl World {
    pub(crate) fn new(groups: Vec<Group>) -> World {
        let decisions = Decisions::new(BTreeMap::new(), "id".to_owned(), Counters::default());
        let mut world = World {
            snapshot: serde_json::to_string(&decisions).expect("decisions are data"),
            decisions,
            journal: Vec::new(),
            fuse: None,
            deaths: 0,
            now: 1_000_000_000,
            children: BTreeMap::new(),
            unanswered: BTreeSet::new(),
            disappointed: BTreeSet::new(),
            next_ticket: 0,
            outcomes: HashMap::new(),
            signals: Vec::new(),
            changes: Vec::new(),
            lines: Vec::new(),
            finished: None,
            obedient: true,
        };
        for group in groups {
            world.request(Request::AddGroup(group));
        }
        world
    }

    pub(crate) fn core(&self) -> &Supervisor {
        self.decisions.supervisor()
    }

    fn now(&self) -> Now {
        Now { monotonic: Monotonic(self.now), wall: Wall(self.now as i64 / 1000) }
    }

    pub(crate) fn request(&mut self, request: Request) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.unanswered.insert(ticket);
        self.input(Input::Request { ticket, request });
        ticket
    }

    pub(crate) fn verb(&mut self, verb: Verb, group: &str, name: &str) -> Ticket {
        let processes = Processes::Named(vec![ProcessName::new(group, name)]);
        self.request(Request::Verb { verb, processes, refused: BTreeMap::new() })
    }

    pub(crate) fn input(&mut self, input: Input) {
        let now = self.now();
        let ended = if let Input::Exited { instance, .. } = &input { Some(*instance) } else { None };
        self.journal.push((now, Step::Input(input.clone())));
        let acts = self.decisions.take(Step::Input(input), now);
        if self.dies() {
            return self.take_over();
        }
        if let Some(instance) = ended {
            self.children.remove(&instance);
        }
        for act in acts {
            if self.dies() {
                return self.take_over();
            }
            if let Act::Effect(effect) = act {
                self.perform(effect);
            }
        }
    }

    fn dies(&mut self) -> bool {
        match &mut self.fuse {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    fn keep(&mut self) {
        self.snapshot = serde_json::to_string(&self.decisions).expect("decisions are data");
        self.journal.clear();
    }

    /// The agent is gone with all that it had not yet said; another one takes its place.
    fn take_over(&mut self) {
        self.fuse = None;
        self.deaths += 1;
        self.disappointed.append(&mut self.unanswered);
        let kept = serde_json::from_str(&self.snapshot).expect("decisions are data");
        let mut replay = Replay::new(kept);
        for (now, step) in self.journal.clone() {
            replay.take(step, now);
        }
        let (before, after) = (self.decisions.supervisor(), replay.decisions.supervisor());
        assert_eq!(after.statuses(self.now()), before.statuses(self.now()));
        assert_eq!(after.deadline(), before.deadline());
        assert_eq!(after.state(), before.state());
        let adopted: Vec<Adopted> = self
            .children
            .iter()
            .map(|(&instance, kept)| Adopted {
                instance,
                pid: pid(instance),
                exited: matches!(kept.child, Child::Ended(_)),
                signals: kept.signals,
            })
            .collect();
        let tasks = replay.tasks(&adopted);
        self.finished = self.finished.or(replay.finished);
        self.decisions = replay.decisions;
        for task in tasks {
            match task {
                Task::Spawn { instance, name } => self.perform(Effect::Spawn { instance, name }),
                Task::Attach { instance, .. } => assert!(self.children.contains_key(&instance)),
                Task::Confirm { instance, pid } => {
                    if let Some(kept) = self.children.get_mut(&instance)
                        && kept.child == Child::Unconfirmed
                    {
                        kept.child = Child::Live;
                    }
                    self.input(Input::Spawned { instance, pid });
                }
                Task::Signal { instance, signal, to_group } => {
                    self.perform(Effect::Signal { instance, signal, to_group });
                }
                Task::Release { instance } => {
                    self.children.remove(&instance);
                }
                Task::Kill { .. } | Task::Lost { .. } => panic!("unexplained: {task:?}"),
            }
        }
        for (instance, kept) in &self.children {
            let asked = self.decisions.account(*instance).signals;
            if !matches!(kept.child, Child::Ended(_)) {
                assert_eq!(kept.signals, asked, "signals are sent once");
            }
        }
        let ended: Vec<Instance> = self
            .children
            .iter()
            .filter(|(_, kept)| matches!(kept.child, Child::Ended(_)))
            .map(|(instance, _)| *instance)
            .collect();
        for instance in ended {
            self.tell_of_end(instance);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Spawn { instance, name } => {
                assert!(self.children.values().all(|other| other.name != name), "{name} would run twice");
                self.children.insert(instance, Kept { name, child: Child::Unconfirmed, signals: 0 });
            }
            Effect::Signal { instance, signal, .. } => {
                let kept = self.children.get_mut(&instance).expect("signals reach children only");
                kept.signals += 1;
                self.signals.push((kept.name.clone(), signal));
            }
            Effect::Changed(change) => {
                assert!(allowed(change.from, change.to), "{:?} -> {:?}", change.from, change.to);
                self.changes.push((change.name, change.from, change.to));
            }
            Effect::Outcome { ticket, name, outcome } => {
                self.outcomes.entry(ticket).or_default().push((name, outcome));
            }
            Effect::Done { ticket } => {
                let waits = self.unanswered.remove(&ticket) || self.disappointed.remove(&ticket);
                assert!(waits, "answered twice");
            }
            Effect::Log { line, .. } => self.lines.push(line),
            Effect::GroupAdded(_) | Effect::GroupRemoved(_) | Effect::Stopping => {}
            Effect::Finished(state) => {
                let unknown =
                    |name| self.core().process(name).is_some_and(|it| it.state() == ProcessState::Unknown);
                assert!(self.children.values().all(|kept| unknown(&kept.name)), "finished with children");
                self.finished = Some(state);
            }
        }
    }

    /// Confirms every spawn, and lets signals do their work.
    pub(crate) fn settle(&mut self) {
        loop {
            let unconfirmed = self.children.iter().find(|(_, kept)| kept.child == Child::Unconfirmed);
            if let Some((&instance, _)) = unconfirmed {
                self.spawned(instance);
                continue;
            }
            if !self.obedient || self.signals.is_empty() {
                return;
            }
            let (name, signal) = self.signals.remove(0);
            self.exits(&name, ExitStatus::Signal { signal, core_dumped: false });
        }
    }

    fn spawned(&mut self, instance: Instance) {
        if let Some(kept) = self.children.get_mut(&instance) {
            kept.child = Child::Live;
            self.input(Input::Spawned { instance, pid: pid(instance) });
        }
    }

    pub(crate) fn spawn_fails(&mut self, error: &str) {
        let first = self.children.iter().find(|(_, kept)| kept.child == Child::Unconfirmed);
        if let Some((&instance, _)) = first {
            self.children.remove(&instance);
            self.input(Input::SpawnFailed { instance, error: error.to_owned() });
        }
    }

    pub(crate) fn exits(&mut self, name: &ProcessName, status: ExitStatus) {
        let live = self.children.iter_mut().find(|(_, kept)| kept.name == *name && kept.child == Child::Live);
        if let Some((&instance, kept)) = live {
            kept.child = Child::Ended(status);
            self.tell_of_end(instance);
        }
    }

    fn tell_of_end(&mut self, instance: Instance) {
        if let Some(Kept { child: Child::Ended(status), .. }) = self.children.get(&instance) {
            let status = *status;
            self.input(Input::Exited { instance, status });
        }
    }

    /// Moves the clock, stopping at each deadline on the way.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time.as_nanos() as u64;
        while let Some(Monotonic(at)) = self.core().deadline() {
            if at > end {
                break;
            }
            self.now = self.now.max(at);
            self.input(Input::Tick);
            if self.obedient {
                self.settle();
            }
        }
        self.now = end;
    }

    pub(crate) fn state(&self, group: &str, name: &str) -> ProcessState {
        self.core().process(&ProcessName::new(group, name)).expect("known").state()
    }
}

fn pid(instance: Instance) -> i32 {
    100 + instance.0 as i32
}

/// Supervisor's diagram, and the ways into and out of UNKNOWN.
fn allowed(from: ProcessState, to: ProcessState) -> bool {
    use ProcessState as S;
    matches!(
        (from, to),
        (S::Stopped | S::Exited | S::Fatal | S::Backoff, S::Starting)
            | (S::Starting, S::Running | S::Backoff | S::Stopping)
            | (S::Running, S::Stopping | S::Exited)
            | (S::Backoff, S::Fatal | S::Stopped)
            | (S::Stopping, S::Stopped | S::Unknown)
            | (S::Unknown, S::Stopped)
    )
}

#[derive(Clone, Debug)]
enum Op {
    Verb(usize, Verb),
    VerbAll(Verb),
    Exit(usize, i32),
    Confirm,
    SpawnFails,
    SignalFails(usize),
    Pass(u64),
    Remove(usize),
    Add(usize),
    Shutdown,
    /// The agent dies after this many further acts.
    Die(usize),
    Keep,
}

fn op() -> impl Strategy<Value = Op> {
    let verb = prop_oneof![
        any::<bool>().prop_map(|wait| Verb::Start { wait }),
        any::<bool>().prop_map(|wait| Verb::Stop { wait }),
        Just(Verb::Restart),
        Just(Verb::Signal(Signal::HUP)),
    ];
    prop_oneof![
        6 => (0..4usize, verb.clone()).prop_map(|(at, verb)| Op::Verb(at, verb)),
        2 => verb.prop_map(Op::VerbAll),
        6 => (0..4usize, 0..2i32).prop_map(|(at, code)| Op::Exit(at, code)),
        8 => Just(Op::Confirm),
        1 => Just(Op::SpawnFails),
        1 => (0..4usize).prop_map(Op::SignalFails),
        6 => (1..3_000u64).prop_map(Op::Pass),
        1 => (0..2usize).prop_map(Op::Remove),
        1 => (0..2usize).prop_map(Op::Add),
        1 => Just(Op::Shutdown),
        4 => (0..6usize).prop_map(Op::Die),
        2 => Just(Op::Keep),
    ]
}

fn two_groups() -> Vec<Group> {
    let mut always = program("web", "always");
    always.autorestart = Autorestart::Always;
    let mut hasty = program("web", "hasty");
    hasty.startsecs = 0;
    hasty.startretries = 1;
    let mut late = program("app", "late");
    late.autostart = false;
    late.stopwaitsecs = 1;
    let mut fragile = program("app", "fragile");
    fragile.startretries = 0;
    fragile.autorestart = Autorestart::Never;
    vec![group("web", 1, vec![always, hasty]), group("app", 2, vec![late, fragile])]
}

const NAMES: [(&str, &str); 4] = [("web", "always"), ("web", "hasty"), ("app", "late"), ("app", "fragile")];

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever happens, and whenever the agent dies and is succeeded: no process runs twice, states follow the
    /// diagram, signals are sent once, nothing that was decided changes (all asserted by the world), everybody
    /// who asked an agent that lives is answered once, and the daemon can always end.
    #[test]
    fn the_diagram_is_kept_and_everybody_is_answered(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::new(two_groups());
        world.obedient = false;
        for op in ops {
            match op {
                Op::Verb(at, verb) => {
                    world.verb(verb, NAMES[at].0, NAMES[at].1);
                }
                Op::VerbAll(verb) => {
                    let processes = Processes::All;
                    world.request(Request::Verb { verb, processes, refused: BTreeMap::new() });
                }
                Op::Exit(at, code) => {
                    world.exits(&ProcessName::new(NAMES[at].0, NAMES[at].1), ExitStatus::Code(code));
                }
                Op::Confirm => world.settle(),
                Op::SpawnFails => world.spawn_fails("no room"),
                Op::SignalFails(at) => {
                    let name = ProcessName::new(NAMES[at].0, NAMES[at].1);
                    if let Some(instance) = world.core().process(&name).and_then(|it| it.instance()) {
                        world.input(Input::SignalFailed { instance, error: "EPERM".to_owned() });
                    }
                }
                Op::Pass(ms) => world.pass(Duration::from_millis(ms)),
                Op::Remove(at) => {
                    world.request(Request::RemoveGroup(["web", "app"][at].to_owned()));
                }
                Op::Add(at) => {
                    world.request(Request::AddGroup(two_groups().swap_remove(at)));
                }
                Op::Shutdown => {
                    world.request(Request::Shutdown);
                }
                Op::Die(acts) => world.fuse = Some(acts),
                Op::Keep => world.keep(),
            }
        }
        world.fuse = None;
        world.request(Request::Shutdown);
        for _ in 0..100 {
            world.settle();
            for (group, name) in NAMES {
                world.exits(&ProcessName::new(group, name), ExitStatus::Code(0));
            }
            world.pass(Duration::from_secs(1));
        }
        prop_assert_eq!(world.finished, Some(DaemonState::Shutdown));
        prop_assert!(world.unanswered.is_empty(), "unanswered: {:?}", world.unanswered);
        prop_assert!(world.core().nobody_waits());
    }
}
