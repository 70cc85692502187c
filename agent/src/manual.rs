//! `supervisord man DIR`: manual pages of the daemon, of its configuration and of the two small programs beside it,
//! made from the same words as the help and the sample configuration.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use roff::{Inline, Roff, bold, italic, roman};

use crate::cli::{CONFIG_PATHS, OPTIONS};

const SAMPLE: &str = include_str!("sample.conf");
const SOURCE: &str = concat!("Fleetvisor ", env!("CARGO_PKG_VERSION"));

/// Its arguments are those after `man`.
pub(crate) fn run(arguments: &[std::ffi::OsString]) -> ExitCode {
    let [dir] = arguments else {
        eprintln!("Usage: supervisord man DIR (a directory of manuals, as /usr/local/share/man)");
        return ExitCode::from(2);
    };
    match write(Path::new(dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err((path, error)) => {
            eprintln!("supervisord: cannot write {}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}

/// Each into the folder of its section; the folders are made, `dir` is there.
fn write(dir: &Path) -> Result<(), (PathBuf, io::Error)> {
    let pages = [("supervisord", 8, supervisord()), ("supervisord.conf", 5, configuration())];
    let small = [("echo_supervisord_conf", 1, echo()), ("pidproxy", 1, pidproxy())];
    for (name, section, page) in pages.into_iter().chain(small) {
        let folder = dir.join(format!("man{section}"));
        let path = folder.join(format!("{name}.{section}"));
        let made = fs::create_dir(&folder).or_else(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(error),
        });
        let written = made.and_then(|()| fs::File::create(&path)?.write_all(page.render().as_bytes()));
        written.map_err(|error| (path, error))?;
    }
    Ok(())
}

fn page(name: &str, section: &str, about: &str) -> Roff {
    let mut page = Roff::new();
    page.control("TH", [name, section, "", SOURCE]);
    page.control("SH", ["NAME"]).text([roman(format!("{name} - {about}"))]);
    page
}

fn synopsis(page: &mut Roff, words: impl Into<Vec<Inline>>) {
    page.control("SH", ["SYNOPSIS"]).text(words);
}

fn paragraph(page: &mut Roff, text: &str) {
    page.control("PP", []).text([roman(text)]);
}

/// A term and what it means.
fn term(page: &mut Roff, term: impl Into<Vec<Inline>>, text: &str) {
    page.control("TP", []).text(term).text([roman(text)]);
}

/// Text whose lines stay as they are.
fn literal<'a>(page: &mut Roff, lines: impl IntoIterator<Item = &'a str>) {
    page.control("PP", []).control("nf", []);
    for line in lines {
        page.text([roman(line)]);
    }
    page.control("fi", []);
}

fn supervisord() -> Roff {
    let mut page =
        page("supervisord", "8", "starts programs, watches them, and starts them again when they end");
    synopsis(&mut page, [bold("supervisord"), roman(" ["), italic("option"), roman(" ...]")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman(
        "Reads a configuration of programs, goes to the background and keeps them running, as Supervisor does. \
         supervisorctl(1) shows and changes what runs; with a [fleet] section so does ctl(1) from elsewhere.",
    )]);
    paragraph(
        &mut page,
        "Two processes are called supervisord. The first, whose id is in the pidfile, is the keeper: the parent of all \
         programs. The second, the agent, does everything else; the keeper starts it again if it ends, and the \
         programs do not notice.",
    );
    page.control("SH", ["OPTIONS"]);
    page.text([roman("Options win over what the configuration says. Defaults are in brackets.")]);
    for option in OPTIONS.iter().filter(|option| !option.help.is_empty()) {
        let long = option.spelling.long.map(|long| format!("--{long}"));
        let spellings: Vec<String> =
            option.spelling.short.map(|short| format!("-{short}")).into_iter().chain(long).collect();
        let (value, text) = match option.help.split_once(": ") {
            Some((value, text)) if option.spelling.takes_value => (value, text),
            _ => ("", option.help),
        };
        term(&mut page, [bold(spellings.join(", ")), roman(" "), italic(value)], text);
    }
    term(
        &mut page,
        [bold("man"), roman(" "), italic("DIR")],
        "alone on the command line: write the manual pages below this directory",
    );
    page.control("SH", ["SIGNALS"]);
    for (signals, text) in [
        ("TERM, INT, QUIT", "stop all programs by their priority, and end"),
        ("HUP", "stop all programs, read the configuration anew, and start"),
        ("USR2", "open all logs anew by their names, after an outside rotation"),
    ] {
        term(&mut page, [bold(signals)], text);
    }
    page.control("SH", ["FILES"]);
    page.text([roman(
        "Without -c, the first of these that is there, after etc/supervisord.conf and supervisord.conf above the \
         program's own folder:",
    )]);
    literal(&mut page, CONFIG_PATHS);
    page.control("SH", ["EXIT STATUS"]);
    for (status, text) in [
        ("0", "it ran, or runs in the background"),
        ("1", "it could not start: a log, a socket or a limit"),
        ("2", "the command line or the configuration is wrong; the reason is on stderr"),
    ] {
        term(&mut page, [bold(status)], text);
    }
    see_also(
        &mut page,
        "supervisord.conf(5), supervisorctl(1), ctl(1), echo_supervisord_conf(1), pidproxy(1)",
    );
    page
}

/// The sample's chapters are the page's.
fn configuration() -> Roff {
    let mut page = page("supervisord.conf", "5", "the configuration of supervisord and supervisorctl");
    page.control("SH", ["DESCRIPTION"]);
    let mut lines = Vec::new();
    for line in SAMPLE.lines() {
        match line.strip_prefix("; ---- ") {
            Some(title) => {
                literal(&mut page, lines.drain(..));
                page.control("SH", [title.trim_end_matches('-').trim_end().to_uppercase().as_str()]);
            }
            None => lines.push(line),
        }
    }
    literal(&mut page, lines);
    see_also(&mut page, "supervisord(8), supervisorctl(1), echo_supervisord_conf(1)");
    page
}

fn echo() -> Roff {
    let mut page = page("echo_supervisord_conf", "1", "prints a sample configuration with every option");
    synopsis(&mut page, [bold("echo_supervisord_conf"), roman(" > "), italic("supervisord.conf")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman("What is commented out shows the default, or an example. Nothing is read.")]);
    see_also(&mut page, "supervisord(8), supervisord.conf(5)");
    page
}

fn pidproxy() -> Roff {
    let mut page = page("pidproxy", "1", "passes signals on to the process that a pidfile names");
    let words = [
        bold("pidproxy"),
        roman(" "),
        italic("pidfile command"),
        roman(" ["),
        italic("argument"),
        roman(" ...]"),
    ];
    synopsis(&mut page, words);
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman(
        "Runs the command, and sends HUP, INT, QUIT, TERM, USR1 and USR2 that come here to the process in the pidfile, \
         which is read anew for each: for a program that goes to the background by itself. Ends when the command does.",
    )]);
    page.control("SH", ["EXIT STATUS"]);
    for (status, text) in [
        ("0", "the command has ended"),
        ("1", "an argument is missing"),
        ("127", "the command can't be started"),
    ] {
        term(&mut page, [bold(status)], text);
    }
    see_also(&mut page, "supervisord(8)");
    page
}

fn see_also(page: &mut Roff, pages: &str) {
    page.control("SH", ["SEE ALSO"]).text([roman(pages)]);
}
