//! One host: whether it is linked, what it reported, and the commands under way on it. Every method is one
//! short step under the host's own lock, so no host waits for another. Whether a host may link, and
//! what is sent to it, is [`crate::link`]'s and [`crate::operations`]'.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fleetvisor_model::name::ProcessName;
use fleetvisor_model::state::ProcessState;
use fleetvisor_model::time::Wall;
use fleetvisor_proto::fleet::{self, HostState, RefusedAgent, ToHost, to_host};
use tokio::sync::{Notify, broadcast, mpsc};
use tokio::time::Instant;

use crate::bundles::told::Told;
use crate::clock;
use crate::grant::Grant;
use crate::pace::Pace;
use crate::reconcile::Observed;
use crate::records::{HostRecord, InventoryRecord};

/// A host that has missed two heartbeats may be another than it was.
const STALE: Duration = Duration::from_secs(11);
/// How long a refused agent is shown after its last attempt. Agents try again every minute or so.
const REFUSED_SHOWN: Duration = Duration::from_secs(600);

/// Links of one host: a bad network may cost it a few in a row.
const ARRIVALS_PER_SECOND: u32 = 1;
const ARRIVALS_BURST: u32 = 20;

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    /// Held while wishes are written and sent, so that they reach the host in the order of their revisions.
    pub(crate) lane: tokio::sync::Mutex<()>,
    /// Wakes this host's link, and no other: there may be something to tell it.
    pub(crate) news: Notify,
    /// What it was told of its bundles.
    pub(crate) told: Told,
    arrivals: Mutex<Pace>,
    known: Mutex<Known>,
    /// Told whenever it comes or goes, is revoked or let in again, has other processes or, from operators, other labels.
    presence: broadcast::Sender<String>,
}

#[derive(Debug)]
struct Known {
    presence: Presence,
    version: String,
    /// The host's own.
    labels: BTreeMap<String, String>,
    /// What the store says of it, and the revision that wrote it; 0 before that is known.
    record: HostRecord,
    recorded_at: u64,
    /// Nothing of it is stored any more.
    forgotten: bool,
    /// End of the latest certificate that is known to be in use; 0 for unknown.
    certificate_expires: Wall,
    processes: BTreeMap<ProcessName, Option<Seen>>,
    last_message: Option<Instant>,
    desired_revision: u64,
    observed_revision: u64,
    enforces: bool,
    stored: Option<InventoryRecord>,
    refused: Option<Refused>,
}

/// The latest agent that claimed this host's name and was refused.
#[derive(Debug)]
struct Refused {
    address: SocketAddr,
    at: Instant,
    reason: String,
}

/// What a host said of a process, and when it was heard.
#[derive(Debug)]
struct Seen {
    status: fleet::ProcessStatus,
    at: Instant,
}

#[derive(Debug)]
enum Presence {
    NeverSeen,
    Away { since: Wall },
    Online(Link),
}

#[derive(Debug)]
struct Link {
    id: u64,
    boot_id: String,
    address: SocketAddr,
    since: Wall,
    told: Option<u64>,
    outgoing: mpsc::Sender<ToHost>,
    end: Arc<End>,
    commands: HashMap<String, Answers>,
}

/// Tells a link's task that it shall end, and why.
#[derive(Debug, Default)]
pub(crate) struct End {
    reason: Mutex<Option<String>>,
    notify: Notify,
}

/// What a host answers to a command.
#[derive(Debug)]
pub(crate) enum Answer {
    Progress(fleet::Progress),
    Done(fleet::CommandDone),
}

/// Where the answers to a command go, with the number that tells the asker which host it is.
#[derive(Debug)]
pub(crate) struct Answers {
    pub(crate) to: mpsc::UnboundedSender<(usize, Answer)>,
    pub(crate) number: usize,
    /// A host that says more is not heard.
    pub(crate) most: usize,
}

/// What a link begins with.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) boot_id: String,
    pub(crate) version: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) observed_revision: u64,
    pub(crate) enforces: bool,
    pub(crate) address: SocketAddr,
    pub(crate) processes: Vec<(ProcessName, fleet::ProcessStatus)>,
    pub(crate) outgoing: mpsc::Sender<ToHost>,
}

