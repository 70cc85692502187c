//! Twenty programs that log numbers, crash, fork and are started and stopped meanwhile; each keeps a diary of its
//! lives, from which it is known afterwards what must be in the logs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use fleetvisor_proto::xmlrpc::Value;
use fleetvisor_tests::{Host, HostConfig, Rpc, is_alive, wait_for};

use super::Dice;

/// `worker KIND NAME`. Descriptor 9 is a lock that only one of its lives can hold.
const WORKER: &str = r#"
kind=$1 name=$2 lines=0
end() {
    trap '' TERM
    echo "end $$ $1 $lines" >>"$name.diary"
    exit "$1"
}
trap 'end 0' TERM
exec 9>>"$name.lock"
flock -n 9 || echo "$name $$" >>twice
echo "begin $$" >>"$name.diary"
say() {
    lines=$((lines + 1))
    echo "$name $$ $lines"
}
turn=0
last=$(($$ % 13 + 3))
while :; do
    turn=$((turn + 1))
    say; say; say
    case $kind in
    crasher) [ "$turn" -lt "$last" ] || end $(($$ % 7 + 3)) ;;
    hasty) end 1 ;;
    forker) (exec 9>&- >/dev/null 2>&1; sleep 0.3) & ;;
    esac
    sleep 0.1 9>&-
done
"#;

const KINDS: [(&str, usize, &str); 5] = [
    ("steady", 6, "startsecs=1\n"),
    ("crasher", 5, "startsecs=0\nautorestart=true\n"),
    ("hasty", 1, "startsecs=1\nstartretries=1000\n"),
    ("forker", 3, "startsecs=1\n"),
    ("toggled", 5, "startsecs=1\nautostart=false\n"),
];

pub(super) fn host() -> HostConfig {
    let mut programs = String::new();
    for (kind, count, more) in KINDS {
        for number in 0..count {
            let name = format!("{kind}{number}");
            programs.push_str(&format!(
                "[program:{name}]\ncommand={{dir}}/worker {kind} {name}\ndirectory={{dir}}\nstopwaitsecs=600\n\
                 stdout_logfile={{dir}}/{name}.log\nstdout_logfile_maxbytes=0\nredirect_stderr=true\n{more}"
            ));
        }
    }
    HostConfig::new(&programs).script("worker", WORKER)
}

/// Names of all programs.
fn names() -> impl Iterator<Item = String> {
    KINDS.into_iter().flat_map(|(kind, count, _)| (0..count).map(move |number| format!("{kind}{number}")))
}

/// Clients that start, stop and restart some of the programs until they are told to go.
pub(super) struct Clients {
    leave: Arc<AtomicBool>,
    threads: Vec<JoinHandle<usize>>,
}

impl Clients {
    pub(super) fn come(rpc: &Rpc) -> Clients {
        let leave = Arc::new(AtomicBool::new(false));
        let client = |number: usize| {
            let (leave, rpc) = (Arc::clone(&leave), rpc.clone());
            std::thread::spawn(move || {
                let (mut dice, mut done) = (Dice::new(), 0);
                while !leave.load(Ordering::Relaxed) {
                    let name = Value::from(format!("toggled{}", dice.below(5)).as_str());
                    let wait = Value::from(dice.below(2) == 0 && number == 0);
                    let method =
                        ["supervisor.startProcess", "supervisor.stopProcess"][dice.below(2) as usize];
                    // One whose agent dies gets no answer; that is not looked at here.
                    done += usize::from(rpc.call(method, &[name, wait]).is_ok());
                    std::thread::sleep(Duration::from_millis(dice.below(100)));
                }
                done
            })
        };
        let threads = (0..2).map(client).collect();
        Clients { leave, threads }
    }

    /// How many calls were answered.
    pub(super) fn go(self) -> usize {
        self.leave.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("clients do not panic")).sum()
    }
}

/// One life of a program, as its diary has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Life {
    pid: i32,
    /// Status and lines that it wrote.
    end: Option<(i32, usize)>,
}

fn diary(host: &Host, name: &str) -> Vec<Life> {
    let mut lives: Vec<Life> = Vec::new();
    for line in host.dir().read(&format!("{name}.diary")).lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<i32>().expect("numbers");
        match words[0] {
            "begin" => lives.push(Life { pid: number(1), end: None }),
            "end" => {
                // One that was stopped at once has not come to its beginning.
                if lives.last().is_none_or(|life| life.end.is_some() && life.pid != number(1)) {
                    lives.push(Life { pid: number(1), end: None });
                }
                let life = lives.last_mut().expect("begun");
                assert_eq!(life.pid, number(1), "{name} had two lives at once");
                life.end = Some((number(2), number(3) as usize));
            }
            other => panic!("{other}"),
        }
    }
    lives
}

