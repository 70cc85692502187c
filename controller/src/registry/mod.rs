//! The hosts of the fleet as they are now: who is linked, which processes there are, and for a host that is
//! away what was last known. In memory, filled from the store at the start and kept by the store's watch and
//! by the links. Heartbeats and states are never stored.
//!
//! - [`host`]: one host, and the commands under way on it.
//! - [`inventory`]: what of it lasts, and when that is written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use fleetvisor_model::time::Wall;
use tokio::sync::broadcast;

use crate::grant::Grant;
use crate::records::{self, DESIRED, HOSTS, HostRecord, INVENTORY, InventoryRecord, RecordError};
use crate::store::{Change, Store, StoreError};

pub(crate) mod host;
pub(crate) mod inventory;

pub(crate) use host::Host;

/// Comings and goings that a listener may be behind; one that is further behind looks at all hosts.
const PRESENCE_BACKLOG: usize = 1024;

#[derive(Debug)]
pub(crate) struct Registry {
    hosts: RwLock<BTreeMap<String, Arc<Host>>>,
    links: AtomicU64,
    /// When this controller began to look: since then a host that was linked before is away.
    started: Wall,
    presence: broadcast::Sender<String>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl Registry {
    pub(crate) fn new(started: Wall) -> Registry {
        let presence = broadcast::Sender::new(PRESENCE_BACKLOG);
        Registry { hosts: RwLock::default(), links: AtomicU64::new(0), started, presence }
    }

    /// Names of hosts that come or go, or have other processes or labels, from now on.
    pub(crate) fn presence(&self) -> broadcast::Receiver<String> {
        self.presence.subscribe()
    }

    /// By name, in order.
    pub(crate) fn all(&self) -> Vec<Arc<Host>> {
        self.hosts().values().cloned().collect()
    }

    /// The host of this name, which must be enrolled; made if the watch has not brought it yet.
    pub(crate) fn host(&self, name: &str) -> Arc<Host> {
        if let Some(host) = self.hosts().get(name) {
            return host.clone();
        }
        self.hosts_mut()
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(Host::new(name, self.presence.clone())))
            .clone()
    }

    /// An id that no link had before.
    pub(crate) fn next_link(&self) -> u64 {
        self.links.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes up all that the store knows.
    pub(crate) async fn load(&self, store: &dyn Store) -> Result<(), RegistryError> {
        self.load_hosts(store).await?;
        for (key, record) in store.list(INVENTORY).await?.records {
            let inventory: InventoryRecord = records::decode(&key, &record)?;
            if let Some(host) = self.known(key.trim_start_matches(INVENTORY)) {
                host.remember(inventory, self.started);
            }
        }
        for (key, record) in store.list(DESIRED).await?.records {
            let name = key.trim_start_matches(DESIRED).split('/').next().unwrap_or_default();
            if let Some(host) = self.known(name) {
                host.set_desired(record.revision);
            }
        }
        Ok(())
    }

    /// Follows which hosts are enrolled, for as long as the store lives.
    pub(crate) async fn follow(&self, store: Arc<dyn Store>) {
        loop {
            let watched = match self.load_hosts(&*store).await {
                Ok(revision) => store.watch(HOSTS, revision).map_err(RegistryError::from),
                Err(error) => Err(error),
            };
            match watched {
                Ok(mut watch) => {
                    while let Some(change) = watch.next().await {
                        self.follow_change(&change);
                    }
                }
                Err(RegistryError::Store(StoreError::Closed)) => return,
                Err(error) => tracing::error!("cannot read which hosts are enrolled: {error}"),
            }
            // Fell behind, or the store was opened anew: once more from the beginning, without haste.
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    }

    async fn load_hosts(&self, store: &dyn Store) -> Result<u64, RegistryError> {
        let listing = store.list(HOSTS).await?;
        let mut found = BTreeSet::new();
        for (key, record) in &listing.records {
            let name = key.trim_start_matches(HOSTS);
            self.enrolled(name, records::decode(key, record)?, record.revision);
            found.insert(name);
        }
        let gone: Vec<Arc<Host>> =
            self.all().into_iter().filter(|host| !found.contains(host.name.as_str())).collect();
        for host in gone {
            self.forgotten(&host.name, listing.revision);
        }
        Ok(listing.revision)
    }

    /// Takes up a host's record, unless a later one is known. A link by another enrolment, or of a host that is
    /// revoked, ends.
    pub(crate) fn enrolled(&self, name: &str, record: HostRecord, revision: u64) {
        self.host(name).set_record(record, revision);
    }

    /// Drops a host whose record was deleted, unless it has enrolled again since.
    pub(crate) fn forgotten(&self, name: &str, revision: u64) {
        let mut hosts = self.hosts_mut();
        if let Some(host) = hosts.get(name)
            && host.recorded_at() < revision
        {
            host.forget("it is no longer enrolled");
            hosts.remove(name);
        }
    }

    /// Whether a certificate with this grant counts as the host's; else why not. An agent that is refused is
    /// remembered with its host.
    pub(crate) fn admit(&self, name: &str, grant: Option<Grant>, address: SocketAddr) -> Result<(), String> {
        match self.known(name) {
            Some(host) => host.admits(grant, address),
            None => Err(format!("host {name} is not enrolled")),
        }
    }

    fn follow_change(&self, change: &Change) {
        let name = change.key.trim_start_matches(HOSTS);
        match &change.record {
            Some(record) => match records::decode(&change.key, record) {
                Ok(decoded) => self.enrolled(name, decoded, record.revision),
                Err(error) => tracing::error!("{error}; this host stays as it was"),
            },
            None => self.forgotten(name, change.revision),
        }
    }

    pub(crate) fn known(&self, name: &str) -> Option<Arc<Host>> {
        self.hosts().get(name).cloned()
    }

    fn hosts(&self) -> RwLockReadGuard<'_, BTreeMap<String, Arc<Host>>> {
        self.hosts.read().expect("nothing panics while it holds the hosts")
    }

    fn hosts_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Arc<Host>>> {
        self.hosts.write().expect("nothing panics while it holds the hosts")
    }
}

#[cfg(test)]
mod tests {
    use fleetvisor_model::name::ProcessName;
    use fleetvisor_proto::fleet::HostState;

