//! The programs as they are run, against a server that answers what it is told: output, exit status, and
//! how many calls they make.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use fleetvisor_proto::fault::{Fault, FaultCode};
use fleetvisor_proto::xmlrpc::{Call, Limits, Value, parse_call, write_fault, write_response};

type Answer = Result<Value, Fault>;

/// A supervisord of a few lines on a unix socket.
struct Server {
    directory: tempfile::TempDir,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(answer: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> Server {
        Server::raw(move |request, stream| {
            let head_end = request.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
            let body = match parse_call(&request[head_end..], &Limits::REQUEST) {
                Ok(call) => match answer(&call) {
                    Ok(value) => write_response(&value),
                    Err(fault) => write_fault(&fault),
                },
                Err(error) => panic!("{error}"),
            };
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(body.as_bytes()).unwrap();
        })
    }

    /// Each whole request is handed over, with the stream to answer on.
    fn raw(answer: impl Fn(&[u8], &mut UnixStream) + Send + Sync + 'static) -> Server {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("s.sock")).unwrap();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let answer = Arc::new(answer);
        let seen = Arc::clone(&calls);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, seen, answer) = (stream.unwrap(), Arc::clone(&seen), Arc::clone(&answer));
                std::thread::spawn(move || {
                    while let Some(request) = read_request(&mut stream) {
                        seen.lock().unwrap().push(String::from_utf8_lossy(&request).into_owned());
                        answer(&request, &mut stream);
                    }
                });
            }
        });
        Server { directory, calls }
    }

    fn url(&self) -> String {
        format!("unix://{}", self.directory.path().join("s.sock").display())
    }

    fn run(&self, words: &[&str]) -> Output {
        supervisorctl(&[&["-s", &self.url()], words].concat())
    }

    fn calls(&self) -> usize {
        self.calls.lock().unwrap().len()
    }
}

fn read_request(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).unwrap_or("0");
            if request.len() >= end + 4 + length.trim().parse::<usize>().unwrap() {
                return Some(request);
            }
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(read) => request.extend_from_slice(&chunk[..read]),
        }
    }
}

fn program(path: &str) -> Command {
    let mut command = Command::new(PathBuf::from(path));
    command.current_dir("/").stdin(Stdio::null()).env_remove("FLEETVISOR_CONTROLLER").env("HOME", "/nowhere");
    command
}

fn supervisorctl(words: &[&str]) -> Output {
    program(env!("CARGO_BIN_EXE_supervisorctl")).args(words).output().unwrap()
}

fn ctl(words: &[&str]) -> Output {
    program(env!("CARGO_BIN_EXE_ctl")).args(words).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn info(group: &str, name: &str, state: i64) -> Value {
    Value::record([
        ("group", Value::from(group)),
        ("name", Value::from(name)),
        ("state", Value::Int(state)),
        ("statename", Value::from(if state == 20 { "RUNNING" } else { "STOPPED" })),
        ("description", Value::from("described")),
        ("pid", Value::Int(7)),
    ])
}

/// Answers what `status` asks, with these processes.
fn statuses(infos: Vec<Value>) -> impl Fn(&Call) -> Answer + Send + Sync + 'static {
    move |call| {
        assert_eq!(call.method, "system.multicall");
        Ok(Value::Array(vec![Value::from("3.0"), Value::Array(infos.clone())]))
    }
}

