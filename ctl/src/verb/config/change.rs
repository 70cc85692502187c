//! `ctl config push`, `diff`, `rollback` and `delete`: one call each, and what comes of it as it comes.

use std::path::PathBuf;

use clap::Args;
use fleetvisor_proto::fleet::{
    BundleAccepted, BundleEvent, BundleHostDone, DeleteRequest, HostPlan, HostResult, PushRequest,
    RollbackRequest, bundle_event,
};
use serde::Serialize;
use tonic::Streaming;

use super::source;
use crate::cli::{Access, Cli, Form};
use crate::fleet::client::{FleetError, connect_bundles};
use crate::fleet::exit::Exit;
use crate::fleet::print;
use crate::fleet::scope::meant;
use crate::verb::{print_json, refuse_scope};

/// Gives hosts a bundle, or a new revision of it
///
/// The controller reads it as an agent would; where anything is wrong it is refused as a whole, with file, line and
/// option, and no host sees it. On the hosts what did not change keeps running. A host that cannot use it keeps what
/// it has and says why; one that is away catches up. The hosts are those of --all-hosts, --hosts or -l, also those
/// that come later; without any of these they stay who they are.
///
/// With -o json one document: {"bundle", "revision", "changed", "dry_run", "diff", "plans": [{"host", "start",
/// "stop", "restart"}], "hosts": [{"host", "result", "reason"}]}; "result" is "ok", "failed", "pending" or "timed-out".
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ctl config push web conf.d/web -l role=web -m 'two more workers'
  ctl config push web conf.d/web --dry-run
  ctl config push base base.conf --all-hosts")]
pub(super) struct Push {
    /// Its name
    bundle: String,
    /// Directory with its .conf files, or one such file
    path: PathBuf,
    #[command(flatten)]
    how: How,
}

#[derive(Args, Debug)]
struct How {
    /// Why, for the history
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    message: String,
    /// Only shows what would change, and on which hosts
    #[arg(long)]
    dry_run: bool,
}

/// Shows how files differ from a bundle, and what that would come to on the hosts
///
/// The same as push --dry-run. Values of keys that look like secrets are hidden. -o json as with push.
#[derive(Args, Debug)]
#[command(after_help = "Example: ctl config diff web conf.d/web")]
pub(super) struct Diff {
    /// The bundle's name
    bundle: String,
    /// Directory with .conf files, or one such file
    path: PathBuf,
}

/// Makes an earlier revision the latest again, for the hosts that it was for
///
/// -o json as with push.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  ctl config rollback web 3\n  ctl config rollback web 3 --dry-run")]
pub(super) struct Rollback {
    /// The bundle's name
    bundle: String,
    /// The revision whose content and hosts it shall have, as history shows it
    revision: u64,
    #[command(flatten)]
    how: How,
}

/// Takes a bundle away from all hosts: its programs stop
///
/// Its history stays, and rollback brings it back. -o json as with push.
#[derive(Args, Debug)]
#[command(after_help = "Example: ctl config delete web -m 'moved to the new cluster'")]
pub(super) struct Delete {
    /// The bundle's name
    bundle: String,
    #[command(flatten)]
    how: How,
}

impl Push {
    pub(super) async fn of_fleet(&self, cli: &Cli) -> Result<Exit, FleetError> {
        push(cli, &self.bundle, &self.path, &self.how).await
    }
}

impl Diff {
    pub(super) async fn of_fleet(&self, cli: &Cli) -> Result<Exit, FleetError> {
        let how = How { message: String::new(), dry_run: true };
        push(cli, &self.bundle, &self.path, &how).await
    }
}

impl Rollback {
    pub(super) async fn of_fleet(&self, cli: &Cli) -> Result<Exit, FleetError> {
        refuse_scope(&cli.scope)?;
        let request = RollbackRequest {
            name: self.bundle.clone(),
            revision: self.revision,
            message: self.how.message.clone(),
            dry_run: self.how.dry_run,
            timeout_seconds: timeout_seconds(&cli.access)?,
        };
        let mut bundles = connect_bundles(&cli.access).await?;
        let events = bundles.rollback(request).await?.into_inner();
        follow(cli, &self.bundle, self.how.dry_run, events).await
    }
}

impl Delete {
    pub(super) async fn of_fleet(&self, cli: &Cli) -> Result<Exit, FleetError> {
        refuse_scope(&cli.scope)?;
        let request = DeleteRequest {
            name: self.bundle.clone(),
            message: self.how.message.clone(),
            dry_run: self.how.dry_run,
            timeout_seconds: timeout_seconds(&cli.access)?,
        };
        let mut bundles = connect_bundles(&cli.access).await?;
        let events = bundles.delete(request).await?.into_inner();
        follow(cli, &self.bundle, self.how.dry_run, events).await
    }
}

async fn push(cli: &Cli, bundle: &str, path: &std::path::Path, how: &How) -> Result<Exit, FleetError> {
    let scope = match cli.scope.is_given() {
        true => Some(meant(&cli.scope, &[])?.scope),
        false => None,
    };
    let (files, left_out) = source::files(path)?;
    if !left_out.is_empty() {
        eprintln!("ctl: not part of the bundle, being no .conf files: {}", left_out.join(", "));
    }
    let request = PushRequest {
        name: bundle.to_owned(),
        files,
        scope,
        message: how.message.clone(),
        dry_run: how.dry_run,
        timeout_seconds: timeout_seconds(&cli.access)?,
    };
    let mut bundles = connect_bundles(&cli.access).await?;
    let events = bundles.push(request).await?.into_inner();
    follow(cli, bundle, how.dry_run, events).await
}

