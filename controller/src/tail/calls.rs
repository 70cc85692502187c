//! Hosts that were asked to call with logs, and are waited for. Who has not called for long is given up by whoever
//! waits.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use fleetvisor_proto::fleet::{LogChunk, LogCredit};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tonic::{Status, Streaming};

/// Within which a call says which it is.
const FIRST_CHUNK: Duration = Duration::from_secs(10);
/// Messages about room that may be on their way.
const CREDITS: usize = 16;

/// By host and id.
type Waiting = HashMap<(String, String), oneshot::Sender<Call>>;

#[derive(Debug, Default)]
pub(crate) struct Calls {
    waiting: Mutex<Waiting>,
    last: AtomicU64,
}

/// A host that sends. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) chunks: Streaming<LogChunk>,
    pub(super) credit: mpsc::Sender<LogCredit>,
}

/// A call that is waited for, until this is dropped.
pub(super) struct Awaited<'a> {
    calls: &'a Calls,
    key: (String, String),
    pub(super) call: oneshot::Receiver<Call>,
}

impl Calls {
    /// The id is for the host to repeat.
    pub(super) fn expect(&self, host: &str) -> (String, Awaited<'_>) {
        let id = (self.last.fetch_add(1, Ordering::Relaxed) + 1).to_string();
        let (sender, call) = oneshot::channel();
        let key = (host.to_owned(), id.clone());
        self.waiting().insert(key.clone(), sender);
        (id, Awaited { calls: self, key, call })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("nothing panics while it holds who is waited for")
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.calls.waiting().remove(&self.key);
    }
}

/// A host calls; gives what it is to be told.
pub(crate) async fn answer(
    calls: &Calls,
    host: String,
    mut chunks: Streaming<LogChunk>,
) -> Result<mpsc::Receiver<LogCredit>, Status> {
    let first = timeout(FIRST_CHUNK, chunks.message())
        .await
        .map_err(|_| Status::deadline_exceeded("a call with logs begins with its id"))??;
    let id = first.map(|chunk| chunk.id).unwrap_or_default();
    let (credit, told) = mpsc::channel(CREDITS);
    let asker = calls.waiting().remove(&(host, id));
    let taken = asker.is_some_and(|asker| asker.send(Call { chunks, credit }).is_ok());
    if taken { Ok(told) } else { Err(Status::not_found("nobody waits for these logs any more")) }
}
