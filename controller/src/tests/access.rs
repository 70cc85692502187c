//! Who gets in: over the wire, with real certificates, and with none.

use fleetvisor_proto::fleet::enrolment_client::EnrolmentClient;
use fleetvisor_proto::fleet::fleet_client::FleetClient;
use fleetvisor_proto::fleet::hosts_client::HostsClient;
use fleetvisor_proto::fleet::{
    CreateTokenRequest, EnrolRequest, FromHost, HostState, ListHostsRequest, RenewRequest, RunRequest,
    StatusRequest,
};
use fleetvisor_proto::identity::{Identity, signing_request};
use fleetvisor_proto::principal::{Principal, Role};
use fleetvisor_proto::tls::{self, DialError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::*;

fn code<T>(result: Result<T, Status>) -> Code {
    result.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// What each method answers. A request that is empty is invalid to a method that was reached, and that is enough.
async fn codes(channel: &Channel) -> Vec<(&'static str, Code)> {
    let mut enrolment = EnrolmentClient::new(channel.clone());
    let mut hosts = HostsClient::new(channel.clone());
    let mut fleet = FleetClient::new(channel.clone());
    let nothing = tokio_stream::iter(Vec::<FromHost>::new());
    vec![
        ("Enrol", code(enrolment.enrol(EnrolRequest::default()).await)),
        ("Renew", code(hosts.renew(RenewRequest::default()).await)),
        ("Link", code(hosts.link(nothing).await)),
        ("ListHosts", code(fleet.list_hosts(ListHostsRequest::default()).await)),
        ("Status", code(fleet.status(StatusRequest::default()).await)),
        ("Run", code(fleet.run(RunRequest::default()).await)),
        ("CreateToken", code(fleet.create_token(CreateTokenRequest::default()).await)),
    ]
}

#[tokio::test]
async fn every_method_answers_every_kind_of_certificate_as_the_table_says() {
    use Code::{InvalidArgument as Reached, Ok as Yes, PermissionDenied as No, Unauthenticated as Who};
    let served = Served::new().await;
    let operator = |role| served.controller.authority.operator(role, "alice").unwrap();
    let ca = served.controller.authority.fingerprint();
    let guest = tls::dial(&served.address.to_string(), tls::enrolment_config(ca).unwrap()).await.unwrap();
    let cases = [
        (guest, [Reached, Who, Who, Who, Who, Who, Who]),
        (served.dial(&served.host("web-01").await).await, [Reached, Reached, Yes, No, No, No, No]),
        (served.dial(&operator(Role::Viewer)).await, [Reached, No, No, Yes, Yes, No, No]),
        (served.dial(&operator(Role::Operator)).await, [Reached, No, No, Yes, Yes, Reached, No]),
        (served.dial(&operator(Role::Admin)).await, [Reached, No, No, Yes, Yes, Reached, Yes]),
    ];
    for (channel, expected) in cases {
        let codes = codes(&channel).await;
        assert_eq!(codes.iter().map(|(_, code)| *code).collect::<Vec<_>>(), expected, "{codes:?}");
    }
}

#[tokio::test]
async fn a_certificate_of_another_ca_ends_in_the_handshake() {
    let served = Served::new().await;
    let foreign = Authority::create().unwrap().operator(Role::Admin, "alice").unwrap();
    // It trusts this controller, and shows what another one signed.
    let ours = served.controller.authority.operator(Role::Admin, "alice").unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ours.ca_der()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(foreign.presented(), foreign.key_der())
        .unwrap();
    let err = tls::dial(&served.address.to_string(), config).await.unwrap_err();
    assert!(matches!(err, DialError::RefusedUs { .. }), "{err}");
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
async fn a_host_that_is_not_enrolled_any_more_is_refused_with_its_valid_certificate() {
    let served = Served::new().await;
    let mut hosts = HostsClient::new(served.dial(&served.host_certificate("gone")).await);
    let nothing = tokio_stream::iter(Vec::<FromHost>::new());
    let status = hosts.link(nothing).await.map(drop).unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "host gone is not enrolled"));
    let csr = signing_request().unwrap().csr;
    assert_eq!(code(hosts.renew(RenewRequest { csr }).await), Code::PermissionDenied);
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
