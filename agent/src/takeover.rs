//! Taking up where an agent that has died has left off: from what the keeper holds for a successor to decisions,
//! programs, sockets and lines of the log as they would be if nothing had happened. What is left to do is decided
//! in [`fleetvisor_core::takeover`].

use std::collections::BTreeMap;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::Path;

use fleetvisor_core::effect::{Effect, Instance};
use fleetvisor_core::exit::ExitStatus;
use fleetvisor_core::supervisor::Input;
use fleetvisor_core::takeover::{Adopted, Line, Replay, Task};
use fleetvisor_model::config::{GroupKind, LogLevel, LogTarget};
use fleetvisor_model::name::ProcessName;
use fleetvisor_model::state::DaemonState;

use crate::children::{AdoptedChild, Stashed, stashed_for};
use crate::groups::Groups;
use crate::http::{Bound, Listening};
use crate::journal::{self, Entry, Journal, JournalError, Record, Snapshot};
use crate::logs::LogStash;
use crate::run::Agent;
use crate::settings::Settings;
use crate::startup::{Greeting, Program};
use crate::stdin::Spool;
use crate::upgrade::Upgrade;
use crate::{clock, fcgi};

/// The stash's key of the HTTP servers' sockets.
pub(crate) const SERVERS: &str = "http";
/// Of the daemon's log: more than what can have been on its way there.
const TAIL: u64 = 1 << 20;

/// What follows from a journal alone.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) settings: Settings,
    pub(crate) pidfile_written: bool,
    pub(crate) replay: Replay,
    pub(crate) groups: Groups,
    pub(crate) next_ticket: u64,
    /// Those of the core's lines that the daemon's log had for sure.
    pub(crate) lines: u64,
    pub(crate) upgrade: Option<Upgrade>,
}

impl Left {
    pub(crate) fn new(snapshot: Snapshot, records: Vec<Record<'_>>) -> Left {
        let Snapshot { settings, pidfile_written, decisions, mut groups, mut next_ticket, upgrade, .. } =
            snapshot;
        let mut lines = decisions.lines();
        let mut replay = Replay::new(decisions);
        for record in records {
            lines = lines.max(record.lines);
            match record.entry {
                Entry::Step(step) => {
                    let step = step.into_owned();
                    next_ticket = next_ticket.max(step.ticket().map_or(0, |ticket| ticket.0 + 1));
                    replay.take(step, record.now);
                }
                Entry::Read(read) => drop(groups.reread(read.into_owned())),
                Entry::Added(group) => groups.added(group.into_owned()),
            }
            for group in replay.groups_removed.drain(..) {
                groups.removed(&group);
            }
        }
        Left { settings, pidfile_written, replay, groups, next_ticket, lines, upgrade }
    }
}

/// Everything that the agent before this one has left.
#[derive(Debug)]
pub(crate) struct Heritage {
    pub(crate) left: Left,
    /// To be gone on with. An agent that follows by an upgrade begins its own, so that the one before can be read by
    /// the release before, should that have to come back.
    pub(crate) journal: Option<Journal>,
    pub(crate) servers: Vec<Bound>,
    pub(crate) programs: BTreeMap<Instance, Program>,
    pub(crate) predecessor: Predecessor,
    /// Lines of the keeper.
    pub(crate) said: Vec<String>,
    /// What else was stashed.
    pub(crate) stash: BTreeMap<String, (Vec<u8>, Vec<OwnedFd>)>,
}

/// What became of the agent before this one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Predecessor {
    Died {
        pid: i32,
        status: ExitStatus,
    },
    /// It has begun another keeper in the place of one that was killed, and left.
    LostItsKeeper {
        former: i32,
        keeper_pid: i32,
    },
    Unknown,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeoverError {
    #[error("the agent before has left no journal")]
    NoJournal,
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("cannot take up the servers' sockets: {0}")]
    Servers(#[from] serde_json::Error),
}

