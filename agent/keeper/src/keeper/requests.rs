//! What the agent asks for: each request is checked against its rules, then carried out or refused.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, write};

use super::{AGENT_EXIT, HEARD, Keeper, frame, queue};
use crate::frame::{Event, REPLACEABLE, Request, Spawn, VERSIONS, decode};
use crate::prepare::prepare;
use crate::programs::Entry;
use crate::socket::Frame;
use crate::spawn::{Program, Spawned};

/// Why a request is not carried out, with the program that it was about.
type Refusal = (Option<u64>, String);

fn refusal(id: impl Into<Option<u64>>, reason: impl Into<String>) -> Refusal {
    (id.into(), reason.into())
}

impl Keeper {
    pub(super) fn carry_out(&mut self, frame: Frame) -> Result<(), Refusal> {
        let request = decode(&frame.payload).map_err(|error| refusal(None, error.to_string()))?;
        let Frame { descriptors, announced, .. } = frame;
        if self.version.is_none() && !matches!(request, Request::Hello { .. }) {
            return Err(refusal(None, "the first request must be Hello"));
        }
        let belong = request.descriptors();
        let came = descriptors.len();
        if came != announced || !belong.contains(&came) {
            let id = if let Request::Spawn(spawn) = &request { Some(spawn.id) } else { None };
            let (fewest, most) = belong.into_inner();
            let reason =
                format!("{came} descriptors came, {announced} were announced, {fewest} to {most} belong");
            return Err(refusal(id, reason));
        }
        match request {
            Request::Spawn(spawn) => self.spawn(*spawn, descriptors)?,
            Request::Hello { versions } => self.hello(&versions)?,
            Request::Prepare(request) => self.push(match prepare(&request) {
                Ok(()) => Event::Prepared,
                Err((step, errno)) => Event::PrepareFailed { step, errno: errno as i32 },
            }),
            Request::Signal { id, signo, to_group } => self.signal(id, signo, to_group)?,
            Request::Release { id } => {
                self.holdings.programs.release(id).map_err(|reason| refusal(id, reason))?
            }
            Request::Ready => self.up(descriptors.into_iter().next()),
            Request::Stash { key, bytes } => {
                let descriptors = descriptors.into_iter().map(Arc::new).collect();
                self.holdings.stash.put(key, bytes, descriptors).map_err(|reason| refusal(None, reason))?;
            }
            Request::Unstash { key } => self.holdings.stash.remove(&key),
            Request::Stop { status } => {
                (self.stop, self.agent_deadline) = (Some(status), Some(Instant::now() + AGENT_EXIT));
            }
            Request::Heard { signo } => self.relay.heard(signo),
            Request::Renew => self.renew().map_err(|reason| refusal(None, reason))?,
            Request::Replace => {
                if let Some(program) = descriptors.into_iter().next() {
                    if self.succession.has_lived() {
                        self.executable.settle();
                    }
                    self.executable.replace(program);
                    self.replaced = true;
                }
            }
        }
        Ok(())
    }

    fn hello(&mut self, versions: &[u16]) -> Result<(), Refusal> {
        let Some(version) = VERSIONS.into_iter().find(|version| versions.contains(version)) else {
            let reason = format!("speaks versions {VERSIONS:?} of the frames, none of the agent's");
            return Err(refusal(None, reason));
        };
        self.version = Some(version);
        let hello = Event::Hello {
            version,
            keeper_pid: std::process::id() as i32,
            daemonize: self.daemonize,
            ready: self.ready,
            adopted: self.holdings.programs.entries().len() as u32,
            stashed: self.holdings.stash.entries().len() as u32,
        };
        self.push(hello);
        let counts = version >= HEARD;
        if let Some((pid, exit)) = self.predecessor.take().filter(|_| counts) {
            self.push(Event::Succeeded { pid, exit });
        }
        if let Some(keeper_pid) = self.former.take().filter(|_| version >= REPLACEABLE) {
            self.push(Event::Revived { keeper_pid });
        }
        if version >= REPLACEABLE {
            if let Some(programs) = self.oom.of_programs() {
                self.push(Event::OomScore { programs });
            }
            for line in std::mem::take(&mut self.said) {
                self.push(Event::Said { line });
            }
        }
        for (id, entry) in self.holdings.programs.entries() {
            let (pid, pipes, exited, count) = (entry.pid, entry.pipes, entry.exited, entry.signals);
            let exited = exited.map(|exited| exited.as_of(version));
            if counts {
                queue(&mut self.writer, &Event::Signalled { id, count }, Vec::new());
            }
            queue(&mut self.writer, &Event::Adopted { id, pid, pipes, exited }, entry.descriptors());
        }
        for (key, entry) in self.holdings.stash.entries() {
            let (key, bytes) = (key.clone(), entry.bytes.clone());
            queue(&mut self.writer, &Event::Stashed { key, bytes }, entry.descriptors.clone());
        }
        Ok(())
    }

    fn spawn(&mut self, spawn: Spawn, passed: Vec<OwnedFd>) -> Result<(), Refusal> {
        let id = spawn.id;
        if self.holdings.programs.get(id).is_some() {
            return Err(refusal(id, "the id is in use"));
        }
        let program = Program::new(spawn, passed.into_iter().next()).map_err(|reason| refusal(id, reason))?;
        match program.spawn(&self.oom) {
            Err((step, errno)) => self.push(Event::SpawnFailed { id, step, errno: errno as i32 }),
            Ok(Spawned { pid, pipes, ends, gate }) => {
                let pid = pid.as_raw();
                let entry = Entry::new(pid, pipes, ends);
                if self.agent_exit.is_none() {
                    let ends = entry.descriptors();
                    let frame = frame(&Event::Spawned { id, pid, pipes }, ends.len());
                    self.writer.push_before(frame, ends, Some(gate));
                }
                self.holdings.programs.add(id, entry);
            }
        }
        Ok(())
    }

    fn signal(&mut self, id: u64, signo: i32, to_group: bool) -> Result<(), Refusal> {
        let signalled = self.holdings.programs.signal(id, signo, to_group);
        let count = self.holdings.programs.get(id).ok_or_else(|| refusal(id, "no such program"))?.signals;
        if let Err(errno) = signalled {
            self.push(Event::SignalFailed { id, errno: errno as i32 });
        }
        if self.version >= Some(REPLACEABLE) {
            self.push(Event::Signalled { id, count });
        }
        Ok(())
    }

    fn up(&mut self, messages: Option<OwnedFd>) {
        self.messages = messages.or(self.messages.take());
        self.ready = true;
        self.succession.is_up();
        self.executable.stop_waiting();
        let Some(launcher) = self.launcher.take() else { return };
        if let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
            let _ = dup2_stdin(&null).and_then(|()| dup2_stdout(&null)).and_then(|()| dup2_stderr(&null));
        }
        let _ = write(launcher, &[0]);
    }
}
