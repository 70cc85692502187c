//! Keeps the host's certificate fresh: at half its life it is renewed over the link that is up, and used from
//! the next link on.

use std::time::Duration;

use fleetvisor_model::config::LogLevel;
use fleetvisor_proto::fleet::RenewRequest;
use fleetvisor_proto::fleet::hosts_client::HostsClient;
use fleetvisor_proto::identity::Identity;
use tonic::transport::Channel;

use super::{LinkError, Membership};
use crate::clock;

/// How soon a renewal that failed is tried again.
const AGAIN: Duration = Duration::from_secs(60);

/// Runs for as long as the link is up.
pub(super) async fn keep_fresh(membership: &Membership, mut identity: Identity, channel: Channel) {
    loop {
        let left = identity.renew_at().0.saturating_sub(clock::now().wall.0);
        tokio::time::sleep(Duration::from_micros(u64::try_from(left).unwrap_or(0))).await;
        match renew(membership, &identity, channel.clone()).await {
            Ok(renewed) => {
                membership.logs.line(LogLevel::Info, "fleet: the host's certificate is renewed");
                identity = renewed;
            }
            Err(error) => {
                let line = format!("fleet: the host's certificate could not be renewed: {error}");
                membership.logs.line(LogLevel::Error, line);
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

async fn renew(
    membership: &Membership,
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
