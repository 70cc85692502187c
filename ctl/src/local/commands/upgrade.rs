//! `upgrade`: another release of supervisord in place of the one that runs. Supervisor has no such command.

use std::time::{Duration, Instant};

use fleetvisor_proto::fault::{Fault, FaultCode};
use fleetvisor_proto::xmlrpc::Value;

use super::name::{int, text};
use crate::local::exit;
use crate::local::failure::Failure;
use crate::local::session::Session;
use crate::local::verb::Verb;

/// For the new agent, or the old one once more, to answer. The daemon itself gives up sooner.
const LIMIT: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_millis(50);

pub(in crate::local) fn upgrade(session: &mut Session, arg: &str) -> Result<(), Failure> {
    if !arg.is_empty() {
        session.complain("Error: upgrade accepts no arguments", Verb::Upgrade, exit::GENERIC);
        return Ok(());
    }
    if !session.upcheck()? {
        return Ok(());
    }
    session.flush()?;
    let outcome = match session.server.call("fleetvisor.upgrade", &[]) {
        Ok(begun) if text(&begun, "version")?.is_empty() => {
            let (version, path) = (text(&begun, "from_version")?, text(&begun, "executable")?);
            Ok(format!("supervisord {version} runs {path} already"))
        }
        Ok(begun) => wait(session, &begun)?,
        Err(Failure::Fault(fault)) => Err(refused(&fault)),
        Err(failure @ (Failure::Closed | Failure::Http(_))) => {
            Err(format!("the daemon did not answer ({failure}); see its log for what became of it"))
        }
        Err(failure) => return Err(failure),
    };
    match outcome {
        Ok(line) => session.out.line(&line),
        Err(why) => {
            session.out.line(&format!("ERROR: {why}"));
            session.exitstatus = exit::GENERIC;
        }
    }
    Ok(())
}

/// Until another agent than the one that has left answers: what it says of the upgrade.
fn wait(session: &mut Session, begun: &Value) -> Result<Result<String, String>, Failure> {
    let old = int(begun, "pid")?;
    let deadline = Instant::now() + LIMIT;
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        session.server.disconnect();
        match session.server.call_within("fleetvisor.getAgentInfo", &[], left) {
            Some(Ok(info)) if int(&info, "pid")? != old => return outcome(&info, old),
            Some(Err(failure @ Failure::Interrupted)) => return Err(failure),
            // The old one still, on its way out, or nobody for a moment.
            Some(Ok(_) | Err(_)) => std::thread::sleep(PAUSE),
            None => break,
        }
    }
    let seconds = LIMIT.as_secs();
    Ok(Err(format!(
        "no agent has answered for {seconds} s; programs go on, see what supervisord says on stderr"
    )))
}

fn outcome(info: &Value, old: i64) -> Result<Result<String, String>, Failure> {
    let upgrades = info.get("upgrades").and_then(Value::as_array).unwrap_or_default();
    let Some(upgrade) =
        upgrades.first().filter(|upgrade| int(upgrade, "from_pid").is_ok_and(|pid| pid == old))
    else {
        return Ok(Err("another agent answers, and it knows of no upgrade; see the daemon's log".to_owned()));
    };
    let (from, error) = (text(upgrade, "from_version")?, text(upgrade, "error")?);
    if !error.is_empty() {
        return Ok(Err(format!("not upgraded, supervisord {from} goes on: {error}")));
    }
    let (version, pid) = (text(info, "version")?, int(info, "pid")?);
    Ok(Ok(format!("upgraded from {from} (pid {old}) to {version} (pid {pid})")))
}

/// Why it goes on as it was.
fn refused(fault: &Fault) -> String {
    match fault.known() {
        Some(FaultCode::UnknownMethod) => {
            "this supervisord cannot be upgraded in place; it takes a restart".to_owned()
        }
        Some(FaultCode::ShutdownState) => "already shutting down".to_owned(),
        _ => {
            let why = fault.text.strip_prefix("FAILED: ").unwrap_or(&fault.text);
            format!("not upgraded, supervisord goes on as it was: {why}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(upgrades: Vec<Value>) -> Value {
        Value::record([("version", Value::from("0.2.0")), ("pid", 8.into()), ("upgrades", upgrades.into())])
    }

    fn upgrade(error: &str) -> Value {
        Value::record([
            ("from_pid", Value::from(7)),
            ("from_version", "0.1.0".into()),
            ("version", "0.2.0".into()),
            ("error", error.into()),
        ])
    }

    #[test]
    fn what_the_agent_says_of_this_upgrade_counts_and_of_no_other() {
        let said = |info: &Value, old| outcome(info, old).unwrap();
        let good = info(vec![upgrade("")]);
        assert_eq!(said(&good, 7), Ok("upgraded from 0.1.0 (pid 7) to 0.2.0 (pid 8)".to_owned()));
        assert!(said(&good, 6).unwrap_err().contains("knows of no upgrade"));
        assert!(said(&info(Vec::new()), 7).unwrap_err().contains("knows of no upgrade"));
        let why = said(&info(vec![upgrade("it broke")]), 7);
        assert_eq!(why, Err("not upgraded, supervisord 0.1.0 goes on: it broke".to_owned()));
    }

    #[test]
    fn refusals_are_told_without_the_faults_name() {
        let fault = |code, text: &str| refused(&Fault { code, text: text.to_owned() });
        let why = fault(30, "FAILED: /usr/bin/supervisord is not executable");
        assert!(why.ends_with("goes on as it was: /usr/bin/supervisord is not executable"), "{why}");
        assert!(fault(1, "UNKNOWN_METHOD").contains("restart"));
    }
}
