//! The life of one process: `step(event)` gives effects and leaves at most one [`Process::deadline`].
//! It knows nothing of groups, requests or of how a spawn is done.
//!
//! ```text
//!              start              startsecs passed            exited
//!   STOPPED ---------> STARTING -------------------> RUNNING --------> EXITED
//!      ^                |  ^  |                         |                 |
//!      |    spawn failed|  |  | stop               stop |                 | start,
//!      |    exited early|  |  |                         |                 | autorestart
//!      |                v  |  v                         v                 v
//!      |<--stop---- BACKOFF  STOPPING <-----------------+             STARTING
//!      |                |       |
//!      |   retries used |       | exited (KILL after stopwaitsecs)
//!      |                v       |          start
//!      |              FATAL ----|---------------------> STARTING
//!      +------------------------+
//! ```
//! A signal that can't be sent leads to UNKNOWN. Supervisor's documentation is the source of the diagram;
//! `the_diagram_is_kept` checks it.

use std::time::Duration;

use fleetvisor_model::config::{self, Autorestart, LogLevel, LogTarget};
use fleetvisor_model::name::ProcessName;
use fleetvisor_model::signal::Signal;
use fleetvisor_model::state::ProcessState;
use fleetvisor_model::status::ProcessStatus;
use fleetvisor_model::time::{Monotonic, Now, Wall};
use serde::{Deserialize, Serialize};

use crate::effect::{Change, Effect, Instance};
use crate::exit::ExitStatus;

/// A program that ends at once although it counts as RUNNING (`startsecs=0`) is not started more often.
const RESTART_SPACING: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Start,
    Stop,
    /// The daemon ends: a process in BACKOFF is not tried again.
    GiveUp,
    Spawned {
        pid: i32,
    },
    SpawnFailed {
        error: String,
    },
    Exited {
        status: ExitStatus,
    },
    SignalFailed {
        error: String,
    },
    /// The deadline has passed.
    Due,
}

/// What a step may use beside the process itself.
#[derive(Debug)]
pub struct Context<'a> {
    pub now: Now,
    /// False while the daemon is ending: nothing is started by itself any more.
    pub starts_allowed: bool,
    pub next_instance: &'a mut u64,
    pub effects: &'a mut Vec<Effect>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Process {
    config: config::Process,
    state: ProcessState,
    run: Option<Run>,
    /// Failed attempts in a row.
    backoff: i64,
    deadline: Option<Monotonic>,
    started: Option<(Monotonic, Wall)>,
    stopped: Wall,
    exitstatus: Option<i32>,
    spawnerr: Option<String>,
    /// How the child has ended, until the change that follows from it is told.
    exit: Option<ExitStatus>,
}

/// A child that exists, or is being made.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Run {
    instance: Instance,
    /// 0 until the spawn is confirmed.
    pid: i32,
}

impl Process {
    pub fn new(config: config::Process) -> Process {
        Process {
            config,
            state: ProcessState::Stopped,
            run: None,
            backoff: 0,
            deadline: None,
            started: None,
            stopped: Wall::EPOCH,
            exitstatus: None,
            spawnerr: None,
            exit: None,
        }
    }

    pub fn config(&self) -> &config::Process {
        &self.config
    }

    pub fn name(&self) -> &ProcessName {
        &self.config.name
    }

    pub fn state(&self) -> ProcessState {
        self.state
    }

    /// The child that runs or is being made.
    pub fn instance(&self) -> Option<Instance> {
        self.run.map(|run| run.instance)
    }

    /// 0 where nothing runs.
    pub fn pid(&self) -> i32 {
        self.run.map_or(0, |run| run.pid)
    }

    pub fn spawn_failed(&self) -> bool {
        self.spawnerr.is_some()
    }

    /// When `step(Due)` is wanted, if at all.
    pub fn deadline(&self) -> Option<Monotonic> {
        self.deadline
    }

    pub fn status(&self, now: Now) -> ProcessStatus {
        let (since, start) = self.started.unwrap_or((now.monotonic, Wall::EPOCH));
        let file = |target: &LogTarget| match target {
            LogTarget::File(path) => path.to_string_lossy().into_owned(),
            LogTarget::None | LogTarget::Auto | LogTarget::Syslog => String::new(),
        };
        ProcessStatus {
            name: self.config.name.clone(),
            state: self.state,
            start,
            stop: self.stopped,
            now: now.wall,
            uptime_secs: if self.state == ProcessState::Running {
                now.monotonic.since(since).as_secs()
            } else {
                0
            },
            pid: self.pid(),
            exitstatus: self.exitstatus.unwrap_or(0),
            spawnerr: self.spawnerr.clone().unwrap_or_default(),
            started_once: self.started.is_some(),
            stdout_logfile: file(&self.config.stdout.logfile),
            stderr_logfile: file(&self.config.stderr.logfile),
        }
    }

