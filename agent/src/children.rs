//! From the core's effects to the keeper and the logs, and from what these report back to the core's inputs:
//! the way of each child from a wish to a pid to an exit. Decides nothing.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::OwnedFd;

use fleetvisor_core::effect::Instance;
use fleetvisor_core::exit::ExitStatus;
use fleetvisor_core::supervisor::Input;
use fleetvisor_keeper::frame::{Pipes, Spawn, SpawnUser, Stdin as StdinFrom};
use fleetvisor_keeper::{Event, LinkError, ProgramEnds, Request};
use fleetvisor_model::config::{LogLevel, Process};
use fleetvisor_model::signal::Signal;
use fleetvisor_model::time::Monotonic;

use crate::clock;
use crate::keeper_link::KeeperLink;
use crate::logs::{Adoption, LogStash, Logs, Outputs};
use crate::program::{self, Surroundings, path_bytes};
use crate::startup::Program;
use crate::stdin::{Spool, Stdin};

/// Before an instance's number, the stash's keys.
const LOGS: &str = "logs/";
const SPOOL: &str = "stdin/";

/// What is in the stash for one program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stashed {
    Logs,
    Spool,
}

/// A program of another agent, with what that has left of it.
#[derive(Debug)]
pub(crate) struct AdoptedChild {
    pub(crate) program: Program,
    pub(crate) logs: LogStash,
    pub(crate) spool: Option<Spool>,
    /// Bytes of a listener's stdout that have been acted on.
    pub(crate) heard: u64,
}

#[derive(Debug)]
pub(crate) struct Children {
    keeper: KeeperLink,
    logs: Logs,
    surroundings: Surroundings,
    children: HashMap<Instance, Child>,
    /// Those that have ended and whose output is being taken, and since when.
    draining: BTreeMap<Instance, (ExitStatus, Monotonic)>,
}

#[derive(Debug)]
enum Child {
    /// Its logs are being opened. Signals wait until the keeper has been told to spawn it.
    Opening {
        spawn: Box<Spawn>,
        stdin: Option<OwnedFd>,
        signals: Vec<(Signal, bool)>,
        is_listener: bool,
        since: Monotonic,
    },
    Spawning {
        spool: Option<Spool>,
        /// Keys of what is stashed for it.
        stashed: Vec<String>,
    },
    Live {
        pid: i32,
        stdin: Option<Stdin>,
        stashed: Vec<String>,
    },
}

impl Children {
    pub(crate) fn new(keeper: KeeperLink, logs: Logs, surroundings: Surroundings) -> Children {
        let (children, draining) = (HashMap::new(), BTreeMap::new());
        Children { keeper, logs, surroundings, children, draining }
    }

    pub(crate) fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    pub(crate) fn keeper(&mut self) -> &mut KeeperLink {
        &mut self.keeper
    }

    /// Gives the keeper back, for a daemon that starts over.
    pub(crate) fn into_keeper(self) -> KeeperLink {
        self.keeper
    }

    /// Of every child that lives.
    pub(crate) fn pids(&self) -> Vec<i32> {
        self.children
            .values()
            .filter_map(|child| match child {
                Child::Live { pid, .. } => Some(*pid),
                Child::Opening { .. } | Child::Spawning { .. } => None,
            })
            .collect()
    }

    /// Keeps something for a successor.
    pub(crate) fn stash(&mut self, key: &str, bytes: Vec<u8>, descriptors: Vec<OwnedFd>) {
        self.keeper.send(Request::Stash { key: key.to_owned(), bytes }, descriptors);
    }

    pub(crate) fn unstash(&mut self, key: &str) {
        self.keeper.send(Request::Unstash { key: key.to_owned() }, Vec::new());
    }

    /// The daemon is up, and this agent can be succeeded.
    pub(crate) fn ready(&mut self) {
        self.keeper.send(Request::Ready, Vec::new());
    }

    /// The version of the frames that the keeper speaks with this agent.
    pub(crate) fn frames(&self) -> u16 {
        self.keeper.version
    }

