//! Old audit records, in files beside the store: the store, which holds its records in memory, keeps the latest, and
//! the chain goes on through both. A file has a fixed number of records and never changes; it is on the disk before
//! its records leave the store, and where the store's part begins changes with them in one transaction.
//!
//! ```text
//! fleetvisor-audit 1 0:0000...      the place that its first record follows
//! 1:5a0c... {"at":...}              a record: its place, its payload
//! ```

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fleetvisor_proto::audit::{Broken, Head};

use super::{AUDIT, Audit, BASE, decode, read};
use crate::records;
use crate::store::{Expect, Listing, Store, StoreError, Transaction};

/// Records that the store keeps at least.
const KEPT: u64 = 50_000;
/// Records of a file.
pub(super) const TOGETHER: u64 = 10_000;
const HEAD: &str = "fleetvisor-audit 1 ";
const SUFFIX: &str = ".audit";
/// A payload is a record of the store.
const LINE_MAX: u64 = 2 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{path} is there with other records: was the store restored from a backup? Move the file elsewhere"
    )]
    Different { path: PathBuf },
    #[error("{path}: {broken}")]
    Broken { path: PathBuf, broken: Broken },
    #[error("{path}, line {line}: no audit record")]
    Line { path: PathBuf, line: usize },
    #[error("{path} ends with record {end}, and what follows begins behind {next}")]
    Gap { path: PathBuf, end: Head, next: Head },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Audit(#[from] read::AuditError),
}

/// Archives whenever there is enough, for as long as the controller runs.
pub(crate) async fn keep_bounded(audit: &Audit, store: Arc<dyn Store>, dir: PathBuf) {
    loop {
        match archive(&store, &dir, KEPT, TOGETHER).await {
            Ok(0) => {}
            Ok(count) => tracing::info!("{count} audit records are in {} now", dir.display()),
            Err(error) => tracing::error!("cannot archive audit records: {error}"),
        }
        audit.filled().await;
    }
}

/// Moves the oldest records to files of `together`, down to `kept` and something; how many.
async fn archive(store: &Arc<dyn Store>, dir: &Path, kept: u64, together: u64) -> Result<u64, ArchiveError> {
    let mut moved = 0;
    loop {
        let base = read::base(&**store).await?;
        let head = read::head(&**store).await?;
        if head.seq.saturating_sub(base.seq) < kept + together {
            return Ok(moved);
        }
        // Its numbers are without gaps, so these are all of them.
        let mut listing = store.list(AUDIT).await?;
        listing.records.truncate(usize::try_from(together).unwrap_or(usize::MAX));
        let end = read::verify(base, &listing)?;
        let (path, text) = file(dir, base, &listing);
        let written = tokio::task::spawn_blocking(move || write(&path, &text)).await;
        written.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))?;
        let mut transaction = Transaction::default().put(BASE.to_owned(), records::encode(&end.to_string()));
        for (key, record) in listing.records {
            transaction = transaction.delete_if(key, Expect::Revision(record.revision));
        }
        store.commit(transaction).await?;
        moved += together;
    }
}

/// Its path and its text.
fn file(dir: &Path, base: Head, listing: &Listing) -> (PathBuf, Vec<u8>) {
    let mut text = format!("{HEAD}{base}\n").into_bytes();
    for (key, record) in &listing.records {
        let Some((head, payload)) = decode(key, record) else { continue };
        text.extend(format!("{head} ").into_bytes());
        text.extend(payload);
        text.push(b'\n');
    }
    (dir.join(format!("{:020}{SUFFIX}", base.seq + 1)), text)
}

