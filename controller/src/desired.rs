//! The wishes for a host's processes in the store: reading them as [`crate::reconcile`] takes them, and writing
//! new ones. They are durable before anybody hears of them; sending them is for others.

use std::collections::BTreeSet;

use fleetvisor_model::name::ProcessName;
use fleetvisor_proto::fleet::{DesiredProcess, DesiredState, RunState};

use crate::clock;
use crate::reconcile::{Desired, Run, Wish};
use crate::records::{self, DesiredRecord, RecordError};
use crate::store::{Store, StoreError, Transaction};

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

/// Writes one wish for each process, in one transaction. An equal wish is written again: the new revision is
/// what makes a host that is away carry it out once more.
pub(crate) async fn write(
    store: &dyn Store,
    host: &str,
    names: &[ProcessName],
    run: Run,
    by: &str,
) -> Result<Vec<Wish>, StoreError> {
    let at = clock::now().0;
    let mut transaction = Transaction::default();
    for name in names {
        let record = DesiredRecord { name: name.clone(), run, by: by.to_owned(), at };
        transaction = transaction.put(records::desired_key(host, name), records::encode(&record));
    }
    let revision = store.commit(transaction).await?;
    Ok(names.iter().map(|name| Wish { name: name.clone(), run, revision }).collect())
}

/// Those of the processes that are wished to be stopped.
pub(crate) async fn stopped(
    store: &dyn Store,
    host: &str,
    names: &[ProcessName],
) -> Result<Vec<ProcessName>, DesiredError> {
    let (desired, _) = read(store, host).await?;
    let stopped: BTreeSet<&ProcessName> =
        desired.above(0).filter(|wish| wish.run == Run::Stopped).map(|wish| &wish.name).collect();
    Ok(names.iter().filter(|name| stopped.contains(name)).cloned().collect())
}

/// The wishes as a host gets them.
pub(crate) fn message(complete: bool, revision: u64, wishes: &[Wish]) -> DesiredState {
    let process = |wish: &Wish| DesiredProcess {
        name: Some((&wish.name).into()),
        run: match wish.run {
            Run::Started => RunState::Started,
            Run::Stopped => RunState::Stopped,
        }
        .into(),
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
        let first = write(&store, "h", &both, Run::Stopped, "operator x").await.unwrap();
        let again = write(&store, "h", &both[1..], Run::Stopped, "operator x").await.unwrap();
        write(&store, "h2", &both, Run::Started, "operator x").await.unwrap();
        let expected = Desired::new(vec![first[0].clone(), again[0].clone()]);
        assert_eq!(read(&store, "h").await.unwrap(), (expected, 3));
        assert!(again[0].revision > first[1].revision);
        assert_eq!(stopped(&store, "h", &both).await.unwrap(), both);
        write(&store, "h", &both[..1], Run::Started, "operator x").await.unwrap();
        assert_eq!(stopped(&store, "h", &both).await.unwrap(), [b]);
        assert_eq!(stopped(&store, "h3", &[a]).await.unwrap(), []);
    }
}
