//! A store that forgets: for tests, and the measure of what the contract means without a disk.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};

use super::claims::Claims;
use super::state::State;
use super::{Claim, Listing, Record, Store, StoreError, Transaction, Watch};

#[derive(Debug, Default)]
pub(crate) struct MemoryStore {
    state: Mutex<State>,
    claims: Claims,
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

    fn watch(&self, prefix: &str, after: u64) -> Result<Watch, StoreError> {
        self.state().watch(prefix, after)
    }

    fn claim<'a>(
        &'a self,
        name: &'a str,
        holder: &'a str,
        lease: Duration,
    ) -> BoxFuture<'a, Result<Claim, StoreError>> {
        ready(Ok(self.claims.claim(name, holder, lease))).boxed()
    }

    fn release<'a>(&'a self, name: &'a str, holder: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        self.claims.release(name, holder);
        ready(Ok(())).boxed()
    }

    fn usable(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
