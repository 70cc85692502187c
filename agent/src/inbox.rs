//! The one way into the loop. Front ends (HTTP, the fleet link) hold a [`Handle`] and await answers; the
//! loop takes [`Message`]s one after the other. No state lives here but the daemon's mood, which every front
//! end must be able to read at once.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use fleetvisor_core::effect::Instance;
use fleetvisor_core::event::Channel;
use fleetvisor_core::request::{Outcome, Processes, Refusal, Verb};
pub(crate) use fleetvisor_link::{Gone, Watched};
use fleetvisor_model::config::{Config, Group, LogTarget};
use fleetvisor_model::name::ProcessName;
use fleetvisor_model::state::DaemonState;
use fleetvisor_model::status::ProcessStatus;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc, oneshot};

use crate::logs::LogStash;
use crate::upgrade::{Offer, Upgrade, UpgradeError};

/// Everything that reaches the loop from inside this process.
#[derive(Debug)]
pub(crate) enum Message {
    /// Answered process by process; closed when all are.
    Verb {
        verb: Verb,
        processes: Processes,
        outcomes: mpsc::UnboundedSender<(ProcessName, Outcome)>,
    },
    AddGroup {
        name: String,
        answer: oneshot::Sender<Outcome>,
    },
    RemoveGroup {
        name: String,
        answer: oneshot::Sender<Outcome>,
    },
    Shutdown {
        answer: oneshot::Sender<()>,
    },
    Restart {
        answer: oneshot::Sender<()>,
    },
    /// A configuration has been read; what differs from what runs?
    Reread {
        config: Box<Config>,
        answer: oneshot::Sender<Changes>,
    },
    Status {
        name: ProcessName,
        answer: oneshot::Sender<Option<ProcessStatus>>,
    },
    Statuses {
        answer: oneshot::Sender<Vec<ProcessStatus>>,
    },
    /// Names of a group's processes by priority; `None` where there is no such group.
    GroupNames {
        group: String,
        answer: oneshot::Sender<Option<Vec<ProcessName>>>,
    },
    Configs {
        answer: oneshot::Sender<Vec<ConfiguredGroup>>,
    },
    WriteStdin {
        name: ProcessName,
        data: Vec<u8>,
        answer: oneshot::Sender<Result<(), StdinError>>,
    },
    /// What a program is to write to is open, or why it can't be.
    LogsOpened {
        instance: Instance,
        result: Result<LogStash, String>,
    },
    /// All that a child wrote has been taken from its pipes: its end may be acted on.
    Drained {
        instance: Instance,
    },
    /// An event listener's stdout; `upto` counts its bytes to the end of `data`.
    ListenerSays {
        instance: Instance,
        data: Vec<u8>,
        upto: u64,
    },
    /// Written by a program whose output makes events.
    Logged {
        instance: Instance,
        channel: Channel,
        data: Vec<u8>,
    },
    /// Written by a program in capture mode.
    Communication {
        instance: Instance,
        channel: Channel,
        data: Vec<u8>,
    },
    /// Wishes of the fleet: whether a process is started when its group comes to life.
    Wishes {
        wishes: BTreeMap<ProcessName, bool>,
    },
    /// What `sendRemoteCommEvent` brings.
    RemoteEvent {
        kind: String,
        data: String,
    },
    /// What a program needs to prove that it could go on in this agent's place.
    Offer {
        answer: oneshot::Sender<Result<Offer, UpgradeError>>,
    },
    /// It has: it is to be the next agent, as soon as nothing is under way. Answered just before this one leaves.
    HandOver {
        program: OwnedFd,
        upgrade: Box<Upgrade>,
        answer: oneshot::Sender<Result<(), UpgradeError>>,
    },
    /// The latest upgrade of this daemon.
    LatestUpgrade {
        answer: oneshot::Sender<Option<Upgrade>>,
    },
    /// From now on every change of a process is sent there.
    Watch {
        changes: mpsc::UnboundedSender<Watched>,
    },
}

/// What `reloadConfig` answers: names of groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) added: Vec<String>,
    pub(crate) changed: Vec<String>,
    pub(crate) removed: Vec<String>,
}

impl Changes {
    /// Those of some groups.
    pub(crate) fn of(self, is_meant: impl Fn(&String) -> bool) -> Changes {
        let meant = |names: Vec<String>| names.into_iter().filter(&is_meant).collect();
        Changes { added: meant(self.added), changed: meant(self.changed), removed: meant(self.removed) }
    }
}

/// A group of the configuration as it was last read, and whether a group of that name is active. AUTO log
/// targets of active groups are the files that were chosen.
#[derive(Clone, Debug)]
pub(crate) struct ConfiguredGroup {
    pub(crate) group: Group,
    pub(crate) in_use: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StdinError {
    BadName,
    NotRunning,
    /// The program has closed its end.
    NoFile,
}

/// Facts that do not change while the daemon runs one configuration.
#[derive(Debug)]
pub(crate) struct Facts {
    /// The keeper's: what people and service managers know as the daemon.
    pub(crate) pid: i32,
    pub(crate) identifier: String,
    pub(crate) logfile: LogTarget,
    pub(crate) config_path: PathBuf,
    /// Where an upgrade finds the next release.
    pub(crate) executable: PathBuf,
}

impl Facts {
    #[cfg(test)]
    pub(crate) fn nothing() -> Facts {
        Facts {
            pid: 1,
            identifier: String::new(),
            logfile: LogTarget::None,
            config_path: PathBuf::new(),
            executable: PathBuf::new(),
        }
    }

