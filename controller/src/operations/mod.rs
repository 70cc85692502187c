//! What an operator asks of many hosts at once: start, stop, restart, signal, update, and to apply a revision of a
//! bundle. Each is a durable record that is carried out at most once per host, and that goes on whatever happens to the
//! caller or the controller.
//!
//! - [`request`]: what is asked, checked; [`resolve`]: which hosts and processes that means; [`begin`]: both, stored.
//! - [`record`]: how it is kept in the store.
//! - [`drive`]: one of them under way, [`member`]: a host of it; [`caller`]: who follows it.
//!
//! This file owns which are under way, and the calls about them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fleetvisor_proto::fleet::{self, RunEvent, RunPlan, RunRequest};
use tokio::sync::{mpsc, oneshot, watch};

use crate::bundles::catalog::BundleError;
use crate::clock;
use crate::controller::Controller;
use crate::records::{self, RecordError};
use crate::select::SelectionError;
use crate::store::{Expect, StoreError, Transaction};

mod begin;
mod caller;
mod drive;
mod member;
pub(crate) mod record;
mod request;
mod resolve;

pub(crate) use begin::{How, Prepared, apply, refuse_too_many, start};
use caller::Caller;
use drive::{Ask, Driver};
use record::{OperationRecord, State};
use request::Asked;

/// Operations that are under way, or wait for hosts that are away, at once.
const LIVE_MAX: usize = 1000;
/// Records of operations that have ended: the latest so many, and none older than this.
const KEPT_MAX: usize = 1000;
const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// Events that a caller may be behind, beside those of the hosts and processes.
const BACKLOG: usize = 16_384;
/// Records that one transaction deletes.
const DELETED_MAX: usize = 512;

#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("no verb: start, stop, restart, signal or update")]
    NoVerb,
    #[error("{0:?} is no signal")]
    Signal(String),
    #[error("{0}: an update is for whole groups by their names, or all")]
    UpdateTarget(String),
    #[error("{0}: an upgrade is for hosts, and takes no name of a process")]
    UpgradeTarget(String),
    #[error("{0:?} is neither a number of hosts nor a percentage (5, 25%)")]
    Share(String),
    #[error("a timeout of {0} seconds is too long (the limit is a day)")]
    Timeout(u32),
    #[error("an expiry in {0} seconds is too far away (the limit is 30 days)")]
    Expire(u64),
    #[error("a pause of {0:?} is too long (the limit is a day)")]
    Pause(Duration),
    #[error(transparent)]
    Selection(#[from] SelectionError),
    #[error("too many operations are under way; cancel one, or try again when one has ended")]
    TooMany,
    #[error("there is no operation {0}")]
    NoSuch(String),
    #[error("{0} is the beginning of several operations")]
    Ambiguous(String),
    #[error("operation {id} is {state}")]
    State { id: String, state: &'static str },
    #[error(
        "revision {revision} of bundle {bundle} is settled: hosts that are away get it when they return; roll back, or \
         push another"
    )]
    Settled { bundle: String, revision: u64 },
    #[error("revision {later} of bundle {bundle} has taken the place of revision {revision}")]
    Superseded { bundle: String, revision: u64, later: u64 },
    #[error("{0} carries the operation out")]
    Elsewhere(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("the system's random source failed: {0}")]
    Random(#[from] getrandom::Error),
}

/// Those that are under way.
#[derive(Debug)]
pub(crate) struct Operations {
    live: Mutex<HashMap<String, Live>>,
    /// What this controller is called where several share a store.
    pub(crate) holder: String,
}

#[derive(Clone, Debug)]
struct Live {
    asks: mpsc::UnboundedSender<Ask>,
    now: watch::Receiver<fleet::Operation>,
}

impl Operations {
    pub(crate) fn new(holder: String) -> Operations {
        Operations { live: Mutex::default(), holder }
    }

    /// How many there are.
    pub(crate) fn under_way(&self) -> usize {
        self.live().len()
    }

