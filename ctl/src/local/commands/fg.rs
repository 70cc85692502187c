//! `fg`: a process's output on the terminal and the terminal's lines on its stdin, until Ctrl-C.

use fleetvisor_model::state::ProcessState;
use fleetvisor_proto::fault::FaultCode;
use fleetvisor_proto::xmlrpc::Value;
use hyper::body::Bytes;

use super::logs::not_followed;
use super::name::int;
use crate::local::exit;
use crate::local::failure::{Failure, fault_text};
use crate::local::input::{Awaited, Line};
use crate::local::output::Output;
use crate::local::server::{self, Address, Follow};
use crate::local::session::Session;
use crate::local::verb::Verb;

pub(in crate::local) fn fg(session: &mut Session, arg: &str) -> Result<(), Failure> {
    if !session.upcheck()? {
        return Ok(());
    }
    let names: Vec<&str> = arg.split_whitespace().collect();
    let name = match names.as_slice() {
        [name] => *name,
        [] => {
            session.complain("ERROR: no process name supplied", Verb::Fg, exit::GENERIC);
            return Ok(());
        }
        _ => {
            session.out.line("ERROR: too many process names supplied");
            session.exitstatus = exit::GENERIC;
            return Ok(());
        }
    };
    let info = match session.call("getProcessInfo", &[Value::from(name)]) {
        Ok(info) => info,
        Err(Failure::Fault(fault)) => {
            if fault.known() == Some(FaultCode::BadName) {
                session.out.line("ERROR: bad process name supplied");
                session.exitstatus = exit::GENERIC;
            } else {
                session.out.line(&format!("ERROR: {}", fault_text(&fault)));
            }
            return Ok(());
        }
        Err(failure) => return Err(failure),
    };
    if !is_running(&info)? {
        session.out.line("ERROR: process not running");
        session.exitstatus = exit::GENERIC;
        return Ok(());
    }
    session.out.line("==> Press Ctrl-C to exit <==");
    session.flush()?;
    let mut awaited = Awaited::start(std::mem::take(&mut session.input)).map_err(Failure::Output)?;
    let Session { server, out, input, .. } = session;
    let address = server.address.clone();
    server.block_on(async {
        let joined = tokio::select! {
            joined = join(&address, name, out, &mut awaited) => joined,
            _ = tokio::signal::ctrl_c() => Ok(()),
        };
        *input = awaited.give_up().await;
        joined
    })?;
    session.out.line("Exiting foreground");
    Ok(())
}

fn is_running(info: &Value) -> Result<bool, Failure> {
    Ok(int(info, "state")? == i64::from(ProcessState::Running.code()))
}

/// Passes lines and output to and fro until the process or the input ends.
async fn join(address: &Address, name: &str, out: &mut Output, awaited: &mut Awaited) -> Result<(), Failure> {
    let mut stdout = open(address, &format!("/logtail/{name}/stdout")).await;
    let mut stderr = open(address, &format!("/logtail/{name}/stderr")).await;
    let mut kept = None;
    loop {
        let line = tokio::select! {
            chunk = next(&mut stdout) => {
                out.bytes(&chunk);
                out.flush().map_err(Failure::Output)?;
                continue;
            }
            chunk = next(&mut stderr) => {
                out.bytes(&chunk);
                out.flush().map_err(Failure::Output)?;
                continue;
            }
            line = awaited.line() => line,
        };
        let Ok(Line::Text(mut line)) = line else {
            return Ok(());
        };
        line.push('\n');
        let params = [Value::from(name), Value::from(line)];
        match server::call(address, &mut kept, "supervisor.sendProcessStdin", &params).await {
            Ok(_) => {}
            Err(Failure::Fault(fault)) => {
                if fault.known() == Some(FaultCode::NotRunning) {
                    out.line("Process got killed");
                } else {
                    out.line(&format!("ERROR: {}", fault_text(&fault)));
                }
                return Ok(());
            }
            Err(failure) => return Err(failure),
        }
        let info =
            server::call(address, &mut kept, "supervisor.getProcessInfo", &[Value::from(name)]).await?;
        if !is_running(&info)? {
            out.line("Process got killed");
            return Ok(());
        }
        awaited.again().map_err(Failure::Output)?;
    }
}

/// A stream that can't be opened is said and left out; the other one goes on.
async fn open(address: &Address, path: &str) -> Option<Follow> {
    match Follow::open(address, path).await {
        Ok(follow) => Some(follow),
        Err(failure) => {
            eprintln!("{}", not_followed(&address.serverurl, path, &failure));
            None
        }
    }
}

/// The next bytes of a stream; never, once it has ended.
async fn next(stream: &mut Option<Follow>) -> Bytes {
    loop {
        let Some(follow) = stream else {
            return std::future::pending().await;
        };
        match follow.chunk().await {
            Some(chunk) => return chunk,
            None => *stream = None,
        }
    }
}
