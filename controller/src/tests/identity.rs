//! Certificates that become void while they are used, and what operators may do to hosts and to each other.

use fleetvisor_proto::fleet::enrolment_client::EnrolmentClient;
use fleetvisor_proto::fleet::{
    AddOperatorRequest, AuditRecord, AuditRequest, CreateTokenRequest, EnrolRequest, ForgetHostRequest,
    HostRequest, HostState, LabelHostRequest, ListOperatorsRequest, OperatorState, RenewOperatorRequest,
    RenewRequest, RevokeOperatorRequest, StatusRequest,
};
use fleetvisor_proto::principal::Principal;
use tonic::{Code, Status};

use super::*;
use crate::audit;

const WEB: [(&str, &str); 1] = [("web", "web_00")];

async fn next<T>(stream: &mut Streaming<T>) -> Result<Option<T>, Status> {
    timeout(PATIENCE, stream.message()).await.expect("no message")
}

fn host(name: &str) -> HostRequest {
    HostRequest { host: name.to_owned() }
}

async fn follow(client: &mut FleetClient<Channel>) -> Streaming<AuditRecord> {
    let request = AuditRequest { follow: true, ..AuditRequest::default() };
    client.audit(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_revoked_operators_open_stream_ends_with_the_reason_and_its_connection_is_cut() {
    let served = Served::new().await;
    let mut admin = served.operator(Role::Admin).await;
    let mut viewer = served.operator(Role::Viewer).await;
    let mut stream = follow(&mut viewer).await;
    admin.create_token(CreateTokenRequest::default()).await.unwrap();
    assert_eq!(next(&mut stream).await.unwrap().unwrap().seq, 1);
    admin.revoke_operator(RevokeOperatorRequest { name: "a-viewer".to_owned() }).await.unwrap();
    // What was revoked is not told to the one who was.
    let status = loop {
        match next(&mut stream).await {
            Ok(Some(record)) => assert!(record.seq <= 2),
            Ok(None) => panic!("it has ended without a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(status.message(), "operator a-viewer has been revoked by operator a-admin");
    let cut = async {
        // Refused at first, and then there is nobody to ask any more.
        while viewer.list_hosts(ListHostsRequest::default()).await.unwrap_err().code()
            == Code::PermissionDenied
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, cut).await.unwrap();
    // Others do not notice.
    admin.list_hosts(ListHostsRequest::default()).await.unwrap();
}

#[tokio::test]
async fn a_revoked_hosts_link_ends_at_once_and_only_a_token_for_it_lets_it_in_again() {
    let served = Served::new().await;
    let mut admin = served.operator(Role::Admin).await;
    let (mut agent, _) = served.agent("web-01", &WEB).await;
    let identity = served.host("web-01").await;
    let revoked = admin.revoke_host(host("web-01")).await.unwrap().into_inner();
    assert_eq!(revoked.state(), HostState::Revoked);
    let ended = async {
        loop {
            match agent.incoming.message().await {
                Ok(Some(ToHost { message: Some(to_host::Message::Farewell(farewell)) })) => {
                    assert!(farewell.reason.contains("revoked"), "{}", farewell.reason);
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(status) => {
                    break assert!(status.message().contains("revoked by operator a-admin"), "{status}");
                }
            }
        }
    };
    timeout(PATIENCE, ended).await.unwrap();
    served.until("web-01", |host| host.state() == HostState::Revoked && host.address.is_empty()).await;

    let mut hosts = HostsClient::new(served.dial(&identity).await);
    let status = hosts.link(tokio_stream::pending()).await.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("ctl host token --host web-01"), "{}", status.message());
    let shown = served.list().await.remove(0).refused.unwrap();
    assert!(shown.address.starts_with("127.0.0.1:") && shown.reason.contains("revoked"));
    assert_eq!(admin.revoke_host(host("web-01")).await.unwrap_err().code(), Code::FailedPrecondition);

    assert_eq!(enrol(&served, &mut admin, "", "web-01").await.unwrap_err().code(), Code::AlreadyExists);
    let anew = enrol(&served, &mut admin, "web-01", "web-01").await.unwrap();
    let agent = Agent::connect(&served, &anew).await;
    agent.say(hello("boot", 0, &WEB)).await;
    served.until("web-01", |host| host.state() == HostState::Online).await;
    // The certificate of before stays void, though it has not ended.
    let mut hosts = HostsClient::new(served.dial(&identity).await);
    let status = hosts.link(tokio_stream::pending()).await.map(drop).unwrap_err();
    assert!(status.message().contains("enrolled anew"), "{}", status.message());
}

async fn enrol(
    served: &Served,
    admin: &mut FleetClient<Channel>,
    bound: &str,
    name: &str,
) -> Result<Identity, Status> {
    let request = CreateTokenRequest { ttl_seconds: 60, host: bound.to_owned() };
    let token = admin.create_token(request).await.unwrap().into_inner().token;
    let config = tls::enrolment_config(served.controller.authority.fingerprint()).unwrap();
    let channel = tls::dial(&served.address.to_string(), config).await.unwrap();
    let made = signing_request().unwrap();
    let request = EnrolRequest { token, host: name.to_owned(), csr: made.csr };
    let certificate = EnrolmentClient::new(channel).enrol(request).await?.into_inner();
    Ok(Identity::received(certificate, made.key).unwrap())
}

#[tokio::test]
async fn a_host_that_enrols_anew_ends_the_link_of_whoever_held_its_name() {
    let served = Served::new().await;
    let mut admin = served.operator(Role::Admin).await;
    let (mut agent, _) = served.agent("web-01", &WEB).await;
    let anew = enrol(&served, &mut admin, "web-01", "web-01").await.unwrap();
    while agent.incoming.message().await.is_ok_and(|message| message.is_some()) {}
    let second = Agent::connect(&served, &anew).await;
    second.say(hello("another machine", 0, &WEB)).await;
    served.until("web-01", |host| host.state() == HostState::Online).await;
}

/// A certificate of web-01 that has ended `ago` before now.
fn ended(served: &Served, grant: Grant, ago: Duration) -> Identity {
    let request = signing_request().unwrap();
    let certificate = served.controller.authority.host_until_ago("web-01", grant, &request.csr, ago).unwrap();
    Identity::received(certificate, request.key).unwrap()
}

#[tokio::test]
async fn a_host_that_was_off_for_longer_than_its_certificate_renews_it_and_may_do_nothing_else() {
    let served = Served::new().await;
    served.host("web-01").await;
    let key = records::host_key("web-01");
    let record: HostRecord =
        records::decode(&key, &served.controller.store.get(&key).await.unwrap().unwrap()).unwrap();
    let grant = record.grant.unwrap();
    let late = ended(&served, grant, GRACE / 2);
    let mut hosts = HostsClient::new(served.dial(&late).await);
    let status = hosts.link(tokio_stream::pending()).await.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    let csr = late.renewal_request().unwrap();
    let certificate = hosts.renew(RenewRequest { csr }).await.unwrap().into_inner();
    let renewed = Identity::received(certificate, late.key().to_owned()).unwrap();
    let agent = Agent::connect(&served, &renewed).await;
    agent.say(hello("boot", 0, &WEB)).await;
    served.until("web-01", |host| host.state() == HostState::Online).await;

    let too_late = ended(&served, grant, GRACE * 2);
    let config = tls::client_config(&too_late).unwrap();
    let err = tls::dial(&served.address.to_string(), config).await.unwrap_err();
    assert!(err.to_string().contains("expired"), "{err}");
    // Revoked is revoked, however late.
    served.operator(Role::Admin).await.revoke_host(host("web-01")).await.unwrap();
    let mut hosts = HostsClient::new(served.dial(&late).await);
    let csr = late.renewal_request().unwrap();
    assert_eq!(hosts.renew(RenewRequest { csr }).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_limited_operator_sees_and_touches_its_own_hosts_alone() {
    let served = Served::new().await;
    let (_web, _) = served.agent("web-01", &WEB).await;
    served.host("db-01").await;
    let mut limited =
        FleetClient::new(served.dial(&served.operator_identity(Role::Operator, "role=web").await).await);
    let hosts = limited.list_hosts(ListHostsRequest::default()).await.unwrap().into_inner().hosts;
    assert_eq!(hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>(), ["web-01"]);
    for scope in
        [fleet::Scope::default(), fleet::Scope { labels: "role!=web".to_owned(), ..Default::default() }]
    {
        let request = StatusRequest { scope: Some(scope.clone()), targets: Vec::new() };
        let mut statuses = limited.status(request).await.unwrap().into_inner();
        while let Some(status) = next(&mut statuses).await.unwrap() {
            assert_eq!(status.host.unwrap().name, "web-01", "{scope:?}");
        }
    }
    assert_eq!(limited.revoke_host(host("web-01")).await.unwrap_err().code(), Code::PermissionDenied);
}

fn add(name: &str, role: &str, only: &str) -> (AddOperatorRequest, String) {
    let made = signing_request().unwrap();
    let request = AddOperatorRequest {
        name: name.to_owned(),
        role: role.to_owned(),
        only: only.to_owned(),
        ttl_seconds: 3600,
        csr: made.csr,
    };
    (request, made.key)
}

#[tokio::test]
async fn operators_are_added_renewed_and_revoked() {
    let served = Served::new().await;
    let mut admin = served.operator(Role::Admin).await;
    let (request, key) = add("bob", "operator", "role=web");
    let certificate = admin.add_operator(request.clone()).await.unwrap().into_inner();
    let bob = Identity::received(certificate, key).unwrap();
    let expected = Principal::Operator { role: Role::Operator, name: "bob".to_owned() };
    assert_eq!(bob.principal().unwrap(), expected);
    assert_eq!(admin.add_operator(request).await.unwrap_err().code(), Code::AlreadyExists);
    for (name, role, only) in [
        ("", "viewer", ""),
        ("a b", "viewer", ""),
        ("x", "root", ""),
        ("x", "viewer", "=,"),
        ("x", "admin", "a=b"),
    ] {
        let status = admin.add_operator(add(name, role, only).0).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{name:?} {role} {only:?}");
    }

    let mut client = FleetClient::new(served.dial(&bob).await);
    let renewal = |name: &str| RenewOperatorRequest {
        name: name.to_owned(),
        ttl_seconds: 7200,
        csr: bob.renewal_request().unwrap(),
    };
    let certificate = client.renew_operator(renewal("")).await.unwrap().into_inner();
    let renewed = Identity::received(certificate, bob.key().to_owned()).unwrap();
    assert!(renewed.validity().1 > bob.validity().1);
    assert_eq!(client.renew_operator(renewal("a-admin")).await.unwrap_err().code(), Code::PermissionDenied);
    admin.renew_operator(renewal("bob")).await.unwrap();
    assert_eq!(admin.renew_operator(renewal("nobody")).await.unwrap_err().code(), Code::NotFound);

    admin.revoke_operator(RevokeOperatorRequest { name: "bob".to_owned() }).await.unwrap();
    assert_eq!(admin.renew_operator(renewal("bob")).await.unwrap_err().code(), Code::FailedPrecondition);
    let operators = admin.list_operators(ListOperatorsRequest {}).await.unwrap().into_inner().operators;
    let listed: Vec<_> =
        operators.iter().map(|operator| (operator.name.as_str(), operator.state())).collect();
    assert_eq!(listed, [("a-admin", OperatorState::Active), ("bob", OperatorState::Revoked)]);
    let status =
        admin.revoke_operator(RevokeOperatorRequest { name: "a-admin".to_owned() }).await.unwrap_err();
    assert!(status.message().contains("last admin"), "{}", status.message());
    // Made anew under the same name, what was revoked stays so.
    admin.add_operator(add("bob", "viewer", "").0).await.unwrap();
    let mut client = FleetClient::new(served.dial(&renewed).await);
    let status = client.list_hosts(ListHostsRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn labels_of_operators_go_before_the_hosts_own_and_last() {
    let served = Served::new().await;
    let (_agent, _) = served.agent("web-01", &WEB).await;
    let mut admin = served.operator(Role::Admin).await;
    let label = |set: &[(&str, &str)], remove: &[&str]| LabelHostRequest {
        host: "web-01".to_owned(),
        set: set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        remove: remove.iter().map(|key| (*key).to_owned()).collect(),
    };
    let host = admin.label_host(label(&[("role", "db"), ("rack", "7")], &[])).await.unwrap().into_inner();
    assert_eq!((host.labels["role"].as_str(), host.labels["rack"].as_str()), ("db", "7"));
    assert_eq!(host.operator_labels.len(), 2);
    let scope = fleet::Scope { labels: "role=db".to_owned(), ..fleet::Scope::default() };
    let found = admin.list_hosts(ListHostsRequest { scope: Some(scope) }).await.unwrap().into_inner().hosts;
    assert_eq!(found.len(), 1);
    let host = admin.label_host(label(&[], &["role"])).await.unwrap().into_inner();
    assert_eq!(host.labels["role"], "web", "its own shows again");
    assert_eq!(admin.label_host(label(&[], &["role"])).await.unwrap_err().code(), Code::FailedPrecondition);
    for set in [("a b", "c"), ("a", "b,c"), ("a", ""), ("", "b"), ("!a", "b"), ("a", "b=c")] {
        let status = admin.label_host(label(&[set], &[])).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{set:?}");
    }
    // Also for a controller that starts anew.
    let second = Registry::new(Wall(0));
    second.load(&*served.controller.store).await.unwrap();
    assert_eq!(second.host("web-01").labels()["rack"], "7");
}

#[tokio::test]
async fn a_host_is_forgotten_when_it_is_away_or_by_force() {
    let served = Served::new().await;
    let (mut agent, _) = served.agent("web-01", &WEB).await;
    let identity = served.host("web-01").await;
    let mut admin = served.operator(Role::Admin).await;
    let forget = |force| ForgetHostRequest { host: "web-01".to_owned(), force };
    assert_eq!(admin.forget_host(forget(false)).await.unwrap_err().code(), Code::FailedPrecondition);
    admin.forget_host(forget(true)).await.unwrap();
    assert!(served.list().await.is_empty());
    while agent.incoming.message().await.is_ok_and(|message| message.is_some()) {}
    for prefix in [records::HOSTS, records::INVENTORY, records::DESIRED] {
        assert!(served.controller.store.list(prefix).await.unwrap().records.is_empty(), "{prefix}");
    }
    let mut hosts = HostsClient::new(served.dial(&identity).await);
    let status = hosts.link(tokio_stream::pending()).await.map(drop).unwrap_err();
    assert!(status.message().contains("not enrolled"), "{}", status.message());
    assert_eq!(admin.forget_host(forget(true)).await.unwrap_err().code(), Code::NotFound);
    // The name is free, for any token.
    enrol(&served, &mut admin, "", "web-01").await.unwrap();
}

#[tokio::test]
async fn every_change_is_in_the_audit_log_and_no_secret_is() {
    let served = Served::new().await;
    let mut admin = served.operator(Role::Admin).await;
    let token = admin.create_token(CreateTokenRequest::default()).await.unwrap().into_inner().token;
    enrol(&served, &mut admin, "", "web-01").await.unwrap();
    let set = [("a".to_owned(), "b".to_owned())].into();
    let label = LabelHostRequest { host: "web-01".to_owned(), set, remove: Vec::new() };
    admin.label_host(label).await.unwrap();
    admin.revoke_host(host("web-01")).await.unwrap();
    admin.forget_host(ForgetHostRequest { host: "web-01".to_owned(), force: false }).await.unwrap();
    let (request, _) = add("bob", "viewer", "");
    admin.add_operator(request).await.unwrap();
    admin.revoke_operator(RevokeOperatorRequest { name: "bob".to_owned() }).await.unwrap();

    let mut viewer = served.operator(Role::Viewer).await;
    assert_eq!(viewer.revoke_host(host("web-01")).await.unwrap_err().code(), Code::PermissionDenied);
    let mut followed = follow(&mut viewer).await;
    let mut whats = Vec::new();
    let mut texts = String::new();
    while whats.len() < 9 {
        let record = next(&mut followed).await.unwrap().unwrap();
        let text = String::from_utf8(record.payload).unwrap();
        let entry: audit::Entry = serde_json::from_str(&text).unwrap();
        assert!(entry.from.starts_with("127.0.0.1:"), "{text}");
        whats.push(entry.what);
        texts.push_str(&text);
    }
    let expected = [
        "token.create",
        "token.create",
        "host.enrol",
        "host.label",
        "host.revoke",
        "host.forget",
        "operator.add",
        "operator.revoke",
        "call",
    ];
    assert_eq!(whats, expected);
    assert!(texts.contains("\"who\":\"operator a-viewer\"") && texts.contains("\"outcome\":\"refused\""));
    let secret = token.split('.').nth(2).unwrap();
    for hidden in [secret, "PRIVATE KEY", "BEGIN"] {
        assert!(!texts.contains(hidden), "{texts}");
    }
    let listing = served.controller.store.list(audit::AUDIT).await.unwrap();
    audit::read::verify(fleetvisor_proto::audit::Head::START, &listing).unwrap();
}
