//! Operations of a fleet as they are followed: events to lines as they come, all of them to JSON and to an
//! exit status.

use std::collections::{BTreeMap, BTreeSet};

use fleetvisor_model::name::ProcessName;
use fleetvisor_proto::fleet::run_event::Event;
use fleetvisor_proto::fleet::{
    BatchBegun, HostDone, HostResult, Operation, OperationState, Outcome, RunProgress,
};
use serde::Serialize;

use super::exit::Exit;
use super::operations::state_word;
use super::scope::no_such;

/// What became of a command so far.
#[derive(Debug, Default)]
pub(crate) struct Run {
    id: String,
    /// Hosts that have not finished.
    open: BTreeSet<String>,
    results: Vec<ProcessOutcome>,
    hosts: BTreeMap<String, HostOutcome>,
    unmatched: Vec<String>,
    /// `stopped`, once it was told, and why.
    state: &'static str,
    reason: String,
    total: usize,
    /// Revision of the bundle that is applied; 0 for none.
    revision: u64,
    /// The operation that puts back the revision before.
    reverted_by: String,
    /// Of the hosts that have come out, those that are not ok.
    not_done: usize,
}

/// A line for one of the two streams.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Say {
    /// For stdout.
    Result(String),
    /// What became of processes; for stdout, too.
    Outcomes(Vec<Line>),
    /// For stderr.
    Remark(String),
}

/// What became of one process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) text: String,
    pub(crate) good: bool,
}

/// `ctl -o json restart ...`: `{"id", "state", "reason", "results": [...], "hosts": [...], "unmatched": [...]}`.
#[derive(Debug, Serialize)]
pub(crate) struct RunJson {
    id: String,
    /// `finished`, `waiting` (for hosts that are away), `stopped`, `cancelled`; empty where nothing was begun.
    state: &'static str,
    reason: String,
    results: Vec<ProcessOutcome>,
    hosts: Vec<HostOutcome>,
    /// Targets that fit no process of any host.
    unmatched: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
struct ProcessOutcome {
    /// `web-01:web:web_00`
    name: String,
    /// `done`, `unchanged`, `failed`
    outcome: &'static str,
    /// `restarted`, `ERROR (spawn error)`
    text: String,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct HostOutcome {
    host: String,
    /// `ok`, `failed`, `pending`, `away`, `timed-out`, `expired`, `not-begun`, `refused`
    result: &'static str,
    /// Empty where it is `ok`.
    reason: String,
    #[serde(skip)]
    kind: HostResult,
}

impl Run {
    pub(crate) fn event(&mut self, event: Event) -> Option<Say> {
        match event {
            Event::Started(started) => {
                let hosts = started.hosts.len();
                self.total = hosts;
                self.open = started.hosts.into_iter().collect();
                self.id = started.id;
                self.revision = started.bundle_revision;
                let plural = if hosts == 1 { "" } else { "s" };
                let what = match self.revision {
                    0 => String::new(),
                    revision => format!("bundle {}, revision {revision}: ", started.bundle),
                };
                Some(Say::Remark(format!("{what}operation {} on {hosts} host{plural}", self.id)))
            }
            Event::Progress(progress) => Some(self.progress(progress)),
            Event::HostDone(done) => self.host_done(done),
            Event::Operation(operation) => self.operation(operation).map(Say::Remark),
            Event::Batch(batch) => {
                let plural = if batch.hosts == 1 { "" } else { "s" };
                let BatchBegun { batch, batches, hosts } = batch;
                Some(Say::Remark(format!("batch {batch} of {batches}: {hosts} host{plural}")))
            }
            Event::Remark(remark) => Some(Say::Remark(remark)),
            Event::Unmatched(target) => {
                let line = no_such(&target.host, &target.group, &target.process);
                self.unmatched.push(target.to_string());
                Some(Say::Result(line))
            }
        }
    }

    fn progress(&mut self, progress: RunProgress) -> Say {
        let RunProgress { host, results } = progress;
        let lines = results.into_iter().map(|result| {
            let outcome = outcome_word(result.outcome());
            let name = result.name.unwrap_or_default();
            let name = format!("{host}:{}", ProcessName::new(name.group, name.process).full());
            let line = Line { text: format!("{name}: {}", result.text), good: outcome != "failed" };
            self.results.push(ProcessOutcome { name, outcome, text: result.text });
            line
        });
        Say::Outcomes(lines.collect())
    }

