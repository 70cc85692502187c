//! Push, rollback, delete and revert. A change is judged as a whole before anything is kept: the content on every host
//! that would get it, and against every other bundle there. Then it is one transaction with its audit record and the
//! operation that carries it to the hosts, which is [`crate::operations`]' from there on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use fleetvisor_proto::fleet::{BundleAccepted, BundleContent, HostPlan, RunEvent, Scope};
use prost::Message;
use tokio::sync::mpsc;

use super::catalog::{BundleError, Kept, Known, content};
use super::check::{Reader, Refusal};
use super::diff;
use super::plan::plan;
use super::record::{self, BUNDLES_MAX, ContentError, Head, MESSAGE_MAX, REVISIONS_KEPT, Revision};
use crate::audit::Entry;
use crate::clock;
use crate::controller::Controller;
use crate::operations::{self, How, Prepared, RunError};
use crate::records;
use crate::registry::Host;
use crate::select::{Selection, SelectionError};
use crate::store::{Expect, StoreError, Transaction};

#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error(transparent)]
    Selection(#[from] SelectionError),
    #[error("bundle {name} is refused, and no host has seen it: {refusal}")]
    Refused { name: String, refusal: Refusal },
    #[error(
        "bundle {name} is refused, and no host has seen it: {program} is defined by bundle {other} already, which \
         host {host} has"
    )]
    Clash { name: String, program: String, other: String, host: String },
    #[error("bundle {0} is new: say which hosts get it, with -l, --hosts or --all-hosts")]
    NoScope(String),
    #[error("there is no bundle {0}")]
    Unknown(String),
    #[error("bundle {name} has no revision {revision} that is kept")]
    UnknownRevision { name: String, revision: u64 },
    #[error("revision {revision} of bundle {name} is its deletion: delete it")]
    Deletion { name: String, revision: u64 },
    #[error("there are {BUNDLES_MAX} bundles, and there cannot be more")]
    TooMany,
    #[error("somebody else has changed bundle {0} at the same time; look again")]
    Conflict(String),
    #[error(transparent)]
    Operation(#[from] RunError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who asks, and how it is to be done.
pub(super) struct Asked {
    pub(super) by: String,
    /// `None` for what follows from something that was asked earlier.
    pub(super) from: Option<SocketAddr>,
    pub(super) message: String,
    pub(super) dry_run: bool,
    pub(super) how: How,
}

/// What a bundle shall be from now on.
pub(super) enum Wanted {
    Content {
        content: BundleContent,
        /// `None` for the hosts that have it now.
        scope: Option<Scope>,
    },
    Rollback {
        revision: u64,
    },
    Deleted,
    /// The revision before the latest one, which has failed.
    Reverted {
        failed: u64,
        /// 0 for none.
        before: u64,
    },
}

/// A change that was judged, before it is made.
struct Change {
    name: String,
    what: &'static str,
    revision: Revision,
    /// `None` for one that is gone, or kept already.
    content: Option<BundleContent>,
    known: Option<Arc<Known>>,
    /// What carries it to the hosts.
    operation: Prepared,
    accepted: BundleAccepted,
    plans: Vec<HostPlan>,
    hosts: Vec<Arc<Host>>,
}

/// What was accepted, and what comes of it.
pub(super) struct Changed {
    pub(super) accepted: BundleAccepted,
    pub(super) plans: Vec<HostPlan>,
    /// Of the operation; `None` where nothing is to be done.
    pub(super) events: Option<mpsc::Receiver<RunEvent>>,
}

/// Makes the change, which is stored when this returns.
pub(super) async fn change(
    controller: Arc<Controller>,
    name: String,
    wanted: Wanted,
    asked: Asked,
) -> Result<Changed, ChangeError> {
    record::check_name(&name)?;
    if asked.message.len() > MESSAGE_MAX {
        return Err(ContentError::Message(asked.message.len()).into());
    }
    let changing = controller.bundles.changing.lock().await;
    let change = judge(&controller, name, wanted, &asked).await?;
    if asked.dry_run || !change.accepted.changed {
        return Ok(Changed { accepted: change.accepted, plans: change.plans, events: None });
    }
    if change.revision.reverts.is_none() {
        operations::refuse_too_many(&controller)?;
    }
    commit(&controller, &change, &asked).await?;
    controller.bundles.reload(&*controller.store, &change.name).await?;
    drop(changing);
    if let Some(before) = change.known.as_ref().and_then(|known| known.latest()) {
        controller.operations.look(&before.revision.operation);
    }
    let is_for_somebody = !change.hosts.is_empty();
    let events = is_for_somebody.then(|| change.operation.begin(&controller));
    Ok(Changed { accepted: change.accepted, plans: change.plans, events })
}

/// Why it could not be put back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RevertError {
    #[error(transparent)]
    Store(StoreError),
    #[error("{0}")]
    Refused(String),
}

