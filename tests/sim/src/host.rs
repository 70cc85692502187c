//! One simulated host: the agent's pure core with a keeper that spawns and ends at once, and no process at all.
//! To the fleet's link it is a daemon like any other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fleetvisor_core::effect::{Effect, Instance};
use fleetvisor_core::exit::ExitStatus;
use fleetvisor_core::request::{Outcome, Processes, Request, Ticket, Verb};
use fleetvisor_core::supervisor::{Input, Supervisor};
use fleetvisor_link::{Accepted, Begun, Daemon, Gone, Own, Tried, Updated, Watched};
use fleetvisor_model::config::{
    Autorestart, Bundles, Group, GroupKind, LogLevel, LogTarget, OutputLog, OwnPrograms,
    Process as ProcessConfig,
};
use fleetvisor_model::name::ProcessName;
use fleetvisor_model::signal::Signal;
use fleetvisor_model::status::ProcessStatus;
use fleetvisor_model::time::{Monotonic, Now, Wall};
use tokio::sync::mpsc;

/// Its group; the processes are `p_00`, `p_01`, ...
pub(crate) const GROUP: &str = "sim";

/// What the simulation wants to know of all hosts together.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Links that came about, in all.
    pub(crate) links: AtomicU64,
    /// Requests for this host, in all.
    pub(crate) verbs: AtomicU64,
    pub(crate) spawns: AtomicU64,
}

#[derive(Clone)]
pub(crate) struct SimulatedHost {
    inner: Arc<Inner>,
}

struct Inner {
    pub(crate) counters: Arc<Counters>,
    verbs: AtomicU64,
    linked: AtomicBool,
    quiet: bool,
    name: String,
    world: Mutex<World>,
}

struct World {
    core: Supervisor,
    begin: Instant,
    askers: HashMap<Ticket, mpsc::UnboundedSender<(ProcessName, Outcome)>>,
    watchers: Vec<mpsc::UnboundedSender<Watched>>,
    next_ticket: u64,
    next_pid: i32,
    spawned: u64,
}

impl fmt::Debug for SimulatedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimulatedHost({})", self.inner.name)
    }
}

impl SimulatedHost {
    /// With this many processes, all of which run. `quiet` keeps its log off stderr.
    pub(crate) fn new(name: &str, processes: usize, counters: Arc<Counters>, quiet: bool) -> SimulatedHost {
        let mut world = World {
            core: Supervisor::new(BTreeMap::new()),
            begin: Instant::now(),
            askers: HashMap::new(),
            watchers: Vec::new(),
            next_ticket: 0,
            next_pid: 1000,
            spawned: 0,
        };
        let configs = (0..processes).map(|number| program(&format!("p_{number:02}"))).collect();
        let group =
            Group { name: GROUP.to_owned(), priority: 999, kind: GroupKind::Programs, processes: configs };
        let ticket = world.ticket();
        world.drive(Input::Request { ticket, request: Request::AddGroup(group) });
        let inner = Inner {
            counters,
            verbs: AtomicU64::new(0),
            linked: AtomicBool::new(false),
            quiet,
            name: name.to_owned(),
            world: Mutex::new(world),
        };
        SimulatedHost { inner: Arc::new(inner) }
    }

    /// Requests that reached this host.
    pub(crate) fn verbs(&self) -> u64 {
        self.inner.verbs.load(Ordering::Relaxed)
    }

    pub(crate) fn spawned(&self) -> u64 {
        self.world().spawned
    }

