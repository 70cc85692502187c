//! What there is to see of bundles: all of them, one with its hosts, its history; and the programs that a host has
//! of its own, to make a bundle of.

use std::sync::Arc;
use std::time::Duration;

use fleetvisor_proto::fleet::{
    BundleFile, BundleInfo, BundleRevision, HostBundle, HostBundleState, LocalConfig, ShownBundle,
};
use tokio::time::timeout;

use super::catalog::{BundleError, Known, content};
use super::diff::hide;
use super::record::Revision;
use crate::controller::Controller;
use crate::registry::Host;

/// How long a host may take to gather its own configuration.
const PULL: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub(crate) enum ViewError {
    #[error("there is no bundle {0}")]
    Unknown(String),
    #[error("bundle {name} has no revision {revision} that is kept")]
    UnknownRevision { name: String, revision: u64 },
    #[error("there is no host {0}")]
    UnknownHost(String),
    #[error("host {0} is away: it can be asked when it is back")]
    Away(String),
    #[error("host {host} did not answer within {} s", PULL.as_secs())]
    Silent { host: String },
    #[error("host {host}: {reason}")]
    Local { host: String, reason: String },
    #[error("the system's random source failed: {0}")]
    Random(#[from] getrandom::Error),
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// Those that were not deleted.
pub(super) fn list(controller: &Controller) -> Vec<BundleInfo> {
    let hosts = controller.registry.all();
    let all = controller.bundles.all().into_iter();
    all.filter(|known| known.latest().is_some_and(|latest| !latest.revision.is_deleted()))
        .map(|known| info(&known, &hosts))
        .collect()
}

/// A revision with its files, 0 for the latest, and the hosts that should have the bundle or still do.
pub(super) async fn show(
    controller: &Controller,
    name: &str,
    revision: u64,
    reveal: bool,
) -> Result<ShownBundle, ViewError> {
    let known = find(controller, name)?;
    let number = if revision == 0 { known.head.revision } else { revision };
    let kept = known.revisions.get(&number);
    let kept = kept.ok_or_else(|| ViewError::UnknownRevision { name: name.to_owned(), revision: number })?;
    let files = match kept.revision.is_deleted() {
        true => Vec::new(),
        false => content(&*controller.store, name, &kept.revision).await?.files,
    };
    let hidden = |file: BundleFile| match reveal {
        true => file,
        false => BundleFile { text: hide(&String::from_utf8_lossy(&file.text)).into_bytes(), ..file },
    };
    let all = controller.registry.all();
    let hosts = states(&known, &all);
    Ok(ShownBundle {
        info: Some(info(&known, &all)),
        revision: Some(wire(&kept.revision)),
        files: files.into_iter().map(hidden).collect(),
        hosts,
    })
}

/// The latest first.
pub(super) fn history(controller: &Controller, name: &str) -> Result<Vec<BundleRevision>, ViewError> {
    let known = find(controller, name)?;
    Ok(known.revisions.values().rev().map(|kept| wire(&kept.revision)).collect())
}

pub(super) async fn pull(controller: &Controller, name: &str) -> Result<LocalConfig, ViewError> {
    let hosts = controller.registry.all();
    let host = hosts.iter().find(|host| host.name == name);
    let host = host.ok_or_else(|| ViewError::UnknownHost(name.to_owned()))?;
    let id = format!("{:016x}", getrandom::u64()?);
    let answer = host.told.ask(host, id).ok_or_else(|| ViewError::Away(name.to_owned()))?;
    let local = match timeout(PULL, answer).await {
        Ok(Ok(local)) => local,
        Ok(Err(_)) => return Err(ViewError::Away(name.to_owned())),
        Err(_) => return Err(ViewError::Silent { host: name.to_owned() }),
    };
    match local.error.is_empty() {
        true => Ok(local),
        false => Err(ViewError::Local { host: name.to_owned(), reason: local.error }),
    }
}

fn find(controller: &Controller, name: &str) -> Result<Arc<Known>, ViewError> {
    controller.bundles.get(name).ok_or_else(|| ViewError::Unknown(name.to_owned()))
}

fn states(known: &Known, hosts: &[Arc<Host>]) -> Vec<HostBundleState> {
    let state = |host: &Arc<Host>| {
        let desired = known.on(&host.name, &host.labels()).map_or(0, |kept| kept.revision.revision);
        let said = host.told.state(&known.name).unwrap_or_default();
        let bundle = HostBundle {
            name: known.name.clone(),
            desired,
            revision: said.revision,
            failed_revision: said.failed_revision,
            reason: said.reason,
        };
        let is_on_its_way = known.finally_on(&host.name, &host.labels()).is_some();
        let concerns = is_on_its_way || desired > 0 || said.revision > 0 || said.failed_revision > 0;
        concerns.then(|| HostBundleState {
            host: host.name.clone(),
            state: host.describe().state,
            bundle: Some(bundle),
        })
    };
    hosts.iter().filter_map(state).collect()
}

fn info(known: &Known, hosts: &[Arc<Host>]) -> BundleInfo {
    let latest = known.latest().map(|kept| &kept.revision);
    let mut info = BundleInfo {
        name: known.name.clone(),
        revision: latest.map(wire),
        settled: known.head.settled,
        operation: latest.map(|latest| latest.operation.clone()).unwrap_or_default(),
        ..BundleInfo::default()
    };
    let number = known.head.revision;
    for host in hosts.iter().filter(|host| known.finally_on(&host.name, &host.labels()).is_some()) {
        let said = host.told.state(&known.name).unwrap_or_default();
        info.hosts += 1;
        match (said.failed_revision, said.revision) {
            (failed, _) if failed >= number => info.failed += 1,
            (_, revision) if revision >= number => info.applied += 1,
            (_, _) => info.pending += 1,
        }
    }
    info
}

fn wire(revision: &Revision) -> BundleRevision {
    BundleRevision {
        revision: revision.revision,
        author: revision.author.clone(),
        at: revision.at,
        message: revision.message.clone(),
        scope: Some(revision.scope()),
        digest: revision.digest.clone(),
        rollback_of: revision.rollback_of.unwrap_or_default(),
        deleted: revision.is_deleted(),
        files: revision.files,
        bytes: revision.bytes,
    }
}
