//! Hosts as lines and as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use fleetvisor_proto::fleet::{Host, HostBundle, HostState};
use serde::Serialize;

use super::when;
use crate::table::aligned;

/// A host in `-o json`. Times are RFC 3339 in UTC, `null` where there is none.
#[derive(Debug, Serialize)]
pub(crate) struct HostJson {
    host: String,
    /// `online`, `away`, `never-seen`, `revoked`
    state: &'static str,
    /// When it linked, went away, or was revoked.
    since: Option<String>,
    labels: BTreeMap<String, String>,
    /// Those of `labels` that operators have set.
    operator_labels: BTreeMap<String, String>,
    version: String,
    address: Option<String>,
    /// Milliseconds since the controller last heard of it.
    report_age_ms: Option<u64>,
    /// What is said of its processes is old.
    stale: bool,
    running: u32,
    total: u32,
    desired_revision: u64,
    observed_revision: u64,
    /// What it should have of the fleet's configuration, and what it has.
    bundles: Vec<BundleJson>,
    /// When the certificate that it uses ends.
    certificate_expires: Option<String>,
    /// The latest agent that claimed its name and was refused, lately.
    refused: Option<RefusedJson>,
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

#[derive(Debug, Serialize)]
struct RefusedJson {
    address: String,
    age_ms: u64,
    reason: String,
}

impl From<&Host> for HostJson {
    fn from(host: &Host) -> HostJson {
        HostJson {
            host: host.name.clone(),
            state: state_word(host.state()),
            since: since(host).map(when::rfc3339),
            labels: host.labels.clone().into_iter().collect(),
            operator_labels: host.operator_labels.clone().into_iter().collect(),
            version: host.version.clone(),
            address: Some(host.address.clone()).filter(|address| !address.is_empty()),
            report_age_ms: report_age(host),
            stale: host.stale,
            running: host.running,
            total: host.total,
            desired_revision: host.desired_revision,
            observed_revision: host.observed_revision,
            bundles: host.bundles.iter().map(BundleJson::from).collect(),
            certificate_expires: certificate_expires(host).map(when::rfc3339),
            refused: host.refused.as_ref().map(|refused| RefusedJson {
                address: refused.address.clone(),
                age_ms: refused.age_ms,
                reason: refused.reason.clone(),
            }),
        }
    }
}

fn since(host: &Host) -> Option<i64> {
    Some(host.since).filter(|since| *since > 0)
}

/// Milliseconds since the controller last heard of it; none where it has not since it started.
fn report_age(host: &Host) -> Option<u64> {
    let heard = host.state() == HostState::Online || host.report_age_ms > 0;
    heard.then_some(host.report_age_ms)
}

fn certificate_expires(host: &Host) -> Option<i64> {
    Some(host.certificate_expires).filter(|expires| *expires > 0)
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
        HostState::Revoked => Some(match since(host) {
            Some(since) => format!("revoked since {}, and refused until it enrols anew", when::utc(since)),
            None => "revoked, and refused until it enrols anew".to_owned(),
        }),
        HostState::Away | HostState::Unspecified => Some(match since(host) {
            Some(since) => format!("away since {}", when::utc(since)),
            None => "away".to_owned(),
        }),
    }
}

/// For a host that can answer: that what it said last is old, and may not be so any more.
pub(crate) fn silence(host: &Host) -> Option<String> {
    let silent = host.state() == HostState::Online && host.stale;
    silent.then(|| {
        format!("silent for {}, what is shown of it is old", age(Duration::from_millis(host.report_age_ms)))
    })
}

/// A table with a line per host.
pub(crate) fn list(hosts: &[Host]) -> Vec<String> {
    let header = ["HOST", "STATE", "PROCESSES", "REPORT", "SINCE", "VERSION", "LABELS"].map(str::to_owned);
    let rows: Vec<[String; 7]> = hosts
        .iter()
        .map(|host| {
            let old = if host.stale && host.total > 0 { " (old)" } else { "" };
            [
                host.name.clone(),
                state_word(host.state()).to_owned(),
                format!("{}/{}{old}", host.running, host.total),
                report_age(host).map_or("-".to_owned(), |millis| age(Duration::from_millis(millis))),
                since(host).map_or("-".to_owned(), when::utc),
                if host.version.is_empty() { "-".to_owned() } else { host.version.clone() },
                labels(host),
            ]
        })
        .collect();
    aligned(std::iter::once(header).chain(rows).collect())
}

