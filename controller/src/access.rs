//! Who may call what: one table, judged at one place, before any method runs. A method that is not in the
//! table is refused, so a new one is closed until somebody opens it here.
//!
//! A certificate says who calls; whether it still counts is for the store's record of the host or operator, as
//! it is at this moment: each call looks there, and a stream that is under way when a certificate becomes void ends.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use fleetvisor_model::selector::Selector;
use fleetvisor_proto::fleet;
use fleetvisor_proto::principal::{Principal, Role};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::{Request as Call, Status};
use tower::{Layer, Service};

use crate::audit::{Entry, Outcome};
use crate::clock;
use crate::connection::{Certificate, Peer};
use crate::controller::Controller;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Allowed {
    /// Also without a certificate.
    Anyone,
    /// Every host, for itself.
    Hosts,
    /// Operators of this role or a higher one. One that is limited to some hosts gets those alone: the method
    /// narrows what is asked by [`Operator::narrow`].
    Operators(Role),
    /// Operators of this role or a higher one who are not limited to some hosts.
    FleetWide(Role),
}

/// The one method that a host may call with a certificate that has ended.
const RENEW: &str = "/fleetvisor.v1.Hosts/Renew";

const TABLE: &[(&str, Allowed)] = &[
    ("/fleetvisor.v1.Enrolment/Enrol", Allowed::Anyone),
    ("/fleetvisor.v1.Hosts/Renew", Allowed::Hosts),
    ("/fleetvisor.v1.Hosts/Link", Allowed::Hosts),
    ("/fleetvisor.v1.HostLogs/Send", Allowed::Hosts),
    ("/fleetvisor.v1.HostBundles/Fetch", Allowed::Hosts),
    ("/fleetvisor.v1.Fleet/ListHosts", Allowed::Operators(Role::Viewer)),
    ("/fleetvisor.v1.Fleet/Status", Allowed::Operators(Role::Viewer)),
    ("/fleetvisor.v1.Fleet/Run", Allowed::Operators(Role::Operator)),
    // Programs write secrets into their logs.
    ("/fleetvisor.v1.Fleet/Tail", Allowed::Operators(Role::Operator)),
    ("/fleetvisor.v1.Bundles/List", Allowed::FleetWide(Role::Viewer)),
    ("/fleetvisor.v1.Bundles/Show", Allowed::FleetWide(Role::Viewer)),
    ("/fleetvisor.v1.Bundles/History", Allowed::FleetWide(Role::Viewer)),
    // What was accepted once may be taken up again by whoever operates.
    ("/fleetvisor.v1.Bundles/Rollback", Allowed::FleetWide(Role::Operator)),
    // A bundle can run anything as anybody.
    ("/fleetvisor.v1.Bundles/Push", Allowed::FleetWide(Role::Admin)),
    ("/fleetvisor.v1.Bundles/Delete", Allowed::FleetWide(Role::Admin)),
    ("/fleetvisor.v1.Bundles/Pull", Allowed::FleetWide(Role::Admin)),
    ("/fleetvisor.v1.Fleet/CreateToken", Allowed::FleetWide(Role::Admin)),
    ("/fleetvisor.v1.Fleet/Audit", Allowed::FleetWide(Role::Viewer)),
    ("/fleetvisor.v1.Fleet/Backup", Allowed::FleetWide(Role::Admin)),
    ("/fleetvisor.v1.Fleet/RevokeHost", Allowed::FleetWide(Role::Admin)),
    ("/fleetvisor.v1.Fleet/ForgetHost", Allowed::FleetWide(Role::Admin)),
    ("/fleetvisor.v1.Fleet/LabelHost", Allowed::FleetWide(Role::Admin)),
    ("/fleetvisor.v1.Fleet/AddOperator", Allowed::FleetWide(Role::Admin)),
    // For oneself; the method asks for an admin where it is for somebody else.
    ("/fleetvisor.v1.Fleet/RenewOperator", Allowed::Operators(Role::Viewer)),
    ("/fleetvisor.v1.Fleet/RevokeOperator", Allowed::FleetWide(Role::Admin)),
    ("/fleetvisor.v1.Fleet/ListOperators", Allowed::FleetWide(Role::Admin)),
    ("/fleetvisor.v1.Fleet/Plan", Allowed::Operators(Role::Viewer)),
    ("/fleetvisor.v1.Fleet/ListOperations", Allowed::FleetWide(Role::Viewer)),
    ("/fleetvisor.v1.Fleet/ShowOperation", Allowed::FleetWide(Role::Viewer)),
    ("/fleetvisor.v1.Fleet/WatchOperation", Allowed::FleetWide(Role::Viewer)),
    ("/fleetvisor.v1.Fleet/CancelOperation", Allowed::FleetWide(Role::Operator)),
    ("/fleetvisor.v1.Fleet/ResumeOperation", Allowed::FleetWide(Role::Operator)),
    // Also of hosts that a limited operator may not see.
    ("/fleetvisor.v1.Fleet/Events", Allowed::FleetWide(Role::Viewer)),
];