    pub fn step(&mut self, event: Event, cx: &mut Context<'_>) {
        use Event as E;
        use ProcessState as S;
        match (self.state, event) {
            (S::Stopped | S::Exited | S::Fatal | S::Backoff, E::Start) => self.spawn(cx),

            (S::Starting | S::Running, E::Stop) => self.stop(cx),
            (S::Backoff, E::Stop) => {
                self.deadline = None;
                self.change(S::Stopped, cx);
            }
            // A restart that was about to happen does not.
            (S::Exited, E::Stop) => self.deadline = None,
            (S::Backoff, E::GiveUp) => self.give_up(cx),

            (S::Starting, E::Spawned { pid }) => {
                self.spawned(pid, cx);
                self.deadline = Some(self.running_from());
                if self.deadline <= Some(cx.now.monotonic) {
                    self.entered_running(cx);
                }
            }
            (S::Stopping | S::Unknown, E::Spawned { pid }) => self.spawned(pid, cx),
            (S::Starting, E::SpawnFailed { error }) => {
                self.run = None;
                self.log(LogLevel::Info, format!("spawnerr: {error}"), cx);
                self.failed_to_start(error, cx);
                self.give_up_if_retries_are_used(cx);
            }
            (S::Stopping | S::Unknown, E::SpawnFailed { error }) => {
                self.run = None;
                self.deadline = None;
                self.spawnerr = Some(error);
                self.change(S::Stopped, cx);
            }

            (S::Starting | S::Running | S::Stopping | S::Unknown, E::Exited { status }) => {
                self.exited(status, cx);
            }
            (S::Stopping, E::SignalFailed { error }) => {
                let line =
                    format!("unknown problem killing {} ({}): {error}", self.config.name.process, self.pid());
                self.log(LogLevel::Critical, line, cx);
                self.deadline = None;
                self.change(S::Unknown, cx);
            }

            (S::Starting, E::Due) => self.entered_running(cx),
            (S::Backoff | S::Exited, E::Due) => {
                self.deadline = None;
                if cx.starts_allowed {
                    self.spawn(cx);
                }
            }
            (S::Stopping, E::Due) => {
                let line = format!("killing '{}' ({}) with SIGKILL", self.config.name.process, self.pid());
                self.log(LogLevel::Warn, line, cx);
                self.deadline = Some(cx.now.monotonic + secs(self.config.stopwaitsecs));
                self.signal(Signal::KILL, self.config.killasgroup, cx);
            }
            (S::Stopped | S::Running | S::Fatal | S::Unknown, E::Due) => self.deadline = None,

            // Nothing to do: already as wished, or an answer that came too late to matter.
            (S::Starting | S::Running | S::Stopping | S::Unknown, E::Start)
            | (S::Stopped | S::Stopping | S::Fatal | S::Unknown, E::Stop)
            | (
                S::Stopped | S::Starting | S::Running | S::Stopping | S::Exited | S::Fatal | S::Unknown,
                E::GiveUp,
            )
            | (
                S::Stopped | S::Running | S::Backoff | S::Exited | S::Fatal,
                E::Spawned { .. } | E::SpawnFailed { .. },
            )
            | (S::Stopped | S::Backoff | S::Exited | S::Fatal, E::Exited { .. })
            | (
                S::Stopped | S::Starting | S::Running | S::Backoff | S::Exited | S::Fatal | S::Unknown,
                E::SignalFailed { .. },
            ) => {}
        }
    }

    fn spawn(&mut self, cx: &mut Context<'_>) {
        let instance = Instance(*cx.next_instance);
        *cx.next_instance += 1;
        self.run = Some(Run { instance, pid: 0 });
        self.spawnerr = None;
        self.exitstatus = None;
        self.deadline = None;
        self.started = Some((cx.now.monotonic, cx.now.wall));
        self.change(ProcessState::Starting, cx);
        cx.effects.push(Effect::Spawn { instance, name: self.config.name.clone() });
    }

    fn spawned(&mut self, pid: i32, cx: &mut Context<'_>) {
        if let Some(run) = &mut self.run {
            run.pid = pid;
        }
        // Its time runs from here: a busy host may have taken a while to spawn it.
        self.started = Some((cx.now.monotonic, cx.now.wall));
        let line = format!("spawned: '{}' with pid {pid}", self.config.name.process);
        self.log(LogLevel::Info, line, cx);
    }

    fn running_from(&self) -> Monotonic {
        let (since, _) = self.started.unwrap_or_default();
        since + secs(self.config.startsecs)
    }

    fn entered_running(&mut self, cx: &mut Context<'_>) {
        self.deadline = None;
        self.backoff = 0;
        self.change(ProcessState::Running, cx);
        let line = format!(
            "success: {} entered RUNNING state, process has stayed up for > than {} seconds (startsecs)",
            self.config.name.process, self.config.startsecs
        );
        self.log(LogLevel::Info, line, cx);
    }

