//! How a host comes into the fleet and stays in it: join tokens, the certificate that one is traded for, and
//! its renewal. Signing itself is [`crate::pki`]'s.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fleetvisor_model::time::Wall;
use fleetvisor_proto::fleet::enrolment_server::Enrolment;
use fleetvisor_proto::fleet::{Certificate, EnrolRequest};
use fleetvisor_proto::identity::certificate_validity;
use fleetvisor_proto::principal::check_host_name;
use fleetvisor_proto::token::JoinToken;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::access::{self, Operator};
use crate::audit::Entry;
use crate::clock;
use crate::controller::Controller;
use crate::grant::Grant;
use crate::pki::PkiError;
use crate::records::{self, HostRecord, TOKENS, TokenRecord};
use crate::shares::machine;
use crate::status::Failure;
use crate::store::{Expect, Store, StoreError, Transaction};

pub(crate) const TTL_DEFAULT: Duration = Duration::from_secs(600);
pub(crate) const TTL_MAX: Duration = Duration::from_secs(30 * 86_400);
const FAILURES_MAX: u32 = 10;
const FAILURES_WINDOW: Duration = Duration::from_secs(60);
const FAILURES_TRACKED: usize = 4096;

pub(crate) struct EnrolmentService(pub(crate) Arc<Controller>);

#[tonic::async_trait]
impl Enrolment for EnrolmentService {
    async fn enrol(&self, call: Request<EnrolRequest>) -> Result<Response<Certificate>, Status> {
        let address = access::peer(&call)?.address;
        let request = call.into_inner();
        let host = request.host.clone();
        if !self.0.attempts.may_try(address.ip(), Instant::now()) {
            let wait = FAILURES_WINDOW.as_secs();
            return Err(Status::resource_exhausted(format!("too many failed attempts; wait {wait} seconds")));
        }
        match enrol(&self.0, request, address).await {
            Ok(certificate) => {
                tracing::info!("host {host} has enrolled from {address}");
                Ok(Response::new(certificate))
            }
            Err(status) => {
                self.0.attempts.failed(address.ip(), Instant::now());
                tracing::warn!("{address} could not enrol as {host:?}: {}", status.message());
                Err(status)
            }
        }
    }
}

/// Spends the token and registers the host in one transaction; the certificate is made before, so that a
/// request that cannot be signed costs no token.
async fn enrol(
    controller: &Controller,
    request: EnrolRequest,
    address: SocketAddr,
) -> Result<Certificate, Status> {
    let token: JoinToken = request.token.parse().map_err(|err| Status::invalid_argument(format!("{err}")))?;
    let host = request.host;
    check_host_name(&host).map_err(|err| Status::invalid_argument(err.to_string()))?;

    let store = &*controller.store;
    let unknown = || Status::unauthenticated("the join token is not known, or has been used");
    let key = records::token_key(&token.id_text());
    let stored = store.get(&key).await.map_err(Failure::from)?.ok_or_else(unknown)?;
    let record: TokenRecord = records::decode(&key, &stored).map_err(Failure::from)?;
    if !record.hash().is_some_and(|hash| hash.matches(&token)) {
        return Err(unknown());
    }
    if record.has_expired(clock::now()) {
        return Err(Status::unauthenticated("the join token has expired; make a new one"));
    }
    if let Some(bound) = &record.host
        && *bound != host
    {
        return Err(Status::permission_denied(format!("the join token is for host {bound}, not for {host}")));
    }

    let host_key = records::host_key(&host);
    let enrolled = store.get(&host_key).await.map_err(Failure::from)?;
    let expect = match &enrolled {
        None => Expect::Absent,
        // Otherwise whoever holds any token could take over any host's name.
        Some(_) if record.host.is_none() => {
            return Err(Status::already_exists(format!(
                "a host {host} is enrolled already; a token for it is made with --host {host}"
            )));
        }
        Some(record) => Expect::Revision(record.revision),
    };
    let grant = Grant::new().map_err(Failure::from)?;
    let certificate = controller.authority.host(&host, grant, &request.csr).map_err(unsigned)?;
    let before: Option<HostRecord> =
        enrolled.map(|stored| records::decode(&host_key, &stored)).transpose().map_err(Failure::from)?;
    let labels = before.map(|before| before.labels).unwrap_or_default();
    let enrolled = HostRecord { enrolled: clock::now().0, grant: Some(grant), revoked: None, labels };
    let transaction = Transaction::default().delete_if(key, Expect::Revision(stored.revision)).put_if(
        host_key,
        expect,
        records::encode(&enrolled),
    );
    let detail = format!("with join token {} of {}", token.id_text(), record.by);
    let entry =
        Entry::new(format!("host {host}"), "host.enrol", &host).host(&host).from(address).detail(detail);
    match controller.audit.commit(entry, transaction).await {
        Ok(revision) => {
            controller.registry.enrolled(&host, enrolled, revision);
            let reason = format!("host {host} has enrolled anew from {address}");
            controller.sessions.end(&format!("host {host}"), Some(grant), &reason);
            Ok(certificate)
        }
        Err(StoreError::Conflict { .. }) => Err(unknown()),
        Err(error) => Err(Failure::from(error).into()),
    }
}

