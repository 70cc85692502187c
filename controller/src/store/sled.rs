//! The store on the local disk. Owns durability: one thread takes the transactions that wait, writes them as
//! one batch, forces them to the disk, and only then shows and acknowledges them. Reads come from memory.
//! What it takes to be on the disk is [`disk`]'s, how a record looks there [`form`]'s, opening sled's files
//! [`files`]'.

use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use tokio::sync::{mpsc, oneshot};

use super::claims::Claims;
use super::state::State;
use super::{Change, Claim, Listing, Record, Store, StoreError, Transaction, Watch};

mod disk;
mod files;
mod form;

use disk::Disk;
use form::Scan;

/// Transactions that share one write to the disk at most.
const GROUP_MAX: usize = 1024;
/// Transactions that wait at most; those who come later wait to hand theirs over.
const QUEUE: usize = 4096;

pub(crate) struct SledStore {
    shared: Arc<Shared>,
    claims: Claims,
    queue: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
}

/// What was found in a store's files.
#[derive(Debug)]
pub(crate) struct Inspection {
    /// The records that are whole.
    pub(crate) listing: Listing,
    /// What is wrong, in words; empty for a store that is whole.
    pub(crate) faults: Vec<String>,
}

#[derive(Debug)]
struct Shared {
    state: RwLock<State>,
    failure: RwLock<Option<StoreError>>,
}

struct Job {
    transaction: Transaction,
    answer: oneshot::Sender<Result<u64, StoreError>>,
}

impl SledStore {
    /// Makes an empty store in `path`, which must not be there yet.
    pub(crate) fn create(path: &Path) -> Result<SledStore, StoreError> {
        SledStore::start(path, Disk::create(path)?)
    }

    /// Opens the store in `path`, alone, after it has been found whole.
    pub(crate) fn open(path: &Path) -> Result<SledStore, StoreError> {
        SledStore::start(path, Disk::open(path)?)
    }

    /// Looks at the store in `path`, which nobody may be using, and names all that is wrong with it.
    pub(crate) fn inspect(path: &Path) -> Result<Inspection, StoreError> {
        let Scan { meta, records, faults } = Disk::inspect(path)?;
        let listing = Listing { records: records.into_iter().collect(), revision: meta.revision };
        Ok(Inspection { listing, faults })
    }

    /// Makes a store in `path`, which must not be there yet, of the records of another. All of them get the
    /// revision `revision`.
    pub(crate) fn create_with(path: &Path, listing: &Listing, revision: u64) -> Result<(), StoreError> {
        let (mut disk, _) = Disk::create(path)?;
        for records in listing.records.chunks(GROUP_MAX) {
            let changes: Vec<Change> = records
                .iter()
                .map(|(key, record)| Change {
                    key: key.clone(),
                    record: Some(Record { value: record.value.clone(), revision }),
                    revision,
                })
                .collect();
            disk.write(&changes)?;
        }
        Ok(())
    }

    fn start(path: &Path, (disk, state): (Disk, State)) -> Result<SledStore, StoreError> {
        let shared = Arc::new(Shared { state: RwLock::new(state), failure: RwLock::new(None) });
        let (queue, jobs) = mpsc::channel(QUEUE);
        let writer = Writer { path: path.to_owned(), disk: Some(disk), shared: shared.clone() };
        let writer = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(jobs))
            .map_err(|err| StoreError::Io { path: path.display().to_string(), reason: err.to_string() })?;
        Ok(SledStore { shared, claims: Claims::default(), queue: Some(queue), writer: Some(writer) })
    }
}

impl Drop for SledStore {
    /// Waits until what was handed over is on the disk.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Shared {
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("nothing panics while it holds the records")
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().expect("nothing panics while it holds the records")
    }

    fn set_failure(&self, failure: Option<StoreError>) {
        *self.failure.write().expect("nothing panics while it holds the failure") = failure;
    }
}