    /// One process ends by itself, and is started again as its configuration says; gives the pid that it had. Needs a
    /// runtime.
    pub(crate) fn crash(&self, number: usize) -> i32 {
        let mut world = self.world();
        let name = ProcessName::new(GROUP, format!("p_{number:02}"));
        let Some(process) = world.core.process(&name) else { return 0 };
        let (pid, instance) = (process.pid(), process.instance());
        if let Some(instance) = instance {
            world.drive(Input::Exited { instance, status: ExitStatus::Code(1) });
        }
        if let Some(left) = world.core.deadline().map(|at| at - world.now().monotonic) {
            let host = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(left).await;
                host.world().drive(Input::Tick);
            });
        }
        pid
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.inner.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let passed = self.begin.elapsed() + Duration::from_secs(1000);
        Now {
            monotonic: Monotonic(u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX)),
            wall: Wall(i64::try_from(wall.as_micros()).unwrap_or(i64::MAX)),
        }
    }

    /// One input and all that follows from it at once: nothing here takes time, as `startsecs` is 0.
    fn drive(&mut self, input: Input) {
        let mut inputs = vec![input];
        loop {
            let now = self.now();
            let input = match inputs.pop() {
                Some(input) => input,
                None if self.core.deadline().is_some_and(|at| at <= now.monotonic) => Input::Tick,
                None => return,
            };
            for effect in self.core.step(input, now) {
                self.perform(effect, &mut inputs, now);
            }
        }
    }

    fn perform(&mut self, effect: Effect, inputs: &mut Vec<Input>, now: Now) {
        match effect {
            Effect::Spawn { instance, .. } => {
                self.spawned += 1;
                self.next_pid = if self.next_pid > 4_000_000 { 1000 } else { self.next_pid + 1 };
                inputs.push(Input::Spawned { instance, pid: self.next_pid });
            }
            Effect::Signal { instance, signal, .. } => {
                if signal == Signal::TERM || signal == Signal::KILL {
                    inputs.push(ended_by(instance, signal));
                }
            }
            Effect::Changed(change) => {
                if let Some(status) = self.core.process(&change.name).map(|process| process.status(now)) {
                    let (status, change) = (Arc::new(status), Arc::new(change));
                    self.watchers.retain(|watcher| {
                        watcher.send(Watched::Changed(status.clone())).is_ok()
                            && watcher.send(Watched::Happened(change.clone())).is_ok()
                    });
                }
            }
            Effect::Outcome { ticket, name, outcome } => {
                if let Some(asker) = self.askers.get(&ticket) {
                    // Whoever asked may have gone.
                    let _ = asker.send((name, outcome));
                }
            }
            Effect::Done { ticket } => {
                self.askers.remove(&ticket);
            }
            Effect::GroupAdded(_)
            | Effect::GroupRemoved(_)
            | Effect::Log { .. }
            | Effect::Stopping
            | Effect::Finished(_) => {}
        }
    }
}

impl Daemon for SimulatedHost {
    fn log(&self, level: LogLevel, line: String) {
        if line.contains("fleet: linked to") {
            self.inner.linked.store(true, Ordering::Relaxed);
            self.inner.counters.links.fetch_add(1, Ordering::Relaxed);
        }
        if !self.inner.quiet && level <= LogLevel::Warn {
            eprintln!("{}: {line}", self.inner.name);
        }
    }

    fn local(&self, time: Wall) -> String {
        time.secs().to_string()
    }

    fn watch(&self) -> Result<mpsc::UnboundedReceiver<Watched>, Gone> {
        let (changes, changed) = mpsc::unbounded_channel();
        self.world().watchers.push(changes);
        Ok(changed)
    }

    async fn statuses(&self) -> Result<Vec<ProcessStatus>, Gone> {
        let world = self.world();
        Ok(world.core.statuses(world.now()))
    }

    async fn status(&self, name: ProcessName) -> Result<Option<ProcessStatus>, Gone> {
        let world = self.world();
        Ok(world.core.process(&name).map(|process| process.status(world.now())))
    }

    fn verb(
        &self,
        verb: Verb,
        processes: Processes,
    ) -> Result<mpsc::UnboundedReceiver<(ProcessName, Outcome)>, Gone> {
        self.inner.verbs.fetch_add(1, Ordering::Relaxed);
        self.inner.counters.verbs.fetch_add(1, Ordering::Relaxed);
        let (outcomes, coming) = mpsc::unbounded_channel();
        let host = self.clone();
        work(move || {
            let mut world = host.world();
            let before = world.spawned;
            let ticket = world.ticket();
            world.askers.insert(ticket, outcomes);
            let request = Request::Verb { verb, processes, refused: BTreeMap::new() };
            world.drive(Input::Request { ticket, request });
            host.inner.counters.spawns.fetch_add(world.spawned - before, Ordering::Relaxed);
        });
        Ok(coming)
    }

