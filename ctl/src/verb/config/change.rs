//! `ctl config push`, `diff`, `rollback` and `delete`: one call each, and what comes of it as it comes.

use std::path::PathBuf;

use clap::Args;
use fleetvisor_proto::fleet::{
    BundleAccepted, BundleEvent, DeleteRequest, HostPlan, OperationRequest, PushRequest, RollbackRequest,
    RunEvent, bundle_event,
};
use serde::Serialize;
use tokio_stream::StreamExt as _;
use tonic::{Status, Streaming};

use super::source;
use crate::cli::{Access, Cli, Form};
use crate::fleet::client::{FleetError, connect, connect_bundles};
use crate::fleet::exit::Exit;
use crate::fleet::print;
use crate::fleet::progress::{HostOutcome, Run, Say};
use crate::fleet::scope::meant;
use crate::verb::perform::{Heard, hear};
use crate::verb::rollout::Steps;
use crate::verb::{print_json, refuse_scope};

/// Gives hosts a bundle, or a new revision of it
///
/// The controller reads it as an agent would; where anything is wrong it is refused as a whole, with file, line and
/// option, and no host sees it. On the hosts what did not change keeps running. A host that cannot use it keeps what
/// it has and says why; one that is away catches up. The hosts are those of --all-hosts, --hosts or -l, also those
/// that come later; without any of these they stay who they are.
///
/// It is an operation (ctl op). A batch of it is good once its processes run, past startsecs; hosts that it has not
/// reached keep what they have. Where it stops after failures, op resume goes on, a rollback ends it, and --revert
/// puts the revision before back on every host by itself.
///
/// With -o json one document: {"bundle", "revision", "changed", "dry_run", "diff", "batches": [number of hosts],
/// "plans": [{"host", "batch", "start", "stop", "restart"}], "operation", "state", "reason", "hosts": [{"host",
/// "result", "reason"}], "reverted_by"}; "operation" to "reason" are as in op show, "result" as in its "results".
/// "reverted_by" is null, or the operation that has put the revision before back.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ctl config push web conf.d/web -l role=web -m 'two more workers'
  ctl config push web conf.d/web --canary 1 --batch 25% --pause 30s --revert
  ctl config push web conf.d/web --dry-run
  ctl config push base base.conf --all-hosts")]
pub(super) struct Push {
    /// Its name
    bundle: String,
    /// Directory with its .conf files, or one such file
    path: PathBuf,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    rollout: Rollout,
}

#[derive(Args, Debug, Default)]
struct Rollout {
    #[command(flatten)]
    steps: Steps,
    /// Where it stops after failures, put the revision before back on all hosts; one failure is enough, unless
    /// --max-failures says otherwise
    #[arg(long, help_heading = "Rollout (in a fleet)")]
    revert: bool,
}

#[derive(Args, Debug, Default)]
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
/// An operation like a push. -o json as with push.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  ctl config rollback web 3\n  ctl config rollback web 3 --dry-run\n  ctl config rollback web 3 --batch 25%"
)]
pub(super) struct Rollback {
    /// The bundle's name
    bundle: String,
    /// The revision whose content and hosts it shall have, as history shows it
    revision: u64,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    rollout: Rollout,
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
        push(cli, &self.bundle, &self.path, &self.how, &self.rollout).await
    }
}

impl Diff {
    pub(super) async fn of_fleet(&self, cli: &Cli) -> Result<Exit, FleetError> {
        let how = How { dry_run: true, ..How::default() };
        push(cli, &self.bundle, &self.path, &how, &Rollout::default()).await
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
            strategy: Some(self.rollout.steps.strategy()?),
            revert: self.rollout.revert,
        };
        let mut bundles = connect_bundles(&cli.access).await?;
        let events = bundles.rollback(request).await?.into_inner();
        follow(cli, &self.bundle, &self.how, &self.rollout, events).await
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
        follow(cli, &self.bundle, &self.how, &Rollout::default(), events).await
    }
}

