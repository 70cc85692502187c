//! Logs: from the programs' pipes to files, and the daemon's own. All of it lives in threads of its own ([`thread`]),
//! one for each disk, so that one that is slow or hangs holds up nothing else; the rest of the agent holds a [`Logs`]
//! handle. Bytes of logs pass through the loop only where event listeners are to see them, or say something themselves.
//!
//! Killed at any instant, each byte that a program has written is in its pipe, which the keeper holds, in the
//! keeper's memory file for the stream ([`spool`]), or in the log, and an agent that comes after
//! ([`Logs::adopt`]) goes on from there.
//!
//! - [`pump`]: one pipe, the pace at which it is emptied; [`output`]: where its bytes go; [`transform`]: what
//!   becomes of them on the way; [`spool`]: where they wait meanwhile.
//! - [`file`]: a log and its end; [`open`], [`rotate`], [`trouble`]: how it comes, moves on and fails.
//! - [`router`], [`disks`]: which thread a log is with; [`gather`]: what is told once all threads have done their part.
//! - [`daemon`], [`voice`], [`syslog`]: the daemon's own lines.
//! - [`poller`], [`tools`]: waiting; looking into pipes.

mod daemon;
mod disks;
mod file;
mod gather;
#[cfg(test)]
mod kills;
mod open;
mod output;
mod poller;
mod pump;
mod rotate;
mod router;
mod spool;
mod syslog;
mod thread;
mod tools;
mod transform;
mod trouble;
mod voice;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use fleetvisor_core::effect::Instance;
use fleetvisor_model::config::{LogLevel, OutputLog};
use fleetvisor_model::name::ProcessName;
use tokio::sync::oneshot;
use tokio::time::timeout;

pub(crate) use daemon::DaemonLog;
use gather::{Part, gather};
pub(crate) use open::open_for_reading;
use router::{Claim, Opening, Router};
use thread::Thread;
pub(crate) use trouble::Failure;
use voice::{Room, Voice};

use crate::inbox::Handle;

/// How long the end of the daemon waits for threads of logs whose disk takes nothing.
const LAST_WRITES: Duration = Duration::from_secs(2);