    fn stop(&mut self, cx: &mut Context<'_>) {
        self.deadline = Some(cx.now.monotonic + secs(self.config.stopwaitsecs));
        let to_group = self.config.stopasgroup;
        let line = format!(
            "killing {} (pid {}) {}with signal {}",
            self.config.name.process,
            self.pid(),
            if to_group { "process group " } else { "" },
            self.config.stopsignal.name()
        );
        self.log(LogLevel::Debug, line, cx);
        self.change(ProcessState::Stopping, cx);
        self.signal(self.config.stopsignal, to_group, cx);
    }

    fn exited(&mut self, status: ExitStatus, cx: &mut Context<'_>) {
        let name = self.config.name.process.clone();
        let expected = self.config.exitcodes.contains(&status.code());
        let now = cx.now.monotonic;
        let (since, _) = self.started.unwrap_or_default();
        self.stopped = cx.now.wall;
        self.deadline = None;
        match self.state {
            ProcessState::Stopping | ProcessState::Unknown => {
                self.exitstatus = Some(status.code());
                if status == ExitStatus::Unknown {
                    self.spawnerr = Some(status.to_string());
                }
                self.exit = Some(status);
                self.change(ProcessState::Stopped, cx);
                let level = if expected { LogLevel::Info } else { LogLevel::Warn };
                self.log(level, format!("stopped: {name} ({status})"), cx);
                self.run = None;
            }
            ProcessState::Starting if now < self.running_from() => {
                self.exit = Some(status);
                self.failed_to_start("Exited too quickly (process log may have details)".to_owned(), cx);
                self.log(LogLevel::Warn, format!("exited: {name} ({status}; not expected)"), cx);
                self.run = None;
                self.give_up_if_retries_are_used(cx);
            }
            _ => {
                if self.state == ProcessState::Starting {
                    self.entered_running(cx);
                }
                self.backoff = 0;
                self.exitstatus = Some(status.code());
                let (level, word) = if expected {
                    (LogLevel::Info, "expected")
                } else {
                    self.spawnerr = Some(match status {
                        ExitStatus::Unknown => status.to_string(),
                        ExitStatus::Code(_) | ExitStatus::Signal { .. } => {
                            format!("Bad exit code {}", status.code())
                        }
                    });
                    (LogLevel::Warn, "not expected")
                };
                self.exit = Some(status);
                self.change_expecting(ProcessState::Exited, expected, cx);
                self.log(level, format!("exited: {name} ({status}; {word})"), cx);
                self.run = None;
                let again = match self.config.autorestart {
                    Autorestart::Never => false,
                    Autorestart::Unexpected => !expected,
                    Autorestart::Always => true,
                };
                if again && cx.starts_allowed {
                    let earliest = since + RESTART_SPACING;
                    if now >= earliest {
                        self.spawn(cx);
                    } else {
                        self.deadline = Some(earliest);
                    }
                }
            }
        }
    }

    fn failed_to_start(&mut self, error: String, cx: &mut Context<'_>) {
        self.spawnerr = Some(error);
        self.exitstatus = None;
        self.backoff += 1;
        self.deadline = Some(cx.now.monotonic + secs(self.backoff));
        self.change(ProcessState::Backoff, cx);
    }

    fn give_up_if_retries_are_used(&mut self, cx: &mut Context<'_>) {
        if self.backoff > self.config.startretries {
            self.give_up(cx);
            let line = format!(
                "gave up: {} entered FATAL state, too many start retries too quickly",
                self.config.name.process
            );
            self.log(LogLevel::Info, line, cx);
        }
    }

    fn give_up(&mut self, cx: &mut Context<'_>) {
        self.deadline = None;
        self.backoff = 0;
        self.change(ProcessState::Fatal, cx);
    }

    fn signal(&self, signal: Signal, to_group: bool, cx: &mut Context<'_>) {
        if let Some(run) = self.run {
            cx.effects.push(Effect::Signal { instance: run.instance, signal, to_group });
        }
    }

    fn change(&mut self, to: ProcessState, cx: &mut Context<'_>) {
        self.change_expecting(to, true, cx);
    }

    fn change_expecting(&mut self, to: ProcessState, expected: bool, cx: &mut Context<'_>) {
        let from = std::mem::replace(&mut self.state, to);
        cx.effects.push(Effect::Changed(Change {
            name: self.config.name.clone(),
            from,
            to,
            pid: self.pid(),
            expected,
            tries: self.backoff,
            exit: self.exit.take(),
        }));
    }

    fn log(&self, level: LogLevel, line: String, cx: &mut Context<'_>) {
        cx.effects.push(Effect::Log { level, line });
    }
}

