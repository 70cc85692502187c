//! Reading the audit log: for a caller who filters it and may follow it, and for whoever checks that it is whole.

use std::sync::Arc;

use fleetvisor_proto::audit::{Broken, Head};
use fleetvisor_proto::fleet::{AuditRecord, AuditRequest};
use glob::Pattern;
use tokio::sync::mpsc;
use tonic::Status;

use super::{AUDIT, BASE, Entry, decode};
use crate::records;
use crate::status::Failure;
use crate::store::{Listing, Record, Store, StoreError};

/// Records that wait for a caller at most.
const WAITING_MAX: usize = 64;
const GLOB_MAX: usize = 512;

#[derive(Debug, thiserror::Error)]
pub(crate) enum AuditError {
    #[error("the audit log is broken: {0}")]
    Broken(#[from] Broken),
    #[error("the audit log is broken: {key} cannot be read")]
    Unreadable { key: String },
}

/// Checks a listing of `audit/` that begins behind `base`: every record in its place and as it was written. Returns
/// the last place.
pub(crate) fn verify(base: Head, listing: &Listing) -> Result<Head, AuditError> {
    let mut head = base;
    for (key, record) in &listing.records {
        let unreadable = || AuditError::Unreadable { key: key.clone() };
        let (found, payload) = decode(key, record).ok_or_else(unreadable)?;
        head.follow(found.seq, &found.hash, &payload)?;
        serde_json::from_slice::<Entry>(&payload).map_err(|_| unreadable())?;
    }
    Ok(head)
}

/// The place that the store's first record follows.
pub(crate) async fn base(store: &dyn Store) -> Result<Head, StoreError> {
    store.get(BASE).await?.map_or(Ok(Head::START), |record| base_of(&record))
}

/// What is stored under [`BASE`].
pub(crate) fn base_of(record: &Record) -> Result<Head, StoreError> {
    let text: Option<String> = records::decode(BASE, record).ok();
    text.and_then(|text| text.parse().ok()).ok_or_else(|| StoreError::Damaged {
        path: BASE.to_owned(),
        reason: "it is no place in the audit log".to_owned(),
    })
}

/// The store's records, and the place that the first of them follows.
pub(crate) async fn listed(store: &dyn Store) -> Result<(Head, Listing), StoreError> {
    loop {
        let base = base(store).await?;
        let listing = store.list(AUDIT).await?;
        // Unless some were archived in between.
        if self::base(store).await? == base {
            return Ok((base, listing));
        }
    }
}

/// The last place that is taken.
pub(super) async fn head(store: &dyn Store) -> Result<Head, StoreError> {
    let listing = store.list(AUDIT).await?;
    let Some((key, record)) = listing.records.last() else { return base(store).await };
    decode(key, record)
        .map(|(head, _)| head)
        .ok_or_else(|| StoreError::Damaged { path: key.clone(), reason: "it is no audit record".to_owned() })
}

/// What a caller wants of the log.
#[derive(Debug)]
struct Filter {
    since: i64,
    who: Option<Pattern>,
    host: Option<Pattern>,
}

impl Filter {
    fn parse(request: &AuditRequest) -> Result<Filter, Status> {
        Ok(Filter { since: request.since, who: glob(&request.who)?, host: glob(&request.host)? })
    }

    /// Whether it lets everything through.
    fn is_open(&self) -> bool {
        self.since <= 0 && self.who.is_none() && self.host.is_none()
    }

