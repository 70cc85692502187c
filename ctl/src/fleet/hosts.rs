//! Hosts as lines and as JSON.

use std::collections::BTreeMap;

use fleetvisor_proto::fleet::{Host, HostBundle, HostState};
use serde::Serialize;

use super::when;

/// A host in `-o json`. Times are RFC 3339 in UTC, `null` where there is none.
#[derive(Debug, Serialize)]
pub(crate) struct HostJson {
    host: String,
    /// `online`, `away`, `never-seen`
    state: &'static str,
    /// When it linked, or went away.
    since: Option<String>,
    labels: BTreeMap<String, String>,
    version: String,
    address: Option<String>,
    /// Milliseconds since the controller last heard of it.
    report_age_ms: Option<u64>,
    running: u32,
    total: u32,
    desired_revision: u64,
    observed_revision: u64,
    /// What it should have of the fleet's configuration, and what it has.
    bundles: Vec<BundleJson>,
}

#[derive(Debug, Serialize)]
struct BundleJson {
    bundle: String,
    /// Revisions; `null` for none.
    desired: Option<u64>,
    revision: Option<u64>,
    failed_revision: Option<u64>,
    reason: String,
}

impl From<&HostBundle> for BundleJson {
    fn from(bundle: &HostBundle) -> BundleJson {
        let some = |revision: u64| Some(revision).filter(|revision| *revision > 0);
        BundleJson {
            bundle: bundle.name.clone(),
            desired: some(bundle.desired),
            revision: some(bundle.revision),
            failed_revision: some(bundle.failed_revision),
            reason: bundle.reason.clone(),
        }
    }
}

impl From<&Host> for HostJson {
    fn from(host: &Host) -> HostJson {
        let seen = host.state() != HostState::NeverSeen;
        HostJson {
            host: host.name.clone(),
            state: state_word(host.state()),
            since: since(host).map(when::rfc3339),
            labels: host.labels.clone().into_iter().collect(),
            version: host.version.clone(),
            address: Some(host.address.clone()).filter(|address| !address.is_empty()),
            report_age_ms: seen.then_some(host.report_age_ms),
            running: host.running,
            total: host.total,
            desired_revision: host.desired_revision,
            observed_revision: host.observed_revision,
            bundles: host.bundles.iter().map(BundleJson::from).collect(),
        }
    }
}

fn since(host: &Host) -> Option<i64> {
    Some(host.since).filter(|since| *since > 0)
}

pub(crate) fn state_word(state: HostState) -> &'static str {
    match state {
        HostState::Online => "online",
        HostState::Away => "away",
        HostState::NeverSeen => "never-seen",
        HostState::Revoked => "revoked",
        HostState::Unspecified => "unknown",
    }
}

/// Why a host cannot answer; `None` for one that can.
pub(crate) fn absence(host: &Host) -> Option<String> {
    match host.state() {
        HostState::Online => None,
        HostState::NeverSeen => Some("enrolled, but never linked so far".to_owned()),
        HostState::Revoked => Some("revoked, and refused until it enrols anew".to_owned()),
        HostState::Away | HostState::Unspecified => Some(match since(host) {
            Some(since) => format!("away since {}", when::utc(since)),
            None => "away".to_owned(),
        }),
    }
}

/// One line per host: name, state, running of total, since when, labels.
pub(crate) fn list(hosts: &[Host]) -> Vec<String> {
    let width = hosts.iter().map(|host| host.name.chars().count()).max().unwrap_or(0).max(12) + 3;
    hosts
        .iter()
        .map(|host| {
            let running = format!("{}/{}", host.running, host.total);
            let since = since(host).map(|since| format!("since {}", when::utc(since))).unwrap_or_default();
            let state = state_word(host.state());
            let line = format!("{:<width$}{state:<12}{running:<9}{since:<31}{}", host.name, labels(host));
            line.trim_end().to_owned()
        })
        .collect()
}

/// What is known of one host, a line each.
pub(crate) fn show(host: &Host) -> Vec<String> {
    let mut lines = vec![("host", host.name.clone()), ("state", state_word(host.state()).to_owned())];
    if let Some(since) = since(host) {
        lines.push(("since", when::utc(since)));
    }
    lines.push(("labels", labels(host)));
    lines.push(("version", host.version.clone()));
    lines.push(("address", host.address.clone()));
    if host.state() != HostState::NeverSeen {
        lines.push(("last heard", format!("{} s ago", host.report_age_ms / 1000)));
    }
    lines.push(("running", format!("{} of {}", host.running, host.total)));
    lines.push(("desired", format!("revision {}", host.desired_revision)));
    lines.push(("observed", format!("revision {}", host.observed_revision)));
    lines.extend(host.bundles.iter().map(|bundle| ("bundle", bundle_text(bundle))));
    lines.into_iter().map(|(what, text)| format!("{what:<12}{text}").trim_end().to_owned()).collect()
}

/// `web: revision 4`, and what is not as it should be.
fn bundle_text(bundle: &HostBundle) -> String {
    let mut text = match bundle.revision {
        0 => format!("{}: none", bundle.name),
        revision => format!("{}: revision {revision}", bundle.name),
    };
    match bundle.desired {
        0 => text.push_str(", should have none"),
        desired if desired == bundle.revision => {}
        desired => text.push_str(&format!(", should have revision {desired}")),
    }
    if bundle.failed_revision > 0 {
        text.push_str(&format!("; revision {} failed: {}", bundle.failed_revision, bundle.reason));
    }
    text
}

fn labels(host: &Host) -> String {
    let sorted: BTreeMap<&String, &String> = host.labels.iter().collect();
    sorted.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web_01() -> Host {
        Host {
            name: "web-01".to_owned(),
            state: HostState::Online.into(),
            labels: [("role", "web"), ("dc", "eu")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            version: "0.1.0".to_owned(),
            address: "10.0.0.7:51234".to_owned(),
            since: 1_795_258_500_000_000,
            report_age_ms: 2500,
            running: 3,
            total: 4,
            desired_revision: 7,
            observed_revision: 7,
            ..Host::default()
        }
    }

    fn never() -> Host {
        Host { name: "new".to_owned(), state: HostState::NeverSeen.into(), ..Host::default() }
    }

    #[test]
    fn a_list_has_a_line_per_host() {
        assert_eq!(
            list(&[web_01(), never()]),
            [
                "web-01         online      3/4      since 2026-11-21 10:55:00 UTC  dc=eu,role=web",
                "new            never-seen  0/0",
            ]
        );
    }

    #[test]
    fn a_host_is_shown_line_by_line() {
        let shown = show(&web_01());
        assert!(shown.contains(&"labels      dc=eu,role=web".to_owned()));
        assert!(shown.contains(&"last heard  2 s ago".to_owned()));
        assert!(show(&never()).contains(&"address".to_owned()));
    }

    #[test]
    fn who_cannot_answer_says_since_when() {
        assert_eq!(absence(&web_01()), None);
        let away = Host { state: HostState::Away.into(), ..web_01() };
        assert_eq!(absence(&away).as_deref(), Some("away since 2026-11-21 10:55:00 UTC"));
        assert!(absence(&never()).is_some());
    }

    #[test]
    fn json_has_null_for_what_is_not_known() {
        let json = serde_json::to_value(HostJson::from(&never())).unwrap();
        assert_eq!(json["since"], serde_json::Value::Null);
        assert_eq!(json["report_age_ms"], serde_json::Value::Null);
        assert_eq!(json["state"], "never-seen");
    }
}
