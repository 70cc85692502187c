//! `start`, `stop`, `restart` and `signal`: names in, one line per process out.

use fleetvisor_model::name::ProcessName;
use fleetvisor_proto::fault::{Fault, FaultCode};
use fleetvisor_proto::xmlrpc::Value;

use super::name::{Named, int, process_name, records, text};
use crate::local::exit;
use crate::local::failure::Failure;
use crate::local::session::Session;
use crate::local::verb::Verb;

/// What is done to processes; how each is called and worded differs in small ways that scripts rely on.
#[derive(Clone, Copy)]
enum Action<'a> {
    Start,
    Stop,
    Signal(&'a str),
}

pub(in crate::local) fn start(session: &mut Session, arg: &str) -> Result<(), Failure> {
    if !session.upcheck()? {
        return Ok(());
    }
    if arg.is_empty() {
        session.complain("Error: start requires a process name", Verb::Start, exit::INVALID_ARGS);
        return Ok(());
    }
    each(session, arg.split_whitespace(), Action::Start)
}

pub(in crate::local) fn stop(session: &mut Session, arg: &str) -> Result<(), Failure> {
    if !session.upcheck()? {
        return Ok(());
    }
    if arg.is_empty() {
        session.complain("Error: stop requires a process name", Verb::Stop, exit::GENERIC);
        return Ok(());
    }
    each(session, arg.split_whitespace(), Action::Stop)
}

pub(in crate::local) fn restart(session: &mut Session, arg: &str) -> Result<(), Failure> {
    if !session.upcheck()? {
        return Ok(());
    }
    if arg.is_empty() {
        session.complain("Error: restart requires a process name", Verb::Restart, exit::GENERIC);
        return Ok(());
    }
    stop(session, arg)?;
    start(session, arg)
}

pub(in crate::local) fn signal(session: &mut Session, arg: &str) -> Result<(), Failure> {
    if !session.upcheck()? {
        return Ok(());
    }
    match arg.split_once(char::is_whitespace) {
        Some((signal, names)) => each(session, names.split_whitespace(), Action::Signal(signal)),
        None => {
            let message = "Error: signal requires a signal name and a process name";
            session.complain(message, Verb::Signal, exit::GENERIC);
            Ok(())
        }
    }
}

fn each<'a>(
    session: &mut Session,
    names: impl Iterator<Item = &'a str>,
    action: Action<'_>,
) -> Result<(), Failure> {
    let names: Vec<&str> = names.collect();
    if names.contains(&"all") {
        let results = session.call(action.all(), &action.params(None))?;
        return show(session, &results, action);
    }
    for name in names {
        match Named::parse(name) {
            Named::Group(group) => match session.call(action.group(), &action.params(Some(&group))) {
                Ok(results) => show(session, &results, action)?,
                Err(Failure::Fault(fault)) if fault.known() == Some(FaultCode::BadName) => {
                    session.out.line(&format!("{group}: ERROR (no such group)"));
                    session.exitstatus = action.no_such_group();
                }
                Err(failure) => return Err(failure),
            },
            Named::Process(process) => match session.call(action.process(), &action.params(Some(name))) {
                Ok(_) => session.out.line(&format!("{process}: {}", action.done())),
                Err(Failure::Fault(fault)) => tell(session, &process, &fault, action)?,
                Err(failure) => return Err(failure),
            },
        }
    }
    Ok(())
}

/// The lines for what `startAllProcesses` and its like answer.
fn show(session: &mut Session, results: &Value, action: Action<'_>) -> Result<(), Failure> {
    for result in records(results)? {
        let outcome = Fault { code: int(result, "status")?, text: text(result, "description")? };
        tell(session, &process_name(result)?, &outcome, action)?;
    }
    Ok(())
}

fn tell(
    session: &mut Session,
    name: &ProcessName,
    outcome: &Fault,
    action: Action<'_>,
) -> Result<(), Failure> {
    let line = action.line(name, outcome)?;
    session.out.line(&line);
    session.note(outcome.code, action.not_minded());
    Ok(())
}

