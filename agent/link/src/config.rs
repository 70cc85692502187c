//! Comes to have the bundles that a controller assigns: fetches what is new, tries it, keeps it, carries it out, and
//! says how it went. A bundle that this host cannot use leaves the one before it in place. A later assignment
//! never waits for processes that an earlier one has started.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fleetvisor_model::config::LogLevel;
use fleetvisor_model::state::ProcessState;
use fleetvisor_proto::fleet::host_bundles_client::HostBundlesClient;
use fleetvisor_proto::fleet::{
    Assignment, BundleFile, BundleRef, BundleState, ConfigState, FromHost, LocalConfig, from_host,
};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use crate::bundles::{Kept, KeptBundle, digest, is_plain};
use crate::command::say;
use crate::daemon::{Daemon, Gone};
use crate::membership::{LinkError, Membership};

/// How often processes that are starting are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long a bundle may take to arrive.
const FETCH: Duration = Duration::from_secs(120);
/// Bytes of a bundle that is taken.
const CONTENT_BYTES: usize = 2 << 20;

/// The bundles of this host, shared by all links.
#[derive(Debug)]
pub(crate) struct Given {
    had: Mutex<Had>,
    /// Counts assignments: the latest one is the one that matters.
    turns: AtomicU64,
}

#[derive(Debug, Default)]
struct Had {
    kept: Kept,
    /// What was told and could not be used, or does not run well.
    failed: BTreeMap<String, (u64, String)>,
    /// Groups that have come to life, and have not been seen to run since.
    unproven: BTreeMap<String, String>,
    /// Whether the daemon has been brought in line with what is kept, in this process's life.
    in_line: bool,
}

impl Given {
    /// What is kept in `state_dir`. If it can't be read the controller is going to give it anew.
    pub(crate) fn load<D: Daemon>(state_dir: &Path, daemon: &D) -> Given {
        let kept = Kept::load(state_dir).unwrap_or_else(|error| {
            daemon.log(LogLevel::Error, format!("fleet: {error}; the controller is asked for them"));
            Kept::default()
        });
        Given { had: Mutex::new(Had { kept, ..Had::default() }), turns: AtomicU64::new(0) }
    }

    /// The place of an assignment that has come in.
    pub(crate) fn turn(&self) -> u64 {
        self.turns.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn is_latest(&self, turn: u64) -> bool {
        self.turns.load(Ordering::SeqCst) == turn
    }

    /// For a Hello.
    pub(crate) async fn state(&self) -> ConfigState {
        self.had.lock().await.state(0)
    }
}

impl Had {
    fn state(&self, seq: u64) -> ConfigState {
        let mut bundles: BTreeMap<&str, BundleState> = BTreeMap::new();
        for (name, kept) in &self.kept.bundles {
            let starting = !self.in_line || self.unproven.values().any(|bundle| bundle == name);
            let state = BundleState {
                name: name.clone(),
                revision: kept.revision,
                starting,
                ..BundleState::default()
            };
            bundles.insert(name, state);
        }
        for (name, (revision, reason)) in &self.failed {
            let state = bundles.entry(name).or_default();
            state.name.clone_from(name);
            state.failed_revision = *revision;
            state.reason.clone_from(reason);
        }
        ConfigState { seq, bundles: bundles.into_values().collect() }
    }
}

/// Carries out an assignment, unless a later one has come in, and says how it went.
pub(crate) async fn take_on<D: Daemon>(
    membership: &Arc<Membership<D>>,
    assignment: Assignment,
    turn: u64,
    channel: Channel,
    up: &mpsc::Sender<FromHost>,
) -> Result<(), LinkError> {
    let given = &membership.given;
    let seq = assignment.seq;
    let mut had = given.had.lock().await;
    if !given.is_latest(turn) {
        return Ok(());
    }
    membership.apply(&mut had, assignment, channel).await?;
    drop(had);
    let Some(broken) = membership.prove(turn, up).await? else { return Ok(()) };
    let mut had = given.had.lock().await;
    if !given.is_latest(turn) {
        return Ok(());
    }
    let unproven = std::mem::take(&mut had.unproven);
    for (group, reason) in broken {
        let Some(bundle) = unproven.get(&group) else { continue };
        let Some(revision) = had.kept.bundles.get(bundle).map(|kept| kept.revision) else { continue };
        membership
            .daemon
            .log(LogLevel::Warn, format!("fleet: bundle {bundle}, revision {revision}: {reason}"));
        had.failed.entry(bundle.clone()).or_insert((revision, reason));
    }
    let state = had.state(seq);
    drop(had);
    say(up, from_host::Message::ConfigState(state)).await;
    Ok(())
}

/// Answers what this host has of its own.
pub(crate) async fn tell_own<D: Daemon>(membership: &Membership<D>, id: String, up: &mpsc::Sender<FromHost>) {
    let local = match membership.daemon.own().await {
        Ok(Ok(own)) => LocalConfig {
            files: own.files.into_iter().map(|(name, text)| BundleFile { name, text: text.into() }).collect(),
            left_out: own.left_out,
            ..LocalConfig::default()
        },
        Ok(Err(error)) => LocalConfig { error, ..LocalConfig::default() },
        Err(gone) => LocalConfig { error: gone.to_string(), ..LocalConfig::default() },
    };
    say(up, from_host::Message::LocalConfig(LocalConfig { id, ..local })).await;
}

impl<D: Daemon> Membership<D> {
    async fn apply(&self, had: &mut Had, assignment: Assignment, channel: Channel) -> Result<(), LinkError> {
        let mut failed = BTreeMap::new();
        let before = self.groups_of(&had.kept).await?;
        let mut next = Kept {
            labels: assignment.labels.into_iter().collect(),
            bundles: BTreeMap::new(),
            highest: had.kept.highest.clone(),
        };
        for wanted in assignment.bundles {
            match self.obtain(&had.kept, &wanted, &channel).await? {
                Ok(bundle) => {
                    next.highest.insert(wanted.name.clone(), wanted.revision);
                    next.bundles.insert(wanted.name, bundle);
                }
                Err(reason) => {
                    let kept = had.kept.bundles.get(&wanted.name).cloned();
                    next.bundles.extend(kept.map(|kept| (wanted.name.clone(), kept)));
                    failed.insert(wanted.name, (wanted.revision, reason));
                }
            }
        }
        let after = self.accept(&had.kept, &mut next, &mut failed).await?;
        for (name, (revision, reason)) in &failed {
            let line = format!("fleet: bundle {name}, revision {revision}, is not applied: {reason}");
            self.daemon.log(LogLevel::Error, line);
        }
        // What did not run well still does not, unless it is another one now.
        for (name, (revision, reason)) in std::mem::take(&mut had.failed) {
            if next.bundles.get(&name).is_some_and(|bundle| bundle.revision == revision) {
                failed.entry(name).or_insert((revision, reason));
            }
        }
        had.failed = failed;
        let is_same = had.in_line && contents(&next) == contents(&had.kept) && next.labels == had.kept.labels;
        if next != had.kept {
            self.keep(had, next).await?;
        }
        if is_same {
            return Ok(());
        }
        self.update(had, before, after).await
    }

