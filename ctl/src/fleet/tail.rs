//! Logs of a fleet as they come: parts of many at once to lines with a name in front, or to JSON; where reading goes
//! on after a break; and the exit status of what was read.

use std::collections::HashMap;

use fleetvisor_model::name::ProcessName;
use fleetvisor_proto::convert::process_name;
use fleetvisor_proto::fleet::log_part::What as Found;
use fleetvisor_proto::fleet::tail_part::What;
use fleetvisor_proto::fleet::{self, LogPart, LogPlace, TailPart, TailPlace};
use serde::Serialize;

use super::exit::Exit;
use super::hosts::absence;
use super::print::Colour;
use super::scope::no_such;
use crate::cli::Form;

/// Of names, in turn: what a terminal shows well on dark and on light.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

/// Which of a host's logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Channel {
    Stdout,
    Stderr,
    /// The daemon's own.
    Main,
}

/// What has come so far.
#[derive(Debug)]
pub(crate) struct Tails {
    form: Form,
    colour: Colour,
    channel: Channel,
    /// By name: which colour it has.
    names: HashMap<String, u8>,
    /// Whose line has been begun and not ended.
    open: Option<String>,
    places: HashMap<(String, Option<ProcessName>), LogPlace>,
    hosts: bool,
    read: bool,
    failed: bool,
    away: bool,
    unmatched: bool,
}

#[derive(Debug, Default, Serialize)]
struct PartJson<'a> {
    host: Option<&'a str>,
    process: Option<String>,
    log: Option<Channel>,
    kind: &'static str,
    line: Option<String>,
    finished: Option<bool>,
    dropped: Option<u64>,
    reason: Option<String>,
}

impl Tails {
    pub(crate) fn new(form: Form, colour: Colour, channel: Channel) -> Tails {
        Tails {
            form,
            colour,
            channel,
            names: HashMap::new(),
            open: None,
            places: HashMap::new(),
            hosts: false,
            read: false,
            failed: false,
            away: false,
            unmatched: false,
        }
    }

    /// What is to be written for a part: whole lines, but for one that has only begun.
    pub(crate) fn part(&mut self, part: TailPart) -> Vec<u8> {
        let mut out = Vec::new();
        let TailPart { host, name, what } = part;
        let name = process_name(name).ok();
        self.hosts |= !host.is_empty();
        match what {
            Some(What::Log(part)) => self.log(&host, name, part, &mut out),
            Some(What::Away(away)) => {
                self.away = true;
                let reason = absence(&away).unwrap_or_else(|| "away".to_owned());
                self.remark(&host, "away", reason, &mut out);
            }
            Some(What::Back(_)) => self.remark(&host, "back", "back; its logs go on".to_owned(), &mut out),
            Some(What::Error(error)) => {
                self.failed = true;
                self.remark(&host, "error", format!("ERROR ({error})"), &mut out);
            }
            Some(What::Unmatched(target)) => {
                self.unmatched = true;
                let line = unmatched(&target);
                match self.form {
                    Form::Text => self.line(&line, &mut out),
                    Form::Json => {
                        let (reason, kind) = (Some(target.to_string()), "unmatched");
                        json(&PartJson { kind, reason, ..PartJson::default() }, &mut out);
                    }
                }
            }
            None => {}
        }
        out
    }

    fn log(&mut self, host: &str, name: Option<ProcessName>, part: LogPart, out: &mut Vec<u8>) {
        if let Some(place) = part.place {
            self.places.insert((host.to_owned(), name.clone()), place);
        }
        match part.what {
            Some(Found::Lines(lines)) => {
                self.read = true;
                self.lines(host, name.as_ref(), &lines, out);
            }
            Some(Found::Dropped(count)) => {
                let s = if count == 1 { "" } else { "s" };
                let reason = format!("... {} line{s} dropped: this reader is too slow", thousands(count));
                self.missing(host, name.as_ref(), "dropped", Some(count), reason, out);
            }
            Some(Found::Lost(_)) => {
                let reason = "... lines may be missing: the log was rotated or emptied before they were read"
                    .to_owned();
                self.missing(host, name.as_ref(), "lost", None, reason, out);
            }
            Some(Found::Error(error)) => {
                self.failed = true;
                match self.form {
                    Form::Text => {
                        self.line(&format!("{}: ERROR ({error})", full(host, name.as_ref())), out);
                    }
                    Form::Json => {
                        let reason = Some(error);
                        json(&PartJson { reason, ..self.document(host, name.as_ref(), "error") }, out);
                    }
                }
            }
            None => {}
        }
    }

