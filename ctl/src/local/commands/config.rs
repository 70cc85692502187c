//! `reread`, `update`, `add`, `remove` and `avail`: the configuration and what of it is active.

use std::collections::{BTreeMap, BTreeSet};

use fleetvisor_proto::fault::FaultCode;
use fleetvisor_proto::xmlrpc::Value;

use super::name::{bool, int, process_name, records, text};
use crate::local::exit;
use crate::local::failure::Failure;
use crate::local::session::Session;
use crate::local::verb::Verb;

/// Groups by what a reread found.
struct Changes {
    added: Vec<String>,
    changed: Vec<String>,
    removed: Vec<String>,
}

pub(in crate::local) fn reread(session: &mut Session, arg: &str) -> Result<(), Failure> {
    if !arg.is_empty() {
        session.complain("Error: reread accepts no arguments", Verb::Reread, exit::GENERIC);
        return Ok(());
    }
    let answer = match session.call("reloadConfig", &[]) {
        Ok(answer) => answer,
        Err(Failure::Fault(fault)) => {
            session.exitstatus = exit::GENERIC;
            match fault.known() {
                Some(FaultCode::ShutdownState) => session.out.line("ERROR: supervisor shutting down"),
                Some(FaultCode::CantReread) => session.out.line(&format!("ERROR: {}", fault.text)),
                Some(_) | None => return Err(Failure::Fault(fault)),
            }
            return Ok(());
        }
        Err(failure) => return Err(failure),
    };
    let Changes { added, changed, removed } = changes(&answer)?;
    let mut groups: BTreeMap<String, &str> = BTreeMap::new();
    groups.extend(added.into_iter().map(|group| (group, "available")));
    groups.extend(changed.into_iter().map(|group| (group, "changed")));
    groups.extend(removed.into_iter().map(|group| (group, "disappeared")));
    if groups.is_empty() {
        session.out.line("No config updates to processes");
    }
    for (group, what) in groups {
        session.out.line(&format!("{group}: {what}"));
    }
    Ok(())
}

pub(in crate::local) fn update(session: &mut Session, arg: &str) -> Result<(), Failure> {
    let answer = match session.call("reloadConfig", &[]) {
        Ok(answer) => answer,
        Err(Failure::Fault(fault)) if fault.known() == Some(FaultCode::ShutdownState) => {
            session.exitstatus = exit::GENERIC;
            session.out.line("ERROR: already shutting down");
            return Ok(());
        }
        Err(failure) => return Err(failure),
    };
    let Changes { added, changed, removed } = changes(&answer)?;
    let mut wanted: BTreeSet<&str> = arg.split_whitespace().collect();
    if wanted.contains("all") {
        wanted.clear();
    }
    if !wanted.is_empty() {
        complain_of_unknown(session, &wanted, &added)?;
    }
    let is_wanted = |group: &String| wanted.is_empty() || wanted.contains(group.as_str());
    for group in removed.iter().filter(|group| is_wanted(group)) {
        let results = session.call("stopProcessGroup", &[Value::from(group.as_str())])?;
        session.out.line(&format!("{group}: stopped"));
        let failed = FaultCode::Failed.code();
        let statuses = records(&results)?.iter().map(|result| int(result, "status"));
        if statuses.collect::<Result<Vec<i64>, Failure>>()?.contains(&failed) {
            session.out.line(&format!("{group}: has problems; not removing"));
            session.exitstatus = exit::GENERIC;
            continue;
        }
        session.call("removeProcessGroup", &[Value::from(group.as_str())])?;
        session.out.line(&format!("{group}: removed process group"));
    }
    for group in changed.iter().filter(|group| is_wanted(group)) {
        session.call("stopProcessGroup", &[Value::from(group.as_str())])?;
        session.out.line(&format!("{group}: stopped"));
        session.call("removeProcessGroup", &[Value::from(group.as_str())])?;
        session.call("addProcessGroup", &[Value::from(group.as_str())])?;
        session.out.line(&format!("{group}: updated process group"));
    }
    for group in added.iter().filter(|group| is_wanted(group)) {
        session.call("addProcessGroup", &[Value::from(group.as_str())])?;
        session.out.line(&format!("{group}: added process group"));
    }
    Ok(())
}

fn complain_of_unknown(
    session: &mut Session,
    wanted: &BTreeSet<&str>,
    added: &[String],
) -> Result<(), Failure> {
    let infos = session.call("getAllProcessInfo", &[])?;
    let mut known: BTreeSet<String> = added.iter().cloned().collect();
    for info in records(&infos)? {
        known.insert(text(info, "group")?);
    }
    for group in wanted.iter().filter(|group| !known.contains(**group)) {
        session.out.line(&format!("ERROR: no such group: {group}"));
        session.exitstatus = exit::GENERIC;
    }
    Ok(())
}

