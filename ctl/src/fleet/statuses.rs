//! `status` of a fleet: each host's answer to lines, all of them to JSON and to an exit status.

use fleetvisor_model::name::ProcessName;
use fleetvisor_model::target::Target;
use fleetvisor_proto::fleet::{Drift, HostStatus, ProcessStatus, RunState};
use serde::Serialize;

use super::exit::Exit;
use super::hosts::{HostJson, absence, silence};
use super::print::Colour;
use super::scope::no_such;
use super::when;
use crate::table::status_line;

/// Gathers the hosts' answers.
#[derive(Debug)]
pub(crate) struct Statuses {
    targets: Vec<Target>,
    matched: Vec<bool>,
    colour: Colour,
    /// Longest name so far: a column only ever widens.
    widest: usize,
    hosts: usize,
    away: usize,
    stopped: usize,
    json: Vec<HostStatusJson>,
}

/// `ctl -o json status`: `{"hosts": [...], "unmatched": [...]}`.
#[derive(Debug, Serialize)]
pub(crate) struct StatusJson {
    hosts: Vec<HostStatusJson>,
    /// Targets that fit no process of any host, as they are displayed.
    unmatched: Vec<String>,
}

#[derive(Debug, Serialize)]
struct HostStatusJson {
    #[serde(flatten)]
    host: HostJson,
    /// For a host that is away: what was last known.
    processes: Vec<ProcessJson>,
}

#[derive(Debug, Serialize)]
struct ProcessJson {
    /// `web-01:web:web_00`
    name: String,
    group: String,
    process: String,
    /// `RUNNING`
    state: &'static str,
    description: String,
    pid: Option<i32>,
    uptime_seconds: Option<u64>,
    /// Of the last end: the exit code, -1 after a signal.
    exitstatus: i32,
    spawnerr: String,
    /// `null` where it is as was asked for.
    drift: Option<DriftJson>,
}

#[derive(Debug, Serialize)]
pub(crate) struct DriftJson {
    /// `started`, `stopped`
    desired: &'static str,
    /// Who asked for that, and when (RFC 3339).
    by: String,
    since: String,
}

impl From<&Drift> for DriftJson {
    fn from(drift: &Drift) -> DriftJson {
        DriftJson { desired: wish(drift), by: drift.by.clone(), since: when::rfc3339(drift.since) }
    }
}

/// `stopped`: what was asked for.
pub(crate) fn wish(drift: &Drift) -> &'static str {
    match drift.desired() {
        RunState::Started => "started",
        RunState::Stopped => "stopped",
        RunState::Unspecified => "otherwise",
    }
}

impl Statuses {
    pub(crate) fn new(targets: Vec<Target>, colour: Colour) -> Statuses {
        let matched = vec![false; targets.len()];
        Statuses { targets, matched, colour, widest: 0, hosts: 0, away: 0, stopped: 0, json: Vec::new() }
    }

    /// The lines for one host's answer.
    pub(crate) fn host(&mut self, answer: &HostStatus) -> Vec<String> {
        let host = answer.host.clone().unwrap_or_default();
        self.hosts += 1;
        let named: Vec<(ProcessName, &ProcessStatus)> = answer
            .processes
            .iter()
            .map(|status| {
                let name = status.name.clone().unwrap_or_default();
                (ProcessName::new(name.group, name.process), status)
            })
            .collect();
        for (target, matched) in self.targets.iter().zip(&mut self.matched) {
            *matched |=
                target.matches_host(&host.name) && named.iter().any(|(name, _)| target.matches_process(name));
        }
        let full = |name: &ProcessName| format!("{}:{}", host.name, name.full());
        self.json.push(HostStatusJson {
            host: HostJson::from(&host),
            processes: named.iter().map(|(name, status)| process_json(full(name), name, status)).collect(),
        });
        if let Some(absence) = absence(&host) {
            self.away += 1;
            return vec![format!("{}: {absence}", host.name)];
        }
        self.stopped += named.iter().filter(|(_, status)| status.process_state().is_stopped()).count();
        let longest = named.iter().map(|(name, _)| full(name).chars().count()).max().unwrap_or(0);
        self.widest = self.widest.max(longest);
        let silence = silence(&host).map(|silence| format!("{}: {silence}", host.name));
        let lines = named.iter().map(|(name, status)| {
            let state = status.process_state();
            let mut line = status_line(&full(name), self.widest, state.name(), &status.describe());
            if let Some(drift) = &status.drift {
                line = format!("{} (drift: should be {})", line.trim_end(), wish(drift));
            }
            match self.colour {
                Colour::Plain => line,
                // Coloured after it was aligned: the sequences have no width.
                Colour::Coloured => recolour(&line, self.widest, state.name(), &self.colour.state(state)),
            }
        });
        silence.into_iter().chain(lines).collect()
    }

