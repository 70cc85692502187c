//! What has happened to the processes of this host, numbered, for as long as there is room: a link that is lost and
//! found again goes on where the last one was.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fleetvisor_core::effect::Change;
use fleetvisor_core::exit::ExitStatus;
use fleetvisor_model::name::ProcessName;
use fleetvisor_proto::fleet::{HostEvents, ProcessEvent};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Events that are kept.
const KEPT: usize = 4096;
/// Events of one message.
const TOGETHER: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Events {
    inner: Mutex<Inner>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    kept: VecDeque<Kept>,
    /// Number of the last.
    last: u64,
    /// Number of the last that was given to a link.
    said: u64,
    /// Who asks for what is being done to these processes.
    asked: BTreeMap<ProcessName, Arc<str>>,
}

/// An event, as it will be told.
#[derive(Debug)]
struct Kept {
    at: Instant,
    change: Arc<Change>,
    /// Empty where nobody asked for it.
    by: Arc<str>,
}

/// While it lives, what happens to its processes is somebody's doing.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    events: &'a Events,
    by: Arc<str>,
    names: Vec<ProcessName>,
}

impl Events {
    pub(crate) fn record(&self, change: Arc<Change>) {
        let mut inner = self.inner();
        let by = inner.asked.get(&change.name).cloned().unwrap_or_default();
        if inner.kept.len() == KEPT {
            inner.kept.pop_front();
        }
        inner.kept.push_back(Kept { at: Instant::now(), change, by });
        inner.last += 1;
        drop(inner);
        self.more.notify_one();
    }

    pub(crate) fn asked<'a>(&'a self, names: &[ProcessName], by: &str) -> Asked<'a> {
        let by: Arc<str> = by.into();
        self.inner().asked.extend(names.iter().map(|name| (name.clone(), by.clone())));
        Asked { events: self, by, names: names.to_vec() }
    }

    /// Where a link goes on: behind what the controller has, or else behind what the last link was given.
    pub(crate) fn resume(&self, until: Option<u64>) -> u64 {
        let inner = self.inner();
        until.map_or(inner.said, |until| until.min(inner.last))
    }

    /// Returns once there are events behind this one.
    pub(crate) async fn after(&self, said: Option<u64>) {
        while self.inner().last <= said.unwrap_or_default() {
            self.more.notified().await;
        }
    }

    /// The first events that are kept behind this one, and the number of the last of them.
    pub(crate) fn take(&self, said: Option<u64>) -> Option<(HostEvents, u64)> {
        let mut inner = self.inner();
        let kept_from = inner.last - inner.kept.len() as u64 + 1;
        let first = (said.unwrap_or_default() + 1).max(kept_from);
        let skipped = usize::try_from(first - kept_from).unwrap_or(usize::MAX);
        let events: Vec<ProcessEvent> =
            inner.kept.iter().skip(skipped).take(TOGETHER).map(Kept::told).collect();
        if events.is_empty() {
            return None;
        }
        let last = first + events.len() as u64 - 1;
        inner.said = last;
        Some((HostEvents { first, events }, last))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn told(&self) -> ProcessEvent {
        let Kept { at, change, by } = self;
        let (exit_code, exit_signal) = match change.exit {
            Some(ExitStatus::Code(code)) => (Some(code), None),
            Some(ExitStatus::Signal { signal, .. }) => (None, Some(signal.0)),
            Some(ExitStatus::Unknown) | None => (None, None),
        };
        ProcessEvent {
            name: Some((&change.name).into()),
            from: change.from.code(),
            to: change.to.code(),
            pid: change.pid,
            exit_code,
            exit_signal,
            expected: change.expected,
            by: by.to_string(),
            age_ms: u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let mut inner = self.events.inner();
        for name in &self.names {
            // Somebody else may have asked meanwhile.
            if inner.asked.get(name) == Some(&self.by) {
                inner.asked.remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use fleetvisor_model::signal::Signal;
    use fleetvisor_model::state::ProcessState;

    use super::*;

    fn change(pid: i32, exit: Option<ExitStatus>) -> Arc<Change> {
        let (from, to) = (ProcessState::Running, ProcessState::Exited);
        Arc::new(Change {
            name: ProcessName::new("web", "web"),
            from,
            to,
            pid,
            expected: false,
            tries: 0,
            exit,
        })
    }

    fn pids(events: &Events, said: u64) -> (Vec<i32>, u64) {
        let (taken, last) = events.take(Some(said)).unwrap();
        (taken.events.iter().map(|event| event.pid).collect(), last)
    }

    #[test]
    fn a_link_goes_on_where_the_controller_is() {
        let events = Events::default();
        for pid in 1..=3 {
            events.record(change(pid, None));
        }
        assert_eq!(pids(&events, 0), (vec![1, 2, 3], 3));
        assert!(events.take(Some(3)).is_none());
        events.record(change(4, None));
        // One that knows nothing of this agent is told what nobody has been told.
        assert_eq!(events.resume(None), 3);
        assert_eq!(pids(&events, events.resume(Some(1))), (vec![2, 3, 4], 4));
        assert_eq!(events.resume(Some(99)), 4);
    }

    #[test]
    fn what_there_is_no_room_for_is_missing_by_its_number() {
        let events = Events::default();
        for pid in 1..=KEPT as i32 + 10 {
            events.record(change(pid, None));
        }
        let (taken, last) = events.take(Some(3)).unwrap();
        assert_eq!((taken.first, taken.events.len(), last), (11, TOGETHER, 10 + TOGETHER as u64));
    }

    #[test]
    fn an_end_has_its_reason_and_who_asked_for_it() {
        let events = Events::default();
        let signal = ExitStatus::Signal { signal: Signal::KILL, core_dumped: false };
        let asked = events.asked(&[ProcessName::new("web", "web")], "operator alice");
        events.record(change(1, Some(signal)));
        drop(asked);
        events.record(change(2, Some(ExitStatus::Code(3))));
        let taken = events.take(Some(0)).unwrap().0.events;
        assert_eq!((taken[0].exit_signal, taken[0].by.as_str()), (Some(9), "operator alice"));
        assert_eq!((taken[1].exit_code, taken[1].by.as_str()), (Some(3), ""));
    }
}
