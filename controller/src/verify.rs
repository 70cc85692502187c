//! `verify`: whether a store, or a backup of one, is whole. It names all that is wrong, and repairs nothing.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use anyhow::{Context, bail};
use fleetvisor_proto::audit::Head;

use crate::audit::read::base_of;
use crate::audit::{self, AUDIT, BASE, archive};
use crate::layout::Layout;
use crate::records;
use crate::store::sled::{Inspection, SledStore};
use crate::store::{Listing, backup};

/// Check that the store of a stopped controller, or a backup, is whole
///
/// Exits with 0 if it is, and with 1 after naming what is wrong.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  fleetvisor-controller verify --dir /var/lib/fleetvisor
  fleetvisor-controller verify --backup store.backup")]
pub(crate) struct Args {
    /// Directory that `init` made; its controller must not be running
    #[arg(long, required_unless_present = "backup", conflicts_with = "backup")]
    dir: Option<PathBuf>,

    /// A file that `backup` made
    #[arg(long, value_name = "FILE")]
    backup: Option<PathBuf>,
}

pub(crate) fn verify(args: &Args) -> anyhow::Result<()> {
    let (what, Inspection { listing, mut faults }) = match (&args.dir, &args.backup) {
        (Some(dir), _) => {
            let path = Layout::new(dir).store();
            (path.clone(), SledStore::inspect(&path)?)
        }
        (None, Some(file)) => (file.clone(), Inspection { listing: read(file)?, faults: Vec::new() }),
        (None, None) => bail!("what? --dir or --backup"),
    };
    let what = what.display();
    faults.extend(faults_of_records(&listing));
    let base = listing.records.iter().find(|(key, _)| key == BASE).map(|(_, record)| base_of(record));
    let base = base.transpose()?.unwrap_or(Head::START);
    let audit = audit::read::verify(base, &prefixed(&listing, AUDIT));
    if let Err(error) = &audit {
        faults.push(error.to_string());
    }
    let archive = args.dir.as_ref().map(|dir| Layout::new(dir).audit());
    let archived = archive.as_ref().map(|archive| archive::verify(archive, base)).transpose();
    if let Err(error) = &archived {
        faults.push(format!("the archived part of the audit log is not whole: {error}"));
    }
    for fault in &faults {
        eprintln!("{what}: {fault}");
    }
    if !faults.is_empty() {
        let plural = if faults.len() == 1 { "" } else { "s" };
        bail!("{what} is damaged: {} fault{plural}; restore it from a backup", faults.len());
    }
    println!("{what} is whole: {} records, revision {}", listing.records.len(), listing.revision);
    if let Ok(head) = audit {
        println!("the audit log in it is whole, up to {head}");
    }
    if let (Some(archive), Ok(Some(count @ 1..))) = (archive, archived) {
        println!("{} is whole: {count} audit records, up to {base}", archive.display());
    }
    Ok(())
}

/// A backup, once it is known to be whole.
pub(crate) fn read(file: &PathBuf) -> anyhow::Result<Listing> {
    let open = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    backup::read(BufReader::new(open)).with_context(|| format!("the backup {}", file.display()))
}

fn prefixed(listing: &Listing, prefix: &str) -> Listing {
    let records = listing.records.iter().filter(|(key, _)| key.starts_with(prefix)).cloned().collect();
    Listing { records, revision: listing.revision }
}

/// Records whose bytes are as they were written, and that make no sense all the same.
pub(crate) fn faults_of_records(listing: &Listing) -> Vec<String> {
    let checked = listing.records.iter().map(|(key, record)| records::check(key, record));
    checked.filter_map(Result::err).map(|error| error.to_string()).collect()
}
