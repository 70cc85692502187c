//! Methods about the daemon as a whole: what it is, in which state, and its end.

use fleetvisor_proto::xmlrpc::Value;

use super::Api;
use super::args::{Args, text};
use super::call::Answer;
use crate::cli::SUPERVISOR_VERSION;

const API_VERSION: &str = "3.0";

pub(super) async fn api_version() -> Answer {
    Ok(API_VERSION.into())
}

pub(super) async fn supervisor_version() -> Answer {
    Ok(SUPERVISOR_VERSION.into())
}

pub(super) async fn identification(api: &Api) -> Answer {
    Ok(api.handle.facts().identifier.as_str().into())
}

pub(super) async fn state(api: &Api) -> Answer {
    let state = api.handle.state();
    Ok(Value::record([("statecode", Value::from(state.code())), ("statename", state.name().into())]))
}

pub(super) async fn pid(api: &Api) -> Answer {
    Ok(api.handle.facts().pid.into())
}

pub(super) async fn shutdown(api: &Api) -> Answer {
    api.handle.shutdown().await.map_err(|gone| api.gone(gone))?;
    Ok(true.into())
}

pub(super) async fn restart(api: &Api) -> Answer {
    api.handle.restart().await.map_err(|gone| api.gone(gone))?;
    Ok(true.into())
}

pub(super) async fn send_remote_event(api: &Api, args: Args) -> Answer {
    let event = api.handle.remote_event(text(args.get(0)), text(args.get(1)));
    event.map_err(|gone| api.gone(gone))?;
    Ok(true.into())
}
