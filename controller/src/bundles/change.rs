//! Push, rollback and delete. A change is judged as a whole before anything is kept: the content on every host that
//! would get it, and against every other bundle there. Then it is one transaction with its audit record, and after
//! that hosts are told; each answers for itself, and none delays another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fleetvisor_model::time::Wall;
use fleetvisor_proto::fleet::{
    BundleAccepted, BundleContent, BundleEvent, BundleHostDone, HostPlan, HostResult, HostState, Scope,
    bundle_event,
};
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::catalog::{BundleError, Known, content};
use super::check::{Reader, Refusal};
use super::diff;
use super::plan::plan;
use super::record::{self, BUNDLES_MAX, ContentError, Head, MESSAGE_MAX, REVISIONS_KEPT, Revision};
use super::told::Progress;
use crate::audit::Entry;
use crate::clock;
use crate::controller::Controller;
use crate::records;
use crate::registry::Host;
use crate::select::{Selection, SelectionError};
use crate::store::{Expect, StoreError, Transaction};

const TIMEOUT_DEFAULT: u32 = 300;
const TIMEOUT_MAX: u32 = 24 * 3600;
const EVENTS_MAX: usize = 256;
/// How long a caller may take no event before it counts as gone.
const CALLER_PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether a host has gone away.
const LOOK: Duration = Duration::from_millis(500);

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
    #[error("a timeout of {0} seconds is too long (the limit is {TIMEOUT_MAX})")]
    Timeout(u32),
    #[error("somebody else has changed bundle {0} at the same time; look again")]
    Conflict(String),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who asks, and how it is to be done.
pub(super) struct Asked {
    pub(super) by: String,
    pub(super) from: SocketAddr,
    pub(super) message: String,
    pub(super) dry_run: bool,
    /// 0 for the default.
    pub(super) timeout_seconds: u32,
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
}

/// A change that was judged, before it is made.
struct Change {
    name: String,
    what: &'static str,
    revision: Revision,
    /// `None` for one that is gone, or kept already.
    content: Option<BundleContent>,
    known: Option<Arc<Known>>,
    accepted: BundleAccepted,
    plans: Vec<HostPlan>,
    hosts: Vec<Arc<Host>>,
}