    /// This program is the next agent, as soon as this one has ended.
    pub(crate) fn replace(&mut self, program: OwnedFd) {
        self.keeper.send(Request::Replace, vec![program]);
    }

    /// The keeper is to become this agent's program, too.
    pub(crate) fn renew_keeper(&mut self) {
        self.keeper.send(Request::Renew, Vec::new());
    }

    /// A signal that came to the daemon is safe.
    pub(crate) fn heard(&mut self, signal: Signal) {
        self.keeper.send(Request::Heard { signo: signal.0 }, Vec::new());
    }

    /// Every request so far is out of this process.
    pub(crate) fn all_is_said(&self) -> bool {
        self.keeper.queued() == 0
    }

    /// No signal waits here for its program to be spawned.
    pub(crate) fn no_signal_waits(&self) -> bool {
        !self.children.values().any(|it| matches!(it, Child::Opening { signals, .. } if !signals.is_empty()))
    }

    pub(crate) async fn next_event(&mut self) -> Result<(Event, Vec<OwnedFd>), LinkError> {
        self.keeper.next().await
    }

    /// Begins a spawn, with `stdin` in place of a pipe; the error is the reason in Supervisor's words.
    pub(crate) fn spawn(
        &mut self,
        instance: Instance,
        process: &Process,
        is_listener: bool,
        stdin: Option<OwnedFd>,
    ) -> Result<(), String> {
        let executable = program::executable(process, &self.surroundings)
            .map_err(|refusal| program::spawn_error(&refusal))?;
        let environment = program::environment(process, &self.surroundings);
        let spawn = Spawn {
            id: instance.0,
            file: path_bytes(&executable.file),
            argv: executable.words.into_iter().map(String::into_bytes).collect(),
            env: program::as_exec_strings(&environment),
            directory: process.directory.as_deref().map(path_bytes),
            umask: process.umask,
            user: process.uid.map_or(SpawnUser::Same, user),
            redirect_stderr: process.redirect_stderr,
            stdin: if stdin.is_some() { StdinFrom::Passed } else { StdinFrom::Pipe },
        };
        let (spawn, since) = (Box::new(spawn), clock::now().monotonic);
        let opening = Child::Opening { spawn, stdin, signals: Vec::new(), is_listener, since };
        self.children.insert(instance, opening);
        self.logs.open(instance, outputs(process, is_listener));
        Ok(())
    }

    /// Takes over a program that another agent has spawned, with what of its stdin is still to be written.
    pub(crate) fn adopt(
        &mut self,
        instance: Instance,
        process: &Process,
        is_listener: bool,
        adopted: AdoptedChild,
    ) {
        let AdoptedChild { program, logs, spool, heard } = adopted;
        let Program { pid, ends, exited, .. } = program;
        let mut stashed = Vec::new();
        if !logs.is_empty() {
            stashed.push(logs_key(instance));
        }
        if spool.is_some() {
            stashed.push(spool_key(instance));
        }
        let mut stdin = None;
        match ends {
            Some(ends) => {
                stdin = ends.stdin.and_then(|pipe| Stdin::new(pipe, spool).ok());
                let outputs = outputs(process, is_listener);
                let (stdout, stderr) = (ends.stdout, ends.stderr);
                self.logs.adopt(instance, Adoption { outputs, stash: logs, stdout, stderr, heard });
            }
            None => self.no_room(pid),
        }
        self.children.insert(instance, Child::Live { pid, stdin, stashed });
        if let Some(status) = exited {
            self.drain(instance, status);
        }
    }

    fn no_room(&self, pid: i32) {
        let line = format!("too many open files to read what the process with pid {pid} writes");
        self.logs.line(LogLevel::Critical, line);
    }

    /// One that runs and that nobody has asked for.
    pub(crate) fn kill_unknown(&mut self, instance: Instance) {
        self.keeper
            .send(Request::Signal { id: instance.0, signo: Signal::KILL.0, to_group: true }, Vec::new());
    }