impl Action<'_> {
    fn all(self) -> &'static str {
        match self {
            Action::Start => "startAllProcesses",
            Action::Stop => "stopAllProcesses",
            Action::Signal(_) => "signalAllProcesses",
        }
    }

    fn group(self) -> &'static str {
        match self {
            Action::Start => "startProcessGroup",
            Action::Stop => "stopProcessGroup",
            Action::Signal(_) => "signalProcessGroup",
        }
    }

    fn process(self) -> &'static str {
        match self {
            Action::Start => "startProcess",
            Action::Stop => "stopProcess",
            Action::Signal(_) => "signalProcess",
        }
    }

    fn params(self, name: Option<&str>) -> Vec<Value> {
        let signal = match self {
            Action::Start | Action::Stop => None,
            Action::Signal(signal) => Some(signal),
        };
        name.into_iter().chain(signal).map(Value::from).collect()
    }

    fn done(self) -> &'static str {
        match self {
            Action::Start => "started",
            Action::Stop => "stopped",
            Action::Signal(_) => "signalled",
        }
    }

    fn no_such_group(self) -> i32 {
        match self {
            Action::Start => exit::INVALID_ARGS,
            Action::Stop | Action::Signal(_) => exit::GENERIC,
        }
    }

    /// What is as good as success.
    fn not_minded(self) -> Option<FaultCode> {
        match self {
            Action::Start => Some(FaultCode::AlreadyStarted),
            Action::Stop => Some(FaultCode::NotRunning),
            Action::Signal(_) => None,
        }
    }

    /// The line for an outcome. One that the action cannot have is a failure.
    fn line(self, name: &ProcessName, outcome: &Fault) -> Result<String, Failure> {
        let known = outcome.known();
        let reason = match (self, known) {
            (_, Some(FaultCode::Success)) => return Ok(format!("{name}: {}", self.done())),
            (_, Some(FaultCode::BadName)) => "no such process",
            (Action::Start, Some(FaultCode::NoFile)) => "no such file",
            (Action::Start, Some(FaultCode::NotExecutable)) => "file is not executable",
            (Action::Start, Some(FaultCode::AlreadyStarted)) => "already started",
            (Action::Start, Some(FaultCode::SpawnError)) => "spawn error",
            (Action::Start, Some(FaultCode::AbnormalTermination)) => "abnormal termination",
            (Action::Stop | Action::Signal(_), Some(FaultCode::BadSignal)) => "bad signal name",
            (Action::Stop | Action::Signal(_), Some(FaultCode::NotRunning)) => "not running",
            (Action::Stop | Action::Signal(_), Some(FaultCode::Failed)) => return Ok(outcome.text.clone()),
            // Supervisor has no words for this one, as its daemon never answers it here.
            (Action::Start, Some(FaultCode::Failed)) => outcome.text.trim_start_matches("FAILED: "),
            (Action::Start | Action::Stop | Action::Signal(_), _) => {
                return Err(Failure::Unusable(format!("Unknown result code {} for {name}", outcome.code)));
            }
        };
        Ok(format!("{name}: ERROR ({reason})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(action: Action<'_>, code: FaultCode) -> String {
        match action.line(&ProcessName::new("web", "web_00"), &Fault::with(code, "why")) {
            Ok(line) => line,
            Err(failure) => failure.to_string(),
        }
    }

    #[test]
    fn each_outcome_of_a_start_has_its_words() {
        for (code, text) in [
            (FaultCode::Success, "web:web_00: started"),
            (FaultCode::BadName, "web:web_00: ERROR (no such process)"),
            (FaultCode::NoFile, "web:web_00: ERROR (no such file)"),
            (FaultCode::NotExecutable, "web:web_00: ERROR (file is not executable)"),
            (FaultCode::AlreadyStarted, "web:web_00: ERROR (already started)"),
            (FaultCode::SpawnError, "web:web_00: ERROR (spawn error)"),
            (FaultCode::AbnormalTermination, "web:web_00: ERROR (abnormal termination)"),
            (FaultCode::Failed, "web:web_00: ERROR (why)"),
            (FaultCode::ShutdownState, "Unknown result code 6 for web:web_00"),
        ] {
            assert_eq!(line(Action::Start, code), text);
        }
    }

    #[test]
    fn each_outcome_of_a_stop_or_signal_has_its_words() {
        assert_eq!(line(Action::Stop, FaultCode::Success), "web:web_00: stopped");
        assert_eq!(line(Action::Stop, FaultCode::NotRunning), "web:web_00: ERROR (not running)");
        assert_eq!(line(Action::Stop, FaultCode::Failed), "FAILED: why");
        assert_eq!(line(Action::Signal("HUP"), FaultCode::Success), "web:web_00: signalled");
        assert_eq!(line(Action::Signal("X"), FaultCode::BadSignal), "web:web_00: ERROR (bad signal name)");
        assert_eq!(line(Action::Signal("X"), FaultCode::NoFile), "Unknown result code 20 for web:web_00");
    }

    #[test]
    fn the_signal_is_the_last_parameter() {
        assert_eq!(Action::Signal("HUP").params(Some("web")), [Value::from("web"), Value::from("HUP")]);
        assert_eq!(Action::Signal("HUP").params(None), [Value::from("HUP")]);
        assert_eq!(Action::Start.params(Some("web")), [Value::from("web")]);
        assert!(Action::Stop.params(None).is_empty());
    }
}