/// What a change did to the set of processes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    /// Whether there are processes more or less.
    pub(crate) names: bool,
    pub(crate) total: usize,
}

/// Another agent holds the name.
#[derive(Debug)]
pub(crate) struct Taken {
    /// With both addresses.
    pub(crate) reason: String,
    /// Whether it is worth telling: the first such attempt from there for a while.
    pub(crate) news: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotLinked;

impl Host {
    pub(crate) fn new(name: &str, presence: broadcast::Sender<String>) -> Host {
        Host {
            presence,
            name: name.to_owned(),
            lane: tokio::sync::Mutex::default(),
            news: Notify::new(),
            told: Told::default(),
            arrivals: Mutex::new(Pace::new(ARRIVALS_PER_SECOND, ARRIVALS_BURST, Instant::now())),
            known: Mutex::new(Known {
                presence: Presence::NeverSeen,
                version: String::new(),
                labels: BTreeMap::new(),
                record: HostRecord::default(),
                recorded_at: 0,
                forgotten: false,
                certificate_expires: Wall(0),
                processes: BTreeMap::new(),
                last_message: None,
                desired_revision: 0,
                observed_revision: 0,
                enforces: false,
                stored: None,
                refused: None,
            }),
        }
    }

    /// Takes up what the store remembers of it.
    pub(super) fn remember(&self, inventory: InventoryRecord, started: Wall) {
        let mut known = self.known();
        known.presence = Presence::Away { since: inventory.away_since.map_or(started, Wall) };
        known.version = inventory.version.clone();
        known.labels = inventory.labels.clone();
        known.processes = inventory.processes.iter().map(|name| (name.clone(), None)).collect();
        known.stored = Some(inventory);
    }

    /// Whether a link may begin now, or else when: a host that dials again and again costs no more than its
    /// share.
    pub(crate) fn admit(&self) -> Result<(), Duration> {
        self.arrivals.lock().expect("nothing panics while it holds the pace").try_take(Instant::now())
    }

    /// Begins a link. A second agent is refused while the first is linked; the same agent that dialled again,
    /// because it lost a link that this side has not yet missed, replaces it.
    pub(crate) fn attach(&self, id: u64, arrival: Arrival) -> Result<Arc<End>, Taken> {
        let mut known = self.known();
        if let Presence::Online(link) = &known.presence {
            if link.boot_id != arrival.boot_id {
                let (by, from) = (link.address, arrival.address);
                let reason = format!(
                    "another agent at {by} is linked as host {}; this one, at {from}, is refused",
                    self.name
                );
                let news = known.refuse(from, &reason);
                return Err(Taken { reason, news });
            }
            link.end.because("the same agent has linked again");
        }
        let now = Instant::now();
        let end = Arc::new(End::default());
        known.version = arrival.version;
        known.labels = arrival.labels;
        known.processes = seen(arrival.processes, now);
        known.observed_revision = arrival.observed_revision;
        known.enforces = arrival.enforces;
        known.last_message = Some(now);
        known.presence = Presence::Online(Link {
            id,
            boot_id: arrival.boot_id,
            address: arrival.address,
            since: clock::now(),
            told: None,
            outgoing: arrival.outgoing,
            end: end.clone(),
            commands: HashMap::new(),
        });
        // Nobody has to listen.
        let _ = self.presence.send(self.name.clone());
        Ok(end)
    }

    /// Ends the link of this id: the host is away from now on, and who waits for an answer learns so. Nothing
    /// happens, and the answer is false, if another link has taken its place.
    pub(crate) fn detach(&self, id: u64) -> bool {
        let mut known = self.known();
        let current = matches!(&known.presence, Presence::Online(link) if link.id == id);
        if current {
            known.presence = Presence::Away { since: clock::now() };
            let _ = self.presence.send(self.name.clone());
        }
        current
    }

    /// Asks the link's task, if there is one, to end.
    pub(crate) fn end_link(&self, reason: &str) {
        if let Presence::Online(link) = &self.known().presence {
            link.end.because(reason);
        }
    }

    pub(crate) fn heard(&self) {
        self.known().last_message = Some(Instant::now());
    }

