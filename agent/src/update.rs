//! `update`, as supervisorctl does it: the configuration is read again, and groups that were added, changed or
//! removed are brought to life or ended. It is done when the processes of what is new run, or have failed.

use std::collections::BTreeSet;
use std::time::Duration;

use fleetvisor_core::request::{Outcome, Processes, Verb};
use fleetvisor_link::refused;
use fleetvisor_model::name::ProcessName;
use fleetvisor_model::state::ProcessState;
use tokio::sync::mpsc;

use crate::inbox::{Changes, Gone, Handle};
use crate::settings::load_again;

/// How often processes that are starting are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// `groups`: those that are meant, none for all. Tells of each group under `group:*`, and of each process that
/// does not come to run; the error is why nothing was done.
pub(crate) async fn update(
    handle: &Handle,
    groups: &[String],
    told: &mpsc::UnboundedSender<(ProcessName, Result<String, String>)>,
) -> Result<Result<(), String>, Gone> {
    // Whoever asked may have gone; the update goes on.
    let tell = |name, outcome| drop(told.send((name, outcome)));
    let config = match load_again(handle).await {
        Ok(config) => config,
        Err(reason) => return Ok(Err(format!("the configuration is refused: {reason}"))),
    };
    let changes = handle.reread(config).await?;
    let known: BTreeSet<String> = handle.configs().await?.into_iter().map(|it| it.group.name).collect();
    for group in groups.iter().filter(|group| !known.contains(*group) && !changes.removed.contains(group)) {
        tell(whole(group), Err("ERROR (no such group)".to_owned()));
    }
    let changes = changes.of(|group| groups.is_empty() || groups.iter().any(|meant| meant == group));
    let mut begun = Vec::new();
    carry_out(handle, changes, |group, change, outcome| {
        let name = whole(&group);
        match (change, outcome) {
            (_, Err(refusal)) => return tell(name, Err(refused(refusal))),
            (Change::Removed, Ok(())) => return tell(name, Ok("removed process group".to_owned())),
            (Change::Changed, Ok(())) => tell(name, Ok("updated process group".to_owned())),
            (Change::Added, Ok(())) => tell(name, Ok("added process group".to_owned())),
        }
        begun.push(group);
    })
    .await?;
    for (name, reason) in failed(handle, &begun).await? {
        tell(name, Err(format!("ERROR ({reason})")));
    }
    Ok(Ok(()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Changed,
    Removed,
}

/// Ends groups and brings them to life as the configuration, which was read again, has them now. Those that end do so
/// at the same time. What became of each is told as it comes about.
pub(crate) async fn carry_out(
    handle: &Handle,
    changes: Changes,
    mut told: impl FnMut(String, Change, Outcome),
) -> Result<(), Gone> {
    let Changes { added, changed, removed } = changes;
    let mut stopping = Vec::new();
    for group in removed.iter().chain(&changed) {
        stopping.push(handle.verb(Verb::Stop { wait: true }, Processes::Group(group.clone()))?);
    }
    for mut stopped in stopping {
        while stopped.recv().await.is_some() {}
    }
    for group in removed {
        let outcome = handle.remove_group(group.clone()).await?;
        told(group, Change::Removed, outcome);
    }
    for group in changed {
        let outcome = match handle.remove_group(group.clone()).await? {
            Ok(()) => handle.add_group(group.clone()).await?,
            Err(refusal) => Err(refusal),
        };
        told(group, Change::Changed, outcome);
    }
    for group in added {
        let outcome = handle.add_group(group.clone()).await?;
        told(group, Change::Added, outcome);
    }
    Ok(())
}

/// Processes of these groups that have failed, once all of them run or have ended.
async fn failed(handle: &Handle, groups: &[String]) -> Result<Vec<(ProcessName, &'static str)>, Gone> {
    loop {
        let mut statuses = handle.statuses().await?;
        statuses.retain(|status| groups.contains(&status.name.group));
        let is_starting = |state| matches!(state, ProcessState::Starting | ProcessState::Backoff);
        if !statuses.iter().any(|status| is_starting(status.state)) {
            let failed = statuses.into_iter().filter(|status| status.state == ProcessState::Fatal);
            return Ok(failed
                .map(|status| {
                    let never_ran = status.spawnerr.is_empty();
                    (status.name, if never_ran { "abnormal termination" } else { "spawn error" })
                })
                .collect());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The group as the result of a command names it.
fn whole(group: &str) -> ProcessName {
    ProcessName::new(group, "*")
}