/// Something of each stream, stdout's first.
type Pair<T> = [Option<T>; 2];

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

    fn of(memories: Pair<OwnedFd>) -> LogStash {
        let mut stash = LogStash::default();
        for (stream, memory) in (0..).zip(memories) {
            if let Some(memory) = memory {
                stash.bytes.push(stream);
                stash.descriptors.push(memory);
            }
        }
        stash
    }

    /// Of stdout and of stderr.
    fn into_memories(self) -> Pair<OwnedFd> {
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

/// What one thread has of a program.
#[derive(Debug)]
struct Share {
    name: ProcessName,
    is_listener: bool,
    /// `None` for a stream that there is not, or that another thread has.
    logs: Pair<OutputLog>,
    claims: Vec<Arc<Claim>>,
}

/// What is asked of a thread, in order.
#[derive(Debug)]
enum Command {
    Line {
        level: LogLevel,
        line: String,
    },
    /// A line from another of these threads.
    Said {
        level: LogLevel,
        line: String,
        room: Room,
    },
    /// Opens what a program will write to; answered by [`crate::inbox::Message::LogsOpened`].
    Open {
        instance: Instance,
        share: Share,
        part: Part<Opening>,
    },
    Attach {
        instance: Instance,
        pipes: Pair<OwnedFd>,
    },
    Adopt {
        instance: Instance,
        share: Box<Share>,
        pipes: Pair<OwnedFd>,
        memories: Pair<OwnedFd>,
        heard: u64,
    },
    Resume,
    /// Takes what is left in the pipes; answered by [`crate::inbox::Message::Drained`].
    Drain {
        instance: Instance,
        part: Part<()>,
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
        part: Part<Result<(), String>>,
    },
    ClearDaemon {
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// A new configuration: the daemon's log goes elsewhere.
    Replace {
        daemon: DaemonLog,
    },
    /// That log's level, for a thread that has not the log.
    Level {
        level: LogLevel,
    },
    /// An answer that is not given before everything above it is in the log.
    Answer(Answer),
    Close {
        part: Option<Part<()>>,
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
    home: Arc<Sender>,
    /// The daemon log's: lines below it are not even sent.
    level: LogLevel,
    router: Arc<Mutex<Router>>,
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
        self.send(Command::Close { part: None });
    }
}

/// Starts the home thread. Answers go to the loop through `handle`.
pub(crate) fn start(daemon: DaemonLog, strip_ansi: bool, handle: Handle) -> std::io::Result<Logs> {
    let (level, disk) = (daemon.level(), router::disk_of_daemon(daemon.path()));
    let enlarged = Arc::<AtomicUsize>::default();
    let name = "logs".to_owned();
    let (home, failures) =
        Thread::start(name, Voice::Own(daemon), strip_ansi, handle.clone(), Arc::clone(&enlarged))?;
    let router = Router::new(Arc::clone(&home), failures, disk, level, strip_ansi, handle, enlarged);
    Ok(Logs { home, level, router: Arc::new(Mutex::new(router)) })
}

impl Logs {
    /// For tests of those who log: nobody reads it.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Logs {
        let wake = poller::Poller::new().expect("descriptors").waker();
        let (home, level) = (Arc::new(Sender { commands: mpsc::channel().0, wake }), LogLevel::Info);
        let failures = tokio::sync::watch::channel(Arc::default()).1;
        let handle = Handle::new(tokio::sync::mpsc::unbounded_channel().0, crate::inbox::Facts::nothing());
        let router = Router::new(Arc::clone(&home), failures, None, level, false, handle, Arc::default());
        Logs { home, level, router: Arc::new(Mutex::new(router)) }
    }

    fn send(&self, command: Command) {
        self.home.send(command);
    }

    /// Held for a moment only: no log's disk is touched meanwhile.
    fn router(&self) -> MutexGuard<'_, Router> {
        self.router.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Every line so far is in the log when this returns, unless its disk hangs.
    pub(crate) async fn written(&self) {
        let (answer, answered) = oneshot::channel();
        self.then(move || {
            let _ = answer.send(());
        });
        let _ = timeout(LAST_WRITES, answered).await;
    }

    /// Whether no disk of any log hangs: then this process can end. A thread that a disk holds can't be killed.
    pub(crate) async fn answer(&self) -> bool {
        let all = self.router().all_done();
        timeout(LAST_WRITES, all).await.is_ok()
    }

    pub(crate) fn open(&self, instance: Instance, outputs: Outputs) {
        self.router().open(instance, outputs);
    }

    pub(crate) fn attach(&self, instance: Instance, stdout: OwnedFd, stderr: Option<OwnedFd>) {
        self.router().attach(instance, [Some(stdout), stderr]);
    }

    /// Goes on with a program that an agent which is gone has spawned. A log that can't be opened is one that
    /// can't be written for now. No pipe is read before [`resume`](Self::resume).
    pub(crate) fn adopt(&self, instance: Instance, adoption: Adoption) {
        self.router().adopt(instance, adoption);
    }

    /// All that there was to adopt is adopted.
    pub(crate) fn resume(&self) {
        self.router().send_all(|| Command::Resume);
    }

    /// The logs that can't be written now.
    pub(crate) fn failures(&self) -> Arc<Failures> {
        self.router().failures()
    }

    pub(crate) fn drain(&self, instance: Instance) {
        self.router().drain(instance);
    }

    pub(crate) fn forget(&self, instance: Instance) {
        self.router().forget(instance);
    }

    /// After an outside rotation: everything is opened anew by its name.
    pub(crate) fn reopen(&self) {
        self.router().send_all(|| Command::Reopen);
    }

    /// Empties these logs, whether their programs run or not.
    pub(crate) async fn clear(&self, files: Vec<PathBuf>) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        self.router().clear(files, answer);
        answer_of(answered).await
    }

    pub(crate) async fn clear_main(&self) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::ClearDaemon { answer });
        answer_of(answered).await
    }

    /// Another configuration's daemon log takes the place of the present one.
    pub(crate) fn replace_daemon(&mut self, daemon: DaemonLog) {
        self.level = daemon.level();
        self.router().replace_daemon(self.level, daemon.path());
        self.send(Command::Replace { daemon });
    }

    /// Everything sent so far is written when this returns, and the threads end; those whose disk hangs are not waited
    /// for.
    pub(crate) async fn close(&self) {
        let others = self.router().close_others();
        let _ = timeout(LAST_WRITES, others).await;
        let (answer, answered) = oneshot::channel();
        let part = gather(1, (), move |()| {
            let _ = answer.send(());
        });
        self.send(Command::Close { part: part.into_iter().next() });
        let _ = timeout(LAST_WRITES, answered).await;
    }
}

async fn answer_of(answered: oneshot::Receiver<Result<(), String>>) -> Result<(), String> {
    answered.await.unwrap_or_else(|_| Err("the daemon is shutting down".to_owned()))
}
