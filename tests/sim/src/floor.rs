//! What the controller is compared with: a tonic server with the same TLS and messages of the same size, that does
//! nothing with them, and clients that do nothing either.
//!
//! On a line of its stdin that says `restart` the server sends a command to every link, and prints how long it took
//! until all have answered.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use fleetvisor_proto::fleet::hosts_client::HostsClient;
use fleetvisor_proto::fleet::hosts_server::{Hosts, HostsServer};
use fleetvisor_proto::fleet::{
    Certificate, Command, CommandDone, FromHost, Hello, ProcessResult, Progress, RenewRequest, Report,
    ToHost, Welcome, from_host, to_host,
};
use fleetvisor_proto::identity::Identity;
use fleetvisor_proto::{fleet, tls};
use futures_util::{Stream, StreamExt as _};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use crate::host::GROUP;

type Links = Arc<Mutex<Vec<mpsc::Sender<Result<ToHost, Status>>>>>;

struct Bare {
    links: Links,
    done: mpsc::UnboundedSender<()>,
}

#[tonic::async_trait]
impl Hosts for Bare {
    async fn renew(&self, _: Request<RenewRequest>) -> Result<Response<Certificate>, Status> {
        Err(Status::unimplemented("the bare server signs nothing"))
    }

    type LinkStream = Pin<Box<dyn Stream<Item = Result<ToHost, Status>> + Send>>;

    async fn link(&self, call: Request<Streaming<FromHost>>) -> Result<Response<Self::LinkStream>, Status> {
        let mut incoming = call.into_inner();
        let (outgoing, messages) = mpsc::channel(64);
        let (links, done) = (self.links.clone(), self.done.clone());
        tokio::spawn(async move {
            while let Ok(Some(FromHost { message })) = incoming.message().await {
                match message {
                    Some(from_host::Message::Hello(_)) => {
                        let welcome = Welcome { heartbeat_seconds: 5, ..Welcome::default() };
                        let welcome = to_host::Message::Welcome(welcome);
                        if outgoing.send(Ok(ToHost { message: Some(welcome) })).await.is_err() {
                            return;
                        }
                        links.lock().unwrap_or_else(PoisonError::into_inner).push(outgoing.clone());
                    }
                    Some(from_host::Message::CommandDone(_)) => drop(done.send(())),
                    _ => {}
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(messages).boxed()))
    }
}

struct Accepted(TlsStream<TcpStream>);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The bare server, until its stdin ends. `identity` is the controller's certificate.
pub(crate) async fn serve(port: u16, identity: &Path, processes: usize) -> anyhow::Result<()> {
    let identity = Identity::load(identity)?;
    let mut roots = RootCertStore::empty();
    roots.add(identity.ca_der())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tls::provider()).build()?;
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.presented(), identity.key_der())?;
    config.alpn_protocols = vec![tls::ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    let (connections, accepted) = mpsc::channel(16);
    tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), connections));

    let links = Links::default();
    let (done, mut answers) = mpsc::unbounded_channel();
    let service = HostsServer::new(Bare { links: links.clone(), done });
    let serving = Server::builder().add_service(service).serve_with_incoming(ReceiverStream::new(accepted));
    tokio::spawn(serving);
    let (asked, mut asks) = mpsc::channel(1);
    std::thread::spawn(move || {
        for _restart in io::stdin().lines().map_while(Result::ok) {
            if asked.blocking_send(()).is_err() {
                return;
            }
        }
    });
    while let Some(()) = asks.recv().await {
        let links: Vec<_> = links.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let begin = Instant::now();
        for link in &links {
            let command = to_host::Message::Command(command(processes));
            link.send(Ok(ToHost { message: Some(command) })).await.context("a link is gone")?;
        }
        for _ in &links {
            answers.recv().await.context("no answers")?;
        }
        println!("{}", begin.elapsed().as_micros());
    }
    Ok(())
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    connections: mpsc::Sender<io::Result<Accepted>>,
) {
    // As the controller: unlimited, a herd of thousands never gets through.
    let handshakes = Arc::new(Semaphore::new(256));
    loop {
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        let Ok((tcp, _)) = listener.accept().await else { return };
        let (acceptor, connections) = (acceptor.clone(), connections.clone());
        tokio::spawn(async move {
            let _ = tcp.set_nodelay(true);
            if let Ok(stream) = acceptor.accept(tcp).await {
                let _ = connections.send(Ok(Accepted(stream))).await;
            }
            drop(permit);
        });
    }
}

fn names(processes: usize) -> Vec<fleet::ProcessName> {
    let name = |number| fleet::ProcessName { group: GROUP.to_owned(), process: format!("p_{number:02}") };
    (0..processes).map(name).collect()
}

#[allow(clippy::needless_update, reason = "fields are only ever added")]
fn command(processes: usize) -> Command {
    Command {
        id: "0".repeat(32),
        verb: fleet::Verb::Restart.into(),
        processes: names(processes),
        desired: None,
        by: "operator admin".to_owned(),
        ..Command::default()
    }
}

/// A status as long as a real one.
fn status(name: fleet::ProcessName) -> fleet::ProcessStatus {
    fleet::ProcessStatus {
        name: Some(name),
        state: 20,
        pid: 12345,
        uptime_ms: 1_000,
        start: 1_795_258_500_000_000,
        stop: 1_795_258_500_000_000,
        ..fleet::ProcessStatus::default()
    }
}

#[allow(clippy::needless_update, reason = "fields are only ever added")]
fn done(command: Command) -> CommandDone {
    CommandDone { id: command.id, ..CommandDone::default() }
}

/// A client that links as `identity`, answers commands as long as real answers are, and tells when it is welcome.
/// It ends with its link.
pub(crate) async fn link(
    address: String,
    identity: Identity,
    processes: usize,
    welcome: mpsc::UnboundedSender<()>,
) -> anyhow::Result<()> {
    let channel = dial(&address, &identity).await?;
    let (up, messages) = mpsc::unbounded_channel();
    let report = Report { seq: 1, processes: names(processes).into_iter().map(status).collect() };
    let hello = Hello { version: "0.1.0".to_owned(), report: Some(report), ..Hello::default() };
    up.send(FromHost { message: Some(from_host::Message::Hello(hello)) })?;
    let mut hosts = HostsClient::new(channel);
    let mut down = hosts.link(UnboundedReceiverStream::new(messages)).await?.into_inner();
    let result = |name| ProcessResult {
        name: Some(name),
        outcome: fleet::Outcome::Done.into(),
        text: "restarted".to_owned(),
    };
    let answer = Progress { id: "0".repeat(32), results: names(processes).into_iter().map(result).collect() };
    while let Some(message) = down.message().await? {
        match message.message {
            Some(to_host::Message::Welcome(_)) => welcome.send(())?,
            Some(to_host::Message::Command(command)) => {
                up.send(FromHost { message: Some(from_host::Message::Progress(answer.clone())) })?;
                up.send(FromHost { message: Some(from_host::Message::CommandDone(done(command))) })?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Again and again, like a host: in a herd some are not heard the first time.
async fn dial(address: &str, identity: &Identity) -> anyhow::Result<tonic::transport::Channel> {
    let mut tries = 0;
    loop {
        match tls::dial(address, tls::client_config(identity)?).await {
            Ok(channel) => return Ok(channel),
            Err(error) if tries > 20 => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
        tries += 1;
    }
}
