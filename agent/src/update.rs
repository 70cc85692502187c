//! `update`, as supervisorctl does it: the configuration is read again, and groups that were added, changed or
//! removed are brought to life or ended. It is done when the processes of what is new run, or have failed.

use std::collections::BTreeSet;
use std::time::Duration;

use fleetvisor_core::request::{Processes, Refusal, Verb};
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
    let meant = |names: Vec<String>| -> Vec<String> {
        names.into_iter().filter(|name| groups.is_empty() || groups.contains(name)).collect()
    };
    let Changes { added, changed, removed } = changes;
    for group in meant(removed) {
        match end(handle, &group).await? {
            Ok(()) => tell(whole(&group), Ok("removed process group".to_owned())),
            Err(refusal) => tell(whole(&group), Err(refused(refusal))),
        }
    }
    let mut begun = Vec::new();
    for (group, word) in meant(changed)
        .into_iter()
        .map(|group| (group, "updated process group"))
        .chain(meant(added).into_iter().map(|group| (group, "added process group")))
    {
        let ended = if word.starts_with("updated") { end(handle, &group).await? } else { Ok(()) };
        let outcome = match ended {
            Ok(()) => handle.add_group(group.clone()).await?,
            Err(refusal) => Err(refusal),
        };
        match outcome {
            Ok(()) => {
                tell(whole(&group), Ok(word.to_owned()));
                begun.push(group);
            }
            Err(refusal) => tell(whole(&group), Err(refused(refusal))),
        }
    }
    for (name, reason) in failed(handle, &begun).await? {
        tell(name, Err(format!("ERROR ({reason})")));
    }
    Ok(Ok(()))
}

async fn end(handle: &Handle, group: &str) -> Result<Result<(), Refusal>, Gone> {
    handle.outcomes(Verb::Stop { wait: true }, Processes::Group(group.to_owned())).await?;
    handle.remove_group(group.to_owned()).await
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
