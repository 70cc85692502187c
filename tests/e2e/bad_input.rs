//! What nobody should send: each gets its answer, and no daemon ends or forgets a program over it.

use std::fmt::Write as _;

use fleetvisor_proto::xmlrpc::Value;
use fleetvisor_tests::{Address, Flavour, Fleet, Host, HostConfig, LIMIT, Ran, Rpc, run};

const CAT: &str = "[program:cat]\ncommand=/bin/cat\nstartsecs=0\n";

/// `supervisord -n -c` on a file with this content, or on no file.
fn refused(flavour: Flavour, content: Option<&str>) -> Ran {
    let host = HostConfig::new("").flavour(flavour).prepare();
    let path = host.path("bad.conf").display().to_string();
    if let Some(content) = content {
        host.dir().write("bad.conf", content);
    }
    let mut command = host.command(&["-n", "-c", &path]);
    let program = command.get_program().to_string_lossy().into_owned();
    let mut ran = run(&mut command, LIMIT);
    ran.stderr = ran.stderr.replace(&path, "FILE").replace(&program, "PROGRAM");
    ran
}

#[track_caller]
fn refused_as_by_supervisor(content: Option<&str>) {
    let theirs = refused(Flavour::Python, content);
    let ours = refused(Flavour::of_suite(), content).expect_code(2);
    assert_eq!(theirs.code(), 2, "Supervisor refuses it too: {theirs}");
    assert_eq!(ours.stderr, theirs.stderr);
}

#[test]
fn a_number_that_is_none_is_refused() {
    refused_as_by_supervisor(Some("[supervisord]\n[program:x]\ncommand=/bin/cat\nstartsecs=soon\n"));
}

#[test]
fn a_program_without_a_command_is_refused() {
    refused_as_by_supervisor(Some("[supervisord]\n[program:x]\nstartsecs=1\n"));
}

#[test]
fn a_line_that_is_no_key_is_refused() {
    refused_as_by_supervisor(Some("[supervisord]\nnonsense\n"));
}

#[test]
fn a_line_before_any_section_is_refused() {
    refused_as_by_supervisor(Some("command=/bin/cat\n"));
}

#[test]
fn a_file_without_the_daemons_section_is_refused() {
    refused_as_by_supervisor(Some("[program:x]\ncommand=/bin/cat\n"));
}

#[test]
fn an_expansion_of_nothing_is_refused() {
    refused_as_by_supervisor(Some("[supervisord]\n[program:x]\ncommand=/bin/echo %(nosuch)s\n"));
}

#[test]
fn a_signal_that_does_not_exist_is_refused() {
    refused_as_by_supervisor(Some("[supervisord]\n[program:x]\ncommand=/bin/cat\nstopsignal=FOO\n"));
}

#[test]
fn a_group_of_unknown_programs_is_refused() {
    refused_as_by_supervisor(Some("[supervisord]\n[group:g]\nprograms=nosuch\n"));
}

#[test]
fn a_file_that_is_not_there_is_refused() {
    refused_as_by_supervisor(None);
}

#[test]
fn a_file_that_may_not_be_read_is_refused() {
    if nix::unistd::geteuid().is_root() {
        // Nothing is closed to root; a directory can't be read by anybody.
        let host = HostConfig::new("").prepare();
        let folder = host.path("logs").display().to_string();
        let ran = run(&mut host.command(&["-n", "-c", &folder]), LIMIT);
        ran.expect_code(2).expect_stderr(&folder);
        return;
    }
    let host = HostConfig::new("").prepare();
    let path = host.dir().write("bad.conf", "[supervisord]\n");
    let mut permissions = std::fs::metadata(&path).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0);
    std::fs::set_permissions(&path, permissions).unwrap();
    let path = path.display().to_string();
    run(&mut host.command(&["-n", "-c", &path]), LIMIT).expect_code(2).expect_stderr(&path);
}

#[test]
fn a_wrong_password_is_answered_401_and_does_nothing() {
    let host = HostConfig::new(CAT).inet().auth("user", "secret").start();
    host.wait("cat", "RUNNING");
    let pid = host.pid("cat");
    for auth in [None, Some(("user", "wrong")), Some(("", "")), Some(("user", "secretsecret"))] {
        let stranger = Rpc {
            address: host.rpc.address.clone(),
            auth: auth.map(|(user, password)| (user.to_owned(), password.to_owned())),
        };
        let call = "<methodCall><methodName>supervisor.stopProcess</methodName>\
                    <params><param><value><string>cat</string></value></param></params></methodCall>";
        let answer = stranger.post(call.as_bytes()).unwrap();
        assert_eq!(answer.status, 401, "{}", answer.head);
        assert!(answer.head.to_lowercase().contains("www-authenticate: basic"), "{}", answer.head);
        assert_eq!(stranger.address.request("GET", "/", "", b"").unwrap().status, 401);
    }
    assert_eq!(host.pid("cat"), pid);
    host.supervisorctl_of_suite(&["-p", "wrong", "status"])
        .expect_code(1)
        .expect_stdout("Server requires authentication");
}

