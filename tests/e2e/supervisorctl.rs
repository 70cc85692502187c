//! Supervisor's `supervisorctl` drives our daemon, ours drives Supervisor's, and ours ours: one session of
//! commands, of which every output and exit code must be what Supervisor gives with both.

use std::process::Command;
use std::thread;

use fleetvisor_tests::{Address, Flavour, Host, HostConfig, LIMIT, Ran, binary, normalise, run};

const PROGRAMS: &str = "\
[program:cat]\ncommand=/bin/cat\nstartsecs=0\npriority=1\n\
[program:off]\ncommand=/bin/cat\nautostart=false\nstartsecs=0\npriority=2\n\
[program:talker]\ncommand={dir}/talker\nstartsecs=0\nstdout_logfile={dir}/talker.log\n\
stderr_logfile={dir}/talker.err\npriority=3\n\
[program:none]\ncommand=/no/such/program\nautostart=false\nstartretries=0\npriority=4\n\
[program:quits]\ncommand=/bin/false\nautostart=false\nstartretries=0\npriority=5\n\
[program:w]\ncommand=/bin/cat\nprocess_name=w_%(process_num)02d\nnumprocs=2\nstartsecs=0\npriority=6\n";

const CHANGED: &str = "\
[program:cat]\ncommand=/bin/cat\nstartsecs=0\nstopwaitsecs=11\npriority=1\n\
[program:new]\ncommand=/bin/cat\nstartsecs=0\npriority=2\n";

const BROKEN: &str = "[program:cat]\ncommand=/bin/cat\nstartsecs=soon\n";

/// What an operator types, in order. Where several processes answer, their order is not promised.
const COMMANDS: &[&[&str]] = &[
    &["status"],
    &["status", "cat"],
    &["status", "w:*"],
    &["status", "nosuch"],
    &["status", "cat", "nosuch:*"],
    &["version"],
    &["pid"],
    &["pid", "cat"],
    &["pid", "nosuch"],
    &["pid", "off"],
    &["start"],
    &["start", "off"],
    &["start", "off"],
    &["start", "nosuch"],
    &["start", "none"],
    &["start", "quits"],
    &["stop"],
    &["stop", "off"],
    &["stop", "off"],
    &["stop", "nosuch"],
    &["stop", "w:*"],
    &["start", "w:"],
    &["restart", "cat"],
    &["restart", "off", "w:w_00"],
    &["restart"],
    &["tail", "talker"],
    &["tail", "-4", "talker"],
    &["tail", "talker", "stderr"],
    &["tail", "nosuch"],
    &["tail"],
    &["tail", "talker", "sideways"],
    &["nosuch"],
    &["reread"],
    &["stop", "all"],
    &["status"],
    &["start", "all"],
];

struct Session {
    client: Flavour,
    host: Host,
    steps: Vec<String>,
}

impl Session {
    fn begin(client: Flavour, daemon: Flavour, inet: bool) -> Session {
        let mut config = HostConfig::new(PROGRAMS)
            .flavour(daemon)
            .script("talker", "echo to stderr >&2; echo line one; echo line two; exec sleep 600");
        if inet {
            config = config.inet().auth("user", "secret:100%%");
        }
        let host = if inet { config.prepare() } else { config.start() };
        let mut session = Session { client, host, steps: Vec::new() };
        if inet {
            // `%%` of the file is one `%` for whoever logs in.
            session.host.rpc.auth = Some(("user".to_owned(), "secret:100%".to_owned()));
            session.host.start();
        }
        for name in ["cat", "w:w_00", "w:w_01", "talker"] {
            session.host.wait(name, "RUNNING");
        }
        session.host.wait_file("talker.log", "line two\n");
        session
    }

    fn step(&mut self, arguments: &[&str]) {
        let ran = match self.client {
            Flavour::Ours => self.host.supervisorctl(arguments),
            Flavour::Python => self.host.python_supervisorctl(arguments),
        };
        self.record(arguments, &ran);
    }

    fn record(&mut self, arguments: &[&str], ran: &Ran) {
        let several =
            arguments.iter().any(|word| matches!(*word, "all" | "update" | "reread") || word.contains(':'));
        let mut lines: Vec<String> =
            normalise(&ran.stdout, self.host.dir().path()).lines().map(comparable).collect();
        if several {
            lines.sort();
        }
        let mut text = lines.join("\n");
        if let Address::Inet(port) = self.host.rpc.address {
            text = text.replace(&format!("127.0.0.1:{port}"), "127.0.0.1:PORT");
        }
        self.steps.push(format!("$ supervisorctl {}\n{text}\nexit {}", arguments.join(" "), ran.code()));
    }

    /// The commands, a configuration that changes and one that is broken, the end.
    fn whole(mut self) -> Vec<String> {
        for arguments in COMMANDS {
            self.step(arguments);
        }
        self.host.reconfigure(BROKEN);
        self.step(&["reread"]);
        self.host.reconfigure(CHANGED);
        self.step(&["reread"]);
        self.step(&["update"]);
        self.host.wait("new", "RUNNING");
        self.step(&["status"]);
        self.step(&["update"]);
        self.end()
    }

    /// What depends on the way to the daemon.
    fn short(mut self) -> Vec<String> {
        for arguments in [&["status"][..], &["restart", "cat"], &["tail", "talker"], &["version"]] {
            self.step(arguments);
        }
        self.step(&["-p", "wrong", "status"]);
        self.step(&["-u", "", "-p", "", "status"]);
        self.step(&["-p", "wrong", "restart", "cat"]);
        self.end()
    }

    fn end(mut self) -> Vec<String> {
        self.step(&["shutdown"]);
        self.host.daemon().wait_exit();
        self.step(&["status"]);
        self.step(&["stop", "cat"]);
        self.steps
    }
}