/// Whoever calls, as the records have it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Caller {
    Controller,
    Host(String),
    Operator(Operator),
}

/// An operator who calls. Displays as records name it: `operator alice`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Operator {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// Hosts that it is limited to.
    pub(crate) only: Selector,
    pub(crate) address: SocketAddr,
}

impl Operator {
    /// What of a scope this operator may see and touch.
    pub(crate) fn narrow(&self, scope: Option<fleet::Scope>) -> fleet::Scope {
        let mut scope = scope.unwrap_or_default();
        let terms = [scope.labels.trim().to_owned(), self.only.to_string()];
        scope.labels = terms.into_iter().filter(|terms| !terms.is_empty()).collect::<Vec<_>>().join(",");
        scope
    }

    /// The beginning of an audit record of what it does.
    pub(crate) fn does(&self, what: &str, subject: impl Into<String>) -> Entry {
        Entry::new(self, what, subject).from(self.address)
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operator {}", self.name)
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Caller::Controller => f.write_str("the controller"),
            Caller::Host(name) => write!(f, "host {name}"),
            Caller::Operator(operator) => operator.fmt(f),
        }
    }
}

/// Whether `caller`, nobody for a caller without a certificate, may call `path`.
pub(crate) fn judge(path: &str, caller: Option<&Caller>) -> Result<(), Status> {
    let allowed = TABLE.iter().find(|(method, _)| *method == path).map(|(_, allowed)| *allowed);
    if allowed == Some(Allowed::Anyone) {
        return Ok(());
    }
    let Some(caller) = caller else {
        return Err(Status::unauthenticated("this needs a certificate of the fleet, and none was presented"));
    };
    let refused = |reason: String| Err(Status::permission_denied(reason));
    match (allowed, caller) {
        (None, _) => refused(format!("{caller} may not call {path}: there is no such method")),
        (Some(Allowed::Anyone), _) | (Some(Allowed::Hosts), Caller::Host(_)) => Ok(()),
        (Some(Allowed::Hosts), Caller::Controller | Caller::Operator(_)) => {
            refused(format!("{caller} is no host"))
        }
        (Some(Allowed::Operators(least) | Allowed::FleetWide(least)), Caller::Operator(operator)) => {
            if operator.role < least {
                refused(format!("{caller} has the role {}, and this needs the role {least}", operator.role))
            } else if matches!(allowed, Some(Allowed::FleetWide(_))) && !operator.only.is_empty() {
                refused(format!(
                    "{caller} is limited to hosts with {}, and this concerns the whole fleet",
                    operator.only
                ))
            } else {
                Ok(())
            }
        }
        (Some(Allowed::Operators(_) | Allowed::FleetWide(_)), Caller::Controller | Caller::Host(_)) => {
            refused(format!("{caller} is no operator"))
        }
    }
}

