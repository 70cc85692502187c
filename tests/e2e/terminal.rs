//! `supervisorctl` on a terminal: the shell with its editing, history and completion, what follows a log or joins a
//! process until Ctrl-C, questions. Each session is Supervisor's own, step by step: same keys, same screen.

use std::thread;

use fleetvisor_tests::{CTRL_C, CTRL_D, Flavour, Host, HostConfig, Terminal, UP, normalise};

const PROGRAMS: &str = "\
[program:cat]\ncommand=/bin/cat\nstartsecs=0\npriority=1\nstdout_logfile={dir}/cat.log\n\
[program:off]\ncommand=/bin/cat\nautostart=false\nstartsecs=0\npriority=2\n\
[program:w]\ncommand=/bin/cat\nprocess_name=w_%(process_num)02d\nnumprocs=2\nstartsecs=0\npriority=3\n";

const PROMPT: &str = "supervisor> ";

struct Session {
    terminal: Terminal,
    host: Host,
    steps: Vec<String>,
}

impl Session {
    fn begin(host: Host, client: Flavour, arguments: &[&str]) -> Session {
        for name in ["cat", "w:w_00", "w:w_01"] {
            host.wait(name, "RUNNING");
        }
        let terminal = host.supervisorctl_on_terminal(client, arguments);
        Session { terminal, host, steps: Vec::new() }
    }

    /// Types, and waits until this is on the screen.
    fn step(&mut self, keys: &str, until: &str) {
        self.terminal.type_in(keys);
        let seen = self.terminal.wait(until);
        self.note(keys, &seen);
    }

    /// The line that is being edited is drawn as often as an editor likes, so it does not count.
    fn note(&mut self, keys: &str, seen: &str) {
        // Whether the terminal shows that key is the editor's affair too.
        let seen = normalise(&seen.replace("^C", ""), self.host.dir().path());
        let edited = usize::from(keys.ends_with('\r'));
        let lines = seen.lines().skip(edited).map(str::trim_end);
        let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
        self.steps.push(format!("{keys:?}\n{}", lines.join("\n")));
    }

    fn end(mut self, keys: &str) -> Vec<String> {
        self.terminal.type_in(keys);
        let (seen, status) = self.terminal.end();
        self.note(keys, &seen);
        self.steps.push(format!("exit {:?}", status.code()));
        self.steps
    }
}

/// Runs the session with Supervisor's client and ours, each on a daemon of its own.
fn compare(session: impl Fn(Host, Flavour) -> Vec<String> + Sync) {
    let whole = |flavour| session(HostConfig::new(PROGRAMS).flavour(flavour).start(), flavour);
    compare_hosts(whole);
}

fn compare_hosts(whole: impl Fn(Flavour) -> Vec<String> + Sync) {
    thread::scope(|scope| {
        let expected = scope.spawn(|| whole(Flavour::Python));
        let steps = whole(Flavour::of_suite());
        let expected = expected.join().expect("Supervisor's session comes to its end");
        for (step, expected) in steps.iter().zip(&expected) {
            assert_eq!(step, expected, "left: ours, right: Supervisor's");
        }
        assert_eq!(steps.len(), expected.len());
    });
}

#[test]
fn the_shell_runs_commands_and_ends_with_ctrl_d() {
    compare(|host, client| {
        let mut session = Session::begin(host, client, &[]);
        session.step("", PROMPT);
        for line in
            ["version", "status cat", "start off", "", "nosuch", "help stop", "pid nosuch", "stop off", "?"]
        {
            session.step(&format!("{line}\r"), &format!("\n{PROMPT}"));
        }
        session.end(CTRL_D)
    });
}

#[test]
fn the_shell_ends_with_quit_exit_and_ctrl_c() {
    for keys in ["quit\r", "exit\r", CTRL_C] {
        compare(|host, client| {
            let mut session = Session::begin(host, client, &[]);
            session.step("", PROMPT);
            session.end(keys)
        });
    }
}

#[test]
fn the_shell_completes_verbs_groups_and_processes() {
    compare(|host, client| {
        let mut session = Session::begin(host, client, &[]);
        session.step("", PROMPT);
        for keys in ["versi\t\r", "status ca\t\r", "stop w:w_00\t\r", "status w:w_0\t0\r", "help avai\t\r"] {
            session.step(keys, &format!("\n{PROMPT}"));
        }
        session.end(CTRL_D)
    });
}

