//! Which hosts and processes an operation concerns, by what hosts have reported, and in which order: those that
//! are there by name, then those that are away. So a canary is a host that can answer.

use std::sync::Arc;

use fleetvisor_model::name::ProcessName;
use fleetvisor_proto::fleet::{self, HostState, Target, Verb};

use super::record::PlannedHost;
use super::request::Asked;
use crate::registry::{Host, Registry};

/// The hosts with their processes, and the targets that mean nothing.
pub(super) struct Resolved {
    pub(super) hosts: Vec<(Arc<Host>, PlannedHost)>,
    pub(super) unmatched: Vec<Target>,
}

pub(super) fn resolve(registry: &Registry, asked: &Asked) -> Resolved {
    let (mut hosts, unmatched) = match asked.verb {
        Verb::Update | Verb::Upgrade => (groups(registry, asked), Vec::new()),
        Verb::Unspecified | Verb::Start | Verb::Stop | Verb::Restart | Verb::Signal | Verb::Apply => {
            processes(registry, asked)
        }
    };
    hosts.sort_by_cached_key(|(host, _)| (!host.is_online(), host.name.clone()));
    Resolved { hosts, unmatched }
}

fn processes(registry: &Registry, asked: &Asked) -> (Vec<(Arc<Host>, PlannedHost)>, Vec<Target>) {
    let selection = &asked.selection;
    let mut found = vec![false; selection.targets().len()];
    let mut hosts = Vec::new();
    for host in registry.all() {
        if !selection.includes(&host.name, &host.labels()) {
            continue;
        }
        let all = host.process_names();
        for (found, target) in found.iter_mut().zip(selection.targets()) {
            *found = *found || all.iter().any(|name| target.wants(&host.name, name));
        }
        let never_seen = host.describe().state() == HostState::NeverSeen;
        let processes: Arc<[ProcessName]> =
            all.into_iter().filter(|name| selection.wants(&host.name, name)).collect();
        if !processes.is_empty() || (never_seen && selection.wants_all_of(&host.name)) {
            // Hosts of one kind have the same processes, and one list of them.
            let alike = hosts.last().map(|(_, planned): &(_, PlannedHost)| &planned.processes);
            let processes = alike.filter(|alike| **alike == processes).cloned().unwrap_or(processes);
            let planned = PlannedHost { host: host.name.clone(), processes, groups: Vec::new() };
            hosts.push((host, planned));
        }
    }
    let targets = selection.targets().iter().zip(found);
    let unmatched = targets.filter(|(_, found)| !found).map(|(target, _)| target.typed().clone()).collect();
    (hosts, unmatched)
}

/// Of an update: groups by their names, whether a host has them yet or not. Of an upgrade: hosts alone.
fn groups(registry: &Registry, asked: &Asked) -> Vec<(Arc<Host>, PlannedHost)> {
    let mut hosts = Vec::new();
    for host in registry.all() {
        if !asked.selection.includes(&host.name, &host.labels()) {
            continue;
        }
        let meant: Vec<&Target> = asked
            .selection
            .targets()
            .iter()
            .filter(|target| target.host_matches(&host.name))
            .map(|target| target.typed())
            .collect();
        if meant.is_empty() && !asked.targets.is_empty() {
            continue;
        }
        let everything = meant.is_empty() || meant.iter().any(|target| target.group == "*");
        let groups = if everything {
            Vec::new()
        } else {
            meant.into_iter().map(|target| target.group.clone()).collect()
        };
        let planned = PlannedHost { host: host.name.clone(), processes: Arc::new([]), groups };
        hosts.push((host, planned));
    }
    hosts
}

/// As `--dry-run` shows it.
pub(super) fn plan(resolved: Resolved, asked: &Asked) -> fleet::RunPlan {
    let ends = asked.strategy.batches(resolved.hosts.len());
    let mut hosts = resolved.hosts.into_iter().map(|(host, planned)| fleet::PlannedHost {
        host: Some(host.describe()),
        processes: planned.processes.iter().map(Into::into).collect(),
        groups: planned.groups,
    });
    let mut begin = 0;
    let mut batches = Vec::new();
    for end in ends {
        batches.push(fleet::PlannedBatch { hosts: hosts.by_ref().take(end - begin).collect() });
        begin = end;
    }
    fleet::RunPlan { batches, unmatched: resolved.unmatched }
}