async fn push(
    cli: &Cli,
    bundle: &str,
    path: &std::path::Path,
    how: &How,
    rollout: &Rollout,
) -> Result<Exit, FleetError> {
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
        strategy: Some(rollout.steps.strategy()?),
        revert: rollout.revert,
    };
    let mut bundles = connect_bundles(&cli.access).await?;
    let events = bundles.push(request).await?.into_inner();
    follow(cli, bundle, how, rollout, events).await
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
    batches: Vec<u32>,
    plans: Vec<PlanJson>,
    /// `null` where nothing was begun.
    operation: Option<String>,
    state: &'static str,
    reason: String,
    hosts: Vec<HostOutcome>,
    reverted_by: Option<String>,
}

#[derive(Debug, Serialize)]
struct PlanJson {
    host: String,
    batch: u32,
    start: Vec<String>,
    stop: Vec<String>,
    restart: Vec<String>,
}

async fn follow(
    cli: &Cli,
    bundle: &str,
    how: &How,
    rollout: &Rollout,
    mut events: Streaming<BundleEvent>,
) -> Result<Exit, FleetError> {
    let text = cli.access.form() == Form::Text;
    let dry_run = how.dry_run;
    let mut change = ChangeJson { bundle: bundle.to_owned(), dry_run, ..ChangeJson::default() };
    let mut first = None;
    while let Some(event) = events.message().await? {
        match event.event {
            Some(bundle_event::Event::Accepted(accepted)) => {
                if text {
                    accepted_lines(bundle, dry_run, &accepted)?;
                }
                change.revision = accepted.revision;
                change.changed = accepted.changed;
                change.diff = accepted.diff;
                change.batches = accepted.batches;
            }
            Some(bundle_event::Event::Plan(HostPlan { host, start, stop, restart, batch })) => {
                change.plans.push(PlanJson { host, batch, start, stop, restart });
            }
            Some(bundle_event::Event::Run(event)) => {
                first = Some(event);
                break;
            }
            None => {}
        }
    }
    if text && dry_run && change.changed {
        print::lines(&plan_lines(&change.batches, &change.plans))?;
    }
    let mut run = Run::default();
    if let Some(first) = first {
        if rollout.steps.no_wait {
            return leave(text, change, run, first);
        }
        let rest = events.filter_map(|event| run_event(event).transpose());
        let heard = hear(text, &mut run, tokio_stream::once(Ok(first)).chain(rest)).await?;
        if let Heard::Interrupted = heard {
            return Ok(Exit::Interrupted);
        }
    }
    let lines = run.end();
    let exit = if run.is_begun() { run.exit() } else { Exit::Done };
    if let Some(operation) = run.reverted_by() {
        hear_reverted(cli, operation).await?;
    }
    if text {
        print::lines(&lines)?;
    } else {
        change.with(run);
        print_json(&change)?;
    }
    Ok(exit)
}

fn run_event(event: Result<BundleEvent, Status>) -> Result<Option<RunEvent>, Status> {
    Ok(match event?.event {
        Some(bundle_event::Event::Run(event)) => Some(event),
        Some(bundle_event::Event::Accepted(_) | bundle_event::Event::Plan(_)) | None => None,
    })
}

/// What is begun is left alone.
fn leave(text: bool, mut change: ChangeJson, mut run: Run, first: RunEvent) -> Result<Exit, FleetError> {
    if let Some(Say::Remark(remark)) = first.event.and_then(|event| run.event(event)) {
        eprintln!("ctl: {remark}");
    }
    match (text, run.is_begun()) {
        (true, true) => print::lines(&[run.id().to_owned()])?,
        (true, false) => {}
        (false, _) => {
            change.with(run);
            print_json(&change)?;
        }
    }
    Ok(Exit::Done)
}