#[test]
fn the_shell_remembers_lines_and_lets_them_be_edited() {
    compare(|host, client| {
        let history = host.path("history").display().to_string();
        let mut session = Session::begin(host, client, &["-r", &history]);
        session.step("", PROMPT);
        session.step("version\r", &format!("\n{PROMPT}"));
        session.step("pid nosuch\r", &format!("\n{PROMPT}"));
        session.step(&format!("{UP}{UP}\r"), &format!("\n{PROMPT}"));
        // A mistake that is taken back, and one in the middle of the line.
        session.step("versionn\x7f\r", &format!("\n{PROMPT}"));
        session.step("vrsion\x01\x1b[Ce\r", &format!("\n{PROMPT}"));
        session.step("version\r", &format!("\n{PROMPT}"));
        session.step(&format!("{UP}{UP}{UP}{UP}{UP}\r"), &format!("\n{PROMPT}"));
        session.end(CTRL_D)
    });
}

#[test]
fn logs_are_followed_until_ctrl_c() {
    compare(|host, client| {
        host.wait("cat", "RUNNING");
        host.call("supervisor.sendProcessStdin", &["cat".into(), "one\n".into()]).unwrap();
        host.wait_file("cat.log", "one\n");
        let mut session = Session::begin(host, client, &[]);
        session.step("", PROMPT);
        session.step("tail -f cat\r", "one\n");
        session.host.call("supervisor.sendProcessStdin", &["cat".into(), "two\n".into()]).unwrap();
        session.step("", "two\n");
        session.step(CTRL_C, PROMPT);
        session.step("tail -f nosuch\r", &format!("\n{PROMPT}"));
        session.step("version\r", &format!("\n{PROMPT}"));
        session.end(CTRL_D)
    });
}

#[test]
fn the_main_log_is_followed_until_ctrl_c() {
    compare(|host, client| {
        let mut session = Session::begin(host, client, &["maintail", "-f"]);
        session.terminal.wait("Press Ctrl-C to exit");
        session.terminal.wait("w_01 entered RUNNING");
        session.host.supervisorctl_of_suite(&["start", "off"]);
        session.terminal.wait("spawned: 'off'");
        session.terminal.type_in(CTRL_C);
        let (_, status) = session.terminal.end();
        vec![format!("{:?}", status.code())]
    });
}

#[test]
fn tail_f_as_a_command_ends_with_ctrl_c() {
    compare(|host, client| {
        host.wait("cat", "RUNNING");
        host.call("supervisor.sendProcessStdin", &["cat".into(), "one\n".into()]).unwrap();
        host.wait_file("cat.log", "one\n");
        let mut session = Session::begin(host, client, &["tail", "-f", "cat"]);
        session.step("", "one\n");
        session.end(CTRL_C)
    });
}

#[test]
fn fg_joins_a_process_until_ctrl_c() {
    compare(|host, client| {
        let mut session = Session::begin(host, client, &[]);
        session.step("", PROMPT);
        session.step("fg\r", &format!("\n{PROMPT}"));
        session.step("fg off\r", &format!("\n{PROMPT}"));
        session.step("fg nosuch\r", &format!("\n{PROMPT}"));
        session.step("fg cat\r", "<==\n");
        // Once from the keyboard, once from the program.
        session.terminal.type_in("hello\r");
        session.terminal.wait("hello\n");
        session.terminal.wait("hello\n");
        session.step(CTRL_C, PROMPT);
        session.step("status cat\r", &format!("\n{PROMPT}"));
        match client {
            Flavour::Ours => {
                let mut steps = session.end(CTRL_D);
                assert_eq!(steps.pop().unwrap(), "exit Some(0)");
                steps.pop();
                steps
            }
            // It waits for ever for the threads that have followed the logs.
            Flavour::Python => session.steps,
        }
    });
}

#[test]
fn shutdown_and_reload_ask_first() {
    compare(|host, client| {
        let mut session = Session::begin(host, client, &[]);
        session.step("", PROMPT);
        session.step("shutdown\r", "y/N? ");
        session.step("n\r", PROMPT);
        session.step("reload\r", "y/N? ");
        session.step("\r", PROMPT);
        session.step("restart cat\r", &format!("\n{PROMPT}"));
        session.step("shutdown\r", "y/N? ");
        session.step("y\r", &format!("\n{PROMPT}"));
        session.host.daemon().wait_exit();
        session.step("status\r", &format!("\n{PROMPT}"));
        session.end(CTRL_D)
    });
}

#[test]
fn a_missing_password_is_asked_for_and_not_shown() {
    compare_hosts(|flavour| {
        let config = HostConfig::new(PROGRAMS).flavour(flavour).auth("user", "secret");
        let host = config.start();
        let url = format!("unix://{}", host.path("s.sock").display());
        let mut session = Session::begin(host, flavour, &["-s", &url, "-u", "nobody", "-p", "wrong"]);
        session.step("", "Username:");
        session.step("user\r", "Password:");
        session.step("secret\r", PROMPT);
        assert!(!session.steps.concat().contains("\nsecret"), "{:?}", session.steps);
        session.step("status cat\r", &format!("\n{PROMPT}"));
        session.end(CTRL_D)
    });
}