    fn operation(&mut self, operation: Operation) -> Option<String> {
        let state = operation.state();
        let is_news = self.state != state_word(state) || self.reason != operation.reason;
        self.state = state_word(state);
        self.reason = operation.reason;
        if !operation.reverted_by.is_empty() && self.reverted_by.is_empty() {
            self.reverted_by = operation.reverted_by;
            return Some(format!("the revision before is put back: operation {}", self.reverted_by));
        }
        let ends = matches!(state, OperationState::Stopped | OperationState::Cancelled);
        (is_news && ends).then(|| {
            let hint = match operation.superseded || operation.revert {
                true => String::new(),
                false => format!("; ctl op resume {} goes on", self.id),
            };
            format!("operation {} is {}: {}{hint}", self.id, self.state, self.reason)
        })
    }

    fn host_done(&mut self, done: HostDone) -> Option<Say> {
        let kind = done.result();
        let host = done.host.unwrap_or_default().name;
        self.open.remove(&host);
        let applies = self.revision > 0;
        let say = match kind {
            HostResult::Ok if applies => {
                let line = format!("{host}: revision {} applied", self.revision);
                Some(Say::Outcomes(vec![Line { text: line, good: true }]))
            }
            HostResult::Ok => None,
            HostResult::Failed | HostResult::TimedOut if applies => {
                let text = format!("{host}: ERROR ({})", done.reason);
                Some(Say::Outcomes(vec![Line { text, good: false }]))
            }
            HostResult::Failed
            | HostResult::Pending
            | HostResult::Away
            | HostResult::TimedOut
            | HostResult::Expired
            | HostResult::NotBegun
            | HostResult::Refused
            | HostResult::UnderWay
            | HostResult::Waiting
            | HostResult::Unspecified => Some(Say::Result(format!("{host}: {}", done.reason))),
        };
        let outcome =
            HostOutcome { host: host.clone(), result: result_word(kind), reason: done.reason, kind };
        let before = self.hosts.insert(host, outcome).is_some_and(|before| before.kind != HostResult::Ok);
        self.not_done += usize::from(kind != HostResult::Ok);
        self.not_done -= usize::from(before);
        say
    }

    /// Last lines once the stream has ended, for hosts that never answered.
    pub(crate) fn end(&mut self) -> Vec<String> {
        let reason = "no result; the controller ended the answer";
        let open = std::mem::take(&mut self.open);
        for host in &open {
            let kind = HostResult::TimedOut;
            let outcome = HostOutcome {
                host: host.clone(),
                result: result_word(kind),
                reason: reason.to_owned(),
                kind,
            };
            self.hosts.insert(host.clone(), outcome);
        }
        open.iter().map(|host| format!("{host}: {reason}")).collect()
    }

    /// 4 if some hosts are done and others not, or will be; 1 if nothing was done.
    pub(crate) fn exit(&self) -> Exit {
        let count =
            |wanted: &[HostResult]| self.hosts.values().filter(|host| wanted.contains(&host.kind)).count();
        let ok = count(&[HostResult::Ok]);
        let absent = count(&[HostResult::Pending, HostResult::Away, HostResult::Expired]);
        let rest = self.hosts.len() - ok - absent;
        if absent > 0 || (rest > 0 && ok > 0) {
            Exit::Partial
        } else if rest > 0 || !self.unmatched.is_empty() || self.hosts.is_empty() {
            Exit::Failed
        } else {
            Exit::Done
        }
    }

    /// `12 of 20 hosts, 1 failed`: how far it is.
    pub(crate) fn summary(&self) -> String {
        let failed = self.not_done;
        let failed = if failed == 0 { String::new() } else { format!(", {failed} not done") };
        format!("{} of {} hosts{failed}", self.hosts.len(), self.total)
    }

    /// The operation that puts back the revision before, where it is known.
    pub(crate) fn reverted_by(&self) -> Option<&str> {
        Some(self.reverted_by.as_str()).filter(|id| !id.is_empty())
    }