    /// Replaces all processes.
    pub(crate) fn report(&self, processes: Vec<(ProcessName, fleet::ProcessStatus)>) {
        let mut known = self.known();
        let before = std::mem::replace(&mut known.processes, seen(processes, Instant::now()));
        if !before.keys().eq(known.processes.keys()) {
            let _ = self.presence.send(self.name.clone());
        }
    }

    /// Adds, changes and removes processes.
    pub(crate) fn change(
        &self,
        changed: Vec<(ProcessName, fleet::ProcessStatus)>,
        removed: &[ProcessName],
    ) -> Changed {
        let mut known = self.known();
        let mut names = false;
        for (name, seen) in seen(changed, Instant::now()) {
            names |= known.processes.insert(name, seen).is_none();
        }
        for name in removed {
            names |= known.processes.remove(name).is_some();
        }
        if names {
            let _ = self.presence.send(self.name.clone());
        }
        Changed { names, total: known.processes.len() }
    }

    pub(crate) fn set_observed(&self, revision: u64) {
        self.known().observed_revision = revision;
    }

    /// Records that wishes up to this revision are stored.
    pub(crate) fn set_desired(&self, revision: u64) {
        let mut known = self.known();
        known.desired_revision = known.desired_revision.max(revision);
        drop(known);
        self.news.notify_one();
    }

    /// Records what [`crate::reconcile`] asks for; `None` while the host is away.
    pub(crate) fn observed(&self) -> Option<Observed> {
        let known = self.known();
        match &known.presence {
            Presence::Online(link) => {
                Some(Observed { told: link.told, carried_out: known.observed_revision })
            }
            Presence::NeverSeen | Presence::Away { .. } => None,
        }
    }

    /// Whether there are wishes that the present link has not been told.
    pub(crate) fn has_news(&self) -> bool {
        let known = self.known();
        match &known.presence {
            Presence::Online(link) => link.told.is_none_or(|told| told < known.desired_revision),
            Presence::NeverSeen | Presence::Away { .. } => false,
        }
    }

    /// Queues a message. A host that takes none any more is as good as away: its link is ended.
    pub(crate) fn send(&self, message: to_host::Message) -> Result<(), NotLinked> {
        self.known().send(message)
    }

    /// Queues wishes up to `revision`; the caller holds the lane.
    pub(crate) fn tell(&self, message: to_host::Message, revision: u64) -> Result<(), NotLinked> {
        let mut known = self.known();
        known.send(message)?;
        if let Presence::Online(link) = &mut known.presence {
            link.told = Some(revision.max(link.told.unwrap_or(0)));
        }
        Ok(())
    }

    /// Queues a command, and gives the link's number; answers over another link are not to be expected. The
    /// caller holds the lane.
    pub(crate) fn command(&self, command: fleet::Command, answers: Answers) -> Result<u64, NotLinked> {
        let (id, revision) = (command.id.clone(), command.desired.as_ref().map(|desired| desired.revision));
        let mut known = self.known();
        known.send(to_host::Message::Command(command))?;
        let Presence::Online(link) = &mut known.presence else { return Err(NotLinked) };
        link.commands.insert(id, answers);
        link.told = link.told.max(revision);
        Ok(link.id)
    }

    /// Passes an answer to whoever gave the command. One that nobody waits for is dropped.
    pub(crate) fn answer(&self, id: &str, answer: Answer) {
        let mut known = self.known();
        let Presence::Online(link) = &mut known.presence else { return };
        if let Some(answers) = link.commands.get_mut(id) {
            let (done, count) = match &answer {
                Answer::Progress(progress) => (false, progress.results.len()),
                Answer::Done(_) => (true, 0),
            };
            if count > answers.most {
                return tracing::debug!("host {}: too many answers to command {id}", self.name);
            }
            answers.most -= count;
            let _ = answers.to.send((answers.number, answer));
            if done {
                link.commands.remove(id);
            }
        }
    }

    /// Number of the present link; none while it is away.
    pub(crate) fn link(&self) -> Option<u64> {
        match &self.known().presence {
            Presence::Online(link) => Some(link.id),
            Presence::NeverSeen | Presence::Away { .. } => None,
        }
    }

    pub(crate) fn is_online(&self) -> bool {
        matches!(self.known().presence, Presence::Online(_))
    }