/// A new certificate for a host that has one with this grant.
pub(crate) fn renew(
    controller: &Controller,
    host: &str,
    grant: Option<Grant>,
    csr: &[u8],
) -> Result<Certificate, Status> {
    let grant = grant.ok_or_else(|| Status::permission_denied("this certificate is not the controller's"))?;
    let certificate = controller.authority.host(host, grant, csr).map_err(unsigned)?;
    if let (Some(host), Some((_, until))) =
        (controller.registry.known(host), certificate_validity(&certificate.chain))
    {
        host.set_certificate_expires(until);
    }
    Ok(certificate)
}

fn unsigned(error: PkiError) -> Status {
    match error {
        PkiError::Request(_) => Status::invalid_argument(error.to_string()),
        other => Failure::from(other).into(),
    }
}

/// Makes a token for one host, or for any. Returns it with its end.
pub(crate) async fn create_token(
    controller: &Controller,
    by: &Operator,
    ttl: Duration,
    host: Option<String>,
) -> Result<(JoinToken, Wall), Failure> {
    let (mut id, mut secret) = ([0; 8], [0; 32]);
    getrandom::fill(&mut id)?;
    getrandom::fill(&mut secret)?;
    let token = JoinToken::new(id, secret, controller.authority.fingerprint());
    let micros = i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX);
    let expires = Wall(clock::now().0.saturating_add(micros));
    let whom = host.as_ref().map_or("any host".to_owned(), |host| format!("host {host}"));
    let detail = format!("for {whom}, until {}", clock::utc(expires));
    let mut entry = by.does("token.create", token.id_text()).detail(detail);
    if let Some(host) = &host {
        entry = entry.host(host);
    }
    let record = TokenRecord::new(token.secret_hash(), expires, host, by.to_string());
    let key = records::token_key(&token.id_text());
    let transaction = Transaction::default().put_if(key, Expect::Absent, records::encode(&record));
    controller.audit.commit(entry, transaction).await?;
    Ok((token, expires))
}

