//! What has happened in the fleet: the latest events, numbered, in memory. Whoever reads has a place of its own and
//! nothing waits for it: one that falls behind what is kept is told how much it has missed.
//!
//! A token is this controller's own mark and a number. After a new start of the controller the number means
//! nothing, and that, too, is told.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fleetvisor_model::state::ProcessState;
use fleetvisor_proto::convert::{self, ConvertError};
use fleetvisor_proto::fleet::{self, Event, EventsRequest, HostEvents};
use tokio::sync::{mpsc, watch};

use crate::clock;
use crate::registry::Registry;
use crate::select::{Selection, SelectionError};

/// Events that are kept: some 20 MB of them.
const KEPT: usize = 100_000;
/// Events of one message of a host.
const TOGETHER_MAX: usize = 1_000;
const BY_BYTES_MAX: usize = 256;
/// Events that wait for one reader at most, and how many are looked at in one go.
const WAITING: usize = 256;
const LOOKED_AT: usize = 1_000;
const ONLINE: &str = "online";
const AWAY: &str = "away";

#[derive(Debug)]
pub(crate) struct Events {
    inner: Mutex<Inner>,
    /// Number of the last event.
    last: watch::Sender<u64>,
    mark: u64,
}

#[derive(Debug, Default)]
struct Inner {
    kept: VecDeque<Arc<Kept>>,
    last: u64,
    /// Of each host the agent that was last heard, and the number of its last event.
    heard: HashMap<String, (String, u64)>,
}

/// An event, whose number follows from its place.
#[derive(Debug)]
struct Kept {
    host: Arc<str>,
    kind: &'static str,
    at: i64,
    process: Option<fleet::ProcessEvent>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum EventsError {
    #[error(transparent)]
    Selection(#[from] SelectionError),
    #[error("{0:?} is no kind of event: a state in small letters, online or away")]
    Kind(String),
    #[error("{0:?} is no token of an event")]
    Token(String),
}

/// Where a reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Token {
    mark: u64,
    number: u64,
}

impl Events {
    /// `mark` tells this controller's numbers from those of every other.
    pub(crate) fn new(mark: u64) -> Events {
        Events { inner: Mutex::default(), last: watch::channel(0).0, mark }
    }

    /// The number of the last event that is known of this agent, for it to go on there.
    pub(crate) fn until(&self, host: &str, boot_id: &str) -> Option<u64> {
        self.inner().heard.get(host).filter(|(boot, _)| boot == boot_id).map(|(_, last)| *last)
    }

    pub(crate) fn online(&self, host: &str) {
        self.record(host, [(ONLINE, clock::now().0, None)]);
    }

    pub(crate) fn away(&self, host: &str) {
        self.record(host, [(AWAY, clock::now().0, None)]);
    }

    /// Takes what a host tells. What is known already is left out, whoever repeats it.
    pub(crate) fn heard(&self, host: &str, boot_id: &str, told: HostEvents) -> Result<(), ConvertError> {
        if told.events.len() > TOGETHER_MAX {
            return Ok(());
        }
        for event in &told.events {
            convert::check_process_name(event.name.as_ref())?;
        }
        let until = self.until(host, boot_id).unwrap_or(0);
        let last = told.first.saturating_add(told.events.len() as u64).saturating_sub(1);
        let known = usize::try_from((until + 1).saturating_sub(told.first)).unwrap_or(usize::MAX);
        self.inner().heard.insert(host.to_owned(), (boot_id.to_owned(), last.max(until)));
        let now = clock::now().0;
        let fresh = told.events.into_iter().skip(known).map(|mut event| {
            if event.by.len() > BY_BYTES_MAX {
                event.by.clear();
            }
            let age = i64::try_from(event.age_ms).unwrap_or(0).saturating_mul(1000);
            (kind(ProcessState::from_code(event.to)), now.saturating_sub(age), Some(event))
        });
        self.record(host, fresh);
        Ok(())
    }