/// Makes the change. What comes of it arrives at the receiver, which ends after the last.
pub(super) async fn change(
    controller: Arc<Controller>,
    name: String,
    wanted: Wanted,
    asked: Asked,
) -> Result<mpsc::Receiver<BundleEvent>, ChangeError> {
    record::check_name(&name)?;
    if asked.message.len() > MESSAGE_MAX {
        return Err(ContentError::Message(asked.message.len()).into());
    }
    let timeout = match asked.timeout_seconds {
        0 => TIMEOUT_DEFAULT,
        seconds if seconds > TIMEOUT_MAX => return Err(ChangeError::Timeout(seconds)),
        seconds => seconds,
    };
    let changing = controller.bundles.changing.lock().await;
    let change = judge(&controller, name, wanted, &asked).await?;
    let (events, receiver) = mpsc::channel(EVENTS_MAX);
    let caller = Caller(events);
    if asked.dry_run || !change.accepted.changed {
        drop(changing);
        tokio::spawn(async move { caller.tell_plan(change.accepted, change.plans).await });
        return Ok(receiver);
    }
    commit(&controller, &change, &asked).await?;
    controller.bundles.reload(&*controller.store, &change.name).await?;
    let touched: Vec<(Arc<Host>, u64)> = change
        .hosts
        .iter()
        .map(|host| {
            let since = host.told.touch();
            host.news.notify_one();
            (host.clone(), since)
        })
        .collect();
    drop(changing);
    let deadline = Instant::now() + Duration::from_secs(timeout.into());
    tokio::spawn(async move {
        caller.tell_plan(change.accepted, change.plans).await;
        let mut tasks = JoinSet::new();
        for (host, since) in touched {
            let (caller, name, revision) = (caller.clone(), change.name.clone(), change.revision.clone());
            let controller = controller.clone();
            tasks.spawn(async move {
                let wanted = controller
                    .bundles
                    .get(&name)
                    .and_then(|known| known.on(&host.name, &host.labels()).map(|_| revision.revision));
                let (result, reason) = follow(&host, &name, wanted, since, deadline).await;
                let done = BundleHostDone { host: Some(host.describe()), result: result.into(), reason };
                caller.tell(bundle_event::Event::HostDone(done)).await;
            });
        }
        while tasks.join_next().await.is_some() {}
    });
    Ok(receiver)
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
        Wanted::Deleted => {
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
    let hosts = controller.registry.all();
    let judged = {
        let (name, bundles) = (name.clone(), controller.bundles_of(&hosts));
        let (old, new) = (old.clone(), content_wanted.clone());
        let had = known.clone();
        // Thousands of hosts may have to be looked at.
        let work =
            move || judge_hosts(&name, &bundles, &selection, had.as_deref(), old.as_ref(), new.as_ref());
        tokio::task::spawn_blocking(work).await
    };
    let judged = judged.map_err(|_| BundleError::Store(StoreError::Closed))??;

    let digest = content_wanted.as_ref().map(record::digest).unwrap_or_default();
    let changed = before.is_none_or(|before| before.digest != digest || before.scope() != scope);
    let last = known.as_ref().map_or(0, |known| known.head.revision);
    let number = if changed { last + 1 } else { last };
    let revision = Revision {
        revision: number,
        author: asked.by.clone(),
        at: clock::now().0,
        message: asked.message.clone(),
        hosts: scope.hosts,
        labels: scope.labels,
        digest,
        rollback_of,
        files: content_wanted
            .as_ref()
            .map_or(0, |content| u32::try_from(content.files.len()).unwrap_or(u32::MAX)),
        bytes: content_wanted
            .as_ref()
            .map_or(0, |content| content.files.iter().map(|f| f.text.len() as u64).sum()),
        names: judged.names,
    };
    let concerned: Vec<Arc<Host>> =
        hosts.into_iter().filter(|host| judged.concerned.contains(&host.name)).collect();
    let titles = (format!("revision {last}"), format!("revision {number}"));
    let accepted = BundleAccepted {
        revision: number,
        changed,
        hosts: u32::try_from(concerned.len()).unwrap_or(u32::MAX),
        diff: diff::unified((old.as_ref(), &titles.0), (content_wanted.as_ref(), &titles.1)),
    };
    let content = content_wanted;
    Ok(Change { name, what, revision, content, known, accepted, plans: judged.plans, hosts: concerned })
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
        let view = |host: &Arc<Host>| {
            let labels = host.labels();
            let assigned = self.bundles.assigned(&host.name, &labels);
            let bundles = assigned.into_iter().map(|it| (it.name, it.kept.revision.names.clone())).collect();
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
    old: Option<&BundleContent>,
    new: Option<&BundleContent>,
) -> Result<Judged, ChangeError> {
    let refused = |refusal| ChangeError::Refused { name: name.to_owned(), refusal };
    let mut old = old.map(|content| Reader::new(name, content));
    let mut new = new.map(|content| Reader::new(name, content));
    let mut judged = Judged { names: BTreeSet::new(), plans: Vec::new(), concerned: BTreeSet::new() };
    for host in hosts {
        let has = had.is_some_and(|known| known.on(&host.name, &host.labels).is_some());
        let gets = new.is_some() && selection.includes(&host.name, &host.labels);
        if !has && !gets {
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
        let before = match &mut old {
            Some(old) if has => old.on(&host.name, &host.labels).ok(),
            Some(_) | None => None,
        };
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
    let head = Head { revision: number, settled: number };
    let mut transaction = Transaction::default()
        .put_if(record::head_key(name), expect, records::encode(&head))
        .put(record::revision_key(name, number), records::encode(revision));
    if let Some(content) = &change.content {
        transaction = transaction.put(record::content_key(name, &revision.digest), content.encode_to_vec());
    }
    if let Some(known) = known {
        let (gone, kept): (Vec<_>, Vec<_>) =
            known.revisions.values().partition(|kept| kept.revision.revision + REVISIONS_KEPT <= number);
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
    let entry = Entry::new(&asked.by, change.what, name).from(asked.from).hosts(hosts).detail(detail);
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

/// Waits until a host has carried it out, could not, or is not there.
async fn follow(
    host: &Host,
    name: &str,
    wanted: Option<u64>,
    since: u64,
    deadline: Instant,
) -> (HostResult, String) {
    let mut news = host.told.news();
    loop {
        news.mark_unchanged();
        match host.told.progress(name, wanted, since) {
            Progress::Done => return (HostResult::Ok, String::new()),
            Progress::Failed(reason) => return (HostResult::Failed, reason),
            Progress::UnderWay => {}
        }
        if !host.is_online() {
            return (HostResult::Pending, format!("{}; will catch up when it returns", absence(host)));
        }
        if Instant::now() >= deadline {
            return (HostResult::TimedOut, "it has not said yet that it has applied it".to_owned());
        }
        let look = sleep_until(deadline.min(Instant::now() + LOOK));
        tokio::select! {
            _ = news.changed() => {}
            () = look => {}
        }
    }
}

/// `away since 2026-11-21 10:55:00 UTC`.
fn absence(host: &Host) -> String {
    let host = host.describe();
    match host.state() {
        HostState::NeverSeen => "enrolled, but never linked so far".to_owned(),
        HostState::Revoked => "revoked, and refused until it enrols anew".to_owned(),
        HostState::Away | HostState::Online | HostState::Unspecified => {
            format!("away since {}", clock::utc(Wall(host.since)))
        }
    }
}

/// Whoever asked. What was accepted goes on without it.
#[derive(Clone)]
struct Caller(mpsc::Sender<BundleEvent>);

impl Caller {
    async fn tell_plan(&self, accepted: BundleAccepted, plans: Vec<HostPlan>) {
        self.tell(bundle_event::Event::Accepted(accepted)).await;
        for plan in plans {
            self.tell(bundle_event::Event::Plan(plan)).await;
        }
    }

    async fn tell(&self, event: bundle_event::Event) {
        let sent = self.0.send(BundleEvent { event: Some(event) });
        // One that hung up or fell asleep misses the rest.
        let _ = timeout_at(Instant::now() + CALLER_PATIENCE, sent).await;
    }
}