#[test]
fn status_is_one_call_whatever_the_number_of_processes() {
    let infos = (0..1000).map(|at| info("web", &format!("web_{at:03}"), 20)).collect();
    let server = Server::start(statuses(infos));
    let output = server.run(&["status"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stdout(&output).lines().count(), 1000);
    assert_eq!(stdout(&output).lines().next(), Some("web:web_000                      RUNNING   described"));
    assert_eq!(server.calls(), 1);
}

#[test]
fn status_of_something_stopped_is_exit_3_and_of_something_unknown_4() {
    let server = Server::start(statuses(vec![info("a", "a", 20), info("b", "b", 0)]));
    assert_eq!(server.run(&["status", "a"]).status.code(), Some(0));
    assert_eq!(server.run(&["status"]).status.code(), Some(3));
    let output = server.run(&["status", "nosuch", "a"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(stdout(&output).starts_with("nosuch: ERROR (no such process)\na "));
}

#[test]
fn ctl_without_a_scope_does_what_supervisorctl_does() {
    let server = Server::start(statuses(vec![info("a", "a", 20)]));
    let output = ctl(&["-s", &server.url(), "status"]);
    assert_eq!(output.stdout, server.run(&["status"]).stdout);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_server_of_another_version_or_without_the_interface_is_said() {
    let server = Server::start(|_| Ok(Value::Array(vec![Value::from("4.0"), Value::Array(vec![])])));
    let output = server.run(&["status"]);
    assert!(stdout(&output).contains("expects to talk to a server with API version 3.0"), "{output:?}");
    assert_eq!(output.status.code(), Some(4));
    let server = Server::start(|_| Err(Fault::new(FaultCode::UnknownMethod)));
    let output = server.run(&["version"]);
    assert!(stdout(&output).starts_with("Sorry, supervisord responded but did not recognize"), "{output:?}");
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn servers_that_misbehave_get_a_line_and_an_exit_status() {
    for reply in [
        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwhat",
        "HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\nshort",
        "garbage\r\n\r\n",
        "",
    ] {
        let server = Server::raw(move |_, stream| {
            stream.write_all(reply.as_bytes()).unwrap();
            stream.shutdown(Shutdown::Both).unwrap();
        });
        let output = server.run(&["status"]);
        assert!(stdout(&output).starts_with("error: <class '"), "{reply:?}: {output:?}");
        assert_eq!(output.status.code(), Some(1), "{reply:?}");
    }
}

#[test]
fn credentials_are_sent_and_their_lack_is_said() {
    let server = Server::raw(|request, stream| {
        let request = String::from_utf8_lossy(request).to_lowercase();
        // me:s3:cret
        if request.contains("authorization: basic bwu6czm6y3jlda==") {
            let body = write_response(&Value::Array(vec![Value::from("3.0"), Value::Array(vec![])]));
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        } else {
            stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
    });
    assert_eq!(server.run(&["-u", "me", "-p", "s3:cret", "status"]).status.code(), Some(0));
    let output = server.run(&["status"]);
    assert!(stdout(&output).starts_with("Server requires authentication\nerror: <class"), "{output:?}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_followed_log_ends_with_the_server_and_a_missing_one_is_said_on_stderr() {
    let server = Server::raw(|request, stream| {
        if request.starts_with(b"GET /logtail/web/stdout") {
            let chunks =
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n4\r\ntwo\n\r\n0\r\n\r\n";
            stream.write_all(chunks).unwrap();
        } else if request.starts_with(b"GET ") {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").unwrap();
        } else {
            let body = write_response(&Value::from("3.0"));
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        }
    });
    let output = server.run(&["tail", "-f", "web"]);
    assert_eq!(stdout(&output), "==> Press Ctrl-C to exit <==\none\ntwo\n");
    assert_eq!(output.status.code(), Some(0));
    let output = server.run(&["tail", "-f", "nosuch"]);
    let said = format!("{}/logtail/nosuch/stdout Cannot read, status code 404\n", server.url());
    assert_eq!(String::from_utf8_lossy(&output.stderr), said);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn unreachable_servers_have_supervisors_words() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("none.sock");
    let url = format!("unix://{}", socket.display());
    let output = supervisorctl(&["-s", &url, "status"]);
    assert_eq!(stdout(&output), format!("{url} no such file\n"));
    assert_eq!(output.status.code(), Some(4));
    let output = supervisorctl(&["-s", &url, "pid"]);
    assert_eq!(output.status.code(), Some(7));
    drop(UnixListener::bind(&socket).unwrap());
    let output = supervisorctl(&["-s", &url, "version"]);
    assert_eq!(stdout(&output), format!("{url} refused connection\n"));
    assert_eq!(output.status.code(), Some(4));
}

#[test]
fn the_shell_reads_lines_from_a_pipe() {
    let server = Server::start(statuses(vec![info("a", "a", 20)]));
    let mut child = program(env!("CARGO_BIN_EXE_supervisorctl"))
        .args(["-s", &server.url()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"foo\n\nstatus a").unwrap();
    let output = child.wait_with_output().unwrap();
    let line = "a                                RUNNING   described\n";
    let prompt = "supervisor> ";
    assert_eq!(
        stdout(&output),
        format!("{line}{prompt}*** Unknown syntax: foo\n{prompt}{prompt}{line}{prompt}\n")
    );
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_fleet_command_without_a_controller_or_identity_says_what_is_missing() {
    let output = ctl(&["--all-hosts", "status"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("FLEETVISOR_CONTROLLER"));
    let output = ctl(&["--all-hosts", "status", "--controller", "127.0.0.1:1", "--identity", "/nowhere"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot read /nowhere/ca.crt"));
    assert!(!Path::new("/nowhere").exists());
}

#[test]
fn slips_on_the_command_line_are_exit_2() {
    for words in [
        &["--all-hosts", "restart"][..],
        &["restart", "web-01:app:", "nginx"],
        &["-l", "", "status"],
        &["--all-hosts", "tail", "web"],
        &["-o", "json", "tail", "web"],
        &["--all-hosts", "-s", "unix:///x", "status"],
        &["nosuch"],
    ] {
        let output = ctl(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {output:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{words:?}");
    }
}

#[test]
fn ctl_prints_its_version_without_asking_anybody() {
    let output = ctl(&["version"]);
    assert_eq!(stdout(&output), format!("{}\n", fleetvisor_proto::VERSION));
    assert_eq!(output.status.code(), Some(0));
}