/// Waits until the revision before is back, names the hosts that do not have it, and says how many do.
async fn hear_reverted(cli: &Cli, operation: &str) -> Result<(), FleetError> {
    let mut fleet = connect(&cli.access).await?;
    let request = OperationRequest { id: operation.to_owned() };
    let mut events = fleet.watch_operation(request).await?.into_inner();
    let mut run = Run::default();
    while let Some(event) = events.message().await? {
        match event.event.and_then(|event| run.event(event)) {
            Some(Say::Outcomes(lines)) => {
                lines.iter().filter(|line| !line.good).for_each(|line| eprintln!("ctl: {}", line.text));
            }
            None => {}
            Some(Say::Result(line) | Say::Remark(line)) => {
                eprintln!("ctl: {line}")
            }
        }
    }
    let (done, total) = run.done();
    eprintln!("ctl: reverted on {done} of {total} hosts");
    Ok(())
}

impl ChangeJson {
    fn with(&mut self, run: Run) {
        self.operation = Some(run.id().to_owned()).filter(|_| run.is_begun());
        self.reverted_by = run.reverted_by().map(str::to_owned);
        (self.state, self.reason, self.hosts) = run.into_outcome();
    }
}

fn accepted_lines(bundle: &str, dry_run: bool, accepted: &BundleAccepted) -> Result<(), FleetError> {
    if !accepted.changed {
        print::lines(&[format!("{bundle}: no change, revision {} has this already", accepted.revision)])?;
    } else if dry_run {
        print::lines(&accepted.diff.lines().map(str::to_owned).collect::<Vec<_>>())?;
    } else if accepted.hosts == 0 {
        eprintln!("ctl: bundle {bundle}, revision {}, on no host so far", accepted.revision);
    }
    Ok(())
}

/// A line for each host on which processes change; by batches, where there are several.
fn plan_lines(batches: &[u32], plans: &[PlanJson]) -> Vec<String> {
    if plans.is_empty() {
        return vec!["no process would start, stop or restart".to_owned()];
    }
    let of = |batch: u32| plans.iter().filter(move |plan| plan.batch == batch).map(plan_line);
    let numbered = (1_u32..).zip(batches);
    let batch = |(number, hosts): (u32, &u32)| {
        let plural = if *hosts == 1 { "" } else { "s" };
        let head = format!("batch {number} of {}: {hosts} host{plural}", batches.len());
        std::iter::once(head).chain(of(number)).collect::<Vec<_>>()
    };
    if batches.len() < 2 { plans.iter().map(plan_line).collect() } else { numbered.flat_map(batch).collect() }
}

/// `web-01: start app:app_00 app:app_01, restart nginx`
fn plan_line(plan: &PlanJson) -> String {
    let verbs = [("start", &plan.start), ("stop", &plan.stop), ("restart", &plan.restart)];
    let parts: Vec<String> = verbs
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(verb, names)| format!("{verb} {}", names.join(" ")))
        .collect();
    format!("{}: {}", plan.host, parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_in_batches_names_each() {
        let plan = |host: &str, batch| PlanJson {
            host: host.to_owned(),
            batch,
            start: vec!["app".to_owned()],
            stop: Vec::new(),
            restart: Vec::new(),
        };
        let plans = [plan("a", 1), plan("c", 2)];
        assert_eq!(
            plan_lines(&[1, 2], &plans),
            ["batch 1 of 2: 1 host", "a: start app", "batch 2 of 2: 2 hosts", "c: start app"]
        );
        assert_eq!(plan_lines(&[3], &plans), ["a: start app", "c: start app"]);
        assert_eq!(plan_lines(&[3], &[]), ["no process would start, stop or restart"]);
    }

    #[test]
    fn a_plan_is_one_line() {
        let names = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let plan = PlanJson {
            host: "web-01".to_owned(),
            batch: 1,
            start: names("app:app_00 app:app_01"),
            stop: Vec::new(),
            restart: names("nginx"),
        };
        assert_eq!(plan_line(&plan), "web-01: start app:app_00 app:app_01, restart nginx");
    }
}
