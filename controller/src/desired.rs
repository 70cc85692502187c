//! The wishes for a host's processes in the store: reading them as [`crate::reconcile`] takes them, and writing
//! new ones. They are durable before anybody hears of them; sending them is for others.

use fleetvisor_model::name::ProcessName;
use fleetvisor_model::time::Wall;
use fleetvisor_proto::fleet::{DesiredProcess, DesiredState, Drift, ProcessStatus, RunState};

use crate::clock;
use crate::reconcile::{Desired, Run, Wish};
use crate::records::{self, DesiredRecord, RecordError};
use crate::store::{Expect, Store, StoreError, Transaction};

#[derive(Debug, thiserror::Error)]
pub(crate) enum DesiredError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// All wishes for a host, and the revision of the whole store that they were read at.
pub(crate) async fn read(store: &dyn Store, host: &str) -> Result<(Desired, u64), DesiredError> {
    let mut wishes = Vec::new();
    let listing = store.list(&records::desired_prefix(host)).await?;
    for (key, record) in listing.records {
        let wish: DesiredRecord = records::decode(&key, &record)?;
        wishes.push(Wish { name: wish.name, run: wish.run, revision: record.revision });
    }
    Ok((Desired::new(wishes), listing.revision))
}

/// Adds one wish for each process to a transaction, whose revision will be theirs. An equal wish is written
/// again: the new revision is what makes a host that is away carry it out once more.
pub(crate) fn put(
    mut transaction: Transaction,
    host: &str,
    names: &[ProcessName],
    run: Run,
    by: &str,
) -> Transaction {
    let at = clock::now().0;
    for name in names {
        let record = DesiredRecord { name: name.clone(), run, by: by.to_owned(), at };
        transaction = transaction.put(records::desired_key(host, name), records::encode(&record));
    }
    transaction
}

/// What is wished of these processes.
pub(crate) async fn of(
    store: &dyn Store,
    host: &str,
    names: &[ProcessName],
) -> Result<Vec<(ProcessName, Option<Run>)>, DesiredError> {
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let key = records::desired_key(host, name);
        let run = match store.get(&key).await? {
            Some(record) => Some(records::decode::<DesiredRecord>(&key, &record)?.run),
            None => None,
        };
        found.push((name.clone(), run));
    }
    Ok(found)
}

/// Takes wishes of a revision back, where nothing newer has taken their place: what was wished before is wished
/// again. Gives the revision that the host's wishes have now.
pub(crate) async fn withdraw(
    store: &dyn Store,
    host: &str,
    revision: u64,
    before: &[(ProcessName, Option<Run>)],
    by: &str,
) -> Result<u64, StoreError> {
    let mut reached = 0;
    for (name, run) in before {
        let key = records::desired_key(host, name);
        let expect = Expect::Revision(revision);
        let transaction = match run {
            Some(run) => {
                let record =
                    DesiredRecord { name: name.clone(), run: *run, by: by.to_owned(), at: clock::now().0 };
                Transaction::default().put_if(key, expect, records::encode(&record))
            }
            None => Transaction::default().delete_if(key, expect),
        };
        match store.commit(transaction).await {
            Ok(revision) => reached = revision,
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(reached)
}

/// Those of the processes, which are in order, that are wished to be stopped, and when that was asked.
pub(crate) async fn stopped(
    store: &dyn Store,
    host: &str,
    names: &[ProcessName],
) -> Result<Vec<(ProcessName, Wall)>, DesiredError> {
    let mut stopped = Vec::new();
    // There are fewer wishes than processes.
    for (key, record) in store.list(&records::desired_prefix(host)).await?.records {
        let wish: DesiredRecord = records::decode(&key, &record)?;
        if wish.run == Run::Stopped && names.binary_search(&wish.name).is_ok() {
            stopped.push((wish.name, Wall(wish.at)));
        }
    }
    Ok(stopped)
}

/// Marks the processes that somebody has stopped or started against a wish that the host has observed.
pub(crate) async fn mark_drift(
    store: &dyn Store,
    host: &str,
    observed: u64,
    processes: &mut [ProcessStatus],
) -> Result<(), DesiredError> {
    for (key, record) in store.list(&records::desired_prefix(host)).await?.records {
        // What is above that is on its way.
        if record.revision > observed {
            continue;
        }
        let wish: DesiredRecord = records::decode(&key, &record)?;
        let name = (&wish.name).into();
        if let Some(process) = processes.iter_mut().find(|process| process.name.as_ref() == Some(&name))
            && process.process_state().drifts_from(wish.run == Run::Started)
        {
            let desired = run_state(wish.run).into();
            process.drift = Some(Drift { desired, by: wish.by, since: wish.at });
        }
    }
    Ok(())
}

fn run_state(run: Run) -> RunState {
    match run {
        Run::Started => RunState::Started,
        Run::Stopped => RunState::Stopped,
    }
}

/// The wishes as a host gets them.
pub(crate) fn message(complete: bool, revision: u64, wishes: &[Wish]) -> DesiredState {
    let process = |wish: &Wish| DesiredProcess {
        name: Some((&wish.name).into()),
        run: run_state(wish.run).into(),
        revision: wish.revision,
    };
    DesiredState { revision, complete, processes: wishes.iter().map(process).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn wishes_come_back_with_the_revision_that_stored_them() {
        let store = MemoryStore::default();
        let (a, b) = (ProcessName::new("g", "a"), ProcessName::new("g", "b"));
        let both = [a.clone(), b.clone()];
        let write = async |host: &str, names: &[ProcessName], run: Run| {
            let transaction = put(Transaction::default(), host, names, run, "operator x");
            store.commit(transaction).await.unwrap()
        };
        let stopped_now = async |host: &str| -> Vec<ProcessName> {
            stopped(&store, host, &both).await.unwrap().into_iter().map(|(name, _)| name).collect()
        };
        let wish = |name: &ProcessName, revision| Wish { name: name.clone(), run: Run::Stopped, revision };
        assert_eq!(write("h", &both, Run::Stopped).await, 1);
        assert_eq!(write("h", &both[1..], Run::Stopped).await, 2);
        write("h2", &both, Run::Started).await;
        let expected = Desired::new(vec![wish(&a, 1), wish(&b, 2)]);
        assert_eq!(read(&store, "h").await.unwrap(), (expected, 3));
        assert_eq!(stopped_now("h").await, both);
        write("h", &both[..1], Run::Started).await;
        assert_eq!(stopped_now("h").await, [b]);
        assert!(stopped_now("h3").await.is_empty());
    }

    #[tokio::test]
    async fn a_wish_that_is_withdrawn_gives_way_to_the_one_before_but_not_to_a_later_one() {
        let store = MemoryStore::default();
        let names = ["a", "b", "c"].map(|name| ProcessName::new("g", name));
        let write = async |names: &[ProcessName], run: Run| {
            store.commit(put(Transaction::default(), "h", names, run, "operator x")).await.unwrap()
        };
        write(&names[..1], Run::Started).await;
        let before = of(&store, "h", &names).await.unwrap();
        let revision = write(&names, Run::Stopped).await;
        write(&names[2..], Run::Started).await;
        withdraw(&store, "h", revision, &before, "operator y").await.unwrap();
        let now: Vec<Option<Run>> =
            of(&store, "h", &names).await.unwrap().into_iter().map(|(_, run)| run).collect();
        assert_eq!(now, [Some(Run::Started), None, Some(Run::Started)]);
    }
}
