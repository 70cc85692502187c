//! Whoever follows an operation, for as long as it listens. It never holds the operation up: a caller that is too
//! far behind is left, and may begin to watch again.

use fleetvisor_proto::fleet::{RunEvent, run_event};
use tokio::sync::mpsc;

#[derive(Debug)]
pub(super) struct Caller {
    events: mpsc::Sender<RunEvent>,
}

impl Caller {
    /// `backlog`: events that it may be behind.
    pub(super) fn new(backlog: usize) -> (Caller, mpsc::Receiver<RunEvent>) {
        let (events, receiver) = mpsc::channel(backlog.max(1));
        (Caller { events }, receiver)
    }

    /// Whether it still listens.
    pub(super) fn tell(&self, event: run_event::Event) -> bool {
        self.events.try_send(RunEvent { event: Some(event) }).is_ok()
    }
}
