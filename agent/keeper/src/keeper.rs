//! The keeper's loop. Each turn: wait, take the signals (relay, reap), take some requests, send events. Exits come
//! before requests, so that a request about a program finds what is known of it. Nothing in a turn waits for the
//! agent: events queue up, and while too many do, no request is read.
//!
//! What becomes of the programs once the agent has gone is in [`Keeper::after_agent`]: one that has left something
//! for a successor gets one, and the programs notice nothing.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, write};

use crate::executable::Executable;
use crate::frame::{Event, Exit, MAX_DESCRIPTORS, Request, Spawn, Stdin, VERSIONS, decode, encode};
use crate::launch::{FAILURE, Launch, start_agent};
use crate::oom::OomScore;
use crate::prepare::prepare;
use crate::programs::{Programs, kill, reap};
use crate::relay::Relay;
use crate::socket::{Filled, Flushed, Frame, FrameReader, FrameWriter};
use crate::spawn::Program;
use crate::stash::Stash;
use crate::succession::Succession;

/// Requests of one turn: what an exit or a relayed signal waits at most.
const REQUESTS_A_TURN: usize = 16;
/// While more events are queued no request is read, and orphans are not told.
const MAX_QUEUED: usize = 4096;
const THROTTLE: Duration = Duration::from_millis(5);
/// Between closing its socket and its end, the agent may take this long.
const AGENT_EXIT: Duration = Duration::from_secs(10);
const TERM_TO_KILL: Duration = Duration::from_secs(10);
const TO_END: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT];
/// Version of the frames from which on an agent says what it has heard.
const HEARD: u16 = 2;

#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) pid: i32,
    pub(crate) socket: OwnedFd,
}

#[derive(Debug)]
pub(crate) struct Keeper {
    signals: SignalFd,
    executable: Executable,
    agent_args: Vec<OsString>,
    /// `None` between two agents.
    agent: Option<Agent>,
    succession: Succession,
    /// The agent has asked to be replaced.
    replaced: bool,
    /// When the next agent is due.
    next_agent: Option<Instant>,
    /// The last agent that has died, and how.
    predecessor: Option<(i32, Exit)>,
    reader: FrameReader,
    writer: FrameWriter,
    flushed: Flushed,
    /// False once the socket was closed by the agent or can't be trusted any more.
    connected: bool,
    /// The version of the frames, once the agent has greeted.
    version: Option<u16>,
    agent_exit: Option<Exit>,
    /// When an agent that has closed its socket and doesn't end is killed.
    agent_deadline: Option<Instant>,
    relay: Relay,
    programs: Programs,
    stash: Stash,
    oom: OomScore,
    daemonize: bool,
    ready: bool,
    launcher: Option<OwnedFd>,
    messages: Option<OwnedFd>,
    stop: Option<i32>,
}

/// Why a request is not carried out.
struct Refusal {
    id: Option<u64>,
    reason: String,
}

fn refusal(id: impl Into<Option<u64>>, reason: impl Into<String>) -> Refusal {
    Refusal { id: id.into(), reason: reason.into() }
}

impl Keeper {
    /// `launcher` is the pipe to the launcher of a daemonizing keeper.
    pub(crate) fn new(
        signals: SignalFd,
        launch: Launch,
        agent: Agent,
        oom: OomScore,
        launcher: Option<OwnedFd>,
    ) -> Keeper {
        Keeper {
            signals,
            executable: Executable::new(launch.agent_program),
            agent_args: launch.agent_args,
            agent: Some(agent),
            succession: Succession::new(),
            replaced: false,
            next_agent: None,
            predecessor: None,
            reader: FrameReader::default(),
            writer: FrameWriter::default(),
            flushed: Flushed::All,
            connected: true,
            version: None,
            agent_exit: None,
            agent_deadline: None,
            relay: Relay::default(),
            programs: Programs::default(),
            stash: Stash::default(),
            oom,
            daemonize: launcher.is_some(),
            ready: false,
            launcher,
            messages: None,
            stop: None,
        }
    }

