//! Connections to the gRPC port: accepting them, the TLS handshake, and what strangers may cost. Owns every
//! limit that applies before a call arrives; who may call what is [`crate::access`]'s.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use fleetvisor_model::time::Wall;
use fleetvisor_proto::identity::Identity;
use fleetvisor_proto::principal::{Principal, PrincipalError};
use fleetvisor_proto::tls;
use nix::sys::resource::{Resource, getrlimit};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::clock;
use crate::grant::Grant;
use crate::sessions::{Ended, Session, Sessions};
use crate::shares::{Share, Shares};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one waits for its turn: no longer than a dialler does.
const TURN_TIMEOUT: Duration = tls::HANDSHAKE_TIMEOUT;
const HANDSHAKES_MAX: usize = 256;
/// Connections whose handshake has not ended, most of which wait for their turn: a fleet that returns at once, from
/// behind one address perhaps, is let in as fast as handshakes go. With as many as this the last has its turn before
/// it gives up. Never more than half of the descriptors, which are for those that are in.
const STRANGERS_MAX: usize = 8192;
/// Connections without a certificate: how many at once, and for how long. Enrolling takes one call.
const GUESTS_MAX: usize = 256;
/// Of handshakes and guests, what one address may have: half, since many hosts may come from behind one.
const HANDSHAKES_OF_ONE_MAX: usize = HANDSHAKES_MAX / 2;
const GUESTS_OF_ONE_MAX: usize = GUESTS_MAX / 2;
const GUEST_LIFE: Duration = Duration::from_secs(30);
/// Between the end of a session and the cut.
const LAST_WORDS: Duration = Duration::from_secs(1);
const ACCEPT_PAUSE: Duration = Duration::from_millis(250);

/// The other end of a connection, found in every call's extensions.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// `None` without a certificate.
    pub(crate) certificate: Option<Certificate>,
}

/// The certificate that a connection has proven to hold.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) principal: Principal,
    /// `None` where somebody else than this controller made it.
    pub(crate) grant: Option<Grant>,
    pub(crate) begins: Wall,
    pub(crate) expires: Wall,
    /// The end of the session, and why.
    pub(crate) ended: Ended,
}

/// An accepted connection after its handshake.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// When it is cut, whatever is under way.
    until: Pin<Box<dyn Future<Output = &'static str> + Send>>,
    _hold: Hold,
}

/// What is given back when a connection is closed.
enum Hold {
    Guest { _permit: OwnedSemaphorePermit, _share: Share },
    Member { _session: Session },
}

/// TLS 1.3 with the controller's certificate. A client need not have a certificate, but one that it presents
/// must be of this CA. One of a host that ended no longer than `grace` ago gets in, and may do nothing but renew.
/// Nothing is resumed: every connection proves itself.
pub(crate) fn server_config(identity: &Identity, grace: Duration) -> Result<ServerConfig, tls::TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.ca_der())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tls::provider())
        .allow_unauthenticated()
        .build()?;
    let verifier = Arc::new(Lenient { inner: verifier, grace });
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
    sessions: Arc<Sessions>,
    connections: mpsc::Sender<io::Result<Connection>>,
) {
    let door = Arc::new(Door {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        guests: Arc::new(Semaphore::new(GUESTS_MAX)),
        guests_of: Shares::new(GUESTS_OF_ONE_MAX, GUESTS_OF_ONE_MAX),
        handshakes: Semaphore::new(HANDSHAKES_MAX),
        sessions,
    });
    let strangers_max = strangers_max();
    let strangers = Arc::new(Semaphore::new(strangers_max));
    let strangers_of = Shares::new(of_one(strangers_max), HANDSHAKES_OF_ONE_MAX);
    loop {
        let Ok(place) = strangers.clone().acquire_owned().await else { return };
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
        // Hung up on at once: one machine does not keep all others waiting.
        let Some(share) = strangers_of.take(address.ip()) else { continue };
        let (door, connections) = (door.clone(), connections.clone());
        tokio::spawn(async move {
            match door.let_in(tcp, address, &share).await {
                Ok(connection) => {
                    let _ = connections.send(Ok(connection)).await;
                }
                Err(err) => tracing::debug!("no connection with {address}: {err}"),
            }
            drop((place, share));
        });
    }
}

pub(crate) fn strangers_max() -> usize {
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(now, _)| now);
    usize::try_from(descriptors / 2).unwrap_or(usize::MAX).min(STRANGERS_MAX)
}

/// Of so many strangers, those that one address may have.
pub(crate) fn of_one(strangers_max: usize) -> usize {
    strangers_max / 4 * 3
}

/// What every handshake needs.
struct Door {
    acceptor: TlsAcceptor,
    guests: Arc<Semaphore>,
    guests_of: Shares,
    handshakes: Semaphore,
    sessions: Arc<Sessions>,
}

