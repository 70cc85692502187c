//! The controller as its callers meet it: a real port on loopback, real TLS, and agents played by the test.
//!
//! - [`access`]: who gets in.
//! - [`identity`]: certificates that become void, and who may do what to whom.
//! - [`bundles`]: configuration that hosts are given.
//! - [`link`]: what a host and the controller say to each other.
//! - [`run`]: start, stop and restart from the operator to the host and back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fleetvisor_model::name::ProcessName;
use fleetvisor_model::state::ProcessState;
use fleetvisor_model::time::Wall;
use fleetvisor_proto::fleet::fleet_client::FleetClient;
use fleetvisor_proto::fleet::hosts_client::HostsClient;
use fleetvisor_proto::fleet::{
    self, Assignment, Command, DesiredState, Farewell, FromHost, Hello, Host, ListHostsRequest, Report,
    ToHost, from_host, to_host,
};
use fleetvisor_proto::identity::{Identity, signing_request};
use fleetvisor_proto::principal::Role;
use fleetvisor_proto::tls;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::connection::server_config;
use crate::controller::Controller;
use crate::grant::Grant;
use crate::operators;
use crate::pki::Authority;
use crate::records::{self, HostRecord, OperatorRecord};
use crate::registry::Registry;
use crate::server;
use crate::store::memory::MemoryStore;
use crate::store::{Store, Transaction};

mod access;
mod bundles;
mod identity;
mod link;
mod run;

/// Longest that anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(3600);

/// A controller that serves.
struct Served {
    controller: Arc<Controller>,
    address: SocketAddr,
    stop: watch::Sender<Option<u32>>,
}

impl Served {
    async fn new() -> Served {
        Served::on(Arc::new(MemoryStore::default())).await
    }

    /// A controller that takes up a store.
    async fn on(store: Arc<dyn Store>) -> Served {
        let registry = Arc::new(Registry::new(crate::clock::now()));
        registry.load(&*store).await.unwrap();
        let authority = Authority::create().unwrap();
        let tls = server_config(&authority.server(&["127.0.0.1".to_owned()]).unwrap(), GRACE).unwrap();
        let (stop, stopping) = watch::channel(None);
        let controller =
            Arc::new(Controller::new(store, registry, authority, "test".to_owned(), stopping.clone()));
        controller.operators.load(&*controller.store).await.unwrap();
        controller.bundles.load(&*controller.store).await.unwrap();
        crate::operations::take_up(&controller).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut stopped = stopping;
        tokio::spawn(server::serve(controller.clone(), listener, tls, async move {
            let _ = stopped.wait_for(Option::is_some).await;
        }));
        Served { controller, address, stop }
    }

    /// The identity of a host that has enrolled.
    async fn host(&self, name: &str) -> Identity {
        let key = records::host_key(name);
        let stored = self.controller.store.get(&key).await.unwrap();
        let record: HostRecord = match &stored {
            Some(stored) => records::decode(&key, stored).unwrap(),
            None => HostRecord { grant: Some(Grant::new().unwrap()), ..HostRecord::default() },
        };
        let transaction = Transaction::default().put(key, records::encode(&record));
        let revision = self.controller.store.commit(transaction).await.unwrap();
        let grant = record.grant.unwrap();
        self.controller.registry.enrolled(name, record, revision);
        self.host_certificate(name, grant)
    }

    fn host_certificate(&self, name: &str, grant: Grant) -> Identity {
        let request = signing_request().unwrap();
        let certificate = self.controller.authority.host(name, grant, &request.csr).unwrap();
        Identity::received(certificate, request.key).unwrap()
    }

    async fn dial(&self, identity: &Identity) -> Channel {
        tls::dial(&self.address.to_string(), tls::client_config(identity).unwrap()).await.unwrap()
    }

    /// An operator of this role, limited to these hosts; the same one when asked again.
    async fn operator_identity(&self, role: Role, only: &str) -> Identity {
        let name = if only.is_empty() { format!("a-{role}") } else { format!("a-limited-{role}") };
        let key = records::operator_key(&name);
        let grant = match self.controller.store.get(&key).await.unwrap() {
            Some(stored) => records::decode::<OperatorRecord>(&key, &stored).unwrap().grant.unwrap(),
            None => Grant::new().unwrap(),
        };
        let only = only.parse().unwrap();
        let record = operators::record(role, &only, grant, Wall(i64::MAX), "the test".to_owned());
        let transaction = Transaction::default().put(key, records::encode(&record));
        self.controller.store.commit(transaction).await.unwrap();
        self.controller.operators.load(&*self.controller.store).await.unwrap();
        self.controller.authority.operator(role, &name, grant).unwrap()
    }

