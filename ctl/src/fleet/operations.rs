//! Operations as lines and as JSON.

use fleetvisor_model::name::ProcessName;
use fleetvisor_proto::fleet::{Operation, OperationHost, OperationState, Verb};
use serde::Serialize;

use super::progress::{outcome_word, result_word};
use super::when;

/// Digits of an id that a list shows; enough to be named by.
const SHORT: usize = 12;

/// An operation in `-o json`. Times are RFC 3339 in UTC, `null` where there is none.
#[derive(Debug, Serialize)]
pub(crate) struct OperationJson {
    id: String,
    verb: &'static str,
    /// `null` but for a signal.
    signal: Option<String>,
    by: String,
    made: String,
    expires: String,
    ended: Option<String>,
    /// `running`, `waiting` (for hosts that are away), `stopped`, `cancelled`, `finished`
    state: &'static str,
    reason: String,
    scope: ScopeJson,
    /// `web:*`; empty for all.
    targets: Vec<String>,
    /// What is applied; both `null` for any other verb.
    bundle: Option<String>,
    revision: Option<u64>,
    /// Whether the revision before is put back where it stops after failures, and the operation that does.
    revert: bool,
    reverted_by: Option<String>,
    strategy: StrategyJson,
    timeout_seconds: u32,
    hosts: u32,
    ok: u32,
    failed: u32,
    under_way: u32,
}

#[derive(Debug, Serialize)]
struct ScopeJson {
    hosts: Vec<String>,
    labels: String,
}

#[derive(Debug, Serialize)]
struct StrategyJson {
    parallel: Option<u32>,
    batch: Option<String>,
    canary: u32,
    pause_seconds: f64,
    max_failures: Option<String>,
}

/// `ctl -o json op show`: the operation with its hosts.
#[derive(Debug, Serialize)]
pub(crate) struct ShownJson {
    #[serde(flatten)]
    operation: OperationJson,
    results: Vec<HostJson>,
}

#[derive(Debug, Serialize)]
struct HostJson {
    host: String,
    /// From 1.
    batch: u32,
    /// `ok`, `failed`, `pending`, `away`, `timed-out`, `expired`, `not-begun`, `under-way`, `waiting`
    result: &'static str,
    reason: String,
    ended: Option<String>,
    /// `web-01:web:web_00`
    processes: Vec<ProcessJson>,
}

#[derive(Debug, Serialize)]
struct ProcessJson {
    name: String,
    /// `null` without an answer.
    outcome: Option<&'static str>,
    text: String,
}

impl From<&Operation> for OperationJson {
    fn from(operation: &Operation) -> OperationJson {
        let strategy = operation.strategy.clone().unwrap_or_default();
        let scope = operation.scope.clone().unwrap_or_default();
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        OperationJson {
            id: operation.id.clone(),
            verb: operation.verb().word(),
            signal: some(operation.signal.clone()),
            by: operation.by.clone(),
            made: when::rfc3339(operation.made),
            expires: when::rfc3339(operation.expires),
            ended: time(operation.ended).map(when::rfc3339),
            state: state_word(operation.state()),
            reason: operation.reason.clone(),
            scope: ScopeJson { hosts: scope.hosts, labels: scope.labels },
            targets: operation.targets.iter().map(ToString::to_string).collect(),
            bundle: some(operation.bundle.clone()),
            revision: Some(operation.bundle_revision).filter(|revision| *revision > 0),
            revert: operation.revert,
            reverted_by: some(operation.reverted_by.clone()),
            strategy: StrategyJson {
                parallel: Some(strategy.parallel).filter(|parallel| *parallel > 0),
                batch: some(strategy.batch),
                canary: strategy.canary,
                pause_seconds: std::time::Duration::from_millis(strategy.pause_ms).as_secs_f64(),
                max_failures: some(strategy.max_failures),
            },
            timeout_seconds: operation.timeout_seconds,
            hosts: operation.hosts,
            ok: operation.ok,
            failed: operation.failed,
            under_way: operation.under_way,
        }
    }
}

impl ShownJson {
    pub(crate) fn new(operation: &Operation, hosts: &[OperationHost]) -> ShownJson {
        ShownJson { operation: operation.into(), results: hosts.iter().map(host_json).collect() }
    }
}

fn host_json(host: &OperationHost) -> HostJson {
    HostJson {
        host: host.host.clone(),
        batch: host.batch,
        result: result_word(host.result()),
        reason: host.reason.clone(),
        ended: time(host.ended).map(when::rfc3339),
        processes: processes(host)
            .into_iter()
            .map(|(name, result)| match result {
                Some((outcome, text)) => ProcessJson { name, outcome: Some(outcome), text },
                None => ProcessJson { name, outcome: None, text: String::new() },
            })
            .collect(),
    }
}

/// Each process with what became of it: those that answered, then the others.
fn processes(host: &OperationHost) -> Vec<(String, Option<(&'static str, String)>)> {
    let full = |name: &fleetvisor_proto::fleet::ProcessName| {
        format!("{}:{}", host.host, ProcessName::new(&*name.group, &*name.process).full())
    };
    let answered = host.results.iter().map(|result| {
        let name = result.name.clone().unwrap_or_default();
        (full(&name), Some((outcome_word(result.outcome()), result.text.clone())))
    });
    let open = host
        .processes
        .iter()
        .filter(|name| !host.results.iter().any(|result| result.name.as_ref() == Some(*name)));
    answered.chain(open.map(|name| (full(name), None))).collect()
}

pub(crate) fn state_word(state: OperationState) -> &'static str {
    match state {
        OperationState::Running => "running",
        OperationState::Waiting => "waiting",
        OperationState::Stopped => "stopped",
        OperationState::Cancelled => "cancelled",
        OperationState::Finished => "finished",
        OperationState::Unspecified => "unknown",
    }
}

