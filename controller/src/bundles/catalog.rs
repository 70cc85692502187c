//! All bundles as the store has them, in memory, and which of them a host should have. What a host should have
//! follows from the bundles, its name and its labels. While a rollout is on its way, it is kept for each host that it
//! has reached; the others should have what they had before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, RwLock};

use fleetvisor_proto::fleet::BundleContent;
use prost::Message;

use super::record::{self, BUNDLES, Head, Revision};
use crate::records::{self, RecordError};
use crate::select::{Selection, SelectionError};
use crate::store::{Store, StoreError};

#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("bundle {name}: its scope cannot be read: {source}")]
    Scope { name: String, source: SelectionError },
    #[error("bundle {name}: the content of revision {revision} is not in the store, or damaged")]
    Content { name: String, revision: u64 },
}

const NO_PANIC: &str = "nothing panics while it holds the bundles";

/// Shared by all calls.
#[derive(Debug, Default)]
pub(crate) struct Bundles {
    known: RwLock<BTreeMap<String, Arc<Known>>>,
    /// Held while one is changed: what is decided on must not change meanwhile.
    pub(super) changing: tokio::sync::Mutex<()>,
}

/// One bundle with the revisions that are kept.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) name: String,
    pub(super) head: Head,
    /// Revision of the store that wrote the head.
    pub(super) stored: u64,
    pub(super) revisions: BTreeMap<u64, Arc<Kept>>,
    /// Hosts that should have another revision than the settled one: a later one that has reached them, or an earlier
    /// one, where they were away at their turn.
    apart: RwLock<BTreeMap<String, u64>>,
}

#[derive(Debug)]
pub(super) struct Kept {
    pub(super) revision: Revision,
    selection: Selection,
}

/// A bundle at the revision that a host should have.
#[derive(Clone, Debug)]
pub(super) struct Assigned {
    pub(super) name: String,
    pub(super) kept: Arc<Kept>,
}

impl Kept {
    pub(super) fn includes(&self, host: &str, labels: &BTreeMap<String, String>) -> bool {
        !self.revision.is_deleted() && self.selection.includes(host, labels)
    }
}

impl Known {
    pub(super) fn latest(&self) -> Option<&Arc<Kept>> {
        self.revisions.get(&self.head.revision)
    }

    /// What a host should have of it.
    pub(super) fn on(&self, host: &str, labels: &BTreeMap<String, String>) -> Option<&Arc<Kept>> {
        self.revisions.get(&self.number_on(host)).filter(|kept| kept.includes(host, labels))
    }

    /// The revision that decides what a host should have; 0 for none.
    pub(super) fn number_on(&self, host: &str) -> u64 {
        self.apart.read().expect(NO_PANIC).get(host).copied().unwrap_or(self.head.settled)
    }

    /// What it should have once all of the latest has arrived.
    pub(super) fn finally_on(&self, host: &str, labels: &BTreeMap<String, String>) -> Option<&Arc<Kept>> {
        self.latest().filter(|kept| kept.includes(host, labels))
    }

    /// Revisions that some host should have.
    pub(super) fn in_use(&self) -> BTreeSet<u64> {
        let apart = self.apart.read().expect(NO_PANIC);
        apart.values().copied().chain([self.head.settled]).collect()
    }

    /// Hosts that should have another revision than the settled one.
    pub(super) fn apart(&self) -> Vec<String> {
        self.apart.read().expect(NO_PANIC).keys().cloned().collect()
    }

    /// These hosts should have this revision from now on; it is stored.
    pub(super) fn reach(&self, hosts: &[String], revision: u64) {
        let mut apart = self.apart.write().expect(NO_PANIC);
        for host in hosts {
            match revision == self.head.settled {
                true => apart.remove(host),
                false => apart.insert(host.clone(), revision),
            };
        }
    }
}

impl Bundles {
    /// Takes up all that the store knows.
    pub(crate) async fn load(&self, store: &dyn Store) -> Result<(), BundleError> {
        let listing = store.list(BUNDLES).await?;
        let names: BTreeSet<&str> = listing
            .records
            .iter()
            .filter_map(|(key, _)| key.strip_prefix(BUNDLES)?.split('/').next())
            .collect();
        for name in names {
            self.reload(store, name).await?;
        }
        Ok(())
    }

    /// Reads one bundle as it is in the store now.
    pub(super) async fn reload(&self, store: &dyn Store, name: &str) -> Result<(), BundleError> {
        let prefix = format!("{}revision/", record::bundle_prefix(name));
        let Some(head_record) = store.get(&record::head_key(name)).await? else {
            self.write().remove(name);
            return Ok(());
        };
        let head: Head = records::decode(&record::head_key(name), &head_record)?;
        let mut revisions = BTreeMap::new();
        for (key, found) in store.list(&prefix).await?.records {
            let revision: Revision = records::decode(&key, &found)?;
            let selection = Selection::parse(Some(revision.scope()), Vec::new())
                .map_err(|source| BundleError::Scope { name: name.to_owned(), source })?;
            revisions.insert(revision.revision, Arc::new(Kept { revision, selection }));
        }
        let mut apart = BTreeMap::new();
        let prefix = record::apart_prefix(name);
        for (key, found) in store.list(&prefix).await?.records {
            apart.insert(key[prefix.len()..].to_owned(), records::decode(&key, &found)?);
        }
        let apart = RwLock::new(apart);
        let known = Known { name: name.to_owned(), head, stored: head_record.revision, revisions, apart };
        self.write().insert(name.to_owned(), Arc::new(known));
        Ok(())
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<Known>> {
        self.read().get(name).cloned()
    }

    /// By name, with those that were deleted.
    pub(super) fn all(&self) -> Vec<Arc<Known>> {
        self.read().values().cloned().collect()
    }

    /// What a host should have, by name.
    pub(super) fn assigned(&self, host: &str, labels: &BTreeMap<String, String>) -> Vec<Assigned> {
        let known = self.read();
        let on = |bundle: &Arc<Known>| {
            bundle.on(host, labels).map(|kept| Assigned { name: bundle.name.clone(), kept: kept.clone() })
        };
        known.values().filter_map(on).collect()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Arc<Known>>> {
        self.known.read().expect(NO_PANIC)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<String, Arc<Known>>> {
        self.known.write().expect(NO_PANIC)
    }
}

/// The files of a revision.
pub(super) async fn content(
    store: &dyn Store,
    name: &str,
    revision: &Revision,
) -> Result<BundleContent, BundleError> {
    let damaged = || BundleError::Content { name: name.to_owned(), revision: revision.revision };
    let record = store.get(&record::content_key(name, &revision.digest)).await?.ok_or_else(damaged)?;
    let content = BundleContent::decode(&*record.value).map_err(|_| damaged())?;
    if record::digest(&content) == revision.digest { Ok(content) } else { Err(damaged()) }
}
