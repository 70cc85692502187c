//! A call's parameters as Python would take them: clients send numbers as strings and integers for booleans,
//! and Supervisor does not mind.

use fleetvisor_model::config::{integer, repr};
use fleetvisor_proto::fault::{Fault, FaultCode};
use fleetvisor_proto::xmlrpc::Value;

use super::call::Failure;

#[derive(Debug)]
pub(super) struct Args(Vec<Value>);

impl Args {
    pub(super) fn new(params: Vec<Value>) -> Args {
        Args(params)
    }

    /// A parameter, nil where it was left out.
    pub(super) fn get(&self, at: usize) -> &Value {
        self.0.get(at).unwrap_or(&Value::Nil)
    }

    /// The name of a process, or of all processes of a group (`group:*`).
    pub(super) fn name(&self, at: usize) -> Result<Name<'_>, Failure> {
        match self.get(at) {
            Value::String(given) => Ok(Name::split(given)),
            other => Err(Failure::Unexpected(format!("a name that is no string: {}", text(other)))),
        }
    }

    /// The name of a group. Something else is the name of none.
    pub(super) fn group(&self, at: usize) -> Result<&str, Failure> {
        match self.get(at) {
            Value::String(given) => Ok(given),
            Value::Array(_) | Value::Struct(_) => Err(FaultCode::IncorrectParameters.into()),
            other => Err(about(FaultCode::BadName, other)),
        }
    }

    /// `int(x)`.
    pub(super) fn int(&self, at: usize) -> Result<i64, Failure> {
        match self.get(at) {
            Value::Int(int) => Ok(*int),
            Value::Bool(bool) => Ok(i64::from(*bool)),
            // Saturates, past what any file's size can be.
            Value::Double(double) if double.is_finite() => Ok(*double as i64),
            Value::String(string) => integer(string).map_err(Failure::Unexpected),
            Value::Double(double) => Err(Failure::Unexpected(format!("no integer: {double}"))),
            Value::DateTime(_) | Value::Base64(_) | Value::Array(_) | Value::Struct(_) | Value::Nil => {
                Err(FaultCode::IncorrectParameters.into())
            }
        }
    }

    /// `bool(x)`, and `default` where nothing was given.
    pub(super) fn flag(&self, at: usize, default: bool) -> bool {
        self.0.get(at).map_or(default, is_true)
    }
}

/// A name as it was given, and what it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name<'a> {
    pub(super) given: &'a str,
    pub(super) group: &'a str,
    /// `None` for all of the group.
    pub(super) process: Option<&'a str>,
}

impl Name<'_> {
    fn split(given: &str) -> Name<'_> {
        match given.split_once(':') {
            Some((group, "" | "*")) => Name { given, group, process: None },
            Some((group, process)) => Name { given, group, process: Some(process) },
            None => Name { given, group: given, process: Some(given) },
        }
    }

    pub(super) fn is_bad(&self) -> Failure {
        Fault::with(FaultCode::BadName, self.given).into()
    }
}

/// A fault with a parameter in its text.
pub(super) fn about(code: FaultCode, value: &Value) -> Failure {
    match value {
        Value::Nil => code.into(),
        value => Fault::with(code, text(value)).into(),
    }
}

/// `str(x)`.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(string) => string.clone(),
        Value::Int(int) => int.to_string(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Double(double) => format!("{double:?}"),
        Value::DateTime(moment) => moment.clone(),
        Value::Base64(bytes) => repr(&String::from_utf8_lossy(bytes)),
        Value::Nil => "None".to_owned(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(nested).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Struct(members) => {
            let members: Vec<String> =
                members.iter().map(|(name, value)| format!("{}: {}", repr(name), nested(value))).collect();
            format!("{{{}}}", members.join(", "))
        }
    }
}

fn nested(value: &Value) -> String {
    match value {
        Value::String(string) => repr(string),
        value => text(value),
    }
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Int(int) => *int != 0,
        Value::Bool(bool) => *bool,
        Value::String(string) => !string.is_empty(),
        Value::Double(double) => *double != 0.0,
        Value::DateTime(_) => true,
        Value::Base64(bytes) => !bytes.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Struct(members) => !members.is_empty(),
        Value::Nil => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(value: impl Into<Value>) -> Args {
        Args::new(vec![value.into()])
    }

    #[test]
    fn integers_come_in_many_forms() {
        assert_eq!(one(4).int(0).unwrap(), 4);
        assert_eq!(one(true).int(0).unwrap(), 1);
        assert_eq!(one(" -1_0 ").int(0).unwrap(), -10);
        assert_eq!(Args::new(vec![Value::Double(-4.9)]).int(0).unwrap(), -4);
        assert_eq!(Args::new(vec![Value::Double(1e300)]).int(0).unwrap(), i64::MAX);
        assert!(matches!(one("x").int(0), Err(Failure::Unexpected(_))));
        assert!(matches!(Args::new(vec![Value::Double(f64::NAN)]).int(0), Err(Failure::Unexpected(_))));
        assert!(matches!(one(Vec::new()).int(0), Err(Failure::Fault(fault)) if fault.code == 2));
    }

    #[test]
    fn everything_is_true_or_false() {
        let is = |value: Value| Args::new(vec![value]).flag(0, true);
        assert!(is(1.into()) && is("0".into()) && is(Value::Double(0.5)) && is(vec![0.into()].into()));
        assert!(!is(0.into()) && !is("".into()) && !is(Value::Nil) && !is(Vec::new().into()));
        assert!(Args::new(Vec::new()).flag(0, true));
    }

    #[test]
    fn names_are_split_at_their_first_colon() {
        let split = |given: &'static str| {
            let name = Name::split(given);
            (name.group, name.process)
        };
        assert_eq!(split("web"), ("web", Some("web")));
        assert_eq!(split("g:p:q"), ("g", Some("p:q")));
        assert_eq!(split("g:*"), ("g", None));
        assert_eq!(split("g:"), ("g", None));
        assert_eq!(split(":x"), ("", Some("x")));
    }

    #[test]
    fn what_is_no_group_is_named_in_pythons_words() {
        let fault = |value: Value| match Args::new(vec![value]).group(0) {
            Err(Failure::Fault(fault)) => fault.text,
            other => panic!("{other:?}"),
        };
        assert_eq!(fault(5.into()), "BAD_NAME: 5");
        assert_eq!(fault(true.into()), "BAD_NAME: True");
        assert_eq!(fault(Value::Double(1.5)), "BAD_NAME: 1.5");
        assert_eq!(fault(Value::Nil), "BAD_NAME");
        assert_eq!(fault(vec![1.into()].into()), "INCORRECT_PARAMETERS");
        assert_eq!(
            text(&vec![1.into(), "a".into(), Value::Double(2.5), true.into()].into()),
            "[1, 'a', 2.5, True]"
        );
        assert_eq!(text(&Value::record([("a", Value::from(1))])), "{'a': 1}");
    }
}
