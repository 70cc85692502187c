//! Who gets in: over the wire, with real certificates, and with none.

use fleetvisor_proto::fleet::enrolment_client::EnrolmentClient;
use fleetvisor_proto::fleet::hosts_client::HostsClient;
use fleetvisor_proto::fleet::{
    CreateTokenRequest, EnrolRequest, HostRequest, HostState, RenewRequest, RevokeOperatorRequest,
};
use fleetvisor_proto::identity::{Identity, signing_request};
use fleetvisor_proto::principal::{Principal, Role};
use fleetvisor_proto::tls::{self, DialError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::*;
use crate::access;
use crate::connection::{of_one, strangers_max};

fn code<T>(result: Result<T, Status>) -> Code {
    result.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// What a method answers to an empty request, whatever its kind. To a method that was reached it is invalid,
/// unknown or fine, and never a matter of who asked.
async fn answer(channel: &Channel, path: &'static str) -> Code {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    if grpc.ready().await.is_err() {
        return Code::Unavailable;
    }
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let request = tonic::Request::new(tokio_stream::iter([()]));
    match grpc.streaming(request, PathAndQuery::from_static(path), codec).await {
        Ok(response) => code(timeout(PATIENCE, response.into_inner().message()).await.expect("an answer")),
        Err(status) => status.code(),
    }
}

async fn assert_calls(whom: &str, channel: &Channel, may: impl Fn(&str) -> bool) {
    for path in fleetvisor_proto::METHODS {
        let code = answer(channel, path).await;
        let refused = matches!(code, Code::PermissionDenied | Code::Unauthenticated);
        assert_eq!(!refused, may(path), "{whom}: {path} answers {code:?}");
    }
}

fn method(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

/// What a viewer may call; an operator of a higher role may, too.
const READING: [&str; 3] = ["ListHosts", "Status", "RenewOperator"];

#[tokio::test]
async fn every_call_is_refused_to_everybody_who_may_not_make_it() {
    let served = Served::new().await;
    let authority = &served.controller.authority;
    let guest = tls::enrolment_config(authority.fingerprint()).unwrap();
    let guest = tls::dial(&served.address.to_string(), guest).await.unwrap();
    assert_calls("nobody", &guest, |path| method(path) == "Enrol").await;

    let host = served.dial(&served.host("web-01").await).await;
    assert_calls("a host", &host, |path| path.contains(".Host") || method(path) == "Enrol").await;

    let viewer = served.dial(&served.operator_identity(Role::Viewer, "").await).await;
    let by_viewer = |path: &str| judge(path, Role::Viewer, "");
    assert_calls("a viewer", &viewer, by_viewer).await;
    assert!(READING.iter().all(|method| by_viewer(&format!("/fleetvisor.v1.Fleet/{method}"))));
    let admins_only =
        ["CreateToken", "RevokeHost", "ForgetHost", "LabelHost", "AddOperator", "RevokeOperator", "Backup"];
    for refused in ["Run"].into_iter().chain(admins_only) {
        assert!(!by_viewer(&format!("/fleetvisor.v1.Fleet/{refused}")), "{refused}");
    }
    let operator = served.dial(&served.operator_identity(Role::Operator, "").await).await;
    let by_operator = |path: &str| judge(path, Role::Operator, "");
    assert_calls("an operator", &operator, by_operator).await;
    for refused in admins_only {
        assert!(!by_operator(&format!("/fleetvisor.v1.Fleet/{refused}")), "{refused}");
    }
    let limited = served.dial(&served.operator_identity(Role::Operator, "role=web").await).await;
    assert_calls("a limited operator", &limited, |path| judge(path, Role::Operator, "role=web")).await;
    let admin = served.dial(&served.operator_identity(Role::Admin, "").await).await;
    assert_calls("an admin", &admin, |path| !path.contains(".Host")).await;
}

/// As the access table has it, which its own test holds against a list.
fn judge(path: &str, role: Role, only: &str) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let operator = access::Operator { name: "a".to_owned(), role, only: only.parse().unwrap(), address };
    access::judge(path, Some(&access::Caller::Operator(operator))).is_ok()
}

#[tokio::test]
async fn certificates_that_do_not_count_may_only_do_what_anybody_may() {
    let served = Served::new().await;
    let authority = &served.controller.authority;
    // Connections from before are refused from the moment of the change, without any new handshake.
    let mut admin = served.operator(Role::Admin).await;
    let revoked = served.operator_identity(Role::Operator, "").await;
    let open = served.dial(&revoked).await;
    let name = "a-operator".to_owned();
    admin.revoke_operator(RevokeOperatorRequest { name }).await.unwrap();
    let enrol = |path: &str| method(path) == "Enrol";
    for path in ["/fleetvisor.v1.Fleet/ListHosts", "/fleetvisor.v1.Fleet/Run"] {
        assert_ne!(answer(&open, path).await, Code::Ok, "{path}");
    }
    assert_calls("a revoked operator", &served.dial(&revoked).await, enrol).await;

    let host = served.host("web-01").await;
    admin.revoke_host(HostRequest { host: "web-01".to_owned() }).await.unwrap();
    assert_calls("a revoked host", &served.dial(&host).await, enrol).await;

    // Signed by the CA, and yet nobody whom the store knows: whoever got hold of the CA's key has no fleet.
    let grant = Grant::new().unwrap();
    let made_up = authority.operator(Role::Admin, "eve", grant).unwrap();
    assert_calls("an operator who was never added", &served.dial(&made_up).await, enrol).await;
    let stolen_name = authority.operator(Role::Admin, "a-admin", grant).unwrap();
    assert_calls("an admin's name alone", &served.dial(&stolen_name).await, enrol).await;
    let made_up = served.host_certificate("web-02", grant);
    assert_calls("a host that never enrolled", &served.dial(&made_up).await, enrol).await;
}

/// Dials as somebody who trusts this controller and shows another certificate.
async fn show(served: &Served, shown: &Identity) -> Result<Channel, DialError> {
    let ours = served.operator_identity(Role::Admin, "").await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ours.ca_der()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(shown.presented(), shown.key_der())
        .unwrap();
    config.alpn_protocols = vec![tls::ALPN.to_vec()];
    tls::dial(&served.address.to_string(), config).await
}

fn self_signed(principal: &Principal) -> Identity {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::URI(principal.uri().try_into().unwrap())];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.self_signed(&key).unwrap().pem();
    Identity::new(certificate.clone(), certificate, key.serialize_pem()).unwrap()
}

