//! Who may call what: one table, judged at one place, before any method runs. A method that is not in the
//! table is refused, so a new one is closed until somebody opens it here.

use std::task::{Context, Poll};

use fleetvisor_proto::principal::{Principal, Role};
use futures_util::future::{Either, Ready, ready};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::{Request as Call, Status};
use tower::{Layer, Service};

use crate::connection::Peer;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Allowed {
    /// Also without a certificate.
    Anyone,
    /// Every host, for itself.
    Hosts,
    /// Operators of this role or a higher one.
    Operators(Role),
}

const TABLE: &[(&str, Allowed)] = &[
    ("/fleetvisor.v1.Enrolment/Enrol", Allowed::Anyone),
    ("/fleetvisor.v1.Hosts/Renew", Allowed::Hosts),
    ("/fleetvisor.v1.Hosts/Link", Allowed::Hosts),
    ("/fleetvisor.v1.HostBundles/Fetch", Allowed::Hosts),
    ("/fleetvisor.v1.Fleet/ListHosts", Allowed::Operators(Role::Viewer)),
    ("/fleetvisor.v1.Fleet/Status", Allowed::Operators(Role::Viewer)),
    ("/fleetvisor.v1.Fleet/Run", Allowed::Operators(Role::Operator)),
    ("/fleetvisor.v1.Fleet/CreateToken", Allowed::Operators(Role::Admin)),
    ("/fleetvisor.v1.Fleet/Audit", Allowed::Operators(Role::Viewer)),
    ("/fleetvisor.v1.Fleet/Backup", Allowed::Operators(Role::Admin)),
    ("/fleetvisor.v1.Bundles/List", Allowed::Operators(Role::Viewer)),
    ("/fleetvisor.v1.Bundles/Show", Allowed::Operators(Role::Viewer)),
    ("/fleetvisor.v1.Bundles/History", Allowed::Operators(Role::Viewer)),
    // What was accepted once may be taken up again by whoever operates.
    ("/fleetvisor.v1.Bundles/Rollback", Allowed::Operators(Role::Operator)),
    // A bundle can run anything as anybody.
    ("/fleetvisor.v1.Bundles/Push", Allowed::Operators(Role::Admin)),
    ("/fleetvisor.v1.Bundles/Delete", Allowed::Operators(Role::Admin)),
    ("/fleetvisor.v1.Bundles/Pull", Allowed::Operators(Role::Admin)),
];

/// Whether `caller`, nobody for a caller without a certificate, may call `path`.
fn judge(path: &str, caller: Option<&Principal>) -> Result<(), Status> {
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
        (Some(Allowed::Anyone), _) | (Some(Allowed::Hosts), Principal::Host(_)) => Ok(()),
        (Some(Allowed::Hosts), Principal::Controller | Principal::Operator { .. }) => {
            refused(format!("{caller} is no host"))
        }
        (Some(Allowed::Operators(least)), Principal::Operator { role, .. }) => {
            if *role >= least {
                Ok(())
            } else {
                refused(format!("{caller} has the role {role}, and this needs the role {least}"))
            }
        }
        (Some(Allowed::Operators(_)), Principal::Controller | Principal::Host(_)) => {
            refused(format!("{caller} is no operator"))
        }
    }
}

/// The host whose certificate the caller presented.
pub(crate) fn calling_host<T>(call: &Call<T>) -> Result<String, Status> {
    match peer(call)?.principal {
        Some(Principal::Host(name)) => Ok(name),
        _ => Err(Status::permission_denied("the caller is no host")),
    }
}

/// The operator who called, as records name it: `operator alice`.
pub(crate) fn calling_operator<T>(call: &Call<T>) -> Result<String, Status> {
    match peer(call)?.principal {
        Some(principal @ Principal::Operator { .. }) => Ok(principal.to_string()),
        _ => Err(Status::permission_denied("the caller is no operator")),
    }
}

pub(crate) fn peer<T>(call: &Call<T>) -> Result<Peer, Status> {
    call.extensions().get::<Peer>().cloned().ok_or_else(|| Status::internal("a call without a connection"))
}

/// Puts the judgement in front of all services.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AccessLayer;

#[derive(Clone, Debug)]
pub(crate) struct Access<S> {
    inner: S,
}

impl<S> Layer<S> for AccessLayer {
    type Service = Access<S>;

    fn layer(&self, inner: S) -> Access<S> {
        Access { inner }
    }
}

impl<S> Service<Request<Body>> for Access<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Peer>();
        let caller = peer.and_then(|peer| peer.principal.as_ref());
        match judge(request.uri().path(), caller) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(status) => {
                let path = request.uri().path();
                match peer {
                    Some(Peer { address, principal: Some(_) }) => {
                        tracing::warn!("refused {path} from {address}: {}", status.message());
                    }
                    // Anyone can cause this, so it must not fill the log.
                    _ => tracing::debug!("refused {path}: {}", status.message()),
                }
                Either::Right(ready(Ok(status.into_http())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn operator(role: Role) -> Principal {
        Principal::Operator { role, name: "alice".to_owned() }
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
            Some(Principal::Controller),
            Some(Principal::Host("web-01".to_owned())),
            Some(operator(Role::Viewer)),
            Some(operator(Role::Operator)),
            Some(operator(Role::Admin)),
        ];
        let expected = [
            ("/fleetvisor.v1.Enrolment/Enrol", [Yes, Yes, Yes, Yes, Yes, Yes]),
            ("/fleetvisor.v1.Hosts/Renew", [Who, No, Yes, No, No, No]),
            ("/fleetvisor.v1.Hosts/Link", [Who, No, Yes, No, No, No]),
            ("/fleetvisor.v1.Fleet/ListHosts", [Who, No, No, Yes, Yes, Yes]),
            ("/fleetvisor.v1.Fleet/Status", [Who, No, No, Yes, Yes, Yes]),
            ("/fleetvisor.v1.Fleet/Run", [Who, No, No, No, Yes, Yes]),
            ("/fleetvisor.v1.Fleet/CreateToken", [Who, No, No, No, No, Yes]),
            ("/fleetvisor.v1.Fleet/Audit", [Who, No, No, Yes, Yes, Yes]),
            ("/fleetvisor.v1.Fleet/Backup", [Who, No, No, No, No, Yes]),
            ("/fleetvisor.v1.Fleet/Unheard", [Who, No, No, No, No, No]),
            ("/", [Who, No, No, No, No, No]),
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
        let refusal = judge("/fleetvisor.v1.Fleet/Run", Some(&operator(Role::Viewer))).unwrap_err();
        assert_eq!(refusal.message(), "operator alice has the role viewer, and this needs the role operator");
    }
}
