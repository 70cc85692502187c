//! Methods that Supervisor does not have: which agent this is, and its upgrade in place.

use fleetvisor_proto::fault::{Fault, FaultCode};
use fleetvisor_proto::xmlrpc::Value;

use super::Api;
use super::call::{Answer, Failure};
use crate::upgrade::{self, Upgrade, UpgradeError, Upgraded};

pub(super) async fn agent_info(api: &Api) -> Answer {
    let latest = api.handle.latest_upgrade().await.map_err(|gone| api.gone(gone))?;
    let facts = api.handle.facts();
    let upgrade =
        latest.map_or_else(Vec::new, |Upgrade { from_pid, from_version, version, error, .. }| {
            vec![Value::record([
                ("from_pid", Value::from(from_pid)),
                ("from_version", from_version.as_str().into()),
                ("version", version.as_str().into()),
                ("error", error.unwrap_or_default().as_str().into()),
            ])]
        });
    Ok(Value::record([
        ("version", Value::from(fleetvisor_proto::VERSION)),
        ("pid", own_pid()),
        ("keeper_pid", facts.pid.into()),
        ("executable", facts.executable.to_string_lossy().as_ref().into()),
        ("upgrades", upgrade.into()),
    ]))
}

pub(super) async fn upgrade(api: &Api) -> Answer {
    let (handle, logs) = (api.handle.clone(), api.logs.clone());
    // It goes on where its caller does not wait.
    let upgraded = tokio::spawn(upgrade::upgrade(handle, logs, async { Ok(()) }));
    let version = match upgraded.await {
        Ok(Ok(Upgraded::Same)) => String::new(),
        Ok(Ok(Upgraded::Leaving { version })) => version,
        Ok(Err(UpgradeError::Ending)) => return Err(FaultCode::ShutdownState.into()),
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(error) => return Err(failed(error.to_string())),
    };
    Ok(Value::record([
        ("from_version", Value::from(fleetvisor_proto::VERSION)),
        ("pid", own_pid()),
        ("executable", api.handle.facts().executable.to_string_lossy().as_ref().into()),
        ("version", version.as_str().into()),
    ]))
}

fn own_pid() -> Value {
    Value::from(std::process::id().cast_signed())
}

fn failed(why: String) -> Failure {
    Fault::with(FaultCode::Failed, why).into()
}
