//! What one host was told of its bundles over the present link, and what it says it has. Every method is one short
//! step under a lock of its own. Telling is level-triggered: all that a host should have, each time.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use fleetvisor_proto::fleet::{
    Assignment, BundleRef, BundleState, ConfigState, HostBundle, LocalConfig, LocalConfigRequest, to_host,
};
use tokio::sync::{oneshot, watch};

use super::record;
use crate::controller::Controller;
use crate::registry::Host;

/// Bundles of a host whose states are listened to.
const STATES_MAX: usize = 1000;
/// Longest reason of a host's that is kept, in bytes.
const REASON_MAX: usize = 2000;

#[derive(Debug)]
pub(crate) struct Told {
    known: Mutex<Known>,
    /// Changes whenever there is something new to look at.
    news: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Known {
    /// Counts changes of what it should have.
    wanted: u64,
    /// The count that was told over the present link.
    told: Option<u64>,
    assignment: Vec<BundleRef>,
    /// Whether it has said what it has, ever.
    heard: bool,
    /// The assignment that it has carried out.
    done: u64,
    states: BTreeMap<String, BundleState>,
    pulls: HashMap<String, oneshot::Sender<LocalConfig>>,
}

/// How far a host is with one bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    UnderWay,
    Done,
    Failed(String),
}

impl Default for Told {
    fn default() -> Told {
        Told { known: Mutex::default(), news: watch::Sender::new(0) }
    }
}

impl Told {
    /// A link begins: nothing was told over it.
    pub(crate) fn linked(&self, state: Option<ConfigState>) {
        let mut known = self.known();
        known.told = None;
        // Counts of an earlier link, or of an earlier controller, mean nothing to this one.
        known.wanted += 1;
        known.done = 0;
        known.pulls.clear();
        known.take_in(state.unwrap_or_default());
        drop(known);
        self.tell_news();
    }

    pub(crate) fn reported(&self, state: ConfigState) {
        let mut known = self.known();
        known.done = state.seq;
        known.take_in(state);
        drop(known);
        self.tell_news();
    }

    /// What it should have may have changed; gives the count from which on it is so.
    pub(crate) fn touch(&self) -> u64 {
        let mut known = self.known();
        known.wanted += 1;
        known.wanted
    }

    pub(crate) fn has_news(&self) -> bool {
        let known = self.known();
        known.told.is_none_or(|told| told < known.wanted)
    }

    /// How far it is with what `touch` gave `since` for: `revision` of a bundle, or to be without it.
    fn progress(&self, name: &str, revision: Option<u64>, since: u64) -> Progress {
        let known = self.known();
        let state = known.states.get(name);
        match revision {
            Some(revision) => match state {
                Some(state) if state.failed_revision >= revision => Progress::Failed(state.reason.clone()),
                Some(state)
                    if state.revision >= revision && state.failed_revision == 0 && !state.starting =>
                {
                    Progress::Done
                }
                Some(_) | None => Progress::UnderWay,
            },
            None if known.told.is_some_and(|told| told >= since) && known.done >= since => match state {
                Some(state) if state.revision > 0 => Progress::Failed(state.reason.clone()),
                Some(_) | None => Progress::Done,
            },
            None => Progress::UnderWay,
        }
    }

    /// Waits until it has what `touch` gave `since` for; the error is why it has not.
    pub(crate) async fn applied(&self, name: &str, revision: Option<u64>, since: u64) -> Result<(), String> {
        let mut news = self.news.subscribe();
        loop {
            news.mark_unchanged();
            match self.progress(name, revision, since) {
                Progress::Done => return Ok(()),
                Progress::Failed(reason) if reason.is_empty() => {
                    return Err("the host gives no reason".to_owned());
                }
                Progress::Failed(reason) => return Err(reason),
                Progress::UnderWay => {}
            }
            if news.changed().await.is_err() {
                return Err("the host is forgotten".to_owned());
            }
        }
    }

    /// For people: what it should have, and what it has.
    pub(crate) fn describe(&self) -> Vec<HostBundle> {
        let known = self.known();
        let mut bundles: BTreeMap<&str, HostBundle> = BTreeMap::new();
        for wanted in &known.assignment {
            let bundle = bundles.entry(&wanted.name).or_default();
            bundle.name.clone_from(&wanted.name);
            bundle.desired = wanted.revision;
        }
        for state in known.states.values() {
            let bundle = bundles.entry(&state.name).or_default();
            bundle.name.clone_from(&state.name);
            bundle.revision = state.revision;
            bundle.failed_revision = state.failed_revision;
            bundle.reason.clone_from(&state.reason);
        }
        bundles.into_values().collect()
    }

    /// What it says of one bundle; `None` where nothing was ever heard.
    pub(super) fn state(&self, name: &str) -> Option<BundleState> {
        let known = self.known();
        known.heard.then(|| known.states.get(name).cloned().unwrap_or_default())
    }

    /// The answer to a request for its own configuration.
    pub(crate) fn local(&self, local: LocalConfig) {
        if let Some(asker) = self.known().pulls.remove(&local.id) {
            // Whoever asked may have gone.
            let _ = asker.send(local);
        }
    }

    /// Asks for the host's own configuration; `None` where it is away.
    pub(super) fn ask(&self, host: &Host, id: String) -> Option<oneshot::Receiver<LocalConfig>> {
        let (asker, answer) = oneshot::channel();
        let mut known = self.known();
        // Those that nobody waits for any more.
        known.pulls.retain(|_, asker| !asker.is_closed());
        known.pulls.insert(id.clone(), asker);
        drop(known);
        host.send(to_host::Message::LocalConfigRequest(LocalConfigRequest { id })).ok()?;
        Some(answer)
    }

    fn tell_news(&self) {
        self.news.send_modify(|count| *count += 1);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nothing panics while it holds what was told")
    }
}

impl Known {
    fn take_in(&mut self, state: ConfigState) {
        self.heard = true;
        self.states = state
            .bundles
            .into_iter()
            .take(STATES_MAX)
            .map(|mut state| {
                if state.reason.len() > REASON_MAX {
                    let end = (0..=REASON_MAX).rev().find(|end| state.reason.is_char_boundary(*end));
                    state.reason.truncate(end.unwrap_or(0));
                }
                (state.name.clone(), state)
            })
            .collect();
    }
}

/// Tells a linked host all that it should have, if that was not done yet.
pub(crate) fn tell(controller: &Controller, host: &Arc<Host>) {
    let labels = host.labels();
    let mut known = host.told.known();
    if known.told == Some(known.wanted) {
        return;
    }
    let assigned = controller.bundles.assigned(&host.name, &labels);
    let bundles: Vec<BundleRef> = assigned
        .iter()
        .map(|assigned| BundleRef {
            name: assigned.name.clone(),
            revision: assigned.kept.revision.revision,
            digest: record::unhex(&assigned.kept.revision.digest),
        })
        .collect();
    let message =
        Assignment { seq: known.wanted, bundles: bundles.clone(), labels: labels.into_iter().collect() };
    // One that is away is told when it returns.
    if host.send(to_host::Message::Assignment(message)).is_ok() {
        known.told = Some(known.wanted);
        known.assignment = bundles;
    }
}
