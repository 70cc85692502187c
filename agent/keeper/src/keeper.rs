//! The keeper's loop. Each turn: wait, take the signals (relay, reap), take some requests, send events. Exits come
//! before requests, so that a request about a program finds what is known of it. Nothing in a turn waits for the
//! agent: events queue up, and while too many do, no request is read.
//!
//! What becomes of the programs once the agent has gone is in [`Keeper::after_agent`]: one that has left something
//! for a successor gets one, and the programs notice nothing.

mod renewal;
mod requests;

use std::ffi::OsString;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signalfd::SignalFd;
use nix::unistd::write;

use crate::executable::Executable;
use crate::execute::start_agent;
use crate::frame::{Event, Exit, Exited, encode};
use crate::holdings::Holdings;
use crate::launch::{FAILURE, Launch, LaunchError, failed};
use crate::oom::OomScore;
use crate::programs::{kill, reap};
use crate::relay::Relay;
use crate::socket::{Filled, Flushed, FrameReader, FrameWriter};
use crate::succession::Succession;

use renewal::Renewal;

/// Requests of one turn: what an exit or a relayed signal waits at most.
const REQUESTS_A_TURN: usize = 16;
/// While more events are queued no request is read, and orphans are not told.
const MAX_QUEUED: usize = 4096;
/// Of a crash loop, the first lines say it.
const MAX_SAID: usize = 16;
const THROTTLE: Duration = Duration::from_millis(5);
/// Between closing its socket, or stopping the daemon, and its end, the agent may take this long. A thread of it that a
/// disk holds can't even be killed.
const AGENT_EXIT: Duration = Duration::from_secs(5);
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
    /// When an agent that has closed its socket, or stopped the daemon, and doesn't end is killed.
    agent_deadline: Option<Instant>,
    relay: Relay,
    holdings: Holdings,
    /// Has the pidfds of programs that are not the keeper's children.
    strangers: Epoll,
    /// Of the keeper before this one, which was killed.
    former: Option<i32>,
    oom: OomScore,
    daemonize: bool,
    ready: bool,
    launcher: Option<OwnedFd>,
    messages: Option<OwnedFd>,
    stop: Option<i32>,
    renewal: Option<Renewal>,
    /// For the next agent's log.
    said: Vec<String>,
}

