//! Join tokens: used once, for a while, and for the host they are meant for.

use std::time::{Duration, SystemTime};

use fleetvisor_proto::fleet::EnrolRequest;
use fleetvisor_proto::fleet::enrolment_client::EnrolmentClient;
use fleetvisor_proto::identity::{Identity, signing_request};
use fleetvisor_proto::principal::Principal;
use fleetvisor_proto::tls;
use fleetvisor_proto::token::{Fingerprint, JoinToken};
use fleetvisor_tests::{Fleet, wait_until};
use tonic::{Code, Status};

use super::{DB, block_on};

fn enrol(fleet: &Fleet, token: &JoinToken, host: &str) -> Result<Identity, Status> {
    let request = signing_request().expect("a request can be made");
    let certificate = block_on(async {
        let config = tls::enrolment_config(token.ca).expect("a fingerprint can be trusted");
        let channel = tls::dial(&format!("localhost:{}", fleet.port()), config).await.expect("it listens");
        EnrolmentClient::new(channel)
            .enrol(EnrolRequest { token: token.reveal(), host: host.to_owned(), csr: request.csr })
            .await
    })?;
    Ok(Identity::received(certificate.into_inner(), request.key).expect("what comes back is an identity"))
}

/// The identity of a host that nobody runs.
pub(super) fn enrolled(fleet: &Fleet, token: &JoinToken, host: &str) -> Identity {
    enrol(fleet, token, host).expect("the token is good")
}

fn token(fleet: &Fleet, arguments: &[&str]) -> JoinToken {
    fleet.token(arguments).parse().expect("ctl prints a token")
}

#[track_caller]
fn refused(answer: Result<Identity, Status>) -> Status {
    let status = answer.expect_err("it must be refused");
    assert!(matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated), "{status:?}");
    status
}

#[test]
fn a_token_is_good_for_one_host_once() {
    let fleet = Fleet::new();
    let token = token(&fleet, &["--ttl", "1h"]);
    let identity = enrolled(&fleet, &token, "web-01");
    assert_eq!(identity.principal().unwrap(), Principal::Host("web-01".to_owned()));
    refused(enrol(&fleet, &token, "web-01"));
    refused(enrol(&fleet, &token, "web-02"));
}

#[test]
fn a_token_expires() {
    let fleet = Fleet::new();
    let token = token(&fleet, &["--ttl", "1s"]);
    let made = SystemTime::now();
    wait_until("the token's second is over", || {
        made.elapsed().is_ok_and(|age| age > Duration::from_millis(1_500))
    });
    refused(enrol(&fleet, &token, "web-01"));
}

#[test]
fn a_token_for_one_host_joins_no_other() {
    let fleet = Fleet::new();
    let token = token(&fleet, &["--ttl", "1h", "--host", "web-01"]);
    refused(enrol(&fleet, &token, "web-02"));
    // Somebody else's attempt does not spend it.
    enrolled(&fleet, &token, "web-01");
}

#[test]
fn an_invented_token_is_refused() {
    let fleet = Fleet::new();
    let real = token(&fleet, &["--ttl", "1h"]);
    let invented = JoinToken::new(real.id, [7; 32], real.ca);
    let unknown = JoinToken::new([7; 8], [7; 32], real.ca);
    // Neither tells whether there is such a token.
    assert_eq!(
        refused(enrol(&fleet, &invented, "web-01")).message(),
        refused(enrol(&fleet, &unknown, "web-01")).message()
    );
    enrolled(&fleet, &real, "web-01");
}

#[test]
fn a_token_does_not_replace_a_host_that_is_there() {
    let fleet = Fleet::new();
    let host = fleet.join("db-01", "", DB);
    host.wait("db", "RUNNING");
    for name in ["", "../db-01", "db 01", "*", "-x", &"x".repeat(300)] {
        let token = token(&fleet, &["--ttl", "1h"]);
        enrol(&fleet, &token, name).expect_err("a name that can't be one is refused");
    }
    fleet.ctl(&["status", "db-01:all"]).expect_code(0);
}

#[test]
fn a_host_asks_nobody_who_is_not_the_controller_of_its_token() {
    let fleet = Fleet::new();
    let mut token = token(&fleet, &["--ttl", "1h"]);
    token.ca = Fingerprint([7; 32]);
    let mut host = fleet.host_config("db-01", "", &token.reveal(), fleet.port(), DB).prepare();
    host.start();
    host.wait("db", "RUNNING");
    host.wait_file("supervisord.log", "not trusted");
    assert!(!fleet.ctl(&["host", "list"]).stdout.contains("db-01"));
    // The fleet's trouble is not the programs'.
    assert_eq!(host.state("db"), "RUNNING");
}

#[test]
fn a_host_without_a_good_token_supervises_all_the_same() {
    let fleet = Fleet::new();
    let mut host = fleet.host_config("db-01", "", "nonsense\n", fleet.port(), DB).prepare();
    host.start();
    host.wait("db", "RUNNING");
    host.wait_file("supervisord.log", "token");
    assert!(!fleet.ctl(&["host", "list"]).stdout.contains("db-01"));
    host.stop();
    // Once it has one, it joins.
    host.dir().write("token", fleet.token(&["--ttl", "1h"]));
    host.start();
    fleet.wait_host("db-01", "online");
}
