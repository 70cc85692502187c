//! Accepting clients and letting them go. How many may be connected follows from how many descriptors this
//! process has: clients must never use up those that programs need.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fleetvisor_model::config::LogLevel;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use nix::sys::resource::{Resource, getrlimit};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::oneshot;
use tokio::task::{Id, JoinSet};
use tokio::time::sleep;

use super::bind::{Bound, Listener, SocketFile};
use super::closing::Closing;
use super::connection::{Line, converse};
use super::follow::Followers;
use super::site::Site;
use crate::inbox::Handle;
use crate::logs::Logs;
use crate::rpc::Api;

/// One server's share of the descriptors, as a divisor.
const SHARE: u64 = 8;
const FEWEST_CLIENTS: u64 = 16;
const MOST_CLIENTS: u64 = 1024;
/// Before a full server, or one that cannot accept, tries again.
const PAUSE: Duration = Duration::from_millis(100);

/// What becomes of the sockets when serving ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parting {
    Close,
    /// Another process has them too, and goes on: their names stay.
    HandOver,
}

/// Answers clients of all servers until `stopping` is sent or dropped. Answers that are under way then are
/// finished, as far as `grace` allows; the sockets' names are gone before that, unless others go on.
pub(crate) async fn serve(
    servers: Vec<Bound>,
    handle: Handle,
    logs: Logs,
    stopping: oneshot::Receiver<Parting>,
    grace: Duration,
) {
    let (close, closing) = Closing::new();
    let most = most_clients();
    let followers = Arc::new(Followers::new(most, closing.clone()));
    let api = Api { handle, logs: logs.clone() };
    let names_stay = Arc::new(AtomicBool::new(false));
    let mut running = JoinSet::new();
    for server in servers {
        match Acceptor::new(server.listener) {
            Ok(acceptor) => {
                let site = Site::new(api.clone(), server.auth, server.names, Arc::clone(&followers));
                running.spawn(accept(
                    acceptor,
                    Arc::new(site),
                    most,
                    closing.clone(),
                    Arc::clone(&names_stay),
                ));
            }
            Err(error) => logs.line(LogLevel::Critical, format!("cannot serve HTTP: {error}")),
        }
    }
    let parting = stopping.await.unwrap_or(Parting::Close);
    names_stay.store(parting == Parting::HandOver, Ordering::Relaxed);
    close.send_replace(true);
    let finished = async { while running.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(grace, finished).await;
}

fn most_clients() -> usize {
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    let most = (descriptors / SHARE).clamp(FEWEST_CLIENTS, MOST_CLIENTS);
    usize::try_from(most).unwrap_or(usize::MAX)
}

#[derive(Debug)]
enum Acceptor {
    Inet(TcpListener),
    Unix { listener: UnixListener, file: SocketFile },
}

impl Acceptor {
    fn new(listener: Listener) -> std::io::Result<Acceptor> {
        Ok(match listener {
            Listener::Inet(listener) => Acceptor::Inet(TcpListener::from_std(listener)?),
            Listener::Unix(listener, file) => {
                Acceptor::Unix { listener: UnixListener::from_std(listener)?, file }
            }
        })
    }

    fn part(self, parting: Parting) {
        match (self, parting) {
            (Acceptor::Unix { file, .. }, Parting::HandOver) => file.keep(),
            (Acceptor::Unix { .. } | Acceptor::Inet(_), _) => {}
        }
    }

    /// The next client, as a future that answers it.
    async fn accept(
        &self,
        line: &Arc<Line>,
        site: &Arc<Site>,
        closing: &Closing,
    ) -> std::io::Result<BoxFuture<'static, ()>> {
        let (line, site, closing) = (Arc::clone(line), Arc::clone(site), closing.clone());
        Ok(match self {
            Acceptor::Inet(listener) => {
                let (stream, _) = listener.accept().await?;
                // An answer is written at once; waiting to make it one packet only delays it.
                let _ = stream.set_nodelay(true);
                converse(stream, line, site, closing).boxed()
            }
            Acceptor::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                converse(stream, line, site, closing).boxed()
            }
        })
    }
}

