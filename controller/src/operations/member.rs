//! One host of an operation: what it was asked, how far it is, and how it came out. No I/O.

use std::fmt::Write;
use std::sync::Arc;

use fleetvisor_model::name::ProcessName;
use fleetvisor_model::time::Wall;
use fleetvisor_proto::convert::check_process_name;
use fleetvisor_proto::fleet::{
    self, CommandDone, HostResult, HostState, OperationHost, Outcome, ProcessResult, Verb,
};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::record::{self, MemberRecord, PlannedHost, Stage};
use crate::clock;
use crate::registry::Host;
use crate::rollout::Standing;

/// Names that a reason lists at most.
const NAMES_SHOWN: usize = 5;
/// Longest text of a host's that is kept, in bytes.
const TEXT_MAX: usize = 300;
/// Results of an update at most: a line for a group, and for each process that failed.
const UPDATE_RESULTS_MAX: usize = 2_000;
const LEFT: &str = "left stopped: that was asked for later";

#[derive(Debug)]
pub(super) struct Member {
    pub(super) host: Arc<Host>,
    pub(super) planned: PlannedHost,
    pub(super) stage: Stage,
    /// Revision of its wishes; 0 where there are none.
    pub(super) wish: u64,
    pub(super) results: Vec<ProcessResult>,
    /// Which of the planned processes have not answered.
    open: Vec<bool>,
    /// The link over which it was told last.
    pub(super) sent: Option<u64>,
    /// Waits for it to have applied the revision.
    pub(super) following: Option<AbortHandle>,
    /// When it counts as failed without an answer.
    pub(super) deadline: Option<Instant>,
    /// How it came out, until that is stored.
    pub(super) ending: Option<(HostResult, String)>,
}

impl Member {
    pub(super) fn new(host: Arc<Host>, planned: PlannedHost) -> Member {
        let open = vec![true; planned.processes.len()];
        Member {
            host,
            planned,
            stage: Stage::Waiting,
            wish: 0,
            results: Vec::new(),
            open,
            sent: None,
            following: None,
            deadline: None,
            ending: None,
        }
    }

    /// As it was stored, under this revision.
    pub(super) fn take_up(&mut self, stored: MemberRecord, revision: u64) {
        self.wish = match &stored.stage {
            Stage::Remembered { wish, .. } => wish.unwrap_or(revision),
            Stage::Begun { wish, wished } if wish.is_some() || !wished.is_empty() => wish.unwrap_or(revision),
            Stage::Waiting | Stage::Begun { .. } | Stage::Done { .. } => 0,
        };
        self.results = record::unlike(stored.results, &self.planned.processes);
        for at in 0..self.results.len() {
            let name = self.results[at].name.clone();
            self.close(name.as_ref());
        }
        self.stage = stored.stage;
    }

    pub(super) fn record(&self, stage: Stage) -> MemberRecord {
        MemberRecord { stage, results: record::alike(&self.results, &self.planned.processes) }
    }

    /// Whether the process was still to answer; now it has.
    fn close(&mut self, name: Option<&fleet::ProcessName>) -> bool {
        let Some(name) = name else { return false };
        let order = |it: &ProcessName| (&it.group, &it.process).cmp(&(&name.group, &name.process));
        match self.planned.processes.binary_search_by(order) {
            Ok(at) => std::mem::take(&mut self.open[at]),
            Err(_) => false,
        }
    }