fn secs(secs: i64) -> Duration {
    Duration::from_secs(u64::try_from(secs).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Verb;
    use crate::world::{World, group, program};

    fn one(config: config::Process) -> World {
        World::new(vec![group("g", 999, vec![config])])
    }

    fn name() -> ProcessName {
        ProcessName::new("g", "p")
    }

    #[test]
    fn runs_after_startsecs() {
        let mut world = one(program("g", "p"));
        world.settle();
        assert_eq!(world.state("g", "p"), ProcessState::Starting);
        world.pass(Duration::from_secs(1));
        assert_eq!(world.state("g", "p"), ProcessState::Running);
        assert_eq!(
            world.lines,
            [
                "spawned: 'p' with pid 101",
                "success: p entered RUNNING state, process has stayed up for > than 1 seconds (startsecs)"
            ]
        );
    }

    #[test]
    fn exits_too_quickly_until_fatal() {
        let mut config = program("g", "p");
        config.startretries = 2;
        let mut world = one(config);
        for wait in [1, 2] {
            world.settle();
            world.exits(&name(), ExitStatus::Code(1));
            assert_eq!(world.state("g", "p"), ProcessState::Backoff);
            world.pass(Duration::from_secs(wait) - Duration::from_millis(1));
            assert_eq!(world.state("g", "p"), ProcessState::Backoff);
            world.pass(Duration::from_millis(1));
            assert_eq!(world.state("g", "p"), ProcessState::Starting);
        }
        world.settle();
        world.exits(&name(), ExitStatus::Code(1));
        assert_eq!(world.state("g", "p"), ProcessState::Fatal);
        assert_eq!(world.core().deadline(), None);
        let last = world.lines.last().unwrap();
        assert_eq!(last, "gave up: p entered FATAL state, too many start retries too quickly");
    }

    #[test]
    fn an_unexpected_exit_restarts_at_once() {
        let mut world = one(program("g", "p"));
        world.settle();
        world.pass(Duration::from_secs(5));
        world.exits(&name(), ExitStatus::Code(3));
        assert_eq!(world.state("g", "p"), ProcessState::Starting);
        assert!(world.lines.contains(&"exited: p (exit status 3; not expected)".to_owned()));
    }

    #[test]
    fn an_expected_exit_stays_exited() {
        let mut world = one(program("g", "p"));
        world.settle();
        world.pass(Duration::from_secs(5));
        world.exits(&name(), ExitStatus::Code(0));
        assert_eq!(world.state("g", "p"), ProcessState::Exited);
        assert_eq!(world.core().deadline(), None);
    }

    #[test]
    fn a_program_that_ends_at_once_is_started_once_a_second() {
        let mut config = program("g", "p");
        config.startsecs = 0;
        config.autorestart = Autorestart::Always;
        let mut world = one(config);
        for _ in 0..3 {
            world.settle();
            assert_eq!(world.state("g", "p"), ProcessState::Running);
            world.exits(&name(), ExitStatus::Code(0));
            assert_eq!(world.state("g", "p"), ProcessState::Exited);
            world.pass(RESTART_SPACING);
        }
    }

    #[test]
    fn a_deaf_program_is_killed_after_stopwaitsecs_again_and_again() {
        let mut config = program("g", "p");
        config.stopwaitsecs = 2;
        let mut world = one(config);
        world.settle();
        world.obedient = false;
        world.verb(Verb::Stop { wait: false }, "g", "p");
        world.pass(Duration::from_secs(4));
        let signals: Vec<Signal> = world.signals.iter().map(|(_, signal)| *signal).collect();
        assert_eq!(signals, [Signal::TERM, Signal::KILL, Signal::KILL]);
        world.exits(&name(), ExitStatus::Signal { signal: Signal::KILL, core_dumped: false });
        assert_eq!(world.state("g", "p"), ProcessState::Stopped);
        assert_eq!(world.lines.last().unwrap(), "stopped: p (terminated by SIGKILL)");
    }

    #[test]
    fn a_stop_during_backoff_ends_the_retries() {
        let mut world = one(program("g", "p"));
        world.spawn_fails("can't find command 'x'");
        assert_eq!(world.state("g", "p"), ProcessState::Backoff);
        world.verb(Verb::Stop { wait: true }, "g", "p");
        assert_eq!(world.state("g", "p"), ProcessState::Stopped);
        assert_eq!(world.core().deadline(), None);
    }

    #[test]
    fn a_stop_before_the_spawn_is_confirmed_is_not_lost() {
        let mut world = one(program("g", "p"));
        world.verb(Verb::Stop { wait: true }, "g", "p");
        assert_eq!(world.signals.len(), 1);
        world.settle();
        assert_eq!(world.state("g", "p"), ProcessState::Stopped);
    }
}
