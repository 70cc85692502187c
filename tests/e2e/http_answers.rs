//! The HTTP side of one host as programs see it: each answer as Supervisor gives it, endless logs, connections that
//! are kept, and clients that are slow or send too much, at nobody else's cost.

use std::fmt::Write as _;
use std::thread;

use fleetvisor_tests::{Address, Answer, Conversation, Flavour, Host, HostConfig, wait_until};

const PROGRAMS: &str = "\
[program:cat]\ncommand=/bin/cat\nstartsecs=0\nstdout_logfile={dir}/cat.log\nstderr_logfile={dir}/cat.err\n\
[program:off]\ncommand=/bin/cat\nautostart=false\nstartsecs=0\n\
[program:none]\ncommand=/no/such/program\nautostart=false\nstartretries=0\n\
[program:a_b]\ncommand=/bin/cat\nautostart=false\n\
[program:m]\ncommand=/bin/cat\nautostart=false\nstartsecs=0\n[group:g]\nprograms=m\n";

fn start(flavour: Flavour) -> Host {
    let host = HostConfig::new(PROGRAMS).flavour(flavour).inet().start();
    host.wait("cat", "RUNNING");
    say(&host, "first line");
    host
}

fn say(host: &Host, line: &str) {
    host.call("supervisor.sendProcessStdin", &["cat".into(), format!("{line}\n").as_str().into()]).unwrap();
    host.wait_file("cat.log", line);
}

/// Does the same with Supervisor and with the suite's daemon.
fn compare(act: impl Fn(&Host) -> Vec<String> + Sync) {
    let whole = |flavour| act(&start(flavour));
    thread::scope(|scope| {
        let expected = scope.spawn(|| whole(Flavour::Python));
        let found = whole(Flavour::of_suite());
        let expected = expected.join().expect("Supervisor answers");
        let differ: Vec<_> =
            found.iter().zip(&expected).filter(|(found, expected)| found != expected).collect();
        assert!(differ.is_empty(), "left: ours, right: Supervisor's: {differ:#?}");
        assert_eq!(found.len(), expected.len());
    });
}