    pub(super) fn is_begun(&self) -> bool {
        matches!(self.stage, Stage::Begun { .. })
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done { .. })
    }

    /// Whether anything can be expected of it before it returns.
    pub(super) fn is_present(&self) -> bool {
        self.host.is_online()
    }

    pub(super) fn standing(&self) -> Standing {
        match &self.stage {
            Stage::Waiting | Stage::Remembered { .. } => Standing::Waiting { online: self.host.is_online() },
            Stage::Begun { .. } => Standing::Begun,
            Stage::Done { forgiven: true, .. } => Standing::Forgiven,
            Stage::Done { result, .. } => match record::result(result) {
                HostResult::Failed | HostResult::TimedOut => Standing::Bad,
                // Nothing was asked of these, so nothing failed.
                HostResult::Ok
                | HostResult::Pending
                | HostResult::Away
                | HostResult::Expired
                | HostResult::NotBegun
                | HostResult::Refused
                | HostResult::UnderWay
                | HostResult::Waiting
                | HostResult::Unspecified => Standing::Good,
            },
        }
    }

    /// Answers that are taken of it.
    pub(super) fn answers_most(&self, verb: Verb) -> usize {
        match verb {
            Verb::Update | Verb::Upgrade => UPDATE_RESULTS_MAX,
            Verb::Unspecified | Verb::Start | Verb::Stop | Verb::Restart | Verb::Signal | Verb::Apply => {
                // Twice over, where it tells a second time what it told before a link broke.
                self.planned.processes.len() * 2
            }
        }
    }

    /// Takes what it says of processes; what of that is news.
    pub(super) fn progress(&mut self, verb: Verb, results: Vec<ProcessResult>) -> &[ProcessResult] {
        let known = self.results.len();
        for mut result in results {
            if check_process_name(result.name.as_ref()).is_err() {
                continue;
            }
            cut(&mut result.text);
            // Each process answers once, and only those that were asked.
            let is_news = match verb {
                Verb::Update | Verb::Upgrade => {
                    self.results.len() < UPDATE_RESULTS_MAX && !self.results.contains(&result)
                }
                Verb::Unspecified | Verb::Start | Verb::Stop | Verb::Restart | Verb::Signal | Verb::Apply => {
                    self.close(result.name.as_ref())
                }
            };
            if is_news {
                self.results.push(result);
            }
        }
        &self.results[known..]
    }

    /// Leaves a process out, and says so.
    pub(super) fn leave(&mut self, name: &ProcessName) -> Option<ProcessResult> {
        let name = Some(name.into());
        self.close(name.as_ref()).then(|| {
            let result = ProcessResult { name, outcome: Outcome::Unchanged.into(), text: LEFT.to_owned() };
            self.results.push(result.clone());
            result
        })
    }

    pub(super) fn leaves(&self, name: &ProcessName) -> bool {
        let is_it = |result: &ProcessResult| result.text == LEFT && result.name == Some(name.into());
        self.results.iter().any(is_it)
    }

    /// It says that it has finished.
    pub(super) fn finished(&mut self, done: CommandDone) {
        let is_failed = |outcome| matches!(outcome, Outcome::Failed | Outcome::Unspecified);
        let failed = self.results.iter().filter(|result| is_failed(result.outcome())).count();
        self.ending = Some(if done.never_begun {
            (HostResult::NotBegun, "it had not begun, and does not any more".to_owned())
        } else if !done.error.is_empty() {
            let mut error = done.error;
            cut(&mut error);
            (HostResult::Failed, error)
        } else if self.open.contains(&true) {
            (HostResult::Failed, format!("no answer for {}", self.unanswered()))
        } else if failed > 0 {
            (HostResult::Failed, format!("{failed} of {} failed", self.results.len()))
        } else {
            (HostResult::Ok, String::new())
        });
    }

    /// No answer within the limit.
    pub(super) fn timed_out(&mut self, verb: Verb, seconds: u32) {
        let open = match verb {
            Verb::Apply => "the revision".to_owned(),
            _ if self.open.contains(&true) => self.unanswered(),
            _ => "the rest".to_owned(),
        };
        self.ending = Some(if self.is_present() {
            (HostResult::TimedOut, format!("no answer for {open} within {seconds} s"))
        } else {
            (HostResult::TimedOut, format!("went away during the command; no answer for {open}"))
        });
    }

    /// It has been revoked: nobody waits until it may be let in again.
    pub(super) fn refused(&mut self, verb: Verb) {
        let reason = match &self.stage {
            Stage::Begun { .. } => "revoked during the command; what became of it is not known".to_owned(),
            Stage::Remembered { .. } => {
                format!("revoked before it returned; will {} if it is let in again", verb.word())
            }
            Stage::Waiting | Stage::Done { .. } => format!("{}; not {}", absence(&self.host), verb.past()),
        };
        self.ending = Some((HostResult::Refused, reason));
    }

    /// What is known of a host that is not done, when nobody waits any longer.
    pub(super) fn unfinished(&self, verb: Verb, stopped: bool, expires: Wall) -> (HostResult, String) {
        let word = verb.word();
        match &self.stage {
            Stage::Begun { .. } => {
                let reason = "went away during the command; what became of it is known when it returns";
                (HostResult::Pending, reason.to_owned())
            }
            Stage::Waiting | Stage::Remembered { .. } if stopped => {
                (HostResult::NotBegun, format!("not {}", verb.past()))
            }
            Stage::Remembered { .. } => {
                (HostResult::Pending, format!("{}; will {word} when it returns", absence(&self.host)))
            }
            Stage::Waiting | Stage::Done { .. } if verb == Verb::Apply => {
                (HostResult::Pending, format!("{}; will catch up when it returns", absence(&self.host)))
            }
            Stage::Waiting | Stage::Done { .. } => (
                HostResult::Pending,
                format!("{}; will {word} if it returns before {}", absence(&self.host), clock::utc(expires)),
            ),
        }
    }

    /// The names of processes that have not answered, the first few.
    fn unanswered(&self) -> String {
        let open = self.planned.processes.iter().zip(&self.open).filter(|(_, open)| **open);
        let names: Vec<String> = open.map(|(name, _)| name.to_string()).collect();
        let mut text = names[..names.len().min(NAMES_SHOWN)].join(", ");
        if names.len() > NAMES_SHOWN {
            let _ = write!(text, " and {} more", names.len() - NAMES_SHOWN);
        }
        text
    }

    pub(super) fn shown(&self, batch: usize) -> OperationHost {
        let (result, reason, ended) = match &self.stage {
            Stage::Waiting if self.host.is_online() => (HostResult::Waiting, String::new(), 0),
            Stage::Waiting | Stage::Remembered { .. } => (HostResult::Pending, absence(&self.host), 0),
            Stage::Begun { .. } => (HostResult::UnderWay, String::new(), 0),
            Stage::Done { result, reason, ended, .. } => (record::result(result), reason.clone(), *ended),
        };
        OperationHost {
            host: self.planned.host.clone(),
            batch: u32::try_from(batch).unwrap_or(u32::MAX),
            result: result.into(),
            reason,
            ended,
            processes: self.planned.processes.iter().map(Into::into).collect(),
            results: self.results.clone(),
            groups: self.planned.groups.clone(),
        }
    }
}

/// `away since 2026-11-21 10:55:00 UTC`.
pub(super) fn absence(host: &Host) -> String {
    let host: fleet::Host = host.describe();
    match host.state() {
        HostState::NeverSeen => "enrolled, but never linked so far".to_owned(),
        HostState::Revoked => "revoked, and refused until it enrols anew".to_owned(),
        _ => format!("away since {}", clock::utc(Wall(host.since))),
    }
}

fn cut(text: &mut String) {
    if text.len() > TEXT_MAX {
        let end = (0..=TEXT_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
}
