//! What this agent would leave if it died now, kept true at each step: the journal in the keeper's hands, and how
//! many of the core's lines the daemon's log has. A journal that can't be written is given up, and then the
//! programs end with the agent, in order, until a new one can be begun.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fleetvisor_core::decisions::Decisions;
use fleetvisor_model::config::LogLevel;
use fleetvisor_model::time::{Monotonic, Now};

use crate::children::Children;
use crate::clock;
use crate::groups::Groups;
use crate::journal::{Entry, Journal, KEY, Record, SnapshotOf};
use crate::logs::Logs;
use crate::settings::Settings;
use crate::upgrade::Upgrade;

/// Before a journal that failed is begun anew.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Legacy {
    pub(crate) settings: Settings,
    pub(crate) pidfile_written: bool,
    /// The latest one.
    pub(crate) upgrade: Option<Upgrade>,
    /// The snapshot is older than something that stands in it.
    stale: bool,
    /// The last is the one that counts; those before it only until the keeper surely has it.
    journals: Vec<Journal>,
    failed: Option<Monotonic>,
    lines: Lines,
}

/// The core's lines, by their numbers.
#[derive(Debug)]
struct Lines {
    /// How many have come out of the core, and the last of them that went to the log.
    count: u64,
    last: u64,
    written: Arc<AtomicU64>,
}

impl Legacy {
    /// `lines` is how many have come out of the core before.
    pub(crate) fn new(settings: Settings, pidfile_written: bool, lines: u64) -> Legacy {
        let lines = Lines { count: lines, last: lines, written: Arc::new(AtomicU64::new(lines)) };
        Legacy {
            settings,
            pidfile_written,
            upgrade: None,
            stale: false,
            journals: Vec::new(),
            failed: None,
            lines,
        }
    }

    /// That of another agent, taken up: its journal goes on, where there is one to go on with, and its log is known to
    /// have `written` of `lines`.
    pub(crate) fn take_up(
        settings: Settings,
        pidfile_written: bool,
        upgrade: Option<Upgrade>,
        journal: Option<Journal>,
        lines: u64,
        written: u64,
    ) -> Legacy {
        let lines = Lines { count: lines, last: lines, written: Arc::new(AtomicU64::new(written)) };
        Legacy {
            settings,
            pidfile_written,
            upgrade,
            stale: false,
            journals: journal.into_iter().collect(),
            failed: None,
            lines,
        }
    }

    /// All lines so far are in the log once it has taken what it was sent.
    pub(crate) fn caught_up(&self, logs: &Logs) {
        let (number, written) = (self.lines.count, Arc::clone(&self.lines.written));
        logs.then(move || written.store(number, Ordering::Release));
    }

    /// To be called before anything that follows from the entry is done.
    pub(crate) fn note(&mut self, now: Now, entry: Entry<'_>, children: &mut Children, logs: &Logs) {
        if self.journals.len() > 1 && children.all_is_said() {
            self.journals.drain(..self.journals.len() - 1);
        }
        let record = Record { now, lines: self.lines.written.load(Ordering::Acquire), entry };
        let appended = self.journals.iter_mut().try_for_each(|journal| journal.append(&record));
        if let Err(error) = appended {
            self.give_up(&error, children, logs);
        }
    }

    fn give_up(&mut self, error: &std::io::Error, children: &mut Children, logs: &Logs) {
        children.unstash(KEY);
        self.journals.clear();
        self.failed = Some(clock::now().monotonic);
        let line = format!("cannot keep a journal, so programs would not outlive this agent now: {error}");
        logs.line(LogLevel::Critical, line);
    }

    /// The latest upgrade, as a successor is to know it.
    pub(crate) fn note_upgrade(&mut self, upgrade: Upgrade) {
        self.upgrade = Some(upgrade);
        self.stale = true;
    }

    /// A journal with the state of this moment and nothing else.
    pub(crate) fn snapshot(
        &self,
        decisions: &Decisions,
        groups: &Groups,
        next_ticket: u64,
    ) -> std::io::Result<(OwnedFd, Journal)> {
        let (settings, pidfile_written) = (&self.settings, self.pidfile_written);
        let upgrade = self.upgrade.as_ref();
        let snapshot = SnapshotOf { settings, pidfile_written, decisions, groups, next_ticket, upgrade };
        let journal = Journal::begin(&snapshot)?;
        Ok((journal.descriptor()?, journal))
    }

    /// Begins a new journal where there is none, or where the old one is long and nothing is under way.
    pub(crate) fn keep(
        &mut self,
        decisions: &Decisions,
        groups: &Groups,
        next_ticket: u64,
        children: &mut Children,
        logs: &Logs,
    ) {
        let wanted = match self.journals.last() {
            Some(journal) => (journal.is_long() || self.stale) && self.is_quiet(children),
            None => self.failed.is_none_or(|failed| clock::now().monotonic.since(failed) >= PAUSE),
        };
        if !wanted {
            return;
        }
        match self.snapshot(decisions, groups, next_ticket) {
            Ok((descriptor, journal)) => {
                children.stash(KEY, Vec::new(), vec![descriptor]);
                self.journals.push(journal);
                self.stale = false;
                if self.failed.take().is_some() {
                    logs.line(LogLevel::Info, "the journal is kept again");
                }
            }
            Err(error) => self.give_up(&error, children, logs),
        }
    }

    /// Everything that was decided has been said to whoever is to do it.
    pub(crate) fn is_quiet(&self, children: &Children) -> bool {
        let written = self.lines.written.load(Ordering::Acquire);
        children.all_is_said() && children.no_signal_waits() && written >= self.lines.last
    }

    /// One of the core's lines.
    pub(crate) fn line(&mut self, level: LogLevel, line: String, logs: &Logs) {
        self.lines.count += 1;
        if logs.shows(level) {
            let (number, written) = (self.lines.count, Arc::clone(&self.lines.written));
            self.lines.last = number;
            logs.line(level, line);
            logs.then(move || written.store(number, Ordering::Release));
        }
    }
}
