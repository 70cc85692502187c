//! `tail`, `maintail` and `clear`.

use fleetvisor_proto::fault::{Fault, FaultCode};
use fleetvisor_proto::xmlrpc::Value;

use super::name::{Named, int, process_name, records};
use crate::local::exit;
use crate::local::failure::Failure;
use crate::local::repr::repr;
use crate::local::server::Follow;
use crate::local::session::Session;
use crate::local::verb::Verb;

/// Bytes shown when no number is given.
const DEFAULT_BYTES: i64 = 1600;

/// How much of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Amount {
    Last(i64),
    Follow,
}

#[derive(Debug, PartialEq, Eq)]
struct Tail {
    name: String,
    stderr: bool,
    amount: Amount,
}

/// Why the arguments of a tail are no good.
#[derive(Debug, PartialEq, Eq)]
enum Complaint {
    WithHelp(&'static str),
    Plain(String),
}

pub(in crate::local) fn tail(session: &mut Session, arg: &str) -> Result<(), Failure> {
    if !session.upcheck()? {
        return Ok(());
    }
    let Tail { name, stderr, amount } = match parse_tail(arg) {
        Ok(tail) => tail,
        Err(complaint) => {
            refuse(session, complaint, Verb::Tail);
            return Ok(());
        }
    };
    let Amount::Last(bytes) = amount else {
        let channel = if stderr { "stderr" } else { "stdout" };
        return follow(session, &format!("/logtail/{name}/{channel}"));
    };
    let method = if stderr { "readProcessStderrLog" } else { "readProcessStdoutLog" };
    let read = session.call(method, &[Value::from(name.as_str()), last(bytes), Value::Int(0)]);
    show_log(session, read, &name, |code| match code {
        FaultCode::NoFile => Some("no log file"),
        FaultCode::Failed => Some("unknown error reading log"),
        FaultCode::BadName => Some("no such process name"),
        _ => None,
    })
}

pub(in crate::local) fn maintail(session: &mut Session, arg: &str) -> Result<(), Failure> {
    if !session.upcheck()? {
        return Ok(());
    }
    let bytes = match parse_maintail(arg) {
        Ok(Amount::Last(bytes)) => bytes,
        Ok(Amount::Follow) => return follow(session, "/mainlogtail"),
        Err(complaint) => {
            refuse(session, complaint, Verb::Maintail);
            return Ok(());
        }
    };
    let read = session.call("readLog", &[last(bytes), Value::Int(0)]);
    show_log(session, read, "supervisord", |code| match code {
        FaultCode::NoFile => Some("no log file"),
        FaultCode::Failed => Some("unknown error reading log"),
        _ => None,
    })
}

pub(in crate::local) fn clear(session: &mut Session, arg: &str) -> Result<(), Failure> {
    if !session.upcheck()? {
        return Ok(());
    }
    let names: Vec<&str> = arg.split_whitespace().collect();
    if names.is_empty() {
        session.complain("Error: clear requires a process name", Verb::Clear, exit::GENERIC);
        return Ok(());
    }
    if names.contains(&"all") {
        let results = session.call("clearAllProcessLogs", &[])?;
        for result in records(&results)? {
            let code = int(result, "status")?;
            let line = cleared(&process_name(result)?.to_string(), code)?;
            session.out.line(&line);
            session.note(code, None);
        }
        return Ok(());
    }
    for name in names {
        let shown = match Named::parse(name) {
            Named::Process(process) => process.to_string(),
            // Supervisor's wording of a group here shows that it has no process part.
            Named::Group(group) => format!("{group}:None"),
        };
        match session.call("clearProcessLogs", &[Value::from(name)]) {
            Ok(_) => session.out.line(&format!("{shown}: cleared")),
            Err(Failure::Fault(fault)) => {
                let line = cleared(&shown, fault.code)?;
                session.out.line(&line);
                session.note(fault.code, None);
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

fn cleared(name: &str, code: i64) -> Result<String, Failure> {
    match FaultCode::from_code(code) {
        Some(FaultCode::Success) => Ok(format!("{name}: cleared")),
        Some(FaultCode::BadName) => Ok(format!("{name}: ERROR (no such process)")),
        Some(FaultCode::Failed) => Ok(format!("{name}: ERROR (failed)")),
        Some(_) | None => Err(Failure::Unusable(format!("Unknown result code {code} for {name}"))),
    }
}

fn parse_tail(arg: &str) -> Result<Tail, Complaint> {
    let mut words: Vec<&str> = arg.split_whitespace().collect();
    match words.len() {
        0 => return Err(Complaint::WithHelp("Error: too few arguments")),
        1..=3 => {}
        _ => return Err(Complaint::WithHelp("Error: too many arguments")),
    }
    let modifier = words[0].starts_with('-').then(|| words.remove(0));
    let (Some(name), Some(channel)) = (words.first(), words.last()) else {
        return Err(Complaint::Plain("Error: tail requires process name".to_owned()));
    };
    let stderr = match (words.len(), channel.to_lowercase().as_str()) {
        (1, _) | (_, "stdout") => false,
        (_, "stderr") => true,
        (_, channel) => return Err(Complaint::Plain(format!("Error: bad channel {}", repr(channel)))),
    };
    let amount = modifier.map_or(Ok(Amount::Last(DEFAULT_BYTES)), amount)?;
    Ok(Tail { name: (*name).to_owned(), stderr, amount })
}

fn parse_maintail(arg: &str) -> Result<Amount, Complaint> {
    let words: Vec<&str> = arg.split_whitespace().collect();
    match words.as_slice() {
        [] => Ok(Amount::Last(DEFAULT_BYTES)),
        [word] if word.starts_with('-') => amount(word),
        [word] => Err(Complaint::Plain(format!("Error: bad argument {word}"))),
        _ => Err(Complaint::WithHelp("Error: too many arguments")),
    }
}

/// `-f` or `-100`.
fn amount(modifier: &str) -> Result<Amount, Complaint> {
    match &modifier[1..] {
        "f" => Ok(Amount::Follow),
        number => integer(number)
            .map(Amount::Last)
            .ok_or_else(|| Complaint::Plain(format!("Error: bad argument {modifier}"))),
    }
}

/// A number as Python reads one: `1_000` is a thousand.
fn integer(text: &str) -> Option<i64> {
    let digits = text.trim_start_matches(['+', '-']);
    let misplaced = digits.starts_with('_') || digits.ends_with('_') || digits.contains("__");
    if misplaced { None } else { text.replace('_', "").parse().ok() }
}

fn refuse(session: &mut Session, complaint: Complaint, verb: Verb) {
    match complaint {
        Complaint::WithHelp(message) => session.complain(message, verb, exit::GENERIC),
        Complaint::Plain(message) => {
            session.out.line(&message);
            session.exitstatus = exit::GENERIC;
        }
    }
}

/// The offset that means the last `bytes`.
fn last(bytes: i64) -> Value {
    Value::Int(bytes.saturating_neg())
}

fn show_log(
    session: &mut Session,
    read: Result<Value, Failure>,
    name: &str,
    wording: impl Fn(FaultCode) -> Option<&'static str>,
) -> Result<(), Failure> {
    match read {
        Ok(log) => {
            let log = log.as_str().ok_or_else(|| Failure::Shape("text was expected".to_owned()))?;
            session.out.line(log);
            Ok(())
        }
        Err(Failure::Fault(fault)) => {
            session.exitstatus = exit::GENERIC;
            match fault.known().and_then(wording) {
                Some(reason) => session.out.line(&format!("{name}: ERROR ({reason})")),
                None => return Err(Failure::Fault(Fault { ..fault })),
            }
            Ok(())
        }
        Err(failure) => Err(failure),
    }
}

/// Shows a log as it grows, until Ctrl-C or until the server closes.
fn follow(session: &mut Session, path: &str) -> Result<(), Failure> {
    session.out.line("==> Press Ctrl-C to exit <==");
    session.flush()?;
    let Session { server, out, .. } = session;
    let address = server.address.clone();
    server.block_on(async {
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        let mut log = tokio::select! {
            opened = Follow::open(&address, path) => match opened {
                Ok(log) => log,
                Err(failure) => {
                    eprintln!("{}", not_followed(&address.serverurl, path, &failure));
                    return Ok(());
                }
            },
            _ = &mut interrupted => {
                out.line("");
                return Ok(());
            }
        };
        loop {
            tokio::select! {
                chunk = log.chunk() => match chunk {
                    Some(chunk) => {
                        out.bytes(&chunk);
                        out.flush().map_err(Failure::Output)?;
                    }
                    None => return Ok(()),
                },
                _ = &mut interrupted => {
                    out.line("");
                    return Ok(());
                }
            }
        }
    })
}

/// What is said on stderr when a log can't be followed; the exit status stays as it is.
pub(super) fn not_followed(serverurl: &str, path: &str, failure: &Failure) -> String {
    match failure {
        Failure::Status { code, .. } => format!("{serverurl}{path} Cannot read, status code {code}"),
        failure => format!("{serverurl}{path} Cannot connect, error: {failure}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(name: &str, stderr: bool, amount: Amount) -> Result<Tail, Complaint> {
        Ok(Tail { name: name.to_owned(), stderr, amount })
    }

    #[test]
    fn tails_are_read_as_supervisor_reads_them() {
        assert_eq!(parse_tail("web"), tail("web", false, Amount::Last(1600)));
        assert_eq!(parse_tail("-f web STDERR"), tail("web", true, Amount::Follow));
        assert_eq!(parse_tail("-10 g:web stdout"), tail("g:web", false, Amount::Last(10)));
        assert_eq!(parse_tail("--5 web"), tail("web", false, Amount::Last(-5)));
        assert_eq!(parse_tail("-1_000 web"), tail("web", false, Amount::Last(1000)));
        assert_eq!(parse_maintail(""), Ok(Amount::Last(1600)));
        assert_eq!(parse_maintail("-f"), Ok(Amount::Follow));
    }

    #[test]
    fn bad_tails_are_told_apart() {
        let plain = |text: &str| Complaint::Plain(text.to_owned());
        assert_eq!(parse_tail(""), Err(Complaint::WithHelp("Error: too few arguments")));
        assert_eq!(parse_tail("a b c d"), Err(Complaint::WithHelp("Error: too many arguments")));
        assert_eq!(parse_tail("-5").unwrap_err(), plain("Error: tail requires process name"));
        assert_eq!(parse_tail("a stdin").unwrap_err(), plain("Error: bad channel 'stdin'"));
        assert_eq!(parse_tail("-x a").unwrap_err(), plain("Error: bad argument -x"));
        assert_eq!(parse_maintail("x").unwrap_err(), plain("Error: bad argument x"));
    }

    #[test]
    fn a_log_that_cannot_be_followed_is_named() {
        let failure = Failure::Status { code: 404, reason: String::new() };
        assert_eq!(
            not_followed("unix:///s.sock", "/logtail/x/stdout", &failure),
            "unix:///s.sock/logtail/x/stdout Cannot read, status code 404"
        );
    }
}
