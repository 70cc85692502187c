//! `backup`: the store's records as one file. From the files of a controller that is stopped; one that runs is
//! asked for them, as the administrator whose identity lies in its directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use fleetvisor_proto::fleet::BackupRequest;
use fleetvisor_proto::fleet::fleet_client::FleetClient;
use fleetvisor_proto::identity::Identity;
use fleetvisor_proto::tls;

use crate::layout::Layout;
use crate::store::sled::SledStore;
use crate::store::{StoreError, backup};
use crate::verify;

/// Write the store's records to a file, also while the controller runs
///
/// The certificate authority (ca/ in the controller's directory) is not part of it: keep a copy of that once.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  fleetvisor-controller backup --dir /var/lib/fleetvisor --to store.backup
  fleetvisor-controller backup --dir DIR --to FILE --controller 127.0.0.1:7443")]
pub(crate) struct Args {
    /// Directory that `init` made
    #[arg(long)]
    dir: PathBuf,

    /// File to write; one that is there is replaced once the new one is whole
    #[arg(long, value_name = "FILE")]
    to: PathBuf,

    /// Where the controller listens, asked if it is running
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7443")]
    controller: String,
}

impl Args {
    #[cfg(test)]
    pub(crate) fn for_test(dir: &Path, to: &Path) -> Args {
        Args { dir: dir.to_owned(), to: to.to_owned(), controller: String::new() }
    }
}

pub(crate) fn backup(args: &Args) -> anyhow::Result<()> {
    let layout = Layout::new(&args.dir);
    let mut new = args.to.clone().into_os_string();
    new.push(".new");
    let new = PathBuf::from(new);
    let written = match SledStore::inspect(&layout.store()) {
        Ok(inspection) if inspection.faults.is_empty() => {
            write(&new, |file| backup::lines(inspection.listing).try_for_each(|line| file.write_all(&line)))
        }
        Ok(inspection) => bail!(
            "the store {} is damaged: {}; a backup of it would hide that",
            layout.store().display(),
            inspection.faults.join("; ")
        ),
        Err(StoreError::Locked { .. }) => ask(args, &layout, &new),
        Err(error) => return Err(error.into()),
    };
    let finished = written.and_then(|()| {
        // Read back before it takes the place of an older one.
        let listing = verify::read(&new)?;
        fs::rename(&new, &args.to).with_context(|| format!("cannot make {}", args.to.display()))?;
        Ok(listing)
    });
    let listing = finished.inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })?;
    println!("{}: {} records, revision {}", args.to.display(), listing.records.len(), listing.revision);
    Ok(())
}

fn ask(args: &Args, layout: &Layout, new: &Path) -> anyhow::Result<()> {
    let identity = Identity::load(&layout.admin())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let channel = tls::dial(&args.controller, tls::client_config(&identity)?)
            .await
            .with_context(|| format!("the controller runs, and does not answer at {}", args.controller))?;
        let answer = FleetClient::new(channel).backup(BackupRequest {}).await;
        let mut chunks = answer.map_err(refused)?.into_inner();
        let mut file = BufWriter::new(create(new)?);
        while let Some(chunk) = chunks.message().await.map_err(refused)? {
            file.write_all(&chunk.text)?;
        }
        sync(file).with_context(|| format!("cannot write {}", new.display()))
    })
}

fn refused(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("the controller says: {}", status.message())
}

fn write(new: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<()> {
    let mut file = BufWriter::new(create(new)?);
    content(&mut file).and_then(|()| sync(file)).with_context(|| format!("cannot write {}", new.display()))
}

fn create(new: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(new)
        .with_context(|| format!("cannot make {}", new.display()))
}

fn sync(file: BufWriter<File>) -> io::Result<()> {
    file.into_inner()?.sync_all()
}