    use super::*;
    use crate::records::{DesiredRecord, Run};
    use crate::store::memory::MemoryStore;
    use crate::store::{Expect, Transaction};

    async fn enrol(store: &MemoryStore, host: &str) {
        let record = records::encode(&HostRecord { enrolled: 1, ..HostRecord::default() });
        store.commit(Transaction::default().put(records::host_key(host), record)).await.unwrap();
    }

    async fn until(mut condition: impl FnMut() -> bool) {
        let waited = async {
            while !condition() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), waited).await.unwrap();
    }

    #[tokio::test]
    async fn a_new_controller_knows_what_the_last_one_knew() {
        let store = MemoryStore::default();
        for host in ["a", "b", "c"] {
            enrol(&store, host).await;
        }
        let web = ProcessName::new("web", "web_00");
        for (host, away_since) in [("a", Some(5)), ("b", None)] {
            let record =
                InventoryRecord { processes: vec![web.clone()], away_since, ..InventoryRecord::default() };
            let key = records::inventory_key(host);
            store.commit(Transaction::default().put(key, records::encode(&record))).await.unwrap();
        }
        let wish = DesiredRecord { name: web.clone(), run: Run::Stopped, by: String::new(), at: 0 };
        let key = records::desired_key("a", &web);
        let revision = store.commit(Transaction::default().put(key, records::encode(&wish))).await.unwrap();

        let registry = Registry::new(Wall(99));
        registry.load(&store).await.unwrap();
        let seen: Vec<_> = registry.all().iter().map(|host| host.describe()).collect();
        let states: Vec<_> = seen.iter().map(|host| (host.state(), host.since, host.total)).collect();
        assert_eq!(
            states,
            [
                (HostState::Away, 5, 1),
                // Linked when the last controller ended: not seen since this one began.
                (HostState::Away, 99, 1),
                (HostState::NeverSeen, 0, 0),
            ]
        );
        assert_eq!((seen[0].desired_revision, seen[1].desired_revision), (revision, 0));
        let known = registry.host("a").processes();
        assert_eq!(known[0].process_state(), fleetvisor_model::state::ProcessState::Unknown);
    }

    #[tokio::test]
    async fn hosts_that_enrol_or_are_forgotten_are_followed() {
        let store = Arc::new(MemoryStore::default());
        enrol(&store, "a").await;
        let registry = Arc::new(Registry::new(Wall(0)));
        let following = tokio::spawn({
            let (registry, store) = (registry.clone(), store.clone());
            async move { registry.follow(store).await }
        });
        until(|| registry.all().len() == 1).await;
        enrol(&store, "b").await;
        until(|| registry.all().len() == 2).await;
        let forget = Transaction::default().delete_if(records::host_key("a"), Expect::Anything);
        store.commit(forget).await.unwrap();
        until(|| registry.all().len() == 1).await;
        following.abort();
    }
}