impl Keeper {
    /// `launcher` is the pipe to the launcher of a daemonizing keeper.
    pub(crate) fn new(
        signals: SignalFd,
        launch: Launch,
        agent: Agent,
        oom: OomScore,
        launcher: Option<OwnedFd>,
    ) -> Result<Keeper, LaunchError> {
        Ok(Keeper {
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
            holdings: Holdings::default(),
            strangers: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed("watch programs"))?,
            former: None,
            oom,
            daemonize: launcher.is_some(),
            ready: false,
            launcher,
            messages: None,
            stop: None,
            renewal: None,
            said: Vec::new(),
        })
    }

    /// In the place of one that was killed.
    pub(crate) fn succeed_to(&mut self, keeper_pid: i32, holdings: Holdings) -> Result<(), LaunchError> {
        self.former = Some(keeper_pid);
        self.take_holdings(holdings)
    }

    fn take_holdings(&mut self, holdings: Holdings) -> Result<(), LaunchError> {
        for (id, entry) in holdings.programs.entries() {
            if let (Some(pidfd), None) = (&entry.pidfd, entry.exited) {
                let event = EpollEvent::new(EpollFlags::EPOLLIN, id);
                self.strangers.add(pidfd, event).map_err(failed("watch a program"))?;
            }
        }
        (self.holdings, self.ready) = (holdings, true);
        Ok(())
    }

    /// Until the daemon's end. Returns its exit status.
    pub(crate) fn run(mut self) -> i32 {
        // There may be something already where this process was another keeper before.
        let mut more = true;
        self.reap_all();
        loop {
            self.wait(if more { Some(Duration::ZERO) } else { None });
            self.take_signals();
            self.take_strangers();
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
            self.go_on_with_renewal();
            if self.agent_deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                self.agent_deadline = None;
                self.tell("the agent does not end; killing it");
                self.kill_agent();
                if let Some(status) = self.stop {
                    self.end_programs();
                    return status;
                }
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
        let renewal = self.renewal.as_ref().and_then(Renewal::deadline);
        let deadlines = [self.agent_deadline, self.next_agent, self.executable.deadline(), renewal];
        let deadline = deadlines
            .into_iter()
            .flatten()
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
            .min();
        let limit = [limit, throttle, deadline].into_iter().flatten().min();
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::POLLIN, self.writer.len() <= MAX_QUEUED);
        interest.set(PollFlags::POLLOUT, self.flushed == Flushed::Blocked);
        let readable = |descriptor| PollFd::new(descriptor, PollFlags::POLLIN);
        let mut watched = vec![readable(self.signals.as_fd()), readable(self.strangers.0.as_fd())];
        let agent = self.agent.as_ref().filter(|_| self.connected);
        watched.extend(agent.map(|agent| PollFd::new(agent.socket.as_fd(), interest)));
        // An error is EINTR, or no memory for a moment: the turn goes on and finds nothing to do.
        let _ = poll(&mut watched, limit.map_or(PollTimeout::NONE, rounded_up));
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
        if children {
            self.reap_all();
        }
    }

    fn reap_all(&mut self) {
        while let Some((pid, exit)) = reap() {
            if self.agent.as_ref().is_some_and(|agent| agent.pid == pid) && self.agent_exit.is_none() {
                self.agent_exit = Some(exit);
                // Nobody reads them any more, and the agent's last requests are still to be taken.
                self.writer = FrameWriter::default();
            } else if let Some((id, exited)) = self.holdings.programs.reaped(pid, exit) {
                self.tell_exit(id, exited);
            } else if self.is_candidate(pid) {
                self.candidate_has_ended(exit);
            } else if self.version.is_some() && self.writer.len() <= MAX_QUEUED {
                self.push(Event::Reaped { pid, exit });
            }
        }
    }

    fn take_strangers(&mut self) {
        let mut events = [EpollEvent::empty(); 64];
        // Once all are taken it is not ready any more. An error would be met by the next wait.
        let count = self.strangers.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        for event in &events[..count] {
            let id = event.data();
            if let Some(pidfd) = self.holdings.programs.get(id).and_then(|entry| entry.pidfd.as_ref()) {
                let _ = self.strangers.delete(pidfd);
            }
            if let Some((id, exited)) = self.holdings.programs.ended(id, Exit::Unknown) {
                self.tell_exit(id, exited);
            }
        }
    }

    /// An agent that has not greeted yet is told in the answer to its Hello.
    fn tell_exit(&mut self, id: u64, exited: Exited) {
        if let Some(version) = self.version {
            self.push(Event::Exited { id, exited: exited.as_of(version) });
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
                    if let Err((id, reason)) = self.carry_out(frame) {
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
        self.agent_deadline.get_or_insert(Instant::now() + AGENT_EXIT);
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
            Exit::Unknown => format!("the agent (pid {}) has ended", agent.pid),
            Exit::Signal { signo, .. } => {
                format!("the agent (pid {}) was ended by signal {signo}", agent.pid)
            }
        };
        let live = self.holdings.programs.live();
        let status = match (self.stop, exit) {
            (Some(status), _) => status,
            // It has said on stderr what kept it from coming up.
            (None, Exit::Code(code)) if !self.ready => code,
            (None, _) if self.ready && self.holdings.stash.entries().len() > 0 => {
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
            (None, Exit::Code(_) | Exit::Signal { .. } | Exit::Unknown) => {
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
            self.holdings.programs.signal_all_groups(signo);
            let deadline = Instant::now() + TERM_TO_KILL;
            while self.holdings.programs.live() > 0 && Instant::now() < deadline {
                self.wait(Some(deadline.saturating_duration_since(Instant::now())));
                self.take_signals();
                self.take_strangers();
            }
        }
    }

    /// To where the agent wants the keeper's messages, else to stderr.
    fn tell(&mut self, message: &str) {
        if self.ready && self.said.len() < MAX_SAID {
            self.said.push(message.to_owned());
        }
        let line = format!("supervisord: {message}\n");
        let _ = match &self.messages {
            Some(messages) => write(messages, line.as_bytes()).map_err(std::io::Error::from).map(drop),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }
}

fn queue(writer: &mut FrameWriter, event: &Event, descriptors: Vec<Arc<OwnedFd>>) {
    writer.push(frame(event, descriptors.len()), descriptors);
}

fn frame(event: &Event, descriptors: usize) -> Vec<u8> {
    // The largest event is an entry of the stash, and that came in a frame of the same size.
    encode(event, descriptors).expect("an event fits into a frame")
}

/// In whole milliseconds, which is what poll knows: never earlier than asked for.
fn rounded_up(limit: Duration) -> PollTimeout {
    PollTimeout::try_from(limit.saturating_add(Duration::from_micros(999))).unwrap_or(PollTimeout::MAX)
}
