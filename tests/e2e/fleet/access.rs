//! Who is refused: without a certificate nothing is answered, and a certificate speaks for its holder alone.

use std::fs;
use std::path::{Path, PathBuf};

use fleetvisor_proto::fleet::fleet_client::FleetClient;
use fleetvisor_proto::fleet::from_host::Message;
use fleetvisor_proto::fleet::hosts_client::HostsClient;
use fleetvisor_proto::fleet::{
    CreateTokenRequest, FromHost, Hello, ListHostsRequest, RenewRequest, Report, RunRequest, StatusRequest,
    Verb,
};
use fleetvisor_proto::identity::{CA_FILE, CHAIN_FILE, Identity, KEY_FILE, signing_request};
use fleetvisor_proto::principal::Principal;
use fleetvisor_proto::tls;
use fleetvisor_proto::token::JoinToken;
use fleetvisor_tests::{Fleet, Host};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::{block_on, dial, pids, web};

/// Every call that only operators may make is refused.
async fn refused_as_operator(channel: Channel) {
    let mut fleet = FleetClient::new(channel);
    let run = RunRequest { verb: Verb::Stop.into(), ..RunRequest::default() };
    refused([
        fleet.create_token(CreateTokenRequest { ttl_seconds: 60, host: String::new() }).await.map(|_| ()),
        fleet.list_hosts(ListHostsRequest::default()).await.map(|_| ()),
        fleet.status(StatusRequest::default()).await.map(|_| ()),
        fleet.run(run).await.map(|_| ()),
    ]);
}

/// Every call that only hosts may make is refused.
async fn refused_as_host(channel: Channel) {
    let mut hosts = HostsClient::new(channel);
    let request = signing_request().expect("a request can be made");
    let hello = FromHost { message: Some(Message::Hello(Hello::default())) };
    refused([
        hosts.renew(RenewRequest { csr: request.csr }).await.map(|_| ()),
        hosts.link(Request::new(tokio_stream::iter([hello]))).await.map(|_| ()),
    ]);
}

#[track_caller]
fn refused<const N: usize>(answers: [Result<(), Status>; N]) {
    for answer in answers {
        let code = answer.expect_err("it must be refused").code();
        assert!(matches!(code, Code::PermissionDenied | Code::Unauthenticated), "{code:?}");
    }
}

#[test]
fn a_caller_without_a_certificate_gets_nothing() {
    let fleet = Fleet::new();
    let host = web(&fleet, "web-01");
    let before = pids(&host);
    let token: JoinToken = fleet.token(&["--ttl", "1h"]).parse().unwrap();
    block_on(async {
        let config = tls::enrolment_config(token.ca).unwrap();
        let channel = tls::dial(&format!("localhost:{}", fleet.port()), config)
            .await
            .expect("the handshake is open to those who want to enrol");
        refused_as_operator(channel.clone()).await;
        refused_as_host(channel).await;
    });
    assert_eq!(pids(&host), before);
}

/// An administrator of another controller.
fn stranger(fleet: &Fleet) -> PathBuf {
    let dir = fleet.dir().path().join("other");
    let name = dir.display().to_string();
    fleet.controller_command(&["init", "--dir", &name, "--name", "localhost"]).expect_code(0);
    dir.join("admin")
}

#[test]
fn a_certificate_of_another_ca_is_refused() {
    let fleet = Fleet::new();
    let host = web(&fleet, "web-01");
    let before = pids(&host);
    let stranger = stranger(&fleet);
    // To the stranger, our controller is the one that can't be trusted.
    let ran = fleet.ctl_as(&stranger, &["--all-hosts", "stop", "web:"]);
    assert!(matches!(ran.code(), 5 | 6), "{ran}");
    // And now one who has got hold of our CA's certificate, which is no secret.
    fs::copy(fleet.admin().join(CA_FILE), stranger.join(CA_FILE)).unwrap();
    fleet.ctl_as(&stranger, &["--all-hosts", "stop", "web:"]).expect_code(6);
    let dialled = block_on(dial(&fleet, &Identity::load(&stranger).unwrap()));
    assert!(dialled.is_err(), "the handshake itself fails");
    assert_eq!(pids(&host), before);
}

fn host_identity(host: &Host) -> PathBuf {
    host.path("fleet")
}

#[test]
fn a_host_cannot_act_as_an_operator() {
    let fleet = Fleet::new();
    let host = web(&fleet, "web-01");
    let before = pids(&host);
    let identity = host_identity(&host);
    for arguments in [&["--all-hosts", "stop", "web:"][..], &["--all-hosts", "status"], &["host", "token"]] {
        fleet.ctl_as(&identity, arguments).expect_code(6);
    }
    let identity = Identity::load(&identity).unwrap();
    block_on(async { refused_as_operator(dial(&fleet, &identity).await.unwrap()).await });
    assert_eq!(pids(&host), before);
}

