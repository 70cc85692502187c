//! From the core's effects to the keeper and the logs, and from what these report back to the core's inputs:
//! the way of each child from a wish to a pid to an exit. Decides nothing.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use fleetvisor_core::effect::Instance;
use fleetvisor_core::exit::ExitStatus;
use fleetvisor_core::supervisor::Input;
use fleetvisor_keeper::frame::{Pipes, Spawn, SpawnUser, Stdin as StdinFrom};
use fleetvisor_keeper::{Event, LinkError, ProgramEnds, Request};
use fleetvisor_model::config::{LogLevel, Process};
use fleetvisor_model::signal::Signal;

use crate::keeper_link::KeeperLink;
use crate::logs::{LogStash, Logs, Outputs};
use crate::program::{self, Surroundings, path_bytes};
use crate::stdin::Stdin;

#[derive(Debug)]
pub(crate) struct Children {
    keeper: KeeperLink,
    logs: Logs,
    surroundings: Surroundings,
    children: HashMap<Instance, Child>,
}

#[derive(Debug)]
enum Child {
    /// Its logs are being opened. Signals wait until the keeper has been told to spawn it.
    Opening {
        spawn: Box<Spawn>,
        stdin: Option<OwnedFd>,
        signals: Vec<(Signal, bool)>,
    },
    Spawning,
    Live {
        pid: i32,
        stdin: Option<Stdin>,
    },
}

impl Children {
    pub(crate) fn new(keeper: KeeperLink, logs: Logs, surroundings: Surroundings) -> Children {
        Children { keeper, logs, surroundings, children: HashMap::new() }
    }

    pub(crate) fn surroundings(&self) -> &Surroundings {
        &self.surroundings
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
                Child::Opening { .. } | Child::Spawning => None,
            })
            .collect()
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
        let outputs = Outputs {
            name: process.name.clone(),
            stdout: process.stdout.clone(),
            stderr: (!process.redirect_stderr).then(|| process.stderr.clone()),
            is_listener,
        };
        let opening = Child::Opening { spawn: Box::new(spawn), stdin, signals: Vec::new() };
        self.children.insert(instance, opening);
        self.logs.open(instance, outputs);
        Ok(())
    }

    pub(crate) fn logs_opened(
        &mut self,
        instance: Instance,
        result: Result<LogStash, String>,
    ) -> Option<Input> {
        match (self.children.remove(&instance)?, result) {
            (Child::Opening { .. }, Err(error)) => Some(Input::SpawnFailed { instance, error }),
            (Child::Opening { spawn, stdin, signals }, Ok(stash)) => {
                if !stash.is_empty() {
                    // Before the program writes anything: no byte of it is ever where only this process has it.
                    let LogStash { bytes, descriptors } = stash;
                    self.keeper.send(Request::Stash { key: stash_key(instance), bytes }, descriptors);
                }
                self.keeper.send(Request::Spawn(spawn), stdin.into_iter().collect());
                self.children.insert(instance, Child::Spawning);
                for (signal, to_group) in signals {
                    self.signal(instance, signal, to_group);
                }
                None
            }
            (child @ (Child::Spawning | Child::Live { .. }), _) => {
                self.children.insert(instance, child);
                None
            }
        }
    }

    pub(crate) fn signal(&mut self, instance: Instance, signal: Signal, to_group: bool) {
        match self.children.get_mut(&instance) {
            Some(Child::Opening { signals, .. }) => signals.push((signal, to_group)),
            Some(Child::Spawning | Child::Live { .. }) => {
                let request = Request::Signal { id: instance.0, signo: signal.0, to_group };
                self.keeper.send(request, Vec::new());
            }
            None => {}
        }
    }

    pub(crate) fn spawned(&mut self, id: u64, pid: i32, pipes: Pipes, descriptors: Vec<OwnedFd>) -> Input {
        let instance = Instance(id);
        let mut stdin = None;
        match ProgramEnds::new(pipes, descriptors) {
            Some(ends) => {
                stdin = ends.stdin.and_then(|pipe| Stdin::new(pipe).ok());
                self.logs.attach(instance, ends.stdout, ends.stderr);
            }
            None => {
                let line = format!("too many open files to read what the process with pid {pid} writes");
                self.logs.line(LogLevel::Critical, line);
            }
        }
        self.children.insert(instance, Child::Live { pid, stdin });
        Input::Spawned { instance, pid }
    }

    pub(crate) fn spawn_failed(&mut self, id: u64, error: String) -> Input {
        let instance = Instance(id);
        self.children.remove(&instance);
        self.logs.forget(instance);
        self.keeper.send(Request::Unstash { key: stash_key(instance) }, Vec::new());
        Input::SpawnFailed { instance, error }
    }

    /// A refused spawn is one that failed; other refusals change nothing.
    pub(crate) fn refused(&mut self, id: u64, reason: String) -> Option<Input> {
        let spawning = matches!(self.children.get(&Instance(id)), Some(Child::Spawning));
        spawning.then(|| self.spawn_failed(id, reason))
    }

    /// The child is dead; its end is acted on when its output is safe.
    pub(crate) fn exited(&mut self, id: u64, status: ExitStatus) {
        self.logs.drain(Instance(id), status);
    }

    pub(crate) fn drained(&mut self, instance: Instance, status: ExitStatus) -> Input {
        self.children.remove(&instance);
        self.keeper.send(Request::Unstash { key: stash_key(instance) }, Vec::new());
        self.keeper.send(Request::Release { id: instance.0 }, Vec::new());
        Input::Exited { instance, status }
    }

    /// `NotFound` where there is no such child.
    pub(crate) fn write_stdin(&mut self, instance: Instance, data: &[u8]) -> io::Result<()> {
        match self.children.get_mut(&instance) {
            Some(Child::Live { stdin: Some(stdin), .. }) => stdin.write(data),
            Some(Child::Live { stdin: None, .. } | Child::Opening { .. } | Child::Spawning) | None => {
                Err(io::ErrorKind::NotFound.into())
            }
        }
    }
}

/// What the logs leave for a successor.
fn stash_key(instance: Instance) -> String {
    format!("logs/{}", instance.0)
}

/// Who a program runs as. What does not work out is said by the child, on its stderr, as Supervisor does.
fn user(uid: u32) -> SpawnUser {
    match program::become_user(uid) {
        Ok(None) => SpawnUser::Same,
        Ok(Some(identity)) => SpawnUser::Become(identity),
        Err(reason) => SpawnUser::Impossible { uid, reason },
    }
}
