//! What the link needs of the daemon that it speaks for, and nothing more: it can ask, watch and be told, and
//! holds no state of it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;

use fleetvisor_core::request::{Outcome, Processes, Verb};
use fleetvisor_model::config::LogLevel;
use fleetvisor_model::name::ProcessName;
use fleetvisor_model::status::ProcessStatus;
use fleetvisor_model::time::Wall;
use tokio::sync::mpsc;

/// The daemon is gone, or about to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the daemon is shutting down")]
pub struct Gone;

/// What a watcher of processes sees.
#[derive(Clone, Debug)]
pub enum Watched {
    Changed(ProcessStatus),
    Removed(ProcessName),
}

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

    /// Whether these processes are started when their groups come to life.
    fn wish(&self, wishes: BTreeMap<ProcessName, bool>) -> Result<(), Gone>;
}