#[tokio::test]
async fn foreign_self_signed_expired_and_unnamed_certificates_end_in_the_handshake() {
    let served = Served::new().await;
    let grant = Grant::new().unwrap();
    let foreign = Authority::create().unwrap().operator(Role::Admin, "a-admin", grant).unwrap();
    let admin = Principal::Operator { role: Role::Admin, name: "a-admin".to_owned() };
    let authority = &served.controller.authority;
    let over = |life| {
        let request = signing_request().unwrap();
        let signed = authority.operator_over(Role::Admin, "a-admin", grant, life, &request.csr).unwrap();
        Identity::received(signed, request.key).unwrap()
    };
    let expired = over(Duration::ZERO);
    // The end is a whole second, and that second is still good.
    let past = async {
        while expired.validity().1.secs() >= crate::clock::now().secs() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, past).await.unwrap();
    let server = authority.server(&["127.0.0.1".to_owned()]).unwrap();
    for (what, shown) in [
        ("foreign", foreign),
        ("self-signed", self_signed(&admin)),
        ("expired", expired),
        ("the controller's own", server),
    ] {
        let err = show(&served, &shown).await.unwrap_err();
        assert!(matches!(err, DialError::RefusedUs { .. }), "{what}: {err}");
    }
}

#[tokio::test]
async fn a_host_enrols_links_and_renews_for_itself() {
    let served = Served::new().await;
    let mut admin = served.operator(Role::Admin).await;
    let request = CreateTokenRequest { ttl_seconds: 60, host: "web-01".to_owned() };
    let token = admin.create_token(request).await.unwrap().into_inner().token;
    let parsed: fleetvisor_proto::token::JoinToken = token.parse().unwrap();
    let config = tls::enrolment_config(parsed.ca).unwrap();
    let channel = tls::dial(&served.address.to_string(), config).await.unwrap();
    let made = signing_request().unwrap();
    let request = EnrolRequest { token, host: "web-01".to_owned(), csr: made.csr };
    let mut enrolment = EnrolmentClient::new(channel);
    let certificate = enrolment.enrol(request.clone()).await.unwrap().into_inner();
    assert_eq!(code(enrolment.enrol(request).await), Code::Unauthenticated);
    let identity = Identity::received(certificate, made.key).unwrap();

    let mut hosts = HostsClient::new(served.dial(&identity).await);
    let csr = identity.renewal_request().unwrap();
    let certificate = hosts.renew(RenewRequest { csr }).await.unwrap().into_inner();
    let renewed = Identity::received(certificate, identity.key().to_owned()).unwrap();
    assert_eq!(renewed.principal().unwrap(), Principal::Host("web-01".to_owned()));
    let agent = Agent::connect(&served, &renewed).await;
    agent.say(hello("boot", 0, &[])).await;
    served.until("web-01", |host| host.state() == HostState::Online).await;
}