    fn passes(&self, payload: &[u8]) -> bool {
        if self.is_open() {
            return true;
        }
        // What cannot be read is not hidden.
        let Ok(entry) = serde_json::from_slice::<Entry>(payload) else { return true };
        let who = |pattern: &Pattern| {
            let name = entry.who.split_once(' ').map_or("", |(_, name)| name);
            pattern.matches(&entry.who) || pattern.matches(name)
        };
        let host = |pattern: &Pattern| {
            // Where a record has no room for all names, it may be about any.
            let unnamed = entry.hosts.is_empty() && entry.hosts_total > 0;
            unnamed || entry.hosts.iter().any(|host| pattern.matches(host))
        };
        entry.at >= self.since && self.who.as_ref().is_none_or(who) && self.host.as_ref().is_none_or(host)
    }
}

/// Starts to send what is asked for. The receiver ends after the last record, or never where it follows. Whoever asks
/// for all is told first which records are archived.
pub(crate) async fn serve(
    store: Arc<dyn Store>,
    request: AuditRequest,
) -> Result<mpsc::Receiver<Result<AuditRecord, Status>>, Status> {
    let filter = Filter::parse(&request)?;
    let (base, listing) = listed(&*store).await.map_err(Failure::from)?;
    // From where it was listed: no record falls between the two.
    let watch = request.follow.then(|| store.watch(AUDIT, listing.revision)).transpose();
    let watch = watch.map_err(Failure::from)?;
    let mut found: Vec<AuditRecord> = Vec::new();
    if base != Head::START && request.limit == 0 {
        found.push(AuditRecord { archived: true, ..wire(&base, Vec::new()) });
    }
    for (key, record) in &listing.records {
        match decode(key, record) {
            Some((head, payload)) if filter.passes(&payload) => found.push(wire(&head, payload)),
            Some(_) => {}
            None => return Err(Status::data_loss(AuditError::Unreadable { key: key.clone() }.to_string())),
        }
    }
    let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
    if limit > 0 && found.len() > limit {
        found.drain(..found.len() - limit);
    }
    let (records, receiver) = mpsc::channel(WAITING_MAX);
    tokio::spawn(async move {
        for record in found {
            if records.send(Ok(record)).await.is_err() {
                return;
            }
        }
        let Some(mut watch) = watch else { return };
        loop {
            let change = tokio::select! {
                change = watch.next() => change,
                () = records.closed() => return,
            };
            let Some(change) = change else {
                let status = Status::aborted("too slow to follow the audit log; begin again with --since");
                let _ = records.send(Err(status)).await;
                return;
            };
            let Some(record) = change.record else { continue };
            if let Some((head, payload)) = decode(&change.key, &record)
                && filter.passes(&payload)
                && records.send(Ok(wire(&head, payload))).await.is_err()
            {
                return;
            }
        }
    });
    Ok(receiver)
}

fn wire(head: &Head, payload: Vec<u8>) -> AuditRecord {
    AuditRecord { seq: head.seq, hash: head.hash.to_vec(), payload, archived: false }
}

fn glob(text: &str) -> Result<Option<Pattern>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > GLOB_MAX {
        return Err(Status::invalid_argument(format!("a pattern is longer than {GLOB_MAX} bytes")));
    }
    let wrong = |error| Status::invalid_argument(format!("the pattern {text:?} is malformed: {error}"));
    Pattern::new(text).map(Some).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Audit, Outcome};
    use crate::store::memory::MemoryStore;
    use crate::store::{Expect, Transaction};

    async fn three() -> (Arc<dyn Store>, Audit) {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let audit = Audit::new(store.clone());
        audit.record(Entry::new("operator alice", "host.label", "web-01").host("web-01")).await.unwrap();
        audit.record(Entry::new("operator bob", "token.create", "x").detail("any host")).await.unwrap();
        let many = (0..1000).map(|n| format!("web-{n}"));
        let run = Entry::new("operator bob", "run", "op").hosts(many).outcome(Outcome::Started);
        audit.record(run).await.unwrap();
        (store, audit)
    }

    async fn seqs(store: &Arc<dyn Store>, request: AuditRequest) -> Vec<u64> {
        let mut records = serve(store.clone(), request).await.unwrap();
        let mut seqs = Vec::new();
        while let Some(record) = records.recv().await {
            seqs.push(record.unwrap().seq);
        }
        seqs
    }

    #[tokio::test]
    async fn filters_leave_out_what_does_not_fit_and_never_what_may() {
        let (store, _audit) = three().await;
        let ask = |who: &str, host: &str, limit| AuditRequest {
            who: who.to_owned(),
            host: host.to_owned(),
            limit,
            ..AuditRequest::default()
        };
        assert_eq!(seqs(&store, ask("", "", 0)).await, [1, 2, 3]);
        assert_eq!(seqs(&store, ask("", "", 2)).await, [2, 3]);
        assert_eq!(seqs(&store, ask("bob", "", 0)).await, [2, 3]);
        assert_eq!(seqs(&store, ask("operator b*", "", 1)).await, [3]);
        assert_eq!(seqs(&store, ask("host *", "", 0)).await, [0u64; 0]);
        assert_eq!(seqs(&store, ask("", "web-0*", 0)).await, [1, 3]);
        let later = AuditRequest { since: i64::MAX, ..AuditRequest::default() };
        assert_eq!(seqs(&store, later).await, [0u64; 0]);
        assert!(serve(store, ask("[", "", 0)).await.is_err());
    }

    #[tokio::test]
    async fn whoever_asks_for_all_is_told_what_is_archived() {
        let (store, _audit) = three().await;
        let second = decode(
            "audit/00000000000000000002",
            &store.get("audit/00000000000000000002").await.unwrap().unwrap(),
        );
        let base = second.unwrap().0;
        let mut moved = Transaction::default().put(BASE.to_owned(), records::encode(&base.to_string()));
        for seq in 1..=2 {
            moved = moved.delete_if(format!("{AUDIT}{seq:020}"), Expect::Anything);
        }
        store.commit(moved).await.unwrap();
        let mut all = serve(store.clone(), AuditRequest::default()).await.unwrap();
        let first = all.recv().await.unwrap().unwrap();
        assert!(first.archived && first.seq == 2 && first.hash == base.hash);
        assert_eq!(all.recv().await.unwrap().unwrap().seq, 3);
        assert_eq!(seqs(&store, AuditRequest { limit: 9, ..AuditRequest::default() }).await, [3]);
        assert_eq!(head(&*store).await.unwrap().seq, 3);
    }

    #[tokio::test]
    async fn who_follows_misses_nothing() {
        let (store, audit) = three().await;
        let request = AuditRequest { follow: true, limit: 1, ..AuditRequest::default() };
        let mut records = serve(store, request).await.unwrap();
        audit.record(Entry::new("operator eve", "host.revoke", "web-01")).await.unwrap();
        assert_eq!(records.recv().await.unwrap().unwrap().seq, 3);
        assert_eq!(records.recv().await.unwrap().unwrap().seq, 4);
    }

    #[tokio::test]
    async fn damage_is_found() {
        let (store, _audit) = three().await;
        let good = verify(Head::START, &store.list(AUDIT).await.unwrap()).unwrap();
        assert_eq!(good.seq, 3);
        let key = "audit/00000000000000000002";
        let value = store.get(key).await.unwrap().unwrap().value.to_vec();
        let put = |value: Vec<u8>| Transaction::default().put(key.to_owned(), value);
        let text = String::from_utf8(value.clone()).unwrap();
        store.commit(put(text.replace("bob", "eve").into())).await.unwrap();
        let broken = verify(Head::START, &store.list(AUDIT).await.unwrap()).unwrap_err();
        assert!(broken.to_string().contains("record 2 is not what was written"), "{broken}");
        store.commit(put(b"short".to_vec())).await.unwrap();
        assert!(matches!(
            verify(Head::START, &store.list(AUDIT).await.unwrap()),
            Err(AuditError::Unreadable { .. })
        ));
        let gone = Transaction::default().delete_if(key.to_owned(), Expect::Anything);
        store.commit(gone).await.unwrap();
        let broken = verify(Head::START, &store.list(AUDIT).await.unwrap()).unwrap_err();
        assert!(broken.to_string().contains("record 2 is missing"), "{broken}");
    }
}