impl Door {
    /// The handshake, once it is the address's turn and then its own.
    async fn let_in(&self, tcp: TcpStream, address: SocketAddr, share: &Share) -> io::Result<Connection> {
        let late = |what| move |_| io::Error::new(io::ErrorKind::TimedOut, what);
        let turns = async {
            let turn = share.turns().acquire().await?;
            Ok::<_, AcquireError>((turn, self.handshakes.acquire().await?))
        };
        let turns = timeout(TURN_TIMEOUT, turns).await.map_err(late("its turn has not come"))?;
        let _turns = turns.map_err(|_| io::Error::other("the controller is stopping"))?;
        let handshake = timeout(HANDSHAKE_TIMEOUT, self.handshake(tcp, address));
        handshake.await.map_err(late("no TLS handshake within 5 seconds"))?
    }

    async fn handshake(&self, tcp: TcpStream, address: SocketAddr) -> io::Result<Connection> {
        tcp.set_nodelay(true)?;
        let stream = self.acceptor.accept(tcp).await?;
        let Some(leaf) = stream.get_ref().1.peer_certificates().and_then(<[_]>::first) else {
            let too_many = || io::Error::other("too many connections without a certificate");
            let share = self.guests_of.take(address.ip()).ok_or_else(too_many)?;
            let permit = self.guests.clone().try_acquire_owned().map_err(|_| too_many())?;
            let until = Box::pin(async {
                sleep(GUEST_LIFE).await;
                "no certificate, and no longer welcome"
            });
            let hold = Hold::Guest { _permit: permit, _share: share };
            return Ok(Connection { stream, peer: Peer { address, certificate: None }, until, _hold: hold });
        };
        let invalid = |err: PrincipalError| io::Error::new(io::ErrorKind::InvalidData, err);
        let principal = Principal::from_der(leaf).map_err(invalid)?;
        let Particulars { serial, begins, expires } =
            particulars(leaf).ok_or_else(|| invalid(PrincipalError::NotACertificate))?;
        let grant = Grant::of_serial(&serial);
        let session = self.sessions.open(&principal, grant);
        let until = Box::pin(member_until(session.ended(), &principal, expires));
        let certificate = Certificate { principal, grant, begins, expires, ended: session.ended() };
        let peer = Peer { address, certificate: Some(certificate) };
        Ok(Connection { stream, peer, until, _hold: Hold::Member { _session: session } })
    }
}

/// A member's connection is cut a moment after its session was ended, when what there is to say has been said.
/// An operator's ends with its certificate; a host renews its own over the link.
fn member_until(
    ended: Ended,
    principal: &Principal,
    expires: Wall,
) -> impl Future<Output = &'static str> + Send + use<> {
    let left = u64::try_from(expires.0.saturating_sub(clock::now().0)).unwrap_or(0);
    let left = match principal {
        Principal::Operator { .. } => Duration::from_micros(left),
        Principal::Host(_) | Principal::Controller => Duration::MAX,
    };
    async move {
        tokio::select! {
            _ = ended.reason() => sleep(LAST_WORDS).await,
            () = sleep(left) => {}
        }
        "the certificate is void"
    }
}

/// Of a certificate.
struct Particulars {
    serial: Vec<u8>,
    begins: Wall,
    expires: Wall,
}

fn particulars(certificate: &[u8]) -> Option<Particulars> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let validity = certificate.validity();
    Some(Particulars {
        serial: certificate.raw_serial().to_vec(),
        begins: Wall::from_secs(validity.not_before.timestamp()),
        expires: Wall::from_secs(validity.not_after.timestamp()),
    })
}

impl Certificate {
    /// How long it has until half of its life is over.
    pub(crate) fn renew_in(&self, now: Wall) -> Duration {
        let at = self.begins.0 + self.expires.0.saturating_sub(self.begins.0) / 2;
        Duration::from_micros(u64::try_from(at.saturating_sub(now.0)).unwrap_or(0))
    }
}

/// Lets a host in whose certificate has ended not long ago: after a weekend without power, or without a
/// controller, a fleet comes back by itself. Whether it may renew is decided by its record.
#[derive(Debug)]
struct Lenient {
    inner: Arc<dyn ClientCertVerifier>,
    grace: Duration,
}

impl Lenient {
    /// The end of a host's certificate, if that is less than the grace ago.
    fn recent_end(&self, certificate: &[u8], now: UnixTime) -> Option<UnixTime> {
        let Ok(Principal::Host(_)) = Principal::from_der(certificate) else { return None };
        let end = u64::try_from(particulars(certificate)?.expires.secs()).ok()?;
        let over = now.as_secs().checked_sub(end)?;
        (over <= self.grace.as_secs()).then(|| UnixTime::since_unix_epoch(Duration::from_secs(end)))
    }
}

impl ClientCertVerifier for Lenient {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verdict = self.inner.verify_client_cert(end_entity, intermediates, now);
        let expired = matches!(
            verdict,
            Err(rustls::Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. }
            ))
        );
        match self.recent_end(end_entity, now) {
            Some(end) if expired => self.inner.verify_client_cert(end_entity, intermediates, end),
            _ => verdict,
        }
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
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
        if let Poll::Ready(reason) = self.until.as_mut().poll(cx) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, reason)));
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
