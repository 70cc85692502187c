//! Keeps the host's certificate fresh: at half of its life it is renewed over the link that is up, and used from
//! the next link on. Times are lengths on the monotonic clock, from when the certificate was received, or from when
//! the controller said how long it has: a host whose clock is wrong renews as any other. One that was off until its
//! certificate had ended is told so by the controller, and renews before it links.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fleetvisor_model::config::LogLevel;
use fleetvisor_proto::fleet::RenewRequest;
use fleetvisor_proto::fleet::hosts_client::HostsClient;
use fleetvisor_proto::identity::Identity;
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::daemon::Daemon;
use crate::membership::{LinkError, Membership};

/// How soon a renewal that failed is tried again, at most: a short life leaves less time.
const AGAIN: Duration = Duration::from_secs(60);
/// How long a controller may take to say how long there is left.
const UNTOLD: Duration = Duration::from_secs(20);
/// Between two renewals, whatever the certificates say.
const LEAST: Duration = Duration::from_secs(1);

/// Runs for as long as the link is up. `told`: how long the controller says that there is left.
pub(crate) async fn keep_fresh<D: Daemon>(
    membership: &Membership<D>,
    identity: &Identity,
    channel: Channel,
    mut told: watch::Receiver<Option<Duration>>,
) {
    let half = half_life(identity);
    // Of one that was read from the disk this host knows the age by its wall clock alone.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = Duration::from_micros(u64::try_from(identity.renew_at().0).unwrap_or(0));
    let own = at.saturating_sub(now).min(half);
    tokio::select! {
        left = said(&mut told) => sleep(left.min(half).max(LEAST)).await,
        // Older controllers don't say.
        () = sleep(own.max(UNTOLD)) => {}
    }
    loop {
        let wait = match renew(membership, identity, channel.clone()).await {
            Ok(renewed) => {
                membership.daemon.log(LogLevel::Info, "fleet: the host's certificate is renewed".to_owned());
                half_life(&renewed)
            }
            Err(error) => {
                let line = format!("fleet: the host's certificate could not be renewed: {error}");
                membership.daemon.log(LogLevel::Error, line);
                AGAIN.min(half / 8)
            }
        };
        sleep(wait.max(LEAST)).await;
    }
}

/// What the controller says, once it does.
async fn said(told: &mut watch::Receiver<Option<Duration>>) -> Duration {
    let left = told.wait_for(Option::is_some).await.map(|left| *left);
    match left {
        Ok(Some(left)) => left,
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

/// Whether a refusal asks for a renewal first.
pub(crate) fn is_asked_for(status: &Status) -> bool {
    status.code() == Code::FailedPrecondition
}

/// A new certificate over the same key, kept in state_dir.
pub(crate) async fn renew<D: Daemon>(
    membership: &Membership<D>,
    identity: &Identity,
    channel: Channel,
) -> Result<Identity, LinkError> {
    let request = RenewRequest { csr: identity.renewal_request()? };
    let answer = HostsClient::new(channel).renew(request).await;
    let certificate = answer.map_err(|status| LinkError::Refused(Box::new(status)))?.into_inner();
    let renewed = Identity::received(certificate, identity.key().to_owned())?;
    renewed.save(&membership.section.state_dir)?;
    Ok(renewed)
}

fn half_life(identity: &Identity) -> Duration {
    let (from, until) = identity.validity();
    Duration::from_micros(u64::try_from(until.0.saturating_sub(from.0)).unwrap_or(0)) / 2
}
