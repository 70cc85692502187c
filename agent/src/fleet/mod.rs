//! This host's side of a fleet: it enrols once ([`enrol`]), keeps one link to a controller ([`link`]),
//! carries out commands ([`command`]) and remembers wishes ([`wishes`]). Without a controller everything on
//! the host goes on.

mod backoff;
mod command;
mod enrol;
mod link;
mod renew;
pub(crate) mod wishes;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use fleetvisor_model::config::{FleetSection, LogLevel};
use fleetvisor_proto::identity::{Identity, IdentityError};
use fleetvisor_proto::tls::{self, DialError, TlsError};

use crate::inbox::Handle;
use crate::logs::Logs;
use backoff::Backoff;
use wishes::Wishes;

/// What the tasks of the fleet share.
#[derive(Debug)]
struct Membership {
    section: FleetSection,
    /// New in each process.
    boot_id: String,
    handle: Handle,
    logs: Logs,
    wishes: tokio::sync::Mutex<Wishes>,
    /// Commands that were carried out, or are being.
    seen: command::Seen,
}

#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Enrol(#[from] enrol::EnrolError),
    #[error("the controller answered: {}", .0.message())]
    Refused(#[from] Box<tonic::Status>),
    #[error("the controller ended the link: {reason}")]
    Farewell { reason: String, retry_after: std::time::Duration },
    #[error("the controller said nothing for {0:?}")]
    Silent(std::time::Duration),
    #[error("the link was closed")]
    Closed,
    #[error(transparent)]
    Wishes(#[from] wishes::WishesError),
    #[error("the daemon is shutting down")]
    Gone(#[from] crate::inbox::Gone),
}

/// Keeps the link up for as long as the daemon runs.
pub(crate) async fn run(section: FleetSection, wishes: Wishes, handle: Handle, logs: Logs) {
    let membership = Arc::new(Membership {
        boot_id: boot_id(),
        section,
        handle,
        logs,
        wishes: tokio::sync::Mutex::new(wishes),
        seen: command::Seen::default(),
    });
    let mut backoff = Backoff::default();
    let mut last_error = String::new();
    for address in membership.section.controller.iter().cycle() {
        let result = membership.stay_linked(address, &mut backoff).await;
        let (reason, retry_after) = match result {
            Err(LinkError::Gone(_)) => return,
            Err(LinkError::Farewell { reason, retry_after }) => (reason, retry_after),
            Err(error) => (error.to_string(), std::time::Duration::ZERO),
            Ok(never) => match never {},
        };
        // The same reason again and again is said once.
        if reason != last_error {
            membership.logs.line(LogLevel::Warn, format!("fleet: no link to {address}: {reason}"));
            last_error = reason;
        }
        tokio::time::sleep(retry_after.max(backoff.next_wait())).await;
        if backoff.is_fresh() {
            last_error.clear();
        }
    }
}

impl Membership {
    /// Enrols if need be, links, and returns only when the link is lost.
    async fn stay_linked(
        self: &Arc<Membership>,
        address: &str,
        backoff: &mut Backoff,
    ) -> Result<std::convert::Infallible, LinkError> {
        let identity = self.identity(address).await?;
        let channel = tls::dial(address, tls::client_config(&identity)?).await?;
        tokio::select! {
            lost = link::serve(self, address, channel.clone(), backoff) => lost,
            () = renew::keep_fresh(self, identity, channel) => Err(LinkError::Closed),
        }
    }

    async fn identity(&self, address: &str) -> Result<Identity, LinkError> {
        if enrol::is_enrolled(&self.section) {
            return Ok(enrol::load(&self.section)?);
        }
        let identity = enrol::enrol(&self.section, address).await?;
        let line = format!("fleet: enrolled with {address} as host {}", self.section.host);
        self.logs.line(LogLevel::Info, line);
        Ok(identity)
    }

    fn labels(&self) -> BTreeMap<String, String> {
        self.section.labels.clone()
    }
}

/// Unique to this process: a link of a daemon that has started over replaces its own earlier one.
fn boot_id() -> String {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    let id = BOOT_ID.get_or_init(|| {
        let now = crate::clock::now();
        format!("{:x}-{:x}-{:x}", now.wall.0, now.monotonic.0, std::process::id())
    });
    id.clone()
}