    fn unmatched(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().zip(&self.matched).filter(|(_, matched)| !**matched).map(|(target, _)| target)
    }

    /// Last lines, once every host has answered, and the exit status. That a host is away weighs most: what
    /// is not known may be anything.
    pub(crate) fn finish(&self) -> (Vec<String>, Exit) {
        let lines: Vec<String> = self
            .unmatched()
            .map(|target| no_such(target.host().unwrap_or_default(), target.group(), target.process()))
            .collect();
        let exit = if self.away > 0 {
            Exit::Partial
        } else if self.hosts == 0 || !lines.is_empty() {
            Exit::Failed
        } else if self.stopped > 0 {
            Exit::NotRunning
        } else {
            Exit::Done
        };
        (lines, exit)
    }

    /// Whether any host answered at all.
    pub(crate) fn has_hosts(&self) -> bool {
        self.hosts > 0
    }

    pub(crate) fn into_json(self) -> StatusJson {
        StatusJson { unmatched: self.unmatched().map(ToString::to_string).collect(), hosts: self.json }
    }
}

fn recolour(line: &str, widest: usize, plain: &str, coloured: &str) -> String {
    let after_name = line.char_indices().nth(widest).map_or(0, |(at, _)| at);
    let (name, rest) = line.split_at(after_name);
    format!("{name}{}", rest.replacen(plain, coloured, 1))
}

fn process_json(full: String, name: &ProcessName, status: &ProcessStatus) -> ProcessJson {
    let state = status.process_state();
    let runs = status.pid > 0;
    let running = state == fleetvisor_model::state::ProcessState::Running;
    ProcessJson {
        name: full,
        group: name.group.clone(),
        process: name.process.clone(),
        state: state.name(),
        description: status.describe(),
        pid: runs.then_some(status.pid),
        uptime_seconds: running.then_some(status.uptime_ms / 1000),
        exitstatus: status.exitstatus,
        spawnerr: status.spawnerr.clone(),
        drift: status.drift.as_ref().map(DriftJson::from),
    }
}

#[cfg(test)]
mod tests {
    use fleetvisor_proto::fleet::{self, Host, HostState};

    use super::*;

    fn process(group: &str, name: &str, state: i32, description: &str) -> ProcessStatus {
        ProcessStatus {
            name: Some(fleet::ProcessName { group: group.to_owned(), process: name.to_owned() }),
            state,
            pid: if state == 20 { 123 } else { 0 },
            uptime_ms: 3_662_999,
            description: description.to_owned(),
            ..ProcessStatus::default()
        }
    }

    fn answer(host: &str, state: HostState, processes: Vec<ProcessStatus>) -> HostStatus {
        let host = Host {
            name: host.to_owned(),
            state: state.into(),
            since: 1_795_258_500_000_000,
            ..Host::default()
        };
        HostStatus { host: Some(host), processes }
    }

    fn targets(typed: &[&str]) -> Vec<Target> {
        typed.iter().map(|typed| Target::parse(typed).unwrap()).collect()
    }

