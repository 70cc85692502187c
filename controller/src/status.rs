//! A failure of the controller's own as a caller hears of it: the kind and the reason, and in the log.

use tonic::Status;

use crate::bundles::catalog::BundleError;
use crate::desired::DesiredError;
use crate::events::EventsError;
use crate::operations::RunError;
use crate::pki::PkiError;
use crate::records::RecordError;
use crate::select::SelectionError;
use crate::store::StoreError;
use crate::tail::TailError;

/// Something that is not the caller's fault.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("the system's random source failed: {0}")]
    Random(#[from] getrandom::Error),
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Status {
        tracing::error!("{failure}");
        // Not `unavailable`: the controller has been reached, and says what it lacks.
        Status::internal(failure.to_string())
    }
}

impl From<RunError> for Status {
    fn from(error: RunError) -> Status {
        match error {
            RunError::NoVerb
            | RunError::Signal(_)
            | RunError::UpdateTarget(_)
            | RunError::UpgradeTarget(_)
            | RunError::Share(_)
            | RunError::Timeout(_)
            | RunError::Expire(_)
            | RunError::Pause(_)
            | RunError::Selection(_) => Status::invalid_argument(error.to_string()),
            RunError::TooMany => Status::resource_exhausted(error.to_string()),
            RunError::NoSuch(_) | RunError::Ambiguous(_) => Status::not_found(error.to_string()),
            RunError::State { .. }
            | RunError::Settled { .. }
            | RunError::Superseded { .. }
            | RunError::Elsewhere(_) => Status::failed_precondition(error.to_string()),
            RunError::Bundle(error) => Failure::Bundle(error).into(),
            RunError::Store(error) => Failure::Store(error).into(),
            RunError::Record(error) => Failure::Record(error).into(),
            RunError::Random(error) => Failure::Random(error).into(),
        }
    }
}

impl From<EventsError> for Status {
    fn from(error: EventsError) -> Status {
        Status::invalid_argument(error.to_string())
    }
}

impl From<TailError> for Status {
    fn from(error: TailError) -> Status {
        match error {
            TailError::Selection(_) | TailError::Grep(_) => Status::invalid_argument(error.to_string()),
            TailError::TooManyReaders { .. } | TailError::TooMuch { .. } => {
                Status::resource_exhausted(error.to_string())
            }
        }
    }
}

impl From<SelectionError> for Status {
    fn from(error: SelectionError) -> Status {
        Status::invalid_argument(error.to_string())
    }
}

impl From<DesiredError> for Failure {
    fn from(error: DesiredError) -> Failure {
        match error {
            DesiredError::Store(error) => Failure::Store(error),
            DesiredError::Record(error) => Failure::Record(error),
        }
    }
}
