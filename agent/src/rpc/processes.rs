//! Methods that act on processes: start, stop, signal, stdin. Each comes in three widths: a process, a group,
//! everything.

use fleetvisor_core::request::{Processes, Refusal, Verb};
use fleetvisor_model::config::integer;
use fleetvisor_model::name::ProcessName;
use fleetvisor_model::signal::Signal;
use fleetvisor_model::state::ProcessState;
use fleetvisor_proto::fault::{Fault, FaultCode};
use fleetvisor_proto::xmlrpc::Value;

use super::Api;
use super::args::{Args, Name, about, text};
use super::call::{Answer, Failure};
use crate::inbox::StdinError;

pub(super) async fn start(api: &Api, args: Args) -> Answer {
    on_name(api, args.name(0)?, Verb::Start { wait: args.flag(1, true) }).await
}

pub(super) async fn start_group(api: &Api, args: Args) -> Answer {
    let name = args.group(0)?;
    on_group(api, name, name, Verb::Start { wait: args.flag(1, true) }).await
}

pub(super) async fn start_all(api: &Api, args: Args) -> Answer {
    on_several(api, Processes::All, Verb::Start { wait: args.flag(0, true) }).await
}

pub(super) async fn stop(api: &Api, args: Args) -> Answer {
    on_name(api, args.name(0)?, Verb::Stop { wait: args.flag(1, true) }).await
}

pub(super) async fn stop_group(api: &Api, args: Args) -> Answer {
    let name = args.group(0)?;
    on_group(api, name, name, Verb::Stop { wait: args.flag(1, true) }).await
}

pub(super) async fn stop_all(api: &Api, args: Args) -> Answer {
    on_several(api, Processes::All, Verb::Stop { wait: args.flag(0, true) }).await
}

pub(super) async fn signal(api: &Api, args: Args) -> Answer {
    let (name, given) = (args.name(0)?, args.get(1));
    let Some(process) = name.process else {
        return signal_in_group(api, name.group, name.given, given).await;
    };
    let process = ProcessName::new(name.group, process);
    let exists = api.handle.status(process).await.map_err(|gone| api.gone(gone))?.is_some();
    match signal_of(given) {
        _ if !exists => Err(name.is_bad()),
        Ok(Some(signal)) => on_name(api, name, Verb::Signal(signal)).await,
        Ok(None) => Err(about(FaultCode::BadSignal, given)),
        Err(failure) => Err(failure),
    }
}

pub(super) async fn signal_group(api: &Api, args: Args) -> Answer {
    let name = args.group(0)?;
    signal_in_group(api, name, name, args.get(1)).await
}

pub(super) async fn signal_all(api: &Api, args: Args) -> Answer {
    match signal_of(args.get(0))? {
        Some(signal) => on_several(api, Processes::All, Verb::Signal(signal)).await,
        None => no_such_signal(api, by_priority(api).await?, args.get(0)).await,
    }
}

async fn signal_in_group(api: &Api, group: &str, given: &str, signal: &Value) -> Answer {
    let names = api.handle.group_names(group.to_owned()).await.map_err(|gone| api.gone(gone))?;
    let Some(names) = names else { return Err(Fault::with(FaultCode::BadName, given).into()) };
    match signal_of(signal)? {
        Some(signal) => on_several(api, Processes::Group(group.to_owned()), Verb::Signal(signal)).await,
        None => no_such_signal(api, names, signal).await,
    }
}

/// What each process that could have been signalled says to a signal that does not exist.
async fn no_such_signal(api: &Api, names: Vec<ProcessName>, signal: &Value) -> Answer {
    let fault = Fault::with(FaultCode::BadSignal, text(signal));
    let mut results = Vec::new();
    for name in names {
        let status = api.handle.status(name).await.map_err(|gone| api.gone(gone))?;
        let signallable = status.filter(|status| {
            matches!(status.state, ProcessState::Starting | ProcessState::Running | ProcessState::Stopping)
        });
        results.extend(signallable.map(|status| result(&status.name, Err(fault.clone()))));
    }
    Ok(results.into())
}

/// `None` for what is neither the name nor the number of a signal.
fn signal_of(value: &Value) -> Result<Option<Signal>, Failure> {
    let number = match value {
        Value::Int(int) => Some(*int),
        Value::Bool(bool) => Some(i64::from(*bool)),
        Value::Double(double) if double.is_finite() => Some(*double as i64),
        Value::String(string) => integer(string).ok(),
        Value::Double(_)
        | Value::DateTime(_)
        | Value::Base64(_)
        | Value::Array(_)
        | Value::Struct(_)
        | Value::Nil => {
            return Err(Failure::Unexpected(format!("a signal that is no string: {}", text(value))));
        }
    };
    Ok(match (number, value) {
        (Some(number), _) => i32::try_from(number).ok().map(Signal).filter(|signal| signal.is_valid()),
        (None, Value::String(name)) => {
            let name = name.trim().to_uppercase();
            Signal::from_name(name.strip_prefix("SIG").unwrap_or(&name))
        }
        (None, _) => None,
    })
}

