//! The connection to the controller: who we are, where it is, and what each way to fail means to the caller.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fleetvisor_proto::fleet::bundles_client::BundlesClient;
use fleetvisor_proto::fleet::fleet_client::FleetClient;
use fleetvisor_proto::identity::{Identity, IdentityError};
use fleetvisor_proto::principal::Principal;
use fleetvisor_proto::tls::{self, DialError, TlsError};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::exit::Exit;
use super::scope::ScopeError;
use super::settings::{Settings, SettingsError};
use super::when;
use crate::cli::Access;

/// For reading, where `--timeout` gives none.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Microseconds before its end in which an identity is to be renewed: 30 days.
const END_SOON: i64 = 30 * 86_400 * 1_000_000;

/// A host with thousands of processes answers in one message.
const MAX_MESSAGE: usize = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum FleetError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Scope(#[from] ScopeError),
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The controller refused a call, or the connection broke.
    #[error("{}", worded(.0))]
    Status(Box<Status>),
    /// What came back makes no sense.
    #[error("the controller's answer cannot be read: {0}")]
    Answer(String),
    #[error("cannot start: {0}")]
    Runtime(std::io::Error),
    /// Nobody reads stdout any more.
    #[error("cannot write: {0}")]
    Output(#[from] std::io::Error),
}

impl From<Status> for FleetError {
    fn from(status: Status) -> FleetError {
        FleetError::Status(Box::new(status))
    }
}

impl FleetError {
    pub(crate) fn exit(&self) -> Exit {
        match self {
            FleetError::Settings(_) | FleetError::Scope(_) | FleetError::Usage(_) => Exit::Usage,
            FleetError::Identity(_) | FleetError::Tls(_) => Exit::Failed,
            FleetError::Dial(DialError::Address { .. }) => Exit::Usage,
            FleetError::Dial(DialError::RefusedUs { .. }) => Exit::NotAllowed,
            FleetError::Dial(
                DialError::Unreachable { .. } | DialError::NotTrusted { .. } | DialError::Handshake { .. },
            ) => Exit::Unreachable,
            FleetError::Status(status) => match status.code() {
                Code::PermissionDenied | Code::Unauthenticated => Exit::NotAllowed,
                Code::Unavailable => Exit::Unreachable,
                Code::InvalidArgument => Exit::Usage,
                Code::Ok
                | Code::Cancelled
                | Code::Unknown
                | Code::DeadlineExceeded
                | Code::NotFound
                | Code::AlreadyExists
                | Code::ResourceExhausted
                | Code::FailedPrecondition
                | Code::Aborted
                | Code::OutOfRange
                | Code::Unimplemented
                | Code::Internal
                | Code::DataLoss => Exit::Failed,
            },
            FleetError::Answer(_) | FleetError::Runtime(_) | FleetError::Output(_) => Exit::Failed,
        }
    }
}

impl FleetError {
    /// Whether the controller may be there again after a while.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            FleetError::Dial(error) => {
                matches!(error, DialError::Unreachable { .. } | DialError::Handshake { .. })
            }
            FleetError::Status(status) => matches!(
                status.code(),
                Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::Aborted
            ),
            _ => false,
        }
    }
}

fn worded(status: &Status) -> String {
    let text = match status.message() {
        "" => status.code().description(),
        message => message,
    };
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => format!("not allowed: {text}"),
        Code::Unavailable => format!("the controller cannot be reached: {text}"),
        Code::Unimplemented => format!("the controller does not know this command: {text}"),
        _ => format!("the controller says: {text}"),
    }
}

/// Connects to the first controller that can be reached.
pub(crate) async fn connect(access: &Access) -> Result<FleetClient<Channel>, FleetError> {
    Ok(FleetClient::new(dial(access).await?).max_decoding_message_size(MAX_MESSAGE))
}

/// [`connect`], for what concerns bundles.
pub(crate) async fn connect_bundles(access: &Access) -> Result<BundlesClient<Channel>, FleetError> {
    Ok(BundlesClient::new(dial(access).await?).max_decoding_message_size(MAX_MESSAGE))
}

async fn dial(access: &Access) -> Result<Channel, FleetError> {
    let Settings { controllers, identity } = Settings::read(access)?;
    let identity = Identity::load(&identity)?;
    let config = tls::client_config(&identity)?;
    if let Some(remark) = remark_of_end(&identity, SystemTime::now()) {
        eprintln!("ctl: {remark}");
    }
    let mut failed = None;
    for address in &controllers {
        let mut dialled = tls::dial(address, config.clone()).await;
        // A controller that is busy may hang up on a handshake; nothing has been asked of it yet.
        if matches!(dialled, Err(DialError::Handshake { .. })) {
            dialled = tls::dial(address, config.clone()).await;
        }
        match dialled {
            Ok(channel) => return Ok(channel),
            Err(error @ (DialError::Unreachable { .. } | DialError::Handshake { .. })) => {
                if controllers.len() > 1 {
                    eprintln!("ctl: {error}");
                }
                failed = Some(error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(failed.map_or_else(|| FleetError::Usage("no controller is given".to_owned()), FleetError::Dial))
}

/// What is to be said of an identity that has ended, or will before long.
fn remark_of_end(identity: &Identity, now: SystemTime) -> Option<String> {
    let now = now.duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_micros()).ok())?;
    let (from, until) = identity.validity();
    let (left, life) = (until.0 - now, until.0 - from.0);
    let Ok(Principal::Operator { name, .. }) = identity.principal() else { return None };
    let end = when::utc(until.0);
    if left < 0 {
        return Some(format!(
            "this identity has ended on {end}; an admin makes a new one: ctl operator renew {name} --out DIR"
        ));
    }
    (left < END_SOON && left < life / 4)
        .then(|| format!("this identity ends on {end}; renew it with: ctl operator renew"))
}

/// A reading call with its deadline.
pub(crate) fn reading<M>(message: M, access: &Access) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(access.timeout.unwrap_or(READ_TIMEOUT));
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_fail_has_its_exit_status() {
        let address = || "a:1".to_owned();
        let source = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        for (error, exit) in [
            (
                FleetError::from(DialError::Unreachable { address: address(), source: source() }),
                Exit::Unreachable,
            ),
            (
                FleetError::from(DialError::Handshake { address: address(), source: source() }),
                Exit::Unreachable,
            ),
            (
                FleetError::from(DialError::RefusedUs { address: address(), reason: String::new() }),
                Exit::NotAllowed,
            ),
            (FleetError::from(DialError::Address { address: address() }), Exit::Usage),
            (FleetError::from(Status::permission_denied("x")), Exit::NotAllowed),
            (FleetError::from(Status::unauthenticated("x")), Exit::NotAllowed),
            (FleetError::from(Status::unavailable("x")), Exit::Unreachable),
            (FleetError::from(Status::invalid_argument("x")), Exit::Usage),
            (FleetError::from(Status::internal("x")), Exit::Failed),
            (FleetError::from(ScopeError::NoLabels), Exit::Usage),
        ] {
            assert_eq!(error.exit(), exit, "{error}");
        }
    }

    #[test]
    fn refusals_are_worded_for_a_person() {
        let error = FleetError::from(Status::permission_denied("operator role is viewer"));
        assert_eq!(error.to_string(), "not allowed: operator role is viewer");
    }
}
