//! The calls of hosts and operators, each in a few lines: who calls, what the words mean, whose work it is. That
//! the caller may call at all has been decided by [`crate::access`].

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use fleetvisor_model::name::ProcessName;
use fleetvisor_proto::convert;
use fleetvisor_proto::fleet::fleet_server::Fleet;
use fleetvisor_proto::fleet::host_logs_server::HostLogs;
use fleetvisor_proto::fleet::hosts_server::Hosts;
use fleetvisor_proto::fleet::{
    self, AddOperatorRequest, AuditRecord, AuditRequest, BackupChunk, BackupRequest, Certificate,
    CreateTokenRequest, CreateTokenResponse, Event, EventsRequest, ForgetHostRequest, ForgetHostResponse,
    FromHost, HostRequest, HostStatus, LabelHostRequest, ListHostsRequest, ListHostsResponse,
    ListOperationsRequest, ListOperationsResponse, ListOperatorsRequest, ListOperatorsResponse, LogChunk,
    LogCredit, OperationPart, OperationRequest, RenewOperatorRequest, RenewRequest, RevokeOperatorRequest,
    RevokeOperatorResponse, RunEvent, RunPlan, RunRequest, StatusRequest, TailPart, TailRequest, ToHost,
};
use fleetvisor_proto::principal::check_host_name;
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::access;
use crate::audit;
use crate::controller::Controller;
use crate::desired;
use crate::enrolment::{self, TTL_DEFAULT, TTL_MAX};
use crate::events;
use crate::hosts;
use crate::link;
use crate::operations;
use crate::operators;
use crate::registry::Host;
use crate::select::Selection;
use crate::status::Failure;
use crate::store::backup;
use crate::tail;

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(crate) struct HostsService(pub(crate) Arc<Controller>);
pub(crate) struct HostLogsService(pub(crate) Arc<Controller>);
pub(crate) struct FleetService(pub(crate) Arc<Controller>);

#[tonic::async_trait]
impl Hosts for HostsService {
    async fn renew(&self, call: Request<RenewRequest>) -> Result<Response<Certificate>, Status> {
        let host = access::calling_host(&call)?;
        let grant = access::peer(&call)?.certificate.and_then(|certificate| certificate.grant);
        let certificate = enrolment::renew(&self.0, &host, grant, &call.into_inner().csr)?;
        tracing::info!("host {host} has a new certificate");
        Ok(Response::new(certificate))
    }

    type LinkStream = Messages<ToHost>;

    async fn link(&self, call: Request<Streaming<FromHost>>) -> Result<Response<Messages<ToHost>>, Status> {
        let host = access::calling_host(&call)?;
        let peer = access::peer(&call)?;
        if let (Some(host), Some(certificate)) = (self.0.registry.known(&host), &peer.certificate) {
            host.set_certificate_expires(certificate.expires);
        }
        let (outgoing, messages) = mpsc::channel(link::OUTGOING_MAX);
        tokio::spawn(link::run(self.0.clone(), host, peer, call.into_inner(), outgoing));
        Ok(Response::new(ReceiverStream::new(messages).map(Ok).boxed()))
    }
}

#[tonic::async_trait]
impl HostLogs for HostLogsService {
    type SendStream = Messages<LogCredit>;

    async fn send(
        &self,
        call: Request<Streaming<LogChunk>>,
    ) -> Result<Response<Messages<LogCredit>>, Status> {
        let host = access::calling_host(&call)?;
        let credit = tail::answer(&self.0.tails.calls, host, call.into_inner()).await?;
        Ok(Response::new(ReceiverStream::new(credit).map(Ok).boxed()))
    }
}

#[tonic::async_trait]
impl Fleet for FleetService {
    async fn create_token(
        &self,
        call: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let by = access::calling_operator(&call)?;
        let request = call.into_inner();
        let host = (!request.host.is_empty()).then_some(request.host);
        if let Some(host) = &host {
            check_host_name(host).map_err(|err| Status::invalid_argument(err.to_string()))?;
        }
        let ttl = match request.ttl_seconds {
            0 => TTL_DEFAULT,
            seconds => Duration::from_secs(seconds),
        };
        if ttl > TTL_MAX {
            let days = TTL_MAX.as_secs() / 86_400;
            return Err(Status::invalid_argument(format!("a token can live for {days} days at most")));
        }
        let (token, expires) = enrolment::create_token(&self.0, &by, ttl, host.clone()).await?;
        let whom = host.map_or("any host".to_owned(), |host| format!("host {host}"));
        tracing::info!("{by} has made the join token {} for {whom}", token.id_text());
        Ok(Response::new(CreateTokenResponse { token: token.reveal(), expires: expires.0 }))
    }

