//! Puts right what is stopped or started on this host against the fleet's wish, where the host's section says
//! `reconcile = enforce`. It needs no controller: the wishes are kept here.

use std::collections::BTreeMap;
use std::time::Duration;

use fleetvisor_core::request::{Processes, Verb};
use fleetvisor_model::config::LogLevel;
use fleetvisor_model::name::ProcessName;
use fleetvisor_model::status::ProcessStatus;
use tokio::time::{Instant, sleep_until};

use crate::daemon::{Daemon, Gone, Watched};
use crate::membership::Membership;

/// How long something may be other than wished: a restart by hand is a stop, and a start after it.
const GRACE: Duration = Duration::from_secs(2);

/// Runs until the daemon ends.
pub(crate) async fn enforce<D: Daemon>(membership: &Membership<D>) -> Result<(), Gone> {
    // Watched before it is read: no change falls between the two.
    let mut changed = membership.daemon.watch()?;
    let mut drifted: BTreeMap<ProcessName, Instant> = BTreeMap::new();
    for status in membership.daemon.statuses().await? {
        note(membership, &mut drifted, &status).await;
    }
    loop {
        let due = drifted.values().min().copied();
        tokio::select! {
            watched = changed.recv() => match watched.ok_or(Gone)? {
                Watched::Changed(status) => note(membership, &mut drifted, &status).await,
                Watched::Removed(name) => drop(drifted.remove(&name)),
                // What it has led to is told before.
                Watched::Happened(_) => {}
            },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                let now = Instant::now();
                let ready: Vec<ProcessName> =
                    drifted.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
                for name in ready {
                    // Until it has changed, or has not.
                    drifted.insert(name.clone(), now + GRACE);
                    put_right(membership, name).await?;
                }
            }
        }
    }
}

async fn note<D: Daemon>(
    membership: &Membership<D>,
    drifted: &mut BTreeMap<ProcessName, Instant>,
    status: &ProcessStatus,
) {
    let wish = membership.wishes.lock().await.wish(&status.name);
    if wish.is_some_and(|run| status.state.drifts_from(run)) {
        drifted.entry(status.name.clone()).or_insert_with(|| Instant::now() + GRACE);
    } else {
        drifted.remove(&status.name);
    }
}

async fn put_right<D: Daemon>(membership: &Membership<D>, name: ProcessName) -> Result<(), Gone> {
    // In the middle of a command things are as they are on the way.
    if membership.commands.are_under_way().await {
        return Ok(());
    }
    let wish = membership.wishes.lock().await.wish(&name);
    let status = membership.daemon.status(name.clone()).await?;
    let (Some(run), Some(status)) = (wish, status) else { return Ok(()) };
    if !status.state.drifts_from(run) {
        return Ok(());
    }
    let (verb, word) = match run {
        true => (Verb::Start { wait: false }, "start"),
        false => (Verb::Stop { wait: false }, "stop"),
    };
    let line = format!("fleet: {name} is {} against the fleet's wish: {word}", status.state.name());
    membership.daemon.log(LogLevel::Warn, line);
    // Nobody waits for the outcome: the states that follow are reported.
    drop(membership.daemon.verb(verb, Processes::Named(vec![name]))?);
    Ok(())
}
