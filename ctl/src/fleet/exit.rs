//! Exit statuses of `ctl` in a fleet, and which one several outcomes come to.

use std::process::ExitCode;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Done,
    Failed,
    Usage,
    /// `status` found something that does not run.
    NotRunning,
    /// Some hosts failed, or will act when they return.
    Partial,
    /// The controller cannot be reached.
    Unreachable,
    NotAllowed,
    /// By Ctrl-C.
    Interrupted,
}

impl Exit {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NotRunning => 3,
            Exit::Partial => 4,
            Exit::Unreachable => 5,
            Exit::NotAllowed => 6,
            Exit::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}
