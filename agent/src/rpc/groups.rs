//! Methods that compare the configuration file with what runs and bring groups to life or end them.

use fleetvisor_core::request::Outcome;
use fleetvisor_proto::fault::{Fault, FaultCode};
use fleetvisor_proto::xmlrpc::Value;

use super::Api;
use super::args::{Args, about};
use super::call::Answer;
use super::processes::fault;
use crate::settings::load_again;

pub(super) async fn reload(api: &Api) -> Answer {
    let config = load_again(&api.handle).await.map_err(|error| Fault::with(FaultCode::CantReread, error))?;
    let changes = api.handle.reread(config).await.map_err(|gone| api.gone(gone))?;
    let names = |groups: Vec<String>| Value::Array(groups.into_iter().map(Value::String).collect());
    // An array in an array: a client that takes a result for a tuple of values sees three.
    Ok(vec![vec![names(changes.added), names(changes.changed), names(changes.removed)].into()].into())
}

pub(super) async fn add(api: &Api, args: Args) -> Answer {
    let Some(name) = args.get(0).as_str() else { return Err(about(FaultCode::BadName, args.get(0))) };
    let outcome = api.handle.add_group(name.to_owned()).await.map_err(|gone| api.gone(gone))?;
    answer(name, outcome)
}

pub(super) async fn remove(api: &Api, args: Args) -> Answer {
    let name = args.group(0)?;
    let outcome = api.handle.remove_group(name.to_owned()).await.map_err(|gone| api.gone(gone))?;
    answer(name, outcome)
}

fn answer(name: &str, outcome: Outcome) -> Answer {
    match outcome {
        Ok(()) => Ok(true.into()),
        Err(refusal) => Err(fault(&refusal, name).into()),
    }
}
