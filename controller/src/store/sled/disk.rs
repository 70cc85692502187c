//! sled's files as the store uses them: the form of a record, proof that none is missing, and the steps that
//! sled leaves to its caller (a real sync, left-over snapshots, a panic at opening). No concurrency here.
//!
//! Every record carries a CRC-32. A record of its own holds the revision, how many records there are and the
//! sum of their checksums, and changes with them in one batch: whatever sled lost is noticed at opening.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::store::state::State;
use crate::store::{Change, Record, StoreError};

/// Sorts before, and can be none of, the keys.
const META_KEY: &[u8] = b"\0meta";
const CACHE_BYTES: u64 = 16 << 20;
/// How sled's refusal reads while another handle of this process is still being closed.
const SLED_LOCKED: &str = "could not acquire lock";
const SLED_ENDS_WITHIN: Duration = Duration::from_secs(10);
const SLED_PAUSE: Duration = Duration::from_millis(5);

pub(super) struct Disk {
    path: PathBuf,
    db: sled::Db,
    file: File,
    synced_blobs: HashSet<OsString>,
    meta: Meta,
    _lock: Flock<File>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Meta {
    revision: u64,
    records: u64,
    /// Sum of the checksums of all records.
    digest: u64,
}

impl Disk {
    pub(super) fn create(path: &Path) -> Result<(Disk, State), StoreError> {
        DirBuilder::new().mode(0o700).create(path).map_err(|err| io_error(path, &err))?;
        let lock = lock(path)?;
        let db = open_sled(path)?;
        let mut disk = Disk::new(path, db, lock, Meta::default())?;
        disk.write(&[])?;
        File::open(path).and_then(|dir| dir.sync_all()).map_err(|err| io_error(path, &err))?;
        Ok((disk, State::default()))
    }

    pub(super) fn open(path: &Path) -> Result<(Disk, State), StoreError> {
        if !path.join("db").is_file() {
            return Err(StoreError::Missing { path: path.display().to_string() });
        }
        let lock = lock(path)?;
        let db = open_sled(path)?;
        let (meta, records) = read_all(path, &db)?;
        let disk = Disk::new(path, db, lock, meta)?;
        Ok((disk, State::new(records, meta.revision)))
    }

    fn new(path: &Path, db: sled::Db, lock: Flock<File>, meta: Meta) -> Result<Disk, StoreError> {
        let file = File::open(path.join("db")).map_err(|err| io_error(path, &err))?;
        Ok(Disk { path: path.to_owned(), db, file, synced_blobs: HashSet::new(), meta, _lock: lock })
    }

    /// Writes the changes as one batch. On `Ok` they are on the disk; after an error this must be opened anew.
    pub(super) fn write(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        let mut meta = self.meta;
        let mut latest: BTreeMap<&str, Option<u32>> = BTreeMap::new();
        for change in changes {
            let before = match latest.get(change.key.as_str()) {
                Some(checksum) => *checksum,
                None => self.checksum_of(&change.key)?,
            };
            if let Some(checksum) = before {
                meta.records -= 1;
                meta.digest = meta.digest.wrapping_sub(u64::from(checksum));
            }
            let after = match &change.record {
                Some(record) => {
                    let (bytes, checksum) = encode(&change.key, record);
                    batch.insert(change.key.as_bytes(), bytes);
                    meta.records += 1;
                    meta.digest = meta.digest.wrapping_add(u64::from(checksum));
                    Some(checksum)
                }
                None => {
                    batch.remove(change.key.as_bytes());
                    None
                }
            };
            latest.insert(&change.key, after);
            meta.revision = change.revision;
        }
        batch.insert(META_KEY, meta.encode());
        self.db.apply_batch(batch).map_err(|err| self.error(&err))?;
        self.db.flush().map_err(|err| self.error(&err))?;
        self.sync().map_err(|err| io_error(&self.path, &err))?;
        self.meta = meta;
        Ok(())
    }

