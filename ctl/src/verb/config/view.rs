//! `ctl config list`, `show` and `history`.

use clap::Args;
use fleetvisor_proto::fleet::{
    BundleInfo, BundleRevision, HistoryRequest, HostBundleState, HostState, ListBundlesRequest,
    ShowBundleRequest, ShownBundle,
};
use serde::Serialize;

use super::{RevisionJson, shown};
use crate::cli::{Cli, Form};
use crate::fleet::client::{FleetError, connect_bundles, reading};
use crate::fleet::exit::Exit;
use crate::fleet::hosts::state_word;
use crate::fleet::print;
use crate::fleet::when;
use crate::verb::{print_json, refuse_scope};

/// Lists bundles: name, revision, hosts that have applied it, which hosts it is for, message
///
/// With -o json one document: {"bundles": [{"bundle", "hosts", "applied", "failed", "pending", "settled", "operation",
/// "latest": {"revision", "author", "at", "message", "scope": {"hosts", "labels"}, "digest", "rollback_of", "deleted",
/// "files", "bytes"}}]}. Hosts that no rollout has reached have the revision "settled".
#[derive(Args, Debug)]
#[command(after_help = "Example: ctl config list")]
pub(super) struct List;

/// Shows a bundle: its hosts and how far they are, and its files
///
/// Values of keys that look like secrets are hidden. With -o json one document: {"bundle", "settled", "operation",
/// "hosts": [{"host", "state", "desired", "revision", "failed_revision", "reason"}], "shown": revision as in list,
/// "files": [{"name", "text"}]}; "settled" and "operation" as in list.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  ctl config show web\n  ctl config show web 3")]
pub(super) struct Show {
    /// Its name
    bundle: String,
    /// A revision, as history shows it; the latest, if not given
    revision: Option<u64>,
    /// Shows secrets too; needs the role admin
    #[arg(long)]
    reveal: bool,
}

/// Lists the revisions of a bundle, the latest first: revision, time, author, message
///
/// With -o json one document: {"bundle", "revisions": [revision as in list]}.
#[derive(Args, Debug)]
#[command(after_help = "Example: ctl config history web")]
pub(super) struct History {
    /// Its name
    bundle: String,
}

#[derive(Serialize)]
struct ListJson {
    bundles: Vec<BundleJson>,
}

#[derive(Serialize)]
struct BundleJson {
    bundle: String,
    /// Numbers of hosts: that should have it, have applied it, could not, and have yet to.
    hosts: u32,
    applied: u32,
    failed: u32,
    pending: u32,
    /// The revision of hosts that no rollout has reached; `null` for none.
    settled: Option<u64>,
    /// The one that carries the latest to the hosts.
    operation: Option<String>,
    latest: Option<RevisionJson>,
}

#[derive(Serialize)]
struct ShownJson {
    bundle: String,
    settled: Option<u64>,
    operation: Option<String>,
    shown: Option<RevisionJson>,
    files: Vec<FileJson>,
    hosts: Vec<HostJson>,
}

#[derive(Serialize)]
pub(super) struct FileJson {
    pub(super) name: String,
    pub(super) text: String,
}

#[derive(Serialize)]
struct HostJson {
    host: String,
    state: &'static str,
    /// Revisions; `null` for none.
    desired: Option<u64>,
    revision: Option<u64>,
    failed_revision: Option<u64>,
    reason: String,
}

#[derive(Serialize)]
struct HistoryJson {
    bundle: String,
    revisions: Vec<RevisionJson>,
}

pub(super) async fn list(cli: &Cli) -> Result<Exit, FleetError> {
    refuse_scope(&cli.scope)?;
    let mut bundles = connect_bundles(&cli.access).await?;
    let found = bundles.list(reading(ListBundlesRequest {}, &cli.access)).await?.into_inner().bundles;
    match cli.access.form() {
        Form::Text => print::lines(&list_lines(&found))?,
        Form::Json => print_json(&ListJson { bundles: found.into_iter().map(BundleJson::from).collect() })?,
    }
    Ok(Exit::Done)
}

impl Show {
    pub(super) async fn of_fleet(&self, cli: &Cli) -> Result<Exit, FleetError> {
        refuse_scope(&cli.scope)?;
        let request = ShowBundleRequest {
            name: self.bundle.clone(),
            revision: self.revision.unwrap_or_default(),
            reveal: self.reveal,
        };
        let mut bundles = connect_bundles(&cli.access).await?;
        let found = bundles.show(reading(request, &cli.access)).await?.into_inner();
        match cli.access.form() {
            Form::Text => print::lines(&show_lines(&self.bundle, &found))?,
            Form::Json => print_json(&ShownJson {
                bundle: self.bundle.clone(),
                settled: found.info.as_ref().map(|info| info.settled).filter(|settled| *settled > 0),
                operation: found.info.as_ref().map(|info| info.operation.clone()).filter(|id| !id.is_empty()),
                shown: found.revision.as_ref().map(RevisionJson::from),
                files: found
                    .files
                    .iter()
                    .map(|file| FileJson {
                        name: file.name.clone(),
                        text: String::from_utf8_lossy(&file.text).into_owned(),
                    })
                    .collect(),
                hosts: found.hosts.iter().map(HostJson::from).collect(),
            })?,
        }
        Ok(Exit::Done)
    }
}