    /// The daemon's own log, if it is a file.
    pub(crate) fn own_log(&self) -> Option<PathBuf> {
        match &self.logfile {
            LogTarget::File(path) => Some(path.clone()),
            LogTarget::None | LogTarget::Auto | LogTarget::Syslog => None,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Handle {
    messages: mpsc::UnboundedSender<Message>,
    facts: Arc<Facts>,
    mood: Arc<AtomicI32>,
    upgrading: Arc<Mutex<()>>,
    leaving: Arc<AtomicBool>,
}

impl Handle {
    pub(crate) fn new(messages: mpsc::UnboundedSender<Message>, facts: Facts) -> Handle {
        let mood = Arc::new(AtomicI32::new(DaemonState::Running.code()));
        Handle { messages, facts: Arc::new(facts), mood, upgrading: Arc::default(), leaving: Arc::default() }
    }

    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    pub(crate) fn state(&self) -> DaemonState {
        let code = self.mood.load(Ordering::Relaxed);
        [DaemonState::Fatal, DaemonState::Running, DaemonState::Restarting]
            .into_iter()
            .find(|state| state.code() == code)
            .unwrap_or(DaemonState::Shutdown)
    }

    pub(crate) fn set_state(&self, state: DaemonState) {
        self.mood.store(state.code(), Ordering::Relaxed);
    }

    pub(crate) fn send(&self, message: Message) -> Result<(), Gone> {
        self.messages.send(message).map_err(|_| Gone)
    }

    async fn ask<A>(&self, message: impl FnOnce(oneshot::Sender<A>) -> Message) -> Result<A, Gone> {
        let (answer, answered) = oneshot::channel();
        self.send(message(answer))?;
        answered.await.map_err(|_| Gone)
    }

    /// Outcomes as they come, for those who show progress.
    pub(crate) fn verb(
        &self,
        verb: Verb,
        processes: Processes,
    ) -> Result<mpsc::UnboundedReceiver<(ProcessName, Outcome)>, Gone> {
        let (outcomes, coming) = mpsc::unbounded_channel();
        self.send(Message::Verb { verb, processes, outcomes })?;
        Ok(coming)
    }

    /// All outcomes, in the order in which they came about.
    pub(crate) async fn outcomes(
        &self,
        verb: Verb,
        processes: Processes,
    ) -> Result<Vec<(ProcessName, Outcome)>, Gone> {
        let mut coming = self.verb(verb, processes)?;
        let mut all = Vec::new();
        while let Some(outcome) = coming.recv().await {
            all.push(outcome);
        }
        // Then these may not be all.
        if self.is_leaving() { Err(Gone) } else { Ok(all) }
    }

    /// The outcome for one process.
    pub(crate) async fn outcome(&self, verb: Verb, name: ProcessName) -> Result<Outcome, Gone> {
        let outcomes = self.outcomes(verb, Processes::Named(vec![name])).await?;
        Ok(outcomes.into_iter().next().map_or(Err(Refusal::ShutdownState), |(_, outcome)| outcome))
    }

    pub(crate) async fn add_group(&self, name: String) -> Result<Outcome, Gone> {
        self.ask(|answer| Message::AddGroup { name, answer }).await
    }

    pub(crate) async fn remove_group(&self, name: String) -> Result<Outcome, Gone> {
        self.ask(|answer| Message::RemoveGroup { name, answer }).await
    }

    pub(crate) async fn shutdown(&self) -> Result<(), Gone> {
        self.ask(|answer| Message::Shutdown { answer }).await
    }

    pub(crate) async fn restart(&self) -> Result<(), Gone> {
        self.ask(|answer| Message::Restart { answer }).await
    }

    pub(crate) async fn reread(&self, config: Config) -> Result<Changes, Gone> {
        self.ask(|answer| Message::Reread { config: Box::new(config), answer }).await
    }

    pub(crate) async fn status(&self, name: ProcessName) -> Result<Option<ProcessStatus>, Gone> {
        self.ask(|answer| Message::Status { name, answer }).await
    }

    /// Sorted by group and name.
    pub(crate) async fn statuses(&self) -> Result<Vec<ProcessStatus>, Gone> {
        self.ask(|answer| Message::Statuses { answer }).await
    }

    pub(crate) async fn group_names(&self, group: String) -> Result<Option<Vec<ProcessName>>, Gone> {
        self.ask(|answer| Message::GroupNames { group, answer }).await
    }

    pub(crate) async fn configs(&self) -> Result<Vec<ConfiguredGroup>, Gone> {
        self.ask(|answer| Message::Configs { answer }).await
    }

    pub(crate) async fn write_stdin(
        &self,
        name: ProcessName,
        data: Vec<u8>,
    ) -> Result<Result<(), StdinError>, Gone> {
        self.ask(|answer| Message::WriteStdin { name, data, answer }).await
    }

    /// Only one upgrade is under way at a time: until what this returns is dropped.
    pub(crate) fn begin_upgrade(&self) -> Option<OwnedMutexGuard<()>> {
        Arc::clone(&self.upgrading).try_lock_owned().ok()
    }

    pub(crate) async fn offer(&self) -> Result<Result<Offer, UpgradeError>, Gone> {
        self.ask(|answer| Message::Offer { answer }).await
    }

    pub(crate) async fn hand_over(
        &self,
        program: OwnedFd,
        upgrade: Upgrade,
    ) -> Result<Result<(), UpgradeError>, Gone> {
        self.ask(|answer| Message::HandOver { program, upgrade: Box::new(upgrade), answer }).await
    }

    pub(crate) async fn latest_upgrade(&self) -> Result<Option<Upgrade>, Gone> {
        self.ask(|answer| Message::LatestUpgrade { answer }).await
    }

    /// Another agent is about to go on: who waits for an answer gets none.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    pub(crate) fn remote_event(&self, kind: String, data: String) -> Result<(), Gone> {
        self.send(Message::RemoteEvent { kind, data })
    }
}