    async fn list_hosts(
        &self,
        call: Request<ListHostsRequest>,
    ) -> Result<Response<ListHostsResponse>, Status> {
        let scope = access::calling_operator(&call)?.narrow(call.into_inner().scope);
        let selection = Selection::parse(Some(scope), Vec::new())?;
        let hosts = included(&self.0, &selection).map(|host| host.describe()).collect();
        Ok(Response::new(ListHostsResponse { hosts }))
    }

    type StatusStream = Messages<HostStatus>;

    async fn status(&self, call: Request<StatusRequest>) -> Result<Response<Messages<HostStatus>>, Status> {
        let operator = access::calling_operator(&call)?;
        let request = call.into_inner();
        let selection = Selection::parse(Some(operator.narrow(request.scope)), request.targets)?;
        let hosts: Vec<Arc<Host>> = included(&self.0, &selection).collect();
        let mut statuses = Vec::with_capacity(hosts.len());
        for host in hosts {
            if let Some(mut status) = status(&host, &selection) {
                if let Some(observed) = host.observed() {
                    let (store, processes) = (&*self.0.store, &mut status.processes);
                    let marked = desired::mark_drift(store, &host.name, observed.carried_out, processes);
                    marked.await.map_err(Failure::from)?;
                }
                statuses.push(Ok(status));
            }
        }
        Ok(Response::new(tokio_stream::iter(statuses).boxed()))
    }

    type EventsStream = Messages<Event>;

    async fn events(&self, call: Request<EventsRequest>) -> Result<Response<Messages<Event>>, Status> {
        let events = events::read(&self.0.events, &self.0.registry, call.into_inner())?;
        Ok(Response::new(ReceiverStream::new(events).map(Ok).boxed()))
    }

    type TailStream = Messages<TailPart>;

    async fn tail(&self, call: Request<TailRequest>) -> Result<Response<Messages<TailPart>>, Status> {
        let by = access::calling_operator(&call)?;
        let parts = tail::read(&self.0, &by, call.into_inner())?;
        Ok(Response::new(ReceiverStream::new(parts).map(Ok).boxed()))
    }

    type RunStream = Messages<RunEvent>;

    async fn run(&self, call: Request<RunRequest>) -> Result<Response<Messages<RunEvent>>, Status> {
        let by = access::calling_operator(&call)?;
        let mut request = call.into_inner();
        request.scope = Some(by.narrow(request.scope));
        let events = operations::start(&self.0, request, by.to_string(), by.address).await?;
        Ok(Response::new(ReceiverStream::new(events).map(Ok).boxed()))
    }

    async fn plan(&self, call: Request<RunRequest>) -> Result<Response<RunPlan>, Status> {
        let by = access::calling_operator(&call)?;
        let mut request = call.into_inner();
        request.scope = Some(by.narrow(request.scope));
        Ok(Response::new(operations::plan(&self.0, request)?))
    }

    async fn list_operations(
        &self,
        call: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        let operations = operations::list(&self.0, call.into_inner().limit).await?;
        Ok(Response::new(ListOperationsResponse { operations }))
    }

    type ShowOperationStream = Messages<OperationPart>;

    async fn show_operation(
        &self,
        call: Request<OperationRequest>,
    ) -> Result<Response<Messages<OperationPart>>, Status> {
        let parts = operations::show(&self.0, &call.into_inner().id).await?;
        Ok(Response::new(tokio_stream::iter(parts).map(Ok).boxed()))
    }

    type WatchOperationStream = Messages<RunEvent>;

    async fn watch_operation(
        &self,
        call: Request<OperationRequest>,
    ) -> Result<Response<Messages<RunEvent>>, Status> {
        let events = operations::watch(&self.0, &call.into_inner().id).await?;
        Ok(Response::new(ReceiverStream::new(events).map(Ok).boxed()))
    }

