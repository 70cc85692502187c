//! README's tour of the fleet, command by command, on real hosts: what README shows is what comes out, but for pids,
//! times, ids and the order of hosts that answer at the same time.
//!
//! `FLEETVISOR_TOUR=show` prints what comes out, for README.

use std::fs;
use std::path::Path;

use fleetvisor_tests::{Fleet, FleetHost, Ran, wait_for};

/// Stand-ins for the demo's programs, under their names.
const WORKERS: &str = "[program:worker]\ncommand=/bin/sleep 600\nnumprocs=2\nprocess_name=worker_%(process_num)02d\nstartsecs=0\n";
const WEB: &str = "[group:web]\nprograms=nginx,app\n[program:nginx]\ncommand=/bin/sleep 600\nstartsecs=0\n\
                   [program:app]\ncommand=/bin/sleep 600\nstartsecs=0\n";

/// A command of README and what it shows below it.
#[derive(Debug)]
struct Step {
    command: String,
    output: Vec<String>,
}

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap()
}

/// The commands of the tour: lines of its indented blocks that begin with `$`.
fn steps(readme: &str) -> Vec<Step> {
    let tour = readme.split("## A short tour\n").nth(1).expect("there is a tour");
    let tour = tour.split("\n## ").next().unwrap_or_default();
    let tour = tour.split("\n### ").next().unwrap_or_default();
    let mut steps: Vec<Step> = Vec::new();
    let mut open = false;
    for line in tour.lines() {
        let Some(inside) = line.strip_prefix("    ") else {
            // A block may have empty lines; any other text ends it.
            open = open && line.is_empty();
            if open && let Some(step) = steps.last_mut() {
                step.output.push(String::new());
            }
            continue;
        };
        if let Some(command) = inside.strip_prefix("$ ") {
            steps.push(Step { command: command.to_owned(), output: Vec::new() });
            open = true;
        } else if open && let Some(step) = steps.last_mut() {
            step.output.push(inside.to_owned());
        }
    }
    for step in &mut steps {
        while step.output.last().is_some_and(String::is_empty) {
            step.output.pop();
        }
    }
    steps
}

/// What may differ becomes a word: pids, times, ids, versions. Columns may be wider or narrower.
fn normal(line: &str) -> String {
    let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let mut at = 0;
    while at < words.len() {
        let before = at.checked_sub(1).map(|at| words[at].clone()).unwrap_or_default();
        let word = words[at].trim_end_matches([',', ';']);
        if before == "pid" {
            words[at] = "PID".to_owned();
        } else if before == "uptime" {
            words[at] = "UPTIME".to_owned();
        } else if word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            words[at] = "ID".to_owned();
        } else if is_date(word) && words.get(at + 2).is_some_and(|zone| zone.starts_with("UTC")) {
            words.splice(at..at + 3, ["TIME".to_owned()]);
        } else if is_month(word) && words.len() > at + 3 {
            // `Nov 21 11:05 AM`
            words.splice(at..at + 4, ["DATE".to_owned()]);
        } else if is_age(word) {
            words[at] = "AGE".to_owned();
        } else if is_version(word) {
            words[at] = "VERSION".to_owned();
        }
        at += 1;
    }
    words.join(" ")
}

fn is_date(word: &str) -> bool {
    word.len() == 10 && word.split('-').count() == 3 && word.bytes().all(|b| b.is_ascii_digit() || b == b'-')
}

fn is_month(word: &str) -> bool {
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"].contains(&word)
}

/// `2s`, `5m`
fn is_age(word: &str) -> bool {
    let digits = word.trim_end_matches(['s', 'm', 'h']);
    word.len() == digits.len() + 1 && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_version(word: &str) -> bool {
    word.split('.').count() == 3
        && word.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

fn join(fleet: &Fleet, name: &str, role: &str) -> FleetHost {
    let programs = if role == "web" { format!("{WEB}{WORKERS}") } else { WORKERS.to_owned() };
    let host = fleet.join(name, &format!("role={role},dc=demo"), &programs);
    host.wait("worker:worker_01", "RUNNING");
    host
}

#[test]
fn readmes_tour_is_what_comes_out() {
    let steps = steps(&readme());
    assert!(steps.len() > 10, "{steps:?}");
    let shows = std::env::var("FLEETVISOR_TOUR").is_ok_and(|wanted| wanted == "show");
    let fleet = Fleet::new();
    let _hosts =
        [("db-01", "db"), ("web-01", "web"), ("web-02", "web")].map(|(name, role)| join(&fleet, name, role));
    for step in &steps {
        // A file that README shows is there as it is shown, but for the port.
        if let Some(file) = step.command.strip_prefix("cat ") {
            let text = step.output.join("\n").replace("127.0.0.1:7443", &fleet.address());
            fleet.dir().write(&format!("tour/{file}"), format!("{text}\n"));
            continue;
        }
        let run = || fleet.shell(&fleet.dir().path().join("tour"), &step.command);
        let ran = run();
        if let Some(name) =
            step.command.strip_prefix("supervisord -c ").and_then(|it| it.strip_suffix(".conf"))
        {
            ran.expect_code(0);
            fleet.wait_host(name, "online");
            continue;
        }
        if step.command.starts_with("kill ") {
            ran.expect_code(0);
            fleet.wait_host("web-03", "away");
            continue;
        }
        if shows {
            println!("\n$ {}\n{}{}", step.command, ran.stderr, ran.stdout);
            continue;
        }
        let shown = sorted(step.output.iter().map(String::as_str));
        let real = |ran: &Ran| sorted(ran.stderr.lines().chain(ran.stdout.lines()));
        // What is so only after a while may be looked at again.
        let looks = ["status", "host list"].iter().any(|verb| step.command.contains(verb));
        if looks {
            wait_for(&format!("what README shows for {}", step.command), || {
                let ran = run();
                if real(&ran) == shown { Ok(()) } else { Err(ran.to_string()) }
            });
        } else {
            assert_eq!(real(&ran), shown, "README shows something else for: {}\n{ran}", step.command);
        }
    }
}

/// Hosts answer in any order.
fn sorted<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut lines: Vec<String> = lines.map(normal).collect();
    lines.sort();
    lines
}

#[test]
fn what_differs_from_run_to_run_becomes_words() {
    assert_eq!(normal("a:b   RUNNING   pid 12, uptime 0:00:01"), "a:b RUNNING pid PID uptime UPTIME");
    assert_eq!(normal("x: away since 2026-11-21 12:54:36 UTC; will"), "x: away since TIME will");
    assert_eq!(
        normal("ctl: operation 8144323f8966fde5de182deb059a0187 on 2 hosts"),
        "ctl: operation ID on 2 hosts"
    );
    assert_eq!(normal("a:b  STOPPED   Nov 25 04:16 AM"), "a:b STOPPED DATE");
    assert_eq!(normal("db-01  online  2/2  5m  0.1.0"), "db-01 online 2/2 AGE VERSION");
}
