//! A store that forgets: for tests, and the measure of what the contract means without a disk.

use std::sync::{Mutex, MutexGuard};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};

use super::state::State;
use super::{Listing, Record, Store, StoreError, Transaction, Watch};

#[derive(Debug, Default)]
pub(crate) struct MemoryStore {
    state: Mutex<State>,
}

impl MemoryStore {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the records")
    }
}

impl Store for MemoryStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Record>, StoreError>> {
        ready(Ok(self.state().get(key))).boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, StoreError>> {
        ready(Ok(self.state().list(prefix))).boxed()
    }

    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<u64, StoreError>> {
        let mut state = self.state();
        let mut staged = state.stage();
        let made = staged.add(transaction).map(|changes| (changes, staged.revision()));
        ready(made.map(|(changes, revision)| {
            state.apply(changes);
            revision
        }))
        .boxed()
    }

    fn watch(&self, prefix: &str) -> Watch {
        self.state().watch(prefix)
    }

    fn usable(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
