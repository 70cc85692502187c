//! `pid`, `version`, `shutdown`, `reload` and `open`: the daemon itself.

use fleetvisor_proto::fault::FaultCode;
use fleetvisor_proto::xmlrpc::Value;
use nix::errno::Errno;
use serde_json::json;

use super::name::{int, process_name, records};
use super::status;
use crate::local::exit;
use crate::local::failure::Failure;
use crate::local::session::Session;
use crate::local::verb::Verb;

pub(in crate::local) fn pid(session: &mut Session, arg: &str) -> Result<(), Failure> {
    if !session.upcheck()? {
        return Ok(());
    }
    let names: Vec<&str> = arg.split_whitespace().collect();
    if names.is_empty() {
        let pid = session.call("getPID", &[])?;
        let pid = pid.as_int().ok_or_else(|| Failure::Shape("a pid was expected".to_owned()))?;
        session.out.row(&pid.to_string());
        session.out.document(&json!({ "supervisord": pid }));
        return Ok(());
    }
    let mut processes = Vec::new();
    let mut show = |session: &mut Session, info: &Value| -> Result<i64, Failure> {
        let (name, pid) = (process_name(info)?, int(info, "pid")?);
        session.out.row(&pid.to_string());
        processes.push(json!({ "name": name.full(), "pid": (pid != 0).then_some(pid) }));
        Ok(pid)
    };
    if names.contains(&"all") {
        let infos = session.call("getAllProcessInfo", &[])?;
        for info in records(&infos)? {
            show(session, info)?;
        }
        session.out.document(&json!({ "processes": processes }));
        return Ok(());
    }
    for name in names {
        match session.call("getProcessInfo", &[Value::from(name)]) {
            Ok(info) => {
                if show(session, &info)? == 0 {
                    session.exitstatus = exit::NOT_RUNNING;
                }
            }
            Err(Failure::Fault(fault)) if fault.known() == Some(FaultCode::BadName) => {
                session.exitstatus = exit::GENERIC;
                session.out.line(&format!("No such process {name}"));
            }
            Err(failure) => return Err(failure),
        }
    }
    session.out.document(&json!({ "processes": processes }));
    Ok(())
}

pub(in crate::local) fn version(session: &mut Session, arg: &str) -> Result<(), Failure> {
    if !arg.is_empty() {
        session.complain("Error: version accepts no arguments", Verb::Version, exit::GENERIC);
        return Ok(());
    }
    if !session.upcheck()? {
        return Ok(());
    }
    let version = session.call("getSupervisorVersion", &[])?;
    session.out.line(version.as_str().unwrap_or_default());
    Ok(())
}

pub(in crate::local) fn shutdown(session: &mut Session, arg: &str) -> Result<(), Failure> {
    if !arg.is_empty() {
        session.complain("Error: shutdown accepts no arguments", Verb::Shutdown, exit::GENERIC);
        return Ok(());
    }
    if !is_meant(session, "Really shut the remote supervisord process down y/N? ")? {
        return Ok(());
    }
    let serverurl = session.server.address.serverurl.clone();
    match session.call("shutdown", &[]) {
        Ok(_) => session.out.line("Shut down"),
        Err(Failure::Fault(fault)) if fault.known() == Some(FaultCode::ShutdownState) => {
            session.out.line("ERROR: already shutting down");
        }
        Err(failure) if failure.connect_errno() == Some(Errno::ECONNREFUSED as i32) => {
            session.exitstatus = exit::GENERIC;
            session.out.line(&format!("ERROR: {serverurl} refused connection (already shut down?)"));
        }
        Err(failure) if failure.connect_errno() == Some(Errno::ENOENT as i32) => {
            session.exitstatus = exit::GENERIC;
            session.out.line(&format!("ERROR: {serverurl} no such file (already shut down?)"));
        }
        Err(failure) => return Err(failure),
    }
    Ok(())
}

pub(in crate::local) fn reload(session: &mut Session, arg: &str) -> Result<(), Failure> {
    if !arg.is_empty() {
        session.complain("Error: reload accepts no arguments", Verb::Reload, exit::GENERIC);
        return Ok(());
    }
    if !is_meant(session, "Really restart the remote supervisord process y/N? ")? {
        return Ok(());
    }
    match session.call("restart", &[]) {
        Ok(_) => session.out.line("Restarted supervisord"),
        Err(Failure::Fault(fault)) if fault.known() == Some(FaultCode::ShutdownState) => {
            session.exitstatus = exit::GENERIC;
            session.out.line("ERROR: already shutting down");
        }
        Err(failure) => return Err(failure),
    }
    Ok(())
}

pub(in crate::local) fn open(session: &mut Session, arg: &str) -> Result<(), Failure> {
    let scheme = arg.split_once(':').map_or("", |(scheme, _)| scheme).to_ascii_lowercase();
    if !matches!(scheme.as_str(), "unix" | "http") {
        session.out.line("ERROR: url must be http:// or unix://");
        session.exitstatus = exit::GENERIC;
        return Ok(());
    }
    session.server.address.serverurl = arg.to_owned();
    session.server.disconnect();
    let before = session.exitstatus;
    status::status(session, "")?;
    session.exitstatus = before;
    Ok(())
}

/// A person at a shell is asked, a script is not.
fn is_meant(session: &mut Session, question: &str) -> Result<bool, Failure> {
    if !session.interactive {
        return Ok(true);
    }
    let answer = session.ask(question)?;
    Ok(answer.to_lowercase().starts_with('y'))
}
