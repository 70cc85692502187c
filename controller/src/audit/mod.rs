//! The audit log: every change with who, what, when and how it came out, as records of the store under numbers
//! without gaps, chained by hash ([`fleetvisor_proto::audit`]). A change and its record are one transaction, so
//! neither is acknowledged without the other. Owns appending; [`read`] reads and checks, [`archive`] bounds what the
//! store keeps of it.
//!
//! What goes in is named by the code that did it. No secret is in reach of it: tokens are named by their id,
//! certificates by their owner.

pub(crate) mod archive;
pub(crate) mod read;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use fleetvisor_proto::audit::{Head, parse_hash};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Notify};

use crate::clock;
use crate::store::{Expect, Record, Store, StoreError, Transaction};

pub(crate) const AUDIT: &str = "audit/";
/// The place that the store's first record follows, where earlier ones are archived.
pub(crate) const BASE: &str = "audit-base";
/// Hosts that a record names; of an operation on more it has the number alone.
const HOSTS_MAX: usize = 256;
const TEXT_MAX: usize = 2048;

/// Appends to the log. One at a time: a record's place is settled by the commit of the one before.
pub(crate) struct Audit {
    store: Arc<dyn Store>,
    /// `None` before the first, and after a commit of which it is not known how it came out.
    head: Mutex<Option<Head>>,
    /// There is another file's worth of records.
    filled: Notify,
}

/// Something that was done or tried. The payload of a record, with the moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Microseconds since the Unix epoch, by the controller's clock.
    pub(crate) at: i64,
    /// `operator alice`, `host web-01`, `the controller`.
    pub(crate) who: String,
    /// Address it was asked from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) from: String,
    /// Kind of change: `host.revoke`, `token.create`.
    pub(crate) what: String,
    /// What it was done to, as it is named: `web-01`, `operator bob`, a token's id, an operation's id.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) subject: String,
    /// Hosts that it concerns. Empty with `hosts_total` above 0 where they are too many to name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) hosts: Vec<String>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) hosts_total: u64,
    /// Further words for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) detail: String,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Done,
    /// Begun; a later record of the same subject has the end.
    Started,
    /// Tried, and not allowed.
    Refused,
    Failed,
}

impl Entry {
    /// `who` did `what` to `subject`, now, and it is done.
    pub(crate) fn new(who: impl fmt::Display, what: &str, subject: impl Into<String>) -> Entry {
        Entry {
            at: clock::now().0,
            who: cut(who.to_string()),
            from: String::new(),
            what: what.to_owned(),
            subject: cut(subject.into()),
            hosts: Vec::new(),
            hosts_total: 0,
            detail: String::new(),
            outcome: Outcome::Done,
        }
    }

    pub(crate) fn from(mut self, address: SocketAddr) -> Entry {
        self.from = address.to_string();
        self
    }

    pub(crate) fn host(self, name: &str) -> Entry {
        self.hosts([name.to_owned()])
    }

    pub(crate) fn hosts(mut self, names: impl IntoIterator<Item = String>) -> Entry {
        let names: Vec<String> = names.into_iter().collect();
        self.hosts_total = u64::try_from(names.len()).unwrap_or(u64::MAX);
        self.hosts = if names.len() > HOSTS_MAX { Vec::new() } else { names };
        self
    }

    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Entry {
        self.detail = cut(detail.into());
        self
    }

    pub(crate) fn outcome(mut self, outcome: Outcome) -> Entry {
        self.outcome = outcome;
        self
    }
}

impl Audit {
    pub(crate) fn new(store: Arc<dyn Store>) -> Audit {
        Audit { store, head: Mutex::new(None), filled: Notify::new() }
    }