/// Puts the revision before one that has failed in its place, on all hosts at once; nothing happens where a later
/// revision has been made. Boxed, for an operation can begin it, and it begins one.
pub(crate) fn revert(
    controller: Arc<Controller>,
    name: String,
    (before, failed): (u64, u64),
    by: String,
    timeout_seconds: u32,
) -> Pin<Box<dyn Future<Output = Result<(), RevertError>> + Send>> {
    Box::pin(async move {
        let refused = |error: &dyn std::fmt::Display| RevertError::Refused(error.to_string());
        let how = How::parse(None, false, timeout_seconds).map_err(|error| refused(&error))?;
        let message = format!("revision {failed} has failed");
        let asked = Asked { by, from: None, message, dry_run: false, how };
        match change(controller, name, Wanted::Reverted { failed, before }, asked).await {
            Ok(_) | Err(ChangeError::Conflict(_)) => Ok(()),
            Err(ChangeError::Store(error) | ChangeError::Bundle(BundleError::Store(error))) => {
                Err(RevertError::Store(error))
            }
            Err(error) => Err(refused(&error)),
        }
    })
}

async fn judge(
    controller: &Controller,
    name: String,
    wanted: Wanted,
    asked: &Asked,
) -> Result<Change, ChangeError> {
    let known = controller.bundles.get(&name);
    let latest = known.as_ref().and_then(|known| known.latest()).cloned();
    let before = latest.as_ref().map(|kept| &kept.revision).filter(|revision| !revision.is_deleted());
    let (wanted, reverts) = match wanted {
        Wanted::Reverted { failed, before } => {
            let known = known.as_ref().filter(|known| known.head.revision == failed);
            let known = known.ok_or_else(|| ChangeError::Conflict(name.clone()))?;
            let before = known.revisions.get(&before);
            let wanted = match before.filter(|kept| !kept.revision.is_deleted()) {
                Some(kept) => Wanted::Rollback { revision: kept.revision.revision },
                None => Wanted::Deleted,
            };
            (wanted, Some(failed))
        }
        wanted => (wanted, None),
    };
    let (what, content_wanted, scope, rollback_of) = match wanted {
        Wanted::Content { content, scope } => {
            let scope = scope.or_else(|| before.map(Revision::scope));
            ("config.push", Some(content), scope.ok_or_else(|| ChangeError::NoScope(name.clone()))?, None)
        }
        Wanted::Rollback { revision } => {
            let known = known.as_ref().ok_or_else(|| ChangeError::Unknown(name.clone()))?;
            let kept = known.revisions.get(&revision);
            let kept = kept.ok_or_else(|| ChangeError::UnknownRevision { name: name.clone(), revision })?;
            if kept.revision.is_deleted() {
                return Err(ChangeError::Deletion { name, revision });
            }
            let content = content(&*controller.store, &name, &kept.revision).await?;
            ("config.rollback", Some(content), kept.revision.scope(), Some(revision))
        }
        Wanted::Deleted | Wanted::Reverted { .. } => {
            let before = before.ok_or_else(|| ChangeError::Unknown(name.clone()))?;
            ("config.delete", None, before.scope(), None)
        }
    };
    if known.is_none() && controller.bundles.all().len() >= BUNDLES_MAX {
        return Err(ChangeError::TooMany);
    }
    let selection = Selection::parse(Some(scope.clone()), Vec::new())?;
    let old = match before {
        Some(before) => Some(content(&*controller.store, &name, before).await?),
        None => None,
    };
    let mut in_use = BTreeMap::new();
    for kept in known.iter().flat_map(|known| known.in_use().into_iter().map(|it| known.revisions.get(&it))) {
        if let Some(revision) = kept.map(|kept| &kept.revision).filter(|revision| !revision.is_deleted()) {
            in_use.insert(revision.revision, content(&*controller.store, &name, revision).await?);
        }
    }
    let hosts = controller.registry.all();
    let judged = {
        let (name, bundles) = (name.clone(), controller.bundles_of(&hosts));
        let (had, new) = (known.clone(), content_wanted.clone());
        // Thousands of hosts may have to be looked at.
        let work = move || judge_hosts(&name, &bundles, &selection, had.as_deref(), &in_use, new.as_ref());
        tokio::task::spawn_blocking(work).await
    };
    let judged = judged.map_err(|_| BundleError::Store(StoreError::Closed))??;

    let digest = content_wanted.as_ref().map(record::digest).unwrap_or_default();
    // Pushed again, what has stopped half-way begins anew.
    let has_stopped = known.as_ref().is_some_and(|known| {
        let operation = known.latest().map_or("", |latest| &latest.revision.operation);
        let is_half_way = known.head.settled != known.head.revision || !known.apart().is_empty();
        is_half_way && !controller.operations.is_running(operation)
    });
    let changed =
        has_stopped || before.is_none_or(|before| before.digest != digest || before.scope() != scope);
    let last = known.as_ref().map_or(0, |known| known.head.revision);
    let number = if changed { last + 1 } else { last };
    let concerned: Vec<Arc<Host>> =
        hosts.into_iter().filter(|host| judged.concerned.contains(&host.name)).collect();
    let before = known.as_ref().map_or(0, |known| known.head.settled);
    let operation =
        operations::apply(&name, (before, number), scope.clone(), &asked.how, &concerned, &asked.by)?;
    let revision = Revision {
        revision: number,
        author: asked.by.clone(),
        at: clock::now().0,
        message: asked.message.clone(),
        hosts: scope.hosts,
        labels: scope.labels,
        digest,
        rollback_of,
        reverts,
        operation: if concerned.is_empty() { String::new() } else { operation.id().to_owned() },
        files: content_wanted
            .as_ref()
            .map_or(0, |content| u32::try_from(content.files.len()).unwrap_or(u32::MAX)),
        bytes: content_wanted
            .as_ref()
            .map_or(0, |content| content.files.iter().map(|f| f.text.len() as u64).sum()),
        names: judged.names,
    };
    let titles = (format!("revision {last}"), format!("revision {number}"));
    let accepted = BundleAccepted {
        revision: number,
        changed,
        hosts: u32::try_from(concerned.len()).unwrap_or(u32::MAX),
        diff: diff::unified((old.as_ref(), &titles.0), (content_wanted.as_ref(), &titles.1)),
        batches: sizes(&asked.how.batches(concerned.len())),
    };
    let content = content_wanted;
    let plans = in_turn(judged.plans, &operation, &asked.how);
    Ok(Change { name, what, revision, content, known, operation, accepted, plans, hosts: concerned })
}