    /// The bundle as it is assigned; the inner error is why this host does not take it.
    async fn obtain(
        &self,
        kept: &Kept,
        wanted: &BundleRef,
        channel: &Channel,
    ) -> Result<Result<KeptBundle, String>, LinkError> {
        let (name, revision) = (&wanted.name, wanted.revision);
        if !is_plain(name) {
            return Ok(Err(format!("{name:?} is no name for a bundle")));
        }
        if let Some(highest) = kept.highest.get(name).filter(|highest| **highest > revision) {
            return Ok(Err(format!(
                "this host has had revision {highest} already; is the controller's store an old one? Push it again"
            )));
        }
        if let Some(kept) = kept.bundles.get(name).filter(|kept| digest(&kept.content) == wanted.digest) {
            return Ok(Ok(KeptBundle { revision, content: kept.content.clone() }));
        }
        let mut bundles = HostBundlesClient::new(channel.clone()).max_decoding_message_size(CONTENT_BYTES);
        let content = match timeout(FETCH, bundles.fetch(wanted.clone())).await {
            Ok(Ok(answer)) => answer.into_inner(),
            // It has been replaced meanwhile: the next assignment is on its way.
            Ok(Err(status)) if status.code() == tonic::Code::NotFound => {
                return Ok(Err(status.message().to_owned()));
            }
            Ok(Err(status)) => return Err(LinkError::Broken(Box::new(status))),
            Err(_) => return Err(LinkError::Silent(FETCH)),
        };
        if digest(&content) != wanted.digest || content.files.iter().any(|file| !is_plain(&file.name)) {
            return Ok(Err("what the controller has sent is not what it has announced".to_owned()));
        }
        Ok(Ok(KeptBundle { revision, content }))
    }

