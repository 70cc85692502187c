//! What is not as was asked for, out of the hosts' statuses: lines, JSON, and an exit status.

use fleetvisor_model::name::ProcessName;
use fleetvisor_proto::fleet::HostStatus;
use serde::Serialize;

use super::exit::Exit;
use super::hosts::absence;
use super::statuses::wish;
use super::when;

#[derive(Debug, Default, Serialize)]
pub(crate) struct Drifts {
    drift: Vec<DriftJson>,
    away: Vec<AwayJson>,
}

#[derive(Debug, Serialize)]
struct DriftJson {
    /// `web-01:web:web_00`
    name: String,
    /// `RUNNING`
    state: &'static str,
    /// `started`, `stopped`
    desired: &'static str,
    /// Who asked for that, and when (RFC 3339).
    by: String,
    since: String,
    /// Whether the host puts it right by itself.
    enforced: bool,
}

#[derive(Debug, Serialize)]
struct AwayJson {
    host: String,
    reason: String,
}

impl Drifts {
    pub(crate) fn host(&mut self, answer: &HostStatus) {
        let host = answer.host.clone().unwrap_or_default();
        if let Some(reason) = absence(&host) {
            self.away.push(AwayJson { host: host.name, reason });
            return;
        }
        for status in &answer.processes {
            let Some(drift) = &status.drift else { continue };
            let name = status.name.clone().unwrap_or_default();
            self.drift.push(DriftJson {
                name: format!("{}:{}", host.name, ProcessName::new(name.group, name.process).full()),
                state: status.process_state().name(),
                desired: wish(drift),
                by: drift.by.clone(),
                since: when::rfc3339(drift.since),
                enforced: host.enforces,
            });
        }
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let width = self.drift.iter().map(|drift| drift.name.chars().count()).max().unwrap_or(0);
        let drifts = self.drift.iter().map(|drift| {
            let DriftJson { name, state, desired, by, since, enforced } = drift;
            let then = if *enforced { "; the host puts it right" } else { "" };
            format!("{name:<width$}   {state:<9} should be {desired} (by {by}, {since}){then}")
        });
        drifts.chain(self.away.iter().map(|away| format!("{}: {}", away.host, away.reason))).collect()
    }

    /// That a host is away weighs most: what is not known may be anything.
    pub(crate) fn exit(&self) -> Exit {
        if !self.away.is_empty() {
            Exit::Partial
        } else if !self.drift.is_empty() {
            Exit::NotRunning
        } else {
            Exit::Done
        }
    }
}

#[cfg(test)]
mod tests {
    use fleetvisor_proto::fleet::{self, Drift, Host, HostState, ProcessStatus, RunState};

    use super::*;

    #[test]
    fn what_drifted_is_named_with_what_was_asked_and_by_whom() {
        let name = fleet::ProcessName { group: "web".to_owned(), process: "app".to_owned() };
        let drift = Drift {
            desired: RunState::Stopped.into(),
            by: "operator admin".to_owned(),
            since: 1_795_258_500_000_000,
        };
        let drifted = ProcessStatus {
            name: Some(name.clone()),
            state: 20,
            drift: Some(drift),
            ..ProcessStatus::default()
        };
        let fine = ProcessStatus { name: Some(name), state: 20, ..ProcessStatus::default() };
        let host = |name: &str, state: HostState| Host {
            name: name.to_owned(),
            state: state.into(),
            enforces: true,
            ..Host::default()
        };
        let mut drifts = Drifts::default();
        assert_eq!(drifts.exit(), Exit::Done);
        let processes = vec![drifted, fine];
        drifts.host(&HostStatus { host: Some(host("web-01", HostState::Online)), processes });
        assert_eq!(
            drifts.lines(),
            [
                "web-01:web:app   RUNNING   should be stopped (by operator admin, 2026-11-21T10:55:00Z); the host puts it right"
            ]
        );
        assert_eq!(drifts.exit(), Exit::NotRunning);
        drifts.host(&HostStatus { host: Some(host("web-02", HostState::Away)), processes: Vec::new() });
        assert_eq!(drifts.exit(), Exit::Partial);
    }
}