    fn record(
        &self,
        host: &str,
        events: impl IntoIterator<Item = (&'static str, i64, Option<fleet::ProcessEvent>)>,
    ) {
        let host: Arc<str> = host.into();
        let mut inner = self.inner();
        for (kind, at, process) in events {
            inner.last += 1;
            if inner.kept.len() == KEPT {
                inner.kept.pop_front();
            }
            inner.kept.push_back(Arc::new(Kept { host: host.clone(), kind, at, process }));
        }
        let last = inner.last;
        drop(inner);
        self.last.send_replace(last);
    }

    /// Those behind this one, if they are kept, and how many are not.
    fn behind(&self, number: u64) -> (u64, Vec<Arc<Kept>>) {
        let inner = self.inner();
        let first = inner.last - inner.kept.len() as u64 + 1;
        let missed = first.saturating_sub(number + 1);
        let skipped = usize::try_from((number + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        (missed, inner.kept.iter().skip(skipped).take(LOOKED_AT).cloned().collect())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics while it holds the events")
    }
}

/// A reader's events. They end after the last one there is, or never where it follows.
pub(crate) fn read(
    events: &Arc<Events>,
    registry: &Arc<Registry>,
    request: EventsRequest,
) -> Result<mpsc::Receiver<Event>, EventsError> {
    let kinds: HashSet<String> = request.kinds.into_iter().collect();
    let known = |word: &String| {
        [ONLINE, AWAY].contains(&word.as_str()) || ProcessState::ALL.map(kind).contains(&word.as_str())
    };
    if let Some(unknown) = kinds.iter().find(|word| !known(word)) {
        return Err(EventsError::Kind(unknown.clone()));
    }
    let wanted = Wanted {
        selection: Selection::parse(request.scope, request.targets)?,
        kinds,
        registry: registry.clone(),
    };
    let now = *events.last.borrow();
    let (number, gap) = match request.after.as_str() {
        "" if request.follow => (now, false),
        "" => (now.saturating_sub(events.inner().kept.len() as u64), false),
        after => match after.parse::<Token>()? {
            token if token.mark == events.mark => (token.number.min(now), false),
            // Of another start of the controller: all that this one has seen comes after it.
            _ => (now.saturating_sub(events.inner().kept.len() as u64), true),
        },
    };
    let (sender, receiver) = mpsc::channel(WAITING);
    let (events, follow) = (events.clone(), request.follow);
    tokio::spawn(async move {
        if gap && sender.send(missed(0)).await.is_err() {
            return;
        }
        // A reader that has gone ends this at the next event, or at once.
        tokio::select! {
            () = serve(&events, &wanted, number, follow, &sender) => {}
            () = sender.closed() => {}
        }
    });
    Ok(receiver)
}

async fn serve(
    events: &Events,
    wanted: &Wanted,
    mut number: u64,
    follow: bool,
    sender: &mpsc::Sender<Event>,
) {
    let mut last = events.last.subscribe();
    loop {
        let (gap, some) = events.behind(number);
        number += gap;
        if gap > 0 && sender.send(missed(gap)).await.is_err() {
            return;
        }
        let ended = some.is_empty();
        for event in some {
            number += 1;
            let token = Token { mark: events.mark, number };
            if wanted.includes(&event) && sender.send(event.told(token)).await.is_err() {
                return;
            }
        }
        if ended {
            if !follow || last.wait_for(|last| *last > number).await.is_err() {
                return;
            }
            // What comes together goes together.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn missed(count: u64) -> Event {
    Event { kind: "missed".to_owned(), at: clock::now().0, missed: count, ..Event::default() }
}

fn kind(state: ProcessState) -> &'static str {
    match state {
        ProcessState::Stopped => "stopped",
        ProcessState::Starting => "starting",
        ProcessState::Running => "running",
        ProcessState::Backoff => "backoff",
        ProcessState::Stopping => "stopping",
        ProcessState::Exited => "exited",
        ProcessState::Fatal => "fatal",
        ProcessState::Unknown => "unknown",
    }
}

#[derive(Debug)]
struct Wanted {
    selection: Selection,
    kinds: HashSet<String>,
    registry: Arc<Registry>,
}

impl Wanted {
    fn includes(&self, event: &Kept) -> bool {
        if !self.kinds.is_empty() && !self.kinds.contains(event.kind) {
            return false;
        }
        let name = event.process.as_ref().map(|process| convert::process_name(process.name.clone()));
        let meant = match name {
            None => self.selection.wants_all_of(&event.host),
            Some(name) => name.is_ok_and(|name| self.selection.wants(&event.host, &name)),
        };
        meant && self.selection.includes(&event.host, &self.registry.host(&event.host).labels())
    }
}

impl Kept {
    fn told(&self, token: Token) -> Event {
        Event {
            token: token.to_string(),
            host: self.host.to_string(),
            kind: self.kind.to_owned(),
            at: self.at,
            process: self.process.clone(),
            missed: 0,
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.mark, self.number)
    }
}

impl FromStr for Token {
    type Err = EventsError;

    fn from_str(text: &str) -> Result<Token, EventsError> {
        let hex = |part| u64::from_str_radix(part, 16).ok();
        text.split_once('-')
            .and_then(|(mark, number)| Some(Token { mark: hex(mark)?, number: hex(number)? }))
            .ok_or_else(|| EventsError::Token(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use fleetvisor_model::name::ProcessName;
    use fleetvisor_model::time::Wall;
    use fleetvisor_proto::fleet::ProcessEvent;

    use super::*;

    fn told(first: u64, pids: impl IntoIterator<Item = i32>) -> HostEvents {
        let name = ProcessName::new("web", "web");
        let event = |pid| ProcessEvent { name: Some((&name).into()), to: 20, pid, ..ProcessEvent::default() };
        HostEvents { first, events: pids.into_iter().map(event).collect() }
    }

    struct Reader(mpsc::Receiver<Event>);

    impl Reader {
        fn new(events: &Arc<Events>, request: EventsRequest) -> Reader {
            let registry = Arc::new(Registry::new(Wall(0)));
            Reader(read(events, &registry, request).unwrap())
        }

        async fn next(&mut self) -> Option<Event> {
            tokio::time::timeout(Duration::from_secs(30), self.0.recv()).await.expect("an event, or the end")
        }

        async fn pids(&mut self) -> Vec<i32> {
            let mut pids = Vec::new();
            while let Some(event) = self.next().await {
                pids.push(event.process.map_or(-1, |process| process.pid));
            }
            pids
        }
    }

    #[tokio::test]
    async fn what_a_host_repeats_is_told_once() {
        let events = Arc::new(Events::new(7));
        assert_eq!(events.until("a", "boot"), None);
        events.heard("a", "boot", told(1, [1, 2, 3])).unwrap();
        events.heard("a", "boot", told(2, [2, 3, 4])).unwrap();
        assert_eq!(events.until("a", "boot"), Some(4));
        events.heard("a", "another", told(1, [5])).unwrap();
        assert_eq!((events.until("a", "boot"), events.until("a", "another")), (None, Some(1)));
        assert_eq!(Reader::new(&events, EventsRequest::default()).pids().await, [1, 2, 3, 4, 5]);
    }

    #[tokio::test]
    async fn a_token_goes_on_behind_its_event_and_nothing_is_missed() {
        let events = Arc::new(Events::new(7));
        events.heard("a", "boot", told(1, [1, 2])).unwrap();
        let follow = EventsRequest { follow: true, ..EventsRequest::default() };
        let mut reader = Reader::new(&events, follow.clone());
        events.heard("a", "boot", told(3, [3, 4])).unwrap();
        let token = reader.next().await.unwrap().token;
        drop(reader);
        events.heard("a", "boot", told(5, [5])).unwrap();
        let mut reader = Reader::new(&events, EventsRequest { after: token, ..follow.clone() });
        for pid in [4, 5] {
            let event = reader.next().await.unwrap();
            assert_eq!((event.process.unwrap().pid, event.kind.as_str()), (pid, "running"));
        }

        // To another start of the controller it means nothing, and that is said.
        let next = Arc::new(Events::new(8));
        next.heard("a", "boot", told(6, [6])).unwrap();
        let mut reader = Reader::new(&next, EventsRequest { after: "7-3".to_owned(), ..follow });
        assert_eq!(reader.next().await.unwrap().kind, "missed");
        assert_eq!(reader.next().await.unwrap().process.unwrap().pid, 6);
    }

    #[tokio::test]
    async fn who_falls_behind_what_is_kept_is_told_how_much_is_missed() {
        let events = Arc::new(Events::new(7));
        let mut reader = Reader::new(&events, EventsRequest { follow: true, ..EventsRequest::default() });
        tokio::task::yield_now().await;
        for first in (1..=KEPT as u64 + 5_000).step_by(1000) {
            events.heard("a", "boot", told(first, 0..1000)).unwrap();
        }
        let gap = reader.next().await.unwrap();
        assert_eq!((gap.kind.as_str(), gap.missed), ("missed", 5_000));
        assert_eq!(reader.next().await.unwrap().process.unwrap().pid, 0);
    }

    #[tokio::test]
    async fn kinds_hosts_and_processes_are_chosen() {
        let events = Arc::new(Events::new(7));
        events.online("a");
        events.heard("a", "boot", told(1, [1])).unwrap();
        events.heard("b", "boot", told(1, [2])).unwrap();
        events.away("b");
        let kinds = |kinds: &[&str]| EventsRequest {
            kinds: kinds.iter().map(|&kind| kind.to_owned()).collect(),
            ..EventsRequest::default()
        };
        assert_eq!(Reader::new(&events, kinds(&["online", "away"])).pids().await, [-1, -1]);
        let target = fleet::Target { host: "b".to_owned(), ..fleet::Target::default() };
        let of_b = EventsRequest { targets: vec![target], ..kinds(&["running", "away"]) };
        assert_eq!(Reader::new(&events, of_b).pids().await, [2, -1]);
        let registry = Arc::new(Registry::new(Wall(0)));
        for (request, reason) in [
            (kinds(&["nonsense"]), "nonsense"),
            (EventsRequest { after: "x".to_owned(), ..EventsRequest::default() }, "token"),
        ] {
            let error = read(&events, &registry, request).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
