//! Which hosts a revision has reached while it is on its way, and when it is settled. Every change is stored first,
//! and only as long as the revision is the latest.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::catalog::{BundleError, Bundles, Known};
use super::record::{self, Head};
use crate::records;
use crate::registry::Host;
use crate::store::{Expect, Store, StoreError, Transaction};

/// The latest revision, where that is a later one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Later {
    pub(crate) revision: u64,
    /// The operation that carries the revision before back to the hosts, because this one had failed.
    pub(crate) reverted_by: Option<String>,
}

impl Bundles {
    /// Stores that hosts should have this revision, together with `transaction`. Nothing is stored, and the answer is
    /// no, where it is not the latest any more.
    pub(crate) async fn reach(
        &self,
        store: &dyn Store,
        name: &str,
        revision: u64,
        hosts: &[String],
        transaction: Transaction,
    ) -> Result<bool, StoreError> {
        let _changing = self.changing.lock().await;
        let Some(known) = self.latest(name, revision) else { return Ok(false) };
        let settled = known.head.settled == revision;
        let transaction = hosts.iter().fold(transaction, |transaction, host| {
            let key = record::apart_key(name, host);
            match settled {
                true => transaction.delete_if(key, Expect::Anything),
                false => transaction.put(key, records::encode(&revision)),
            }
        });
        store.commit(transaction).await?;
        known.reach(hosts, revision);
        Ok(true)
    }

    /// From now on every host should have it, but for those that `wait` for their turn, which keep what they have;
    /// whether that is news.
    pub(crate) async fn settle(
        &self,
        store: &dyn Store,
        name: &str,
        revision: u64,
        wait: &BTreeSet<String>,
    ) -> Result<bool, BundleError> {
        let _changing = self.changing.lock().await;
        let Some(known) = self.latest(name, revision) else { return Ok(false) };
        let apart = known.apart();
        if known.head.settled == revision && (!wait.is_empty() || apart.is_empty()) {
            return Ok(false);
        }
        let head = records::encode(&Head { revision, settled: revision });
        let mut transaction =
            Transaction::default().put_if(record::head_key(name), Expect::Revision(known.stored), head);
        for host in apart.iter().filter(|host| !wait.contains(*host)) {
            transaction = transaction.delete_if(record::apart_key(name, host), Expect::Anything);
        }
        for host in wait {
            let keeps = records::encode(&known.number_on(host));
            transaction = transaction.put(record::apart_key(name, host), keeps);
        }
        store.commit(transaction).await?;
        self.reload(store, name).await?;
        Ok(true)
    }

    pub(crate) fn later_than(&self, name: &str, revision: u64) -> Option<Later> {
        let known = self.get(name)?;
        let latest = known.head.revision;
        let reverts = known.revisions.values().find(|kept| kept.revision.reverts == Some(revision));
        let reverted_by = reverts.map(|kept| kept.revision.operation.clone());
        (latest > revision).then_some(Later { revision: latest, reverted_by })
    }

    pub(crate) fn is_settled(&self, name: &str, revision: u64) -> bool {
        self.get(name).is_some_and(|known| known.head.settled >= revision)
    }

    /// Whether a host should have it at all.
    pub(crate) fn is_for(&self, name: &str, host: &Host) -> bool {
        self.get(name).is_some_and(|known| known.on(&host.name, &host.labels()).is_some())
    }

    fn latest(&self, name: &str, revision: u64) -> Option<Arc<Known>> {
        self.get(name).filter(|known| known.head.revision == revision)
    }
}