async fn accept(
    acceptor: Acceptor,
    site: Arc<Site>,
    most: usize,
    mut closing: Closing,
    names_stay: Arc<AtomicBool>,
) {
    let mut clients = JoinSet::new();
    let mut lines: HashMap<Id, Arc<Line>> = HashMap::new();
    let connections = closing.clone();
    loop {
        let is_full = clients.len() >= most;
        if is_full {
            dismiss_the_quietest(lines.values());
        }
        let line = Arc::new(Line::new());
        tokio::select! {
            () = closing.begun() => break,
            Some(ended) = clients.join_next_with_id() => {
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                lines.remove(&id);
            }
            () = sleep(PAUSE), if is_full => {}
            client = acceptor.accept(&line, &site, &connections), if !is_full => match client {
                Ok(client) => {
                    lines.insert(clients.spawn(client).id(), line);
                }
                // Out of descriptors, mostly: some will be free again.
                Err(_) => sleep(PAUSE).await,
            }
        }
    }
    let handed_over = names_stay.load(Ordering::Relaxed);
    acceptor.part(if handed_over { Parting::HandOver } else { Parting::Close });
    while clients.join_next().await.is_some() {}
}

/// Makes room at the expense of whoever has had no use for their connection for longest.
fn dismiss_the_quietest<'a>(lines: impl Iterator<Item = &'a Arc<Line>>) {
    let quiet = lines.filter_map(|line| Some((line.quiet_since()?, line)));
    if let Some((_, line)) = quiet.min_by_key(|(since, _)| *since) {
        line.dismiss();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use fleetvisor_model::config::{Credentials, HttpAddress, HttpServer};
    use fleetvisor_proto::xmlrpc::write_call;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;
    use crate::http::bind;
    use crate::rpc::testing;

    const GRACE: Duration = Duration::from_secs(5);

    struct Server {
        folder: tempfile::TempDir,
        stop: oneshot::Sender<Parting>,
        serving: JoinHandle<()>,
    }

    impl Server {
        fn start(auth: Option<(&str, &str)>) -> Server {
            let folder = tempfile::tempdir().unwrap();
            let api = testing::api(folder.path());
            let auth = auth.map(|(username, password)| Credentials {
                username: username.to_owned(),
                password: password.to_owned(),
            });
            let address = HttpAddress::Unix { file: folder.path().join("s.sock"), chmod: 0o700, chown: None };
            let server = HttpServer { section: "unix_http_server".to_owned(), address, auth };
            let bound = bind(&[server]).unwrap();
            let (stop, stopping) = oneshot::channel();
            let serving = tokio::spawn(serve(bound, api.handle, api.logs, stopping, GRACE));
            Server { folder, stop, serving }
        }

        fn path(&self) -> &Path {
            self.folder.path()
        }

        async fn connect(&self) -> UnixStream {
            UnixStream::connect(self.path().join("s.sock")).await.unwrap()
        }

        /// All that a server answers to a client that sends `request`, until it closes the connection.
        async fn ask(&self, request: &str) -> String {
            let mut client = self.connect().await;
            client.write_all(request.as_bytes()).await.unwrap();
            rest(&mut client).await
        }

        async fn stop(self) {
            self.stop.send(Parting::Close).unwrap();
            timeout(GRACE, self.serving).await.unwrap().unwrap();
        }
    }

    async fn rest(client: &mut UnixStream) -> String {
        let mut answer = Vec::new();
        timeout(GRACE, client.read_to_end(&mut answer)).await.unwrap().unwrap();
        String::from_utf8(answer).unwrap()
    }

    async fn read_past(client: &mut UnixStream, end: &str) -> String {
        let mut answer = Vec::new();
        while !answer.ends_with(end.as_bytes()) {
            let read = timeout(GRACE, client.read_u8()).await.unwrap();
            answer.push(read.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&answer))));
        }
        String::from_utf8(answer).unwrap()
    }

    fn closing(start: &str) -> String {
        format!("{start} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    }

    fn post(method: &str) -> String {
        let body = write_call(method, &[]);
        format!("POST /RPC2 HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    fn status(answer: &str) -> &str {
        answer.lines().next().unwrap_or("")
    }

    #[test]
    fn room_is_made_by_those_who_have_been_quiet_for_longest() {
        let lines = [Line::new(), Line::new()].map(Arc::new);
        let quiet = || lines.each_ref().map(|line| line.quiet_since().is_some());
        dismiss_the_quietest(lines.iter());
        assert_eq!(quiet(), [false, true]);
        dismiss_the_quietest(lines.iter());
        assert_eq!(quiet(), [false, false]);
        dismiss_the_quietest(lines.iter());
    }

    #[tokio::test]
    async fn paths_and_methods_have_supervisors_statuses() {
        let server = Server::start(None);
        for (start, expected) in [
            ("GET /ok.html", "200 OK"),
            ("HEAD /ok.html", "404 Not Found"),
            ("DELETE /ok.html", "400 Bad Request"),
            ("GET /nosuch.html", "404 Not Found"),
            ("GET /RPC2", "400 Bad Request"),
            ("PUT /RPC2", "400 Bad Request"),
            ("POST /RPC2", "411 Length Required"),
            ("POST /", "411 Length Required"),
            ("GET /index.html", "200 OK"),
            ("HEAD /index.html", "404 Not Found"),
            ("GET /tail.html?processname=run", "200 OK"),
            ("HEAD /stylesheets/supervisor.css", "200 OK"),
            ("POST /stylesheets/supervisor.css", "400 Bad Request"),
            ("GET /stylesheets/", "404 Not Found"),
            ("GET /logtail/nosuch", "404 Not Found"),
            ("GET /logtail/run", "404 Not Found"),
            ("GET /logtail/run/nochannel", "404 Not Found"),
            ("GET /logtail/g:*", "404 Not Found"),
            ("GET /logtail", "404 Not Found"),
            ("POST /logtail/run", "400 Bad Request"),
            ("POST /mainlogtail", "400 Bad Request"),
        ] {
            let answer = server.ask(&closing(start)).await;
            assert_eq!(status(&answer), format!("HTTP/1.1 {expected}"), "{start}");
            assert!(!answer.contains("Connection:"), "{answer}");
        }
        server.stop().await;
    }

    #[tokio::test]
    async fn tools_act_by_links_and_browsers_by_posts_with_the_pages_token() {
        let server = Server::start(None);
        let answer = server.ask(&closing("GET /index.html?processname=g%3Ay&action=start")).await;
        assert_eq!(status(&answer), "HTTP/1.1 301 Moved Permanently");
        assert!(answer.contains("Location: http://x/?message=Process%20g%3Ay%20started\r\n"), "{answer}");
        let end =
            "HTTP/1.1\r\nHost: x\r\nUser-Agent: Mozilla/5.0\r\nOrigin: http://x\r\nConnection: close\r\n";
        let link = format!("GET /?processname=g%3Ay&action=start {end}\r\n");
        assert_eq!(status(&server.ask(&link).await), "HTTP/1.1 403 Forbidden");
        let page = server.ask(&closing("GET /")).await;
        let (_, token) = page.split_once("name=\"token\" value=\"").unwrap();
        let (token, _) = token.split_once('"').unwrap();
        let post = |token: &str, more: &str| {
            let form = format!("processname=g%3Ay&action=start&token={token}");
            format!("POST /index.html {end}{more}Content-Length: {}\r\n\r\n{form}", form.len())
        };
        assert_eq!(status(&server.ask(&post("guessed", "")).await), "HTTP/1.1 403 Forbidden");
        let answer = server.ask(&post(token, "")).await;
        assert_eq!(status(&answer), "HTTP/1.1 303 See Other");
        assert!(answer.contains("Location: ./?message=Process%20g%3Ay%20started\r\n"), "{answer}");
        let answer = server.ask(&post(token, "Accept: text/plain\r\n")).await;
        assert!(answer.ends_with("\r\n\r\nProcess g:y started"), "{answer}");
        let answer = server.ask(&closing("GET /?action=explode")).await;
        assert_eq!(status(&answer), "HTTP/1.1 500 Internal Server Error");
        server.stop().await;
    }

    #[tokio::test]
    async fn a_form_that_is_too_long_is_refused() {
        let server = Server::start(None);
        let form = "x".repeat(70_000);
        let length = form.len();
        let request =
            format!("POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{form}");
        assert_eq!(status(&server.ask(&request).await), "HTTP/1.1 413 Payload Too Large");
        server.stop().await;
    }

    #[tokio::test]
    async fn bad_requests_are_told_so_garbage_is_not_and_both_end_their_connection_only() {
        let server = Server::start(None);
        assert_eq!(server.ask("garbage\r\n\r\n").await, "");
        let answer = server.ask("GET / HTTP/1.1\r\nno colon\r\n\r\n").await;
        assert_eq!(status(&answer), "HTTP/1.1 400 Bad Request");
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(40_000));
        assert!(status(&server.ask(&long).await).starts_with("HTTP/1.1 4"));
        let mut client = server.connect().await;
        let large = "POST /RPC2 HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n";
        client.write_all(format!("{large}{}", "x".repeat(70_000)).as_bytes()).await.unwrap();
        let answer = read_past(&mut client, "\r\n\r\n").await;
        assert_eq!(status(&answer), "HTTP/1.1 413 Payload Too Large");
        let answer = server.ask("GET /ok.html HTTP/1.0\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && !answer.contains("Connection:"), "{answer}");
        server.stop().await;
    }

    #[tokio::test]
    async fn nothing_is_told_to_those_who_are_unknown() {
        let server = Server::start(Some(("user", "secret")));
        for start in ["GET /ok.html", "GET /nosuch", "GET /logtail/run", "GET /mainlogtail", "POST /RPC2"] {
            let answer = server.ask(&closing(start)).await;
            assert_eq!(status(&answer), "HTTP/1.1 401 Unauthorized");
            assert!(answer.contains("WWW-Authenticate: Basic realm=\"default\"\r\n"), "{answer}");
            assert!(answer.contains("Connection: close\r\n"), "{answer}");
        }
        let known =
            "GET /ok.html HTTP/1.1\r\nAuthorization: basic dXNlcjpzZWNyZXQ=\r\nConnection: close\r\n\r\n";
        assert_eq!(status(&server.ask(known).await), "HTTP/1.1 200 OK");
        let malformed = known.replace("dXNlcjpzZWNyZXQ=", "abc");
        assert_eq!(status(&server.ask(&malformed).await), "HTTP/1.1 400 Bad Request");
        server.stop().await;
    }

    #[tokio::test]
    async fn a_log_is_followed_until_the_server_stops() {
        let server = Server::start(None);
        let log = server.path().join("run.log");
        std::fs::write(&log, "before\n").unwrap();
        let mut client = server.connect().await;
        client.write_all(b"GET /logtail/run HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let head = read_past(&mut client, "\r\n\r\n").await;
        for line in
            ["Transfer-Encoding: chunked", "X-Accel-Buffering: no", "Content-Type: text/plain;charset=utf-8"]
        {
            assert!(head.contains(&format!("{line}\r\n")), "{head}");
        }
        read_past(&mut client, "before\n\r\n").await;
        std::fs::write(&log, "before\nafter\n").unwrap();
        read_past(&mut client, "after\n\r\n").await;
        let socket = server.path().join("s.sock");
        server.stop().await;
        assert!(!socket.exists());
        assert_eq!(rest(&mut client).await, "0\r\n\r\n");
    }

    #[tokio::test]
    async fn an_answer_under_way_is_finished_and_idle_clients_are_not_waited_for() {
        let server = Server::start(None);
        let _silent = server.connect().await;
        let mut half = server.connect().await;
        half.write_all(b"GET /ok.html HT").await.unwrap();
        let mut client = server.connect().await;
        let (head, body) = {
            let request = post("supervisor.getPID");
            let at = request.len() - 5;
            (request[..at].to_owned(), request[at..].to_owned())
        };
        client.write_all(head.as_bytes()).await.unwrap();
        // Both have been read when this, sent last, is answered.
        server.ask(&closing("GET /ok.html")).await;
        server.stop.send(Parting::HandOver).unwrap();
        assert_eq!(rest(&mut half).await, "");
        client.write_all(body.as_bytes()).await.unwrap();
        assert!(rest(&mut client).await.contains("<int>4711</int>"));
        timeout(GRACE, server.serving).await.unwrap().unwrap();
        assert!(server.folder.path().join("s.sock").exists(), "it is another's now");
    }
}