/// On the disk when this returns. What is there already is not touched.
fn write(path: &Path, text: &[u8]) -> Result<(), ArchiveError> {
    let failed = |source| ArchiveError::Io { path: path.to_owned(), source };
    match fs::read(path) {
        Ok(there) if there == text => return Ok(()),
        Ok(_) => return Err(ArchiveError::Different { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let new = path.with_extension("new");
    let write = || {
        let dir = path.parent().unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(failed)
}

/// Checks the files in `dir`, and that the store's part, which begins behind `base`, follows them. Files may be kept
/// elsewhere, the oldest first. How many records there are in files that are whole.
pub(crate) fn verify(dir: &Path, base: Head) -> Result<u64, ArchiveError> {
    let failed = |source| ArchiveError::Io { path: dir.to_owned(), source };
    let mut paths = Vec::new();
    match fs::read_dir(dir) {
        Ok(entries) => {
            for entry in entries {
                paths.push(entry.map_err(failed)?.path());
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    paths.retain(|path| path.to_string_lossy().ends_with(SUFFIX));
    paths.sort();
    let mut last: Option<(PathBuf, Head)> = None;
    let mut count = 0;
    for path in paths {
        let (begin, end) = verify_file(&path)?;
        if let Some((path, end)) = last.filter(|(_, end)| *end != begin) {
            return Err(ArchiveError::Gap { path, end, next: begin });
        }
        count += end.seq - begin.seq;
        last = Some((path, end));
    }
    match last {
        Some((path, end)) if end != base => Err(ArchiveError::Gap { path, end, next: base }),
        _ => Ok(count),
    }
}

/// The place that its first record follows, and that of its last.
fn verify_file(path: &Path) -> Result<(Head, Head), ArchiveError> {
    let failed = |source| ArchiveError::Io { path: path.to_owned(), source };
    let mut lines = BufReader::new(File::open(path).map_err(failed)?);
    let mut ends: Option<(Head, Head)> = None;
    let mut number = 0;
    loop {
        let mut line = Vec::new();
        (&mut lines).take(LINE_MAX).read_until(b'\n', &mut line).map_err(failed)?;
        number += 1;
        let no_record = || ArchiveError::Line { path: path.to_owned(), line: number };
        match &mut ends {
            _ if line.is_empty() => return ends.ok_or_else(no_record),
            None => {
                let place =
                    std::str::from_utf8(&line).ok().and_then(|line| line.trim_end().strip_prefix(HEAD));
                let begin: Head = place.and_then(|place| place.parse().ok()).ok_or_else(no_record)?;
                ends = Some((begin, begin));
            }
            Some((_, head)) => {
                let line = line.strip_suffix(b"\n").ok_or_else(no_record)?;
                let space = line.iter().position(|byte| *byte == b' ').ok_or_else(no_record)?;
                let (place, payload) = (&line[..space], &line[space + 1..]);
                let place: Option<Head> =
                    std::str::from_utf8(place).ok().and_then(|place| place.parse().ok());
                let place = place.ok_or_else(no_record)?;
                let broken = |broken| ArchiveError::Broken { path: path.to_owned(), broken };
                head.follow(place.seq, &place.hash, payload).map_err(broken)?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Entry;
    use crate::store::memory::MemoryStore;

    async fn filled(count: usize) -> Arc<dyn Store> {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        more(&store, count).await;
        store
    }

    async fn more(store: &Arc<dyn Store>, count: usize) {
        let audit = Audit::new(store.clone());
        for number in 0..count {
            audit.record(Entry::new("operator alice", "host.label", format!("web-{number}"))).await.unwrap();
        }
    }

    #[tokio::test]
    async fn the_chain_goes_on_through_files_and_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = filled(29).await;
        assert_eq!(archive(&store, dir.path(), 10, 10).await.unwrap(), 10);
        assert_eq!(archive(&store, dir.path(), 10, 10).await.unwrap(), 0);
        more(&store, 13).await;
        assert_eq!(archive(&store, dir.path(), 10, 10).await.unwrap(), 20);
        let (base, listing) = (read::base(&*store).await.unwrap(), store.list(AUDIT).await.unwrap());
        assert_eq!((base.seq, listing.records.len()), (30, 12));
        assert_eq!(read::verify(base, &listing).unwrap().seq, 42);
        assert_eq!(verify(dir.path(), base).unwrap(), 30);

        // The oldest may be kept elsewhere, but not one in the middle.
        fs::remove_file(dir.path().join(format!("{:020}{SUFFIX}", 1))).unwrap();
        assert_eq!(verify(dir.path(), base).unwrap(), 20);
        fs::remove_file(dir.path().join(format!("{:020}{SUFFIX}", 21))).unwrap();
        assert!(verify(dir.path(), base).unwrap_err().to_string().contains("ends with record 20:"));
    }

    #[tokio::test]
    async fn an_archiving_that_was_interrupted_is_done_again_and_another_history_is_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let store = filled(20).await;
        let mut listing = store.list(AUDIT).await.unwrap();
        listing.records.truncate(10);
        let (path, text) = file(dir.path(), Head::START, &listing);
        write(&path, &text).unwrap();
        assert_eq!(archive(&store, dir.path(), 10, 10).await.unwrap(), 10);

        let another = filled(20).await;
        let error = archive(&another, dir.path(), 10, 10).await.unwrap_err();
        assert!(matches!(error, ArchiveError::Different { .. }), "{error}");
        assert_eq!(another.list(AUDIT).await.unwrap().records.len(), 20);
    }

    #[tokio::test]
    async fn a_file_that_was_changed_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = filled(10).await;
        archive(&store, dir.path(), 0, 10).await.unwrap();
        let base = read::base(&*store).await.unwrap();
        let path = dir.path().join(format!("{:020}{SUFFIX}", 1));
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("web-4", "web-5")).unwrap();
        let error = verify(dir.path(), base).unwrap_err().to_string();
        assert!(error.contains("record 5 is not what was written"), "{error}");
        fs::write(&path, &text[..text.len() - 5]).unwrap();
        assert!(matches!(verify(dir.path(), base), Err(ArchiveError::Line { line: 11, .. })));
    }
}