#[test]
fn an_operator_cannot_act_as_a_host() {
    let fleet = Fleet::new();
    let identity = Identity::load(&fleet.admin()).unwrap();
    block_on(async { refused_as_host(dial(&fleet, &identity).await.unwrap()).await });
}

#[test]
fn a_renewal_is_for_the_callers_own_name() {
    let fleet = Fleet::new();
    let host = web(&fleet, "web-01");
    let identity = Identity::load(&host_identity(&host)).unwrap();
    let request = signing_request().unwrap();
    let certificate = block_on(async {
        let mut hosts = HostsClient::new(dial(&fleet, &identity).await.unwrap());
        hosts.renew(RenewRequest { csr: request.csr }).await.unwrap().into_inner()
    });
    let renewed = Identity::received(certificate, request.key).unwrap();
    assert_eq!(renewed.principal().unwrap(), Principal::Host("web-01".to_owned()));
    // Bytes that are no request are refused, and the controller goes on.
    let code = block_on(async {
        let mut hosts = HostsClient::new(dial(&fleet, &identity).await.unwrap());
        hosts.renew(RenewRequest { csr: vec![0x30, 0x82, 0xff, 0xff, 0] }).await.unwrap_err().code()
    });
    assert_eq!(code, Code::InvalidArgument);
    fleet.ctl(&["host", "list"]).expect_code(0);
}

#[test]
fn a_certificate_speaks_for_the_name_in_it_whatever_the_configuration_says() {
    let fleet = Fleet::new();
    let web_01 = web(&fleet, "web-01");
    // A second machine takes the certificate of the first and calls itself something else.
    let thief = fleet.host_config("web-02", "", "", fleet.port(), "").prepare();
    copy_identity(&host_identity(&web_01), &thief.path("fleet"));
    let mut thief = thief;
    thief.launch();
    thief.wait_file("supervisord.log", "web-01");
    let ran = fleet.ctl(&["host", "list"]).expect_code(0);
    assert!(!ran.stdout.contains("web-02"), "{ran}");
}

fn copy_identity(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in [CA_FILE, CHAIN_FILE, KEY_FILE] {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

#[test]
fn a_host_that_says_nonsense_harms_only_itself() {
    let fleet = Fleet::new();
    let host = web(&fleet, "web-01");
    let before = pids(&host);
    // Under the name of another host, so that the link of the first stays its own.
    let token: JoinToken = fleet.token(&["--ttl", "1h", "--host", "web-02"]).parse().unwrap();
    let identity = super::tokens::enrolled(&fleet, &token, "web-02");
    let nonsense = |message| FromHost { message };
    block_on(async {
        let mut hosts = HostsClient::new(dial(&fleet, &identity).await.unwrap());
        for first in [
            nonsense(None),
            nonsense(Some(Message::Report(Report { seq: u64::MAX, processes: Vec::new() }))),
            nonsense(Some(Message::Hello(Hello { observed_revision: u64::MAX, ..Hello::default() }))),
            nonsense(Some(Message::Hello(Hello { boot_id: "x".repeat(100_000), ..Hello::default() }))),
        ] {
            if let Ok(answer) = hosts.link(Request::new(tokio_stream::iter([first]))).await {
                let mut answers = answer.into_inner();
                // Whatever it says, it says it and closes.
                while let Ok(Some(_)) = answers.message().await {}
            }
        }
    });
    assert_eq!(pids(&host), before);
    fleet.ctl(&["status", "web-01:web:"]).expect_code(0);
}

#[test]
fn the_secret_files_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let fleet = Fleet::new();
    let host = web(&fleet, "web-01");
    for path in [fleet.admin().join(KEY_FILE), host_identity(&host).join(KEY_FILE)] {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
    }
}

#[test]
fn init_does_not_overwrite_what_is_there() {
    let fleet = Fleet::new();
    let before = fs::read(fleet.admin().join(CA_FILE)).unwrap();
    let dir = fleet.controller_dir().display().to_string();
    let ran = fleet.controller_command(&["init", "--dir", &dir, "--name", "localhost"]);
    assert_ne!(ran.code(), 0, "{ran}");
    assert!(ran.stderr.contains(&dir), "{ran}");
    assert_eq!(fs::read(fleet.admin().join(CA_FILE)).unwrap(), before);
}
