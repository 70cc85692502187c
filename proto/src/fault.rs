//! Supervisor's fault codes with their names, and the fault an XML-RPC call answers with. Which call raises
//! which fault is the caller's business.

/// Every fault code Supervisor publishes. `Success` is one of them: results of `startAllProcesses` and its
/// like carry it as their status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FaultCode {
    UnknownMethod,
    IncorrectParameters,
    BadArguments,
    SignatureUnsupported,
    ShutdownState,
    BadName,
    BadSignal,
    NoFile,
    NotExecutable,
    Failed,
    AbnormalTermination,
    SpawnError,
    AlreadyStarted,
    NotRunning,
    Success,
    AlreadyAdded,
    StillRunning,
    CantReread,
}

impl FaultCode {
    pub const ALL: [FaultCode; 18] = [
        FaultCode::UnknownMethod,
        FaultCode::IncorrectParameters,
        FaultCode::BadArguments,
        FaultCode::SignatureUnsupported,
        FaultCode::ShutdownState,
        FaultCode::BadName,
        FaultCode::BadSignal,
        FaultCode::NoFile,
        FaultCode::NotExecutable,
        FaultCode::Failed,
        FaultCode::AbnormalTermination,
        FaultCode::SpawnError,
        FaultCode::AlreadyStarted,
        FaultCode::NotRunning,
        FaultCode::Success,
        FaultCode::AlreadyAdded,
        FaultCode::StillRunning,
        FaultCode::CantReread,
    ];

    pub const fn code(self) -> i64 {
        match self {
            FaultCode::UnknownMethod => 1,
            FaultCode::IncorrectParameters => 2,
            FaultCode::BadArguments => 3,
            FaultCode::SignatureUnsupported => 4,
            FaultCode::ShutdownState => 6,
            FaultCode::BadName => 10,
            FaultCode::BadSignal => 11,
            FaultCode::NoFile => 20,
            FaultCode::NotExecutable => 21,
            FaultCode::Failed => 30,
            FaultCode::AbnormalTermination => 40,
            FaultCode::SpawnError => 50,
            FaultCode::AlreadyStarted => 60,
            FaultCode::NotRunning => 70,
            FaultCode::Success => 80,
            FaultCode::AlreadyAdded => 90,
            FaultCode::StillRunning => 91,
            FaultCode::CantReread => 92,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            FaultCode::UnknownMethod => "UNKNOWN_METHOD",
            FaultCode::IncorrectParameters => "INCORRECT_PARAMETERS",
            FaultCode::BadArguments => "BAD_ARGUMENTS",
            FaultCode::SignatureUnsupported => "SIGNATURE_UNSUPPORTED",
            FaultCode::ShutdownState => "SHUTDOWN_STATE",
            FaultCode::BadName => "BAD_NAME",
            FaultCode::BadSignal => "BAD_SIGNAL",
            FaultCode::NoFile => "NO_FILE",
            FaultCode::NotExecutable => "NOT_EXECUTABLE",
            FaultCode::Failed => "FAILED",
            FaultCode::AbnormalTermination => "ABNORMAL_TERMINATION",
            FaultCode::SpawnError => "SPAWN_ERROR",
            FaultCode::AlreadyStarted => "ALREADY_STARTED",
            FaultCode::NotRunning => "NOT_RUNNING",
            FaultCode::Success => "SUCCESS",
            FaultCode::AlreadyAdded => "ALREADY_ADDED",
            FaultCode::StillRunning => "STILL_RUNNING",
            FaultCode::CantReread => "CANT_REREAD",
        }
    }

    pub fn from_code(code: i64) -> Option<FaultCode> {
        FaultCode::ALL.into_iter().find(|known| known.code() == code)
    }
}

/// A call's refusal. `code` stays a number: a server may have extensions with codes of their own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("<Fault {code}: '{text}'>")]
pub struct Fault {
    pub code: i64,
    /// `NAME`, or `NAME: extra`, as Supervisor words its faults.
    pub text: String,
}

impl Fault {
    pub fn new(code: FaultCode) -> Fault {
        Fault { code: code.code(), text: code.name().to_owned() }
    }

    /// `extra` is what follows the name: `BAD_NAME: web`.
    pub fn with(code: FaultCode, extra: impl std::fmt::Display) -> Fault {
        Fault { code: code.code(), text: format!("{}: {extra}", code.name()) }
    }

    /// The published code, `None` for a server's own.
    pub fn known(&self) -> Option<FaultCode> {
        FaultCode::from_code(self.code)
    }
}

impl From<FaultCode> for Fault {
    fn from(code: FaultCode) -> Fault {
        Fault::new(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_faults_are_found_by_number() {
        for code in FaultCode::ALL {
            assert_eq!(FaultCode::from_code(code.code()), Some(code));
            assert_eq!(Fault::new(code).known(), Some(code));
        }
        assert_eq!(FaultCode::from_code(5), None);
    }

    #[test]
    fn texts_read_as_supervisor_words_them() {
        assert_eq!(Fault::new(FaultCode::NotRunning).text, "NOT_RUNNING");
        assert_eq!(Fault::with(FaultCode::BadName, "web").text, "BAD_NAME: web");
        assert_eq!(Fault::with(FaultCode::BadName, "web").to_string(), "<Fault 10: 'BAD_NAME: web'>");
    }
}
