//! How a program of the fleet reaches the controller: TLS 1.3 alone, one crypto provider, who is trusted, and
//! dialling with errors that say which of it failed. Owns no retries: a [`Channel`] is one connection, and
//! whoever lost it dials again.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use std::{fmt, io};

use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::AsyncBufReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use crate::identity::Identity;
use crate::token::Fingerprint;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than one takes: where a whole fleet returns at once, each has to wait for its turn.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// With [`KEEPALIVE_TIMEOUT`], a peer that vanished is noticed after 13 seconds: within 15, on a busy machine too.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(8);
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
pub const ALPN: &[u8] = b"h2";

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the certificate cannot be used for TLS: {0}")]
    Config(#[from] rustls::Error),
    #[error("the CA's certificate cannot be used for TLS: {0}")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
}

/// Why there is no connection, by what a person can do about it.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("{address:?} is not an address of the form host:port")]
    Address { address: String },
    #[error("cannot reach {address}: {source}")]
    Unreachable { address: String, source: io::Error },
    #[error("{address} is not trusted: {reason}")]
    NotTrusted { address: String, reason: String },
    #[error("{address} refused our certificate: {reason}")]
    RefusedUs { address: String, reason: String },
    #[error("no TLS connection with {address}: {source}")]
    Handshake { address: String, source: io::Error },
}

/// The one crypto provider of all programs.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())).clone()
}

/// For a client with an identity: it trusts the identity's CA alone and presents its certificate.
pub fn client_config(identity: &Identity) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.ca_der())?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(identity.presented(), identity.key_der())?;
    Ok(finished(config))
}

/// Whether a client of this identity's CA that dials `name` would trust a server of this identity.
pub fn check_server(identity: &Identity, name: &str) -> Result<(), TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.ca_der())?;
    let presented = identity.presented();
    let server = ServerName::try_from(name.to_owned())
        .map_err(|err| rustls::Error::General(format!("{name:?} cannot be dialled: {err}")))?;
    let (leaf, rest) =
        presented.split_first().ok_or_else(|| rustls::Error::General("no certificate".to_owned()))?;
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build()?.verify_server_cert(
        leaf,
        rest,
        &server,
        &[],
        UnixTime::now(),
    )?;
    Ok(())
}

/// For a client that has only a join token: it trusts the CA with this fingerprint, which the server must
/// present in its chain, and presents nothing.
pub fn enrolment_config(ca: Fingerprint) -> Result<ClientConfig, TlsError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedCa { ca, provider: provider() }))
        .with_no_client_auth();
    Ok(finished(config))
}

fn finished(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would skip the check of the certificates.
    config.resumption = rustls::client::Resumption::disabled();
    config
}

/// Connects to `host:port` (`[::1]:7443` for IPv6), and returns once the server has accepted the handshake
/// and our certificate: at the latest after 15 seconds. The server's certificate must name `host`.
pub async fn dial(address: &str, config: ClientConfig) -> Result<Channel, DialError> {
    let bad_address = || DialError::Address { address: address.to_owned() };
    let (host, port) = address.rsplit_once(':').ok_or_else(bad_address)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port: u16 = port.parse().map_err(|_| bad_address())?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| bad_address())?;

    let unreachable = |source| DialError::Unreachable { address: address.to_owned(), source };
    let tcp = timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port)))
        .await
        .map_err(|_| unreachable(io::Error::new(io::ErrorKind::TimedOut, "no answer within 5 seconds")))?
        .map_err(unreachable)?;
    tcp.set_nodelay(true).map_err(unreachable)?;

    let handshake = async {
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        // In TLS 1.3 a client is done before the server has judged its certificate. An HTTP/2 server speaks
        // first, so its first byte, or its alert, is the verdict.
        if stream.fill_buf().await?.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed"));
        }
        Ok(stream)
    };
    let stream = timeout(HANDSHAKE_TIMEOUT, handshake)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer within 10 seconds")))
        .map_err(|err| handshake_error(address, err))?;
    channel(address, stream).await
}

/// An HTTP/2 connection over `stream`. The channel ends with it.
async fn channel(address: &str, stream: TlsStream<TcpStream>) -> Result<Channel, DialError> {
    let stream = Mutex::new(Some(TokioIo::new(stream)));
    let connector = tower::service_fn(move |_| {
        let stream = stream.lock().map(|mut stream| stream.take()).unwrap_or_default();
        let lost = || io::Error::new(io::ErrorKind::NotConnected, "the connection to the controller is lost");
        std::future::ready(stream.ok_or_else(lost))
    });
    // TLS is ours, so the transport sees a plain connection; the authority is what the requests name.
    Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| DialError::Address { address: address.to_owned() })?
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
        .map_err(|err| DialError::Handshake { address: address.to_owned(), source: io::Error::other(err) })
}

fn handshake_error(address: &str, source: io::Error) -> DialError {
    let address = address.to_owned();
    let tls = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(error)) => {
            DialError::NotTrusted { address, reason: certificate_reason(error) }
        }
        Some(rustls::Error::AlertReceived(alert)) => match alert_reason(*alert) {
            Some(reason) => DialError::RefusedUs { address, reason: reason.to_owned() },
            None => DialError::Handshake { address, source },
        },
        _ if source.kind() == io::ErrorKind::UnexpectedEof => {
            let source = io::Error::new(source.kind(), "it hung up during the handshake");
            DialError::Handshake { address, source }
        }
        _ => DialError::Handshake { address, source },
    }
}