    /// Takes out of `next` what this host cannot use, and puts in its place what there was. Gives the groups of
    /// what is left.
    async fn accept(
        &self,
        kept: &Kept,
        next: &mut Kept,
        failed: &mut BTreeMap<String, (u64, String)>,
    ) -> Result<BTreeMap<String, String>, LinkError> {
        let state_dir = &self.section.state_dir;
        loop {
            let (groups, faults) = match self.daemon.try_bundles(next.bundles(state_dir)).await? {
                Ok(accepted) => (accepted.groups, accepted.faults),
                Err(reason) => {
                    let reason = format!("this host's own configuration cannot be read: {reason}");
                    let all = next.bundles.keys().map(|name| (name.clone(), reason.clone())).collect();
                    (BTreeMap::new(), all)
                }
            };
            let mut again = false;
            for (name, reason) in faults {
                let Some(bundle) = next.bundles.get(&name).cloned() else { continue };
                failed.entry(name.clone()).or_insert((bundle.revision, reason));
                let before = kept.bundles.get(&name);
                if before.map(|before| &before.content) == Some(&bundle.content) {
                    continue;
                }
                again = true;
                match before {
                    Some(before) => next.bundles.insert(name, before.clone()),
                    None => next.bundles.remove(&name),
                };
            }
            if !again {
                return Ok(groups);
            }
        }
    }

    async fn groups_of(&self, kept: &Kept) -> Result<BTreeMap<String, String>, Gone> {
        let tried = self.daemon.try_bundles(kept.bundles(&self.section.state_dir)).await?;
        Ok(tried.map(|accepted| accepted.groups).unwrap_or_default())
    }

    async fn keep(&self, had: &mut Had, next: Kept) -> Result<(), LinkError> {
        let state_dir = self.section.state_dir.clone();
        // Off this thread, which does more than wait for a disk.
        let saved = tokio::task::spawn_blocking(move || next.save(&state_dir).map(|()| next));
        had.kept = saved.await.map_err(|_| Gone)??;
        Ok(())
    }

    async fn update(
        &self,
        had: &mut Had,
        before: BTreeMap<String, String>,
        after: BTreeMap<String, String>,
    ) -> Result<(), LinkError> {
        let shown: Vec<String> = had
            .kept
            .bundles
            .iter()
            .map(|(name, kept)| format!("{name} (revision {})", kept.revision))
            .collect();
        let shown = if shown.is_empty() { "none".to_owned() } else { shown.join(", ") };
        if !before.is_empty() || !after.is_empty() {
            self.daemon.log(LogLevel::Info, format!("fleet: bundles of this host: {shown}"));
        }
        let groups: BTreeSet<String> = before.keys().chain(after.keys()).cloned().collect();
        let mut fail = |bundle: &String, reason: String| {
            let revision = had.kept.bundles.get(bundle).map_or(0, |kept| kept.revision);
            had.failed.entry(bundle.clone()).or_insert((revision, reason));
        };
        match self.daemon.update(groups).await? {
            Ok(begun) => {
                for (group, reason) in begun.failed {
                    if let Some(bundle) = after.get(&group) {
                        fail(bundle, format!("{group}: {reason}"));
                    }
                }
                let of_bundle =
                    |group: String| after.get(&group).map(|bundle| (group.clone(), bundle.clone()));
                had.unproven.extend(begun.groups.into_iter().filter_map(of_bundle));
                if !had.in_line {
                    // These came to life with the daemon.
                    had.unproven.extend(after.clone());
                }
                had.unproven.retain(|group, _| after.contains_key(group));
                had.in_line = true;
            }
            Err(reason) => after.values().for_each(|bundle| fail(bundle, reason.clone())),
        }
        Ok(())
    }

    /// Waits until what has come to life runs or has failed, and gives what has failed; `None` once it matters no
    /// more.
    async fn prove(
        &self,
        turn: u64,
        up: &mpsc::Sender<FromHost>,
    ) -> Result<Option<Vec<(String, String)>>, LinkError> {
        let groups: BTreeSet<String> = self.given.had.lock().await.unproven.keys().cloned().collect();
        if groups.is_empty() {
            return Ok(Some(Vec::new()));
        }
        while self.given.is_latest(turn) && !up.is_closed() {
            let mut statuses = self.daemon.statuses().await?;
            statuses.retain(|status| groups.contains(&status.name.group));
            let is_starting = |state| matches!(state, ProcessState::Starting | ProcessState::Backoff);
            if !statuses.iter().any(|status| is_starting(status.state)) {
                let fatal = statuses.into_iter().filter(|status| status.state == ProcessState::Fatal);
                let worded = fatal.map(|status| {
                    let why = match status.spawnerr.as_str() {
                        "" => "exited too quickly",
                        error => error,
                    };
                    (status.name.group.clone(), format!("{} does not run: {why}", status.name))
                });
                return Ok(Some(worded.collect()));
            }
            sleep(LOOK).await;
        }
        Ok(None)
    }
}

fn contents(kept: &Kept) -> BTreeMap<&String, &Vec<BundleFile>> {
    kept.bundles.iter().map(|(name, kept)| (name, &kept.content.files)).collect()
}
