//! Methods about the interface itself, and many calls in one.

use fleetvisor_proto::fault::{Fault, FaultCode};
use fleetvisor_proto::xmlrpc::Value;

use super::Api;
use super::args::{Args, text};
use super::call::{Answer, Failure};
use super::table::{self, METHODS, Method};

/// What all results of one multicall may come to, in bytes: calls are small, results need not be.
const MOST: usize = 256 << 20;
/// What a value costs beside its text.
const OVERHEAD: usize = 64;

pub(super) async fn list_methods() -> Answer {
    Ok(names().into_iter().map(Value::from).collect::<Vec<_>>().into())
}

fn names() -> Vec<&'static str> {
    let mut names: Vec<&str> = METHODS.iter().flat_map(|method| method.names).copied().collect();
    names.sort_unstable();
    names
}

pub(super) async fn method_help(args: Args) -> Answer {
    Ok(described(&args)?.help().into())
}

pub(super) async fn method_signature(args: Args) -> Answer {
    let method = described(&args)?;
    let types = std::iter::once(method.result).chain(method.params.iter().map(|param| param.kind));
    Ok(types.map(Value::from).collect::<Vec<_>>().into())
}

fn described(args: &Args) -> Result<&'static Method, Failure> {
    let method = args.get(0).as_str().and_then(table::find);
    method.ok_or_else(|| FaultCode::SignatureUnsupported.into())
}

pub(super) async fn multicall(api: &Api, args: Args) -> Answer {
    let calls = match args.get(0) {
        Value::Array(calls) => calls.as_slice(),
        Value::String(none) if none.is_empty() => &[],
        Value::String(_) => return Err(Failure::Unexpected("calls that are a string".to_owned())),
        Value::Int(_)
        | Value::Bool(_)
        | Value::Double(_)
        | Value::DateTime(_)
        | Value::Base64(_)
        | Value::Struct(_)
        | Value::Nil => return Err(FaultCode::IncorrectParameters.into()),
    };
    let mut results = Vec::with_capacity(calls.len());
    let mut size = 0;
    for call in calls {
        if !matches!(call, Value::Struct(_)) {
            return Err(Failure::Unexpected(format!("a call that is no struct: {}", text(call))));
        }
        let result = if size > MOST {
            Err(Fault::with(FaultCode::Failed, "the results so far are too large").into())
        } else {
            one(api, call).await
        };
        let value = result.unwrap_or_else(|failure| {
            let fault = match failure {
                Failure::Fault(fault) => fault,
                Failure::Unexpected(why) => Fault::with(FaultCode::Failed, why),
            };
            Value::record([("faultCode", Value::Int(fault.code)), ("faultString", fault.text.into())])
        });
        size += weight(&value);
        results.push(value);
    }
    Ok(results.into())
}

async fn one(api: &Api, call: &Value) -> Answer {
    let name = match call.get("methodName") {
        None | Some(Value::Nil) => {
            return Err(Fault::with(FaultCode::IncorrectParameters, "No methodName").into());
        }
        Some(Value::String(name)) if name == "system.multicall" => {
            let why = "Recursive system.multicall forbidden";
            return Err(Fault::with(FaultCode::IncorrectParameters, why).into());
        }
        Some(Value::String(name)) => name,
        Some(other) => {
            return Err(Failure::Unexpected(format!("a method name that is no string: {}", text(other))));
        }
    };
    // Whatever Python can iterate over is a list of parameters.
    let params = match call.get("params") {
        None => Vec::new(),
        Some(Value::Array(params)) => params.clone(),
        Some(Value::String(chars)) => chars.chars().map(|char| Value::String(char.to_string())).collect(),
        Some(Value::Struct(members)) => members.iter().map(|(name, _)| name.as_ref().into()).collect(),
        Some(_) => return Err(FaultCode::IncorrectParameters.into()),
    };
    api.call(name, params).await
}

fn weight(value: &Value) -> usize {
    OVERHEAD
        + match value {
            Value::String(text) | Value::DateTime(text) => text.len(),
            Value::Base64(bytes) => bytes.len(),
            Value::Array(items) => items.iter().map(weight).sum(),
            Value::Struct(members) => members.iter().map(|(name, value)| name.len() + weight(value)).sum(),
            Value::Int(_) | Value::Bool(_) | Value::Double(_) | Value::Nil => 0,
        }
}