    /// sled's flush starts the writing and does not wait for the disk; large pages it keeps in files of their
    /// own, which it never syncs.
    fn sync(&mut self) -> io::Result<()> {
        let blobs = self.path.join("blobs");
        let mut found = HashSet::new();
        for entry in fs::read_dir(&blobs)? {
            let entry = entry?;
            if !self.synced_blobs.contains(&entry.file_name()) {
                match File::open(entry.path()) {
                    Ok(file) => file.sync_all()?,
                    Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
                    Err(err) => return Err(err),
                }
            }
            found.insert(entry.file_name());
        }
        if found != self.synced_blobs {
            File::open(&blobs)?.sync_all()?;
            self.synced_blobs = found;
        }
        self.file.sync_data()
    }

    fn checksum_of(&self, key: &str) -> Result<Option<u32>, StoreError> {
        let bytes = self.db.get(key.as_bytes()).map_err(|err| self.error(&err))?;
        match bytes {
            None => Ok(None),
            Some(bytes) => match decode(key, &bytes) {
                Some((_, checksum)) => Ok(Some(checksum)),
                None => Err(damaged(&self.path, format!("the checksum of {key} is wrong"))),
            },
        }
    }

    fn error(&self, error: &sled::Error) -> StoreError {
        StoreError::Io { path: self.path.display().to_string(), reason: error.to_string() }
    }
}

impl Meta {
    fn encode(self) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        for number in [self.revision, self.records, self.digest] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        let checksum = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Meta> {
        let (checksum, rest) = bytes.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*checksum) != crc32fast::hash(rest) {
            return None;
        }
        let (revision, rest) = rest.split_first_chunk::<8>()?;
        let (records, rest) = rest.split_first_chunk::<8>()?;
        let digest: [u8; 8] = rest.try_into().ok()?;
        Some(Meta {
            revision: u64::from_le_bytes(*revision),
            records: u64::from_le_bytes(*records),
            digest: u64::from_le_bytes(digest),
        })
    }
}

/// `crc32(key, revision, value) | revision | value`, little endian.
fn encode(key: &str, record: &Record) -> (Vec<u8>, u32) {
    let revision = record.revision.to_le_bytes();
    let checksum = checksum(key, &revision, &record.value);
    let mut bytes = Vec::with_capacity(12 + record.value.len());
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(&revision);
    bytes.extend_from_slice(&record.value);
    (bytes, checksum)
}

fn decode(key: &str, bytes: &[u8]) -> Option<(Record, u32)> {
    let (stored, rest) = bytes.split_first_chunk::<4>()?;
    let (revision, value) = rest.split_first_chunk::<8>()?;
    let stored = u32::from_le_bytes(*stored);
    if stored != checksum(key, revision, value) {
        return None;
    }
    Some((Record { value: value.into(), revision: u64::from_le_bytes(*revision) }, stored))
}

fn checksum(key: &str, revision: &[u8; 8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key.as_bytes());
    hasher.update(revision);
    hasher.update(value);
    hasher.finalize()
}

/// Every record, once all of them are known to be there and whole.
fn read_all(path: &Path, db: &sled::Db) -> Result<(Meta, BTreeMap<String, Record>), StoreError> {
    let mut meta = None;
    let mut found = Meta::default();
    let mut records = BTreeMap::new();
    for item in db.iter() {
        let (key, bytes) = item.map_err(|err| damaged(path, err.to_string()))?;
        if &*key == META_KEY {
            meta = Meta::decode(&bytes);
            continue;
        }
        let key =
            String::from_utf8(key.to_vec()).map_err(|_| damaged(path, "a key is not text".to_owned()))?;
        let (record, checksum) =
            decode(&key, &bytes).ok_or_else(|| damaged(path, format!("the checksum of {key} is wrong")))?;
        found.records += 1;
        found.digest = found.digest.wrapping_add(u64::from(checksum));
        found.revision = found.revision.max(record.revision);
        records.insert(key, record);
    }
    let meta = meta.ok_or_else(|| damaged(path, "the record of its revision is missing".to_owned()))?;
    if found.records != meta.records {
        return Err(damaged(
            path,
            format!("{} records are there instead of {}", found.records, meta.records),
        ));
    }
    if found.digest != meta.digest || found.revision > meta.revision {
        return Err(damaged(path, format!("its records are not those of revision {}", meta.revision)));
    }
    Ok((meta, records))
}

