//! The connection to a supervisord: one kept HTTP connection for XML-RPC calls, one more for each log that
//! is followed. Knows HTTP, credentials and endpoints; not what any method means.

use std::io;
use std::time::Duration;

use base64::Engine as _;
use fleetvisor_proto::xmlrpc::{Limits, Value, parse_response, write_call};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;

use super::endpoint::Endpoint;
use super::failure::Failure;

/// A host that drops packets must not hold the user for minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the server is and who asks.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) serverurl: String,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
}

/// Runs on a runtime of its own; every call blocks the caller until it is answered.
pub(super) struct Server {
    pub(super) address: Address,
    runtime: Runtime,
    kept: Option<SendRequest<Full<Bytes>>>,
    /// Whether Ctrl-C ends a call with [`Failure::Interrupted`] rather than the program.
    interruptible: bool,
}

impl Server {
    pub(super) fn new(address: Address, interruptible: bool) -> io::Result<Server> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Server { address, runtime, kept: None, interruptible })
    }

    /// Calls a method and waits for its result, however long it takes.
    pub(super) fn call(&mut self, method: &str, params: &[Value]) -> Result<Value, Failure> {
        let Server { address, runtime, kept, interruptible } = self;
        runtime.block_on(async {
            let called = call(address, kept, method, params);
            if !*interruptible {
                return called.await;
            }
            let answered = tokio::select! {
                answer = called => Some(answer),
                _ = tokio::signal::ctrl_c() => None,
            };
            answered.unwrap_or_else(|| {
                *kept = None;
                Err(Failure::Interrupted)
            })
        })
    }

    /// As [`call`](Self::call); `None` where the answer takes longer.
    pub(super) fn call_within(
        &mut self,
        method: &str,
        params: &[Value],
        limit: Duration,
    ) -> Option<Result<Value, Failure>> {
        let Server { address, runtime, kept, interruptible } = self;
        let answered = runtime.block_on(async {
            tokio::select! {
                answer = tokio::time::timeout(limit, call(address, kept, method, params)) => answer.ok(),
                _ = tokio::signal::ctrl_c(), if *interruptible => Some(Err(Failure::Interrupted)),
            }
        });
        if !matches!(answered, Some(Ok(_))) {
            *kept = None;
        }
        answered
    }

    /// Forgets the kept connection, so that the next call makes a new one.
    pub(super) fn disconnect(&mut self) {
        self.kept = None;
    }

    /// Runs what needs several of the server's streams at once.
    pub(super) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }
}

/// One XML-RPC call over the kept connection, or over a new one that is kept then.
pub(super) async fn call(
    address: &Address,
    kept: &mut Option<SendRequest<Full<Bytes>>>,
    method: &str,
    params: &[Value],
) -> Result<Value, Failure> {
    let small = i64::from(i32::MIN)..=i64::from(i32::MAX);
    if params.iter().any(|param| param.as_int().is_some_and(|int| !small.contains(&int))) {
        return Err(Failure::IntTooLarge);
    }
    let endpoint = Endpoint::parse(&address.serverurl)?;
    let mut usable = kept.take();
    if let Some(sender) = &mut usable
        && sender.ready().await.is_err()
    {
        usable = None;
    }
    let mut sender = match usable {
        Some(sender) => sender,
        None => connect(&endpoint).await?,
    };
    let request = Request::post("/RPC2").header(CONTENT_TYPE, "text/xml").header(ACCEPT, "text/xml");
    let body = Full::new(Bytes::from(write_call(method, params)));
    let request = headers(request, &endpoint, address).body(body).map_err(not_sendable)?;
    let response = answered(sender.send_request(request).await)?;
    let body = Limited::new(response.into_body(), Limits::RESPONSE.bytes)
        .collect()
        .await
        .map_err(|error| Failure::Http(error.to_string()))?
        .to_bytes();
    *kept = Some(sender);
    Ok(parse_response(&body, &Limits::RESPONSE)??)
}