pub(super) async fn send_stdin(api: &Api, args: Args) -> Answer {
    let Some(chars) = args.get(1).as_str() else {
        return Err(about(FaultCode::IncorrectParameters, args.get(1)));
    };
    let name = args.name(0)?;
    let process = name.process.ok_or_else(|| name.is_bad())?;
    let process = ProcessName::new(name.group, process);
    let written = api.handle.write_stdin(process, chars.as_bytes().to_vec()).await;
    let code = match written.map_err(|gone| api.gone(gone))? {
        Ok(()) => return Ok(true.into()),
        Err(StdinError::BadName) => FaultCode::BadName,
        Err(StdinError::NotRunning) => FaultCode::NotRunning,
        Err(StdinError::NoFile) => FaultCode::NoFile,
    };
    Err(Fault::with(code, name.given).into())
}

async fn on_name(api: &Api, name: Name<'_>, verb: Verb) -> Answer {
    let Some(process) = name.process else { return on_group(api, name.group, name.given, verb).await };
    let outcome = api.handle.outcome(verb, ProcessName::new(name.group, process)).await;
    match outcome.map_err(|gone| api.gone(gone))? {
        Ok(()) => Ok(true.into()),
        Err(refusal) => Err(fault(&refusal, name.given).into()),
    }
}

/// `given` is how the caller named the group.
async fn on_group(api: &Api, group: &str, given: &str, verb: Verb) -> Answer {
    let names = api.handle.group_names(group.to_owned()).await.map_err(|gone| api.gone(gone))?;
    match names {
        Some(_) => on_several(api, Processes::Group(group.to_owned()), verb).await,
        None => Err(Fault::with(FaultCode::BadName, given).into()),
    }
}

async fn on_several(api: &Api, processes: Processes, verb: Verb) -> Answer {
    let outcomes = api.handle.outcomes(verb, processes).await.map_err(|gone| api.gone(gone))?;
    let results: Vec<Value> = outcomes
        .into_iter()
        .map(|(name, outcome)| {
            let outcome = outcome.map_err(|refusal| fault(&refusal, &name.to_string()));
            result(&name, outcome)
        })
        .collect();
    Ok(results.into())
}

/// One process's line in the result of a method that acts on several.
pub(super) fn result(name: &ProcessName, outcome: Result<(), Fault>) -> Value {
    let (status, description) = match outcome {
        Ok(()) => (FaultCode::Success.code(), "OK".to_owned()),
        Err(fault) => (fault.code, fault.text),
    };
    Value::record([
        ("name", Value::from(name.process.as_str())),
        ("group", name.group.as_str().into()),
        ("status", status.into()),
        ("description", description.into()),
    ])
}

/// A refusal in Supervisor's words; `given` is how the caller named the process or group.
pub(super) fn fault(refusal: &Refusal, given: &str) -> Fault {
    match refusal {
        Refusal::BadName => Fault::with(FaultCode::BadName, given),
        Refusal::NoFile(why) => Fault::with(FaultCode::NoFile, why),
        Refusal::NotExecutable(why) => Fault::with(FaultCode::NotExecutable, why),
        Refusal::AlreadyStarted => Fault::with(FaultCode::AlreadyStarted, given),
        Refusal::NotRunning => Fault::with(FaultCode::NotRunning, given),
        Refusal::SpawnError => Fault::with(FaultCode::SpawnError, given),
        Refusal::AbnormalTermination => Fault::with(FaultCode::AbnormalTermination, given),
        Refusal::AlreadyAdded => Fault::with(FaultCode::AlreadyAdded, given),
        Refusal::StillRunning => Fault::with(FaultCode::StillRunning, given),
        Refusal::ShutdownState => FaultCode::ShutdownState.into(),
        Refusal::Failed(why) => Fault::with(FaultCode::Failed, why),
    }
}

/// All processes as they are started: by the priority of their group, then their own.
pub(super) async fn by_priority(api: &Api) -> Result<Vec<ProcessName>, Failure> {
    let statuses = api.handle.statuses().await.map_err(|gone| api.gone(gone))?;
    let configs = api.handle.configs().await.map_err(|gone| api.gone(gone))?;
    let mut ordered = Vec::with_capacity(statuses.len());
    for configured in &configs {
        let names = api.handle.group_names(configured.group.name.clone()).await;
        ordered.extend(names.map_err(|gone| api.gone(gone))?.unwrap_or_default());
    }
    // Groups that are active and not in the configuration any more come last.
    let known: std::collections::HashSet<&ProcessName> = ordered.iter().collect();
    let rest: Vec<ProcessName> =
        statuses.into_iter().map(|status| status.name).filter(|name| !known.contains(name)).collect();
    ordered.extend(rest);
    Ok(ordered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        let signal = |value: Value| signal_of(&value).unwrap();
        for value in
            [Value::from("HUP"), " sighup ".into(), "1".into(), 1.into(), true.into(), Value::Double(1.9)]
        {
            assert_eq!(signal(value), Some(Signal::HUP));
        }
        assert_eq!(signal("64".into()), Some(Signal(64)));
        assert_eq!(signal(0.into()), Some(Signal(0)));
        for value in
            [Value::from("35"), "SIG".into(), "HUP1".into(), "".into(), (1_i64 << 40).into(), (-1).into()]
        {
            assert_eq!(signal(value), None);
        }
        assert!(signal_of(&vec![1.into()].into()).is_err());
        assert!(signal_of(&Value::Nil).is_err());
    }
}
