//! Keeps the host's certificate fresh: at half its life it is renewed over the link that is up, and used from
//! the next link on.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fleetvisor_model::config::LogLevel;
use fleetvisor_proto::fleet::RenewRequest;
use fleetvisor_proto::fleet::hosts_client::HostsClient;
use fleetvisor_proto::identity::Identity;
use tonic::transport::Channel;

use crate::daemon::Daemon;
use crate::membership::{LinkError, Membership};

/// How soon a renewal that failed is tried again.
const AGAIN: Duration = Duration::from_secs(60);

/// Runs for as long as the link is up.
pub(crate) async fn keep_fresh<D: Daemon>(
    membership: &Membership<D>,
    mut identity: Identity,
    channel: Channel,
) {
    loop {
        let at = Duration::from_micros(u64::try_from(identity.renew_at().0).unwrap_or(0));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        tokio::time::sleep(at.saturating_sub(now)).await;
        match renew(membership, &identity, channel.clone()).await {
            Ok(renewed) => {
                membership.daemon.log(LogLevel::Info, "fleet: the host's certificate is renewed".to_owned());
                identity = renewed;
            }
            Err(error) => {
                let line = format!("fleet: the host's certificate could not be renewed: {error}");
                membership.daemon.log(LogLevel::Error, line);
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

async fn renew<D: Daemon>(
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