impl Heritage {
    pub(crate) fn of(mut greeting: Greeting) -> Result<Heritage, TakeoverError> {
        let (_, mut descriptors) = greeting.stash.remove(journal::KEY).ok_or(TakeoverError::NoJournal)?;
        let (snapshot, records, journal) = journal::read(descriptors.pop().ok_or(TakeoverError::NoJournal)?)?;
        let is_fresh = records.is_empty();
        let left = Left::new(snapshot, records);
        let is_upgrade = left.upgrade.as_ref().is_some_and(|upgrade| !upgrade.told);
        let journal = (!(is_fresh && is_upgrade)).then_some(journal);
        let servers = servers(&left.settings, greeting.stash.remove(SERVERS).unwrap_or_default())?;
        let Greeting { predecessor, former_keeper, keeper_pid, said, programs, stash, .. } = greeting;
        let predecessor = match (former_keeper, predecessor) {
            (Some(former), _) => Predecessor::LostItsKeeper { former, keeper_pid },
            (None, Some((pid, status))) => Predecessor::Died { pid, status },
            (None, None) => Predecessor::Unknown,
        };
        Ok(Heritage { left, journal, servers, programs, predecessor, said, stash })
    }

    /// The core's lines that are not in the daemon's log yet.
    pub(crate) fn unwritten(&self) -> Vec<Line> {
        let section = &self.left.settings.config.supervisord;
        let doubtful = self.left.replay.lines.iter().filter(|line| line.number > self.left.lines);
        let doubtful = doubtful.filter(|line| line.level <= section.loglevel).cloned().collect();
        match &section.logfile {
            LogTarget::File(path) => not_in(doubtful, &tail(path).unwrap_or_default()),
            LogTarget::None | LogTarget::Auto | LogTarget::Syslog => doubtful,
        }
    }
}

fn servers(
    settings: &Settings,
    (bytes, sockets): (Vec<u8>, Vec<OwnedFd>),
) -> Result<Vec<Bound>, serde_json::Error> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let listening: Vec<Listening> = serde_json::from_slice(&bytes)?;
    let servers = settings.config.servers.iter().zip(listening).zip(sockets);
    Ok(servers.map(|((server, listening), socket)| Bound::take_up(server, listening, socket)).collect())
}

