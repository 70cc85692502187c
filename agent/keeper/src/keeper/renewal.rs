//! The keeper becomes another program, in place: its pid, its children and its link stay. First the other program
//! reads the state in a process of its own, since one that can't read it would be found out too late; then, at a
//! moment when no frame is half sent or half taken, it is executed.

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Keeper;
use crate::execute::{CHECK_OPTION, RESUME_OPTION, execute, in_place};
use crate::frame::{Event, Exit};
use crate::holdings::Holdings;
use crate::launch::LaunchError;
use crate::programs::kill;
use crate::socket::Flushed;
use crate::state::{Link, Origin, State, inherited};

/// For the candidate to read the state.
const LIMIT: Duration = Duration::from_secs(10);
/// Before it is looked again whether an agent has lived.
const PAUSE: Duration = Duration::from_millis(300);

#[derive(Debug)]
pub(super) enum Renewal {
    /// Until an agent has lived with the program; when that is to be looked at.
    Wanted(Instant),
    /// A candidate reads the state.
    Trying { program: PathBuf, pid: i32, deadline: Instant },
    /// It could read it.
    Proven { program: PathBuf },
}

impl Renewal {
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Renewal::Wanted(deadline) | Renewal::Trying { deadline, .. } => Some(*deadline),
            Renewal::Proven { .. } => None,
        }
    }
}

impl Keeper {
    pub(super) fn renew(&mut self) -> Result<(), String> {
        if !self.ready {
            return Err("the daemon is not up".to_owned());
        }
        // One that is under way looks itself whether its program is still the one.
        self.renewal.get_or_insert(Renewal::Wanted(Instant::now()));
        Ok(())
    }

    fn try_candidate(&mut self) -> Result<Renewal, String> {
        let cannot = |error: &dyn std::fmt::Display| format!("cannot try the new keeper: {error}");
        let state = self.state().ok_or("no agent has greeted")?.write().map_err(|error| cannot(&error))?;
        let option = format!("{CHECK_OPTION}{}", state.as_raw_fd());
        let inherited = [state.as_raw_fd()];
        let program = self.executable.path();
        let pid = execute(&program, &self.agent_args, option, &inherited, &self.oom)
            .map_err(|error| cannot(&error))?;
        Ok(Renewal::Trying { program, pid, deadline: Instant::now() + LIMIT })
    }

    fn state(&self) -> Option<State> {
        let agent = self.agent.as_ref()?;
        let link = Link {
            version: self.version?,
            daemonize: self.daemonize,
            oom: self.oom.of_programs(),
            relay: self.relay.clone(),
            messages: self.messages.as_ref().map(AsRawFd::as_raw_fd),
            stop: self.stop,
        };
        let origin = Origin::Keeper { agent: agent.pid, socket: agent.socket.as_raw_fd(), link };
        Some(State::new(origin, &self.holdings))
    }

    /// What the program was that this process has been before.
    pub(crate) fn go_on_as(&mut self, link: Link, holdings: Holdings) -> Result<(), LaunchError> {
        let Link { version, daemonize, oom: _, relay, messages, stop } = link;
        (self.version, self.daemonize, self.relay, self.stop) = (Some(version), daemonize, relay, stop);
        self.messages = messages.map(inherited).transpose()?;
        self.succession.is_up();
        self.take_holdings(holdings)?;
        self.push(Event::Renewed { error: None });
        Ok(())
    }

    pub(super) fn is_candidate(&self, ended: i32) -> bool {
        matches!(self.renewal, Some(Renewal::Trying { pid, .. }) if pid == ended)
    }

    pub(super) fn candidate_has_ended(&mut self, exit: Exit) {
        match (exit, self.renewal.take()) {
            (Exit::Code(0), Some(Renewal::Trying { program, .. })) => {
                self.renewal = Some(Renewal::Proven { program });
            }
            (exit, _) => self.give_up_renewal(format!("it does not understand this one's state ({exit:?})")),
        }
    }

    fn give_up_renewal(&mut self, error: String) {
        self.renewal = None;
        self.push(Event::Renewed { error: Some(error) });
    }

    pub(super) fn go_on_with_renewal(&mut self) {
        let now = Instant::now();
        let is_early = self.replaced || self.executable.is_on_trial() && !self.succession.has_lived();
        let is_quiet = self.flushed == Flushed::All && self.reader.is_between_frames();
        match &mut self.renewal {
            Some(Renewal::Wanted(due)) if *due <= now && is_early => *due = now + PAUSE,
            Some(Renewal::Wanted(due)) if *due <= now => match self.try_candidate() {
                Ok(trying) => self.renewal = Some(trying),
                Err(error) => self.give_up_renewal(error),
            },
            Some(Renewal::Trying { pid, deadline, .. }) if *deadline <= now => {
                // Said when it is reaped.
                let _ = kill(*pid, libc::SIGKILL);
                *deadline = now + LIMIT;
            }
            // Meanwhile agents are another program.
            Some(Renewal::Proven { program }) if *program != self.executable.path() => {
                self.renewal = Some(Renewal::Wanted(now + PAUSE));
            }
            Some(Renewal::Proven { .. }) if is_quiet => self.become_it(),
            Some(Renewal::Wanted(_) | Renewal::Trying { .. } | Renewal::Proven { .. }) | None => {}
        }
    }

    /// Comes back only if that failed.
    fn become_it(&mut self) {
        // Without an agent it is tried again once there is one.
        let Some(state) = self.state().filter(|_| self.connected && self.agent_exit.is_none()) else {
            return;
        };
        let error = match state.write() {
            Ok(file) => {
                let option = format!("{RESUME_OPTION}{}", file.as_raw_fd());
                let mut inherited = state.descriptors();
                inherited.push(file.as_raw_fd());
                in_place(&self.executable.path(), &self.agent_args, option, &inherited).to_string()
            }
            Err(error) => error.to_string(),
        };
        self.give_up_renewal(error);
    }
}
