//! The loop: wait for an input or the next deadline, let the core step, perform what it asks ([`perform`]). Nothing
//! here awaits slow work; front ends, logs and the keeper talk to it by messages.

mod perform;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::time::Duration;

use fleetvisor_core::decisions::{Act, Counters, Decisions, Step};
use fleetvisor_core::effect::{Effect, Instance};
use fleetvisor_core::event::{Channel, Event as Told, Written};
use fleetvisor_core::request::{Outcome, Processes, Refusal, Request, Ticket, Verb};
use fleetvisor_core::supervisor::{Input, Supervisor};
use fleetvisor_keeper::{Event, LinkError, errno_name};
use fleetvisor_model::config::{Group, GroupKind, LogLevel};
use fleetvisor_model::name::ProcessName;
use fleetvisor_model::signal::Signal;
use fleetvisor_model::state::{DaemonState, ProcessState};
use fleetvisor_model::time::Monotonic;
use tokio::sync::{mpsc, oneshot};

use crate::answers::Answers;
use crate::children::Children;
use crate::clock;
use crate::fcgi::{self, Sockets};
use crate::groups::{Groups, choose_auto_logs};
use crate::inbox::{Handle, Message, StdinError, Watched};
use crate::journal::Entry;
use crate::keeper_link::wording;
use crate::legacy::Legacy;
use crate::logs::Logs;
use crate::program;
use crate::upgrade::leaving::{self, Leaving};
use perform::LastWords;

/// How the loop came to its end.
#[derive(Debug)]
pub(crate) enum End {
    Shutdown,
    /// Everything has stopped; start over with the configuration as it is now.
    Restart,
    /// Another agent goes on.
    Replaced,
    /// The keeper is gone, and with it the way to every program, until another is begun.
    KeeperLost(LinkError),
}

/// Who waits for the outcomes of a request.
#[derive(Debug)]
enum Asker {
    /// Everyone's outcomes, as they come.
    Verb(mpsc::UnboundedSender<(ProcessName, Outcome)>),
    Group(oneshot::Sender<Outcome>),
    Daemon(oneshot::Sender<()>),
    /// The daemon itself.
    Nobody,
}

/// How long the end of the daemon waits for logs that take nothing, as their disk hangs.
const LAST_LOGS: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) decisions: Decisions,
    pub(crate) children: Children,
    pub(crate) groups: Groups,
    pub(crate) logs: Logs,
    pub(crate) handle: Handle,
    pub(crate) legacy: Legacy,
    /// Steps that came about while acts were performed.
    steps: VecDeque<Step>,
    askers: HashMap<Ticket, Asker>,
    answers: Answers,
    pub(crate) next_ticket: u64,
    watchers: Vec<mpsc::UnboundedSender<Watched>>,
    pub(crate) sockets: Sockets,
    last_words: Vec<LastWords>,
    /// Another agent is to go on from here, as soon as nothing is under way.
    pub(crate) leaving: Option<Leaving>,
    /// The daemon is to end, or to start over, at once.
    pub(crate) finished: Option<DaemonState>,
}

impl Agent {
    /// With what was decided already: nothing at a start.
    pub(crate) fn new(
        decisions: Decisions,
        groups: Groups,
        next_ticket: u64,
        legacy: Legacy,
        children: Children,
        logs: Logs,
        handle: Handle,
    ) -> Agent {
        Agent {
            decisions,
            children,
            groups,
            logs,
            handle,
            legacy,
            steps: VecDeque::new(),
            askers: HashMap::new(),
            answers: Answers::default(),
            next_ticket,
            watchers: Vec::new(),
            sockets: Sockets::default(),
            last_words: Vec::new(),
            leaving: None,
            finished: None,
        }
    }

    /// From here on this agent can be succeeded.
    pub(crate) fn keep(&mut self) {
        let Agent { decisions, groups, legacy, children, logs, next_ticket, .. } = self;
        legacy.keep(decisions, groups, *next_ticket, children, logs);
    }

    /// Runs until everything has stopped. The children and what is counted on are given back with the
    /// end, for a new start.
    pub(crate) async fn run(
        mut self,
        inbox: &mut mpsc::UnboundedReceiver<Message>,
    ) -> (End, Children, Counters) {
        let end = self.live(inbox).await;
        (end, self.children, self.decisions.counters())
    }

