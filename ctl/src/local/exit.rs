//! Exit statuses of `supervisorctl`: those of LSB init scripts, each used where Supervisor uses it.

use fleetvisor_proto::fault::FaultCode;

pub(super) const SUCCESS: i32 = 0;
pub(super) const GENERIC: i32 = 1;
pub(super) const INVALID_ARGS: i32 = 2;
pub(super) const UNIMPLEMENTED_FEATURE: i32 = 3;
pub(super) const INSUFFICIENT_PRIVILEGES: i32 = 4;
pub(super) const NOT_INSTALLED: i32 = 5;
pub(super) const NOT_RUNNING: i32 = 7;

/// Of `status` alone.
pub(super) const STATUS_NOT_RUNNING: i32 = 3;
pub(super) const STATUS_UNKNOWN: i32 = 4;

/// The exit status that a fault asks for; `None` for success and for the one fault a command does not mind.
pub(super) fn of_fault(code: i64, ignored: Option<FaultCode>) -> Option<i32> {
    match FaultCode::from_code(code) {
        Some(FaultCode::Success) => None,
        known if known.is_some() && known == ignored => None,
        Some(FaultCode::SpawnError | FaultCode::AbnormalTermination | FaultCode::NotRunning) => {
            Some(NOT_RUNNING)
        }
        Some(_) | None => Some(GENERIC),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_programs_are_7_and_other_faults_1() {
        let of = |code: FaultCode, ignored| of_fault(code.code(), ignored);
        assert_eq!(of(FaultCode::Success, None), None);
        assert_eq!(of(FaultCode::NotRunning, Some(FaultCode::NotRunning)), None);
        assert_eq!(of(FaultCode::NotRunning, None), Some(NOT_RUNNING));
        assert_eq!(of(FaultCode::SpawnError, None), Some(NOT_RUNNING));
        assert_eq!(of(FaultCode::AbnormalTermination, Some(FaultCode::AlreadyStarted)), Some(NOT_RUNNING));
        assert_eq!(of(FaultCode::BadName, None), Some(GENERIC));
        assert_eq!(of_fault(5, None), Some(GENERIC));
    }
}
