//! The HTTP servers: what browsers may not be made to do by other sites, and clients that take their time.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use fleetvisor_tests::{Address, Host, HostConfig, LIMIT};

const CAT: &str = "[program:cat]\ncommand=/bin/cat\nstartsecs=0\n[program:off]\ncommand=/bin/cat\nautostart=false\n\
    startsecs=0\n";

fn call(method: &str, name: &str) -> Vec<u8> {
    format!(
        "<methodCall><methodName>{method}</methodName>\
         <params><param><value><string>{name}</string></value></param></params></methodCall>"
    )
    .into_bytes()
}

/// What a page of `origin` makes a browser send with a request.
fn from(origin: &str, host: &str) -> String {
    format!("Host: {host}\r\nUser-Agent: Mozilla/5.0\r\nAccept-Language: en\r\nOrigin: {origin}\r\n")
}

/// One request with these header lines and no others but the length.
fn ask(port: u16, start: &str, headers: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let length = body.len();
    write!(stream, "{start} HTTP/1.1\r\n{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n")
        .unwrap();
    stream.write_all(body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("")
}

fn open_port() -> (Host, u16) {
    let host = HostConfig::new(CAT).inet().start();
    host.wait("cat", "RUNNING");
    let Address::Inet(port) = host.rpc.address else { unreachable!("the host listens on TCP") };
    (host, port)
}

#[test]
fn no_other_site_makes_a_browser_act() {
    let (host, port) = open_port();
    let pid = host.pid("cat");
    let stop = call("supervisor.stopProcess", "cat");
    let foreign = from("http://evil.example", &format!("127.0.0.1:{port}"));
    // As a page can have it sent without being asked first, and as fetch() with an XML type would.
    for kind in ["Content-Type: text/plain\r\n", "Content-Type: text/xml\r\n", ""] {
        assert_eq!(status(&ask(port, "POST /RPC2", &format!("{foreign}{kind}"), &stop)), "403");
    }
    let silent = foreign.lines().filter(|line| !line.starts_with("Origin")).map(|line| format!("{line}\r\n"));
    let silent: String = silent.collect();
    assert_eq!(status(&ask(port, "POST /RPC2", &silent, &stop)), "403");
    for headers in [&foreign, &silent] {
        let link = ask(port, "GET /?processname=cat&action=stop", headers, b"");
        assert_eq!(status(&link), "403");
        let form = b"processname=cat&action=stop&token=guessed";
        assert_eq!(status(&ask(port, "POST /index.html", headers, form)), "403");
    }
    // What no browser sends goes through, and so does our own page's origin.
    let tool = format!("Host: 127.0.0.1:{port}\r\n");
    let info = call("supervisor.getProcessInfo", "cat");
    assert_eq!(status(&ask(port, "POST /RPC2", &tool, &info)), "200");
    let own = from(&format!("http://127.0.0.1:{port}"), &format!("127.0.0.1:{port}"));
    assert_eq!(status(&ask(port, "POST /RPC2", &own, &info)), "200");
    assert_eq!(host.pid("cat"), pid);
}

#[test]
fn a_foreign_name_that_points_to_an_open_port_acts_on_nothing() {
    let (host, port) = open_port();
    let pid = host.pid("cat");
    // To the browser all of these come from the very site they go to.
    let rebound = from(&format!("http://evil.example:{port}"), &format!("evil.example:{port}"));
    let rebound = format!("{rebound}Sec-Fetch-Site: same-origin\r\n");
    let page = ask(port, "GET /", &rebound, b"");
    let token = page.split("name=\"token\" value=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let form = format!("processname=cat&action=stop&token={token}");
    let answer = ask(port, "POST /index.html", &rebound, form.as_bytes());
    assert_eq!(status(&answer), "403");
    assert!(answer.contains("[inet_http_server]"), "{answer}");
    let stop = call("supervisor.stopProcess", "cat");
    assert_eq!(status(&ask(port, "POST /RPC2", &rebound, &stop)), "403");
    assert_eq!(host.pid("cat"), pid);
    // By its address the same page acts.
    let own = from(&format!("http://127.0.0.1:{port}"), &format!("127.0.0.1:{port}"));
    let form = format!("processname=off&action=start&token={token}");
    assert_eq!(status(&ask(port, "POST /index.html", &own, form.as_bytes())), "303");
    host.wait("off", "RUNNING");
}

#[test]
fn a_client_that_takes_its_time_holds_nobody_up() {
    let host = Host::with(CAT);
    host.wait("cat", "RUNNING");
    let mut slow = UnixStream::connect(host.path("s.sock")).unwrap();
    slow.set_read_timeout(Some(LIMIT)).unwrap();
    let body = call("supervisor.getProcessInfo", "cat");
    let head = format!("POST /RPC2 HTTP/1.0\r\nContent-Length: {}\r\n\r\n", body.len());
    for byte in head.as_bytes().iter().chain(&body) {
        slow.write_all(&[*byte]).unwrap();
        if *byte == b'\n' || *byte == b'>' {
            assert_eq!(host.state("cat"), "RUNNING");
        }
    }
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 ") && answer.contains("RUNNING"), "{answer}");
}

#[test]
fn a_connection_is_kept_by_the_rules_of_its_version() {
    let host = Host::with(CAT);
    let answers = |request: &str| {
        let answer = host.rpc.address.exchange(request.as_bytes()).unwrap();
        String::from_utf8_lossy(&answer).matches(" 200 OK\r\n").count()
    };
    let two = |version: &str, header: &str| {
        let one = |header: &str| format!("GET /ok.html HTTP/{version}\r\nHost: x\r\n{header}\r\n");
        answers(&format!("{}{}", one(header), one("Connection: close\r\n")))
    };
    assert_eq!(two("1.1", ""), 2);
    assert_eq!(two("1.1", "Connection: close\r\n"), 1);
    assert_eq!(two("1.0", ""), 1);
    assert_eq!(two("1.0", "Connection: Keep-Alive\r\n"), 2);
}
