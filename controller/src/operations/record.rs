//! Operations as the store keeps them. An operation is one record that changes with its state, pieces of its plan
//! that never change, and a record for each host once something became of it. What many hosts and processes have in
//! common is kept once, since the store holds all of it in memory: names of processes that several hosts of a piece
//! share, and what became of all processes of a host alike.

use std::collections::HashMap;
use std::sync::Arc;

use fleetvisor_model::name::ProcessName;
use fleetvisor_proto::convert::process_name;
use fleetvisor_proto::fleet::{self, HostResult, OperationState, Outcome, ProcessResult, Verb};
use serde::{Deserialize, Serialize};

use crate::reconcile::Run;
use crate::records;

pub(crate) const OPERATIONS: &str = "operation/";
pub(crate) const PLANS: &str = "operation-plan/";
pub(crate) const MEMBERS: &str = "operation-host/";

/// Names in one piece of a plan at most, so that it stays a small record.
const PIECE_NAMES: usize = 2_000;

pub(crate) fn operation_key(id: &str) -> String {
    format!("{OPERATIONS}{id}")
}

/// Prefix of all pieces of a plan.
pub(crate) fn plan_prefix(id: &str) -> String {
    format!("{PLANS}{id}/")
}

fn plan_key(id: &str, piece: usize) -> String {
    format!("{PLANS}{id}/{piece:06}")
}

/// Prefix of the records of an operation's hosts.
pub(crate) fn members_prefix(id: &str) -> String {
    format!("{MEMBERS}{id}/")
}

pub(crate) fn member_key(id: &str, host: &str) -> String {
    format!("{MEMBERS}{id}/{host}")
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct OperationRecord {
    /// `restart`
    pub(crate) verb: String,
    /// Of a signal: `HUP`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) signal: String,
    pub(crate) by: String,
    /// Times are microseconds since the Unix epoch.
    pub(crate) made: i64,
    pub(crate) expires: i64,
    /// The caller gave the expiry: a wish that no host has heard of is withdrawn with it.
    pub(crate) expires_as_asked: bool,
    pub(crate) ended: Option<i64>,
    pub(crate) state: State,
    /// Why it is in this state.
    pub(crate) reason: String,
    pub(crate) scope_hosts: Vec<String>,
    pub(crate) scope_labels: String,
    /// Host, group and process of each target.
    pub(crate) targets: Vec<[String; 3]>,
    pub(crate) strategy: StrategyRecord,
    pub(crate) timeout_seconds: u32,
    /// What is applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) applied: Option<AppliedRecord>,
    pub(crate) hosts: usize,
    /// Once it has ended: hosts that did what was asked, and that did not.
    pub(crate) ok: usize,
    pub(crate) failed: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Running,
    /// By itself, after failures.
    Stopped,
    Cancelled,
    Finished,
}

/// As it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct StrategyRecord {
    pub(crate) parallel: u32,
    pub(crate) batch: String,
    pub(crate) canary: u32,
    pub(crate) pause_ms: u64,
    pub(crate) max_failures: String,
}

/// A revision of a bundle that hosts come to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AppliedRecord {
    pub(crate) bundle: String,
    pub(crate) revision: u64,
    /// The one that was settled when it was made; 0 for none.
    #[serde(default)]
    pub(crate) before: u64,
    /// Where it stops after failures, the revision before is put back.
    pub(crate) revert: bool,
    /// The operation that has put it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reverted_by: Option<String>,
    /// A later revision has taken its place.
    #[serde(default)]
    pub(crate) superseded: bool,
}

/// A host of the plan. Their order, over all pieces, is that of the batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedHost {
    pub(crate) host: String,
    /// In order.
    pub(crate) processes: Arc<[ProcessName]>,
    /// Of an update; none for all.
    pub(crate) groups: Vec<String>,
}

/// Some hosts of a plan, in its order.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlanPiece {
    /// Lists of processes.
    lists: Vec<Vec<ProcessName>>,
    hosts: Vec<PieceHost>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PieceHost {
    host: String,
    /// Which of the lists is its own.
    list: usize,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
}

/// What became of a host. One without a record has not begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct MemberRecord {
    pub(crate) stage: Stage,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) results: Vec<AlikeRecord>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stage {
    #[default]
    Waiting,
    /// It was away at its turn. What is wished of it is stored, and was as here before.
    Remembered {
        /// Revision of the wishes; none for the one of this record.
        wish: Option<u64>,
        before: Vec<(ProcessName, Option<Run>)>,
    },
    /// It was told, or is about to be.
    Begun {
        wish: Option<u64>,
        /// Processes that are wished for.
        wished: Vec<ProcessName>,
    },
    Done {
        result: String,
        reason: String,
        ended: i64,
        forgiven: bool,
    },
}

