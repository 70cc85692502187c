//! The calls about bundles: of operators, and of hosts that fetch what is assigned to them.

use std::pin::Pin;
use std::sync::Arc;

use fleetvisor_proto::fleet::bundles_server::Bundles;
use fleetvisor_proto::fleet::host_bundles_server::HostBundles;
use fleetvisor_proto::fleet::{
    BundleContent, BundleEvent, BundleRef, DeleteRequest, HistoryRequest, HistoryResponse,
    ListBundlesRequest, ListBundlesResponse, LocalConfig, PullRequest, PushRequest, RollbackRequest,
    ShowBundleRequest, ShownBundle, bundle_event,
};
use fleetvisor_proto::principal::Role;
use futures_util::{Stream, StreamExt};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::catalog::{BundleError, content};
use super::change::{Asked, ChangeError, Changed, Wanted, change};
use super::view::{self, ViewError};
use super::{check, record};
use crate::access;
use crate::audit::Entry;
use crate::controller::Controller;
use crate::operations::How;

/// Largest message of an operator: a bundle of the largest size, and what is around it.
pub(crate) const PUSH_BYTES: usize = 2 << 20;

type Events = Pin<Box<dyn Stream<Item = Result<BundleEvent, Status>> + Send>>;

pub(crate) struct BundlesService(pub(crate) Arc<Controller>);
pub(crate) struct HostBundlesService(pub(crate) Arc<Controller>);

#[tonic::async_trait]
impl HostBundles for HostBundlesService {
    async fn fetch(&self, call: Request<BundleRef>) -> Result<Response<BundleContent>, Status> {
        let host = access::calling_host(&call)?;
        let wanted = call.into_inner();
        let known = self.0.registry.host(&host);
        // Another host's secrets are none of its business.
        let assigned = self.0.bundles.assigned(&host, &known.labels());
        let assigned = assigned.iter().find(|assigned| {
            assigned.name == wanted.name && assigned.kept.revision.revision == wanted.revision
        });
        let Some(assigned) = assigned else {
            let (name, revision) = (wanted.name, wanted.revision);
            return Err(Status::not_found(format!(
                "revision {revision} of bundle {name} is not for host {host}"
            )));
        };
        let content = content(&*self.0.store, &wanted.name, &assigned.kept.revision).await.map_err(broken)?;
        Ok(Response::new(content))
    }
}

#[tonic::async_trait]
impl Bundles for BundlesService {
    type PushStream = Events;

    async fn push(&self, call: Request<PushRequest>) -> Result<Response<Events>, Status> {
        let by = access::calling_operator(&call)?;
        let request = call.into_inner();
        let content =
            record::content(request.files).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let how = How::parse(request.strategy, request.revert, request.timeout_seconds)?;
        let asked = asked(&by, request.message, request.dry_run, how);
        let wanted = Wanted::Content { content, scope: request.scope };
        events(change(self.0.clone(), request.name, wanted, asked).await)
    }

    type RollbackStream = Events;

    async fn rollback(&self, call: Request<RollbackRequest>) -> Result<Response<Events>, Status> {
        let by = access::calling_operator(&call)?;
        let request = call.into_inner();
        let how = How::parse(request.strategy, request.revert, request.timeout_seconds)?;
        let asked = asked(&by, request.message, request.dry_run, how);
        let wanted = Wanted::Rollback { revision: request.revision };
        events(change(self.0.clone(), request.name, wanted, asked).await)
    }

    type DeleteStream = Events;

    async fn delete(&self, call: Request<DeleteRequest>) -> Result<Response<Events>, Status> {
        let by = access::calling_operator(&call)?;
        let request = call.into_inner();
        let how = How::parse(None, false, request.timeout_seconds)?;
        let asked = asked(&by, request.message, request.dry_run, how);
        events(change(self.0.clone(), request.name, Wanted::Deleted, asked).await)
    }