    /// How many hosts did it, of all.
    pub(crate) fn done(&self) -> (usize, usize) {
        (self.hosts.values().filter(|host| host.kind == HostResult::Ok).count(), self.total)
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Whether there is an operation.
    pub(crate) fn is_begun(&self) -> bool {
        self.total > 0
    }

    pub(crate) fn has_unmatched(&self) -> bool {
        !self.unmatched.is_empty()
    }

    /// Whether there was nothing to do it to, and nothing was said of it.
    pub(crate) fn is_empty(&self) -> bool {
        self.hosts.is_empty() && self.unmatched.is_empty()
    }

    /// What is said when the operator stops watching.
    pub(crate) fn farewell(&self) -> String {
        match self.id.as_str() {
            "" => "interrupted; see ctl op list for what was begun".to_owned(),
            id => format!("interrupted; operation {id} goes on: ctl op watch {id}, ctl op cancel {id}"),
        }
    }

    /// What is said when the controller hangs up.
    pub(crate) fn broken_off(&self) -> String {
        match self.id.as_str() {
            "" => "the answer broke off; see ctl op list for what was begun".to_owned(),
            id => format!("the answer broke off; operation {id} goes on: ctl op watch {id}"),
        }
    }

    /// State, its reason, and the hosts.
    pub(crate) fn into_outcome(self) -> (&'static str, String, Vec<HostOutcome>) {
        (self.state, self.reason, self.hosts.into_values().collect())
    }

    pub(crate) fn into_json(self) -> RunJson {
        RunJson {
            id: self.id,
            state: self.state,
            reason: self.reason,
            results: self.results,
            hosts: self.hosts.into_values().collect(),
            unmatched: self.unmatched,
        }
    }
}

pub(crate) fn result_word(result: HostResult) -> &'static str {
    match result {
        HostResult::Ok => "ok",
        HostResult::Pending => "pending",
        HostResult::Away => "away",
        HostResult::TimedOut => "timed-out",
        HostResult::Expired => "expired",
        HostResult::NotBegun => "not-begun",
        HostResult::UnderWay => "under-way",
        HostResult::Waiting => "waiting",
        HostResult::Refused => "refused",
        HostResult::Failed | HostResult::Unspecified => "failed",
    }
}

pub(crate) fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Done => "done",
        Outcome::Unchanged => "unchanged",
        Outcome::Failed | Outcome::Unspecified => "failed",
    }
}

#[cfg(test)]
mod tests {
    use fleetvisor_proto::fleet::{self, Host, RunStarted, Target};
    use proptest::prelude::*;

    use super::*;

    fn started(hosts: &[&str]) -> Event {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        Event::Started(RunStarted { id: "7f".to_owned(), hosts, ..RunStarted::default() })
    }

    fn progress(host: &str, outcome: Outcome, text: &str) -> Event {
        let name =
            fleetvisor_proto::fleet::ProcessName { group: "web".to_owned(), process: "web_00".to_owned() };
        let result =
            fleet::ProcessResult { name: Some(name), outcome: outcome.into(), text: text.to_owned() };
        Event::Progress(RunProgress { host: host.to_owned(), results: vec![result] })
    }

    fn done(host: &str, result: HostResult, reason: &str) -> Event {
        let host = Host { name: host.to_owned(), ..Host::default() };
        Event::HostDone(HostDone { host: Some(host), result: result.into(), reason: reason.to_owned() })
    }

    fn run(events: Vec<Event>) -> (Run, Vec<Option<Say>>) {
        let mut run = Run::default();
        let said = events.into_iter().map(|event| run.event(event)).collect();
        (run, said)
    }

    fn exit(results: &[HostResult]) -> Exit {
        let events =
            results.iter().enumerate().map(|(at, result)| done(&at.to_string(), *result, "why")).collect();
        run(events).0.exit()
    }

    #[test]
    fn lines_name_processes_in_three_parts_and_absent_hosts() {
        let (run, said) = run(vec![
            started(&["web-01", "web-02"]),
            progress("web-01", Outcome::Done, "restarted"),
            done("web-01", HostResult::Ok, ""),
            done("web-02", HostResult::Away, "away since 2026-11-21 10:55:00 UTC"),
        ]);
        let result = |text: &str| Some(Say::Result(text.to_owned()));
        assert_eq!(
            said,
            [
                Some(Say::Remark("operation 7f on 2 hosts".to_owned())),
                Some(Say::Outcomes(vec![Line {
                    text: "web-01:web:web_00: restarted".to_owned(),
                    good: true
                }])),
                None,
                result("web-02: away since 2026-11-21 10:55:00 UTC"),
            ]
        );
        assert_eq!(run.exit(), Exit::Partial);
    }

