//! Events and their listeners: who hears of what, in which form and order, and what a listener's answers lead to.

use fleetvisor_tests::{Daemon, Flavour, Host, HostConfig, wait_for};

/// Writes a line for each event, and answers with its arguments in turn, then with OK.
const LISTENER: &str = r"import os, sys
replies = [reply.encode().decode('unicode_escape') for reply in sys.argv[2:]]
with open(sys.argv[1], 'a') as heard:
    os.write(1, b'READY\n')
    while header := sys.stdin.readline():
        fields = dict(word.split(':') for word in header.split())
        payload = sys.stdin.read(int(fields['len']))
        names = ('eventname', 'pool', 'serial', 'poolserial')
        print(*(fields[name] for name in names), repr(payload), file=heard, flush=True)
        reply = replies.pop(0) if replies else 'RESULT 2\nOKREADY\n'
        if reply == 'die':
            os._exit(3)
        os.write(1, reply.encode())
";

/// A `[eventlistener:x]` that writes to `{dir}/x.heard`.
fn listener(name: &str, events: &str, replies: &[&str], more: &str) -> String {
    let replies: String = replies.iter().map(|reply| format!(" '{reply}'")).collect();
    format!(
        "[eventlistener:{name}]\ncommand=python3 -S {{dir}}/listener.py {{dir}}/{name}.heard{replies}\n\
         events={events}\nstartsecs=0\n{more}\n"
    )
}

fn host(programs: &str) -> Host {
    HostConfig::new(programs).file("listener.py", LISTENER).start()
}

#[derive(Debug, PartialEq, Eq)]
struct Heard {
    event: String,
    serial: u64,
    poolserial: u64,
    payload: String,
}

fn heard(host: &Host, listener: &str) -> Vec<Heard> {
    let number = |word: &str| word.parse().unwrap();
    let text = host.dir().read(&format!("{listener}.heard"));
    text.lines()
        .map(|line| {
            let [event, _, serial, poolserial, payload] = line.splitn(5, ' ').collect::<Vec<_>>()[..] else {
                panic!("{line}");
            };
            let payload = payload.trim_matches('\'').replace("\\n", "\n");
            Heard { event: event.to_owned(), serial: number(serial), poolserial: number(poolserial), payload }
        })
        .collect()
}

#[track_caller]
fn wait_heard(host: &Host, listener: &str, count: usize) -> Vec<Heard> {
    wait_for(&format!("{count} events of {listener}"), || {
        let heard = heard(host, listener);
        if heard.len() >= count { Ok(heard) } else { Err(format!("{heard:?}")) }
    })
}

fn say(host: &Host, kind: &str, data: &str) {
    host.call("supervisor.sendRemoteCommEvent", &[kind.into(), data.into()]).unwrap();
}

/// Types and payloads, without what differs from run to run.
fn told(heard: &[Heard]) -> Vec<(&str, String)> {
    let plain = |payload: &str| {
        let words = payload.split_inclusive([' ', '\n']);
        words.filter(|word| !word.starts_with("pid:")).collect::<String>().trim_end().to_owned()
    };
    heard.iter().map(|heard| (heard.event.as_str(), plain(&heard.payload))).collect()
}