/// Processes that have come out alike, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AlikeRecord {
    /// `done`, `unchanged`, `failed`
    outcome: String,
    text: String,
    /// None where they are all that were asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    names: Vec<ProcessName>,
}

/// Keys and values of a plan's pieces.
pub(crate) fn plan_pieces(id: &str, hosts: &[PlannedHost]) -> Vec<(String, Vec<u8>)> {
    let mut pieces = Vec::new();
    let (mut piece, mut weight) = (PlanPiece::default(), 0);
    let mut numbers: HashMap<&[ProcessName], usize> = HashMap::new();
    for (at, planned) in hosts.iter().enumerate() {
        let list = *numbers.entry(&*planned.processes).or_insert_with(|| {
            weight += planned.processes.len();
            piece.lists.push(planned.processes.to_vec());
            piece.lists.len() - 1
        });
        weight += planned.groups.len() + 1;
        piece.hosts.push(PieceHost { host: planned.host.clone(), list, groups: planned.groups.clone() });
        if weight >= PIECE_NAMES || at + 1 == hosts.len() {
            pieces.push((plan_key(id, pieces.len()), records::encode(&piece)));
            (piece, weight) = (PlanPiece::default(), 0);
            numbers.clear();
        }
    }
    pieces
}

impl PlanPiece {
    pub(crate) fn into_hosts(self) -> impl Iterator<Item = PlannedHost> {
        let PlanPiece { lists, hosts } = self;
        let lists: Vec<Arc<[ProcessName]>> = lists.into_iter().map(Arc::from).collect();
        hosts.into_iter().map(move |PieceHost { host, list, groups }| {
            let processes = lists.get(list).cloned().unwrap_or_else(|| Arc::new([]));
            PlannedHost { host, processes, groups }
        })
    }
}

/// The results of a host of which `asked` was asked.
pub(crate) fn alike(results: &[ProcessResult], asked: &[ProcessName]) -> Vec<AlikeRecord> {
    let is_alike = |a: &ProcessResult, b: &ProcessResult| a.outcome == b.outcome && a.text == b.text;
    let names = |some: &[ProcessResult]| match some.len() == asked.len() {
        // Each answers once, so as many as were asked are all of them.
        true => Vec::new(),
        false => some.iter().filter_map(|result| process_name(result.name.clone()).ok()).collect(),
    };
    let records = results.chunk_by(is_alike).map(|some| AlikeRecord {
        outcome: outcome_word(some[0].outcome()).to_owned(),
        text: some[0].text.clone(),
        names: names(some),
    });
    records.collect()
}

/// The other way around.
pub(crate) fn unlike(records: Vec<AlikeRecord>, asked: &[ProcessName]) -> Vec<ProcessResult> {
    let results = |record: AlikeRecord| {
        let names = if record.names.is_empty() { asked.to_vec() } else { record.names };
        names.into_iter().map(move |name| ProcessResult {
            name: Some((&name).into()),
            outcome: outcome(&record.outcome).into(),
            text: record.text.clone(),
        })
    };
    records.into_iter().flat_map(results).collect()
}

fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Done => "done",
        Outcome::Unchanged => "unchanged",
        Outcome::Failed | Outcome::Unspecified => "failed",
    }
}

fn outcome(word: &str) -> Outcome {
    match word {
        "done" => Outcome::Done,
        "unchanged" => Outcome::Unchanged,
        _ => Outcome::Failed,
    }
}

/// The results that a host can end with, and their words in the store.
const RESULTS: [(HostResult, &str); 8] = [
    (HostResult::Ok, "ok"),
    (HostResult::Failed, "failed"),
    (HostResult::Pending, "pending"),
    (HostResult::Away, "away"),
    (HostResult::TimedOut, "timed-out"),
    (HostResult::Expired, "expired"),
    (HostResult::NotBegun, "not-begun"),
    (HostResult::Refused, "refused"),
];

pub(crate) fn result_word(result: HostResult) -> &'static str {
    RESULTS.iter().find(|(known, _)| *known == result).map_or("failed", |(_, word)| word)
}

pub(crate) fn result(word: &str) -> HostResult {
    RESULTS.iter().find(|(_, known)| *known == word).map_or(HostResult::Failed, |(result, _)| *result)
}

const VERBS: [Verb; 7] =
    [Verb::Start, Verb::Stop, Verb::Restart, Verb::Signal, Verb::Update, Verb::Apply, Verb::Upgrade];

impl OperationRecord {
    pub(crate) fn verb(&self) -> Verb {
        VERBS.into_iter().find(|verb| verb.word() == self.verb).unwrap_or(Verb::Unspecified)
    }

    /// What the audit log calls it.
    pub(crate) fn audited(&self) -> String {
        let area = if self.applied.is_some() { "config" } else { "run" };
        format!("{area}.{}", self.verb)
    }

