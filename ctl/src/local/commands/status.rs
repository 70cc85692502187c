//! `status`: one line per process, aligned.

use fleetvisor_model::name::ProcessName;
use fleetvisor_model::state::ProcessState;
use fleetvisor_proto::fault::Fault;
use fleetvisor_proto::xmlrpc::Value;

use super::name::{Named, int, process_name, records, text};
use crate::local::exit;
use crate::local::failure::Failure;
use crate::local::session::Session;
use crate::table::status_line;

struct Row {
    name: ProcessName,
    state: ProcessState,
    statename: String,
    description: String,
    /// Its place in the answer.
    at: usize,
}

pub(in crate::local) fn status(session: &mut Session, arg: &str) -> Result<(), Failure> {
    let Some(infos) = version_and_infos(session)? else {
        session.exitstatus = exit::STATUS_UNKNOWN;
        return Ok(());
    };
    let infos = records(&infos)?;
    let rows = infos.iter().enumerate().map(row).collect::<Result<Vec<Row>, Failure>>()?;
    let (shown, complaints) = select(&rows, arg);
    for complaint in &complaints {
        session.out.line(complaint);
        session.exitstatus = exit::STATUS_UNKNOWN;
    }
    if session.out.wants_documents() {
        let processes =
            shown.iter().map(|row| json(row, &infos[row.at])).collect::<Result<Vec<_>, Failure>>()?;
        session.out.document(&serde_json::json!({ "processes": processes }));
    }
    let width = shown.iter().map(|row| row.name.to_string().chars().count()).max().unwrap_or(0);
    for row in &shown {
        session.out.row(&status_line(&row.name.to_string(), width, &row.statename, &row.description));
    }
    if shown.iter().any(|row| row.state.is_stopped()) {
        session.exitstatus = exit::STATUS_NOT_RUNNING;
    }
    Ok(())
}

/// Checks the server's version and asks for all processes in a single call; `None` when the check failed and
/// that was said.
fn version_and_infos(session: &mut Session) -> Result<Option<Value>, Failure> {
    let call = |method: &str| {
        Value::record([("methodName", Value::from(method)), ("params", Value::Array(Vec::new()))])
    };
    let calls = Value::Array(vec![call("supervisor.getVersion"), call("supervisor.getAllProcessInfo")]);
    session.flush()?;
    let answer = match session.server.call("system.multicall", &[calls]) {
        Ok(answer) => answer,
        Err(failure) => return session.checked(Err(failure)).map(|_| None),
    };
    let Value::Array(results) = answer else {
        return Err(Failure::Shape("an array was expected".to_owned()));
    };
    let Ok([version, infos]) = <[Value; 2]>::try_from(results) else {
        return Err(Failure::Shape("two results were expected".to_owned()));
    };
    if !session.checked(result(version))? {
        return Ok(None);
    }
    result(infos).map(Some)
}

/// One result of a multicall: the value itself, or a struct that says it is a fault.
fn result(value: Value) -> Result<Value, Failure> {
    match (value.get("faultCode").and_then(Value::as_int), value.get("faultString").and_then(Value::as_str)) {
        (Some(code), Some(text)) => Err(Failure::Fault(Fault { code, text: text.to_owned() })),
        (None, _) | (_, None) => Ok(value),
    }
}

/// As the fleet's `status` has a process, without a host.
fn json(row: &Row, info: &Value) -> Result<serde_json::Value, Failure> {
    let pid = int(info, "pid")?;
    let uptime = int(info, "now")? - int(info, "start")?;
    Ok(serde_json::json!({
        "name": row.name.full(),
        "group": row.name.group,
        "process": row.name.process,
        "state": row.statename,
        "description": row.description,
        "pid": (pid != 0).then_some(pid),
        "uptime_seconds": (row.state == ProcessState::Running).then_some(uptime.max(0)),
        "exitstatus": int(info, "exitstatus")?,
        "spawnerr": text(info, "spawnerr")?,
    }))
}

fn row((at, info): (usize, &Value)) -> Result<Row, Failure> {
    let code = i32::try_from(int(info, "state")?).unwrap_or(ProcessState::Unknown.code());
    Ok(Row {
        name: process_name(info)?,
        state: ProcessState::from_code(code),
        statename: text(info, "statename")?,
        description: text(info, "description")?,
        at,
    })
}

/// The rows that are asked for, in the order asked, and a line for each name that fits none.
fn select<'a>(rows: &'a [Row], arg: &str) -> (Vec<&'a Row>, Vec<String>) {
    let names: Vec<&str> = arg.split_whitespace().collect();
    if names.is_empty() || names.contains(&"all") {
        return (rows.iter().collect(), Vec::new());
    }
    let mut shown = Vec::new();
    let mut complaints = Vec::new();
    for name in names {
        let named = Named::parse(name);
        let before = shown.len();
        shown.extend(rows.iter().filter(|row| match &named {
            Named::Group(group) => row.name.group == *group,
            Named::Process(process) => row.name == *process,
        }));
        if shown.len() == before {
            complaints.push(match named {
                Named::Group(group) => format!("{group}: ERROR (no such group)"),
                Named::Process(_) => format!("{name}: ERROR (no such process)"),
            });
        }
    }
    (shown, complaints)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        [("cat", "cat"), ("g", "x"), ("g", "y")]
            .map(|(group, name)| Row {
                name: ProcessName::new(group, name),
                state: ProcessState::Running,
                statename: "RUNNING".to_owned(),
                description: String::new(),
                at: 0,
            })
            .into()
    }

    fn selected(arg: &str) -> (Vec<String>, Vec<String>) {
        let rows = rows();
        let (shown, complaints) = select(&rows, arg);
        (shown.iter().map(|row| row.name.to_string()).collect(), complaints)
    }

    #[test]
    fn rows_come_in_the_order_asked() {
        assert_eq!(selected("").0, ["cat", "g:x", "g:y"]);
        assert_eq!(selected("nosuch all").0, ["cat", "g:x", "g:y"]);
        assert_eq!(selected("g:y cat g:*").0, ["g:y", "cat", "g:x", "g:y"]);
    }

    #[test]
    fn names_that_fit_nothing_are_said() {
        let (shown, complaints) = selected("g nosuch:* cat g:z");
        assert_eq!(shown, ["cat"]);
        assert_eq!(
            complaints,
            ["g: ERROR (no such process)", "nosuch: ERROR (no such group)", "g:z: ERROR (no such process)"]
        );
    }
}