/// What the daemon says runs is what runs.
pub(super) fn states_are_true(host: &Host) {
    let all = host.call("supervisor.getAllProcessInfo", &[]).expect("no fault");
    let all = all.as_array().expect("a list").to_vec();
    assert_eq!(all.len(), names().count());
    for info in all {
        let text = |key| info.get(key).and_then(Value::as_str).expect("text").to_owned();
        let (name, state) = (text("name"), text("statename"));
        if name.starts_with("steady") || name.starts_with("forker") {
            assert!(matches!(state.as_str(), "STARTING" | "RUNNING"), "{name} is {state}");
            let pid = host.pid(&name);
            assert!(is_alive(pid), "{name} {pid}");
            assert_eq!(diary(host, &name).last().map(|life| life.pid), Some(pid), "{name}");
        }
    }
}

/// One life of a program, as the daemon's log has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    pid: i32,
    /// Keepers that had been killed when it was spawned.
    deaths: usize,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Status(i32),
    /// Stopped before the shell knew what to do about it, and before it wrote anything.
    Unborn,
    /// Its keeper was killed.
    Unknown,
}

/// What the daemon's log says of each program.
fn said(host: &Host) -> BTreeMap<String, Vec<Said>> {
    let mut said: BTreeMap<String, Vec<Said>> = BTreeMap::new();
    let mut deaths = 0;
    for line in host.log().lines() {
        let text = line.splitn(4, ' ').nth(3).unwrap_or_default();
        if text.starts_with("the keeper has gone") {
            deaths += 1;
        } else if let Some((name, pid)) =
            text.strip_prefix("spawned: '").and_then(|it| it.split_once("' with pid "))
        {
            let pid = pid.parse().expect("a pid");
            said.entry(name.to_owned()).or_default().push(Said { pid, deaths, end: None });
        } else if let Some((name, status)) = text
            .strip_prefix("exited: ")
            .or_else(|| text.strip_prefix("stopped: "))
            .and_then(|rest| rest.split_once(" ("))
        {
            let life = said.get_mut(name).and_then(|all| all.last_mut()).expect("spawned");
            let end = match status.trim_end_matches(')').split(';').next().expect("one") {
                "terminated by SIGTERM" => End::Unborn,
                "exit status unknown" => {
                    assert!(deaths > life.deaths, "its keeper has seen all of {name}'s life: {line}");
                    End::Unknown
                }
                status => {
                    let status = status.strip_prefix("exit status ").unwrap_or_else(|| panic!("{line}"));
                    End::Status(status.parse().expect("a status"))
                }
            };
            assert_eq!(life.end.replace(end), None, "{name} ended twice: {line}");
        }
    }
    said
}

/// After the daemon's end: every life is in its log with its status and with every line once and in order, and
/// there was never more than one at a time. Returns how many ended with a status that nobody knows.
pub(super) fn diaries_agree(host: &Host) -> usize {
    assert_eq!(host.dir().read("twice"), "");
    let mut said = said(host);
    let mut unknown = 0;
    let mut total = 0;
    for name in names() {
        let lives = diary(host, &name);
        total += lives.len();
        let status_of = |pid| lives.iter().find(|life| life.pid == pid).and_then(|life| Some(life.end?.0));
        let mut found = Vec::new();
        for Said { pid, end, .. } in said.remove(&name).unwrap_or_default() {
            let status = match end {
                // As far as is known: it may have been stopped, or its keeper been killed, before its beginning.
                Some(End::Unknown) => {
                    unknown += 1;
                    match status_of(pid) {
                        None => continue,
                        status => status,
                    }
                }
                Some(End::Unborn) => {
                    assert_eq!(status_of(pid), None, "{name} {pid}");
                    continue;
                }
                Some(End::Status(status)) => Some(status),
                None => None,
            };
            found.push((pid, status));
        }
        let written: Vec<_> =
            lives.iter().map(|life| (life.pid, life.end.map(|(status, _)| status))).collect();
        assert_eq!(found, written, "{name}: what supervisord.log says, and what was");
        let lines = |life: &Life| {
            let (pid, (_, lines)) = (life.pid, life.end.expect("ended"));
            (1..=lines).map(|number| format!("{name} {pid} {number}\n")).collect::<String>()
        };
        let expected: String = lives.iter().map(lines).collect();
        let found = host.dir().read(&format!("{name}.log"));
        if found != expected {
            let at = found.lines().zip(expected.lines()).position(|(found, expected)| found != expected);
            let at = at.unwrap_or(found.lines().count().min(expected.lines().count()));
            let around =
                |text: &str| text.lines().skip(at.saturating_sub(2)).take(5).collect::<Vec<_>>().join("|");
            panic!("{name}.log at line {at}: {} instead of {}", around(&found), around(&expected));
        }
    }
    println!("{total} lives");
    unknown
}

/// Waits until the daemon answers.
pub(super) fn answers(host: &Host) {
    wait_for("an answer", || host.rpc.call("supervisor.getState", &[]).map(drop));
}