/// `restart web:*`, `apply web revision 2`
fn command(operation: &Operation) -> String {
    if operation.verb() == Verb::Apply {
        return format!("apply {} revision {}", operation.bundle, operation.bundle_revision);
    }
    let mut words = vec![operation.verb().word().to_owned()];
    if operation.verb() == Verb::Signal {
        words.push(operation.signal.clone());
    }
    match operation.targets.len() {
        0 => words.push("all".to_owned()),
        _ => words.extend(operation.targets.iter().map(ToString::to_string)),
    }
    words.join(" ")
}

fn time(micros: i64) -> Option<i64> {
    Some(micros).filter(|micros| *micros > 0)
}

/// One line per operation: id, state, hosts that did it of all, what, who, when.
pub(crate) fn list(operations: &[Operation]) -> Vec<String> {
    operations
        .iter()
        .map(|operation| {
            let id: String = operation.id.chars().take(SHORT).collect();
            let hosts = format!("{}/{}", operation.ok, operation.hosts);
            let state = state_word(operation.state());
            let (made, by) = (when::utc(operation.made), &operation.by);
            format!("{id}  {state:<10} {hosts:<9} {made}  {by}: {}", command(operation))
        })
        .collect()
}

/// What is known of one operation: a line each, then its hosts and their processes.
pub(crate) fn show(operation: &Operation, hosts: &[OperationHost]) -> Vec<String> {
    let mut lines = vec![
        ("operation", operation.id.clone()),
        ("command", command(operation)),
        ("by", operation.by.clone()),
        ("made", when::utc(operation.made)),
        ("expires", when::utc(operation.expires)),
        ("state", state_word(operation.state()).to_owned()),
    ];
    if !operation.reason.is_empty() {
        lines.push(("reason", operation.reason.clone()));
    }
    if !operation.reverted_by.is_empty() {
        lines.push(("reverted by", operation.reverted_by.clone()));
    }
    if let Some(ended) = time(operation.ended) {
        lines.push(("ended", when::utc(ended)));
    }
    if operation.batches > 1 {
        lines.push(("batch", format!("{} of {}", operation.batch, operation.batches)));
    }
    let (ok, failed, under_way) = (operation.ok, operation.failed, operation.under_way);
    lines.push(("hosts", format!("{}: {ok} ok, {failed} failed, {under_way} under way", operation.hosts)));
    let head = lines.into_iter().map(|(what, text)| format!("{what:<12}{text}").trim_end().to_owned());
    head.chain(hosts.iter().flat_map(host_lines)).collect()
}

fn host_lines(host: &OperationHost) -> Vec<String> {
    let reason = if host.reason.is_empty() { String::new() } else { format!(" ({})", host.reason) };
    let mut lines = vec![format!("{}: {}{reason}", host.host, result_word(host.result()))];
    let answered = processes(host).into_iter().filter_map(|(name, result)| Some((name, result?)));
    lines.extend(answered.map(|(name, (_, text))| format!("  {name}: {text}")));
    lines
}

#[cfg(test)]
mod tests {
    use fleetvisor_proto::fleet::{self, HostResult, Outcome, ProcessResult, Target};

    use super::*;

    fn operation() -> Operation {
        Operation {
            id: "7f00aa11bb22cc33dd44ee55ff660011".to_owned(),
            verb: Verb::Restart.into(),
            by: "operator admin".to_owned(),
            made: 1_795_258_500_000_000,
            expires: 1_795_258_560_000_000,
            state: OperationState::Stopped.into(),
            reason: "1 failed (web-01), and 0 may".to_owned(),
            targets: vec![Target { host: String::new(), group: "web".to_owned(), process: String::new() }],
            hosts: 2,
            failed: 1,
            batch: 1,
            batches: 2,
            ..Operation::default()
        }
    }

    fn host() -> OperationHost {
        let name =
            |process: &str| fleet::ProcessName { group: "web".to_owned(), process: process.to_owned() };
        let result = ProcessResult {
            name: Some(name("app")),
            outcome: Outcome::Failed.into(),
            text: "ERROR (spawn error)".to_owned(),
        };
        OperationHost {
            host: "web-01".to_owned(),
            batch: 1,
            result: HostResult::Failed.into(),
            reason: "1 of 1 failed".to_owned(),
            processes: vec![name("app"), name("nginx")],
            results: vec![result],
            ..OperationHost::default()
        }
    }

    #[test]
    fn a_list_has_a_line_per_operation() {
        assert_eq!(
            list(&[operation()]),
            ["7f00aa11bb22  stopped    0/2       2026-11-21 10:55:00 UTC  operator admin: restart web:*"]
        );
    }

    #[test]
    fn an_operation_is_shown_with_what_became_of_each_process() {
        let shown = show(&operation(), &[host()]);
        assert!(shown.contains(&"reason      1 failed (web-01), and 0 may".to_owned()));
        assert_eq!(
            shown[shown.len() - 2..],
            ["web-01: failed (1 of 1 failed)", "  web-01:web:app: ERROR (spawn error)"]
        );
        let json = serde_json::to_value(ShownJson::new(&operation(), &[host()])).unwrap();
        assert_eq!(json["state"], "stopped");
        assert_eq!(json["results"][0]["processes"][0]["outcome"], "failed");
        assert_eq!(json["results"][0]["processes"][1]["outcome"], serde_json::Value::Null);
    }
}