    /// A host without a configuration has no bundles either.
    async fn try_bundles(&self, _bundles: Bundles) -> Result<Tried, Gone> {
        Ok(Ok(Accepted::default()))
    }

    async fn update(&self, _groups: BTreeSet<String>) -> Result<Updated, Gone> {
        Ok(Ok(Begun::default()))
    }

    async fn own(&self) -> Result<Own, Gone> {
        Ok(Ok(OwnPrograms::default()))
    }

    /// Its configuration never changes.
    async fn update_groups(
        &self,
        _: Vec<String>,
        _: mpsc::UnboundedSender<(ProcessName, Result<String, String>)>,
    ) -> Result<Result<(), String>, Gone> {
        Ok(Ok(()))
    }

    /// There are no logs.
    fn own_log(&self) -> Option<PathBuf> {
        None
    }

    fn open_log(_: &Path) -> io::Result<File> {
        Err(io::ErrorKind::NotFound.into())
    }

    /// It is no program that could be another.
    async fn upgrade<L>(&self, _: L) -> Result<Result<String, String>, Gone>
    where
        L: Future<Output = Result<(), String>> + Send,
    {
        Ok(Err("a simulated host cannot be upgraded".to_owned()))
    }

    async fn upgraded(&self) -> Result<Result<String, String>, Gone> {
        Ok(Err("a simulated host was not upgraded".to_owned()))
    }

    fn wish(&self, wishes: BTreeMap<ProcessName, bool>) -> Result<(), Gone> {
        let mut world = self.world();
        for (name, run) in wishes {
            let ticket = world.ticket();
            world.drive(Input::Request { ticket, request: Request::Wish { name, run } });
        }
        Ok(())
    }
}

/// Hands over what a host's daemon does. It has a thread of its own, as on any host, so that links go on speaking;
/// one for all hosts, which take turns.
fn work(deed: impl FnOnce() + Send + 'static) {
    type Deed = Box<dyn FnOnce() + Send>;
    static DEEDS: OnceLock<std::sync::mpsc::Sender<Deed>> = OnceLock::new();
    let deeds = DEEDS.get_or_init(|| {
        let (deeds, coming) = std::sync::mpsc::channel::<Deed>();
        std::thread::spawn(move || coming.into_iter().for_each(|deed| deed()));
        deeds
    });
    // The thread ends with this process.
    let _ = deeds.send(Box::new(deed));
}

fn ended_by(instance: Instance, signal: Signal) -> Input {
    Input::Exited { instance, status: ExitStatus::Signal { signal, core_dumped: false } }
}

/// With Supervisor's defaults, but RUNNING at once.
fn program(name: &str) -> ProcessConfig {
    let log = OutputLog {
        logfile: LogTarget::None,
        logfile_maxbytes: 0,
        logfile_backups: 0,
        capture_maxbytes: 0,
        events_enabled: false,
        syslog: false,
    };
    ProcessConfig {
        name: ProcessName::new(GROUP, name),
        command: "/bin/true".to_owned(),
        directory: None,
        umask: None,
        priority: 999,
        autostart: true,
        autorestart: Autorestart::Unexpected,
        startsecs: 0,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_restart_is_done_at_once_and_every_process_is_answered() {
        let host = SimulatedHost::new("a", 3, Arc::default(), true);
        assert!(host.statuses().await.unwrap().iter().all(|status| status.pid != 0));
        let mut changed = host.watch().unwrap();
        let mut outcomes = host.verb(Verb::Restart, Processes::All).unwrap();
        let mut answers = 0;
        while let Some((_, outcome)) = outcomes.recv().await {
            assert_eq!(outcome, Ok(()));
            answers += 1;
        }
        assert_eq!((answers, host.spawned(), host.verbs()), (3, 6, 1));
        assert!(matches!(changed.try_recv(), Ok(Watched::Changed(_))));
        assert!(host.crash(1) > 1000);
        while host.spawned() < 7 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