impl Store for SledStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Record>, StoreError>> {
        ready(Ok(self.shared.state().get(key))).boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>> {
        ready(Ok(self.shared.state().list(prefix))).boxed()
    }

    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<u64, StoreError>> {
        async move {
            let queue = self.queue.as_ref().ok_or(StoreError::Closed)?;
            let (answer, verdict) = oneshot::channel();
            queue.send(Job { transaction, answer }).await.map_err(|_| StoreError::Closed)?;
            verdict.await.map_err(|_| StoreError::Closed)?
        }
        .boxed()
    }

    fn watch(&self, prefix: &str, after: u64) -> Result<Watch, StoreError> {
        self.shared.state_mut().watch(prefix, after)
    }

    fn claim<'a>(
        &'a self,
        name: &'a str,
        holder: &'a str,
        lease: Duration,
    ) -> BoxFuture<'a, Result<Claim, StoreError>> {
        ready(Ok(self.claims.claim(name, holder, lease))).boxed()
    }

    fn release<'a>(&'a self, name: &'a str, holder: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        self.claims.release(name, holder);
        ready(Ok(())).boxed()
    }

    fn usable(&self) -> Result<(), StoreError> {
        match &*self.shared.failure.read().expect("nothing panics while it holds the failure") {
            Some(failure) => Err(failure.clone()),
            None => Ok(()),
        }
    }
}

struct Writer {
    path: PathBuf,
    /// `None` after a failed write: sled accepts nothing more until it is opened again.
    disk: Option<Disk>,
    shared: Arc<Shared>,
}

impl Writer {
    fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = jobs.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP_MAX {
                match jobs.try_recv() {
                    Ok(job) => group.push(job),
                    Err(_) => break,
                }
            }
            self.write(group);
        }
    }

    fn write(&mut self, group: Vec<Job>) {
        if let Err(error) = self.reopen_if_failed() {
            for job in group {
                let _ = job.answer.send(Err(error.clone()));
            }
            return;
        }
        let mut accepted = Vec::new();
        let mut changes: Vec<Change> = Vec::new();
        {
            let state = self.shared.state();
            let mut staged = state.stage();
            for job in group {
                match staged.add(job.transaction) {
                    Ok(more) => {
                        changes.extend(more);
                        accepted.push((job.answer, staged.revision()));
                    }
                    Err(error) => {
                        let _ = job.answer.send(Err(error));
                    }
                }
            }
        }
        let written = match &mut self.disk {
            Some(disk) if !changes.is_empty() => disk.write(&changes),
            _ => Ok(()),
        };
        match written {
            Ok(()) => self.shared.state_mut().apply(changes),
            Err(error) => self.fail(&error),
        }
        let failure = written_failure(&self.disk, &self.shared);
        for (answer, revision) in accepted {
            let _ = answer.send(failure.clone().map_or(Ok(revision), Err));
        }
    }

    fn fail(&mut self, error: &StoreError) {
        tracing::error!("{error}; the store is opened again with the next write");
        self.disk = None;
        self.shared.set_failure(Some(error.clone()));
    }

    /// After a failure, takes up again what the disk has: at least all that was acknowledged.
    fn reopen_if_failed(&mut self) -> Result<(), StoreError> {
        if self.disk.is_some() {
            return Ok(());
        }
        let (disk, state) = Disk::open(&self.path).inspect_err(|error| {
            self.shared.set_failure(Some(error.clone()));
        })?;
        let mut current = self.shared.state_mut();
        if state.revision() < current.revision() {
            return Err(StoreError::Damaged {
                path: self.path.display().to_string(),
                reason: format!(
                    "it is at revision {} after {} was acknowledged",
                    state.revision(),
                    current.revision()
                ),
            });
        }
        // The watchers of the old state are told to list again.
        *current = state;
        drop(current);
        self.disk = Some(disk);
        self.shared.set_failure(None);
        tracing::info!("the store {} is usable again", self.path.display());
        Ok(())
    }
}

fn written_failure(disk: &Option<Disk>, shared: &Shared) -> Option<StoreError> {
    match disk {
        Some(_) => None,
        None => shared.failure.read().expect("nothing panics while it holds the failure").clone(),
    }
}