    async fn operator(&self, role: Role) -> FleetClient<Channel> {
        FleetClient::new(self.dial(&self.operator_identity(role, "").await).await)
    }

    /// An agent that is linked and has been told everything, with what it was told.
    async fn agent(&self, name: &str, processes: &[(&str, &str)]) -> (Agent, DesiredState) {
        let identity = self.host(name).await;
        let mut agent = Agent::connect(self, &identity).await;
        agent.say(hello("boot", 0, processes)).await;
        match agent.hear().await {
            to_host::Message::Welcome(welcome) => {
                assert_eq!(welcome.heartbeat_seconds, 5);
                // Half of the 24 hours that a new certificate has, whatever the host's clock says.
                let left = welcome.renew_in_seconds.expect("how long the certificate is good for");
                assert!((11 * 3600..=12 * 3600).contains(&left), "{left}");
            }
            other => panic!("{other:?}"),
        }
        let desired = agent.hear_desired().await;
        (agent, desired)
    }

    async fn list(&self) -> Vec<Host> {
        let mut client = self.operator(Role::Viewer).await;
        client.list_hosts(ListHostsRequest::default()).await.unwrap().into_inner().hosts
    }

    /// Waits until the one host is as described.
    async fn until(&self, name: &str, condition: impl Fn(&Host) -> bool) {
        let host = self.controller.registry.host(name);
        let wait = async {
            while !condition(&host.describe()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{:?}", host.describe()));
    }
}

/// A host's side of a link.
struct Agent {
    outgoing: mpsc::Sender<FromHost>,
    incoming: Streaming<ToHost>,
}

impl Agent {
    async fn connect(served: &Served, identity: &Identity) -> Agent {
        let (outgoing, messages) = mpsc::channel(1000);
        let mut client = HostsClient::new(served.dial(identity).await);
        let incoming = client.link(ReceiverStream::new(messages)).await.unwrap().into_inner();
        Agent { outgoing, incoming }
    }

    async fn say(&self, message: from_host::Message) {
        self.outgoing.send(FromHost { message: Some(message) }).await.unwrap();
    }

    /// The next message but one about bundles: those come whenever they may have changed.
    async fn hear(&mut self) -> to_host::Message {
        loop {
            match self.hear_any().await {
                to_host::Message::Assignment(_) => {}
                message => return message,
            }
        }
    }

    async fn hear_any(&mut self) -> to_host::Message {
        let message = timeout(PATIENCE, self.incoming.message()).await.expect("no message").unwrap();
        message.expect("the link has ended").message.unwrap()
    }

    async fn hear_assignment(&mut self) -> Assignment {
        loop {
            if let to_host::Message::Assignment(assignment) = self.hear_any().await {
                return assignment;
            }
        }
    }

    async fn hear_desired(&mut self) -> DesiredState {
        match self.hear().await {
            to_host::Message::Desired(desired) => desired,
            other => panic!("{other:?}"),
        }
    }

    async fn hear_command(&mut self) -> Command {
        match self.hear().await {
            to_host::Message::Command(command) => command,
            other => panic!("{other:?}"),
        }
    }

    /// A farewell, and after it the end.
    async fn hear_farewell(&mut self) -> Farewell {
        let farewell = match self.hear().await {
            to_host::Message::Farewell(farewell) => farewell,
            other => panic!("{other:?}"),
        };
        let end = timeout(PATIENCE, self.incoming.message()).await.expect("no end");
        assert!(!matches!(end, Ok(Some(_))), "{end:?}");
        farewell
    }
}

fn hello(boot_id: &str, observed_revision: u64, processes: &[(&str, &str)]) -> from_host::Message {
    from_host::Message::Hello(Hello {
        config_state: None,
        version: "0.1.0".to_owned(),
        boot_id: boot_id.to_owned(),
        labels: [("role".to_owned(), "web".to_owned())].into(),
        observed_revision,
        report: Some(report(1, processes)),
        ..Hello::default()
    })
}

fn report(seq: u64, processes: &[(&str, &str)]) -> Report {
    Report { seq, processes: processes.iter().map(|(group, process)| running(group, process)).collect() }
}

fn running(group: &str, process: &str) -> fleet::ProcessStatus {
    fleet::ProcessStatus {
        state: ProcessState::Running.code(),
        pid: 42,
        uptime_ms: 1_000,
        ..fleet::ProcessStatus::unknown(&ProcessName::new(group, process))
    }
}

fn since(host: &Host) -> String {
    crate::clock::utc(Wall(host.since))
}