    /// Commits a change together with its record: all of it, or nothing.
    pub(crate) async fn commit(&self, entry: Entry, transaction: Transaction) -> Result<u64, StoreError> {
        let payload = serde_json::to_vec(&entry).expect("an entry is plain data");
        let mut head = self.head.lock().await;
        loop {
            // Taken out: if this is dropped or fails on the way, the next one looks anew.
            let last = match head.take() {
                Some(last) => last,
                None => read::head(&*self.store).await?,
            };
            let next = last.next(&payload);
            let key = key(next.seq);
            let transaction =
                transaction.clone().put_if(key.clone(), Expect::Absent, encode(&next, &payload));
            match self.store.commit(transaction).await {
                Ok(revision) => {
                    if next.seq.is_multiple_of(archive::TOGETHER) {
                        self.filled.notify_one();
                    }
                    *head = Some(next);
                    return Ok(revision);
                }
                // The place is taken: behind that one, then.
                Err(StoreError::Conflict { key: conflict }) if conflict == key => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Records what changed nothing in the store.
    pub(crate) async fn record(&self, entry: Entry) -> Result<u64, StoreError> {
        self.commit(entry, Transaction::default()).await
    }

    /// As [`Audit::record`], where nobody could do anything about a failure but read of it in the log.
    pub(crate) async fn note(&self, entry: Entry) {
        let what = entry.what.clone();
        if let Err(error) = self.record(entry).await {
            tracing::error!("cannot write the audit record of {what}: {error}");
        }
    }
}

/// Numbers in keys sort as numbers.
fn key(seq: u64) -> String {
    format!("{AUDIT}{seq:020}")
}

fn encode(head: &Head, payload: &[u8]) -> Vec<u8> {
    [head.hash_text().as_bytes(), b"\n", payload].concat()
}

/// A record as it is stored: hash in hexadecimal digits, a line feed, the payload.
fn decode(key: &str, record: &Record) -> Option<(Head, Vec<u8>)> {
    let seq = key.strip_prefix(AUDIT)?.parse().ok()?;
    let (hash, rest) = record.value.split_at_checked(64)?;
    let hash = parse_hash(std::str::from_utf8(hash).ok()?)?;
    Some((Head { seq, hash }, rest.strip_prefix(b"\n")?.to_vec()))
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What an outsider words does not make a record large.
fn cut(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        let end = (0..=TEXT_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    fn entry(n: usize) -> Entry {
        Entry::new("operator alice", "host.label", format!("web-{n}"))
    }

    fn put(key: &str, expect: Expect) -> Transaction {
        Transaction::default().put_if(key.to_owned(), expect, b"x".to_vec())
    }

    #[tokio::test]
    async fn a_change_and_its_record_are_made_together_or_not_at_all() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let audit = Audit::new(store.clone());
        audit.commit(entry(1), put("a", Expect::Absent)).await.unwrap();
        let refused = audit.commit(entry(2), put("a", Expect::Absent)).await;
        assert_eq!(refused, Err(StoreError::Conflict { key: "a".to_owned() }));
        audit.commit(entry(3), put("b", Expect::Absent)).await.unwrap();
        let listing = store.list(AUDIT).await.unwrap();
        let subject = |(key, record): &(String, Record)| {
            serde_json::from_slice::<Entry>(&decode(key, record).unwrap().1).unwrap().subject
        };
        let subjects: Vec<String> = listing.records.iter().map(subject).collect();
        assert_eq!(subjects, ["web-1", "web-3"]);
        assert_eq!(read::verify(Head::START, &listing).unwrap().seq, 2);
        assert!(store.get("b").await.unwrap().is_some());
    }

    #[tokio::test]
    async fn two_who_append_at_once_get_a_place_each() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        // As two controllers on one store would.
        let (one, other) = (Audit::new(store.clone()), Audit::new(store.clone()));
        for n in 0..20 {
            let (a, b) = tokio::join!(one.record(entry(n)), other.record(entry(n)));
            a.unwrap();
            b.unwrap();
        }
        assert_eq!(read::verify(Head::START, &store.list(AUDIT).await.unwrap()).unwrap().seq, 40);
    }

    #[tokio::test]
    async fn a_commit_that_is_dropped_on_the_way_does_not_hold_up_the_next() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let audit = Audit::new(store.clone());
        audit.record(entry(1)).await.unwrap();
        drop(audit.record(entry(2)));
        audit.record(entry(3)).await.unwrap();
        read::verify(Head::START, &store.list(AUDIT).await.unwrap()).unwrap();
    }

    #[test]
    fn a_record_stays_small_whatever_goes_in() {
        let long = "ä".repeat(5000);
        let hosts = (0..5000).map(|n| format!("host-{n}"));
        let entry = Entry::new(&long, "run", long.clone()).detail(long.clone()).hosts(hosts);
        assert!(serde_json::to_vec(&entry).unwrap().len() < 8 * 1024);
        assert_eq!((entry.hosts.len(), entry.hosts_total), (0, 5000));
    }
}