/// A log that is followed: chunks as the server sends them.
pub(super) struct Follow {
    body: Incoming,
    /// Must outlive the body, or the connection is closed.
    _sender: SendRequest<Full<Bytes>>,
}

impl Follow {
    /// Asks for `/logtail/NAME/stdout` or its like. The name is sent as typed, as Supervisor's client does.
    pub(super) async fn open(address: &Address, path: &str) -> Result<Follow, Failure> {
        let endpoint = Endpoint::parse(&address.serverurl)?;
        let mut sender = connect(&endpoint).await?;
        let path = percent_encoding::utf8_percent_encode(path, UNSENDABLE).to_string();
        let request = Request::get(path).header(ACCEPT, "*/*");
        let request =
            headers(request, &endpoint, address).body(Full::new(Bytes::new())).map_err(not_sendable)?;
        let response = answered(sender.send_request(request).await)?;
        Ok(Follow { body: response.into_body(), _sender: sender })
    }

    /// The next bytes; `None` once the server has closed. May be cancelled.
    pub(super) async fn chunk(&mut self) -> Option<Bytes> {
        loop {
            // A connection that breaks off is the end of the stream, as it is for Supervisor's client.
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                return Some(data);
            }
        }
    }
}

/// What may not stand in a request line.
const UNSENDABLE: &percent_encoding::AsciiSet =
    &percent_encoding::CONTROLS.add(b' ').add(b'#').add(b'?').add(b'"').add(b'<').add(b'>').add(b'`');

fn headers(
    request: hyper::http::request::Builder,
    endpoint: &Endpoint,
    address: &Address,
) -> hyper::http::request::Builder {
    let request = request
        .header(HOST, endpoint.authority())
        .header(USER_AGENT, concat!("fleetvisor/", env!("CARGO_PKG_VERSION")));
    match (&address.username, &address.password) {
        (Some(username), Some(password)) => {
            let credentials =
                base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
            request.header(AUTHORIZATION, format!("Basic {credentials}"))
        }
        (Some(_) | None, None) | (None, Some(_)) => request,
    }
}

/// Turns an answer that is not 200 into a failure, and a connection that ended into its own.
fn answered(answer: hyper::Result<Response<Incoming>>) -> Result<Response<Incoming>, Failure> {
    let response = answer.map_err(|error| {
        if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            Failure::Closed
        } else {
            Failure::Http(error.to_string())
        }
    })?;
    let status = response.status();
    if status == hyper::StatusCode::OK {
        return Ok(response);
    }
    let reason = match response.extensions().get::<hyper::ext::ReasonPhrase>() {
        Some(reason) => String::from_utf8_lossy(reason.as_bytes()).into_owned(),
        None => status.canonical_reason().unwrap_or_default().to_owned(),
    };
    Err(Failure::Status { code: status.as_u16(), reason })
}

fn not_sendable(error: hyper::http::Error) -> Failure {
    Failure::Unusable(error.to_string())
}

async fn connect(endpoint: &Endpoint) -> Result<SendRequest<Full<Bytes>>, Failure> {
    match endpoint {
        Endpoint::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(Failure::Connect)?;
            open(stream).await
        }
        Endpoint::Tcp { host, port } => {
            let connecting = async {
                let addresses: Vec<_> = tokio::net::lookup_host((host.as_str(), *port))
                    .await
                    .map_err(|_| Failure::Resolve { host: host.clone() })?
                    .collect();
                TcpStream::connect(addresses.as_slice()).await.map_err(Failure::Connect)
            };
            let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| {
                Failure::Connect(io::Error::from_raw_os_error(nix::errno::Errno::ETIMEDOUT as i32))
            })??;
            // Calls are small; waiting to fill packets would only delay them.
            stream.set_nodelay(true).map_err(Failure::Connect)?;
            open(stream).await
        }
    }
}

async fn open<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) =
        handshake(TokioIo::new(stream)).await.map_err(|error| Failure::Http(error.to_string()))?;
    // Its error reaches whoever waits for an answer.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}