#[test]
fn a_supertype_hears_of_all_its_types_in_order() {
    let host = host(
        &(listener("ev", "PROCESS_STATE", &[], "")
            + "[program:p]\ncommand=/bin/sh -c 'read line; exit $line'\nautostart=false\nstartsecs=0\n\
               autorestart=false\nexitcodes=4\n[program:bad]\ncommand=/bin/false\nautostart=false\nstartsecs=60\nstartretries=0\n"),
    );
    wait_heard(&host, "ev", 2);
    for status in ["4", "5"] {
        host.call("supervisor.startProcess", &["p".into()]).unwrap();
        host.call("supervisor.sendProcessStdin", &["p".into(), format!("{status}\n").into()]).unwrap();
        host.wait("p", "EXITED");
    }
    host.call("supervisor.startProcess", &["p".into()]).unwrap();
    host.call("supervisor.stopProcess", &["p".into()]).unwrap();
    host.call("supervisor.startProcess", &["bad".into(), false.into()]).ok();
    host.wait("bad", "FATAL");
    let heard = wait_heard(&host, "ev", 15);
    let [p, bad] = ["p", "bad"].map(|name| format!("processname:{name} groupname:{name} from_state:"));
    let expected = [
        ("PROCESS_STATE_STARTING", "processname:ev groupname:ev from_state:STOPPED tries:0".to_owned()),
        ("PROCESS_STATE_RUNNING", "processname:ev groupname:ev from_state:STARTING".to_owned()),
        ("PROCESS_STATE_STARTING", format!("{p}STOPPED tries:0")),
        ("PROCESS_STATE_RUNNING", format!("{p}STARTING")),
        ("PROCESS_STATE_EXITED", format!("{p}RUNNING expected:1")),
        ("PROCESS_STATE_STARTING", format!("{p}EXITED tries:0")),
        ("PROCESS_STATE_RUNNING", format!("{p}STARTING")),
        ("PROCESS_STATE_EXITED", format!("{p}RUNNING expected:0")),
        ("PROCESS_STATE_STARTING", format!("{p}EXITED tries:0")),
        ("PROCESS_STATE_RUNNING", format!("{p}STARTING")),
        ("PROCESS_STATE_STOPPING", format!("{p}RUNNING")),
        ("PROCESS_STATE_STOPPED", format!("{p}STOPPING")),
        ("PROCESS_STATE_STARTING", format!("{bad}STOPPED tries:0")),
        ("PROCESS_STATE_BACKOFF", format!("{bad}STARTING tries:1")),
        ("PROCESS_STATE_FATAL", format!("{bad}BACKOFF")),
    ];
    assert_eq!(told(&heard), expected);
}

