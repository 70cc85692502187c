//! The store: everything that must outlive the controller, as records under text keys, each with the
//! revision that last wrote it. Owns the contract that every implementation keeps (one suite runs on all);
//! what the records mean is [`crate::records`]'s.
//!
//! - [`sled`]: on the local disk, flushed before anything is acknowledged.
//! - `memory`: for tests.
//! - [`state`], [`claims`]: what the two share: the records in memory, the conditions of a transaction, the
//!   watches; who holds which claim.
//! - [`backup`]: all records as one file.
//!
//! The contract is one that a cluster (etcd) can keep too: nothing in it needs the records to be in this
//! process, and whoever acts for all controllers holds a claim.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

pub(crate) mod backup;
mod claims;
#[cfg(test)]
pub(crate) mod memory;
pub(crate) mod sled;
mod state;
#[cfg(test)]
mod suite;

/// Largest value, in bytes.
pub(crate) const VALUE_MAX: usize = 1 << 20;
/// Longest key, in bytes.
pub(crate) const KEY_MAX: usize = 1024;

/// Records under keys, changed by transactions. Revisions count the transactions: 1 for the first, without
/// gaps. A read sees only what is durable.
pub(crate) trait Store: Send + Sync + 'static {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Record>, StoreError>>;

    /// All keys that begin with `prefix`, in order.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>>;

    /// Carries out all of a transaction or nothing. Once it returns `Ok`, with the revision that the records
    /// now have, the change survives whatever happens to the controller.
    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Changes after the revision `after` to keys that begin with `prefix`, the earliest first: list, then watch
    /// from the listing's revision, and nothing is missed. [`StoreError::Compacted`] where changes that old are
    /// no longer known: list again.
    fn watch(&self, prefix: &str, after: u64) -> Result<Watch, StoreError>;

    /// Takes `name` for `holder`, or keeps it, until the lease has run out. No two holders have one name at
    /// one time; who wants to keep it claims it again before its end.
    fn claim<'a>(
        &'a self,
        name: &'a str,
        holder: &'a str,
        lease: Duration,
    ) -> BoxFuture<'a, Result<Claim, StoreError>>;

    /// Gives a claim back before its lease has run out; nothing where somebody else holds it.
    fn release<'a>(&'a self, name: &'a str, holder: &'a str) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Why writes fail at present; `Ok` where they do not.
    fn usable(&self) -> Result<(), StoreError>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) value: Arc<[u8]>,
    /// Of the transaction that wrote it.
    pub(crate) revision: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) records: Vec<(String, Record)>,
    /// Of the whole store when it was read.
    pub(crate) revision: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    Held,
    HeldBy(String),
}

/// What a record must be for a transaction to be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    Anything,
    Absent,
    Revision(u64),
}

/// Writes that belong together. Conditions are judged before the first of them is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Transaction {
    writes: Vec<Write>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Write {
    key: String,
    expect: Expect,
    /// `None` deletes.
    value: Option<Vec<u8>>,
}

impl Transaction {
    pub(crate) fn put(mut self, key: String, value: Vec<u8>) -> Transaction {
        self.writes.push(Write { key, expect: Expect::Anything, value: Some(value) });
        self
    }

    pub(crate) fn put_if(mut self, key: String, expect: Expect, value: Vec<u8>) -> Transaction {
        self.writes.push(Write { key, expect, value: Some(value) });
        self
    }

    pub(crate) fn delete_if(mut self, key: String, expect: Expect) -> Transaction {
        self.writes.push(Write { key, expect, value: None });
        self
    }
}

/// One record that changed; no record where it was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) key: String,
    pub(crate) record: Option<Record>,
    pub(crate) revision: u64,
}

/// Ends when the store does, or when the watcher fell too far behind: then list again.
#[derive(Debug)]
pub(crate) struct Watch {
    changes: mpsc::Receiver<Change>,
}

impl Watch {
    pub(crate) async fn next(&mut self) -> Option<Change> {
        self.changes.recv().await
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    /// Somebody else was first: read again and decide again.
    #[error("{key} has been changed by somebody else")]
    Conflict { key: String },
    #[error("{key}: a value of {size} bytes is too large (the limit is {VALUE_MAX})")]
    TooLarge { key: String, size: usize },
    #[error("{key:?} cannot be a key of the store")]
    Key { key: String },
    /// List again, and watch from there.
    #[error("changes before revision {revision} are no longer known")]
    Compacted { revision: u64 },
    #[error("the store {path} is in use by another controller")]
    Locked { path: String },
    #[error("{path} holds no store")]
    Missing { path: String },
    /// The state on the disk is not what was acknowledged.
    #[error(
        "the store {path} is damaged: {reason}; restore it from a backup (fleetvisor-controller restore)"
    )]
    Damaged { path: String, reason: String },
    #[error("cannot use the store {path}: {reason}")]
    Io { path: String, reason: String },
    #[error("the store is closed")]
    Closed,
}