    /// Forgets a program that has ended.
    pub(crate) fn release(&mut self, instance: Instance) {
        if let Some(Child::Live { stashed, .. }) = self.children.remove(&instance) {
            for key in stashed {
                self.unstash(&key);
            }
        }
        self.keeper.send(Request::Release { id: instance.0 }, Vec::new());
    }

    pub(crate) fn logs_opened(
        &mut self,
        instance: Instance,
        result: Result<LogStash, String>,
    ) -> Option<Input> {
        match (self.children.remove(&instance)?, result) {
            (Child::Opening { .. }, Err(error)) => {
                // One stream may have been opened.
                self.logs.forget(instance);
                Some(Input::SpawnFailed { instance, error })
            }
            (Child::Opening { spawn, stdin, signals, is_listener, since: _ }, Ok(stash)) => {
                let mut stashed = Vec::new();
                if !stash.is_empty() {
                    // Before the program writes anything: no byte of it is ever where only this process has it.
                    let LogStash { bytes, descriptors } = stash;
                    stashed.push(logs_key(instance));
                    self.stash(&logs_key(instance), bytes, descriptors);
                }
                let spool = if is_listener { self.stashed_spool(instance) } else { None };
                if spool.is_some() {
                    stashed.push(spool_key(instance));
                }
                self.keeper.send(Request::Spawn(spawn), stdin.into_iter().collect());
                self.children.insert(instance, Child::Spawning { spool, stashed });
                for (signal, to_group) in signals {
                    self.signal(instance, signal, to_group);
                }
                None
            }
            (child @ (Child::Spawning { .. } | Child::Live { .. }), _) => {
                self.children.insert(instance, child);
                None
            }
        }
    }

    /// A listener's spool, in the keeper's hands before the listener is spawned.
    fn stashed_spool(&mut self, instance: Instance) -> Option<Spool> {
        let spool = Spool::new().and_then(|spool| Ok((spool.descriptor()?, spool)));
        match spool {
            Ok((descriptor, spool)) => {
                self.stash(&spool_key(instance), Vec::new(), vec![descriptor]);
                Some(spool)
            }
            Err(error) => {
                let line = format!("events for a listener do not survive the agent's death: {error}");
                self.logs.line(LogLevel::Error, line);
                None
            }
        }
    }

    pub(crate) fn signal(&mut self, instance: Instance, signal: Signal, to_group: bool) {
        match self.children.get_mut(&instance) {
            Some(Child::Opening { signals, .. }) => signals.push((signal, to_group)),
            Some(Child::Spawning { .. } | Child::Live { .. }) => {
                let request = Request::Signal { id: instance.0, signo: signal.0, to_group };
                self.keeper.send(request, Vec::new());
            }
            None => {}
        }
    }

    pub(crate) fn spawned(&mut self, id: u64, pid: i32, pipes: Pipes, descriptors: Vec<OwnedFd>) -> Input {
        let instance = Instance(id);
        let mut stdin = None;
        let (spool, stashed) = match self.children.remove(&instance) {
            Some(Child::Spawning { spool, stashed }) => (spool, stashed),
            Some(Child::Opening { .. } | Child::Live { .. }) | None => (None, Vec::new()),
        };
        match ProgramEnds::new(pipes, descriptors) {
            Some(ends) => {
                stdin = ends.stdin.and_then(|pipe| Stdin::new(pipe, spool).ok());
                self.logs.attach(instance, ends.stdout, ends.stderr);
            }
            None => self.no_room(pid),
        }
        self.children.insert(instance, Child::Live { pid, stdin, stashed });
        Input::Spawned { instance, pid }
    }

    pub(crate) fn spawn_failed(&mut self, id: u64, error: String) -> Input {
        let instance = Instance(id);
        if let Some(Child::Spawning { stashed, .. }) = self.children.remove(&instance) {
            for key in stashed {
                self.unstash(&key);
            }
        }
        self.logs.forget(instance);
        Input::SpawnFailed { instance, error }
    }

    /// A refused spawn is one that failed; other refusals change nothing.
    pub(crate) fn refused(&mut self, id: u64, reason: String) -> Option<Input> {
        let spawning = matches!(self.children.get(&Instance(id)), Some(Child::Spawning { .. }));
        spawning.then(|| self.spawn_failed(id, reason))
    }

