//! Whatever clients may send, in any order and cut anywhere, to the real server: good and bad heads, paths and
//! queries, forms and calls, bodies by length and by chunks, several requests on a connection. Each request that
//! is understood has one whole answer, each connection comes to its end, and the next client is served. As many
//! cases as `PROPTEST_CASES` says.

use std::path::Path;
use std::time::Duration;

use fleetvisor_model::config::{HttpAddress, HttpServer};
use proptest::prelude::*;
use proptest::sample::select;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Parting, bind, serve};
use crate::rpc::testing;

/// Far more than anything here takes, on a slow machine too.
const PATIENCE: Duration = Duration::from_secs(20);

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        select(vec![
            "run", "g:x", "g:*", "start", "stop", "restart", "clearlog", "stopall", "refresh", "%3Cb%3E",
            "-1"
        ])
        .prop_map(str::to_owned),
        "[ -~]{0,12}".prop_map(|text| text.replace([' ', '#'], "+")),
        "(%[0-9a-fA-F]{0,2}|[a-z&=;+/.]){0,10}",
    ]
}

fn target() -> impl Strategy<Value = String> {
    let path = prop_oneof![
        4 => select(vec!["/", "/index.html", "/tail.html", "/ok.html", "/RPC2", "/stylesheets/supervisor.css"])
            .prop_map(str::to_owned),
        1 => select(vec!["/logtail/nosuch", "/logtail", "/logtail/run/nochannel", "//", "*", "x", "/../s.conf"])
            .prop_map(str::to_owned),
        1 => word().prop_map(|word| format!("/{word}")),
    ];
    let field = (select(vec!["processname", "action", "limit", "message", "token", ""]), word());
    (path, prop::collection::vec(field, 0..4)).prop_map(|(path, fields)| {
        let fields: Vec<String> = fields.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        if fields.is_empty() { path } else { format!("{path}?{}", fields.join("&")) }
    })
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    let call =
        select(vec!["supervisor.getState", "system.listMethods", "supervisor.getAllProcessInfo", "nosuch"])
            .prop_map(|method| {
                format!("<methodCall><methodName>{method}</methodName></methodCall>").into_bytes()
            });
    let form = (word(), word())
        .prop_map(|(name, action)| format!("processname={name}&action={action}").into_bytes());
    prop_oneof![call, form, prop::collection::vec(any::<u8>(), 0..300), Just(vec![b'x'; 70_000])]
}

/// The header lines that say how long a body is, and the body.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let by_length = (content(), prop_oneof![6 => Just(0i64), 1 => -3i64..=3]).prop_map(|(content, wrong)| {
        let length = content.len() as i64 + wrong;
        [format!("Content-Length: {length}\r\n\r\n").into_bytes(), content].concat()
    });
    let end =
        select(vec!["0\r\n\r\n", "0\r\nX: y\r\n\r\n", "", "zz\r\n", "-1\r\n", "ffffffffffffffffff\r\n"]);
    let by_chunks = (content(), 1usize..5_000, end).prop_map(|(content, size, end)| {
        let mut bytes = b"Transfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in content.chunks(size) {
            bytes.extend(format!("{:x};a=b\r\n", chunk.len()).as_bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(end.as_bytes());
        bytes
    });
    prop_oneof![3 => Just(b"\r\n".to_vec()), 3 => by_length, 2 => by_chunks]
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let method = prop_oneof![
        6 => select(vec!["GET", "POST", "HEAD"]),
        1 => select(vec!["PUT", "DELETE", "OPTIONS", "get", "G@T", ""]),
    ];
    let version =
        prop_oneof![6 => Just("HTTP/1.1"), 2 => Just("HTTP/1.0"), 1 => Just("HTTP/2.0"), 1 => Just("x")];
    let header = select(vec![
        "Host: x",
        "Host: 127.0.0.1:9001",
        "Connection: keep-alive",
        "Connection: close",
        "Connection: Upgrade",
        "Upgrade: h2c",
        "Expect: 100-continue",
        "Origin: http://evil.example",
        "Cookie: a=b",
        "Accept: text/plain",
        "Authorization: Basic eDp5",
        "User-Agent: Mozilla/5.0",
        "no colon",
        "A: \u{e9}",
        " folded",
        "Content-Length: 5",
        "Transfer-Encoding: gzip",
    ]);
    let headers = prop::collection::vec(header, 0..4);
    (method, target(), version, headers, body()).prop_map(|(method, target, version, headers, body)| {
        let mut bytes = format!("{method} {target} {version}\r\n").into_bytes();
        for header in headers {
            bytes.extend(format!("{header}\r\n").as_bytes());
        }
        bytes.extend(body);
        bytes
    })
}

