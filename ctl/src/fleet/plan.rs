//! `--dry-run`: what a command would do, as lines and as JSON.

use fleetvisor_model::name::ProcessName;
use fleetvisor_proto::fleet::{self, PlannedHost, RunPlan};
use serde::Serialize;

use super::exit::Exit;
use super::hosts::absence;
use super::scope::no_such;

/// `ctl -o json restart ... --dry-run`: `{"batches": [{"hosts": [...]}], "unmatched": [target]}`.
#[derive(Debug, Serialize)]
pub(crate) struct PlanJson {
    batches: Vec<BatchJson>,
    unmatched: Vec<String>,
}

#[derive(Debug, Serialize)]
struct BatchJson {
    hosts: Vec<HostJson>,
}

#[derive(Debug, Serialize)]
struct HostJson {
    host: String,
    /// `null` for a host that is there.
    away: Option<String>,
    /// `web-01:web:web_00`
    processes: Vec<String>,
    /// Of an update; empty for all.
    groups: Vec<String>,
}

impl From<&RunPlan> for PlanJson {
    fn from(plan: &RunPlan) -> PlanJson {
        let batch = |batch: &fleetvisor_proto::fleet::PlannedBatch| BatchJson {
            hosts: batch.hosts.iter().map(host).collect(),
        };
        PlanJson {
            batches: plan.batches.iter().map(batch).collect(),
            unmatched: plan.unmatched.iter().map(ToString::to_string).collect(),
        }
    }
}

fn host(planned: &PlannedHost) -> HostJson {
    let host = planned.host.clone().unwrap_or_default();
    HostJson {
        away: absence(&host),
        processes: names(planned).map(|name| format!("{}:{name}", host.name)).collect(),
        groups: planned.groups.clone(),
        host: host.name,
    }
}

/// `web:web_00`
fn names(planned: &PlannedHost) -> impl Iterator<Item = String> {
    planned.processes.iter().map(|name| ProcessName::new(&*name.group, &*name.process).full())
}

/// A line for each batch and each process of its hosts.
pub(crate) fn lines(verb: fleet::Verb, plan: &RunPlan) -> Vec<String> {
    let word = verb.word();
    let count = |n: usize, one: &str| if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") };
    let batches = plan.batches.len();
    let mut lines = Vec::new();
    for (at, batch) in plan.batches.iter().enumerate() {
        lines.push(format!("batch {} of {batches}: {word} on {}", at + 1, count(batch.hosts.len(), "host")));
        for planned in &batch.hosts {
            let host = planned.host.clone().unwrap_or_default();
            if let Some(absence) = absence(&host) {
                lines.push(format!("  {}: {absence}", host.name));
            }
            let processes = names(planned).map(|name| format!("  {}:{name}", host.name));
            lines.extend(processes);
            lines.extend(planned.groups.iter().map(|group| format!("  {}:{group}:*", host.name)));
            if planned.processes.is_empty() && planned.groups.is_empty() && absence(&host).is_none() {
                let all = if verb == fleet::Verb::Upgrade { "" } else { ":all" };
                lines.push(format!("  {}{all}", host.name));
            }
        }
    }
    lines.extend(plan.unmatched.iter().map(|it| no_such(&it.host, &it.group, &it.process)));
    lines
}

pub(crate) fn exit(plan: &RunPlan) -> Exit {
    if plan.batches.is_empty() || !plan.unmatched.is_empty() { Exit::Failed } else { Exit::Done }
}

#[cfg(test)]
mod tests {
    use fleetvisor_proto::fleet::{self, Host, HostState, PlannedBatch, Target};

    use super::*;

    fn planned(host: &str, state: HostState) -> PlannedHost {
        let host = Host {
            name: host.to_owned(),
            state: state.into(),
            since: 1_795_258_500_000_000,
            ..Host::default()
        };
        let name = fleet::ProcessName { group: "web".to_owned(), process: "app".to_owned() };
        PlannedHost { host: Some(host), processes: vec![name], groups: Vec::new() }
    }

    #[test]
    fn a_plan_reads_batch_by_batch() {
        let plan = RunPlan {
            batches: vec![
                PlannedBatch { hosts: vec![planned("web-01", HostState::Online)] },
                PlannedBatch { hosts: vec![planned("web-02", HostState::Away)] },
            ],
            unmatched: vec![Target { host: String::new(), group: "x".to_owned(), process: String::new() }],
        };
        assert_eq!(
            lines(fleet::Verb::Restart, &plan),
            [
                "batch 1 of 2: restart on 1 host",
                "  web-01:web:app",
                "batch 2 of 2: restart on 1 host",
                "  web-02: away since 2026-11-21 10:55:00 UTC",
                "  web-02:web:app",
                "x: ERROR (no such group)",
            ]
        );
        assert_eq!(exit(&plan), Exit::Failed);
        let json = serde_json::to_value(PlanJson::from(&plan)).unwrap();
        assert_eq!(json["batches"][0]["hosts"][0]["processes"], serde_json::json!(["web-01:web:app"]));
        assert_eq!(json["batches"][0]["hosts"][0]["away"], serde_json::Value::Null);
    }
}