    async fn live(&mut self, inbox: &mut mpsc::UnboundedReceiver<Message>) -> End {
        if !self.decisions.have_begun() {
            self.begin();
        }
        loop {
            self.end_last_words();
            match self.finished {
                Some(DaemonState::Restarting) => return End::Restart,
                Some(_) => return End::Shutdown,
                None => {}
            }
            if self.is_leaving() {
                return End::Replaced;
            }
            if self.last_words.is_empty() {
                self.keep();
            }
            let deadline = self.core().deadline();
            let tick = self.decisions.pools().deadline(clock::now());
            let is_ending = self.core().state() != DaemonState::Running;
            let waits = if is_ending { self.children.waits_for_logs() } else { None };
            let given_up = waits.map(|since| since + LAST_LOGS);
            let answers_late = self.answers.deadline();
            let spoken = self.last_words.iter().map(|listener| listener.until).min();
            tokio::select! {
                message = inbox.recv() => {
                    if let Some(message) = message {
                        self.message(message);
                    }
                }
                event = self.children.next_event() => match event {
                    Ok((event, descriptors)) => self.keeper_says(event, descriptors),
                    Err(error) => return End::KeeperLost(error),
                },
                () = until(deadline) => self.input(Input::Tick),
                () = until(tick) => self.take(Step::PoolTick),
                () = until(spoken) => {}
                () = until(answers_late) => self.answers.give_late(clock::now().monotonic),
                () = until(given_up) => self.give_up_logs(waits),
                () = tokio::time::sleep(leaving::UNTIL_QUIET), if self.leaving.is_some() => {}
            }
        }
    }

    fn begin(&mut self) {
        for name in self.groups.names() {
            if self.core().group(&name).is_some() {
                continue;
            }
            match self.ready_group(&name) {
                Ok(group) => self.request(Request::AddGroup(group), Asker::Nobody),
                Err(refusal) => {
                    let line = format!("group {name} is not started: {}", program::spawn_error(&refusal));
                    self.logs.line(LogLevel::Critical, line);
                }
            }
        }
        self.take(Step::Begun);
    }