/// Pids that stand alone become a word; so does the text of an exception, of which only the kind is promised.
fn comparable(line: &str) -> String {
    if !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_digit()) && line != "0" {
        return "PID".to_owned();
    }
    match line.split_once(": file: ") {
        Some((error, _)) if line.starts_with("error: ") => error.to_owned(),
        Some(_) | None => line.trim_end().to_owned(),
    }
}

/// Runs the session with every pair of client and daemon, and compares each with Supervisor's own.
fn compare(session: impl Fn(Flavour, Flavour) -> Vec<String> + Sync) {
    let ours = Flavour::of_suite();
    let pairs = [(ours, Flavour::Python), (Flavour::Python, ours), (ours, ours)];
    let session = &session;
    thread::scope(|scope| {
        let expected = scope.spawn(move || session(Flavour::Python, Flavour::Python));
        let runs = pairs.map(|(client, daemon)| scope.spawn(move || session(client, daemon)));
        let expected = expected.join().expect("Supervisor's own session comes to its end");
        for ((client, daemon), run) in pairs.into_iter().zip(runs) {
            let steps = run.join().expect("the session comes to its end");
            for (step, expected) in steps.iter().zip(&expected) {
                assert_eq!(step, expected, "left: client {client:?}, daemon {daemon:?}; right: Supervisor");
            }
            assert_eq!(steps.len(), expected.len());
        }
    });
}

#[test]
fn over_the_unix_socket_every_client_sees_what_supervisor_shows() {
    compare(|client, daemon| Session::begin(client, daemon, false).whole());
}

#[test]
fn over_tcp_with_a_password_every_client_sees_what_supervisor_shows() {
    compare(|client, daemon| Session::begin(client, daemon, true).short());
}

#[test]
fn flags_say_where_the_daemon_is_without_a_configuration() {
    let host = HostConfig::new("[program:cat]\ncommand=/bin/cat\nstartsecs=0\n")
        .file("empty.conf", "[supervisorctl]\n")
        .start();
    host.wait("cat", "RUNNING");
    let url = format!("unix://{}", host.path("s.sock").display());
    let mut command = Command::new(match Flavour::of_suite() {
        Flavour::Ours => fleetvisor_tests::binary("supervisorctl"),
        Flavour::Python => fleetvisor_tests::python_supervisorctl(),
    });
    command.arg("-c").arg(host.path("empty.conf")).args(["-s", &url, "status"]);
    run(&mut command, LIMIT).expect_code(0).expect_stdout("cat ");
}

#[test]
fn several_commands_one_after_another_leave_other_programs_alone() {
    let host = Host::with(
        "[program:a]\ncommand=/bin/cat\nstartsecs=0\n[program:b]\ncommand=/bin/cat\nstartsecs=0\n",
    );
    host.wait("a", "RUNNING");
    host.wait("b", "RUNNING");
    let (a, b) = (host.pid("a"), host.pid("b"));
    host.python_supervisorctl(&["restart", "a"]).expect_code(0).expect_stdout("a: stopped\na: started\n");
    assert_ne!(host.pid("a"), a);
    assert_eq!(host.pid("b"), b);
}

#[test]
fn ctl_answers_for_this_host_as_json_where_it_only_reads() {
    let host = HostConfig::new(
        "[program:cat]\ncommand=/bin/cat\nstartsecs=0\n[group:g]\nprograms=off\n\
         [program:off]\ncommand=/bin/cat\nautostart=false\npriority=7\n",
    )
    .start();
    host.wait("cat", "RUNNING");
    let config = host.path("supervisord.conf").display().to_string();
    let ctl = |words: &[&str]| {
        let mut command = std::process::Command::new(binary("ctl"));
        run(command.args(["-c", &config, "-o", "json"]).args(words), LIMIT)
    };
    let json = |ran: &Ran| -> serde_json::Value { serde_json::from_str(&ran.stdout).expect("a document") };
    let pid = host.pid("cat");

    let all = ctl(&["status"]).expect_code(3);
    let processes = &json(&all)["processes"];
    assert_eq!(processes[0]["name"], "cat:cat");
    assert_eq!((&processes[0]["state"], &processes[0]["pid"]), (&"RUNNING".into(), &pid.into()));
    assert!(processes[0]["uptime_seconds"].is_u64() && processes[1]["uptime_seconds"].is_null(), "{all:?}");
    assert_eq!((&processes[1]["name"], &processes[1]["pid"]), (&"g:off".into(), &serde_json::Value::Null));

    let one =
        ctl(&["status", "cat", "nosuch"]).expect_code(4).expect_stderr("nosuch: ERROR (no such process)");
    assert_eq!(json(&one)["processes"].as_array().map(Vec::len), Some(1));

    let avail = json(&ctl(&["avail"]).expect_code(0));
    let off = &avail["programs"][1];
    assert_eq!(
        (&off["name"], &off["in_use"], &off["autostart"]),
        (&"g:off".into(), &true.into(), &false.into())
    );
    assert_eq!(off["priority"], 7);

    assert_eq!(json(&ctl(&["pid", "cat"]))["processes"][0]["pid"], pid);
    assert!(json(&ctl(&["pid"]))["supervisord"].is_u64());

    // Nothing that changes anything has a document, and none is made of what could not be asked.
    ctl(&["stop", "cat"]).expect_code(2).expect_stderr("-o json is for commands that read");
    assert_eq!(host.state("cat"), "RUNNING");
    let unreachable = ctl(&["-s", "unix:///nonexistent.sock", "status"]).expect_code(4);
    assert!(unreachable.stderr.contains("unix:///nonexistent.sock no such file"), "{unreachable:?}");
    assert_eq!(unreachable.stdout, "");
}