    /// As callers see it, without the counts of one that is under way.
    pub(crate) fn shown(&self, id: &str) -> fleet::Operation {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let state = match self.state {
            State::Running => OperationState::Running,
            State::Stopped => OperationState::Stopped,
            State::Cancelled => OperationState::Cancelled,
            State::Finished => OperationState::Finished,
        };
        let applied = self.applied.as_ref();
        fleet::Operation {
            id: id.to_owned(),
            verb: self.verb().into(),
            signal: self.signal.clone(),
            by: self.by.clone(),
            made: self.made,
            expires: self.expires,
            ended: self.ended.unwrap_or(0),
            state: state.into(),
            reason: self.reason.clone(),
            scope: Some(fleet::Scope { hosts: self.scope_hosts.clone(), labels: self.scope_labels.clone() }),
            targets: self
                .targets
                .iter()
                .map(|[host, group, process]| fleet::Target {
                    host: host.clone(),
                    group: group.clone(),
                    process: process.clone(),
                })
                .collect(),
            strategy: Some(fleet::Strategy {
                parallel: self.strategy.parallel,
                batch: self.strategy.batch.clone(),
                canary: self.strategy.canary,
                pause_ms: self.strategy.pause_ms,
                max_failures: self.strategy.max_failures.clone(),
            }),
            timeout_seconds: self.timeout_seconds,
            hosts: count(self.hosts),
            ok: count(self.ok),
            failed: count(self.failed),
            bundle: applied.map(|applied| applied.bundle.clone()).unwrap_or_default(),
            bundle_revision: applied.map_or(0, |applied| applied.revision),
            revert: applied.is_some_and(|applied| applied.revert),
            reverted_by: applied.and_then(|applied| applied.reverted_by.clone()).unwrap_or_default(),
            superseded: applied.is_some_and(|applied| applied.superseded),
            ..fleet::Operation::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[(String, Vec<u8>)]) -> Vec<PlannedHost> {
        let piece = |(_, value): &(String, Vec<u8>)| serde_json::from_slice::<PlanPiece>(value).unwrap();
        pieces.iter().map(piece).flat_map(PlanPiece::into_hosts).collect()
    }

    fn planned(host: usize, processes: impl Iterator<Item = usize>) -> PlannedHost {
        let processes = processes.map(|number| ProcessName::new("g", format!("p{number}"))).collect();
        PlannedHost { host: format!("h{host}"), processes, groups: Vec::new() }
    }

    #[test]
    fn a_plan_is_cut_into_pieces_that_are_in_order() {
        let hosts: Vec<PlannedHost> = (0..9).map(|n| planned(n, n..n + 499)).collect();
        let pieces = plan_pieces("x", &hosts);
        assert_eq!(pieces.len(), 3);
        assert!(pieces.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(read(&pieces), hosts);
        assert!(plan_pieces("x", &[]).is_empty());
    }

    #[test]
    fn names_that_hosts_share_are_kept_once() {
        let hosts: Vec<PlannedHost> = (0..1000).map(|n| planned(n, 0..50 + n % 2)).collect();
        let pieces = plan_pieces("x", &hosts);
        assert_eq!(read(&pieces), hosts);
        let bytes: usize = pieces.iter().map(|(_, value)| value.len()).sum();
        assert!(bytes < 50_000, "{bytes}");
    }

    #[test]
    fn results_come_back_in_their_order_and_what_is_alike_is_kept_once() {
        let asked = planned(0, 0..50).processes;
        let result = |name: &ProcessName, text: &str| ProcessResult {
            name: Some(name.into()),
            outcome: Outcome::Done.into(),
            text: text.to_owned(),
        };
        let all: Vec<ProcessResult> = asked.iter().map(|name| result(name, "restarted")).collect();
        let records = alike(&all, &asked);
        assert!(records::encode(&records).len() < 100);
        assert_eq!(unlike(records, &asked), all);

        let mut mixed: Vec<ProcessResult> =
            asked[10..].iter().map(|name| result(name, "restarted")).collect();
        mixed[3].text = "ERROR (spawn error)".to_owned();
        let records = alike(&mixed, &asked);
        assert_eq!(records.len(), 3);
        assert_eq!(unlike(records, &asked), mixed);
        assert!(unlike(alike(&[], &asked), &asked).is_empty());
    }

    #[test]
    fn words_in_the_store_come_back_as_what_they_were() {
        for (known, word) in RESULTS {
            assert_eq!((result_word(known), result(word)), (word, known));
        }
        for known in [Outcome::Done, Outcome::Unchanged, Outcome::Failed] {
            assert_eq!(outcome(outcome_word(known)), known);
        }
    }
}
