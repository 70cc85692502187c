//! `ctl tail`: logs of many processes in one stream, every line once and in order, or a word about what is missing.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fleetvisor_tests::{Fleet, FleetHost, HostConfig, Proxy, agent_of, peak_memory_of, wait_for, wait_until};
use nix::sys::signal::Signal;

use super::followed::Followed;

/// Counts, a few dozen lines a second, and its log is rotated all the time.
const TALKER: &str = "[program:app]\ncommand=/bin/sh {dir}/talk\nstartsecs=0\n\
    stdout_logfile={dir}/app.log\nstdout_logfile_maxbytes=2KB\nstdout_logfile_backups=50\n\
    stderr_logfile={dir}/app.err\n";

/// Goes on counting where it stopped.
const TALK: &str = "echo complaint >&2\n\
    n=$(cat {dir}/n 2>/dev/null || echo 0)\n\
    trap 'stop=1' TERM\n\
    while [ -z \"$stop\" ]; do n=$((n+1)); echo $n >{dir}/n; echo \"number $n\"; sleep 0.01; done";

fn join(fleet: &Fleet, name: &str, programs: &str, scripts: &[(&str, &str)]) -> FleetHost {
    let token = fleet.token(&["--ttl", "1h", "--host", name]);
    let cable = Proxy::to(fleet.port());
    let mut config: HostConfig = fleet.host_config(name, "", &token, cable.port(), programs);
    for (script, body) in scripts {
        config = config.script(script, body);
    }
    let host = config.prepare();
    for (script, _) in scripts {
        let text = host.dir().read(script).replace("{dir}", &host.dir().path().display().to_string());
        host.dir().write(script, text);
    }
    let mut host = FleetHost { host, cable };
    host.start();
    fleet.wait_host(name, "online");
    host
}

fn talker(fleet: &Fleet, name: &str) -> FleetHost {
    let host = join(fleet, name, TALKER, &[("talk", TALK)]);
    host.wait("app", "RUNNING");
    host
}

#[test]
fn the_last_lines_of_many_logs_are_shown_with_their_names() {
    let fleet = Fleet::new();
    let programs = "[program:app]\ncommand=/bin/sh {dir}/say\nstartsecs=0\nautorestart=false\n\
         stdout_logfile={dir}/app.log\nstderr_logfile={dir}/app.err\n\
         [program:mute]\ncommand=/bin/sleep 600\nstdout_logfile=NONE\nautostart=false\n";
    let say = "seq -f 'line %.0f' 1 30; echo 'an error' >&2; printf 'no end'";
    let hosts = ["web-01", "web-02"].map(|name| join(&fleet, name, programs, &[("say", say)]));
    for host in &hosts {
        host.wait("app", "EXITED");
    }
    let ran = fleet.ctl(&["--all-hosts", "tail", "app", "--lines", "2"]).expect_code(0);
    let expected = "web-01:app:app | line 30\nweb-01:app:app | no end\n\
                    web-02:app:app | line 30\nweb-02:app:app | no end\n";
    assert_eq!(ran.stdout, expected, "{ran}");
    let ran = fleet.ctl(&["tail", "web-01:app:", "stderr"]).expect_code(0);
    assert_eq!(ran.stdout, "web-01:app:app | an error\n");
    let ran = fleet.ctl(&["tail", "web-01:app:app", "-n", "1000", "--grep", "line 2[0-3]$"]).expect_code(0);
    let shown: Vec<&str> = ran.stdout.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(shown, ["20", "21", "22", "23"]);
    let ran = fleet.ctl(&["tail", "web-02:app:app", "--lines", "2", "-o", "json"]).expect_code(0);
    let documents: Vec<serde_json::Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        documents[0],
        serde_json::json!({"host": "web-02", "process": "app:app", "log": "stdout", "kind": "line",
            "line": "line 30", "finished": true, "dropped": null, "reason": null})
    );
    assert_eq!((&documents[1]["line"], &documents[1]["finished"]), (&"no end".into(), &false.into()));

    let ran = fleet.ctl(&["--all-hosts", "maintail", "-n", "500", "--grep", "spawned: 'app'"]).expect_code(0);
    let hosts_shown: Vec<&str> = ran.stdout.lines().map(|line| line.split(" | ").next().unwrap()).collect();
    assert_eq!(hosts_shown, ["web-01", "web-02"], "{ran}");

    // What can't be shown has a line of its own.
    fleet
        .ctl(&["tail", "web-01:all"])
        .expect_code(4)
        .expect_stdout("web-01:app:app | no end\n")
        .expect_stdout("web-01:mute:mute: ERROR (no log file for stdout)\n");
    fleet
        .ctl(&["tail", "web-01:nosuch:"])
        .expect_code(1)
        .expect_stdout("web-01:nosuch: ERROR (no such group)");
    fleet.ctl(&["tail", "web-01:app:", "--grep", "("]).expect_code(2).expect_stderr("unclosed group");
    fleet.ctl(&["tail", "-100", "web-01:app:app"]).expect_code(2).expect_stderr("--lines N");
    fleet.ctl(&["maintail", "web-01:app:app"]).expect_code(2).expect_stderr("host:all");
    hosts[1].cable.cut();
    fleet.wait_host("web-02", "away");
    fleet
        .ctl(&["--all-hosts", "tail", "app"])
        .expect_code(4)
        .expect_stdout("web-01:app:app | no end\n")
        .expect_stdout("web-02: away since ");
}

