//! The gRPC port: the services, the access check in front of them, and the limits of a connection that has got
//! in. Accepting connections is [`crate::connection`]'s.

use std::future::Future;
use std::sync::Arc;

use fleetvisor_proto::fleet::bundles_server::BundlesServer;
use fleetvisor_proto::fleet::enrolment_server::EnrolmentServer;
use fleetvisor_proto::fleet::fleet_server::FleetServer;
use fleetvisor_proto::fleet::host_bundles_server::HostBundlesServer;
use fleetvisor_proto::fleet::host_logs_server::HostLogsServer;
use fleetvisor_proto::fleet::hosts_server::HostsServer;
use fleetvisor_proto::tls::{KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

use crate::access::AccessLayer;
use crate::bundles::service::{BundlesService, HostBundlesService, PUSH_BYTES};
use crate::connection;
use crate::controller::Controller;
use crate::enrolment::EnrolmentService;
use crate::services::{FleetService, HostLogsService, HostsService};

/// Largest message that is taken from each kind of caller, in bytes.
const ENROL_BYTES: usize = 64 << 10;
const HOST_BYTES: usize = 8 << 20;
/// An agent sends parts of 32 KiB.
const LOGS_BYTES: usize = 128 << 10;
const OPERATOR_BYTES: usize = 1 << 20;
const STREAMS_MAX: u32 = 64;
const HEADERS_BYTES: u32 = 16 << 10;
const RESETS_MAX: usize = 20;

/// Serves until `stop` completes and the last connection has ended.
pub(crate) async fn serve(
    controller: Arc<Controller>,
    listener: TcpListener,
    tls: ServerConfig,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let (connections, accepted) = mpsc::channel(16);
    tokio::spawn(connection::accept(listener, tls, controller.sessions.clone(), connections));
    Server::builder()
        .layer(AccessLayer(controller.clone()))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADERS_BYTES)
        .http2_max_pending_accept_reset_streams(Some(RESETS_MAX))
        .add_service(
            EnrolmentServer::new(EnrolmentService(controller.clone())).max_decoding_message_size(ENROL_BYTES),
        )
        .add_service(HostsServer::new(HostsService(controller.clone())).max_decoding_message_size(HOST_BYTES))
        .add_service(
            BundlesServer::new(BundlesService(controller.clone())).max_decoding_message_size(PUSH_BYTES),
        )
        .add_service(
            HostBundlesServer::new(HostBundlesService(controller.clone()))
                .max_decoding_message_size(ENROL_BYTES),
        )
        .add_service(
            HostLogsServer::new(HostLogsService(controller.clone())).max_decoding_message_size(LOGS_BYTES),
        )
        .add_service(FleetServer::new(FleetService(controller)).max_decoding_message_size(OPERATOR_BYTES))
        .serve_with_incoming_shutdown(ReceiverStream::new(accepted), stop)
        .await
}
