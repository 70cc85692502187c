//! Connections to the gRPC port: accepting them, the TLS handshake, and what strangers may cost. Owns every
//! limit that applies before a call arrives; who may call what is [`crate::access`]'s.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use fleetvisor_proto::identity::Identity;
use fleetvisor_proto::principal::Principal;
use fleetvisor_proto::tls;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const HANDSHAKES_MAX: usize = 256;
/// Connections without a certificate: how many at once, and for how long. Enrolling takes one call.
const GUESTS_MAX: usize = 256;
const GUEST_LIFE: Duration = Duration::from_secs(30);
const ACCEPT_PAUSE: Duration = Duration::from_millis(250);

/// The other end of a connection, found in every call's extensions.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// `None` without a certificate.
    pub(crate) principal: Option<Principal>,
}

/// An accepted connection after its handshake.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    guest: Option<Guest>,
}

/// What a connection without a certificate is bound to.
struct Guest {
    until: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

/// TLS 1.3 with the controller's certificate. A client need not have a certificate, but one that it presents
/// must be of this CA. Nothing is resumed: every connection proves itself.
pub(crate) fn server_config(identity: &Identity) -> Result<ServerConfig, tls::TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.ca_der())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tls::provider())
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.presented(), identity.key_der())?;
    config.alpn_protocols = vec![tls::ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Accepts for ever and hands over every connection that got through its handshake. Ends when nobody takes
/// them any more.
pub(crate) async fn accept(
    listener: TcpListener,
    config: ServerConfig,
    connections: mpsc::Sender<io::Result<Connection>>,
) {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let guests = Arc::new(Semaphore::new(GUESTS_MAX));
    loop {
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = connections.closed() => return,
        };
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(err) => {
                // Most likely out of descriptors: trying again at once would only burn the processor.
                tracing::warn!("cannot accept a connection: {err}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (acceptor, guests, connections) = (acceptor.clone(), guests.clone(), connections.clone());
        tokio::spawn(async move {
            match handshake(acceptor, guests, tcp, address).await {
                Ok(connection) => {
                    let _ = connections.send(Ok(connection)).await;
                }
                Err(err) => tracing::debug!("no connection with {address}: {err}"),
            }
            drop(permit);
        });
    }
}

async fn handshake(
    acceptor: TlsAcceptor,
    guests: Arc<Semaphore>,
    tcp: TcpStream,
    address: SocketAddr,
) -> io::Result<Connection> {
    tcp.set_nodelay(true)?;
    let stream = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no TLS handshake within 5 seconds"))??;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let principal = certificate.map(|certificate| Principal::from_der(certificate)).transpose();
    let principal = principal.map_err(|err| io::Error::new(io::ErrorKind::InvalidData, err))?;
    let guest = match principal {
        Some(_) => None,
        None => {
            let permit = guests
                .try_acquire_owned()
                .map_err(|_| io::Error::other("too many connections without a certificate"))?;
            Some(Guest { until: Box::pin(sleep(GUEST_LIFE)), _permit: permit })
        }
    };
    Ok(Connection { stream, peer: Peer { address, principal }, guest })
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(guest) = &mut self.guest
            && guest.until.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "no certificate, and no longer welcome",
            )));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