#[test]
fn logs_are_for_operators_and_of_their_own_hosts() {
    let fleet = Fleet::new();
    let mut hosts = ["web-01", "web-02"].map(|name| talker(&fleet, name));
    let dir = |name: &str| fleet.dir().path().join(name);
    for (name, role) in [("vera", "viewer"), ("olaf", "operator")] {
        let out = dir(name).display().to_string();
        fleet
            .ctl(&["operator", "add", name, "--role", role, "--only", "team=a", "--out", &out])
            .expect_code(0);
    }
    fleet.ctl(&["host", "label", "web-02", "team=a"]).expect_code(0);
    fleet
        .ctl_as(&dir("vera"), &["--all-hosts", "tail", "app"])
        .expect_code(6)
        .expect_stderr("needs the role operator");
    let ran = wait_for("a line of the host with the label", || {
        let ran = fleet.ctl_as(&dir("olaf"), &["--all-hosts", "tail", "app"]);
        if ran.stdout.contains("web-02:app:app | number ") { Ok(ran) } else { Err(ran.to_string()) }
    });
    assert!(!ran.stdout.contains("web-01"), "{ran}");
    // What is taken away later is taken away at once.
    let mut follower = fleet
        .ctl_command(&dir("olaf"), &["--all-hosts", "tail", "-f", "app"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the agent reads the log", || read_by(&mut hosts[1]) > 0);
    fleet.ctl(&["host", "label", "web-02", "team-"]).expect_code(0);
    wait_until("nobody reads the log", || read_by(&mut hosts[1]) == 0);
    assert!(follower.try_wait().unwrap().is_none(), "it waits for hosts with the label");
    follower.kill().unwrap();
    follower.wait().unwrap();
}

/// Numbers of `web-01:app:app | number 17`, which must follow each other.
fn numbers(followed: &Followed, from: &mut u64, until: u64) {
    while *from < until {
        let line = followed.line();
        if let Some(number) = line.strip_prefix("web-01:app:app | number ") {
            let number: u64 = number.parse().unwrap_or_else(|_| panic!("{line}"));
            assert!(*from == 0 || number == *from + 1, "{line} after {from}");
            *from = number;
        } else {
            assert!(line.starts_with("web-01: "), "{line}");
        }
    }
}

#[test]
fn rotations_restarts_and_broken_connections_are_followed_without_a_gap() {
    let mut fleet = Fleet::new();
    let mut host = talker(&fleet, "web-01");
    let followed = Followed::start(&fleet, &["--all-hosts", "tail", "-f", "app", "--lines", "3"]);
    let mut at = 0;
    numbers(&followed, &mut at, 300);
    wait_until("it has been rotated", || host.path("app.log.3").exists());
    host.call("supervisor.stopProcess", &["app".into()]).unwrap();
    host.call("supervisor.startProcess", &["app".into()]).unwrap();
    let goal = at + 100;
    numbers(&followed, &mut at, goal);

    host.cable.cut();
    loop {
        let line = followed.line();
        if let Some(number) = line.strip_prefix("web-01:app:app | number ") {
            at += 1;
            assert_eq!(number, at.to_string());
        } else {
            assert!(line.starts_with("web-01: away since "), "{line}");
            break;
        }
    }
    let written = host.dir().read("n").trim().parse::<u64>().unwrap();
    wait_until("more is written meanwhile", || {
        host.dir().read("n").trim().parse::<u64>().is_ok_and(|n| n > written + 50)
    });
    host.cable.mend();
    assert_eq!(followed.line(), "web-01: back; its logs go on");
    numbers(&followed, &mut at, written + 100);

    fleet.controller().kill_alone();
    fleet.start_controller();
    let goal = at + 300;
    numbers(&followed, &mut at, goal);

    // The agent dies; its successor goes on.
    let keeper = host.daemon().pid();
    let agent = agent_of(keeper).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(agent), Signal::SIGKILL).unwrap();
    let goal = at + 300;
    numbers(&followed, &mut at, goal);
}

/// Logs that the agent has open for reading.
fn read_by(host: &mut FleetHost) -> usize {
    let Some(agent) = agent_of(host.daemon().pid()) else { return 0 };
    let Ok(entries) = std::fs::read_dir(format!("/proc/{agent}/fd")) else { return 0 };
    let reads = |fd: &std::fs::DirEntry| {
        let name = fd.file_name();
        let info = std::fs::read_to_string(format!("/proc/{agent}/fdinfo/{}", name.display()));
        let flags = info.unwrap_or_default();
        let flags =
            flags.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or("").trim().to_owned();
        let is_log =
            std::fs::read_link(fd.path()).is_ok_and(|path| path.to_string_lossy().contains("app.log"));
        is_log && u32::from_str_radix(&flags, 8).is_ok_and(|flags| flags & 3 == 0)
    };
    entries.flatten().filter(reads).count()
}

#[test]
fn hosts_that_join_later_are_followed_and_nothing_is_left_behind() {
    let fleet = Fleet::new();
    let mut first = talker(&fleet, "web-01");
    let mut followed = Followed::start(&fleet, &["--all-hosts", "tail", "-f", "app"]);
    let shows = |followed: &Followed, name: &str| {
        while !followed.line().starts_with(&format!("{name}:app:app | number ")) {}
    };
    shows(&followed, "web-01");
    wait_until("the agent reads the log", || read_by(&mut first) > 0);
    let mut second = talker(&fleet, "web-02");
    shows(&followed, "web-02");
    // A process that a host has only now.
    let programs = second.programs().replace("[program:app]", "[program:later]").replace("app.", "later.");
    let programs = format!("{}\n{}", second.programs(), &programs[programs.find("[program:").unwrap()..]);
    second.reconfigure(&programs);
    let later = Followed::start(&fleet, &["tail", "-f", "web-02:*:*"]);
    shows(&later, "web-02");
    second.supervisorctl(&["update"]).expect_code(0);
    while !later.line().starts_with("web-02:later:later | number ") {}
    drop(later);

    followed.interrupt();
    for host in [&mut first, &mut second] {
        wait_until("nobody reads the logs", || read_by(host) == 0);
    }
}

#[test]
fn one_who_does_not_read_is_moved_on_and_told_of_it_while_the_program_goes_on() {
    const LINES: u64 = 600_000;
    let fleet = Fleet::new();
    let programs = format!(
        "[program:flood]\ncommand=/usr/bin/seq -f \"%%.0f {}\" 1 {LINES}\nautostart=false\nstartsecs=0\n\
         autorestart=false\nstdout_logfile={{dir}}/app.log\nstdout_logfile_maxbytes=4MB\n\
         stdout_logfile_backups=30\n",
        "-".repeat(90)
    );
    let mut host = join(&fleet, "web-01", &programs, &[]);
    host.dir().write("app.log", "");
    let mut stalled = reader(&fleet, &["--all-hosts", "tail", "-f", "flood"]);
    wait_until("the agent reads the log", || read_by(&mut host) > 0);
    fleet.ctl(&["--all-hosts", "start", "flood"]).expect_code(0);
    host.wait("flood", "EXITED");
    let (mut shown, mut line) = (BufReader::new(stalled.stdout.take().unwrap()), String::new());
    let (mut next, mut dropped) = (1, 0);
    while next <= LINES {
        line.clear();
        shown.read_line(&mut line).unwrap();
        take(&line, "web-01:flood:flood", &mut next, &mut dropped).unwrap();
    }
    assert!(dropped > 0, "it was never too slow");
    stalled.kill().unwrap();
    stalled.wait().unwrap();
}

fn reader(fleet: &Fleet, arguments: &[&str]) -> Child {
    let mut command: Command = fleet.ctl_command(&fleet.admin(), arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap()
}

/// One line of a program that counts: the next number, or how many are left out.
fn take(line: &str, name: &str, next: &mut u64, dropped: &mut u64) -> Result<(), String> {
    let why = || format!("{line:?} where {next} was to come");
    let rest = line.strip_prefix(name).ok_or_else(why)?;
    if let Some(count) = rest.strip_prefix(" ... ") {
        let (count, _) =
            count.split_once(" line").filter(|(_, rest)| rest.contains("dropped")).ok_or_else(why)?;
        let count: u64 = count.replace(',', "").parse().map_err(|_| why())?;
        *next += count;
        *dropped += count;
        return Ok(());
    }
    let number = rest.strip_prefix(" | ").and_then(|rest| rest.split(' ').next()).ok_or_else(why)?;
    if number.trim() != next.to_string() {
        return Err(why());
    }
    *next += 1;
    Ok(())
}

const HOSTS: usize = 20;
const LINES_A_SECOND: u64 = 5_000;

/// Writes lines at a steady pace, and in the end how long it took and the longest that a write has waited.
const PACED: &str = r"
import os, sys, time
lines, pace, pad, place = int(sys.argv[1]), int(sys.argv[2]), b'-' * 85, sys.argv[3]
begin, longest, done = time.monotonic(), 0.0, 0
while done < lines:
    due = min(lines, int((time.monotonic() - begin) * pace) + 1)
    text = b''.join(b'%d %s\n' % (number, pad) for number in range(done + 1, due + 1))
    before = time.monotonic()
    while text:
        text = text[os.write(1, text):]
    longest, done = max(longest, time.monotonic() - before), due
    time.sleep(0.02)
with open(place + '.new', 'w') as out:
    out.write('%.2f %.4f' % (time.monotonic() - begin, longest))
os.rename(place + '.new', place)
time.sleep(3600)
";

/// Reads until all hosts have said everything: how many lines were dropped, and the reader's most memory in KiB.
fn read_all(mut ctl: Child, total: u64) -> Result<(u64, u64), String> {
    let mut shown = BufReader::with_capacity(1 << 18, ctl.stdout.take().unwrap());
    let (mut next, mut dropped) = (HashMap::<String, u64>::new(), 0);
    let (mut line, mut done) = (String::new(), 0);
    while done < HOSTS {
        line.clear();
        if shown.read_line(&mut line).map_err(|error| error.to_string())? == 0 {
            return Err("the reader has ended".to_owned());
        }
        if line.ends_with(": ERROR (no log file)\n") {
            continue;
        }
        let name = line.split(' ').next().unwrap_or_default();
        let at = match next.get_mut(name) {
            Some(at) => at,
            None => next.entry(name.to_owned()).or_insert(1),
        };
        take(&line, name, at, &mut dropped)?;
        done += usize::from(*at == total + 1);
    }
    let memory = i32::try_from(ctl.id()).ok().and_then(peak_memory_of).unwrap_or(0);
    ctl.kill().map_err(|error| error.to_string())?;
    ctl.wait().map_err(|error| error.to_string())?;
    Ok((dropped, memory))
}

/// With `FLEETVISOR_TAIL_SECONDS=60` a minute of it instead of three seconds; its figures are printed.
#[test]
fn two_readers_of_twenty_hosts_get_every_line_while_a_third_stands_still() {
    let seconds =
        std::env::var("FLEETVISOR_TAIL_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let total = seconds * LINES_A_SECOND;
    let mut fleet = Fleet::new();
    let programs = format!(
        "[program:writer]\ncommand=python3 -S {{dir}}/paced {total} {LINES_A_SECOND} {{dir}}/figures\n\
         autostart=false\nstartsecs=0\nstdout_logfile={{dir}}/writer.log\nstdout_logfile_maxbytes=5MB\n\
         stdout_logfile_backups=5\n"
    );
    let mut hosts: Vec<FleetHost> = (1..=HOSTS)
        .map(|number| {
            let name = format!("host-{number:02}");
            let token = fleet.token(&["--ttl", "1h", "--host", &name]);
            let cable = Proxy::to(fleet.port());
            let config = fleet.host_config_at(&name, "", &token, &fleet.address(), &programs);
            FleetHost { host: config.file("paced", PACED).start(), cable }
        })
        .collect();
    for number in 1..=HOSTS {
        fleet.wait_host(&format!("host-{number:02}"), "online");
    }
    let follow = ["--all-hosts", "tail", "-f", "writer"];
    let readers = [(); 2].map(|()| reader(&fleet, &follow));
    let readers = readers.map(|reader| thread::spawn(move || read_all(reader, total)));
    let stalled = reader(&fleet, &follow);
    for host in &mut hosts {
        let agent = wait_for("an agent", || agent_of(host.daemon().pid()).ok_or_else(String::new));
        assert!(peak_memory_of(agent).is_some());
    }
    let controller = fleet.controller().pid();
    let before = peak_memory_of(controller).unwrap();
    let begun = Instant::now();
    fleet.ctl(&["--all-hosts", "start", "writer"]).expect_code(0);

    // The programs are not held up by who stands still.
    let limit = Duration::from_secs(180 + 3 * seconds);
    let figures: Vec<(f64, f64)> = hosts
        .iter()
        .map(|host| {
            while host.dir().read("figures").is_empty() {
                assert!(
                    begun.elapsed() < limit,
                    "{} has not written everything",
                    host.dir().path().display()
                );
                thread::sleep(Duration::from_millis(50));
            }
            let text = host.dir().read("figures");
            let (took, longest) = text.split_once(' ').unwrap();
            (took.parse().unwrap(), longest.parse().unwrap())
        })
        .collect();
    while readers.iter().any(|reader| !reader.is_finished()) {
        assert!(begun.elapsed() < limit, "the readers have not read everything");
        thread::sleep(Duration::from_millis(50));
    }
    let took = begun.elapsed();
    let mut memory = Vec::new();
    for reader in readers {
        let (dropped, most) = reader.join().unwrap().unwrap();
        assert_eq!(dropped, 0, "lines that were dropped");
        memory.push(most);
    }
    let grown = peak_memory_of(controller).unwrap().saturating_sub(before);
    let agents: Vec<u64> = hosts
        .iter_mut()
        .map(|host| agent_of(host.daemon().pid()).and_then(peak_memory_of).unwrap_or(0))
        .collect();
    let most = agents.iter().max().copied().unwrap_or(0);
    // It, too, gets all of it, or a word about what is missing.
    let (dropped, most_of_stalled) = read_all(stalled, total).unwrap();
    memory.push(most_of_stalled);
    let slowest = figures.iter().map(|(took, _)| *took).fold(0.0, f64::max);
    let longest = figures.iter().map(|(_, longest)| *longest).fold(0.0, f64::max);
    println!(
        "{HOSTS} hosts, {total} lines each in {slowest:.1} s (planned: {seconds} s), longest write {:.1} ms; two readers \
         had all {} lines {:.1} s after the start; the third was told of {dropped} that it missed; the controller \
         grew by {grown} KiB, an agent has {most} KiB at most, the readers {memory:?} KiB",
        longest * 1000.0,
        2 * total * HOSTS as u64,
        took.as_secs_f64(),
    );
    assert!(grown < 150 << 10, "the controller has grown by {grown} KiB");
    assert!(most < 100 << 10, "an agent has {most} KiB");
}
