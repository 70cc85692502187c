//! The store on the local disk. Owns durability: one thread takes the transactions that wait, writes them as
//! one batch, forces them to the disk, and only then shows and acknowledges them. Whoever comes while nobody writes
//! writes by itself, which saves handing over and back. Reads come from memory.
//! What it takes to be on the disk is [`disk`]'s, how a record looks there [`form`]'s, opening sled's files
//! [`files`]'.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use tokio::runtime::{Handle, RuntimeFlavor};
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
    writer: Arc<Mutex<Writer>>,
    thread: Option<JoinHandle<()>>,
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
        let writer = Arc::new(Mutex::new(writer));
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn({
                let writer = writer.clone();
                move || run(&writer, jobs)
            })
            .map_err(|err| StoreError::Io { path: path.display().to_string(), reason: err.to_string() })?;
        Ok(SledStore { shared, claims: Claims::default(), queue: Some(queue), writer, thread: Some(thread) })
    }

    /// The writer, where it is idle and this thread may wait for the disk.
    fn idle_writer(&self) -> Option<MutexGuard<'_, Writer>> {
        let queue = self.queue.as_ref()?;
        let may_wait =
            Handle::try_current().is_ok_and(|it| it.runtime_flavor() == RuntimeFlavor::MultiThread);
        if !may_wait || queue.capacity() < QUEUE {
            return None;
        }
        self.writer.try_lock().ok()
    }
}

impl Drop for SledStore {
    /// Waits until what was handed over is on the disk.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
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
            let (answer, mut verdict) = oneshot::channel();
            let job = Job { transaction, answer };
            if let Some(mut writer) = self.idle_writer() {
                tokio::task::block_in_place(|| writer.write(vec![job]));
                drop(writer);
                return verdict.try_recv().map_err(|_| StoreError::Closed)?;
            }
            queue.send(job).await.map_err(|_| StoreError::Closed)?;
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

/// The thread: whatever waits is written together.
fn run(writer: &Mutex<Writer>, mut jobs: mpsc::Receiver<Job>) {
    while let Some(first) = jobs.blocking_recv() {
        let mut writer = writer.lock().expect("nothing panics while it writes");
        let mut group = vec![first];
        while group.len() < GROUP_MAX {
            match jobs.try_recv() {
                Ok(job) => group.push(job),
                Err(_) => break,
            }
        }
        writer.write(group);
    }
}

impl Writer {
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// `FLEETVISOR_WRITES=20000` for figures worth reading.
    fn writes() -> usize {
        std::env::var("FLEETVISOR_WRITES").ok().and_then(|number| number.parse().ok()).unwrap_or(200)
    }

    fn put(number: usize) -> Transaction {
        let value = format!("{{\"run\":\"started\",\"number\":{number}}}").into_bytes();
        Transaction::default().put(format!("desired/host-{:05}/web:web", number % 5_000), value)
    }

    fn rate(what: &str, count: usize, begin: Instant) {
        println!("{what}: {:.0} durable writes a second", count as f64 / begin.elapsed().as_secs_f64());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_write_is_on_the_disk_whoever_writes_it() {
        let (dir, count) = (tempfile::tempdir().unwrap(), writes());
        let bare = sled::open(dir.path().join("bare")).unwrap();
        let file = std::fs::File::open(dir.path().join("bare/db")).unwrap();
        let begin = Instant::now();
        for number in 0..count {
            bare.insert(number.to_be_bytes(), vec![7; 40]).unwrap();
            bare.flush().unwrap();
            file.sync_data().unwrap();
        }
        rate("sled and fdatasync", count, begin);

        let path = dir.path().join("store");
        let store = Arc::new(SledStore::create(&path).unwrap());
        let begin = Instant::now();
        // As the controller's tasks do; a test's own is no worker's.
        let alone = tokio::spawn({
            let store = store.clone();
            async move {
                for number in 0..count {
                    store.commit(put(number)).await.unwrap();
                }
            }
        });
        alone.await.unwrap();
        rate("one at a time", count, begin);

        let begin = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..64 {
            let store = store.clone();
            tasks.spawn(async move {
                for number in 0..count {
                    store.commit(put(task * count + number)).await.unwrap();
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        rate("64 at a time", 64 * count, begin);

        let before = store.list("").await.unwrap();
        assert_eq!(before.revision, 65 * count as u64);
        drop(Arc::into_inner(store).unwrap());
        let again = SledStore::open(&path).unwrap().list("").await.unwrap();
        assert_eq!(again, before);
    }
}