fn timeout_seconds(access: &Access) -> Result<u32, FleetError> {
    let seconds = access.timeout.map_or(0, |timeout| timeout.as_secs().max(1));
    u32::try_from(seconds).map_err(|_| FleetError::Usage("--timeout is too long".to_owned()))
}

#[derive(Debug, Default, Serialize)]
struct ChangeJson {
    bundle: String,
    revision: u64,
    changed: bool,
    dry_run: bool,
    diff: String,
    plans: Vec<PlanJson>,
    hosts: Vec<HostJson>,
}

#[derive(Debug, Serialize)]
struct PlanJson {
    host: String,
    start: Vec<String>,
    stop: Vec<String>,
    restart: Vec<String>,
}

#[derive(Debug, Serialize)]
struct HostJson {
    host: String,
    result: &'static str,
    reason: String,
}

async fn follow(
    cli: &Cli,
    bundle: &str,
    dry_run: bool,
    mut events: Streaming<BundleEvent>,
) -> Result<Exit, FleetError> {
    let text = cli.access.form() == Form::Text;
    let mut change = ChangeJson { bundle: bundle.to_owned(), dry_run, ..ChangeJson::default() };
    let mut results = Vec::new();
    loop {
        let event = match events.message().await {
            Ok(Some(event)) => event.event,
            Ok(None) => break,
            Err(status) => {
                if change.revision > 0 && !dry_run {
                    eprintln!("ctl: the answer broke off; what was accepted goes on");
                }
                return Err(status.into());
            }
        };
        match event {
            Some(bundle_event::Event::Accepted(accepted)) => {
                if text {
                    accepted_lines(bundle, dry_run, &accepted)?;
                }
                change.revision = accepted.revision;
                change.changed = accepted.changed;
                change.diff = accepted.diff;
            }
            Some(bundle_event::Event::Plan(plan)) => {
                if text && dry_run {
                    print::lines(&[plan_line(&plan)])?;
                }
                let HostPlan { host, start, stop, restart } = plan;
                change.plans.push(PlanJson { host, start, stop, restart });
            }
            Some(bundle_event::Event::HostDone(done)) => {
                if text {
                    print::lines(&[done_line(&done, change.revision)])?;
                }
                results.push(done.result());
                change.hosts.push(HostJson {
                    host: done.host.clone().unwrap_or_default().name,
                    result: word(done.result()),
                    reason: done.reason,
                });
            }
            None => {}
        }
    }
    if text && dry_run && change.changed && change.plans.is_empty() {
        print::lines(&["no process would start, stop or restart".to_owned()])?;
    }
    if !text {
        change.hosts.sort_by(|a, b| a.host.cmp(&b.host));
        print_json(&change)?;
    }
    Ok(exit(&results))
}

fn accepted_lines(bundle: &str, dry_run: bool, accepted: &BundleAccepted) -> Result<(), FleetError> {
    if !accepted.changed {
        print::lines(&[format!("{bundle}: no change, revision {} has this already", accepted.revision)])?;
        return Ok(());
    }
    if dry_run {
        print::lines(&accepted.diff.lines().map(str::to_owned).collect::<Vec<_>>())?;
        return Ok(());
    }
    let hosts = match accepted.hosts {
        0 => "no host so far".to_owned(),
        1 => "1 host".to_owned(),
        hosts => format!("{hosts} hosts"),
    };
    eprintln!("ctl: bundle {bundle}, revision {}, on {hosts}", accepted.revision);
    Ok(())
}

/// `web-01: start app:app_00 app:app_01, restart nginx`
fn plan_line(plan: &HostPlan) -> String {
    let verbs = [("start", &plan.start), ("stop", &plan.stop), ("restart", &plan.restart)];
    let parts: Vec<String> = verbs
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(verb, names)| format!("{verb} {}", names.join(" ")))
        .collect();
    format!("{}: {}", plan.host, parts.join(", "))
}

fn done_line(done: &BundleHostDone, revision: u64) -> String {
    let host = done.host.as_ref().map_or("", |host| &host.name);
    match done.result() {
        HostResult::Ok => format!("{host}: revision {revision} applied"),
        HostResult::Pending => format!("{host}: {}", done.reason),
        _ => format!("{host}: ERROR ({})", done.reason),
    }
}

fn word(result: HostResult) -> &'static str {
    match result {
        HostResult::Ok => "ok",
        HostResult::Pending => "pending",
        HostResult::TimedOut => "timed-out",
        _ => "failed",
    }
}

fn exit(results: &[HostResult]) -> Exit {
    if results.iter().all(|result| *result == HostResult::Ok) {
        Exit::Done
    } else if results.iter().all(|result| !matches!(result, HostResult::Ok | HostResult::Pending)) {
        Exit::Failed
    } else {
        Exit::Partial
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_status_tells_all_from_some() {
        use HostResult::{Failed, Ok, Pending};
        for (results, expected) in [
            (&[][..], Exit::Done),
            (&[Ok, Ok], Exit::Done),
            (&[Ok, Failed], Exit::Partial),
            (&[Ok, Pending], Exit::Partial),
            (&[Pending], Exit::Partial),
            (&[Failed, Failed], Exit::Failed),
        ] {
            assert_eq!(exit(results), expected, "{results:?}");
        }
    }

    #[test]
    fn a_plan_is_one_line() {
        let names = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let plan = HostPlan {
            host: "web-01".to_owned(),
            start: names("app:app_00 app:app_01"),
            stop: Vec::new(),
            restart: names("nginx"),
        };
        assert_eq!(plan_line(&plan), "web-01: start app:app_00 app:app_01, restart nginx");
    }
}