/// Things that are no request, or not one to be served.
fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    let post = |headers: &str, body: &[u8]| {
        let mut bytes =
            format!("POST /RPC2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n").into_bytes();
        bytes.extend_from_slice(body);
        bytes
    };
    let deep = "<value><array><data>".repeat(20_000);
    let mut entities = String::from("<?xml version=\"1.0\"?><!DOCTYPE lolz [<!ENTITY a \"lol\">");
    for (name, of) in [("b", "a"), ("c", "b"), ("d", "c"), ("e", "d"), ("f", "e"), ("g", "f")] {
        write!(entities, "<!ENTITY {name} \"{}\">", format!("&{of};").repeat(30)).unwrap();
    }
    entities.push_str("]><methodCall><methodName>&g;</methodName></methodCall>");
    let sized = |body: &[u8]| post(&format!("Content-Length: {}\r\n", body.len()), body);
    vec![
        ("nothing", Vec::new()),
        ("bytes", (0..=255).cycle().take(5_000).collect()),
        ("zeros", vec![0; 100_000]),
        ("a line without end", vec![b'A'; 300_000]),
        ("a header without end", [b"GET / HTTP/1.1\r\nX: ".as_slice(), &vec![b'x'; 300_000]].concat()),
        ("headers without end", [b"GET / HTTP/1.1\r\n".as_slice(), &b"X: y\r\n".repeat(50_000)].concat()),
        ("a body shorter than said", post("Content-Length: 100\r\n", b"<methodCall>")),
        ("a length that is none", post("Content-Length: many\r\n", b"")),
        ("a length below zero", post("Content-Length: -1\r\n", b"")),
        ("a length beyond all", post("Content-Length: 99999999999999999999\r\n", b"<methodCall>")),
        ("a body of gigabytes", post("Content-Length: 9000000000\r\n", &vec![b' '; 3_000_000])),
        ("no XML", sized(b"hello")),
        ("half an XML", sized(b"<methodCall><methodName>supervisor.getState")),
        ("a call of nothing", sized(b"<methodCall></methodCall>")),
        (
            "XML without end",
            sized(format!("<methodCall><methodName>x</methodName><params><param>{deep}").as_bytes()),
        ),
        ("entities", sized(entities.as_bytes())),
        ("a chunk that is none", post("Transfer-Encoding: chunked\r\n", b"zz\r\nhello\r\n")),
        ("TLS", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec()),
    ]
}

fn survives_garbage(host: &mut Host) {
    host.wait("cat", "RUNNING");
    let (cat, daemon) = (host.pid("cat"), host.daemon().pid());
    for (what, bytes) in garbage() {
        if let Err(why) = host.rpc.address.exchange(&bytes) {
            panic!("{what}: {why}");
        }
        assert!(host.daemon().exited().is_none(), "{what} has ended the daemon");
        assert_eq!(host.pid("cat"), cat, "{what}");
    }
    assert_eq!(host.call("supervisor.getPID", &[]).unwrap().as_int(), Some(i64::from(daemon)));
}

#[test]
fn garbage_on_the_unix_socket_ends_nothing() {
    survives_garbage(&mut HostConfig::new(CAT).start());
}

#[test]
fn garbage_on_the_tcp_port_ends_nothing() {
    survives_garbage(&mut HostConfig::new(CAT).inet().start());
}

#[test]
fn arguments_of_the_wrong_kind_are_faults() {
    let host = Host::with(CAT);
    host.wait("cat", "RUNNING");
    let nested = Value::Array(vec![Value::record([("a", Value::Nil)])]);
    for (method, params) in [
        ("supervisor.startProcess", vec![]),
        ("supervisor.startProcess", vec![nested.clone()]),
        ("supervisor.startProcess", vec!["cat".into(), true.into(), "more".into(), "still more".into()]),
        ("supervisor.tailProcessStdoutLog", vec!["cat".into(), (-1).into(), i64::MAX.into()]),
        ("supervisor.readLog", vec![nested.clone(), nested.clone()]),
        ("supervisor.signalProcess", vec!["cat".into(), "NOSUCH".into()]),
        ("system.multicall", vec![nested]),
        ("", vec![]),
        ("supervisor.__class__", vec![]),
        ("supervisor.supervisord.options.execv", vec!["/bin/false".into()]),
    ] {
        // A fault or a value: either is an answer.
        host.rpc.call(method, &params).ok();
        assert_eq!(host.state("cat"), "RUNNING", "{method} {params:?}");
    }
}

#[test]
fn connections_that_say_nothing_keep_nobody_out() {
    let mut host = HostConfig::new(CAT).inet().start();
    host.wait("cat", "RUNNING");
    let Address::Inet(port) = host.rpc.address else { unreachable!("the host listens on TCP") };
    let silent: Vec<std::net::TcpStream> =
        (0..200).map(|_| std::net::TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    assert_eq!(host.state("cat"), "RUNNING");
    drop(silent);
    assert!(host.daemon().exited().is_none());
}

#[test]
fn garbage_on_the_controllers_ports_ends_nothing() {
    let mut fleet = Fleet::new();
    let web = fleet.join("web-01", "role=web", CAT);
    web.wait("cat", "RUNNING");
    let silent: Vec<std::net::TcpStream> =
        (0..100).map(|_| std::net::TcpStream::connect(("127.0.0.1", fleet.port())).unwrap()).collect();
    for port in [fleet.port(), fleet.http()] {
        for (what, bytes) in garbage() {
            // The controller may close without a word; it may not hang.
            if let Err(why) = Address::Inet(port).exchange(&bytes) {
                panic!("{what} on port {port}: {why}");
            }
            assert!(fleet.controller().exited().is_none(), "{what} has ended the controller");
        }
    }
    fleet.ctl(&["--all-hosts", "status"]).expect_code(0).expect_stdout("web-01:cat");
    drop(silent);
}