fn certificate_reason(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is not from our CA".to_owned()
        }
        CertificateError::ApplicationVerificationFailure => {
            "it does not present the CA that the join token names".to_owned()
        }
        other => other.to_string(),
    }
}

/// What an alert says about our certificate; `None` for an alert about something else.
fn alert_reason(alert: AlertDescription) -> Option<&'static str> {
    match alert {
        AlertDescription::CertificateExpired => Some("it has expired"),
        AlertDescription::CertificateRevoked => Some("it is revoked"),
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            Some("it is from a CA that the controller does not know")
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied => Some("it is not one for this purpose"),
        AlertDescription::CertificateRequired => Some("it wants one and we have none"),
        _ => None,
    }
}

/// Trusts the one CA with this fingerprint, and through it what webpki accepts.
struct PinnedCa {
    ca: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ca = intermediates
            .iter()
            .find(|certificate| Fingerprint::of(certificate) == self.ca)
            .ok_or(CertificateError::ApplicationVerificationFailure)?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|err| rustls::Error::General(err.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 is required".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for PinnedCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedCa").field("ca", &self.ca).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rustls::ServerConfig;
    use rustls::server::WebPkiClientVerifier;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::testing::Authority;

    /// A server that greets as HTTP/2 does (an empty SETTINGS frame), once.
    async fn server(authority: &Authority, names: &[&str]) -> String {
        let mut roots = RootCertStore::empty();
        roots.add(authority.der()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .allow_unauthenticated()
            .build()
            .unwrap();
        let identity = authority.server(names);
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(identity.presented(), identity.key_der())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            if let Ok(mut stream) = TlsAcceptor::from(Arc::new(config)).accept(tcp).await {
                stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn a_certificate_of_the_same_ca_is_accepted() {
        let authority = Authority::new();
        let address = server(&authority, &["127.0.0.1"]).await;
        dial(&address, client_config(&authority.host("a")).unwrap()).await.unwrap();
    }

    #[tokio::test]
    async fn the_pinned_ca_is_enough_to_enrol_and_another_is_refused() {
        let authority = Authority::new();
        let address = server(&authority, &["127.0.0.1"]).await;
        dial(&address, enrolment_config(Fingerprint::of(&authority.der())).unwrap()).await.unwrap();

        let address = server(&authority, &["127.0.0.1"]).await;
        let other = enrolment_config(Fingerprint::of(&Authority::new().der())).unwrap();
        let err = dial(&address, other).await.unwrap_err();
        assert!(
            matches!(&err, DialError::NotTrusted { reason, .. } if reason.contains("join token")),
            "{err}"
        );
    }

    #[tokio::test]
    async fn a_pinned_ca_does_not_vouch_for_a_host_or_for_another_name() {
        let authority = Authority::new();
        let pinned = || enrolment_config(Fingerprint::of(&authority.der())).unwrap();
        let address = server(&authority, &["elsewhere"]).await;
        let err = dial(&address, pinned()).await.unwrap_err();
        assert!(matches!(err, DialError::NotTrusted { .. }), "{err}");
    }

    #[tokio::test]
    async fn a_foreign_server_and_a_foreign_client_are_told_apart() {
        let (ours, foreign) = (Authority::new(), Authority::new());
        let address = server(&foreign, &["127.0.0.1"]).await;
        let err = dial(&address, client_config(&ours.host("a")).unwrap()).await.unwrap_err();
        assert!(matches!(err, DialError::NotTrusted { .. }), "{err}");

        // A client that trusts the server, with a certificate from elsewhere.
        let address = server(&ours, &["127.0.0.1"]).await;
        let host = foreign.host("a");
        let mut roots = RootCertStore::empty();
        roots.add(ours.der()).unwrap();
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(host.presented(), host.key_der())
            .unwrap();
        let err = dial(&address, config).await.unwrap_err();
        assert!(matches!(err, DialError::RefusedUs { .. }), "{err}");
    }

    #[tokio::test]
    async fn nobody_there_and_nonsense_addresses_are_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let config = || client_config(&Authority::new().host("a")).unwrap();
        let err = dial(&address, config()).await.unwrap_err();
        assert!(err.to_string().starts_with(&format!("cannot reach {address}: ")), "{err}");
        for address in ["localhost", "localhost:x", ":1", "a b:1", "localhost:70000"] {
            assert!(matches!(dial(address, config()).await, Err(DialError::Address { .. })), "{address}");
        }
    }

    #[tokio::test]
    async fn a_server_that_speaks_no_tls_is_an_error_and_no_hang() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tcp.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
            let _ = tcp.read_to_end(&mut Vec::new()).await;
        });
        let err = dial(&address, client_config(&Authority::new().host("a")).unwrap()).await.unwrap_err();
        assert!(matches!(err, DialError::Handshake { .. }), "{err}");
    }
}
