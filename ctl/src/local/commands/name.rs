//! Names as `supervisorctl` takes them, and the members of what the server answers.

use fleetvisor_model::name::ProcessName;
use fleetvisor_proto::xmlrpc::Value;

use crate::local::failure::Failure;

/// A name from a command line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// `name`, `group:name`
    Process(ProcessName),
    /// `group:`, `group:*`
    Group(String),
}

impl Named {
    pub(super) fn parse(name: &str) -> Named {
        match name.split_once(':') {
            Some((group, "" | "*")) => Named::Group(group.to_owned()),
            Some((group, process)) => Named::Process(ProcessName::new(group, process)),
            None => Named::Process(ProcessName::new(name, name)),
        }
    }
}

pub(super) fn text(record: &Value, member: &str) -> Result<String, Failure> {
    record.get(member).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| missing(member))
}

pub(super) fn int(record: &Value, member: &str) -> Result<i64, Failure> {
    record.get(member).and_then(Value::as_int).ok_or_else(|| missing(member))
}

pub(super) fn bool(record: &Value, member: &str) -> Result<bool, Failure> {
    record.get(member).and_then(Value::as_bool).ok_or_else(|| missing(member))
}

pub(super) fn records(answer: &Value) -> Result<&[Value], Failure> {
    answer.as_array().ok_or_else(|| Failure::Shape("an array was expected".to_owned()))
}

pub(super) fn process_name(record: &Value) -> Result<ProcessName, Failure> {
    Ok(ProcessName::new(text(record, "group")?, text(record, "name")?))
}

fn missing(member: &str) -> Failure {
    Failure::Shape(format!("'{member}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_at_the_first_colon() {
        let process = |group: &str, name: &str| Named::Process(ProcessName::new(group, name));
        assert_eq!(Named::parse("web"), process("web", "web"));
        assert_eq!(Named::parse("web:a"), process("web", "a"));
        assert_eq!(Named::parse("web:a:b"), process("web", "a:b"));
        assert_eq!(Named::parse("web:"), Named::Group("web".to_owned()));
        assert_eq!(Named::parse("web:*"), Named::Group("web".to_owned()));
    }
}
