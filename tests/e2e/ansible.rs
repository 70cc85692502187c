//! Ansible's module for Supervisor drives our daemon through our client: playbooks (`tests/ansible`) that use
//! every state of the module, of which every step must come out as it does with Supervisor's two.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use fleetvisor_tests::{
    Address, Flavour, Host, HostConfig, binary, normalise, python_supervisorctl, python_supervisord, run,
};
use serde_json::{Map, Value, json};

/// A playbook of forty steps takes half a minute, and longer beside other tests.
const LIMIT: Duration = Duration::from_secs(300);

const STATES: &str = "\
[program:cat]\ncommand=/bin/cat\nstartsecs=0\npriority=1\n\
[program:off]\ncommand=/bin/cat\nautostart=false\nstartsecs=0\npriority=2\n\
[program:once]\ncommand=/bin/true\nautorestart=false\nstartsecs=0\npriority=3\n\
[program:slow]\ncommand=/bin/cat\nstartsecs=600\npriority=4\n\
[program:none]\ncommand=/no/such/program\nautostart=false\nstartretries=0\npriority=5\n\
[program:missing]\ncommand=/no/such/program\nstartretries=1000\npriority=6\n\
[program:quits]\ncommand=/bin/false\nautostart=false\nstartretries=0\npriority=7\n\
[program:w]\ncommand={dir}/catcher\nprocess_name=w_%(process_num)02d\nnumprocs=2\nstartsecs=0\npriority=8\n\
[program:a]\ncommand=/bin/cat\nstartsecs=0\n\
[program:b]\ncommand=/bin/cat\nautostart=false\nstartsecs=0\n\
[group:g]\nprograms=a,b\npriority=9\n";

/// Notes the signals it gets, once it has said that it is ready.
const CATCHER: &str = "\
trap 'echo USR1 >>{dir}/caught' USR1; trap 'echo USR2 >>{dir}/caught' USR2\n\
echo ready >>{dir}/ready; while :; do read -r line; done";

const CONFIGURATION: &str = "\
[program:cat]\ncommand=/bin/cat\nstartsecs=0\npriority=1\n\
[program:slow]\ncommand=/bin/cat\nstartsecs=600\npriority=2\n\
[program:w]\ncommand=/bin/cat\nprocess_name=w_%(process_num)02d\nnumprocs=2\nstartsecs=0\npriority=3\n\
[include]\nfiles={dir}/conf.d/*.conf\n";

const PASSWORD: &str = "secret:100%";

/// Runs a playbook of `tests/ansible`; one line of JSON per step.
fn play(flavour: Flavour, host: &Host, playbook: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("ansible");
    let programs = python_supervisord().parent().expect("it is in a directory").to_owned();
    let port = match host.rpc.address {
        Address::Inet(port) => port,
        Address::Unix(_) => 0,
    };
    let supervisorctl = match flavour {
        Flavour::Ours => binary("supervisorctl"),
        Flavour::Python => python_supervisorctl(),
    };
    let dir = host.dir().path();
    let variables = json!({
        "ansible_python_interpreter": programs.join("python"),
        "dir": dir,
        "password": PASSWORD,
        "port": port,
        "supervisorctl": supervisorctl,
    });
    let mut command = Command::new(programs.join("ansible-playbook"));
    command
        .arg(folder.join(playbook))
        .args(["--extra-vars", &variables.to_string()])
        // Not where a configuration would be found that no step names.
        .current_dir(host.path("logs"))
        .env_clear()
        .env("ANSIBLE_CONFIG", folder.join("ansible.cfg"))
        .env("HOME", dir)
        .env("LANG", "C.UTF-8")
        .env("PATH", "/usr/bin:/bin")
        .env("TZ", "UTC");
    let ran = run(&mut command, LIMIT).expect_code(0);
    let steps: Vec<String> = ran
        .stdout
        .lines()
        .map(|line| {
            let step = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
            comparable(step, &|text| {
                let text = normalise(text, dir).replace(&format!("127.0.0.1:{port}"), "127.0.0.1:PORT");
                text.replace(&supervisorctl.display().to_string(), "SUPERVISORCTL")
            })
            .to_string()
        })
        .collect();
    assert!(!steps.is_empty(), "no step was taken: {ran}");
    steps
}