    pub(crate) fn core(&self) -> &Supervisor {
        self.decisions.supervisor()
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Verb { verb, processes, outcomes } => self.verb(verb, processes, outcomes),
            Message::AddGroup { name, answer } => match self.ready_new_group(&name) {
                Ok(group) => self.request(Request::AddGroup(group), Asker::Group(answer)),
                Err(refusal) => {
                    let _ = answer.send(Err(refusal));
                }
            },
            Message::RemoveGroup { name, answer } => {
                self.request(Request::RemoveGroup(name), Asker::Group(answer));
            }
            Message::Shutdown { answer } => self.request(Request::Shutdown, Asker::Daemon(answer)),
            Message::Restart { answer } => self.request(Request::Restart, Asker::Daemon(answer)),
            Message::Reread { config, answer } => {
                // What reading it has to remark is logged at the start only, as by Supervisor.
                self.note(Entry::Read(Cow::Borrowed(&config.groups)));
                let _ = answer.send(self.groups.reread(config.groups));
            }
            Message::Status { name, answer } => {
                let now = clock::now();
                let _ = answer.send(self.core().process(&name).map(|process| process.status(now)));
            }
            Message::Statuses { answer } => {
                let _ = answer.send(self.core().statuses(clock::now()));
            }
            Message::GroupNames { group, answer } => {
                let names = self
                    .core()
                    .group(&group)
                    .map(|group| group.processes.iter().map(|process| process.name.clone()).collect());
                let _ = answer.send(names);
            }
            Message::Configs { answer } => {
                let _ = answer.send(self.groups.configured(|name| self.core().group(name)));
            }
            Message::WriteStdin { name, data, answer } => {
                let _ = answer.send(self.write_stdin(&name, &data));
            }
            Message::LogsOpened { instance, result } => {
                if let Some(input) = self.children.logs_opened(instance, result) {
                    self.input(input);
                }
            }
            Message::Drained { instance } => {
                if let Some(input) = self.children.drained(instance) {
                    self.input(input);
                    self.children.release(instance);
                }
            }
            Message::Wishes { wishes } => {
                for (name, run) in wishes {
                    self.request(Request::Wish { name, run }, Asker::Nobody);
                }
            }
            Message::RemoteEvent { kind, data } => self.tell(Told::Remote { kind, data }),
            Message::ListenerSays { instance, data, upto } => {
                if self.core().name_of(instance).is_some() {
                    self.take(Step::Heard { instance, data, upto });
                }
            }
            Message::Logged { instance, channel, data } => {
                if let Some(written) = self.written(instance, channel, data) {
                    self.tell(Told::Log(written));
                }
            }
            Message::Communication { instance, channel, data } => {
                if let Some(written) = self.written(instance, channel, data) {
                    self.tell(Told::Communication(written));
                }
            }
            Message::Offer { answer } => {
                let _ = answer.send(self.offer());
            }
            Message::HandOver { program, upgrade, answer } => {
                self.leaving = Some(Leaving::new(program, *upgrade, answer));
            }
            Message::LatestUpgrade { answer } => {
                let _ = answer.send(self.legacy.upgrade.clone());
            }
            Message::Watch { changes } => self.watchers.push(changes),
        }
    }

    /// The daemon ends: nobody waits for a disk that hangs.
    fn give_up_logs(&mut self, since: Option<Monotonic>) {
        for input in since.map(|since| self.children.wait_no_longer(since)).unwrap_or_default() {
            if let Input::Exited { instance, .. } = input {
                let name = self.core().name_of(instance).map(ToString::to_string).unwrap_or_default();
                let line = format!("logs of {name} take nothing: what it wrote last is not waited for");
                self.logs.line(LogLevel::Critical, line);
                self.input(input);
                self.children.release(instance);
            } else {
                self.input(input);
            }
        }
    }

    fn keeper_says(&mut self, event: Event, descriptors: Vec<OwnedFd>) {
        match event {
            Event::Spawned { id, pid, pipes } => {
                let input = self.children.spawned(id, pid, pipes, descriptors);
                self.input(input);
            }
            Event::SpawnFailed { id, step, errno } => {
                let name = self.core().name_of(Instance(id));
                let name = name.map_or("", |name| name.process.as_str());
                let error = wording::spawn_failed(name, step, errno);
                let input = self.children.spawn_failed(id, error);
                self.input(input);
            }
            Event::Exited { id, exited } => self.children.exited(id, wording::exit_status(exited.exit)),
            Event::SignalFailed { id, errno } => {
                let instance = Instance(id);
                // One that has ended, and whose logs take their time, is no trouble.
                if !self.children.is_draining(instance) {
                    self.input(Input::SignalFailed { instance, error: errno_name(errno) });
                }
            }
            Event::Renewed { error: None } => self.logs.line(LogLevel::Info, "the keeper is renewed, too"),
            Event::Renewed { error: Some(error) } => {
                let line = format!("the keeper stays as it was, which does no harm: {error}");
                self.logs.line(LogLevel::Warn, line);
            }
            // The link has noted it.
            Event::Signalled { .. } => {}
            Event::Reaped { pid, exit } => {
                let status = wording::exit_status(exit);
                self.logs.line(LogLevel::Info, format!("reaped unknown pid {pid} ({status})"));
            }
            Event::Relayed { signo } => {
                self.relayed(Signal(signo));
                self.children.heard(Signal(signo));
            }
            Event::Refused { id, reason } => {
                self.logs.line(LogLevel::Critical, format!("the keeper refused a request: {reason}"));
                if let Some(input) = id.and_then(|id| self.children.refused(id, reason)) {
                    self.input(input);
                }
            }
            Event::Hello { .. }
            | Event::Prepared
            | Event::PrepareFailed { .. }
            | Event::Adopted { .. }
            | Event::Stashed { .. }
            | Event::Succeeded { .. }
            | Event::OomScore { .. }
            | Event::Said { .. }
            | Event::Revived { .. } => {
                self.logs.line(LogLevel::Error, "the keeper answered what nobody asked");
            }
        }
    }

    /// A signal that was sent to the daemon.
    fn relayed(&mut self, signal: Signal) {
        let name = signal.name();
        match signal {
            Signal::TERM | Signal::INT | Signal::QUIT => {
                self.logs.line(LogLevel::Warn, format!("received {name} indicating exit request"));
                self.request(Request::Shutdown, Asker::Nobody);
            }
            Signal::HUP if self.core().state() == DaemonState::Shutdown => {
                let line = format!("ignored {name} indicating restart request (shutdown in progress)");
                self.logs.line(LogLevel::Warn, line);
            }
            Signal::HUP => {
                self.logs.line(LogLevel::Warn, format!("received {name} indicating restart request"));
                self.request(Request::Restart, Asker::Nobody);
            }
            Signal::USR2 => {
                self.logs.line(LogLevel::Info, format!("received {name} indicating log reopen request"));
                self.logs.line(LogLevel::Info, "supervisord logreopen");
                self.logs.reopen();
            }
            _ => self.logs.line(LogLevel::Blather, format!("received {name} indicating nothing")),
        }
    }

    fn verb(
        &mut self,
        verb: Verb,
        processes: Processes,
        outcomes: mpsc::UnboundedSender<(ProcessName, Outcome)>,
    ) {
        let refused = match verb {
            Verb::Start { .. } | Verb::Restart => self
                .core()
                .affected(verb, &processes)
                .into_iter()
                .filter_map(|process| {
                    let refusal =
                        program::executable(process.config(), self.children.surroundings()).err()?;
                    Some((process.name().clone(), refusal))
                })
                .collect(),
            Verb::Stop { .. } | Verb::Signal(_) => BTreeMap::new(),
        };
        self.request(Request::Verb { verb, processes, refused }, Asker::Verb(outcomes));
    }

    /// A group as last read, with everything done that comes before its start.
    fn ready_group(&mut self, name: &str) -> Result<Group, Refusal> {
        let mut group = self.groups.find(name).cloned().ok_or(Refusal::BadName)?;
        if self.core().group(name).is_some() {
            return Err(Refusal::AlreadyAdded);
        }
        let as_read = group.clone();
        choose_auto_logs(
            &mut group,
            &self.legacy.settings.config.supervisord.childlogdir,
            &self.handle.facts().identifier,
        )
        .map_err(Refusal::Failed)?;
        self.note(Entry::Added(Cow::Borrowed(&as_read)));
        self.groups.added(as_read);
        Ok(group)
    }

    /// As [`Self::ready_group`], for one that comes while the daemon runs.
    fn ready_new_group(&mut self, name: &str) -> Result<Group, Refusal> {
        if self.core().group(name).is_none()
            && let Some(group) = self.groups.find(name)
        {
            fcgi::try_out(std::slice::from_ref(group), &self.logs)
                .map_err(|error| Refusal::Failed(error.to_string()))?;
        }
        self.ready_group(name)
    }

    fn request(&mut self, request: Request, asker: Asker) {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.askers.insert(ticket, asker);
        self.input(Input::Request { ticket, request });
    }

    pub(crate) fn input(&mut self, input: Input) {
        self.take(Step::Input(input));
    }

    /// Everything that is decided comes from here: noted first, for a successor, then performed.
    pub(crate) fn take(&mut self, step: Step) {
        self.steps.push_back(step);
        self.take_all();
    }

    /// Those that came about while acts were performed.
    pub(crate) fn take_all(&mut self) {
        while let Some(step) = self.steps.pop_front() {
            let mut ended = match &step {
                Step::Input(Input::Exited { instance, .. } | Input::SpawnFailed { instance, .. }) => {
                    self.core().name_of(*instance).cloned()
                }
                Step::Input(_)
                | Step::Tell(_)
                | Step::Heard { .. }
                | Step::Wrote { .. }
                | Step::SendFailed { .. }
                | Step::PoolTick
                | Step::Begun => None,
            };
            let now = clock::now();
            self.legacy.note(now, Entry::Step(Cow::Borrowed(&step)), &mut self.children, &self.logs);
            let acts = self.decisions.take(step, now);
            self.handle.set_state(self.core().state());
            for act in acts {
                let is_line = matches!(act, Act::Effect(Effect::Log { .. }));
                match act {
                    Act::Effect(effect) => self.perform(effect),
                    Act::Deed(deed) => self.perform_deed(deed),
                }
                // Behind the line that says how it ended, before what comes of it.
                if let Some(name) = ended.take_if(|_| is_line)
                    && self.sockets.release(&name, &self.logs)
                {
                    self.children.unstash(&(fcgi::STASH.to_owned() + &name.group));
                }
            }
        }
    }

    fn note(&mut self, entry: Entry<'_>) {
        self.legacy.note(clock::now(), entry, &mut self.children, &self.logs);
    }

    fn tell(&mut self, event: Told) {
        if self.decisions.is_heard(event.name()) {
            self.take(Step::Tell(event));
        }
    }

    fn written(&self, instance: Instance, channel: Channel, data: Vec<u8>) -> Option<Written> {
        let name = self.core().name_of(instance)?.clone();
        let pid = self.core().process(&name).map_or(0, |process| process.pid());
        Some(Written { name, pid, channel, data })
    }

    fn write_stdin(&mut self, name: &ProcessName, data: &[u8]) -> Result<(), StdinError> {
        let process = self.core().process(name).ok_or(StdinError::BadName)?;
        let is_open = process.pid() != 0 && process.state() != ProcessState::Stopping;
        let instance = process.instance().filter(|_| is_open).ok_or(StdinError::NotRunning)?;
        self.children.write_stdin(instance, data).map_err(|_| StdinError::NoFile)?;
        let group = self.core().group(&name.group);
        if group.is_some_and(|group| matches!(group.kind, GroupKind::Listeners { .. })) {
            self.take(Step::Wrote { instance, bytes: data.len() as u64 });
        }
        Ok(())
    }
}

async fn until(deadline: Option<Monotonic>) {
    match deadline {
        Some(deadline) => {
            let left: Duration = deadline - clock::now().monotonic;
            tokio::time::sleep(left).await;
        }
        None => std::future::pending().await,
    }
}