impl History {
    pub(super) async fn of_fleet(&self, cli: &Cli) -> Result<Exit, FleetError> {
        refuse_scope(&cli.scope)?;
        let request = HistoryRequest { name: self.bundle.clone() };
        let mut bundles = connect_bundles(&cli.access).await?;
        let found = bundles.history(reading(request, &cli.access)).await?.into_inner().revisions;
        match cli.access.form() {
            Form::Text => print::lines(&found.iter().map(history_line).collect::<Vec<_>>())?,
            Form::Json => print_json(&HistoryJson {
                bundle: self.bundle.clone(),
                revisions: found.iter().map(RevisionJson::from).collect(),
            })?,
        }
        Ok(Exit::Done)
    }
}

impl From<BundleInfo> for BundleJson {
    fn from(info: BundleInfo) -> BundleJson {
        BundleJson {
            latest: info.revision.as_ref().map(RevisionJson::from),
            bundle: info.name,
            hosts: info.hosts,
            applied: info.applied,
            failed: info.failed,
            pending: info.pending,
            settled: Some(info.settled).filter(|settled| *settled > 0),
            operation: Some(info.operation).filter(|id| !id.is_empty()),
        }
    }
}

impl From<&HostBundleState> for HostJson {
    fn from(host: &HostBundleState) -> HostJson {
        let bundle = host.bundle.clone().unwrap_or_default();
        let some = |revision: u64| Some(revision).filter(|revision| *revision > 0);
        HostJson {
            host: host.host.clone(),
            state: state_word(host.state()),
            desired: some(bundle.desired),
            revision: some(bundle.revision),
            failed_revision: some(bundle.failed_revision),
            reason: bundle.reason,
        }
    }
}

/// One line per bundle: `web   revision 4   2 of 3 hosts, 1 failed   -l role=web   two more workers`.
fn list_lines(bundles: &[BundleInfo]) -> Vec<String> {
    let width = bundles.iter().map(|bundle| bundle.name.len()).max().unwrap_or(0).max(12) + 3;
    bundles
        .iter()
        .map(|bundle| {
            let revision = bundle.revision.clone().unwrap_or_default();
            let number = format!("revision {}", revision.revision);
            let mut hosts = format!("{} of {} hosts", bundle.applied, bundle.hosts);
            if bundle.failed > 0 {
                hosts.push_str(&format!(", {} failed", bundle.failed));
            }
            if bundle.settled != revision.revision {
                hosts.push_str(&format!(", else revision {}", bundle.settled));
            }
            let scope = shown(revision.scope.as_ref());
            let line =
                format!("{:<width$}{number:<15}{hosts:<25}{scope:<21} {}", bundle.name, revision.message);
            line.trim_end().to_owned()
        })
        .collect()
}

fn history_line(revision: &BundleRevision) -> String {
    let kind = match (revision.deleted, revision.rollback_of) {
        (true, _) => "deleted; ".to_owned(),
        (false, 0) => String::new(),
        (false, old) => format!("as revision {old}; "),
    };
    let line = format!(
        "{:<6}{}   {:<20} {kind}{}",
        revision.revision,
        when::utc(revision.at),
        revision.author,
        revision.message
    );
    line.trim_end_matches([' ', ';']).to_owned()
}

fn show_lines(name: &str, found: &ShownBundle) -> Vec<String> {
    let revision = found.revision.clone().unwrap_or_default();
    let mut lines = vec![
        ("bundle", name.to_owned()),
        ("revision", revision.revision.to_string()),
        ("author", revision.author.clone()),
        ("at", when::utc(revision.at)),
        ("message", revision.message.clone()),
        (
            "for",
            if revision.deleted {
                "no host: it is deleted".to_owned()
            } else {
                shown(revision.scope.as_ref())
            },
        ),
    ];
    if revision.rollback_of > 0 {
        lines.push(("as revision", revision.rollback_of.to_string()));
    }
    let info = found.info.clone().unwrap_or_default();
    if info.settled != info.revision.map_or(0, |latest| latest.revision) {
        let has = match info.settled {
            0 => "have none".to_owned(),
            settled => format!("have revision {settled}"),
        };
        lines.push(("rollout", format!("operation {}; hosts that it has not reached {has}", info.operation)));
    }
    let mut lines: Vec<String> =
        lines.into_iter().map(|(what, text)| format!("{what:<12}{text}").trim_end().to_owned()).collect();
    lines.extend(found.hosts.iter().map(host_line));
    for file in &found.files {
        lines.push(String::new());
        lines.push(format!("; ---- {}", file.name));
        lines.extend(String::from_utf8_lossy(&file.text).lines().map(str::to_owned));
    }
    lines
}

fn host_line(host: &HostBundleState) -> String {
    let bundle = host.bundle.clone().unwrap_or_default();
    let has = match bundle.revision {
        0 => "has none".to_owned(),
        revision => format!("has revision {revision}"),
    };
    let wants = match bundle.desired {
        0 => ", should have none".to_owned(),
        desired if desired == bundle.revision => String::new(),
        desired => format!(", should have revision {desired}"),
    };
    let failed = match bundle.failed_revision {
        0 => String::new(),
        revision => format!("; revision {revision} failed: {}", bundle.reason),
    };
    let away = if host.state() == HostState::Online {
        String::new()
    } else {
        format!("; {}", state_word(host.state()))
    };
    format!("{:<12}{}: {has}{wants}{failed}{away}", "host", host.host)
}