    /// The child is dead; its end is acted on when its output is safe.
    pub(crate) fn exited(&mut self, id: u64, status: ExitStatus) {
        self.drain(Instance(id), status);
    }

    fn drain(&mut self, instance: Instance, status: ExitStatus) {
        self.draining.insert(instance, (status, clock::now().monotonic));
        self.logs.drain(instance);
    }

    pub(crate) fn is_draining(&self, instance: Instance) -> bool {
        self.draining.contains_key(&instance)
    }

    /// Its output is safe. `None` for one that is not waited for any more.
    pub(crate) fn drained(&mut self, instance: Instance) -> Option<Input> {
        let (status, _) = self.draining.remove(&instance)?;
        Some(Input::Exited { instance, status })
    }

    /// Since when the logs have been busy with a child that can't go on before.
    pub(crate) fn waits_for_logs(&self) -> Option<Monotonic> {
        let opening = self.children.values().filter_map(Child::opening_since);
        self.draining.values().map(|(_, since)| *since).chain(opening).min()
    }

    /// Goes on without the logs for those that have waited since then, or longer.
    pub(crate) fn wait_no_longer(&mut self, since: Monotonic) -> Vec<Input> {
        let is_late = |child: &Child| child.opening_since().is_some_and(|began| began <= since);
        let late = self.children.iter().filter(|(_, child)| is_late(child));
        let mut inputs = Vec::new();
        for instance in late.map(|(instance, _)| *instance).collect::<Vec<_>>() {
            self.children.remove(&instance);
            self.logs.forget(instance);
            let error = "its logs cannot be opened: their disk does not answer".to_owned();
            inputs.push(Input::SpawnFailed { instance, error });
        }
        let late = self.draining.extract_if(.., |_, (_, began)| *began <= since);
        inputs.extend(late.map(|(instance, (status, _))| Input::Exited { instance, status }));
        inputs
    }

    /// `NotFound` where there is no such child.
    pub(crate) fn write_stdin(&mut self, instance: Instance, data: &[u8]) -> io::Result<()> {
        match self.children.get_mut(&instance) {
            Some(Child::Live { stdin: Some(stdin), .. }) => stdin.write(data),
            Some(Child::Live { stdin: None, .. } | Child::Opening { .. } | Child::Spawning { .. }) | None => {
                Err(io::ErrorKind::NotFound.into())
            }
        }
    }
}

impl Child {
    fn opening_since(&self) -> Option<Monotonic> {
        match self {
            Child::Opening { since, .. } => Some(*since),
            Child::Spawning { .. } | Child::Live { .. } => None,
        }
    }
}

/// The stash's key of what the logs leave for a successor.
fn logs_key(instance: Instance) -> String {
    format!("{LOGS}{}", instance.0)
}

/// The stash's key of a listener's spool.
fn spool_key(instance: Instance) -> String {
    format!("{SPOOL}{}", instance.0)
}

/// Whose entry of the stash this is.
pub(crate) fn stashed_for(key: &str) -> Option<(Stashed, Instance)> {
    let of = |prefix: &str| key.strip_prefix(prefix)?.parse().ok().map(Instance);
    of(LOGS).map(|it| (Stashed::Logs, it)).or_else(|| of(SPOOL).map(|it| (Stashed::Spool, it)))
}

fn outputs(process: &Process, is_listener: bool) -> Outputs {
    Outputs {
        name: process.name.clone(),
        stdout: process.stdout.clone(),
        stderr: (!process.redirect_stderr).then(|| process.stderr.clone()),
        is_listener,
    }
}

/// Who a program runs as. What does not work out is said by the child, on its stderr, as Supervisor does.
fn user(uid: u32) -> SpawnUser {
    match program::become_user(uid) {
        Ok(None) => SpawnUser::Same,
        Ok(Some(identity)) => SpawnUser::Become(identity),
        Err(reason) => SpawnUser::Impossible { uid, reason },
    }
}
