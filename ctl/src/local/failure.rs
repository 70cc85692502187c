//! What ends a command before its own outcome, and the line `supervisorctl` prints for it. Scripts match
//! that line (`error: <class 'PermissionError'>, [Errno 13] Permission denied`), so each failure knows the
//! Python exception it would have been.

use std::io;

use fleetvisor_proto::fault::Fault;
use fleetvisor_proto::xmlrpc::XmlRpcError;

use super::repr::repr;

#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The server refused a call in a way the command has no words for.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// An answer of HTTP other than 200.
    #[error("HTTP status {code} {reason}")]
    Status { code: u16, reason: String },
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    #[error("cannot find host {host}")]
    Resolve { host: String },
    /// The connection ended where an answer should have been.
    #[error("connection closed without an answer")]
    Closed,
    #[error("HTTP: {0}")]
    Http(String),
    #[error(transparent)]
    Answer(#[from] XmlRpcError),
    /// The answer is XML-RPC, but not what the method answers.
    #[error("unexpected answer: {0}")]
    Shape(String),
    /// A server URL that can't be used, or a result that has no wording.
    #[error("{0}")]
    Unusable(String),
    #[error("int exceeds XML-RPC limits")]
    IntTooLarge,
    /// Input ended where an answer of the user was asked for.
    #[error("EOF when reading a line")]
    EndOfInput,
    #[error("interrupted")]
    Interrupted,
    #[error("cannot write the output: {0}")]
    Output(#[source] io::Error),
}

impl Failure {
    pub(super) fn is_unauthorized(&self) -> bool {
        matches!(self, Failure::Status { code: 401, .. })
    }

    /// Errno of a connection that was not made.
    pub(super) fn connect_errno(&self) -> Option<i32> {
        match self {
            Failure::Connect(error) => error.raw_os_error(),
            Failure::Fault(_)
            | Failure::Status { .. }
            | Failure::Resolve { .. }
            | Failure::Closed
            | Failure::Http(_)
            | Failure::Answer(_)
            | Failure::Shape(_)
            | Failure::Unusable(_)
            | Failure::IntTooLarge
            | Failure::EndOfInput
            | Failure::Interrupted
            | Failure::Output(_) => None,
        }
    }

    /// `error: <class 'X'>, text: file: F line: N`.
    pub(super) fn line(&self) -> String {
        let (class, text) = self.as_exception();
        format!("error: <class '{class}'>, {text}: file: {} line: {}", file!(), line!())
    }

    fn as_exception(&self) -> (&'static str, String) {
        match self {
            Failure::Fault(fault) => ("xmlrpc.client.Fault", fault_text(fault)),
            Failure::Status { code, reason } => (
                "xmlrpc.client.ProtocolError",
                format!("<ProtocolError for 127.0.0.1/RPC2: {code} {reason}>"),
            ),
            Failure::Connect(error) | Failure::Output(error) => os_error(error),
            Failure::Resolve { .. } => ("socket.gaierror", "[Errno -2] Name or service not known".to_owned()),
            Failure::Closed => ("http.client.RemoteDisconnected", CLOSED.to_owned()),
            Failure::Http(text) => ("http.client.BadStatusLine", text.clone()),
            Failure::Answer(error) => ("xml.parsers.expat.ExpatError", error.to_string()),
            Failure::Shape(text) => ("KeyError", text.clone()),
            Failure::Unusable(text) => ("ValueError", text.clone()),
            Failure::IntTooLarge => ("OverflowError", self.to_string()),
            Failure::EndOfInput => ("EOFError", self.to_string()),
            Failure::Interrupted => ("KeyboardInterrupt", String::new()),
        }
    }
}

/// Python's words, and what there is to do: an agent that is killed takes its callers' connections with it.
const CLOSED: &str = "Remote end closed connection without response; supervisord has ended or been replaced meanwhile, \
                      and what was asked for may go on: look at the status, and ask again";

/// A fault as Python shows it: `<Fault 10: 'BAD_NAME: web'>`.
pub(super) fn fault_text(fault: &Fault) -> String {
    format!("<Fault {}: {}>", fault.code, repr(&fault.text))
}

fn os_error(error: &io::Error) -> (&'static str, String) {
    let class = match error.kind() {
        io::ErrorKind::PermissionDenied => "PermissionError",
        io::ErrorKind::ConnectionRefused => "ConnectionRefusedError",
        io::ErrorKind::NotFound => "FileNotFoundError",
        io::ErrorKind::ConnectionReset => "ConnectionResetError",
        io::ErrorKind::BrokenPipe => "BrokenPipeError",
        io::ErrorKind::TimedOut => "TimeoutError",
        _ => "OSError",
    };
    let text = match error.raw_os_error() {
        Some(errno) => format!("[Errno {errno}] {}", nix::errno::Errno::from_raw(errno).desc()),
        None => error.to_string(),
    };
    (class, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forbidden_socket_reads_as_scripts_expect_it() {
        let failure = Failure::Connect(io::Error::from_raw_os_error(13));
        let line = failure.line();
        assert!(
            line.starts_with("error: <class 'PermissionError'>, [Errno 13] Permission denied: file: "),
            "{line}"
        );
    }

    #[test]
    fn faults_and_statuses_read_as_python_shows_them() {
        let fault = Failure::Fault(Fault { code: 6, text: "SHUTDOWN_STATE".to_owned() });
        assert!(fault.line().contains("<class 'xmlrpc.client.Fault'>, <Fault 6: 'SHUTDOWN_STATE'>"));
        let status = Failure::Status { code: 401, reason: "Unauthorized".to_owned() };
        assert!(status.line().contains("<ProtocolError for 127.0.0.1/RPC2: 401 Unauthorized>"));
    }
}
