//! What the link needs of the daemon that it speaks for, and nothing more: it can ask, watch and be told, and
//! holds no state of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::fs::File;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fleetvisor_core::effect::Change;
use fleetvisor_core::request::{Outcome, Processes, Verb};
use fleetvisor_model::config::{Bundles, LogLevel, OwnPrograms};
use fleetvisor_model::name::ProcessName;
use fleetvisor_model::status::ProcessStatus;
use fleetvisor_model::time::Wall;
use tokio::sync::mpsc;

/// The daemon is gone, or about to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the daemon is shutting down")]
pub struct Gone;

/// What a watcher of processes sees; all watchers see the same one.
#[derive(Clone, Debug)]
pub enum Watched {
    /// What it is now.
    Changed(Arc<ProcessStatus>),
    /// What has happened to it; follows what it is now.
    Happened(Arc<Change>),
    Removed(ProcessName),
}

/// How a configuration would be; the error is why it could not be read at all.
pub type Tried = Result<Accepted, String>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Groups of bundles, and which bundle each is of.
    pub groups: BTreeMap<String, String>,
    /// Bundles that would be left out, and why.
    pub faults: Vec<(String, String)>,
}

/// What an update came to; the error is why nothing was done.
pub type Updated = Result<Begun, String>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    /// Groups that have come to life.
    pub groups: BTreeSet<String>,
    /// Groups that have not, and why.
    pub failed: Vec<(String, String)>,
}

pub type Own = Result<OwnPrograms, String>;

/// A handle to a daemon. Requests are carried out in the order they are made.
pub trait Daemon: Clone + Debug + Send + Sync + 'static {
    /// A line of the daemon's log.
    fn log(&self, level: LogLevel, line: String);

    /// A time as this host's people read it.
    fn local(&self, time: Wall) -> String;

    /// From now on every change of a process is sent to the receiver.
    fn watch(&self) -> Result<mpsc::UnboundedReceiver<Watched>, Gone>;

    /// All processes by group and name.
    fn statuses(&self) -> impl Future<Output = Result<Vec<ProcessStatus>, Gone>> + Send;

    fn status(&self, name: ProcessName) -> impl Future<Output = Result<Option<ProcessStatus>, Gone>> + Send;

    /// Outcomes as they come about; closed after the last.
    fn verb(
        &self,
        verb: Verb,
        processes: Processes,
    ) -> Result<mpsc::UnboundedReceiver<(ProcessName, Outcome)>, Gone>;

    /// What the daemon's configuration would be with these bundles; nothing is changed.
    fn try_bundles(&self, bundles: Bundles) -> impl Future<Output = Result<Tried, Gone>> + Send;

    /// Reads the configuration again, and brings those of these groups to life, or ends them, that have changed.
    /// Processes of the others are not touched.
    fn update(&self, groups: BTreeSet<String>) -> impl Future<Output = Result<Updated, Gone>> + Send;

    /// The programs of this host's own configuration; the error says why they can't be read.
    fn own(&self) -> impl Future<Output = Result<Own, Gone>> + Send;

    /// Reads the configuration again and carries out what has changed in these groups, in all if none is given;
    /// done when what is new runs or has failed. What became of each group (`group:*`) and of each process that
    /// failed goes to `told` in supervisorctl's words. The inner error is why nothing was done.
    fn update_groups(
        &self,
        groups: Vec<String>,
        told: mpsc::UnboundedSender<(ProcessName, Result<String, String>)>,
    ) -> impl Future<Output = Result<Result<(), String>, Gone>> + Send;

    /// The file that [`Daemon::log`] goes to, if it is one.
    fn own_log(&self) -> Option<PathBuf>;

    /// Opens a log, or one that was rotated, for reading. May take its time.
    ///
    /// # Errors
    /// Also where it is no regular file, or may not be read for somebody else.
    fn open_log(path: &Path) -> io::Result<File>;

    /// Has the daemon replaced in place by the release that is installed now, and does not return if that is so: the
    /// release that follows knows how it came out. `leaving` is awaited before, when the other has proved itself; its
    /// error is one more reason to stay. What is returned is why nothing had to be done, or could not be.
    fn upgrade<L>(&self, leaving: L) -> impl Future<Output = Result<Result<String, String>, Gone>> + Send
    where
        L: Future<Output = Result<(), String>> + Send;

    /// How the latest upgrade came out.
    fn upgraded(&self) -> impl Future<Output = Result<Result<String, String>, Gone>> + Send;

    /// Whether these processes are started when their groups come to life.
    fn wish(&self, wishes: BTreeMap<ProcessName, bool>) -> Result<(), Gone>;
}