#[tokio::test]
async fn one_address_does_not_take_all_handshakes() {
    crate::run::raise_descriptors();
    let served = Served::new().await;
    let mut silent = Vec::new();
    for _ in 0..of_one(strangers_max()) {
        silent.push(TcpStream::connect(served.address).await.unwrap());
    }
    // Beyond its share it is hung up on at once, not after the 5 seconds of a handshake.
    let mut another = TcpStream::connect(served.address).await.unwrap();
    let end = timeout(Duration::from_secs(4), another.read_to_end(&mut Vec::new())).await;
    assert!(end.is_ok());
    drop(silent);
    assert!(served.list().await.is_empty());
}

#[tokio::test]
async fn garbage_on_the_port_is_answered_by_its_end_and_hurts_nobody() {
    let served = Served::new().await;
    let garbage: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        vec![0xff; 70_000],
        // A TLS record that promises more than it may.
        [&[0x16, 3, 1, 0xff, 0xff][..], &[0; 100]].concat(),
        Vec::new(),
    ];
    for bytes in garbage {
        let mut tcp = TcpStream::connect(served.address).await.unwrap();
        // The other end may hang up before it has read all.
        let _ = tcp.write_all(&bytes).await;
        let _ = tcp.shutdown().await;
        let end = timeout(PATIENCE, tcp.read_to_end(&mut Vec::new())).await;
        assert!(end.is_ok(), "still open after {} bytes", bytes.len());
    }
    assert!(served.list().await.is_empty());
}

#[tokio::test]
async fn garbage_inside_tls_is_answered_by_its_end_too() {
    let served = Served::new().await;
    let mut config = tls::enrolment_config(served.controller.authority.fingerprint()).unwrap();
    config.alpn_protocols.clear();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let tcp = TcpStream::connect(served.address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = connector.connect(name, tcp).await.unwrap();
    let _ = stream.write_all(&[0x55; 4096]).await;
    assert!(timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.is_ok());
    assert!(served.list().await.is_empty());
}

#[tokio::test]
async fn handshakes_that_never_come_do_not_keep_others_out() {
    let served = Served::new().await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(served.address).await.unwrap());
    }
    assert!(served.list().await.is_empty());
    // Each is hung up on in the end.
    let end = timeout(PATIENCE, silent[0].read_to_end(&mut Vec::new())).await;
    assert!(end.is_ok());
}