/// Of batches that end there.
fn sizes(ends: &[usize]) -> Vec<u32> {
    let begins = std::iter::once(&0).chain(ends);
    begins.zip(ends).map(|(begin, end)| u32::try_from(end - begin).unwrap_or(u32::MAX)).collect()
}

/// The plans by the turns of their hosts.
fn in_turn(plans: Vec<HostPlan>, operation: &Prepared, how: &How) -> Vec<HostPlan> {
    let mut plans: BTreeMap<String, HostPlan> =
        plans.into_iter().map(|plan| (plan.host.clone(), plan)).collect();
    let ends = how.batches(operation.hosts().count());
    let turn = |(at, host): (usize, &str)| {
        let batch = ends.iter().take_while(|end| **end <= at).count() + 1;
        plans.remove(host).map(|plan| HostPlan { batch: u32::try_from(batch).unwrap_or(u32::MAX), ..plan })
    };
    operation.hosts().enumerate().filter_map(turn).collect()
}

/// A host as far as bundles are concerned: name, labels, and the names that its other bundles take.
pub(super) struct HostView {
    name: String,
    labels: BTreeMap<String, String>,
    /// Bundle and what it defines.
    bundles: Vec<(String, BTreeSet<String>)>,
}

struct Judged {
    names: BTreeSet<String>,
    plans: Vec<HostPlan>,
    /// Hosts that have it, or will.
    concerned: BTreeSet<String>,
}

impl Controller {
    fn bundles_of(&self, hosts: &[Arc<Host>]) -> Vec<HostView> {
        let all = self.bundles.all();
        let view = |host: &Arc<Host>| {
            let labels = host.labels();
            let mut bundles = Vec::new();
            for known in &all {
                // What is on its way to it counts, too.
                let both = [known.on(&host.name, &labels), known.finally_on(&host.name, &labels)];
                let names = |kept: &Arc<Kept>| (known.name.clone(), kept.revision.names.clone());
                bundles.extend(both.into_iter().flatten().map(names));
            }
            HostView { name: host.name.clone(), labels, bundles }
        };
        hosts.iter().map(view).collect()
    }
}