/// sled's own lock would do, if its refusal could be told from other errors.
fn lock(path: &Path) -> Result<Flock<File>, StoreError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path.join("lock"))
        .map_err(|err| io_error(path, &err))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => StoreError::Locked { path: path.display().to_string() },
        errno => io_error(path, &errno.into()),
    })
}

fn open_sled(path: &Path) -> Result<sled::Db, StoreError> {
    remove_unfinished_snapshots(path).map_err(|err| io_error(path, &err))?;
    let began = Instant::now();
    loop {
        let reason = match try_open(path) {
            Ok(db) => return Ok(db),
            Err(reason) => reason,
        };
        // The lock of this store is ours: what holds sled's own is a thread of it that has yet to end.
        if matches!(reason, Unopened::Closing(_)) && began.elapsed() < SLED_ENDS_WITHIN {
            std::thread::sleep(SLED_PAUSE);
            continue;
        }
        if let Unopened::Hindered(reason) = reason {
            return Err(StoreError::Io { path: path.display().to_string(), reason });
        }
        // A snapshot only saves work: without one sled reads its whole log.
        tracing::warn!("cannot open the store {}: {reason}; trying without its snapshots", path.display());
        set_snapshots_aside(path).map_err(|err| io_error(path, &err))?;
        return try_open(path).map_err(|reason| damaged(path, reason.to_string()));
    }
}

/// Why sled did not open its files.
#[derive(Debug, thiserror::Error)]
enum Unopened {
    /// Another handle of this process is still being closed.
    #[error("{0}")]
    Closing(String),
    /// Nothing is known to be wrong with the files.
    #[error("{0}")]
    Hindered(String),
    #[error("{0}")]
    Unreadable(String),
}

fn try_open(path: &Path) -> Result<sled::Db, Unopened> {
    let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    // sled panics on some damage.
    let opened = catch_unwind(AssertUnwindSafe(|| config.open()))
        .map_err(|_| Unopened::Unreadable("sled cannot read it".to_owned()))?;
    opened.map_err(|error| match &error {
        sled::Error::Io(io) if io.to_string().contains(SLED_LOCKED) => Unopened::Closing(io.to_string()),
        sled::Error::Io(io) if is_hindrance(io.kind()) => Unopened::Hindered(io.to_string()),
        other => Unopened::Unreadable(other.to_string()),
    })
}

fn is_hindrance(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(kind, PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull)
}

/// A snapshot that a crash left half written makes sled refuse to open.
fn remove_unfinished_snapshots(path: &Path) -> io::Result<()> {
    for snapshot in snapshots(path)? {
        if snapshot.extension().is_some_and(|extension| extension == "generating") {
            fs::remove_file(snapshot)?;
        }
    }
    Ok(())
}

fn set_snapshots_aside(path: &Path) -> io::Result<()> {
    for snapshot in snapshots(path)? {
        let mut aside = OsString::from("aside.");
        aside.push(snapshot.file_name().unwrap_or_default());
        fs::rename(&snapshot, snapshot.with_file_name(aside))?;
    }
    Ok(())
}

fn snapshots(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut snapshots = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            snapshots.push(entry.path());
        }
    }
    Ok(snapshots)
}

fn io_error(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Io { path: path.display().to_string(), reason: error.to_string() }
}

