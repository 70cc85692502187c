//! Opening sled's files: the lock, the left-overs of a crash, the panics at damage, and telling what a caller
//! can do about a refusal.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::disk::{damaged, io_error};
use crate::store::StoreError;

const CACHE_BYTES: u64 = 16 << 20;
/// How sled's refusal reads while another handle of this process is still being closed.
const SLED_LOCKED: &str = "could not acquire lock";
const SLED_ENDS_WITHIN: Duration = Duration::from_secs(10);
const SLED_PAUSE: Duration = Duration::from_millis(5);

/// sled's own lock would do, if its refusal could be told from other errors.
pub(super) fn lock(path: &Path) -> Result<Flock<File>, StoreError> {
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

pub(super) fn open_sled(path: &Path) -> Result<sled::Db, StoreError> {
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

pub(super) fn snapshots(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut snapshots = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            snapshots.push(entry.path());
        }
    }
    Ok(snapshots)
}
