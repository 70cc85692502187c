//! The store's files at work: writing a batch so that it is on the disk, which takes more than sled does (a real
//! sync, also of its large pages), and finding at opening whether anything is missing. No concurrency here.
//!
//! Beside sled's files lies `revision`, the last revision that was acknowledged. It is written after each
//! sync, and not synced itself: after a power cut it may be behind, never ahead. Records that say less than it
//! does are not the ones that were acknowledged, whole as they may look.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;

use super::files::{lock, open_sled};
use super::form::{self, META_KEY, Meta, Scan, encode};
use crate::store::state::State;
use crate::store::{Change, StoreError};

const WITNESS: &str = "revision";
/// Faults that an error names; `verify` names all.
const FAULTS_NAMED: usize = 3;

pub(super) struct Disk {
    path: PathBuf,
    db: sled::Db,
    file: File,
    witness: File,
    synced_blobs: HashSet<OsString>,
    meta: Meta,
    _lock: Flock<File>,
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
        let Scan { meta, records, faults } = scan(path, &db)?;
        if !faults.is_empty() {
            let more = faults.len().saturating_sub(FAULTS_NAMED);
            let mut reason = faults[..faults.len() - more].join("; ");
            if more > 0 {
                reason.push_str(&format!("; and {more} more (fleetvisor-controller verify names them)"));
            }
            return Err(damaged(path, reason));
        }
        let disk = Disk::new(path, db, lock, meta)?;
        Ok((disk, State::new(records, meta.revision)))
    }

    fn new(path: &Path, db: sled::Db, lock: Flock<File>, meta: Meta) -> Result<Disk, StoreError> {
        let file = File::open(path.join("db")).map_err(|err| io_error(path, &err))?;
        let witness = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join(WITNESS))
            .map_err(|err| io_error(path, &err))?;
        let synced_blobs = HashSet::new();
        Ok(Disk { path: path.to_owned(), db, file, witness, synced_blobs, meta, _lock: lock })
    }

    /// Looks at a store that nobody uses and names all that is wrong with it.
    pub(super) fn inspect(path: &Path) -> Result<Scan, StoreError> {
        if !path.join("db").is_file() {
            return Err(StoreError::Missing { path: path.display().to_string() });
        }
        let _lock = lock(path)?;
        scan(path, &open_sled(path)?)
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
        if let Err(error) = self.witness.write_all_at(&meta.revision.to_le_bytes(), 0) {
            // The records are on the disk all the same.
            tracing::warn!("cannot write {}: {error}", self.path.join(WITNESS).display());
        }
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
            Some(bytes) => match form::decode(key, &bytes) {
                Some((_, checksum)) => Ok(Some(checksum)),
                None => Err(damaged(&self.path, format!("the checksum of {key} is wrong"))),
            },
        }
    }

    fn error(&self, error: &sled::Error) -> StoreError {
        StoreError::Io { path: self.path.display().to_string(), reason: error.to_string() }
    }
}

fn scan(path: &Path, db: &sled::Db) -> Result<Scan, StoreError> {
    let mut scan = form::scan(db.iter());
    let acknowledged = match fs::read(path.join(WITNESS)) {
        Ok(bytes) => bytes.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => 0,
        Err(err) => return Err(io_error(path, &err)),
    };
    if acknowledged > scan.meta.revision {
        scan.faults.push(format!(
            "it is at revision {}, and revision {acknowledged} was acknowledged: what came after {} is lost",
            scan.meta.revision, scan.meta.revision
        ));
    }
    Ok(scan)
}

pub(super) fn io_error(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Io { path: path.display().to_string(), reason: error.to_string() }
}

pub(super) fn damaged(path: &Path, reason: String) -> StoreError {
    StoreError::Damaged { path: path.display().to_string(), reason }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::files::snapshots;
    use super::*;
    use crate::store::Record;

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
        assert!(reason(&path).contains("1 whole records are there instead of 2"));
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
    fn an_old_state_that_is_whole_is_noticed() {
        let (dir, path) = with_two_records();
        let copy = dir.path().join("copy");
        fs::create_dir(&copy).unwrap();
        for entry in fs::read_dir(&path).unwrap().map(Result::unwrap) {
            if entry.path().is_file() {
                fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
            }
        }
        fs::create_dir(copy.join("blobs")).unwrap();
        let (mut disk, _) = Disk::open(&path).unwrap();
        disk.write(&[put("c", "3", 2)]).unwrap();
        drop(disk);
        assert_eq!(Disk::open(&copy).unwrap().1.revision(), 1);
        fs::copy(path.join(WITNESS), copy.join(WITNESS)).unwrap();
        assert!(reason(&copy).contains("revision 2 was acknowledged"));
    }

    #[test]
    fn an_inspection_names_every_fault() {
        let (_dir, path) = with_two_records();
        tamper(&path, |db| {
            for key in ["a", "b"] {
                db.insert(key, b"not a record at all".as_slice()).unwrap();
            }
        });
        let faults = Disk::inspect(&path).unwrap().faults;
        let expected = [
            "the checksum of a is wrong",
            "the checksum of b is wrong",
            "0 whole records are there instead of 2",
        ];
        assert_eq!(faults, expected);
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