fn damaged(path: &Path, reason: String) -> StoreError {
    StoreError::Damaged { path: path.display().to_string(), reason }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn put(key: &str, value: &str, revision: u64) -> Change {
        let value: Arc<[u8]> = value.as_bytes().into();
        Change { key: key.to_owned(), record: Some(Record { value, revision }), revision }
    }

    fn with_two_records() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let (mut disk, _) = Disk::create(&path).unwrap();
        disk.write(&[put("a", "1", 1), put("b", "2", 1)]).unwrap();
        (dir, path)
    }

    /// Changes a record behind the store's back.
    fn tamper(path: &Path, change: impl FnOnce(&sled::Db)) {
        let db = open_sled(path).unwrap();
        change(&db);
        db.flush().unwrap();
    }

    fn reason(path: &Path) -> String {
        match Disk::open(path).map(|_| ()) {
            Err(error @ StoreError::Damaged { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_record_that_vanished_is_noticed() {
        let (_dir, path) = with_two_records();
        tamper(&path, |db| drop(db.remove("a").unwrap()));
        assert!(reason(&path).contains("1 records are there instead of 2"));
    }

    #[test]
    fn a_record_that_changed_is_named() {
        let (_dir, path) = with_two_records();
        tamper(&path, |db| {
            let mut bytes = db.get("b").unwrap().unwrap().to_vec();
            *bytes.last_mut().unwrap() ^= 1;
            db.insert("b", bytes).unwrap();
        });
        assert!(reason(&path).contains("the checksum of b is wrong"));
    }

    #[test]
    fn an_old_version_of_a_record_is_noticed() {
        let (_dir, path) = with_two_records();
        let (mut disk, _) = Disk::open(&path).unwrap();
        let old = disk.db.get("b").unwrap().unwrap();
        disk.write(&[put("b", "3", 2)]).unwrap();
        drop(disk);
        tamper(&path, |db| drop(db.insert("b", old).unwrap()));
        assert!(reason(&path).contains("not those of revision 2"));
    }

    #[test]
    fn a_left_over_snapshot_is_no_obstacle() {
        let (_dir, path) = with_two_records();
        fs::write(path.join("snap.0000000000000000.generating"), "half").unwrap();
        let (_disk, state) = Disk::open(&path).unwrap();
        assert_eq!(state.revision(), 1);
    }

    #[test]
    fn a_damaged_snapshot_is_set_aside() {
        let (_dir, path) = with_two_records();
        for snapshot in snapshots(&path).unwrap() {
            fs::remove_file(snapshot).unwrap();
        }
        fs::write(path.join("snap.0000000000000000"), "garbage").unwrap();
        let (_disk, state) = Disk::open(&path).unwrap();
        assert_eq!(state.get("a").unwrap().value.as_ref(), b"1");
    }

    #[test]
    fn two_controllers_cannot_share_a_store() {
        let (_dir, path) = with_two_records();
        let _first = Disk::open(&path).unwrap();
        assert!(matches!(Disk::open(&path), Err(StoreError::Locked { .. })));
    }

    #[test]
    fn one_record_written_twice_in_a_batch_counts_once() {
        let (_dir, path) = with_two_records();
        let (mut disk, _) = Disk::open(&path).unwrap();
        let delete = Change { key: "a".to_owned(), record: None, revision: 4 };
        disk.write(&[put("c", "1", 2), put("c", "2", 3), delete]).unwrap();
        drop(disk);
        let (_disk, state) = Disk::open(&path).unwrap();
        assert_eq!(state.revision(), 4);
        assert_eq!(state.list("").records.len(), 2);
    }

    #[test]
    fn records_too_large_for_a_page_survive_a_reopening() {
        let (_dir, path) = with_two_records();
        let (mut disk, _) = Disk::open(&path).unwrap();
        let large = "x".repeat(crate::store::VALUE_MAX);
        disk.write(&[put("large", &large, 2)]).unwrap();
        drop(disk);
        let (_disk, state) = Disk::open(&path).unwrap();
        assert_eq!(state.get("large").unwrap().value.len(), large.len());
    }
}