/// What one client sends, and into how many pieces it is cut.
fn sequence() -> impl Strategy<Value = (Vec<u8>, usize)> {
    let junk = prop::collection::vec(any::<u8>(), 0..60);
    let requests = prop::collection::vec(prop_oneof![12 => request().boxed(), 1 => junk.boxed()], 1..5);
    (requests.prop_map(|requests| requests.concat()), 1usize..9)
}

/// Whether these are whole answers, one after the other; the error says what is none.
fn check(mut rest: &[u8]) -> Result<(), String> {
    while !rest.is_empty() {
        let end = rest.windows(4).position(|four| four == b"\r\n\r\n").ok_or("half a head")? + 4;
        let head = std::str::from_utf8(&rest[..end]).map_err(|error| error.to_string())?;
        rest = &rest[end..];
        let status = head.strip_prefix("HTTP/1.").and_then(|line| line.get(2..5)).ok_or("no status line")?;
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        // To HEAD the length of what is not sent is answered; no body of ours looks like an answer.
        let is_bare = status == "100" || rest.is_empty() || rest.starts_with(b"HTTP/1.");
        if !is_bare {
            let length: usize = length.and_then(|length| length.parse().ok()).ok_or("no length")?;
            rest = rest.get(length..).ok_or("half a body")?;
        }
    }
    Ok(())
}

async fn converse(path: &Path, bytes: &[u8], pieces: usize) -> Result<Vec<u8>, TestCaseError> {
    let (mut read, mut write) = UnixStream::connect(path).await.unwrap().into_split();
    let writing = async {
        for piece in bytes.chunks(bytes.len() / pieces + 1) {
            // A server that has heard enough closes.
            if write.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        let _ = write.shutdown().await;
    };
    let mut answer = Vec::new();
    let reading = async {
        // So is one that closes before it has read everything.
        let _ = read.read_to_end(&mut answer).await;
    };
    let ended = timeout(PATIENCE, async { tokio::join!(writing, reading) }).await;
    prop_assert!(ended.is_ok(), "no end; so far {:?}", String::from_utf8_lossy(&answer));
    if let Err(why) = check(&answer) {
        // An answer may be cut short only where the client went on sending what was refused.
        prop_assert!(bytes.len() > 60_000, "{why}: {:?}", String::from_utf8_lossy(&answer));
    }
    Ok(answer)
}

#[test]
fn any_sequence_of_requests_is_answered_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (stop, serving) = runtime.block_on(async {
        let api = testing::api(folder.path());
        let address = HttpAddress::Unix { file: path.clone(), chmod: 0o700, chown: None };
        let server = HttpServer { section: "unix_http_server".to_owned(), address, auth: None };
        let bound = bind(&[server]).unwrap();
        let (stop, stopping) = oneshot::channel();
        (stop, tokio::spawn(serve(bound, api.handle, api.logs, stopping, PATIENCE)))
    });
    proptest!(|((bytes, pieces) in sequence())| {
        runtime.block_on(converse(&path, &bytes, pieces))?;
        let answer = runtime.block_on(converse(&path, b"GET /ok.html HTTP/1.0\r\n\r\n", 1))?;
        prop_assert!(answer.starts_with(b"HTTP/1.0 200 OK\r\n"));
    });
    runtime.block_on(async {
        stop.send(Parting::Close).unwrap();
        timeout(PATIENCE, serving).await.unwrap().unwrap();
    });
}