    /// Whether an operator has made its certificates void, and it has not enrolled since.
    pub(crate) fn is_revoked(&self) -> bool {
        self.known().record.revoked.is_some()
    }

    /// Its own, with those that operators gave it in their place.
    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        self.known().effective_labels()
    }

    /// Takes up what the store says of it, unless something later is known.
    pub(super) fn set_record(&self, record: HostRecord, revision: u64) {
        let mut known = self.known();
        if revision <= known.recorded_at {
            return;
        }
        let first = known.recorded_at == 0;
        let other_grant = known.record.grant != record.grant;
        let other_labels = known.record.labels != record.labels;
        let other_standing = known.record.revoked.is_some() != record.revoked.is_some();
        known.recorded_at = revision;
        known.record = record;
        if other_grant
            && !first
            && let Presence::Online(link) = &known.presence
        {
            link.end.because(&match &known.record.revoked {
                Some(revoked) => format!("host {} has been revoked by {}", self.name, revoked.by),
                None => format!("host {} has enrolled anew", self.name),
            });
        }
        drop(known);
        if other_standing && !first {
            let _ = self.presence.send(self.name.clone());
        }
        if other_labels {
            // Which bundles it should have, and what they say there, may be others now.
            self.told.touch();
            self.news.notify_one();
            let _ = self.presence.send(self.name.clone());
        }
    }

    /// Ends what is left of it: its link, and its place in the store.
    pub(super) fn forget(&self, reason: &str) {
        let mut known = self.known();
        known.forgotten = true;
        if let Presence::Online(link) = &known.presence {
            link.end.because(reason);
        }
    }

    pub(super) fn recorded_at(&self) -> u64 {
        self.known().recorded_at
    }

    /// Whether a certificate with this grant counts; else why not.
    pub(super) fn admits(&self, grant: Option<Grant>, address: SocketAddr) -> Result<(), String> {
        let mut known = self.known();
        let name = &self.name;
        if grant.is_some() && grant == known.record.grant && known.record.revoked.is_none() {
            return Ok(());
        }
        let reason = match &known.record.revoked {
            Some(revoked) => format!(
                "host {name} has been revoked by {}; to let it in again, give it a token made with \
                 `ctl host token --host {name}`",
                revoked.by
            ),
            None => format!("host {name} has enrolled anew since this certificate was made"),
        };
        known.refuse(address, &reason);
        Err(reason)
    }

    /// Notes until when the certificate in use is valid.
    pub(crate) fn set_certificate_expires(&self, expires: Wall) {
        let mut known = self.known();
        known.certificate_expires = known.certificate_expires.max(expires);
    }

    /// Whether the host is linked, and the certificate that it has or could have renewed ended before `now`.
    pub(crate) fn outlives_its_certificate(&self, now: Wall) -> bool {
        let known = self.known();
        let ends = known.certificate_expires;
        matches!(known.presence, Presence::Online(_)) && ends.0 > 0 && ends < now
    }

    /// Names of all its processes, in order.
    pub(crate) fn process_names(&self) -> Vec<ProcessName> {
        self.known().processes.keys().cloned().collect()
    }

    /// All its processes in order, uptimes as of now or, for a host that is away, of its last message. A
    /// process of which only the name is known is UNKNOWN.
    pub(crate) fn processes(&self) -> Vec<fleet::ProcessStatus> {
        let known = self.known();
        let until = match &known.presence {
            Presence::Online(_) => Some(Instant::now()),
            Presence::NeverSeen | Presence::Away { .. } => known.last_message,
        };
        let shown = |(name, seen): (&ProcessName, &Option<Seen>)| match seen {
            None => fleet::ProcessStatus::unknown(name),
            Some(seen) => {
                let mut status = seen.status.clone();
                if let Some(until) = until
                    && status.process_state() == ProcessState::Running
                {
                    status.uptime_ms = status.uptime_ms.saturating_add(millis(seen.at, until));
                }
                status
            }
        };
        known.processes.iter().map(shown).collect()
    }