fn judge_hosts(
    name: &str,
    hosts: &[HostView],
    selection: &Selection,
    had: Option<&Known>,
    in_use: &BTreeMap<u64, BundleContent>,
    new: Option<&BundleContent>,
) -> Result<Judged, ChangeError> {
    let refused = |refusal| ChangeError::Refused { name: name.to_owned(), refusal };
    let mut old: BTreeMap<u64, Reader> =
        in_use.iter().map(|(revision, content)| (*revision, Reader::new(name, content))).collect();
    let mut new = new.map(|content| Reader::new(name, content));
    let mut judged = Judged { names: BTreeSet::new(), plans: Vec::new(), concerned: BTreeSet::new() };
    for host in hosts {
        let has = had.and_then(|known| known.on(&host.name, &host.labels));
        let gets = new.is_some() && selection.includes(&host.name, &host.labels);
        if has.is_none() && !gets {
            continue;
        }
        judged.concerned.insert(host.name.clone());
        let after = match &mut new {
            Some(new) if gets => Some(new.on(&host.name, &host.labels).map_err(refused)?),
            Some(_) | None => None,
        };
        if let Some(after) = after {
            let others = host.bundles.iter().filter(|(other, _)| other != name);
            for (other, names) in others {
                if let Some(program) = after.names.intersection(names).next() {
                    return Err(ChangeError::Clash {
                        name: name.to_owned(),
                        program: program.clone(),
                        other: other.clone(),
                        host: host.name.clone(),
                    });
                }
            }
            judged.names.extend(after.names.iter().cloned());
        }
        // What an earlier parser has accepted may be refused by this one; then it is as if it were not there.
        let before = has.and_then(|kept| old.get_mut(&kept.revision.revision));
        let before = before.and_then(|old| old.on(&host.name, &host.labels).ok());
        judged.plans.extend(plan(&host.name, before, after));
    }
    if let Some(new) = &mut new
        && judged.names.is_empty()
    {
        judged.names.extend(new.anywhere().map_err(refused)?.names.iter().cloned());
    }
    Ok(judged)
}

async fn commit(controller: &Controller, change: &Change, asked: &Asked) -> Result<(), ChangeError> {
    let Change { name, revision, known, .. } = change;
    let number = revision.revision;
    let expect = known.as_ref().map_or(Expect::Absent, |known| Expect::Revision(known.stored));
    // What everybody gets at once is settled at once.
    let is_gradual = asked.how.is_gradual(change.hosts.len());
    let settled = if is_gradual { known.as_ref().map_or(0, |known| known.head.settled) } else { number };
    let head = Head { revision: number, settled };
    let mut transaction = Transaction::default()
        .put_if(record::head_key(name), expect, records::encode(&head))
        .put(record::revision_key(name, number), records::encode(revision));
    if let Some(content) = &change.content {
        transaction = transaction.put(record::content_key(name, &revision.digest), content.encode_to_vec());
    }
    if !change.hosts.is_empty() {
        transaction = change.operation.put(transaction);
    }
    if let Some(known) = known {
        for host in known.apart().iter().filter(|_| !is_gradual) {
            transaction = transaction.delete_if(record::apart_key(name, host), Expect::Anything);
        }
        let in_use = known.in_use();
        let (gone, kept): (Vec<_>, Vec<_>) = known.revisions.values().partition(|kept| {
            let revision = kept.revision.revision;
            revision + REVISIONS_KEPT <= number && !in_use.contains(&revision)
        });
        let mut in_use: BTreeSet<&str> = kept.iter().map(|kept| kept.revision.digest.as_str()).collect();
        in_use.insert(&revision.digest);
        for gone in gone {
            let gone = &gone.revision;
            transaction = transaction.delete_if(record::revision_key(name, gone.revision), Expect::Anything);
            if !gone.is_deleted() && in_use.insert(&gone.digest) {
                transaction =
                    transaction.delete_if(record::content_key(name, &gone.digest), Expect::Anything);
            }
        }
    }
    let detail = match (&asked.message[..], revision.rollback_of) {
        ("", None) => format!("revision {number}"),
        ("", Some(old)) => format!("revision {number}, as revision {old}"),
        (message, None) => format!("revision {number}: {message}"),
        (message, Some(old)) => format!("revision {number}, as revision {old}: {message}"),
    };
    let hosts = change.hosts.iter().map(|host| host.name.clone());
    let entry = Entry::new(&asked.by, change.what, name).hosts(hosts).detail(detail);
    let entry = asked.from.iter().fold(entry, |entry, from| entry.from(*from));
    match controller.audit.commit(entry, transaction).await {
        Ok(_) => {}
        Err(StoreError::Conflict { .. }) => return Err(ChangeError::Conflict(name.clone())),
        Err(error) => return Err(error.into()),
    }
    tracing::info!(
        "{}: {} of bundle {name}, revision {number}, {} hosts",
        asked.by,
        change.what,
        change.hosts.len()
    );
    Ok(())
}
