//! Operations as the store keeps them. An operation is one record that changes with its state, pieces of its plan
//! that never change, and a record for each host once something became of it.

use fleetvisor_model::name::ProcessName;
use fleetvisor_proto::fleet::{self, HostResult, OperationState, Outcome, Verb};
use serde::{Deserialize, Serialize};

use crate::reconcile::Run;
use crate::records;

pub(crate) const OPERATIONS: &str = "operation/";
pub(crate) const PLANS: &str = "operation-plan/";
pub(crate) const MEMBERS: &str = "operation-host/";

/// Processes of one piece of a plan at most, so that it stays a small record.
const PIECE_PROCESSES: usize = 2_000;

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

/// A host of the plan. Their order, over all pieces, is that of the batches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlannedHost {
    pub(crate) host: String,
    pub(crate) processes: Vec<ProcessName>,
    /// Of an update; none for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) groups: Vec<String>,
}

/// What became of a host. One without a record has not begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct MemberRecord {
    pub(crate) stage: Stage,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) results: Vec<ResultRecord>,
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

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ResultRecord {
    pub(crate) name: ProcessName,
    /// `done`, `unchanged`, `failed`
    pub(crate) outcome: String,
    pub(crate) text: String,
}

/// Keys and values of a plan's pieces.
pub(crate) fn plan_pieces(id: &str, hosts: &[PlannedHost]) -> Vec<(String, Vec<u8>)> {
    let mut pieces = Vec::new();
    let mut begin = 0;
    let mut weight = 0;
    for (at, host) in hosts.iter().enumerate() {
        weight += host.processes.len() + host.groups.len() + 1;
        if weight >= PIECE_PROCESSES || at + 1 == hosts.len() {
            pieces.push((plan_key(id, pieces.len()), records::encode(&hosts[begin..=at])));
            (begin, weight) = (at + 1, 0);
        }
    }
    pieces
}

pub(crate) fn outcome_word(outcome: Outcome) -> &'static str {
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

impl ResultRecord {
    pub(crate) fn progress(&self, id: &str) -> fleet::Progress {
        fleet::Progress {
            id: id.to_owned(),
            name: Some((&self.name).into()),
            outcome: outcome(&self.outcome).into(),
            text: self.text.clone(),
            status: None,
        }
    }
}

/// The results that a host can end with, and their words in the store.
const RESULTS: [(HostResult, &str); 7] = [
    (HostResult::Ok, "ok"),
    (HostResult::Failed, "failed"),
    (HostResult::Pending, "pending"),
    (HostResult::Away, "away"),
    (HostResult::TimedOut, "timed-out"),
    (HostResult::Expired, "expired"),
    (HostResult::NotBegun, "not-begun"),
];

pub(crate) fn result_word(result: HostResult) -> &'static str {
    RESULTS.iter().find(|(known, _)| *known == result).map_or("failed", |(_, word)| word)
}

pub(crate) fn result(word: &str) -> HostResult {
    RESULTS.iter().find(|(_, known)| *known == word).map_or(HostResult::Failed, |(result, _)| *result)
}

const VERBS: [Verb; 5] = [Verb::Start, Verb::Stop, Verb::Restart, Verb::Signal, Verb::Update];

impl OperationRecord {
    pub(crate) fn verb(&self) -> Verb {
        VERBS.into_iter().find(|verb| verb.word() == self.verb).unwrap_or(Verb::Unspecified)
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
            ..fleet::Operation::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_cut_into_pieces_that_are_in_order() {
        let host = |n: usize| PlannedHost {
            host: format!("h{n}"),
            processes: vec![ProcessName::new("g", "p"); 499],
            groups: Vec::new(),
        };
        let hosts: Vec<PlannedHost> = (0..9).map(host).collect();
        let pieces = plan_pieces("x", &hosts);
        assert_eq!(pieces.len(), 3);
        assert!(pieces.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let read: Vec<PlannedHost> = pieces
            .iter()
            .flat_map(|(_, value)| serde_json::from_slice::<Vec<PlannedHost>>(value).unwrap())
            .collect();
        assert_eq!(read, hosts);
        assert!(plan_pieces("x", &[]).is_empty());
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