    /// The host as callers see it.
    pub(crate) fn describe(&self) -> fleet::Host {
        let bundles = self.told.describe();
        let known = self.known();
        let (state, since, address) = match &known.presence {
            Presence::NeverSeen => (HostState::NeverSeen, 0, String::new()),
            Presence::Away { since } => (HostState::Away, since.0, String::new()),
            Presence::Online(link) => (HostState::Online, link.since.0, link.address.to_string()),
        };
        let (state, since) = match &known.record.revoked {
            Some(revoked) => (HostState::Revoked, revoked.at),
            None => (state, since),
        };
        let silent = known.last_message.is_none_or(|at| at.elapsed() > STALE);
        let running = |seen: &Option<Seen>| {
            seen.as_ref().is_some_and(|seen| seen.status.process_state() == ProcessState::Running)
        };
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        fleet::Host {
            name: self.name.clone(),
            state: state.into(),
            labels: known.effective_labels().into_iter().collect(),
            operator_labels: known.record.labels.clone().into_iter().collect(),
            version: known.version.clone(),
            address,
            since,
            report_age_ms: known.last_message.map_or(0, |at| millis(at, Instant::now())),
            running: count(known.processes.values().filter(|seen| running(seen)).count()),
            total: count(known.processes.len()),
            desired_revision: known.desired_revision,
            observed_revision: known.observed_revision,
            enforces: known.enforces,
            stale: state != HostState::Online || silent,
            certificate_expires: known.certificate_expires.0,
            refused: known.refused.as_ref().filter(|refused| refused.at.elapsed() < REFUSED_SHOWN).map(
                |refused| RefusedAgent {
                    address: refused.address.to_string(),
                    age_ms: millis(refused.at, Instant::now()),
                    reason: refused.reason.clone(),
                },
            ),
            bundles,
        }
    }

    /// What of it should be stored, if that is not what is stored.
    pub(super) fn unstored_inventory(&self) -> Option<InventoryRecord> {
        let known = self.known();
        if known.forgotten {
            return None;
        }
        let away_since = match &known.presence {
            Presence::NeverSeen => return None,
            Presence::Away { since } => Some(since.0),
            Presence::Online(_) => None,
        };
        let inventory = InventoryRecord {
            version: known.version.clone(),
            labels: known.labels.clone(),
            processes: known.processes.keys().cloned().collect(),
            away_since,
        };
        (known.stored.as_ref() != Some(&inventory)).then_some(inventory)
    }

    pub(super) fn set_stored(&self, inventory: InventoryRecord) {
        self.known().stored = Some(inventory);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nothing panics while it holds a host")
    }
}

impl Known {
    fn effective_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        labels.extend(self.record.labels.clone());
        labels
    }

    /// Remembers a refused agent. Whether it is the first one from its machine for a while.
    fn refuse(&mut self, address: SocketAddr, reason: &str) -> bool {
        let at = Instant::now();
        let told = self.refused.as_ref().is_some_and(|refused| {
            refused.address.ip() == address.ip() && at.duration_since(refused.at) < REFUSED_SHOWN
        });
        self.refused = Some(Refused { address, at, reason: reason.to_owned() });
        !told
    }

    fn send(&mut self, message: to_host::Message) -> Result<(), NotLinked> {
        let Presence::Online(link) = &self.presence else { return Err(NotLinked) };
        link.outgoing.try_send(ToHost { message: Some(message) }).map_err(|_| {
            link.end.because("it does not take what is sent to it");
            NotLinked
        })
    }
}

impl End {
    pub(crate) async fn requested(&self) -> String {
        self.notify.notified().await;
        self.reason.lock().expect("nothing panics while it holds the reason").clone().unwrap_or_default()
    }

    fn because(&self, reason: &str) {
        *self.reason.lock().expect("nothing panics while it holds the reason") = Some(reason.to_owned());
        self.notify.notify_one();
    }
}

fn seen(
    processes: Vec<(ProcessName, fleet::ProcessStatus)>,
    at: Instant,
) -> BTreeMap<ProcessName, Option<Seen>> {
    processes.into_iter().map(|(name, status)| (name, Some(Seen { status, at }))).collect()
}

fn millis(from: Instant, until: Instant) -> u64 {
    u64::try_from(until.saturating_duration_since(from).as_millis()).unwrap_or(u64::MAX)
}
