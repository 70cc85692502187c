//! The records of a store in memory, with what does not depend on where they are kept: judging a
//! transaction, making it, telling the watchers. Not durable by itself.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;

use tokio::sync::mpsc;

use super::{Change, Expect, KEY_MAX, Listing, Record, StoreError, Transaction, VALUE_MAX, Watch};

/// Changes that a watcher may be behind.
const WATCH_BACKLOG: usize = 16_384;
/// Changes that are remembered for those who watch from an earlier revision, and their size together.
const HISTORY_MAX: usize = 8_192;
const HISTORY_BYTES_MAX: usize = 16 << 20;

#[derive(Debug, Default)]
pub(super) struct State {
    records: BTreeMap<String, Record>,
    revision: u64,
    watchers: Vec<Watcher>,
    history: History,
}

/// The latest changes.
#[derive(Debug, Default)]
struct History {
    changes: VecDeque<Change>,
    bytes: usize,
    /// Changes up to this revision are not remembered.
    compacted: u64,
}

#[derive(Debug)]
struct Watcher {
    prefix: String,
    changes: mpsc::Sender<Change>,
}

/// Transactions that have been judged on top of a state, and not made yet.
pub(super) struct Staged<'a> {
    state: &'a State,
    records: HashMap<String, Option<Record>>,
    revision: u64,
}

impl State {
    pub(super) fn new(records: BTreeMap<String, Record>, revision: u64) -> State {
        let history = History { compacted: revision, ..History::default() };
        State { records, revision, watchers: Vec::new(), history }
    }

    pub(super) fn get(&self, key: &str) -> Option<Record> {
        self.records.get(key).cloned()
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn list(&self, prefix: &str) -> Listing {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let records = self
            .records
            .range::<str, _>(from)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, record)| (key.clone(), record.clone()))
            .collect();
        Listing { records, revision: self.revision }
    }

    pub(super) fn watch(&mut self, prefix: &str, after: u64) -> Result<Watch, StoreError> {
        if after < self.history.compacted {
            return Err(StoreError::Compacted { revision: self.history.compacted });
        }
        let (changes, receiver) = mpsc::channel(WATCH_BACKLOG);
        let missed = self.history.changes.iter().filter(|change| change.revision > after);
        for change in missed.filter(|change| change.key.starts_with(prefix)) {
            // The history is shorter than the backlog.
            let _ = changes.try_send(change.clone());
        }
        self.watchers.push(Watcher { prefix: prefix.to_owned(), changes });
        Ok(Watch { changes: receiver })
    }

    pub(super) fn stage(&self) -> Staged<'_> {
        Staged { state: self, records: HashMap::new(), revision: self.revision }
    }

    /// Makes what [`Staged::add`] judged, in the same order.
    pub(super) fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.revision = change.revision;
            // A watcher that is gone or too far behind loses its watch, so it lists again.
            self.watchers.retain(|watcher| {
                !change.key.starts_with(&watcher.prefix) || watcher.changes.try_send(change.clone()).is_ok()
            });
            match &change.record {
                Some(record) => self.records.insert(change.key.clone(), record.clone()),
                None => self.records.remove(&change.key),
            };
            self.history.push(change);
        }
    }
}

impl History {
    fn push(&mut self, change: Change) {
        self.bytes += size(&change);
        self.changes.push_back(change);
        while self.changes.len() > HISTORY_MAX || self.bytes > HISTORY_BYTES_MAX {
            let Some(oldest) = self.changes.pop_front() else { break };
            self.bytes -= size(&oldest);
            self.compacted = oldest.revision;
        }
    }
}

fn size(change: &Change) -> usize {
    change.key.len() + change.record.as_ref().map_or(0, |record| record.value.len())
}

impl Staged<'_> {
    pub(super) fn get(&self, key: &str) -> Option<Record> {
        match self.records.get(key) {
            Some(staged) => staged.clone(),
            None => self.state.get(key),
        }
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// The changes that the transaction makes, or why it makes none.
    pub(super) fn add(&mut self, transaction: Transaction) -> Result<Vec<Change>, StoreError> {
        for write in &transaction.writes {
            if write.key.is_empty() || write.key.len() > KEY_MAX || write.key.starts_with('\0') {
                return Err(StoreError::Key { key: write.key.clone() });
            }
            let size = write.value.as_ref().map_or(0, Vec::len);
            if size > VALUE_MAX {
                return Err(StoreError::TooLarge { key: write.key.clone(), size });
            }
            let found = self.get(&write.key).map(|record| record.revision);
            let as_expected = match write.expect {
                Expect::Anything => true,
                Expect::Absent => found.is_none(),
                Expect::Revision(revision) => found == Some(revision),
            };
            if !as_expected {
                return Err(StoreError::Conflict { key: write.key.clone() });
            }
        }
        if transaction.writes.is_empty() {
            return Ok(Vec::new());
        }
        self.revision += 1;
        let revision = self.revision;
        let changes: Vec<Change> = transaction
            .writes
            .into_iter()
            .map(|write| Change {
                key: write.key,
                record: write.value.map(|value| Record { value: value.into(), revision }),
                revision,
            })
            .collect();
        for change in &changes {
            self.records.insert(change.key.clone(), change.record.clone());
        }
        Ok(changes)
    }
}