pub(in crate::local) fn add(session: &mut Session, arg: &str) -> Result<(), Failure> {
    for name in arg.split_whitespace() {
        match session.call("addProcessGroup", &[Value::from(name)]) {
            Ok(_) => session.out.line(&format!("{name}: added process group")),
            Err(Failure::Fault(fault)) => match fault.known() {
                Some(FaultCode::ShutdownState) => {
                    session.out.line("ERROR: shutting down");
                    session.exitstatus = exit::GENERIC;
                }
                Some(FaultCode::AlreadyAdded) => session.out.line("ERROR: process group already active"),
                Some(FaultCode::BadName) => {
                    session.out.line(&format!("ERROR: no such process/group: {name}"));
                    session.exitstatus = exit::GENERIC;
                }
                Some(_) | None => return Err(Failure::Fault(fault)),
            },
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

pub(in crate::local) fn remove(session: &mut Session, arg: &str) -> Result<(), Failure> {
    for name in arg.split_whitespace() {
        match session.call("removeProcessGroup", &[Value::from(name)]) {
            Ok(_) => session.out.line(&format!("{name}: removed process group")),
            Err(Failure::Fault(fault)) => {
                session.exitstatus = exit::GENERIC;
                match fault.known() {
                    Some(FaultCode::StillRunning) => {
                        session.out.line(&format!("ERROR: process/group still running: {name}"));
                    }
                    Some(FaultCode::BadName) => {
                        session.out.line(&format!("ERROR: no such process/group: {name}"));
                    }
                    Some(_) | None => return Err(Failure::Fault(fault)),
                }
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

pub(in crate::local) fn avail(session: &mut Session, arg: &str) -> Result<(), Failure> {
    if !arg.is_empty() {
        session.complain("Error: avail accepts no arguments", Verb::Avail, exit::GENERIC);
        return Ok(());
    }
    match session.call("getAllConfigInfo", &[]) {
        Ok(configs) => {
            let programs = records(&configs)?.iter().map(config_json).collect::<Result<Vec<_>, Failure>>()?;
            session.out.document(&serde_json::json!({ "programs": programs }));
            for config in records(&configs)? {
                session.out.row(&config_line(config)?);
            }
            Ok(())
        }
        Err(Failure::Fault(fault)) if fault.known() == Some(FaultCode::ShutdownState) => {
            session.exitstatus = exit::GENERIC;
            session.out.line("ERROR: supervisor shutting down");
            Ok(())
        }
        Err(failure) => Err(failure),
    }
}

fn config_json(config: &Value) -> Result<serde_json::Value, Failure> {
    let name = process_name(config)?;
    Ok(serde_json::json!({
        "name": name.full(),
        "group": name.group,
        "process": name.process,
        "in_use": bool(config, "inuse")?,
        "autostart": bool(config, "autostart")?,
        "group_priority": int(config, "group_prio")?,
        "priority": int(config, "process_prio")?,
    }))
}

fn config_line(config: &Value) -> Result<String, Failure> {
    let name = process_name(config)?.to_string();
    let inuse = if bool(config, "inuse")? { "in use" } else { "avail" };
    let autostart = if bool(config, "autostart")? { "auto" } else { "manual" };
    let (group_prio, process_prio) = (int(config, "group_prio")?, int(config, "process_prio")?);
    Ok(format!("{name:<32} {inuse:<9} {autostart:<9} {group_prio}:{process_prio}"))
}

/// `reloadConfig` answers `[[added, changed, removed]]`.
fn changes(answer: &Value) -> Result<Changes, Failure> {
    let shape = || Failure::Shape("[[added, changed, removed]] was expected".to_owned());
    let names = |groups: &Value| -> Result<Vec<String>, Failure> {
        records(groups)?.iter().map(|name| name.as_str().map(str::to_owned).ok_or_else(shape)).collect()
    };
    match records(answer)?.first().map(records).transpose()? {
        Some([added, changed, removed]) => {
            Ok(Changes { added: names(added)?, changed: names(changed)?, removed: names(removed)? })
        }
        Some(_) | None => Err(shape()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_line_has_supervisors_columns() {
        let config = Value::record([
            ("group", Value::from("web")),
            ("name", Value::from("web_00")),
            ("inuse", Value::from(true)),
            ("autostart", Value::from(false)),
            ("group_prio", Value::from(999)),
            ("process_prio", Value::from(1)),
        ]);
        assert_eq!(
            config_line(&config).unwrap(),
            "web:web_00                       in use    manual    999:1"
        );
    }

    #[test]
    fn an_unexpected_answer_is_a_failure_not_a_panic() {
        for answer in [Value::Nil, Value::Array(vec![]), Value::Array(vec![Value::Array(vec![Value::Nil])])] {
            assert!(matches!(changes(&answer), Err(Failure::Shape(_))));
        }
    }
}