    async fn cancel_operation(
        &self,
        call: Request<OperationRequest>,
    ) -> Result<Response<fleet::Operation>, Status> {
        let by = access::calling_operator(&call)?;
        Ok(Response::new(operations::cancel(&self.0, &call.into_inner().id, by.to_string()).await?))
    }

    async fn resume_operation(
        &self,
        call: Request<OperationRequest>,
    ) -> Result<Response<fleet::Operation>, Status> {
        let by = access::calling_operator(&call)?;
        Ok(Response::new(operations::resume(&self.0, &call.into_inner().id, by.to_string()).await?))
    }

    type AuditStream = Messages<AuditRecord>;

    async fn audit(&self, call: Request<AuditRequest>) -> Result<Response<Messages<AuditRecord>>, Status> {
        let records = audit::read::serve(self.0.store.clone(), call.into_inner()).await?;
        Ok(Response::new(ReceiverStream::new(records).boxed()))
    }

    type BackupStream = Messages<BackupChunk>;

    async fn backup(&self, call: Request<BackupRequest>) -> Result<Response<Messages<BackupChunk>>, Status> {
        let by = access::calling_operator(&call)?;
        let listing = self.0.store.list("").await.map_err(Failure::from)?;
        tracing::info!("{by} takes a backup of {} records", listing.records.len());
        let chunks = backup::lines(listing).map(|text| Ok(BackupChunk { text }));
        Ok(Response::new(tokio_stream::iter(chunks).boxed()))
    }

    async fn revoke_host(&self, call: Request<HostRequest>) -> Result<Response<fleet::Host>, Status> {
        let by = access::calling_operator(&call)?;
        hosts::revoke(&self.0, &by, &call.into_inner().host).await.map(Response::new)
    }

    async fn forget_host(
        &self,
        call: Request<ForgetHostRequest>,
    ) -> Result<Response<ForgetHostResponse>, Status> {
        let by = access::calling_operator(&call)?;
        let request = call.into_inner();
        hosts::forget(&self.0, &by, &request.host, request.force).await?;
        Ok(Response::new(ForgetHostResponse {}))
    }

    async fn label_host(&self, call: Request<LabelHostRequest>) -> Result<Response<fleet::Host>, Status> {
        let by = access::calling_operator(&call)?;
        let request = call.into_inner();
        hosts::label(&self.0, &by, &request.host, request.set, request.remove).await.map(Response::new)
    }

    async fn add_operator(&self, call: Request<AddOperatorRequest>) -> Result<Response<Certificate>, Status> {
        let by = access::calling_operator(&call)?;
        operators::add(&self.0, &by, call.into_inner()).await.map(Response::new)
    }

    async fn renew_operator(
        &self,
        call: Request<RenewOperatorRequest>,
    ) -> Result<Response<Certificate>, Status> {
        let by = access::calling_operator(&call)?;
        operators::renew(&self.0, &by, call.into_inner()).await.map(Response::new)
    }

    async fn revoke_operator(
        &self,
        call: Request<RevokeOperatorRequest>,
    ) -> Result<Response<RevokeOperatorResponse>, Status> {
        let by = access::calling_operator(&call)?;
        operators::revoke(&self.0, &by, &call.into_inner().name).await?;
        Ok(Response::new(RevokeOperatorResponse {}))
    }

    async fn list_operators(
        &self,
        _call: Request<ListOperatorsRequest>,
    ) -> Result<Response<ListOperatorsResponse>, Status> {
        let operators = operators::list(&*self.0.store).await?;
        Ok(Response::new(ListOperatorsResponse { operators }))
    }
}

fn included(controller: &Controller, selection: &Selection) -> impl Iterator<Item = Arc<Host>> {
    controller.registry.all().into_iter().filter(|host| selection.includes(&host.name, &host.labels()))
}

/// What is wanted of a host; nothing where no target means any of it.
fn status(host: &Host, selection: &Selection) -> Option<HostStatus> {
    let mut processes = host.processes();
    processes.retain(|status| {
        let name: Option<ProcessName> = convert::process_name(status.name.clone()).ok();
        name.is_some_and(|name| selection.wants(&host.name, &name))
    });
    (!processes.is_empty() || selection.wants_all_of(&host.name))
        .then(|| HostStatus { host: Some(host.describe()), processes })
}