/// Hosts whose name another agent has claimed lately, or that are refused themselves, a line each.
pub(crate) fn refusals(hosts: &[Host]) -> Vec<String> {
    let line = |host: &Host| {
        let refused = host.refused.as_ref()?;
        let ago = age(Duration::from_millis(refused.age_ms));
        Some(format!(
            "host {}: an agent at {} was refused {ago} ago: {}",
            host.name, refused.address, refused.reason
        ))
    };
    hosts.iter().filter_map(line).collect()
}

/// `12s`, `5m`, `3h`, `8d`.
fn age(age: Duration) -> String {
    match age.as_secs() {
        secs @ ..120 => format!("{secs}s"),
        secs @ ..7_200 => format!("{}m", secs / 60),
        secs @ ..172_800 => format!("{}h", secs / 3_600),
        secs => format!("{}d", secs / 86_400),
    }
}

/// What is known of one host, a line each.
pub(crate) fn show(host: &Host) -> Vec<String> {
    let mut lines = vec![("host", host.name.clone()), ("state", state_word(host.state()).to_owned())];
    if let Some(since) = since(host) {
        lines.push(("since", when::utc(since)));
    }
    lines.push(("labels", labels(host)));
    if !host.operator_labels.is_empty() {
        let set: BTreeMap<&String, &String> = host.operator_labels.iter().collect();
        let set: Vec<String> = set.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        lines.push(("set by ctl", set.join(",")));
    }
    lines.push(("version", host.version.clone()));
    lines.push(("address", host.address.clone()));
    if let Some(millis) = report_age(host) {
        lines.push(("last heard", format!("{} ago", age(Duration::from_millis(millis)))));
    }
    let old = if host.stale && host.total > 0 { " when it was last heard" } else { "" };
    lines.push(("running", format!("{} of {}{old}", host.running, host.total)));
    if let Some(expires) = certificate_expires(host) {
        lines.push(("certificate", format!("until {}", when::utc(expires))));
    }
    if let Some(refused) = &host.refused {
        let ago = age(Duration::from_millis(refused.age_ms));
        lines.push(("refused", format!("{} {ago} ago: {}", refused.address, refused.reason)));
    }
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

/// `dc=eu,role=web`.
pub(crate) fn labels(host: &Host) -> String {
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
                "HOST    STATE       PROCESSES  REPORT  SINCE                    VERSION  LABELS",
                "web-01  online      3/4        2s      2026-11-21 10:55:00 UTC  0.1.0    dc=eu,role=web",
                "new     never-seen  0/0        -       -                        -",
            ]
        );
        let away = Host { state: HostState::Away.into(), stale: true, report_age_ms: 600_000, ..web_01() };
        let line = list(&[away]).remove(1);
        assert!(line.starts_with("web-01  away   3/4 (old)  10m "), "{line}");
    }

    #[test]
    fn a_refused_agent_is_told_of() {
        let refused = fleetvisor_proto::fleet::RefusedAgent {
            address: "10.0.0.9:1".to_owned(),
            age_ms: 3000,
            reason: "another agent is linked".to_owned(),
        };
        let host = Host { refused: Some(refused), ..web_01() };
        let line = "host web-01: an agent at 10.0.0.9:1 was refused 3s ago: another agent is linked";
        assert_eq!(refusals(&[never(), host.clone()]), [line]);
        assert!(show(&host).iter().any(|line| line.starts_with("refused     10.0.0.9:1 3s ago")));
    }

    #[test]
    fn a_host_is_shown_line_by_line() {
        let shown = show(&web_01());
        assert!(shown.contains(&"labels      dc=eu,role=web".to_owned()));
        assert!(shown.contains(&"last heard  2s ago".to_owned()));
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
