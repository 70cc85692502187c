//! `restore`: a store made of a backup, in place of the one that is there, which is kept beside it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::clock;
use crate::layout::Layout;
use crate::store::StoreError;
use crate::store::sled::SledStore;
use crate::verify;

/// Hosts ignore revisions below those that they have seen, so a restored store begins above all that the one
/// before it can have reached since the backup.
const REVISIONS_AHEAD: u64 = 1 << 32;
const STAGING: &str = "store.restoring";

/// Make the store anew from a backup; the controller must not be running
///
/// The store that is there is kept as store.before-TIME. What is desired of hosts is again what the backup
/// says: hosts carry it out when they link.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: fleetvisor-controller restore --dir /var/lib/fleetvisor --from store.backup"
)]
pub(crate) struct Args {
    /// Directory that `init` made
    #[arg(long)]
    dir: PathBuf,

    /// A file that `backup` made
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
}

pub(crate) fn restore(args: &Args) -> anyhow::Result<()> {
    let store = Layout::new(&args.dir).store();
    if !args.dir.is_dir() {
        let dir = args.dir.display();
        bail!(
            "{dir} is not there: make it with `fleetvisor-controller init --dir {dir}`, or bring back its ca/"
        );
    }
    let listing = verify::read(&args.from)?;
    let faults = verify::faults_of_records(&listing);
    if !faults.is_empty() {
        bail!("the backup {} is damaged: {}", args.from.display(), faults.join("; "));
    }
    if let Err(error @ StoreError::Locked { .. }) = SledStore::inspect(&store) {
        bail!("{error}; stop it first");
    }
    let staging = args.dir.join(STAGING);
    // Left by a restore that was interrupted: complete nowhere.
    remove_if_there(&staging).with_context(|| format!("cannot remove {}", staging.display()))?;
    let revision = listing.revision.saturating_add(REVISIONS_AHEAD);
    SledStore::create_with(&staging, &listing, revision)?;
    let kept = put_in_place(&args.dir, &staging, &store)?;
    println!("{}: {} records, revision {revision}", store.display(), listing.records.len());
    if let Some(kept) = kept {
        println!("{} is the store as it was", kept.display());
    }
    Ok(())
}

/// Where the store that was there has gone.
fn put_in_place(dir: &Path, staging: &Path, store: &Path) -> anyhow::Result<Option<PathBuf>> {
    let kept = dir.join(format!("store.before-{}", clock::now().secs()));
    let moved = match fs::rename(store, &kept) {
        Ok(()) => Some(kept),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            return Err(error).with_context(|| format!("cannot move {} aside", store.display()));
        }
    };
    fs::rename(staging, store).with_context(|| format!("cannot make {}", store.display()))?;
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .with_context(|| format!("cannot write {}", dir.display()))?;
    Ok(moved)
}

fn remove_if_there(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup;
    use crate::store::{Store, Transaction};

    #[tokio::test]
    async fn a_restored_store_has_the_records_of_the_backup_at_a_revision_of_its_own() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().to_owned();
        let path = Layout::new(&dir).store();
        let store = SledStore::create(&path).unwrap();
        for n in 0..5 {
            store.commit(Transaction::default().put(format!("k{n}"), vec![n])).await.unwrap();
        }
        drop(store);
        let file = dir.join("backup");
        let args = backup::Args::for_test(&dir, &file);
        backup::backup(&args).unwrap();
        let store = SledStore::open(&path).unwrap();
        store.commit(Transaction::default().put("k0".to_owned(), vec![99])).await.unwrap();
        let args = Args { dir: dir.clone(), from: file.clone() };
        let error = restore(&args).unwrap_err().to_string();
        assert!(error.contains("in use") && error.contains("stop it first"), "{error}");
        drop(store);
        restore(&args).unwrap();

        let store = SledStore::open(&path).unwrap();
        let listing = store.list("").await.unwrap();
        assert_eq!(listing.records.len(), 5);
        assert_eq!(&*listing.records[0].1.value, &[0]);
        // Above whatever a host can have seen.
        assert!(listing.revision > 1_000_000 && listing.records.iter().all(|(_, r)| r.revision > 1_000_000));
        assert!(
            fs::read_dir(&dir)
                .unwrap()
                .any(|entry| { entry.unwrap().file_name().to_string_lossy().starts_with("store.before-") })
        );
    }

    #[test]
    fn a_damaged_backup_touches_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().to_owned();
        let path = Layout::new(&dir).store();
        drop(SledStore::create(&path).unwrap());
        let file = dir.join("backup");
        backup::backup(&backup::Args::for_test(&dir, &file)).unwrap();
        let mut text = fs::read(&file).unwrap();
        text.truncate(text.len() - 5);
        fs::write(&file, text).unwrap();
        assert!(restore(&Args { dir: dir.clone(), from: file }).is_err());
        drop(SledStore::open(&path).unwrap());
        assert!(!dir.join(STAGING).exists());
    }
}