    fn lines(&mut self, host: &str, name: Option<&ProcessName>, lines: &[u8], out: &mut Vec<u8>) {
        let full = full(host, name);
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let (text, finished) = match line.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (line, false),
            };
            match self.form {
                Form::Json => {
                    let line = Some(String::from_utf8_lossy(text).into_owned());
                    let finished = Some(finished);
                    json(&PartJson { line, finished, ..self.document(host, name, "line") }, out);
                }
                Form::Text => {
                    if self.open.as_ref() != Some(&full) {
                        self.end_line(out);
                        let prefix = self.prefix(&full);
                        out.extend_from_slice(prefix.as_bytes());
                        out.extend_from_slice(b" | ");
                    }
                    out.extend_from_slice(text);
                    self.open = Some(full.clone());
                    if finished {
                        // What a program has coloured ends with its line.
                        if self.colour == Colour::Coloured && text.contains(&0x1b) {
                            out.extend_from_slice(b"\x1b[0m");
                        }
                        self.end_line(out);
                    }
                }
            }
        }
    }

    fn missing(
        &mut self,
        host: &str,
        name: Option<&ProcessName>,
        kind: &'static str,
        dropped: Option<u64>,
        reason: String,
        out: &mut Vec<u8>,
    ) {
        match self.form {
            Form::Text => {
                let prefix = self.prefix(&full(host, name));
                self.line(&format!("{prefix} {reason}"), out);
            }
            Form::Json => json(&PartJson { dropped, ..self.document(host, name, kind) }, out),
        }
    }

    fn remark(&mut self, host: &str, kind: &'static str, reason: String, out: &mut Vec<u8>) {
        match self.form {
            Form::Text => self.line(&format!("{host}: {reason}"), out),
            Form::Json => {
                let (host, reason) = (Some(host), Some(reason));
                json(&PartJson { host, kind, reason, ..PartJson::default() }, out);
            }
        }
    }

    fn line(&mut self, line: &str, out: &mut Vec<u8>) {
        self.end_line(out);
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }

    fn end_line(&mut self, out: &mut Vec<u8>) {
        if self.open.take().is_some() {
            out.push(b'\n');
        }
    }

    fn prefix(&mut self, full: &str) -> String {
        if self.colour == Colour::Plain {
            return full.to_owned();
        }
        let next = COLOURS[self.names.len() % COLOURS.len()];
        let code = *self.names.entry(full.to_owned()).or_insert(next);
        format!("\x1b[{code}m{full}\x1b[0m")
    }

    fn document<'a>(&self, host: &'a str, name: Option<&ProcessName>, kind: &'static str) -> PartJson<'a> {
        let process = name.map(|name| format!("{}:{}", name.group, name.process));
        PartJson { host: Some(host), process, log: Some(self.channel), kind, ..PartJson::default() }
    }

    /// The end of a line that was only begun.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.end_line(&mut out);
        out
    }

    /// Where the next call goes on.
    pub(crate) fn places(&self) -> Vec<TailPlace> {
        let place = |((host, name), place): (&(String, Option<ProcessName>), &LogPlace)| TailPlace {
            host: host.clone(),
            name: name.as_ref().map(Into::into),
            place: Some(*place),
        };
        self.places.iter().map(place).collect()
    }

    /// Whether there was any host to read from.
    pub(crate) fn has_hosts(&self) -> bool {
        self.hosts
    }

    /// Of what was read to its end. That a host is away weighs most: it may have anything to say.
    pub(crate) fn exit(&self) -> Exit {
        if self.away || (self.failed && self.read) {
            Exit::Partial
        } else if self.failed || self.unmatched || !self.hosts {
            Exit::Failed
        } else {
            Exit::Done
        }
    }
}

/// `web-01:web:app`; for the daemon's own log the host alone.
fn full(host: &str, name: Option<&ProcessName>) -> String {
    match name {
        Some(name) => format!("{host}:{}:{}", name.group, name.process),
        None => host.to_owned(),
    }
}

fn unmatched(target: &fleet::Target) -> String {
    no_such(&target.host, &target.group, &target.process)
}

fn json(part: &PartJson<'_>, out: &mut Vec<u8>) {
    // Strings and numbers always become JSON.
    if serde_json::to_writer(&mut *out, part).is_ok() {
        out.push(b'\n');
    }
}

