//! Pools of event listeners: who is told of an event, in which order, and what their answers mean. It does no
//! input or output: what is to be sent, logged and printed comes out as [`Deed`]s.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use fleetvisor_model::config::{Group, GroupKind, LogLevel, ResultHandler};
use fleetvisor_model::name::ProcessName;
use fleetvisor_model::state::ProcessState;
use fleetvisor_model::time::{Monotonic, Now};
use serde::{Deserialize, Serialize};

use crate::effect::Change;
use crate::event::{Event, Period, covers, envelope};
use crate::listener::{Listener, Said, State};

/// What the pools ask of the world, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// To a listener's stdin; [`Pools::send_failed`] answers if that can't be done.
    Send {
        name: ProcessName,
        envelope: String,
    },
    Log {
        level: LogLevel,
        line: String,
    },
    /// To the daemon's stdout.
    Print(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Queued {
    event: Rc<Event>,
    serial: u64,
    poolserial: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Member {
    name: ProcessName,
    running: bool,
    /// Its stdin is closed.
    deaf: bool,
    listener: Listener,
    busy_with: Option<Queued>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Pool {
    name: String,
    priority: i64,
    buffer_size: usize,
    events: Vec<String>,
    handler: ResultHandler,
    next_serial: u64,
    buffer: VecDeque<Queued>,
    members: Vec<Member>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Pools {
    identifier: String,
    /// By priority.
    pools: Vec<Pool>,
    next_serial: u64,
    /// The beginning of each period that somebody waits for the end of, in seconds since 1970.
    ticked: [Option<i64>; 3],
    #[serde(skip)]
    deeds: Vec<Deed>,
}

impl Pools {
    /// `next_serial` goes on where a daemon that starts over has left off.
    pub fn new(identifier: String, next_serial: u64) -> Pools {
        Pools { identifier, pools: Vec::new(), next_serial, ticked: [None; 3], deeds: Vec::new() }
    }

    pub fn next_serial(&self) -> u64 {
        self.next_serial
    }

    /// What is to be done by now.
    pub fn take_deeds(&mut self) -> Vec<Deed> {
        self.dispatch();
        std::mem::take(&mut self.deeds)
    }

    /// A group of listeners begins to listen; other groups are no matter of pools.
    pub fn add(&mut self, group: &Group, now: Now) {
        let GroupKind::Listeners { buffer_size, events, result_handler } = &group.kind else { return };
        let member = |name: &ProcessName| Member {
            name: name.clone(),
            running: false,
            deaf: false,
            listener: Listener::default(),
            busy_with: None,
        };
        let pool = Pool {
            name: group.name.clone(),
            priority: group.priority,
            buffer_size: *buffer_size,
            events: events.clone(),
            handler: *result_handler,
            next_serial: 0,
            buffer: VecDeque::new(),
            members: group.processes.iter().map(|process| member(&process.name)).collect(),
        };
        let at = self.pools.partition_point(|other| other.priority <= pool.priority);
        self.pools.insert(at, pool);
        self.arm_ticks(now);
    }

    pub fn remove(&mut self, group: &str, now: Now) {
        self.pools.retain(|pool| pool.name != group);
        self.arm_ticks(now);
    }

    fn arm_ticks(&mut self, now: Now) {
        for (period, ticked) in Period::ALL.into_iter().zip(&mut self.ticked) {
            let wanted = self.pools.iter().any(|pool| pool.covers(period.event_name()));
            *ticked = wanted.then(|| ticked.unwrap_or_else(|| slice(period, now)));
        }
    }

    /// When [`Pools::tick`] is wanted: never, unless somebody subscribes to ticks.
    pub fn deadline(&self, now: Now) -> Option<Monotonic> {
        let armed = Period::ALL.into_iter().zip(self.ticked).filter_map(|(period, at)| Some((period, at?)));
        armed
            .map(|(period, ticked)| {
                let begun = slice(period, now);
                let left = (begun + period.secs()) * 1_000_000 - now.wall.0;
                let left = if begun == ticked { u64::try_from(left).unwrap_or(0) } else { 0 };
                now.monotonic + Duration::from_micros(left)
            })
            .min()
    }

    pub fn tick(&mut self, now: Now) {
        for (at, period) in Period::ALL.into_iter().enumerate() {
            let when = slice(period, now);
            if self.ticked[at].is_some_and(|ticked| ticked != when) {
                self.ticked[at] = Some(when);
                self.notify(Event::Tick { period, when });
            }
        }
    }

    /// Whether anybody subscribes to events of this name.
    pub fn is_heard(&self, name: &str) -> bool {
        self.pools.iter().any(|pool| pool.covers(name))
    }

    /// Buffers an event for everyone who subscribes to it.
    pub fn notify(&mut self, event: Event) {
        let name = event.name();
        if !self.is_heard(name) {
            return;
        }
        let event = Rc::new(event);
        let serial = self.next_serial;
        self.next_serial += 1;
        for pool in self.pools.iter_mut().filter(|pool| pool.covers(name)) {
            let poolserial = pool.next_serial;
            pool.next_serial += 1;
            let queued = Queued { event: Rc::clone(&event), serial, poolserial };
            pool.make_room(&mut self.deeds);
            pool.buffer.push_back(queued);
        }
    }

    /// A process went to another state: a listener may now be sent events, or is gone with its event undone.
    pub fn changed(&mut self, change: &Change) {
        let Some((pool, at)) = self.find(&change.name) else { return };
        let mut unfinished = None;
        let member = &mut pool.members[at];
        member.running = change.to == ProcessState::Running;
        match change.to {
            ProcessState::Running | ProcessState::Stopping | ProcessState::Unknown => {}
            ProcessState::Starting
            | ProcessState::Stopped
            | ProcessState::Exited
            | ProcessState::Backoff
            | ProcessState::Fatal => {
                member.listener = Listener::default();
                member.deaf = false;
                unfinished = member.busy_with.take();
            }
        }
        if let Some(queued) = unfinished {
            let mut deeds = Vec::new();
            pool.requeue(queued, &mut deeds);
            self.deeds.append(&mut deeds);
        }
    }

    /// Bytes from a listener's stdout.
    pub fn read(&mut self, name: &ProcessName, chunk: &[u8]) {
        let mut deeds = Vec::new();
        if let Some((pool, at)) = self.find(name) {
            pool.members[at].listener.read(chunk);
            loop {
                let before = pool.members[at].listener.state();
                let Some(said) = pool.members[at].listener.next_said() else { break };
                pool.said(at, before, said, &mut deeds);
            }
        }
        self.deeds.append(&mut deeds);
    }

    /// A listener's stdin is closed: another one gets its event, and it gets none.
    pub fn send_failed(&mut self, name: &ProcessName) {
        let mut deeds = Vec::new();
        if let Some((pool, at)) = self.find(name) {
            pool.members[at].deaf = true;
            if let Some(queued) = pool.members[at].busy_with.take() {
                deeds.push(debug(format!(
                    "epipe occurred while sending event {} to listener {}, listener state unchanged",
                    queued.serial, name.process
                )));
                pool.requeue(queued, &mut deeds);
            }
        }
        self.deeds.append(&mut deeds);
    }

    /// Whether a listener has been sent an event that it has not answered.
    pub fn is_busy(&self, name: &ProcessName) -> bool {
        let members = self.pools.iter().flat_map(|pool| &pool.members);
        members.filter(|member| member.name == *name).any(|member| member.busy_with.is_some())
    }

    fn find(&mut self, name: &ProcessName) -> Option<(&mut Pool, usize)> {
        self.pools.iter_mut().find_map(|pool| {
            let at = pool.members.iter().position(|member| member.name == *name)?;
            Some((pool, at))
        })
    }

    fn dispatch(&mut self) {
        for pool in &mut self.pools {
            while let Some(member) = pool.members.iter_mut().find(|member| member.is_free())
                && let Some(queued) = pool.buffer.pop_front()
            {
                let name = member.name.clone();
                let Queued { event, serial, poolserial } = &queued;
                let envelope = envelope(&self.identifier, &pool.name, *serial, *poolserial, event);
                let line = format!("event {serial} sent to listener {}", name.process);
                self.deeds.extend([Deed::Send { name, envelope }, debug(line)]);
                member.listener.sent();
                member.busy_with = Some(queued);
            }
        }
    }
}

impl Member {
    fn is_free(&self) -> bool {
        self.running && !self.deaf && self.listener.state() == State::Ready
    }
}

impl Pool {
    fn covers(&self, name: &str) -> bool {
        self.events.iter().any(|subscribed| covers(subscribed, name))
    }

    fn make_room(&mut self, deeds: &mut Vec<Deed>) {
        if self.buffer.len() >= self.buffer_size
            && let Some(discarded) = self.buffer.pop_front()
        {
            let line =
                format!("pool {} event buffer overflowed, discarding event {}", self.name, discarded.serial);
            deeds.push(Deed::Log { level: LogLevel::Error, line });
        }
    }

    fn requeue(&mut self, queued: Queued, deeds: &mut Vec<Deed>) {
        deeds.push(debug(format!(
            "rebuffering event {} for pool {} (buf size={}, max={})",
            queued.serial,
            self.name,
            self.buffer.len(),
            self.buffer_size
        )));
        self.make_room(deeds);
        self.buffer.push_front(queued);
    }

    fn said(&mut self, at: usize, before: State, said: Said, deeds: &mut Vec<Deed>) {
        let name = self.members[at].name.process.clone();
        let mut rejected = false;
        match said {
            Said::Ready | Said::Nonsense => {}
            Said::BadLine(line) => {
                deeds.push(warn(format!("{name}: bad result line: '{line}'")));
                rejected = true;
            }
            Said::Result(result) => match (self.handler, printed(&result)) {
                (ResultHandler::Default, _) if result == b"OK" => {
                    deeds.push(debug(format!("{name}: event was processed")));
                }
                (ResultHandler::Default, _) => {
                    deeds.push(warn(format!("{name}: event was rejected")));
                    rejected = true;
                }
                (ResultHandler::SupervisorStdout, Some(lines)) => {
                    deeds.push(Deed::Print(lines));
                    deeds.push(debug(format!("{name}: event was processed")));
                }
                (ResultHandler::SupervisorStdout, None) => {
                    deeds.push(warn(format!("{name}: event caused an error")));
                    self.members[at].listener.give_up();
                    rejected = true;
                }
            },
        }
        let now = self.members[at].listener.state();
        deeds.push(debug(format!("{name}: {} -> {}", before.name(), now.name())));
        if now == State::Unknown {
            deeds.push(warn(format!(
                "{name}: has entered the UNKNOWN state and will no longer receive events, this usually \
                 indicates the process violated the eventlistener protocol"
            )));
        }
        if let Some(queued) = self.members[at].busy_with.take()
            && rejected
        {
            self.requeue(queued, deeds);
        }
    }
}

/// What `supervisor_stdout` prints: each line of the result behind the process and channel of its header.
fn printed(result: &[u8]) -> Option<String> {
    let (header, data) = std::str::from_utf8(result).ok()?.split_once('\n')?;
    let value = |wanted: &str| {
        header.split_whitespace().filter_map(|word| word.split_once(':')).find(|(key, _)| *key == wanted)
    };
    let ((_, process), (_, channel)) = (value("processname")?, value("channel")?);
    Some(data.split('\n').map(|line| format!("{process} {channel} | {line}\n")).collect())
}

fn slice(period: Period, now: Now) -> i64 {
    now.wall.secs() - now.wall.secs().rem_euclid(period.secs())
}

fn debug(line: String) -> Deed {
    Deed::Log { level: LogLevel::Debug, line }
}

fn warn(line: String) -> Deed {
    Deed::Log { level: LogLevel::Warn, line }
}

#[cfg(test)]
mod tests {
    use fleetvisor_model::time::Wall;

    use super::*;
    use crate::world::program;

    fn pools(buffer_size: usize, events: &[&str], result_handler: ResultHandler) -> Pools {
        let mut pools = Pools::new("id".to_owned(), 0);
        let events = events.iter().map(|name| (*name).to_owned()).collect();
        let kind = GroupKind::Listeners { buffer_size, events, result_handler };
        let processes = vec![program("ev", "ev")];
        pools.add(&Group { name: "ev".to_owned(), priority: -1, kind, processes }, Now::default());
        pools
    }

    fn listener() -> ProcessName {
        ProcessName::new("ev", "ev")
    }

    fn goes(pools: &mut Pools, to: ProcessState) {
        let from = ProcessState::Starting;
        pools.changed(&Change { name: listener(), from, to, pid: 1, expected: true, tries: 0, exit: None });
    }

    fn ready(pools: &mut Pools) {
        goes(pools, ProcessState::Running);
        pools.read(&listener(), b"READY\n");
    }

    fn remote(pools: &mut Pools, data: &str) {
        pools.notify(Event::Remote { kind: "t".to_owned(), data: data.to_owned() });
    }

    fn sent(pools: &mut Pools) -> Vec<String> {
        let sent = |deed| match deed {
            Deed::Send { envelope, .. } => Some(envelope),
            Deed::Log { .. } | Deed::Print(_) => None,
        };
        pools.take_deeds().into_iter().filter_map(sent).collect()
    }

    #[test]
    fn a_rejected_event_is_the_next_one_and_keeps_its_serials() {
        let mut pools = pools(10, &["REMOTE_COMMUNICATION"], ResultHandler::Default);
        ready(&mut pools);
        remote(&mut pools, "first");
        remote(&mut pools, "second");
        let first = sent(&mut pools);
        assert!(first[0].contains("serial:0 pool:ev poolserial:0"), "{first:?}");
        pools.read(&listener(), b"RESULT 4\nFAILREADY\n");
        assert_eq!(sent(&mut pools), first);
        pools.read(&listener(), b"RESULT 2\nOKREADY\n");
        assert!(sent(&mut pools)[0].ends_with("second"));
    }

    #[test]
    fn an_event_outlives_the_listener_that_had_it() {
        let mut pools = pools(10, &["EVENT"], ResultHandler::Default);
        ready(&mut pools);
        remote(&mut pools, "first");
        let first = sent(&mut pools);
        goes(&mut pools, ProcessState::Exited);
        assert!(sent(&mut pools).is_empty());
        goes(&mut pools, ProcessState::Starting);
        ready(&mut pools);
        assert_eq!(sent(&mut pools), first);
    }

    #[test]
    fn a_closed_stdin_is_written_to_once() {
        let mut pools = pools(10, &["EVENT"], ResultHandler::Default);
        ready(&mut pools);
        remote(&mut pools, "first");
        assert_eq!(sent(&mut pools).len(), 1);
        pools.send_failed(&listener());
        assert!(sent(&mut pools).is_empty());
    }

    #[test]
    fn a_full_buffer_loses_the_oldest() {
        let mut pools = pools(1, &["EVENT"], ResultHandler::Default);
        remote(&mut pools, "first");
        remote(&mut pools, "second");
        let line = "pool ev event buffer overflowed, discarding event 0".to_owned();
        assert_eq!(pools.take_deeds(), [Deed::Log { level: LogLevel::Error, line }]);
        ready(&mut pools);
        assert!(sent(&mut pools)[0].ends_with("second"));
    }

    #[test]
    fn ticks_are_armed_only_for_who_subscribes() {
        let at = |secs: i64| Now {
            monotonic: Monotonic(secs as u64 * 1_000_000_000),
            wall: Wall::from_secs(secs),
        };
        assert_eq!(pools(1, &["PROCESS_STATE"], ResultHandler::Default).deadline(at(3)), None);
        let mut pools = pools(9, &["TICK_5"], ResultHandler::Default);
        assert_eq!(pools.deadline(at(3)), Some(at(5).monotonic));
        ready(&mut pools);
        pools.tick(at(3));
        assert!(sent(&mut pools).is_empty());
        pools.tick(at(6));
        assert!(sent(&mut pools)[0].ends_with("eventname:TICK_5 len:6\nwhen:5"));
        assert_eq!(pools.deadline(at(6)), Some(at(10).monotonic));
    }

    #[test]
    fn results_for_stdout_are_printed_line_by_line() {
        let mut pools = pools(9, &["PROCESS_LOG"], ResultHandler::SupervisorStdout);
        ready(&mut pools);
        pools.notify(Event::Log(crate::event::Written {
            name: ProcessName::new("g", "p"),
            pid: 1,
            channel: crate::event::Channel::Stdout,
            data: b"a\nb".to_vec(),
        }));
        sent(&mut pools);
        pools.read(&listener(), b"RESULT 33\nprocessname:p channel:stdout\na\nbb");
        let printed = pools.take_deeds().into_iter().find(|deed| matches!(deed, Deed::Print(_)));
        assert_eq!(printed, Some(Deed::Print("p stdout | a\np stdout | bb\n".to_owned())));
    }
}
