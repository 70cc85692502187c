//! `ctl config`: bundles of configuration that the fleet gives its hosts.
//!
//! - [`change`]: push, diff, rollback, delete, and what comes of them. [`source`]: the files of a push.
//! - [`view`]: list, show, history. [`pull`]: a host's own programs.

mod change;
mod pull;
mod source;
mod view;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use fleetvisor_proto::fleet::{BundleRevision, Scope};
use serde::Serialize;

use super::in_fleet;
use crate::cli::Cli;
use crate::fleet::when;

/// Gives hosts configuration: bundles of .conf files, in revisions
///
/// A bundle is a directory of .conf files with [program:x], [group:x], [eventlistener:x] and [fcgi-program:x]
/// sections. It stands beside the hosts' own configuration, and its programs are theirs like any other. Values may
/// have %(host_name)s and, for a label, %(host_label_role)s.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ctl config push web conf.d/web -l role=web -m 'two more workers'
  ctl config diff web conf.d/web
  ctl config rollback web 3")]
pub(crate) struct Config {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    Push(change::Push),
    Diff(change::Diff),
    Rollback(change::Rollback),
    Delete(change::Delete),
    List(view::List),
    Show(view::Show),
    History(view::History),
    Pull(pull::Pull),
}

impl Config {
    pub(super) fn run(&self, cli: &Cli) -> ExitCode {
        match &self.what {
            What::Push(push) => in_fleet(cli, push.of_fleet(cli)),
            What::Diff(diff) => in_fleet(cli, diff.of_fleet(cli)),
            What::Rollback(rollback) => in_fleet(cli, rollback.of_fleet(cli)),
            What::Delete(delete) => in_fleet(cli, delete.of_fleet(cli)),
            What::List(_) => in_fleet(cli, view::list(cli)),
            What::Show(show) => in_fleet(cli, show.of_fleet(cli)),
            What::History(history) => in_fleet(cli, history.of_fleet(cli)),
            What::Pull(pull) => in_fleet(cli, pull.of_fleet(cli)),
        }
    }
}

/// A revision in `-o json`.
#[derive(Debug, Serialize)]
struct RevisionJson {
    revision: u64,
    author: String,
    /// RFC 3339
    at: String,
    message: String,
    /// Globs of the hosts that get it, and the selector of their labels; both empty for every host.
    scope: ScopeJson,
    /// SHA-256 of the content; `null` where the bundle was deleted.
    digest: Option<String>,
    rollback_of: Option<u64>,
    deleted: bool,
    files: u32,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct ScopeJson {
    hosts: Vec<String>,
    labels: String,
}

impl From<&BundleRevision> for RevisionJson {
    fn from(revision: &BundleRevision) -> RevisionJson {
        let scope = revision.scope.clone().unwrap_or_default();
        RevisionJson {
            revision: revision.revision,
            author: revision.author.clone(),
            at: when::rfc3339(revision.at),
            message: revision.message.clone(),
            scope: ScopeJson { hosts: scope.hosts, labels: scope.labels },
            digest: Some(revision.digest.clone()).filter(|digest| !digest.is_empty()),
            rollback_of: Some(revision.rollback_of).filter(|revision| *revision > 0),
            deleted: revision.deleted,
            files: revision.files,
            bytes: revision.bytes,
        }
    }
}

/// As it would be typed: `--hosts 'web-*' -l role=web`.
fn shown(scope: Option<&Scope>) -> String {
    let Some(scope) = scope else { return "no host".to_owned() };
    let mut parts = Vec::new();
    if !scope.hosts.is_empty() {
        parts.push(format!("--hosts {}", scope.hosts.join(",")));
    }
    if !scope.labels.is_empty() {
        parts.push(format!("-l {}", scope.labels));
    }
    if parts.is_empty() { "--all-hosts".to_owned() } else { parts.join(" ") }
}