    async fn list(
        &self,
        _call: Request<ListBundlesRequest>,
    ) -> Result<Response<ListBundlesResponse>, Status> {
        Ok(Response::new(ListBundlesResponse { bundles: view::list(&self.0) }))
    }

    async fn show(&self, call: Request<ShowBundleRequest>) -> Result<Response<ShownBundle>, Status> {
        let role = access::calling_operator(&call)?.role;
        let request = call.into_inner();
        if request.reveal && role < Role::Admin {
            return Err(Status::permission_denied(format!(
                "secrets are for the role admin, and this is a {role}"
            )));
        }
        let shown = view::show(&self.0, &request.name, request.revision, request.reveal).await;
        Ok(Response::new(shown.map_err(unseen)?))
    }

    async fn history(&self, call: Request<HistoryRequest>) -> Result<Response<HistoryResponse>, Status> {
        let revisions = view::history(&self.0, &call.into_inner().name).map_err(unseen)?;
        Ok(Response::new(HistoryResponse { revisions }))
    }

    async fn pull(&self, call: Request<PullRequest>) -> Result<Response<LocalConfig>, Status> {
        let by = access::calling_operator(&call)?;
        let (by, from) = (by.to_string(), by.address);
        let host = call.into_inner().host;
        let local = view::pull(&self.0, &host).await.map_err(unseen)?;
        // What it reads may hold passwords.
        self.0.audit.note(Entry::new(by, "config.pull", &host).host(&host).from(from)).await;
        Ok(Response::new(local))
    }
}

fn asked(by: &access::Operator, message: String, dry_run: bool, how: How) -> Asked {
    Asked { by: by.to_string(), from: Some(by.address), message, dry_run, how }
}

/// What was accepted and planned, then what comes of it.
fn events(changed: Result<Changed, ChangeError>) -> Result<Response<Events>, Status> {
    let changed = changed.map_err(|error| match error {
        ChangeError::Content(_) | ChangeError::Selection(_) | ChangeError::NoScope(_) => {
            Status::invalid_argument(error.to_string())
        }
        ChangeError::Refused {
            refusal: check::Refusal::Everywhere(_) | check::Refusal::OnHost { .. },
            ..
        }
        | ChangeError::Clash { .. }
        | ChangeError::Deletion { .. } => Status::failed_precondition(error.to_string()),
        ChangeError::Unknown(_) | ChangeError::UnknownRevision { .. } => Status::not_found(error.to_string()),
        ChangeError::TooMany => Status::resource_exhausted(error.to_string()),
        ChangeError::Conflict(_) => Status::aborted(error.to_string()),
        ChangeError::Operation(error) => error.into(),
        ChangeError::Bundle(_) | ChangeError::Store(_) => {
            tracing::error!("{error}");
            Status::internal(error.to_string())
        }
    })?;
    let Changed { accepted, plans, events } = changed;
    let first = std::iter::once(bundle_event::Event::Accepted(accepted));
    let first = first.chain(plans.into_iter().map(bundle_event::Event::Plan));
    let then = events.into_iter().map(|events| ReceiverStream::new(events).map(bundle_event::Event::Run));
    let events = tokio_stream::iter(first).chain(futures_util::stream::iter(then).flatten());
    Ok(Response::new(events.map(|event| Ok(BundleEvent { event: Some(event) })).boxed()))
}

fn unseen(error: ViewError) -> Status {
    match error {
        ViewError::Unknown(_) | ViewError::UnknownRevision { .. } | ViewError::UnknownHost(_) => {
            Status::not_found(error.to_string())
        }
        ViewError::Away(_) | ViewError::Silent { .. } | ViewError::Local { .. } => {
            Status::failed_precondition(error.to_string())
        }
        ViewError::Random(_) => Status::internal(error.to_string()),
        ViewError::Bundle(error) => broken(error),
    }
}

fn broken(error: BundleError) -> Status {
    tracing::error!("{error}");
    Status::internal(error.to_string())
}