    /// Whether it is under way, and neither stopped nor cancelled.
    pub(crate) fn is_running(&self, id: &str) -> bool {
        let state = self.get(id).map(|live| live.now.borrow().state());
        matches!(state, Some(fleet::OperationState::Running | fleet::OperationState::Waiting))
    }

    /// Something may have taken its place.
    pub(crate) fn look(&self, id: &str) {
        if let Some(live) = self.get(id) {
            // One that has just ended has nothing to look at.
            let _ = live.asks.send(Ask::Look);
        }
    }

    /// As if this controller had been killed.
    #[cfg(test)]
    pub(crate) fn abandon(&self) {
        self.live().clear();
    }

    fn get(&self, id: &str) -> Option<Live> {
        self.live().get(id).cloned()
    }

    fn live(&self) -> MutexGuard<'_, HashMap<String, Live>> {
        self.live.lock().expect("nothing panics while it holds the operations")
    }
}

/// What [`start`] would do.
pub(crate) fn plan(controller: &Controller, request: RunRequest) -> Result<RunPlan, RunError> {
    let asked = Asked::parse(request)?;
    Ok(resolve::plan(resolve::resolve(&controller.registry, &asked), &asked))
}

/// Takes up what the last controller left.
pub(crate) async fn take_up(controller: &Arc<Controller>) -> Result<usize, RunError> {
    let mut taken = 0;
    for (id, record) in stored(controller).await? {
        if record.state == State::Finished {
            continue;
        }
        let driver = Driver::load(controller.clone(), &id).await?;
        if driver.is_under_way() {
            tracing::info!("operation {id} ({} by {}) is taken up again", record.verb, record.by);
            take_on(controller, driver);
            taken += 1;
        }
    }
    Ok(taken)
}

/// All that are known, the latest last.
pub(crate) async fn list(controller: &Controller, limit: u32) -> Result<Vec<fleet::Operation>, RunError> {
    let mut operations: Vec<fleet::Operation> = stored(controller)
        .await?
        .into_iter()
        .map(|(id, record)| match controller.operations.get(&id) {
            Some(live) => live.now.borrow().clone(),
            None => record.shown(&id),
        })
        .collect();
    operations.sort_by(|a, b| (a.made, &a.id).cmp(&(b.made, &b.id)));
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if limit > 0 && operations.len() > limit {
        operations.drain(..operations.len() - limit);
    }
    Ok(operations)
}

/// The operation, then its hosts.
pub(crate) async fn show(
    controller: &Arc<Controller>,
    id: &str,
) -> Result<Vec<fleet::OperationPart>, RunError> {
    let id = find(controller, id).await?;
    let now = controller.operations.get(&id).map(|live| live.now.borrow().clone());
    Ok(Driver::load(controller.clone(), &id).await?.parts(now))
}

/// What has happened so far, and what happens.
pub(crate) async fn watch(
    controller: &Arc<Controller>,
    id: &str,
) -> Result<mpsc::Receiver<RunEvent>, RunError> {
    let id = find(controller, id).await?;
    let driver = Driver::load(controller.clone(), &id).await?;
    let (caller, receiver) = Caller::new(BACKLOG + driver.size() * 2);
    let caller = match controller.operations.get(&id) {
        None => caller,
        Some(live) => match live.asks.send(Ask::Watch(caller)) {
            Ok(()) => return Ok(receiver),
            // It has ended in between.
            Err(mpsc::error::SendError(Ask::Watch(caller))) => caller,
            Err(_) => return Err(RunError::NoSuch(id)),
        },
    };
    for event in driver.replay().into_iter().chain(driver.farewell()) {
        caller.tell(event);
    }
    Ok(receiver)
}

/// The answer of the operation's driver; `None` where nobody carries it out at present.
async fn ask(
    controller: &Controller,
    id: &str,
    asked: impl FnOnce(oneshot::Sender<Result<fleet::Operation, RunError>>) -> Ask,
) -> Option<Result<fleet::Operation, RunError>> {
    let live = controller.operations.get(id)?;
    let (answer, answered) = oneshot::channel();
    live.asks.send(asked(answer)).ok()?;
    answered.await.ok()
}

