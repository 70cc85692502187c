//! The store: everything that must outlive the controller, as records under text keys, each with the
//! revision that last wrote it. Owns the contract that every implementation keeps (one suite runs on all);
//! what the records mean is [`crate::records`]'s.
//!
//! - [`sled`]: on the local disk, flushed before anything is acknowledged.
//! - `memory`: for tests.
//! - [`state`]: what the two share: the records in memory, the conditions of a transaction, the watches.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

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

    /// Changes from now on to keys that begin with `prefix`. To miss nothing: watch, then list, then leave out
    /// the changes up to the listing's revision.
    fn watch(&self, prefix: &str) -> Watch;

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
    #[error("the store {path} is in use by another controller")]
    Locked { path: String },
    #[error("{path} holds no store")]
    Missing { path: String },
    /// The state on the disk is not what was acknowledged.
    #[error("the store {path} is damaged: {reason}; restore it from a backup")]
    Damaged { path: String, reason: String },
    #[error("cannot use the store {path}: {reason}")]
    Io { path: String, reason: String },
    #[error("the store is closed")]
    Closed,
}