/// `1,234,567`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use fleetvisor_proto::fleet::{Host, HostState};

    use super::*;

    fn log(process: &str, found: Found) -> TailPart {
        let name = ProcessName::new("web", process);
        let place = Some(LogPlace { device: 1, inode: 2, offset: 3, born: 4 });
        TailPart {
            host: "web-01".to_owned(),
            name: Some((&name).into()),
            what: Some(What::Log(LogPart { what: Some(found), place })),
        }
    }

    fn lines(process: &str, text: &str) -> TailPart {
        log(process, Found::Lines(text.as_bytes().to_vec()))
    }

    fn away() -> TailPart {
        let host = Host {
            name: "web-02".to_owned(),
            state: HostState::Away.into(),
            since: 1_795_258_500_000_000,
            ..Host::default()
        };
        TailPart { host: host.name.clone(), name: None, what: Some(What::Away(host)) }
    }

    fn text(tails: &mut Tails, parts: Vec<TailPart>) -> String {
        let mut out: Vec<u8> = parts.into_iter().flat_map(|part| tails.part(part)).collect();
        out.extend(tails.finish());
        String::from_utf8(out).unwrap()
    }

    fn plain() -> Tails {
        Tails::new(Form::Text, Colour::Plain, Channel::Stdout)
    }

    #[test]
    fn each_line_has_its_name_in_front_and_what_is_missing_is_said_in_place() {
        let shown = text(
            &mut plain(),
            vec![
                lines("app", "one\ntwo\n"),
                lines("db", "x\n"),
                log("app", Found::Dropped(1_234_567)),
                log("app", Found::Lost(true)),
                away(),
                log("db", Found::Error("no log file".to_owned())),
            ],
        );
        assert_eq!(
            shown,
            "web-01:web:app | one\n\
             web-01:web:app | two\n\
             web-01:web:db | x\n\
             web-01:web:app ... 1,234,567 lines dropped: this reader is too slow\n\
             web-01:web:app ... lines may be missing: the log was rotated or emptied before they were read\n\
             web-02: away since 2026-11-21 10:55:00 UTC\n\
             web-01:web:db: ERROR (no log file)\n"
        );
    }

    #[test]
    fn a_line_that_comes_in_pieces_is_one_unless_another_comes_between() {
        let pieces = |between: Vec<TailPart>| {
            let mut parts = vec![lines("app", "pass")];
            parts.extend(between);
            parts.push(lines("app", "word: \n"));
            text(&mut plain(), parts)
        };
        assert_eq!(pieces(Vec::new()), "web-01:web:app | password: \n");
        assert_eq!(
            pieces(vec![lines("db", "x\n")]),
            "web-01:web:app | pass\nweb-01:web:db | x\nweb-01:web:app | word: \n"
        );
        assert_eq!(text(&mut plain(), vec![lines("app", "no end")]), "web-01:web:app | no end\n");
    }

    #[test]
    fn names_are_coloured_and_a_programs_colours_end_with_its_line() {
        let mut tails = Tails::new(Form::Text, Colour::Coloured, Channel::Stdout);
        let shown =
            text(&mut tails, vec![lines("app", "\x1b[31mred\n"), lines("db", "x\n"), lines("app", "y\n")]);
        assert_eq!(
            shown,
            "\x1b[36mweb-01:web:app\x1b[0m | \x1b[31mred\x1b[0m\n\
             \x1b[33mweb-01:web:db\x1b[0m | x\n\
             \x1b[36mweb-01:web:app\x1b[0m | y\n"
        );
    }

    #[test]
    fn a_document_has_every_field() {
        let mut tails = Tails::new(Form::Json, Colour::Plain, Channel::Stderr);
        let shown = text(&mut tails, vec![lines("app", "a \"b\"\nc"), log("app", Found::Dropped(7)), away()]);
        let documents: Vec<serde_json::Value> =
            shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            documents[0],
            serde_json::json!({
                "host": "web-01", "process": "web:app", "log": "stderr", "kind": "line", "line": "a \"b\"",
                "finished": true, "dropped": null, "reason": null,
            })
        );
        assert_eq!((&documents[1]["line"], &documents[1]["finished"]), (&"c".into(), &false.into()));
        assert_eq!((&documents[2]["kind"], &documents[2]["dropped"]), (&"dropped".into(), &7.into()));
        assert_eq!(documents[3]["reason"], "away since 2026-11-21 10:55:00 UTC");
        assert!(documents.iter().all(|document| document.as_object().unwrap().len() == 8));
    }

    #[test]
    fn the_exit_status_says_whether_everything_was_read() {
        let exit = |parts: Vec<TailPart>| {
            let mut tails = plain();
            text(&mut tails, parts);
            tails.exit()
        };
        let error = || log("db", Found::Error("no log file".to_owned()));
        let target = fleet::Target { host: String::new(), group: "x".to_owned(), process: String::new() };
        let unmatched = TailPart { what: Some(What::Unmatched(target)), ..TailPart::default() };
        assert_eq!(exit(vec![lines("app", "x\n")]), Exit::Done);
        assert_eq!(exit(vec![lines("app", "x\n"), error()]), Exit::Partial);
        assert_eq!(exit(vec![lines("app", "x\n"), away()]), Exit::Partial);
        assert_eq!(exit(vec![error()]), Exit::Failed);
        assert_eq!(exit(vec![lines("app", "x\n"), unmatched]), Exit::Failed);
        assert_eq!(exit(Vec::new()), Exit::Failed);
    }

    #[test]
    fn reading_goes_on_after_the_last_place_of_each_log() {
        let mut tails = plain();
        text(&mut tails, vec![lines("app", "x\n"), lines("app", "y\n"), lines("db", "")]);
        let mut places = tails.places();
        places.sort_by_key(|place| place.name.clone().map(|name| name.process));
        assert_eq!(places.len(), 2);
        assert_eq!(places[0].place.unwrap().offset, 3);
        assert_eq!(places[0].host, "web-01");
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(
            [0, 12, 999, 1_000, 123_456, 7_000_000].map(thousands),
            ["0", "12", "999", "1,000", "123,456", "7,000,000"]
        );
    }
}