/// Who the holder of a certificate is at this moment, if the certificate counts.
fn recognise(
    controller: &Controller,
    path: &str,
    peer: &Peer,
    certificate: &Certificate,
) -> Result<Caller, Status> {
    let expired = clock::now() >= certificate.expires;
    match &certificate.principal {
        Principal::Controller => Ok(Caller::Controller),
        Principal::Host(name) => {
            controller
                .registry
                .admit(name, certificate.grant, peer.address)
                .map_err(Status::permission_denied)?;
            if expired && path != RENEW {
                // A code of its own: the host renews, and comes again.
                return Err(Status::failed_precondition(
                    "the host's certificate has expired; it is to be renewed",
                ));
            }
            Ok(Caller::Host(name.clone()))
        }
        Principal::Operator { name, .. } => {
            if expired {
                let reason = format!("the certificate of operator {name} has expired; an admin can renew it");
                return Err(Status::unauthenticated(reason));
            }
            let (role, only) =
                controller.operators.admit(name, certificate.grant).map_err(Status::permission_denied)?;
            Ok(Caller::Operator(Operator { name: name.clone(), role, only, address: peer.address }))
        }
    }
}

/// The host that calls.
pub(crate) fn calling_host<T>(call: &Call<T>) -> Result<String, Status> {
    match call.extensions().get() {
        Some(Caller::Host(name)) => Ok(name.clone()),
        _ => Err(Status::permission_denied("the caller is no host")),
    }
}

/// The operator who calls.
pub(crate) fn calling_operator<T>(call: &Call<T>) -> Result<Operator, Status> {
    match call.extensions().get() {
        Some(Caller::Operator(operator)) => Ok(operator.clone()),
        _ => Err(Status::permission_denied("the caller is no operator")),
    }
}

pub(crate) fn peer<T>(call: &Call<T>) -> Result<Peer, Status> {
    call.extensions().get::<Peer>().cloned().ok_or_else(|| Status::internal("a call without a connection"))
}

/// Puts the judgement in front of all services.
#[derive(Clone)]
pub(crate) struct AccessLayer(pub(crate) Arc<Controller>);

#[derive(Clone)]
pub(crate) struct Access<S> {
    inner: S,
    controller: Arc<Controller>,
}

impl<S> Layer<S> for AccessLayer {
    type Service = Access<S>;

    fn layer(&self, inner: S) -> Access<S> {
        Access { inner, controller: self.0.clone() }
    }
}

impl<S> Service<Request<Body>> for Access<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let peer = request.extensions().get::<Peer>().cloned();
        let certificate = peer.as_ref().and_then(|peer| peer.certificate.as_ref().map(|held| (peer, held)));
        // What anybody may is not refused to somebody for a certificate that is void.
        let presented = certificate.filter(|_| judge(&path, None).is_err());
        let caller = presented.map(|(peer, held)| recognise(&self.controller, &path, peer, held)).transpose();
        let verdict = caller.and_then(|caller| judge(&path, caller.as_ref()).map(|()| caller));
        match verdict {
            Ok(caller) => {
                if let Some(caller) = caller {
                    request.extensions_mut().insert(caller);
                }
                let ended = certificate.map(|(_, held)| held.ended.clone());
                let answer = self.inner.call(request);
                async move {
                    let response = answer.await?;
                    Ok(match ended {
                        Some(ended) => response.map(|body| Body::new(UntilVoid::new(body, ended.reason()))),
                        None => response,
                    })
                }
                .boxed()
            }
            Err(status) => {
                match (&peer, certificate) {
                    (Some(Peer { address, .. }), Some((_, held))) => {
                        let news = self.controller.refusals.is_news(
                            &held.principal.to_string(),
                            &path,
                            Instant::now(),
                        );
                        if news {
                            tracing::warn!(
                                "refused {path} from {} at {address}: {}",
                                held.principal,
                                status.message()
                            );
                            self.note(&held.principal, &path, *address, status.message());
                        }
                    }
                    // Anyone can cause this, so it must not fill the log.
                    _ => tracing::debug!("refused {path}: {}", status.message()),
                }
                std::future::ready(Ok(status.into_http())).boxed()
            }
        }
    }
}

