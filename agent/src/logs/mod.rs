//! Logs: from the programs' pipes to files, and the daemon's own. All of it lives in one thread ([`thread`]),
//! so that a slow disk holds up nothing else; the rest of the agent holds a [`Logs`] handle. Bytes of logs
//! pass through the loop only where event listeners are to see them, or say something themselves.
//!
//! Killed at any instant, each byte that a program has written is in its pipe, which the keeper holds, in the
//! keeper's memory file for the stream ([`spool`]), or in the log, and an agent that comes after
//! ([`Logs::adopt`]) goes on from there.
//!
//! - [`pump`]: one pipe, the pace at which it is emptied; [`output`]: where its bytes go; [`transform`]: what
//!   becomes of them on the way; [`spool`]: where they wait meanwhile.
//! - [`file`]: a log and its end; [`open`], [`rotate`], [`trouble`]: how it comes, moves on and fails.
//! - [`daemon`], [`syslog`]: the daemon's own lines.
//! - [`poller`], [`tools`]: waiting; looking into pipes.

mod daemon;
mod file;
#[cfg(test)]
mod kills;
mod open;
mod output;
mod poller;
mod pump;
mod rotate;
mod spool;
mod syslog;
mod thread;
mod tools;
mod transform;
mod trouble;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};

use fleetvisor_core::effect::Instance;
use fleetvisor_core::exit::ExitStatus;
use fleetvisor_model::config::{LogLevel, OutputLog};
use fleetvisor_model::name::ProcessName;
use tokio::sync::{oneshot, watch};

pub(crate) use daemon::DaemonLog;
pub(crate) use open::open_for_reading;
pub(crate) use trouble::Failure;

/// What a program's two streams are written to. `stderr` is `None` where it is redirected to stdout.
#[derive(Clone, Debug)]
pub(crate) struct Outputs {
    pub(crate) name: ProcessName,
    pub(crate) stdout: OutputLog,
    pub(crate) stderr: Option<OutputLog>,
    /// Its stdout is a conversation with the daemon.
    pub(crate) is_listener: bool,
}

/// What the keeper is to hold for a successor, from before a program is spawned until it is released: nothing
/// where the successor finds all it needs in the log itself.
#[derive(Debug, Default)]
pub(crate) struct LogStash {
    /// Which streams the descriptors belong to.
    pub(crate) bytes: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl LogStash {
    pub(crate) fn is_empty(&self) -> bool {
        self.descriptors.is_empty()
    }

    fn of(outputs: &[output::Output]) -> std::io::Result<LogStash> {
        let mut stash = LogStash::default();
        for (stream, output) in (0..).zip(outputs) {
            if let Some(memory) = output.memory() {
                stash.bytes.push(stream);
                stash.descriptors.push(memory.try_clone_to_owned()?);
            }
        }
        Ok(stash)
    }

    /// Of stdout and of stderr.
    fn into_memories(self) -> [Option<OwnedFd>; 2] {
        let mut memories = [None, None];
        for (stream, descriptor) in self.bytes.into_iter().zip(self.descriptors) {
            if let Some(memory) = memories.get_mut(usize::from(stream)) {
                *memory = Some(descriptor);
            }
        }
        memories
    }
}

/// A program that an agent which is gone has spawned.
#[derive(Debug)]
pub(crate) struct Adoption {
    pub(crate) outputs: Outputs,
    pub(crate) stash: LogStash,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: Option<OwnedFd>,
    /// How many bytes of a listener's stdout are known, by `upto` of [`crate::inbox::Message::ListenerSays`].
    pub(crate) heard: u64,
}

/// The logs that can't be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failures {
    /// The daemon's own.
    pub(crate) daemon: Option<Failure>,
    pub(crate) programs: BTreeMap<ProcessName, Vec<Failure>>,
}