    #[test]
    fn each_process_is_named_in_three_parts_in_supervisorctls_columns() {
        let mut statuses = Statuses::new(Vec::new(), Colour::Plain);
        let lines = statuses.host(&answer(
            "web-01",
            HostState::Online,
            vec![process("web", "web_00", 20, ""), process("cat", "cat", 20, "")],
        ));
        assert_eq!(
            lines,
            [
                "web-01:web:web_00                RUNNING   pid 123, uptime 1:01:02",
                "web-01:cat:cat                   RUNNING   pid 123, uptime 1:01:02",
            ]
        );
        assert_eq!(statuses.finish(), (Vec::new(), Exit::Done));
    }

    #[test]
    fn a_stopped_process_is_exit_3_and_a_host_away_is_exit_4() {
        let mut statuses = Statuses::new(Vec::new(), Colour::Plain);
        statuses.host(&answer("web-01", HostState::Online, vec![process("a", "a", 0, "Not started")]));
        assert_eq!(statuses.finish().1, Exit::NotRunning);
        let lines = statuses.host(&answer("web-02", HostState::Away, vec![process("a", "a", 20, "")]));
        assert_eq!(lines, ["web-02: away since 2026-11-21 10:55:00 UTC"]);
        assert_eq!(statuses.finish().1, Exit::Partial);
    }

    #[test]
    fn a_host_that_has_been_silent_for_long_is_marked() {
        let mut statuses = Statuses::new(Vec::new(), Colour::Plain);
        let mut answer = answer("web-01", HostState::Online, vec![process("a", "a", 20, "")]);
        if let Some(host) = &mut answer.host {
            (host.stale, host.report_age_ms) = (true, 12_000);
        }
        assert_eq!(statuses.host(&answer)[0], "web-01: silent for 12s, what is shown of it is old");
    }

    #[test]
    fn a_target_that_fits_nothing_is_said_at_the_end() {
        let mut statuses = Statuses::new(targets(&["a", "web-02:a:", "nosuch:"]), Colour::Plain);
        statuses.host(&answer("web-01", HostState::Online, vec![process("a", "a", 20, "")]));
        assert_eq!(
            statuses.finish(),
            (
                vec![
                    "web-02:a: ERROR (no such group)".to_owned(),
                    "nosuch: ERROR (no such group)".to_owned()
                ],
                Exit::Failed
            )
        );
    }

    #[test]
    fn no_host_at_all_is_a_failure() {
        assert_eq!(Statuses::new(Vec::new(), Colour::Plain).finish().1, Exit::Failed);
    }

    #[test]
    fn colour_does_not_move_the_columns() {
        let mut statuses = Statuses::new(Vec::new(), Colour::Coloured);
        let lines =
            statuses.host(&answer("RUNNING", HostState::Online, vec![process("RUNNING", "b", 20, "")]));
        assert_eq!(
            lines,
            ["RUNNING:RUNNING:b                \x1b[32mRUNNING\x1b[0m   pid 123, uptime 1:01:02"]
        );
    }

    #[test]
    fn json_is_one_document_of_hosts_with_their_processes() {
        let mut statuses = Statuses::new(targets(&["b"]), Colour::Plain);
        statuses.host(&answer("web-01", HostState::Online, vec![process("a", "a", 20, "")]));
        let json = serde_json::to_value(statuses.into_json()).unwrap();
        assert_eq!(json["unmatched"], serde_json::json!(["b"]));
        let host = &json["hosts"][0];
        assert_eq!(host["host"], "web-01");
        assert_eq!(host["state"], "online");
        let expected = serde_json::json!({
            "name": "web-01:a:a", "group": "a", "process": "a", "state": "RUNNING",
            "description": "pid 123, uptime 1:01:02", "pid": 123, "uptime_seconds": 3662,
            "exitstatus": 0, "spawnerr": "", "drift": null,
        });
        assert_eq!(host["processes"][0], expected);
    }
}