impl<S> Access<S> {
    /// Leaves a record of what an operator was refused.
    fn note(&self, principal: &Principal, path: &str, address: SocketAddr, reason: &str) {
        if !matches!(principal, Principal::Operator { .. }) {
            return;
        }
        let method = path.rsplit('/').next().unwrap_or_default();
        let entry =
            Entry::new(principal, "call", method).from(address).detail(reason).outcome(Outcome::Refused);
        let controller = self.controller.clone();
        tokio::spawn(async move { controller.audit.note(entry).await });
    }
}

/// An answer that ends with the reason, as its status, when the caller's certificate becomes void.
struct UntilVoid {
    inner: Option<Body>,
    void: BoxFuture<'static, String>,
}

impl UntilVoid {
    fn new(inner: Body, void: impl Future<Output = String> + Send + 'static) -> UntilVoid {
        UntilVoid { inner: Some(inner), void: void.boxed() }
    }
}

impl HttpBody for UntilVoid {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        if let Poll::Ready(reason) = this.void.as_mut().poll(cx) {
            this.inner = None;
            let mut trailers = HeaderMap::new();
            return Poll::Ready(match Status::permission_denied(reason).add_header(&mut trailers) {
                Ok(()) => Some(Ok(Frame::trailers(trailers))),
                Err(error) => Some(Err(error)),
            });
        }
        Pin::new(inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn operator(role: Role, only: &str) -> Caller {
        let only = Selector::parse(only).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        Caller::Operator(Operator { name: "alice".to_owned(), role, only, address })
    }

    #[test]
    fn the_table_is_the_protocols_methods_and_no_other() {
        let mut methods = fleetvisor_proto::METHODS.to_vec();
        let mut table: Vec<&str> = TABLE.iter().map(|(method, _)| *method).collect();
        methods.sort();
        table.sort();
        assert_eq!(methods, table);
    }

    #[test]
    fn every_method_answers_each_kind_of_caller_as_decided() {
        use Code::{Ok as Yes, PermissionDenied as No, Unauthenticated as Who};
        let callers = [
            None,
            Some(Caller::Controller),
            Some(Caller::Host("web-01".to_owned())),
            Some(operator(Role::Viewer, "")),
            Some(operator(Role::Operator, "")),
            Some(operator(Role::Admin, "")),
            Some(operator(Role::Operator, "role=web")),
        ];
        let expected = [
            ("/fleetvisor.v1.Fleet/Plan", [Who, No, No, Yes, Yes, Yes, Yes]),
            ("/fleetvisor.v1.Fleet/ListOperations", [Who, No, No, Yes, Yes, Yes, No]),
            ("/fleetvisor.v1.Fleet/ShowOperation", [Who, No, No, Yes, Yes, Yes, No]),
            ("/fleetvisor.v1.Fleet/WatchOperation", [Who, No, No, Yes, Yes, Yes, No]),
            ("/fleetvisor.v1.Fleet/CancelOperation", [Who, No, No, No, Yes, Yes, No]),
            ("/fleetvisor.v1.Fleet/ResumeOperation", [Who, No, No, No, Yes, Yes, No]),
            ("/fleetvisor.v1.Enrolment/Enrol", [Yes, Yes, Yes, Yes, Yes, Yes, Yes]),
            ("/fleetvisor.v1.Hosts/Renew", [Who, No, Yes, No, No, No, No]),
            ("/fleetvisor.v1.Hosts/Link", [Who, No, Yes, No, No, No, No]),
            ("/fleetvisor.v1.HostLogs/Send", [Who, No, Yes, No, No, No, No]),
            ("/fleetvisor.v1.Fleet/Tail", [Who, No, No, No, Yes, Yes, Yes]),
            ("/fleetvisor.v1.Fleet/ListHosts", [Who, No, No, Yes, Yes, Yes, Yes]),
            ("/fleetvisor.v1.Fleet/Status", [Who, No, No, Yes, Yes, Yes, Yes]),
            ("/fleetvisor.v1.Fleet/Run", [Who, No, No, No, Yes, Yes, Yes]),
            ("/fleetvisor.v1.Fleet/CreateToken", [Who, No, No, No, No, Yes, No]),
            ("/fleetvisor.v1.Fleet/Audit", [Who, No, No, Yes, Yes, Yes, No]),
            ("/fleetvisor.v1.Fleet/Backup", [Who, No, No, No, No, Yes, No]),
            ("/fleetvisor.v1.Fleet/Events", [Who, No, No, Yes, Yes, Yes, No]),
            ("/fleetvisor.v1.Fleet/RevokeHost", [Who, No, No, No, No, Yes, No]),
            ("/fleetvisor.v1.Fleet/ForgetHost", [Who, No, No, No, No, Yes, No]),
            ("/fleetvisor.v1.Fleet/LabelHost", [Who, No, No, No, No, Yes, No]),
            ("/fleetvisor.v1.Fleet/AddOperator", [Who, No, No, No, No, Yes, No]),
            ("/fleetvisor.v1.Fleet/RenewOperator", [Who, No, No, Yes, Yes, Yes, Yes]),
            ("/fleetvisor.v1.Fleet/RevokeOperator", [Who, No, No, No, No, Yes, No]),
            ("/fleetvisor.v1.Fleet/ListOperators", [Who, No, No, No, No, Yes, No]),
            ("/fleetvisor.v1.HostBundles/Fetch", [Who, No, Yes, No, No, No, No]),
            ("/fleetvisor.v1.Bundles/List", [Who, No, No, Yes, Yes, Yes, No]),
            ("/fleetvisor.v1.Bundles/Show", [Who, No, No, Yes, Yes, Yes, No]),
            ("/fleetvisor.v1.Bundles/History", [Who, No, No, Yes, Yes, Yes, No]),
            ("/fleetvisor.v1.Bundles/Rollback", [Who, No, No, No, Yes, Yes, No]),
            ("/fleetvisor.v1.Bundles/Push", [Who, No, No, No, No, Yes, No]),
            ("/fleetvisor.v1.Bundles/Delete", [Who, No, No, No, No, Yes, No]),
            ("/fleetvisor.v1.Bundles/Pull", [Who, No, No, No, No, Yes, No]),
            ("/fleetvisor.v1.Fleet/Unheard", [Who, No, No, No, No, No, No]),
            ("/", [Who, No, No, No, No, No, No]),
        ];
        assert_eq!(expected.len(), fleetvisor_proto::METHODS.len() + 2);
        for (path, codes) in expected {
            for (caller, code) in callers.iter().zip(codes) {
                let verdict = judge(path, caller.as_ref());
                assert_eq!(verdict.map_or_else(|status| status.code(), |()| Yes), code, "{path} {caller:?}");
            }
        }
    }

    #[test]
    fn a_refusal_says_what_is_missing() {
        let refusal = judge("/fleetvisor.v1.Fleet/Run", Some(&operator(Role::Viewer, ""))).unwrap_err();
        assert_eq!(refusal.message(), "operator alice has the role viewer, and this needs the role operator");
        let refusal =
            judge("/fleetvisor.v1.Fleet/Audit", Some(&operator(Role::Operator, "role=web"))).unwrap_err();
        assert!(refusal.message().contains("limited to hosts with role=web"), "{}", refusal.message());
    }

    #[test]
    fn a_limited_operator_sees_its_own_part_of_every_scope() {
        let Caller::Operator(limited) = operator(Role::Operator, "role=web,!old") else { panic!() };
        let labels = |typed: &str| {
            limited.narrow(Some(fleet::Scope { hosts: Vec::new(), labels: typed.to_owned() })).labels
        };
        assert_eq!(labels(""), "role=web,!old");
        assert_eq!(labels("role=db"), "role=db,role=web,!old");
        assert_eq!(limited.narrow(None).labels, "role=web,!old");
        let Caller::Operator(free) = operator(Role::Operator, "") else { panic!() };
        assert_eq!(free.narrow(None), fleet::Scope::default());
    }
}