/// What is asked of the thread, in order.
#[derive(Debug)]
enum Command {
    Line {
        level: LogLevel,
        line: String,
    },
    /// Opens what a program will write to; answered by [`crate::inbox::Message::LogsOpened`].
    Open {
        instance: Instance,
        outputs: Outputs,
    },
    Attach {
        instance: Instance,
        stdout: OwnedFd,
        stderr: Option<OwnedFd>,
    },
    Adopt {
        instance: Instance,
        adoption: Box<Adoption>,
    },
    Resume,
    /// Takes what is left in the pipes; answered by [`crate::inbox::Message::Drained`].
    Drain {
        instance: Instance,
        status: ExitStatus,
    },
    /// The spawn came to nothing.
    Forget {
        instance: Instance,
    },
    /// To the daemon's stdout.
    Print {
        text: String,
    },
    Reopen,
    Clear {
        files: Vec<PathBuf>,
        answer: oneshot::Sender<Result<(), String>>,
    },
    ClearDaemon {
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// A new configuration: the daemon's log goes elsewhere.
    Replace {
        daemon: DaemonLog,
    },
    /// An answer that is not given before everything above it is in the log.
    Answer(Answer),
    Close {
        answer: Option<oneshot::Sender<()>>,
    },
}

struct Answer(Box<dyn FnOnce() + Send>);

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answer")
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Logs {
    sender: Arc<Sender>,
    /// The daemon log's: lines below it are not even sent.
    level: LogLevel,
    failures: watch::Receiver<Arc<Failures>>,
}

#[derive(Debug)]
struct Sender {
    commands: mpsc::Sender<Command>,
    wake: Arc<poller::Wake>,
}

impl Sender {
    /// The thread is gone only after [`Logs::close`], when nothing is left to say.
    fn send(&self, command: Command) {
        let _ = self.commands.send(command);
        self.wake.wake();
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.send(Command::Close { answer: None });
    }
}

impl Logs {
    /// For tests of those who log: nobody reads it.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Logs {
        let wake = poller::Poller::new().expect("descriptors").waker();
        let sender = Arc::new(Sender { commands: mpsc::channel().0, wake });
        Logs { sender, level: LogLevel::Info, failures: watch::channel(Arc::default()).1 }
    }

    fn send(&self, command: Command) {
        self.sender.send(command);
    }

    /// A line of the daemon's own log.
    pub(crate) fn line(&self, level: LogLevel, line: impl Into<String>) {
        if level <= self.level {
            self.send(Command::Line { level, line: line.into() });
        }
    }

    pub(crate) fn shows(&self, level: LogLevel) -> bool {
        level <= self.level
    }

    /// Text for the daemon's own stdout.
    pub(crate) fn print(&self, text: String) {
        self.send(Command::Print { text });
    }

    /// Gives an answer once every line so far is written: whoever is told of a change finds it in the log.
    pub(crate) fn then(&self, answer: impl FnOnce() + Send + 'static) {
        self.send(Command::Answer(Answer(Box::new(answer))));
    }

    /// Every line so far is in the log when this returns.
    pub(crate) async fn written(&self) {
        let (answer, answered) = oneshot::channel();
        self.then(move || {
            let _ = answer.send(());
        });
        let _ = answered.await;
    }

    pub(crate) fn open(&self, instance: Instance, outputs: Outputs) {
        self.send(Command::Open { instance, outputs });
    }

    pub(crate) fn attach(&self, instance: Instance, stdout: OwnedFd, stderr: Option<OwnedFd>) {
        self.send(Command::Attach { instance, stdout, stderr });
    }

    /// Goes on with a program that an agent which is gone has spawned. A log that can't be opened is one that
    /// can't be written for now. No pipe is read before [`resume`](Self::resume).
    pub(crate) fn adopt(&self, instance: Instance, adoption: Adoption) {
        self.send(Command::Adopt { instance, adoption: Box::new(adoption) });
    }

    /// All that there was to adopt is adopted.
    pub(crate) fn resume(&self) {
        self.send(Command::Resume);
    }

    /// The logs that can't be written now.
    pub(crate) fn failures(&self) -> Arc<Failures> {
        Arc::clone(&self.failures.borrow())
    }

    pub(crate) fn drain(&self, instance: Instance, status: ExitStatus) {
        self.send(Command::Drain { instance, status });
    }

    pub(crate) fn forget(&self, instance: Instance) {
        self.send(Command::Forget { instance });
    }

    /// After an outside rotation: everything is opened anew by its name.
    pub(crate) fn reopen(&self) {
        self.send(Command::Reopen);
    }

    /// Empties these logs, whether their programs run or not.
    pub(crate) async fn clear(&self, files: Vec<PathBuf>) -> Result<(), String> {
        self.ask(|answer| Command::Clear { files, answer }).await
    }

    pub(crate) async fn clear_main(&self) -> Result<(), String> {
        self.ask(|answer| Command::ClearDaemon { answer }).await
    }

    async fn ask(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<(), String>>) -> Command,
    ) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        self.send(command(answer));
        answered.await.unwrap_or_else(|_| Err("the daemon is shutting down".to_owned()))
    }

    /// Another configuration's daemon log takes the place of the present one.
    pub(crate) fn replace_daemon(&mut self, daemon: DaemonLog) {
        self.level = daemon.level();
        self.send(Command::Replace { daemon });
    }

    /// Everything sent so far is written when this returns, and the thread ends.
    pub(crate) async fn close(&self) {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Close { answer: Some(answer) });
        let _ = answered.await;
    }
}

pub(crate) use thread::start;