    #[test]
    fn a_revision_that_is_applied_is_named_on_every_line() {
        let begun = Event::Started(RunStarted {
            id: "7f".to_owned(),
            hosts: vec!["a".to_owned(), "b".to_owned()],
            bundle: "web".to_owned(),
            bundle_revision: 2,
            ..RunStarted::default()
        });
        let stopped = |reverted_by: &str| {
            Event::Operation(Operation {
                state: OperationState::Stopped.into(),
                reason: "1 failed (b), and 0 may".to_owned(),
                revert: true,
                reverted_by: reverted_by.to_owned(),
                ..Operation::default()
            })
        };
        let (run, said) = run(vec![
            begun,
            done("a", HostResult::Ok, ""),
            done("b", HostResult::Failed, "no such user"),
            stopped(""),
            stopped("80"),
        ]);
        let remark = |text: &str| Some(Say::Remark(text.to_owned()));
        let outcome = |line: &str, good| Some(Say::Outcomes(vec![Line { text: line.to_owned(), good }]));
        assert_eq!(
            said,
            [
                remark("bundle web, revision 2: operation 7f on 2 hosts"),
                outcome("a: revision 2 applied", true),
                outcome("b: ERROR (no such user)", false),
                remark("operation 7f is stopped: 1 failed (b), and 0 may"),
                remark("the revision before is put back: operation 80"),
            ]
        );
        assert_eq!((run.reverted_by(), run.done()), (Some("80"), (1, 2)));
    }

    #[test]
    fn outcomes_of_hosts_come_to_an_exit_status() {
        use HostResult::{Away, Failed, NotBegun, Ok, Pending, TimedOut};
        assert_eq!(exit(&[Ok, Ok]), Exit::Done);
        assert_eq!(exit(&[Ok, Failed]), Exit::Partial);
        assert_eq!(exit(&[Ok, TimedOut]), Exit::Partial);
        assert_eq!(exit(&[Pending]), Exit::Partial);
        assert_eq!(exit(&[Away, Failed]), Exit::Partial);
        assert_eq!(exit(&[Failed, TimedOut]), Exit::Failed);
        assert_eq!(exit(&[Failed, NotBegun]), Exit::Failed);
        assert_eq!(exit(&[Ok, NotBegun]), Exit::Partial);
        assert_eq!(exit(&[]), Exit::Failed);
    }

    #[test]
    fn a_target_that_fits_nothing_fails_the_command() {
        let target = Target { host: String::new(), group: "nosuch".to_owned(), process: String::new() };
        let (run, said) = run(vec![started(&["a"]), Event::Unmatched(target), done("a", HostResult::Ok, "")]);
        assert_eq!(said[1], Some(Say::Result("nosuch: ERROR (no such group)".to_owned())));
        assert_eq!(run.exit(), Exit::Failed);
    }

    #[test]
    fn a_host_without_a_result_is_named_at_the_end() {
        let (mut run, _) = run(vec![started(&["a", "b"]), done("a", HostResult::Ok, "")]);
        assert_eq!(run.end(), ["b: no result; the controller ended the answer"]);
        assert_eq!(run.exit(), Exit::Partial);
    }

    #[test]
    fn json_says_the_same() {
        let (run, _) = run(vec![
            started(&["web-01"]),
            progress("web-01", Outcome::Failed, "ERROR (spawn error)"),
            done("web-01", HostResult::Failed, "1 of 1 failed"),
        ]);
        assert_eq!(
            serde_json::to_value(run.into_json()).unwrap(),
            serde_json::json!({
                "id": "7f",
                "state": "",
                "reason": "",
                "results": [{"name": "web-01:web:web_00", "outcome": "failed", "text": "ERROR (spawn error)"}],
                "hosts": [{"host": "web-01", "result": "failed", "reason": "1 of 1 failed"}],
                "unmatched": [],
            })
        );
    }

    proptest! {
        #[test]
        fn only_hosts_that_are_all_ok_are_done(results in proptest::collection::vec(1..=10i32, 0..6)) {
            let results: Vec<HostResult> =
                results.into_iter().map(|result| HostResult::try_from(result).unwrap()).collect();
            let all_ok = !results.is_empty() && results.iter().all(|result| *result == HostResult::Ok);
            prop_assert_eq!(exit(&results) == Exit::Done, all_ok);
        }
    }
}
