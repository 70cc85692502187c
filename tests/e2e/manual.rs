//! What the programs say of themselves: help, manual pages and completion, all made from the same words.

use std::fs;
use std::path::Path;
use std::process::Command;

use fleetvisor_tests::{LIMIT, Ran, WorkDir, binary, run};

fn run_binary(name: &str, arguments: &[&str]) -> Ran {
    run(Command::new(binary(name)).args(arguments), LIMIT)
}

/// Writes them, and gives name and text of each, `NAME-VERB.1` without its end.
fn pages(program: &str) -> Vec<(String, String)> {
    let dir = WorkDir::new();
    let folder = dir.path().join("man1");
    fs::create_dir(&folder).unwrap();
    run_binary(program, &["man", &folder.display().to_string()]).expect_code(0);
    let entries = fs::read_dir(&folder).unwrap().flatten();
    let mut pages: Vec<_> = entries
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name.strip_suffix(".1").unwrap().to_owned(), fs::read_to_string(entry.path()).unwrap())
        })
        .collect();
    pages.sort();
    pages
}

#[test]
fn every_verb_has_help_and_a_manual_page() {
    for (program, verbs) in [
        ("ctl", &["status", "start", "stop", "restart", "tail", "host", "host-token", "completion"][..]),
        ("fleetvisor-controller", &["init", "run", "verify", "backup", "restore"]),
    ] {
        let mut pages = pages(program);
        pages.retain(|(page, _)| page != "supervisorctl");
        for verb in verbs {
            let name = format!("{program}-{verb}");
            assert!(pages.iter().any(|(page, _)| *page == name), "{name} is missing");
        }
        for (name, text) in pages {
            assert!(text.contains(&format!(".TH {name} 1")), "{name}: {text}");
            assert!(text.contains(".SH NAME\n") && text.contains(".SH SYNOPSIS\n"), "{name}: {text}");
            let words = name.strip_prefix(program).unwrap().trim_start_matches('-');
            // A verb is one word, a verb of a verb two; no verb has a hyphen.
            let mut arguments: Vec<&str> = words.split('-').filter(|word| !word.is_empty()).collect();
            if arguments.contains(&"help") {
                continue;
            }
            let page = text.replace('\\', "");
            let about = page.split(".SH NAME\n").nth(1).and_then(|rest| rest.lines().next()).unwrap();
            assert!(about.split_once(" - ").is_some_and(|(_, about)| !about.is_empty()), "{name}: {about:?}");
            arguments.push("--help");
            let ran = run_binary(program, &arguments).expect_code(0).expect_stdout("Usage: ");
            assert!(ran.stderr.is_empty(), "{ran}");
            let bare = options_without_words(&ran.stdout);
            assert!(bare.is_empty(), "{program} {arguments:?} says nothing of {bare:?}");
        }
    }
}

/// A page as a reader has it; a remark of the typesetter is a mistake.
fn rendered(path: &Path) -> String {
    let ran =
        run(Command::new("man").args(["--warnings", "-E", "UTF-8", "-l", "-P", "cat"]).arg(path), LIMIT);
    let ran = ran.expect_code(0);
    assert!(ran.stderr.is_empty(), "{ran}");
    ran.stdout
}

#[test]
fn the_daemon_and_its_client_have_manual_pages_that_can_be_read() {
    let dir = WorkDir::new();
    let folder = dir.path().display().to_string();
    run_binary("supervisord", &["man", &folder]).expect_code(0);
    run_binary("ctl", &["man", &folder]).expect_code(0);
    let daemon = rendered(&dir.path().join("man8/supervisord.8"));
    let help = run_binary("supervisord", &["--help"]).expect_code(0).stdout;
    for option in help.split_whitespace().filter(|word| word.starts_with("--")) {
        assert!(daemon.contains(option), "{option} is missing:\n{daemon}");
    }
    let configuration = rendered(&dir.path().join("man5/supervisord.conf.5"));
    let sample = run_binary("echo_supervisord_conf", &[]).expect_code(0).stdout;
    for line in sample.lines().filter(|line| line.contains('=')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let page = configuration.lines().any(|page| page.split_whitespace().eq(words.iter().copied()));
        assert!(page, "{line} is missing:\n{configuration}");
    }
    let client = rendered(&dir.path().join("supervisorctl.1"));
    assert!(client.contains("Continuous tail of named process stdout"), "{client}");
    for small in ["echo_supervisord_conf", "pidproxy"] {
        rendered(&dir.path().join(format!("man1/{small}.1")));
    }
    run_binary("supervisord", &["man"]).expect_code(2).expect_stderr("Usage: supervisord man DIR");
}

/// Options and arguments of a help text that have no explanation, beside them or in the line below.
fn options_without_words(help: &str) -> Vec<&str> {
    let lines: Vec<&str> = help.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let explained = |at: usize| {
        let line = lines[at].trim_start();
        let beside = line.split_once("  ").is_some_and(|(_, words)| !words.trim().is_empty());
        beside || lines.get(at + 1).is_some_and(|next| indent(next) > indent(lines[at]))
    };
    // Further in are explanations, further out are sentences.
    let options = lines
        .iter()
        .enumerate()
        .filter(|(_, line)| (2..8).contains(&indent(line)) && line.trim_start().starts_with('-'));
    options.filter(|(at, _)| !explained(*at)).map(|(_, line)| *line).collect()
}

#[test]
fn manual_pages_that_cannot_be_written_say_where() {
    for program in ["ctl", "fleetvisor-controller", "supervisord"] {
        run_binary(program, &["man", "/no/such/folder"]).expect_code(1).expect_stderr("/no/such/folder");
    }
}

#[test]
fn completion_scripts_are_scripts() {
    let dir = WorkDir::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = run_binary("ctl", &["completion", shell]).expect_code(0).expect_stdout("restart");
        dir.write(shell, script.stdout);
    }
    run(Command::new("bash").arg("-n").arg(dir.path().join("bash")), LIMIT).expect_code(0);
    run_binary("ctl", &["completion", "nosuch"]).expect_code(2);
}