/// Deletes the tokens that nobody used in time.
pub(crate) async fn sweep_tokens(store: &dyn Store) -> Result<(), Failure> {
    let now = clock::now();
    for (key, stored) in store.list(TOKENS).await?.records {
        let record: TokenRecord = records::decode(&key, &stored)?;
        if record.has_expired(now) {
            let transaction = Transaction::default().delete_if(key, Expect::Revision(stored.revision));
            match store.commit(transaction).await {
                // Spent in this moment, or swept before.
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Failed attempts by address: ten a minute, then the address waits. A token cannot be guessed; this bounds
/// what guessing costs us.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    failures: Mutex<HashMap<IpAddr, Failures>>,
}

#[derive(Debug)]
struct Failures {
    since: Instant,
    count: u32,
}

impl Attempts {
    fn may_try(&self, address: IpAddr, now: Instant) -> bool {
        let failures = self.failures.lock().expect("nothing panics while it counts");
        failures.get(&machine(address)).is_none_or(|failures| {
            failures.count < FAILURES_MAX || now.duration_since(failures.since) >= FAILURES_WINDOW
        })
    }

    fn failed(&self, address: IpAddr, now: Instant) {
        let mut failures = self.failures.lock().expect("nothing panics while it counts");
        if failures.len() >= FAILURES_TRACKED {
            failures.retain(|_, failures| now.duration_since(failures.since) < FAILURES_WINDOW);
        }
        if failures.len() >= FAILURES_TRACKED {
            return;
        }
        let entry = failures.entry(machine(address)).or_insert_with(|| Failures { since: now, count: 0 });
        if now.duration_since(entry.since) >= FAILURES_WINDOW {
            *entry = Failures { since: now, count: 0 };
        }
        entry.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use fleetvisor_proto::identity::{Identity, signing_request};
    use fleetvisor_proto::principal::{Principal, Role};
    use tokio::sync::watch;
    use tonic::Code;

    use super::*;
    use crate::pki::Authority;
    use crate::registry::Registry;
    use crate::store::memory::MemoryStore;

    const FROM: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

    fn controller() -> Controller {
        let store = Arc::new(MemoryStore::default());
        let registry = Arc::new(Registry::new(Wall(0)));
        let authority = Authority::create().unwrap();
        Controller::new(store, registry, authority, String::new(), watch::channel(None).1)
    }

    fn admin() -> Operator {
        let only = fleetvisor_model::selector::Selector::default();
        Operator { name: "admin".to_owned(), role: Role::Admin, only, address: FROM }
    }

    fn is_enrolled(controller: &Controller, host: &str, identity: &Identity) -> Result<(), String> {
        let leaf = identity.presented().swap_remove(0);
        let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
        controller.registry.admit(host, Grant::of_serial(leaf.raw_serial()), FROM)
    }

    async fn token(controller: &Controller, host: Option<&str>, ttl: Duration) -> String {
        let host = host.map(str::to_owned);
        create_token(controller, &admin(), ttl, host).await.unwrap().0.reveal()
    }

    async fn try_enrol(controller: &Controller, token: &str, host: &str) -> Result<Certificate, Code> {
        let csr = signing_request().unwrap().csr;
        let request = EnrolRequest { token: token.to_owned(), host: host.to_owned(), csr };
        enrol(controller, request, FROM).await.map_err(|status| status.code())
    }

    #[tokio::test]
    async fn a_token_makes_one_host() {
        let controller = controller();
        let token = token(&controller, None, TTL_DEFAULT).await;
        let request = signing_request().unwrap();
        let enrol_request =
            EnrolRequest { token: token.clone(), host: "web-01".to_owned(), csr: request.csr };
        let certificate = enrol(&controller, enrol_request, FROM).await.unwrap();
        let identity = Identity::received(certificate, request.key).unwrap();
        assert_eq!(identity.principal().unwrap(), Principal::Host("web-01".to_owned()));
        assert_eq!(identity.ca_fingerprint(), controller.authority.fingerprint());
        is_enrolled(&controller, "web-01", &identity).unwrap();
        assert_eq!(try_enrol(&controller, &token, "web-02").await.unwrap_err(), Code::Unauthenticated);
        assert!(is_enrolled(&controller, "web-02", &identity).is_err());
    }

    #[tokio::test]
    async fn of_two_who_use_a_token_at_once_one_gets_in() {
        let controller = controller();
        let token = token(&controller, None, TTL_DEFAULT).await;
        let (a, b) = tokio::join!(try_enrol(&controller, &token, "a"), try_enrol(&controller, &token, "b"));
        assert!(a.is_ok() != b.is_ok());
    }

    #[tokio::test]
    async fn an_enrolled_name_is_taken_over_only_by_a_token_for_it() {
        let controller = controller();
        let first = token(&controller, None, TTL_DEFAULT).await;
        try_enrol(&controller, &first, "web-01").await.unwrap();
        let any = token(&controller, None, TTL_DEFAULT).await;
        assert_eq!(try_enrol(&controller, &any, "web-01").await.unwrap_err(), Code::AlreadyExists);
        try_enrol(&controller, &any, "web-02").await.unwrap();
        let bound = token(&controller, Some("web-01"), TTL_DEFAULT).await;
        assert_eq!(try_enrol(&controller, &bound, "web-03").await.unwrap_err(), Code::PermissionDenied);
        try_enrol(&controller, &bound, "web-01").await.unwrap();
    }

    #[tokio::test]
    async fn tokens_that_are_wrong_late_or_damaged_are_refused_and_requests_that_are_cost_none() {
        let controller = controller();
        let late = token(&controller, None, Duration::ZERO).await;
        assert_eq!(try_enrol(&controller, &late, "a").await.unwrap_err(), Code::Unauthenticated);
        let good = token(&controller, None, TTL_DEFAULT).await;
        let parsed: JoinToken = good.parse().unwrap();
        let forged = JoinToken::new(parsed.id, [0; 32], parsed.ca).reveal();
        assert_eq!(try_enrol(&controller, &forged, "a").await.unwrap_err(), Code::Unauthenticated);
        assert_eq!(try_enrol(&controller, "fv1.x", "a").await.unwrap_err(), Code::InvalidArgument);
        assert_eq!(try_enrol(&controller, &good, "../a").await.unwrap_err(), Code::InvalidArgument);
        let request = EnrolRequest { token: good.clone(), host: "a".to_owned(), csr: b"garbage".to_vec() };
        assert_eq!(enrol(&controller, request, FROM).await.unwrap_err().code(), Code::InvalidArgument);
        try_enrol(&controller, &good, "a").await.unwrap();
    }

    #[tokio::test]
    async fn only_late_tokens_are_swept() {
        let controller = controller();
        token(&controller, None, Duration::ZERO).await;
        let good = token(&controller, None, TTL_DEFAULT).await;
        sweep_tokens(&*controller.store).await.unwrap();
        assert_eq!(controller.store.list(TOKENS).await.unwrap().records.len(), 1);
        try_enrol(&controller, &good, "a").await.unwrap();
    }

    #[test]
    fn an_address_that_keeps_failing_has_to_wait() {
        let attempts = Attempts::default();
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let now = Instant::now();
        for _ in 0..FAILURES_MAX {
            assert!(attempts.may_try(one, now));
            attempts.failed(one, now);
        }
        assert!(!attempts.may_try(one, now) && attempts.may_try(other, now));
        assert!(attempts.may_try(one, now + FAILURES_WINDOW));
    }
}