/// Lets no further host begin.
pub(crate) async fn cancel(
    controller: &Arc<Controller>,
    id: &str,
    by: String,
) -> Result<fleet::Operation, RunError> {
    let id = find(controller, id).await?;
    if let Some(result) = ask(controller, &id, |answer| Ask::Cancel { by: by.clone(), answer }).await {
        return result;
    }
    Driver::load(controller.clone(), &id).await?.cancel(&by).await
}

/// Goes on with what was cancelled, or has stopped.
pub(crate) async fn resume(
    controller: &Arc<Controller>,
    id: &str,
    by: String,
) -> Result<fleet::Operation, RunError> {
    let id = find(controller, id).await?;
    if let Some(result) = ask(controller, &id, |answer| Ask::Resume { by: by.clone(), answer }).await {
        return result;
    }
    let mut driver = Driver::load(controller.clone(), &id).await?;
    let resumed = driver.resume(&by).await?;
    take_on(controller, driver);
    Ok(resumed)
}

/// Deletes the records of operations that ended long ago, or that are too many.
pub(crate) async fn prune(controller: &Controller) -> Result<(), RunError> {
    let mut ended: Vec<(i64, String)> = stored(controller)
        .await?
        .into_iter()
        .filter(|(id, _)| controller.operations.get(id).is_none())
        .filter_map(|(id, record)| Some((record.ended?, id)))
        .collect();
    ended.sort();
    let oldest = clock::now().0.saturating_sub(i64::try_from(KEPT_FOR.as_micros()).unwrap_or(i64::MAX));
    let too_many = ended.len().saturating_sub(KEPT_MAX);
    for (at, (when, id)) in ended.into_iter().enumerate() {
        if at >= too_many && when >= oldest {
            break;
        }
        delete(controller, &id).await?;
    }
    Ok(())
}

async fn delete(controller: &Controller, id: &str) -> Result<(), RunError> {
    let store = &*controller.store;
    // The operation itself goes last: what is left of an interrupted deletion is found again.
    for prefix in [record::members_prefix(id), record::plan_prefix(id), record::operation_key(id)] {
        let records = store.list(&prefix).await?.records;
        for wave in records.chunks(DELETED_MAX) {
            let mut transaction = Transaction::default();
            for (key, _) in wave {
                transaction = transaction.delete_if(key.clone(), Expect::Anything);
            }
            store.commit(transaction).await?;
        }
    }
    Ok(())
}

fn take_on(controller: &Arc<Controller>, driver: Driver) {
    let (asks, inbox) = mpsc::unbounded_channel();
    let id = driver.id().to_owned();
    let live = Live { asks, now: driver.subscribe() };
    controller.operations.live().insert(id.clone(), live);
    let controller = controller.clone();
    tokio::spawn(async move {
        driver.run(inbox).await;
        let mut operations = controller.operations.live();
        // Unless one that was resumed meanwhile has taken its place.
        if operations.get(&id).is_some_and(|live| live.asks.is_closed()) {
            operations.remove(&id);
        }
    });
}

async fn stored(controller: &Controller) -> Result<Vec<(String, OperationRecord)>, RunError> {
    let mut found = Vec::new();
    for (key, stored) in controller.store.list(record::OPERATIONS).await?.records {
        let record = records::decode(&key, &stored)?;
        found.push((key.trim_start_matches(record::OPERATIONS).to_owned(), record));
    }
    Ok(found)
}

/// The operation of this id, or the only one whose id begins so.
async fn find(controller: &Controller, id: &str) -> Result<String, RunError> {
    let plausible = !id.is_empty() && id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !plausible {
        return Err(RunError::NoSuch(id.to_owned()));
    }
    let found = controller.store.list(&record::operation_key(id)).await?.records;
    match &*found {
        [] => Err(RunError::NoSuch(id.to_owned())),
        [(key, _)] => Ok(key.trim_start_matches(record::OPERATIONS).to_owned()),
        _ => Err(RunError::Ambiguous(id.to_owned())),
    }
}