/// Texts without pids, times and places. Of an exception that a client prints, its kind is promised, not where
/// it was raised.
fn comparable(value: Value, text: &impl Fn(&str) -> String) -> Value {
    match value {
        Value::String(long) => {
            let lines: Vec<String> = text(&long)
                .lines()
                .map(|line| match line.split_once(": file: ") {
                    Some((error, _)) if line.starts_with("error: ") => error.to_owned(),
                    Some(_) | None => line.trim_end().to_owned(),
                })
                .collect();
            Value::String(lines.join("\n"))
        }
        Value::Array(values) => values.into_iter().map(|value| comparable(value, text)).collect(),
        Value::Object(members) => {
            let members = members.into_iter().map(|(key, value)| (key, comparable(value, text)));
            Value::Object(members.collect::<Map<_, _>>())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value,
    }
}

/// Plays it with the suite's daemon and client, and with Supervisor's. `prepare` starts a host.
fn compare(prepare: impl Fn(Flavour) -> Host + Sync, playbook: &str, then: impl Fn(&Host) + Sync) {
    let whole = |flavour| {
        let host = prepare(flavour);
        let steps = play(flavour, &host, playbook);
        then(&host);
        steps
    };
    thread::scope(|scope| {
        let expected = scope.spawn(|| whole(Flavour::Python));
        let steps = whole(Flavour::of_suite());
        let expected = expected.join().expect("the playbook comes to its end with Supervisor");
        for (number, (step, expected)) in steps.iter().zip(&expected).enumerate() {
            assert_eq!(step, expected, "step {} of {playbook}; right: Supervisor", number + 1);
        }
        assert_eq!(steps.len(), expected.len());
    });
}

#[test]
fn ansible_starts_stops_restarts_and_signals_as_with_supervisor() {
    let prepare = |flavour| {
        let config = HostConfig::new(STATES).flavour(flavour);
        let mut host = config.prepare();
        let dir = host.dir().path().display().to_string();
        host.dir().script("catcher", &CATCHER.replace("{dir}", &dir));
        host.start();
        for (name, state) in
            [("cat", "RUNNING"), ("once", "EXITED"), ("slow", "STARTING"), ("missing", "BACKOFF")]
        {
            host.wait(name, state);
        }
        host.wait_file("ready", "ready\nready\n");
        host
    };
    compare(prepare, "states.yml", |host| {
        let caught = host.wait_file("caught", "USR1\n");
        assert!(!caught.contains("USR2"), "check mode has sent a signal");
    });
}

#[test]
fn ansible_adds_and_removes_programs_as_with_supervisor() {
    let prepare = |flavour| {
        let host = HostConfig::new(CONFIGURATION).flavour(flavour).file("conf.d/README", "").start();
        for (name, state) in
            [("cat", "RUNNING"), ("slow", "STARTING"), ("w:w_00", "RUNNING"), ("w:w_01", "RUNNING")]
        {
            host.wait(name, state);
        }
        host
    };
    compare(prepare, "configuration.yml", |_| {});
}

#[test]
fn ansible_reaches_the_daemon_by_address_and_password_as_with_supervisor() {
    let prepare = |flavour| {
        let config = HostConfig::new("[program:cat]\ncommand=/bin/cat\nautostart=false\nstartsecs=0\n");
        // In a configuration a `%` is written twice.
        let config = config.flavour(flavour).inet().auth("user", &PASSWORD.replace('%', "%%"));
        let mut host = config.prepare();
        host.rpc.auth = Some(("user".to_owned(), PASSWORD.to_owned()));
        host.start();
        host
    };
    compare(prepare, "connection.yml", |_| {});
}