/// What programs look at. Pages, errors in HTML and dates are not among it.
fn summary(host: &Host, request: &str, answer: &Answer) -> String {
    let mut text = format!("{request} -> {}", answer.head.lines().next().unwrap_or("silence"));
    for name in ["content-type", "www-authenticate", "location", "connection", "transfer-encoding"] {
        if let Some(value) = answer.header(name) {
            write!(text, "\n{name}: {value}").unwrap();
        }
    }
    if !answer.header("content-type").is_some_and(|kind| kind.starts_with("text/html")) {
        write!(text, "\n{}", String::from_utf8_lossy(&answer.body)).unwrap();
    }
    let Address::Inet(port) = host.rpc.address else { panic!("the configuration has a TCP server") };
    // Messages end with a time.
    let text = text.replace(&format!(":{port}"), ":PORT");
    text.lines().map(|line| line.split("%20at%20").next().unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

const REQUESTS: &[(&str, &str)] = &[
    ("GET", "/ok.html"),
    ("HEAD", "/ok.html"),
    ("POST", "/ok.html"),
    ("PUT", "/ok.html"),
    ("DELETE", "/"),
    ("OPTIONS", "/"),
    ("GET", "/"),
    ("HEAD", "/"),
    ("GET", "//index.html"),
    ("GET", "/index.html/"),
    ("GET", "/index%2Ehtml"),
    ("GET", "/?message=hello"),
    ("GET", "/nosuch"),
    ("HEAD", "/nosuch"),
    ("GET", "/../../etc/passwd"),
    ("GET", "/stylesheets/../../../etc/passwd"),
    ("GET", "/RPC2"),
    ("HEAD", "/RPC2"),
    ("GET", "/logtail/"),
    ("GET", "/logtail/nosuch"),
    ("GET", "/logtail/off/stderr/more"),
    ("GET", "/logtail/cat/sideways"),
    ("GET", "/logtail/g:nosuch"),
    ("HEAD", "/logtail/cat"),
    ("PUT", "/logtail/cat"),
    ("POST", "/mainlogtail"),
    ("GET", "/tail.html"),
    ("GET", "/tail.html?processname=cat"),
    ("GET", "/tail.html?processname=nosuch"),
    ("GET", "/tail.html?processname=cat&limit=1"),
    ("GET", "/index.html?action=refresh"),
    ("GET", "/index.html?processname=off&action=start"),
    ("GET", "/index.html?processname=off&action=start"),
    ("POST", "/index.html?processname=off&action=stop"),
    ("GET", "/index.html?processname=off&action=stop"),
    ("GET", "/index.html?processname=off&action=restart"),
    ("GET", "/index.html?processname=off&action=clearlog"),
    ("GET", "/index.html?processname=none&action=start"),
    ("GET", "/index.html?processname=nosuch&action=stop"),
    ("GET", "/index.html?processname=g%3Am&action=start"),
    ("GET", "/index.html?processname=g%3A*&action=stop"),
    ("GET", "/index.html?processname=m&action=stop"),
    ("GET", "/index.html?processname=a%5Fb&action=stop"),
    ("GET", "/index.html?processname=&action=stop"),
    ("GET", "/index.html?action=stopall"),
    ("GET", "/index.html?action=restartall"),
];

#[test]
fn every_path_and_method_is_answered_as_by_supervisor() {
    compare(|host| {
        let answers = REQUESTS.iter().map(|(method, path)| {
            // Supervisor waits for ever for more of a body that is empty.
            let body: &[u8] = if *method == "POST" { b"x=y" } else { b"" };
            let answer = host.rpc.address.request(method, path, "", body).unwrap();
            summary(host, &format!("{method} {path}"), &answer)
        });
        answers.collect()
    });
}

#[test]
fn a_form_that_is_posted_acts_as_with_supervisor() {
    compare(|host| {
        let kind = "Content-Type: application/x-www-form-urlencoded\r\n";
        let forms = ["processname=off&action=start", "action=stop&processname=off", "x=y"];
        let answers = forms.map(|form| {
            let answer = host.rpc.address.request("POST", "/index.html", kind, form.as_bytes()).unwrap();
            summary(host, form, &answer)
        });
        answers.into_iter().chain([host.state("off")]).collect()
    });
}

/// One connection, these lines; each answer until the server closes.
fn talk(host: &Host, requests: &[&str]) -> Vec<String> {
    let mut talk = host.rpc.address.converse().unwrap();
    let answers = requests.iter().map(|request| {
        let request = request.replace('\n', "\r\n");
        let answer = talk.send(request.as_bytes()).and_then(|()| talk.answer());
        match answer {
            Ok(answer) => summary(host, &request, &answer),
            // How a connection ends is the kernel's to say.
            Err(_) => format!("{request} -> closed"),
        }
    });
    answers.collect()
}

#[test]
fn what_supervisor_fails_on_is_refused() {
    let host = HostConfig::new(PROGRAMS).flavour(Flavour::Ours).inet().auth("user", "secret").start();
    let ask = |path: &str, login: &str| {
        let header = format!("Authorization: Basic {login}\r\n");
        host.rpc.address.request("GET", path, &header, b"").unwrap().status
    };
    let right = "dXNlcjpzZWNyZXQ=";
    for action in ["action=nosuch", "action=start", "processname=off&action=nosuch"] {
        assert_eq!(ask(&format!("/index.html?{action}"), right), 500, "{action}");
    }
    assert_eq!(ask("/logtail", right), 404);
    // Without a colon, and no base64.
    for login in ["dXNlcg==", "%%%", ""] {
        assert!(matches!(ask("/", login), 400 | 401), "{login:?}");
    }
    assert_eq!(ask("/ok.html", right), 200);
}

#[test]
fn connections_are_kept_and_closed_as_by_supervisor() {
    compare(|host| {
        let conversations: &[&[&str]] = &[
            &[
                "GET /ok.html HTTP/1.1\nHost: x\n\n",
                "GET /nosuch HTTP/1.1\nHost: x\n\n",
                "GET /ok.html HTTP/1.1\n\n",
            ],
            &["GET /ok.html HTTP/1.1\nHost: x\nConnection: close\n\n", "GET /ok.html HTTP/1.1\n\n"],
            &["GET /ok.html HTTP/1.0\n\n", "GET /ok.html HTTP/1.0\n\n"],
            &["GET /ok.html HTTP/1.0\nConnection: keep-alive\n\n", "GET /ok.html HTTP/1.0\n\n"],
        ];
        conversations.iter().flat_map(|requests| talk(host, requests)).collect()
    });
}

#[test]
fn requests_that_come_all_at_once_are_answered_in_order() {
    let host = start(Flavour::of_suite());
    let mut talk = host.rpc.address.converse().unwrap();
    let one = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    talk.send(format!("{}{}{}", one("/ok.html"), one("/nosuch"), one("/ok.html")).as_bytes()).unwrap();
    let statuses = [(); 3].map(|()| talk.answer().unwrap().status);
    assert_eq!(statuses, [200, 404, 200]);
}

#[test]
fn only_the_right_password_is_let_in_as_by_supervisor() {
    let whole = |flavour| {
        let host = HostConfig::new(PROGRAMS).flavour(flavour).inet().auth("user", "secret:x").start();
        let paths = [
            "/",
            "/ok.html",
            "/RPC2",
            "/logtail/cat",
            "/mainlogtail",
            "/nosuch",
            "/index.html?action=stopall",
        ];
        // user:secret:x, user:wrong, :
        let logins = [
            "",
            "Basic dXNlcjpzZWNyZXQ6eA==",
            "Basic dXNlcjp3cm9uZw==",
            "Basic Og==",
            "basic dXNlcjpzZWNyZXQ6eA==",
            "Digest x",
        ];
        let mut found = Vec::new();
        for login in logins {
            for path in paths {
                // An endless answer has no end to wait for.
                if login.ends_with("eA==") && path.contains("logtail") {
                    continue;
                }
                let header =
                    if login.is_empty() { String::new() } else { format!("Authorization: {login}\r\n") };
                let answer = host.rpc.address.request("GET", path, &header, b"").unwrap();
                found.push(summary(&host, &format!("{login:?} {path}"), &answer));
            }
        }
        found
    };
    thread::scope(|scope| {
        let expected = scope.spawn(|| whole(Flavour::Python));
        let found = whole(Flavour::of_suite());
        let expected = expected.join().expect("Supervisor answers");
        let differ: Vec<_> =
            found.iter().zip(&expected).filter(|(found, expected)| found != expected).collect();
        assert!(differ.is_empty(), "left: ours, right: Supervisor's: {differ:#?}");
    });
}

/// Follows a log; what has come so far is what the log had.
fn follow(host: &Host, path: &str, has: &str) -> Conversation {
    let mut talk = host.rpc.address.converse().unwrap();
    talk.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    let begun = talk.read_until(has).unwrap();
    assert!(begun.starts_with("HTTP/1.1 200 OK\r\n"), "{begun}");
    assert!(
        begun.contains("Transfer-Encoding: chunked") || begun.contains("transfer-encoding: chunked"),
        "{begun}"
    );
    talk
}

#[test]
fn followed_logs_grow_and_survive_a_clear() {
    let host = start(Flavour::of_suite());
    let mut out = follow(&host, "/logtail/cat", "first line");
    let mut main = follow(&host, "/mainlogtail", "spawned: 'cat'");
    let mut err = host.rpc.address.converse().unwrap();
    err.send(b"GET /logtail/cat/stderr HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    say(&host, "second line");
    out.read_until("second line").unwrap();
    host.supervisorctl_of_suite(&["start", "g:m"]).expect_code(0);
    main.read_until("spawned: 'm'").unwrap();
    host.supervisorctl_of_suite(&["clear", "cat"]).expect_code(0);
    say(&host, "third line");
    out.read_until("third line").unwrap();
    // As logrotate's copytruncate does.
    host.dir().write("cat.log", "");
    out.read_until("==> File truncated <==").unwrap();
    say(&host, "fourth line");
    out.read_until("fourth line").unwrap();
    host.dir().write("cat.err", "an error\n");
    err.read_until("an error").unwrap();
}

#[test]
fn a_follower_of_http_1_0_gets_the_log_without_chunks() {
    let host = start(Flavour::of_suite());
    let mut talk = host.rpc.address.converse().unwrap();
    talk.send(b"GET /logtail/cat HTTP/1.0\r\n\r\n").unwrap();
    let begun = talk.read_until("first line\n").unwrap();
    assert!(!begun.to_ascii_lowercase().contains("transfer-encoding"), "{begun}");
    assert!(begun.ends_with("\r\n\r\nfirst line\n"), "{begun}");
    say(&host, "second line");
    assert!(talk.read_until("second line\n").unwrap().ends_with("first line\nsecond line\n"));
}

#[test]
fn who_reads_nothing_holds_nobody_up() {
    let host = HostConfig::new(
        "[program:flood]\ncommand={dir}/flood\nstdout_logfile={dir}/flood.log\nstdout_logfile_maxbytes=0\n\
         autostart=false\nautorestart=false\nstartsecs=0\n",
    )
    .script("flood", "head -c 20000000 /dev/zero | tr '\\0' 'x'; echo; echo the end")
    .inet()
    .start();
    host.dir().write("flood.log", "begun\n");
    let readers: Vec<_> = (0..20)
        .map(|_| {
            let mut talk = host.rpc.address.converse().unwrap();
            talk.send(b"GET /logtail/flood HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            talk
        })
        .collect();
    let mut reading = follow(&host, "/logtail/flood", "begun");
    host.supervisorctl_of_suite(&["start", "flood"]).expect_code(0);
    // One that reads gets everything, others are served, and the log is whole.
    reading.read_until("the end").unwrap();
    host.wait("flood", "EXITED");
    wait_until("the log is whole", || {
        std::fs::metadata(host.path("flood.log")).unwrap().len() == 6 + 20_000_000 + 1 + 8
    });
    for _ in 0..50 {
        assert_eq!(host.rpc.address.request("GET", "/ok.html", "", b"").unwrap().status, 200);
    }
    drop(readers);
}

#[test]
fn who_writes_slowly_holds_nobody_up() {
    let host = start(Flavour::of_suite());
    let mut writers: Vec<_> = (0..30).map(|_| host.rpc.address.converse().unwrap()).collect();
    let call = "<methodCall><methodName>supervisor.getPID</methodName></methodCall>";
    let head = format!("POST /RPC2 HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", call.len());
    let (first, rest) = call.split_at(10);
    for (at, writer) in writers.iter_mut().enumerate() {
        // Some are stuck in the head, some in the body.
        writer.send(if at % 2 == 0 { &head.as_bytes()[..20] } else { head.as_bytes() }).unwrap();
        if at % 2 == 1 {
            writer.send(first.as_bytes()).unwrap();
        }
    }
    for _ in 0..50 {
        host.call("supervisor.getState", &[]).unwrap();
    }
    for (at, writer) in writers.iter_mut().enumerate() {
        if at % 2 == 0 {
            writer.send(&head.as_bytes()[20..]).unwrap();
            writer.send(first.as_bytes()).unwrap();
        }
        writer.send(rest.as_bytes()).unwrap();
        assert_eq!(writer.answer().unwrap().status, 200, "writer {at}");
    }
}

#[test]
fn heads_and_bodies_that_are_too_long_are_refused() {
    let host = HostConfig::new(PROGRAMS).flavour(Flavour::Ours).inet().start();
    let long = "x".repeat(64 << 10);
    let head = format!("X-Long: {long}\r\n");
    assert_eq!(host.rpc.address.request("GET", "/ok.html", &head, b"").unwrap().status, 431);
    let ask = |path: &str, length: u64| {
        let mut talk = host.rpc.address.converse().unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\nxxxx");
        talk.send(head.as_bytes()).unwrap();
        talk.answer().unwrap().status
    };
    assert_eq!(ask("/RPC2", (16 << 20) + 1), 413, "refused before it has come");
    let form = format!("action=stopall&more={}", "x".repeat(65 << 10));
    assert_eq!(host.rpc.address.request("POST", "/index.html", "", form.as_bytes()).unwrap().status, 413);
    let call = format!(
        "<methodCall><methodName>system.methodHelp</methodName><params><param><value>{}</value></param></params></methodCall>",
        "x".repeat(15 << 20)
    );
    assert_eq!(host.rpc.post(call.as_bytes()).unwrap().status, 200, "what is within the limit is taken");
    host.wait("cat", "RUNNING");
}