#[test]
fn serials_count_events_and_poolserials_what_a_pool_gets() {
    let host = host(
        &(listener("all", "REMOTE_COMMUNICATION,PROCESS_GROUP", &[], "")
            + &listener("some", "REMOTE_COMMUNICATION", &[], "")),
    );
    host.wait("some", "RUNNING");
    say(&host, "first", "a b\nc");
    say(&host, "", "");
    let (all, some) = (wait_heard(&host, "all", 4), wait_heard(&host, "some", 2));
    assert_eq!(told(&all)[0].0, "PROCESS_GROUP_ADDED");
    let remote = |heard: &[Heard]| -> Vec<(u64, String)> {
        let remote = heard.iter().filter(|heard| heard.event == "REMOTE_COMMUNICATION");
        remote.map(|heard| (heard.serial, heard.payload.clone())).collect()
    };
    assert_eq!(remote(&all), remote(&some));
    let payloads: Vec<&str> = some.iter().map(|heard| heard.payload.as_str()).collect();
    assert_eq!(payloads, ["type:first\na b\nc", "type:\n"]);
    assert_eq!(some.iter().map(|heard| heard.poolserial).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(all.iter().map(|heard| heard.poolserial).collect::<Vec<_>>(), [0, 1, 2, 3]);
}

#[test]
fn a_rejected_event_comes_back_first_with_its_serial() {
    let replies = [r"RESULT 4\nFAILREADY\n", r"RESULT 2\nOKREADY\n", r"RESULT 3\nabcREADY\n"];
    let host = host(&listener("ev", "REMOTE_COMMUNICATION", &replies, ""));
    host.wait("ev", "RUNNING");
    for data in ["a", "b"] {
        say(&host, "t", data);
    }
    let heard = wait_heard(&host, "ev", 4);
    let order: Vec<(u64, u64, &str)> =
        heard.iter().map(|heard| (heard.serial, heard.poolserial, &heard.payload[7..])).collect();
    assert_eq!(order, [(0, 0, "a"), (0, 0, "a"), (1, 1, "b"), (1, 1, "b")]);
    host.wait_file("supervisord.log", "WARN ev: event was rejected");
}

/// A listener that answers like this gets no event any more; the next one begins with the one left undone.
fn breaks_the_protocol(reply: &str, line: &str) {
    let host = host(&listener("ev", "REMOTE_COMMUNICATION", &[reply], ""));
    host.wait("ev", "RUNNING");
    say(&host, "t", "a");
    host.wait_file(
        "supervisord.log",
        "WARN ev: has entered the UNKNOWN state and will no longer receive events",
    );
    host.wait_file("supervisord.log", line);
    say(&host, "t", "b");
    assert_eq!(host.state("ev"), "RUNNING", "{reply}");
    assert_eq!(heard(&host, "ev").len(), 1, "{reply}");
    // A new one starts over.
    host.call("supervisor.stopProcess", &["ev".into()]).unwrap();
    host.call("supervisor.startProcess", &["ev".into()]).unwrap();
    let heard = wait_heard(&host, "ev", 2);
    assert_eq!(heard[0], heard[1], "{reply}");
}

#[test]
fn garbage_in_place_of_a_result_ends_the_conversation() {
    breaks_the_protocol(r"what?\n", "WARN ev: bad result line: 'what?'");
}

#[test]
fn a_result_of_no_length_ends_the_conversation() {
    breaks_the_protocol(r"RESULT many\nOKREADY\n", "WARN ev: bad result line: 'RESULT many'");
}

#[test]
fn an_event_is_done_by_one_listener_of_its_pool() {
    let more = "buffer_size=100\nnumprocs=3\nprocess_name=%(program_name)s_%(process_num)d\n";
    let host = host(&listener("ev", "REMOTE_COMMUNICATION", &[], more));
    for number in 0..3 {
        host.wait(&format!("ev:ev_{number}"), "RUNNING");
    }
    for number in 0..20 {
        say(&host, "t", &number.to_string());
    }
    let mut heard = wait_heard(&host, "ev", 20);
    heard.sort_by_key(|heard| heard.poolserial);
    let expected: Vec<String> = (0..20).map(|number| format!("type:t\n{number}")).collect();
    assert_eq!(heard.into_iter().map(|heard| heard.payload).collect::<Vec<_>>(), expected);
}

#[test]
fn what_a_dying_listener_left_undone_is_sent_to_the_next() {
    let host = host(&listener("ev", "REMOTE_COMMUNICATION", &["die"], "autorestart=false\n"));
    host.wait("ev", "RUNNING");
    say(&host, "t", "a");
    host.wait("ev", "EXITED");
    host.call("supervisor.startProcess", &["ev".into()]).unwrap();
    let heard = wait_heard(&host, "ev", 2);
    assert_eq!(heard[0], heard[1]);
}

#[test]
fn a_full_buffer_loses_the_oldest_and_says_so() {
    let host = host(&listener("ev", "REMOTE_COMMUNICATION", &[], "buffer_size=2\nautostart=false\n"));
    for data in ["a", "b", "c", "d"] {
        say(&host, "t", data);
    }
    host.wait_file("supervisord.log", "ERRO pool ev event buffer overflowed, discarding event 1");
    host.call("supervisor.startProcess", &["ev".into()]).unwrap();
    let heard = wait_heard(&host, "ev", 2);
    assert_eq!(heard.iter().map(|heard| &heard.payload[7..]).collect::<Vec<_>>(), ["c", "d"]);
    assert!(host.log().contains("ERRO pool ev event buffer overflowed, discarding event 0"));
}

#[test]
fn ticks_come_at_multiples_of_their_period() {
    let host = host(&listener("ev", "TICK_5", &[], ""));
    let heard = wait_heard(&host, "ev", 1);
    let when: i64 = heard[0].payload.strip_prefix("when:").unwrap().parse().unwrap();
    assert_eq!((heard[0].event.as_str(), when % 5), ("TICK_5", 0));
}

#[test]
fn output_and_captured_output_are_told() {
    let host = HostConfig::new(
        &(listener("ev", "PROCESS_LOG,PROCESS_COMMUNICATION", &[], "")
            + "[program:p]\ncommand={dir}/p\nautostart=false\nstartsecs=0\nautorestart=false\n\
               stdout_events_enabled=true\nstdout_capture_maxbytes=1KB\nstderr_events_enabled=true\n"),
    )
    .file("listener.py", LISTENER)
    .script(
        "p",
        "read a; echo hello, which is longer than a token; read b; echo trouble >&2; read c\n\
         printf '<!--XSUPERVISOR:BEGIN-->between<!--XSUPERVISOR:END-->'; read d",
    )
    .start();
    host.wait("ev", "RUNNING");
    host.call("supervisor.startProcess", &["p".into()]).unwrap();
    for count in 1..=3 {
        host.call("supervisor.sendProcessStdin", &["p".into(), "\n".into()]).unwrap();
        wait_heard(&host, "ev", count);
    }
    let heard = wait_heard(&host, "ev", 4);
    let pid = host.pid("p");
    let (p, of) = ("processname:p groupname:p", format!("pid:{pid}"));
    let expected = [
        ("PROCESS_LOG_STDOUT", format!("{p} {of} channel:stdout\nhello, which is longer than a token\n")),
        ("PROCESS_LOG_STDERR", format!("{p} {of} channel:stderr\ntrouble\n")),
        // Captured output is output too.
        ("PROCESS_LOG_STDOUT", format!("{p} {of} channel:stdout\nbetween")),
        ("PROCESS_COMMUNICATION_STDOUT", format!("{p} {of}\nbetween")),
    ];
    let told: Vec<(&str, String)> =
        heard.iter().map(|heard| (heard.event.as_str(), heard.payload.clone())).collect();
    assert_eq!(told, expected);
}

#[test]
fn groups_that_come_and_go_are_told() {
    let ev = listener("ev", "PROCESS_GROUP", &[], "");
    let mut host = host(&ev);
    wait_heard(&host, "ev", 1);
    host.reconfigure(&format!("{ev}[program:new]\ncommand=/bin/cat\nstartsecs=0\n"));
    host.supervisorctl_of_suite(&["update"]).expect_code(0);
    host.reconfigure(&ev);
    host.supervisorctl_of_suite(&["update"]).expect_code(0);
    let heard = wait_heard(&host, "ev", 3);
    let expected = [
        ("PROCESS_GROUP_ADDED", "groupname:ev".to_owned()),
        ("PROCESS_GROUP_ADDED", "groupname:new".to_owned()),
        ("PROCESS_GROUP_REMOVED", "groupname:new".to_owned()),
    ];
    assert_eq!(told(&heard), expected);
}

#[test]
fn the_daemon_tells_of_its_beginning_and_its_end() {
    // Nothing else runs at the end: the listener hears of it all the same.
    let mut host = host(
        &(listener("ev", "SUPERVISOR_STATE_CHANGE", &[], "")
            + "[program:off]\ncommand=/bin/cat\nautostart=false\n"),
    );
    wait_heard(&host, "ev", 1);
    host.stop();
    let heard = heard(&host, "ev");
    let expected = [
        ("SUPERVISOR_STATE_CHANGE_RUNNING", String::new()),
        ("SUPERVISOR_STATE_CHANGE_STOPPING", String::new()),
    ];
    assert_eq!(told(&heard), expected);
}

/// What the package `supervisor_stdout` is in its widespread form. The published one is for Python 2 only.
const SUPERVISOR_STDOUT: &str = r"import sys

def event_handler(event, response):
    header, data = response.decode().split('\n', 1)
    fields = dict(word.split(':') for word in header.split())
    for line in data.split('\n'):
        print('%s %s | %s' % (fields['processname'], fields['channel'], line), flush=True)

if __name__ == '__main__':
    print('READY', flush=True)
    for header in sys.stdin:
        data = sys.stdin.read(int(dict(word.split(':') for word in header.split())['len']))
        print('RESULT %d\n%sREADY' % (len(data), data), flush=True)
";

#[test]
fn the_handler_of_supervisor_stdout_prints_what_the_package_prints() {
    for daemon in [Flavour::of_suite(), Flavour::Python] {
        let host = HostConfig::new(
            "[program:talks]\ncommand=/bin/sh -c 'printf \"one\\ntwo\\n\"; printf three >&2; exec sleep 600'\n\
             stdout_events_enabled=true\nstderr_events_enabled=true\nstartsecs=0\n\
             [eventlistener:prints]\ncommand=python3 -S {dir}/supervisor_stdout.py\nevents=PROCESS_LOG\n\
             buffer_size=100\nresult_handler=supervisor_stdout:event_handler\nstartsecs=0\n",
        )
        .flavour(daemon)
        .file("supervisor_stdout.py", SUPERVISOR_STDOUT)
        .prepare();
        let config = host.path("supervisord.conf").display().to_string();
        let mut command = host.command(&["-n", "-c", &config]);
        // Supervisor imports the module into itself.
        command.env("PYTHONPATH", host.dir().path());
        let mut running = Daemon::start("supervisord", &mut command, host.dir().path());
        let printed = wait_for("two events, printed", || {
            let text = host.dir().read("supervisord.out");
            let mut lines: Vec<String> =
                text.lines().filter(|line| line.starts_with("talks ")).map(str::to_owned).collect();
            lines.sort();
            if lines.len() >= 4 { Ok(lines) } else { Err(text) }
        });
        let expected =
            ["talks stderr | three", "talks stdout | ", "talks stdout | one", "talks stdout | two"];
        assert_eq!(printed, expected, "{daemon:?}");
        running.signal(nix::sys::signal::Signal::SIGTERM);
        assert!(running.wait_exit().success());
    }
}