    /// Until the daemon's end. Returns its exit status.
    pub(crate) fn run(mut self) -> i32 {
        let mut more = false;
        loop {
            self.wait(if more { Some(Duration::ZERO) } else { None });
            self.take_signals();
            // An agent that has ended may have said so in its last frames.
            let limit = if self.agent_exit.is_some() { usize::MAX } else { REQUESTS_A_TURN };
            more = self.take_requests(limit);
            if let Some(exit) = self.agent_exit.take()
                && let Some(status) = self.after_agent(exit)
            {
                return status;
            }
            if self.next_agent.is_some_and(|due| due <= Instant::now()) {
                self.succeed();
            }
            if self.agent.is_none() && self.succession.is_crash_loop() && self.relay.has_any(&TO_END) {
                self.tell("told to end, and no agent lives to do it in order");
                self.end_programs();
                return FAILURE;
            }
            self.send_events();
            if self.agent_deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                self.agent_deadline = None;
                self.tell("the agent closed its socket and does not end; killing it");
                self.kill_agent();
            }
            if self.executable.deadline().is_some_and(|deadline| deadline <= Instant::now()) {
                self.executable.stop_waiting();
                self.tell("the agent's new program does not come up; killing it");
                self.kill_agent();
            }
        }
    }

    fn kill_agent(&self) {
        if let Some(agent) = &self.agent {
            let _ = kill(agent.pid, libc::SIGKILL);
        }
    }

    fn wait(&self, limit: Option<Duration>) {
        let throttle = (self.flushed == Flushed::Throttled).then_some(THROTTLE);
        let deadlines =
            [self.agent_deadline, self.next_agent, self.executable.deadline()].into_iter().flatten();
        let deadline = deadlines.map(|deadline| deadline.saturating_duration_since(Instant::now())).min();
        let limit = [limit, throttle, deadline].into_iter().flatten().min();
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::POLLIN, self.writer.len() <= MAX_QUEUED);
        interest.set(PollFlags::POLLOUT, self.flushed == Flushed::Blocked);
        let signals = PollFd::new(self.signals.as_fd(), PollFlags::POLLIN);
        let agent = self.agent.as_ref().filter(|_| self.connected);
        // An error is EINTR, or no memory for a moment: the turn goes on and finds nothing to do.
        let limit = limit.map_or(PollTimeout::NONE, rounded_up);
        let _ = match agent {
            Some(agent) => poll(&mut [signals, PollFd::new(agent.socket.as_fd(), interest)], limit),
            None => poll(&mut [signals], limit),
        };
    }

    fn take_signals(&mut self) {
        let mut children = false;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let signo = signal.ssi_signo as i32;
            if signo == libc::SIGCHLD {
                children = true;
            } else {
                self.relay.add(signo);
            }
        }
        while children && let Some((pid, exit)) = reap() {
            if self.agent.as_ref().is_some_and(|agent| agent.pid == pid) && self.agent_exit.is_none() {
                self.agent_exit = Some(exit);
                // Nobody reads them any more, and the agent's last requests are still to be taken.
                self.writer = FrameWriter::default();
            } else if let Some((id, exited)) = self.programs.reaped(pid, exit) {
                // An agent that has not greeted yet is told in the answer to its Hello.
                if self.version.is_some() {
                    self.push(Event::Exited { id, exited });
                }
            } else if self.version.is_some() && self.writer.len() <= MAX_QUEUED {
                self.push(Event::Reaped { pid, exit });
            }
        }
    }

    /// Whether there may be more to take without waiting.
    fn take_requests(&mut self, limit: usize) -> bool {
        let mut taken = 0;
        while self.connected && self.writer.len() <= MAX_QUEUED {
            if taken == limit {
                return true;
            }
            match self.reader.next() {
                Ok(Some(frame)) => {
                    taken += 1;
                    if let Err(Refusal { id, reason }) = self.carry_out(frame) {
                        self.push(Event::Refused { id, reason });
                    }
                }
                Ok(None) => {
                    let Some(agent) = &self.agent else { return false };
                    match self.reader.fill(agent.socket.as_fd()) {
                        Ok(Filled::Some) => {}
                        Ok(Filled::Blocked) => return false,
                        Ok(Filled::Closed) | Err(_) => self.disconnect(),
                    }
                }
                Err(error) => {
                    self.push(Event::Refused { id: None, reason: error.to_string() });
                    self.send_events();
                    self.tell(&format!("the agent's frames cannot be followed, killing it: {error}"));
                    self.kill_agent();
                    self.disconnect();
                }
            }
        }
        false
    }

    fn disconnect(&mut self) {
        self.connected = false;
        self.flushed = Flushed::All;
        self.agent_deadline = Some(Instant::now() + AGENT_EXIT);
    }

    fn carry_out(&mut self, frame: Frame) -> Result<(), Refusal> {
        let request = decode(&frame.payload).map_err(|error| refusal(None, error.to_string()))?;
        let Frame { descriptors, announced, .. } = frame;
        if self.version.is_none() && !matches!(request, Request::Hello { .. }) {
            return Err(refusal(None, "the first request must be Hello"));
        }
        let (fewest, most) = match &request {
            Request::Spawn(spawn) => match spawn.stdin {
                Stdin::Pipe => (0, 0),
                Stdin::Passed => (1, 1),
            },
            Request::Ready => (0, 1),
            Request::Replace => (1, 1),
            Request::Stash { .. } => (0, MAX_DESCRIPTORS),
            Request::Hello { .. }
            | Request::Prepare(_)
            | Request::Signal { .. }
            | Request::Release { .. }
            | Request::Unstash { .. }
            | Request::Stop { .. }
            | Request::Heard { .. } => (0, 0),
        };
        let came = descriptors.len();
        if came != announced || came < fewest || came > most {
            let id = if let Request::Spawn(spawn) = &request { Some(spawn.id) } else { None };
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
            Request::Signal { id, .. } if !self.programs.contains(id) => {
                return Err(refusal(id, "no such program"));
            }
            Request::Signal { id, signo, to_group } => {
                if let Err(errno) = self.programs.signal(id, signo, to_group) {
                    self.push(Event::SignalFailed { id, errno: errno as i32 });
                }
            }
            Request::Release { id } => self.programs.release(id).map_err(|reason| refusal(id, reason))?,
            Request::Ready => self.up(descriptors.into_iter().next()),
            Request::Stash { key, bytes } => {
                self.stash.put(key, bytes, descriptors).map_err(|reason| refusal(None, reason))?;
            }
            Request::Unstash { key } => self.stash.remove(&key),
            Request::Stop { status } => self.stop = Some(status),
            Request::Heard { signo } => self.relay.heard(signo),
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
            adopted: self.programs.entries().len() as u32,
            stashed: self.stash.entries().len() as u32,
        };
        self.push(hello);
        let counts = version >= HEARD;
        if let Some((pid, exit)) = self.predecessor.take().filter(|_| counts) {
            self.push(Event::Succeeded { pid, exit });
        }
        for (id, entry) in self.programs.entries() {
            let (pid, pipes, exited, count) = (entry.pid, entry.pipes, entry.exited, entry.signals);
            if counts {
                queue(&mut self.writer, &Event::Signalled { id, count }, Vec::new());
            }
            queue(&mut self.writer, &Event::Adopted { id, pid, pipes, exited }, entry.ends.clone());
        }
        for (key, entry) in self.stash.entries() {
            let (key, bytes) = (key.clone(), entry.bytes.clone());
            queue(&mut self.writer, &Event::Stashed { key, bytes }, entry.descriptors.clone());
        }
        Ok(())
    }

    fn spawn(&mut self, spawn: Spawn, passed: Vec<OwnedFd>) -> Result<(), Refusal> {
        let id = spawn.id;
        if self.programs.contains(id) {
            return Err(refusal(id, "the id is in use"));
        }
        let program = Program::new(spawn, passed.into_iter().next()).map_err(|reason| refusal(id, reason))?;
        match program.spawn(&self.oom) {
            Err((step, errno)) => self.push(Event::SpawnFailed { id, step, errno: errno as i32 }),
            Ok(spawned) => {
                let (pid, pipes, ends) = (spawned.pid.as_raw(), spawned.pipes, spawned.ends.clone());
                self.programs.add(id, spawned);
                if self.agent_exit.is_none() {
                    queue(&mut self.writer, &Event::Spawned { id, pid, pipes }, ends);
                }
            }
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

    fn push(&mut self, event: Event) {
        if self.agent.is_none() || self.agent_exit.is_some() {
            return;
        }
        queue(&mut self.writer, &event, Vec::new());
    }

    fn send_events(&mut self) {
        while let Some(agent) = self.agent.as_ref().filter(|_| self.connected) {
            match self.writer.flush(agent.socket.as_fd()) {
                Ok(Flushed::All) => {
                    let Some(version) = self.version else { return self.flushed = Flushed::All };
                    let signals = self.relay.take(version >= HEARD);
                    if signals.is_empty() {
                        return self.flushed = Flushed::All;
                    }
                    for signo in signals {
                        self.push(Event::Relayed { signo });
                    }
                }
                Ok(flushed) => return self.flushed = flushed,
                Err(_) => self.disconnect(),
            }
        }
    }

    /// The agent has been reaped and nothing more comes from it. Returns the daemon's exit status, if that is it.
    fn after_agent(&mut self, exit: Exit) -> Option<i32> {
        let agent = self.agent.take()?;
        (self.reader, self.writer) = (FrameReader::default(), FrameWriter::default());
        (self.connected, self.flushed, self.agent_deadline) = (false, Flushed::All, None);
        self.version = None;
        self.relay.again();
        let how = match exit {
            Exit::Code(code) => format!("the agent (pid {}) exited with status {code}", agent.pid),
            Exit::Signal { signo, .. } => {
                format!("the agent (pid {}) was ended by signal {signo}", agent.pid)
            }
        };
        let live = self.programs.live();
        let status = match (self.stop, exit) {
            (Some(status), _) => status,
            // It has said on stderr what kept it from coming up.
            (None, Exit::Code(code)) if !self.ready => code,
            (None, _) if self.ready && self.stash.entries().len() > 0 => {
                self.predecessor = Some((agent.pid, exit));
                let wait = self.wait_for_successor(&how);
                if wait > Duration::ZERO {
                    self.tell(&format!(
                        "{how}, as others did before it; the next one starts in {} ms, and {live} programs go on",
                        wait.as_millis()
                    ));
                }
                self.next_agent = Some(Instant::now() + wait);
                return None;
            }
            (None, Exit::Code(_) | Exit::Signal { .. }) => {
                self.tell(&format!("{how}; stopping its {live} programs"));
                FAILURE
            }
        };
        self.end_programs();
        Some(status)
    }

    /// How long to wait with the next agent; which program it is, is decided here.
    fn wait_for_successor(&mut self, how: &str) -> Duration {
        self.executable.stop_waiting();
        if std::mem::take(&mut self.replaced) {
            self.succession = Succession::new();
            return Duration::ZERO;
        }
        let wait = self.succession.wait();
        if self.succession.is_settled() {
            self.executable.settle();
        } else if self.succession.is_exhausted() && self.executable.fall_back() {
            self.tell(&format!("{how}, as others of its program did; the program before it goes on"));
            self.succession = Succession::new();
            return Duration::ZERO;
        }
        wait
    }

    fn succeed(&mut self) {
        self.next_agent = None;
        match start_agent(&self.executable.path(), &self.agent_args, &self.oom) {
            Ok(agent) => {
                (self.agent, self.connected) = (Some(agent), true);
                self.executable.started();
            }
            Err(error) => {
                let wait = self.succession.wait().max(THROTTLE);
                self.tell(&format!("{error}; the next try is in {} ms", wait.as_millis()));
                self.next_agent = Some(Instant::now() + wait);
            }
        }
    }

    /// Nothing is left running that nobody supervises.
    fn end_programs(&mut self) {
        (self.connected, self.next_agent) = (false, None);
        for signo in [libc::SIGTERM, libc::SIGKILL] {
            self.programs.signal_all_groups(signo);
            let deadline = Instant::now() + TERM_TO_KILL;
            while self.programs.live() > 0 && Instant::now() < deadline {
                self.wait(Some(deadline.saturating_duration_since(Instant::now())));
                self.take_signals();
            }
        }
    }

    /// To where the agent wants the keeper's messages, else to stderr.
    fn tell(&self, message: &str) {
        let line = format!("supervisord: {message}\n");
        let _ = match &self.messages {
            Some(messages) => write(messages, line.as_bytes()).map_err(std::io::Error::from).map(drop),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }
}

fn queue(writer: &mut FrameWriter, event: &Event, descriptors: Vec<Arc<OwnedFd>>) {
    // The largest event is an entry of the stash, and that came in a frame of the same size.
    let frame = encode(event, descriptors.len()).expect("an event fits into a frame");
    writer.push(frame, descriptors);
}

/// In whole milliseconds, which is what poll knows: never earlier than asked for.
fn rounded_up(limit: Duration) -> PollTimeout {
    PollTimeout::try_from(limit.saturating_add(Duration::from_micros(999))).unwrap_or(PollTimeout::MAX)
}