/// The end of the daemon's log, with the end of the file before it where it has just been rotated.
fn tail(path: &Path) -> io::Result<String> {
    let end_of = |path: &Path| {
        // A pipe or a terminal is not read.
        if !std::fs::metadata(path)?.is_file() {
            return Ok(Vec::new());
        }
        let mut file = std::fs::File::open(path)?;
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map(|_| bytes)
    };
    let mut before = path.as_os_str().to_owned();
    before.push(".1");
    let mut bytes = end_of(Path::new(&before)).unwrap_or_else(|_: io::Error| Vec::new());
    bytes.extend(end_of(path)?);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Those of `lines`, from the first on, that do not follow one another in `log`. A line is written after it was
/// decided on, and bears its time.
fn not_in(mut lines: Vec<Line>, log: &str) -> Vec<Line> {
    let mut found = 0;
    for written in log.lines() {
        let Some(line) = lines.get(found) else { break };
        let time = clock::log_time(line.wall);
        if written.get(..time.len()).is_some_and(|written| written >= time.as_str())
            && written.get(time.len()..).and_then(|rest| rest.get(" INFO ".len()..))
                == Some(line.text.as_str())
        {
            found += 1;
        }
    }
    lines.split_off(found.min(lines.len()))
}

/// What of another agent's decisions is still to be done, with what it takes.
#[derive(Debug)]
pub(crate) struct Unfinished {
    tasks: Vec<Task>,
    programs: BTreeMap<Instance, Program>,
    /// Of listeners, with the end of what each was to be sent.
    spools: BTreeMap<Instance, (Spool, Vec<u8>)>,
    logs: BTreeMap<Instance, LogStash>,
    /// Listening sockets of FastCGI groups, by their names.
    sockets: BTreeMap<String, OwnedFd>,
    lines: Vec<Line>,
    predecessor: Predecessor,
    /// Entries of the stash that are nobody's any more.
    stale: Vec<String>,
}

impl Unfinished {
    /// `programs` and `stash` are the keeper's; `lines` are not in the log yet.
    pub(crate) fn new(
        replay: &Replay,
        programs: BTreeMap<Instance, Program>,
        stash: BTreeMap<String, (Vec<u8>, Vec<OwnedFd>)>,
        lines: Vec<Line>,
        predecessor: Predecessor,
    ) -> Unfinished {
        let tasks = replay.tasks(&adopted(&programs));
        let mut unfinished = Unfinished {
            tasks,
            programs,
            spools: BTreeMap::new(),
            logs: BTreeMap::new(),
            sockets: BTreeMap::new(),
            lines,
            predecessor,
            stale: Vec::new(),
        };
        for (key, (bytes, mut descriptors)) in stash {
            let owner = stashed_for(&key).filter(|(_, instance)| unfinished.programs.contains_key(instance));
            match (owner, key.strip_prefix(fcgi::STASH), descriptors.pop()) {
                (Some((Stashed::Logs, instance)), _, Some(last)) => {
                    descriptors.push(last);
                    unfinished.logs.insert(instance, LogStash { bytes, descriptors });
                }
                (Some((Stashed::Spool, instance)), _, Some(spool)) => {
                    if let Ok(spool) = Spool::restore(spool) {
                        let unsent = replay.unsent(instance, spool.end()).to_vec();
                        unfinished.spools.insert(instance, (spool, unsent));
                    }
                }
                (None, Some(group), Some(socket)) => {
                    unfinished.sockets.insert(group.to_owned(), socket);
                }
                (None, None, _) | (_, _, None) => unfinished.stale.push(key),
            }
        }
        unfinished
    }
}

fn adopted(programs: &BTreeMap<Instance, Program>) -> Vec<Adopted> {
    let adopted = |(&instance, program): (&Instance, &Program)| Adopted {
        instance,
        pid: program.pid,
        exited: program.exited.is_some(),
        signals: program.signals,
    };
    programs.iter().map(adopted).collect()
}

impl Agent {
    /// Finishes what another agent has begun; from then on this one is in its place.
    pub(crate) fn take_over(&mut self, unfinished: Unfinished, finished: Option<DaemonState>) {
        let Unfinished { tasks, mut programs, mut spools, mut logs, sockets, lines, predecessor, mut stale } =
            unfinished;
        for line in lines {
            self.logs.line(line.level, line.text);
        }
        self.legacy.caught_up(&self.logs);
        let live = programs.values().filter(|program| program.exited.is_none()).count();
        self.say_who_was_here(predecessor, live);
        let holders = self.core().processes().filter(|process| process.instance().is_some());
        let holders: Vec<ProcessName> = holders.map(|process| process.name().clone()).collect();
        for (group, socket) in sockets {
            let config = self.decisions.supervisor().group(&group).map(|group| &group.kind);
            match config {
                Some(GroupKind::Fcgi(config)) => {
                    let holders = holders.iter().filter(|name| name.group == group);
                    self.sockets.take_up(&group, config, socket, holders);
                }
                Some(GroupKind::Programs | GroupKind::Listeners { .. }) | None => {
                    stale.push(fcgi::STASH.to_owned() + &group);
                }
            }
        }
        for key in stale {
            self.children.unstash(&key);
        }
        for task in tasks {
            self.finish(task, &mut programs, &mut spools, &mut logs);
        }
        self.logs.resume();
        self.take_all();
        self.finished = self.finished.or(finished);
    }

    fn say_who_was_here(&mut self, predecessor: Predecessor, live: usize) {
        let how = match predecessor {
            Predecessor::Died { pid, status } => format!("the agent with pid {pid} has ended ({status})"),
            Predecessor::LostItsKeeper { .. } | Predecessor::Unknown => {
                "the agent before this one has ended".to_owned()
            }
        };
        let pid = std::process::id();
        if let Predecessor::LostItsKeeper { former, keeper_pid } = predecessor {
            let line = format!(
                "supervisord goes on with pid {keeper_pid} in the place of {former}; the exit statuses of its {live} \
                 programs will not be known"
            );
            self.logs.line(LogLevel::Critical, line);
        }
        let upgrade = self.legacy.upgrade.clone().filter(|upgrade| !upgrade.told);
        let said = match predecessor {
            Predecessor::LostItsKeeper { .. } => true,
            Predecessor::Died { pid, .. } => upgrade.as_ref().is_some_and(|it| it.from_pid == pid),
            Predecessor::Unknown => false,
        };
        if !said {
            let line = format!("{how}; its {live} programs go on under pid {pid}");
            self.logs.line(LogLevel::Critical, line);
        }
        let Some(mut upgrade) = upgrade else { return };
        let Upgrade { from_pid, from_version, version, .. } = &upgrade;
        if upgrade.has_come_true() {
            let line = format!(
                "upgraded from {from_version} (pid {from_pid}) to {version} (pid {pid}); {live} programs go on"
            );
            self.logs.line(LogLevel::Info, line);
            self.children.renew_keeper();
        } else {
            let error = format!("{version} did not come up: {how}");
            let line = format!("not upgraded, {from_version} goes on: {error}");
            self.logs.line(LogLevel::Critical, line);
            upgrade.error = Some(error);
        }
        upgrade.told = true;
        self.legacy.note_upgrade(upgrade);
    }

    fn finish(
        &mut self,
        task: Task,
        programs: &mut BTreeMap<Instance, Program>,
        spools: &mut BTreeMap<Instance, (Spool, Vec<u8>)>,
        logs: &mut BTreeMap<Instance, LogStash>,
    ) {
        match task {
            Task::Spawn { instance, name } => self.perform(Effect::Spawn { instance, name }),
            Task::Attach { instance, name } => {
                let config = self.core().process(&name).map(|process| process.config().clone());
                let kind = self.core().group(&name.group).map(|group| &group.kind);
                let is_listener = matches!(kind, Some(GroupKind::Listeners { .. }));
                if let (Some(config), Some(program)) = (config, programs.remove(&instance)) {
                    let (spool, unsent) = spools.remove(&instance).unzip();
                    let logs = logs.remove(&instance).unwrap_or_default();
                    let heard = self.decisions.account(instance).heard;
                    let adopted = AdoptedChild { program, logs, spool, heard };
                    self.children.adopt(instance, &config, is_listener, adopted);
                    if let Some(unsent) = unsent {
                        // A listener that is gone is found out by the next event.
                        let _ = self.children.write_stdin(instance, &unsent);
                    }
                }
            }
            Task::Confirm { instance, pid } => self.input(Input::Spawned { instance, pid }),
            Task::Signal { instance, signal, to_group } => {
                self.perform(Effect::Signal { instance, signal, to_group });
            }
            Task::Release { instance } => self.children.release(instance),
            Task::Kill { instance, pid } => {
                let line = format!("nothing is known of the program with pid {pid}, it is killed");
                self.logs.line(LogLevel::Critical, line);
                self.children.kill_unknown(instance);
            }
            Task::Lost { instance } => self.input(Input::Exited { instance, status: ExitStatus::Unknown }),
        }
    }
}

#[cfg(test)]
mod tests {
    use fleetvisor_model::time::Wall;

    use super::*;

    fn line(number: u64, secs: i64, text: &str) -> Line {
        Line { number, wall: Wall::from_secs(secs), level: LogLevel::Info, text: text.to_owned() }
    }

    fn written(secs: i64, text: &str) -> String {
        format!("{} INFO {text}\n", clock::log_time(Wall::from_secs(secs)))
    }

    #[test]
    fn lines_that_the_log_has_are_not_written_again() {
        let lines =
            vec![line(5, 100, "spawned: 'a'"), line(6, 101, "exited: a"), line(7, 101, "spawned: 'a'")];
        let log = [written(90, "spawned: 'a'"), written(100, "spawned: 'a'"), written(100, "something else")];
        let left: Vec<u64> = not_in(lines.clone(), &log.concat()).iter().map(|line| line.number).collect();
        assert_eq!(left, [6, 7]);
        let all = [log.concat(), written(102, "exited: a"), written(102, "spawned: 'a'")].concat();
        assert!(not_in(lines.clone(), &all).is_empty());
        assert_eq!(not_in(lines, "").len(), 3);
    }
}
