//! One log as lines for one reader: whole ones, those that fit alone, and where something is left out a word about
//! that in its place. Blocking.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use fleetvisor_proto::fleet::log_part::What;
use fleetvisor_proto::fleet::{LogPart, LogPlace};
use regex::bytes::{Regex, RegexBuilder};

use super::file::{Log, Opener};

/// A longer line goes in pieces.
pub(crate) const LINE_MAX: usize = 8 << 10;
/// Largest part.
const PART_MAX: usize = 32 << 10;
/// How long the beginning of a line waits for its end.
const UNFINISHED: Duration = Duration::from_secs(1);
/// Memory that a regular expression may take.
const GREP_BYTES_MAX: usize = 1 << 20;

/// Compiles what lines are to fit.
pub(crate) fn grep(pattern: &str) -> Result<Option<Regex>, regex::Error> {
    if pattern.is_empty() {
        return Ok(None);
    }
    RegexBuilder::new(pattern).size_limit(GREP_BYTES_MAX).dfa_size_limit(GREP_BYTES_MAX).build().map(Some)
}

#[derive(Debug)]
pub(crate) struct Lines {
    log: Log,
    grep: Option<Regex>,
    /// The beginning of a line, and where and when it was found.
    held: Vec<u8>,
    begun: (LogPlace, Instant),
    skipped: u64,
    lost: bool,
    /// The reader has been told where it is.
    placed: bool,
}

/// Where reading begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From {
    /// With so many lines of what there is.
    Last(u32),
    /// After what was read before.
    After(LogPlace),
    /// With the first line: there was no such log at this moment.
    New(SystemTime),
}

/// What one look has brought.
#[derive(Debug, Default)]
pub(crate) struct Look {
    pub(crate) parts: Vec<LogPart>,
    /// Bytes of lines in the parts.
    pub(crate) bytes: usize,
    /// There is more already.
    pub(crate) more: bool,
}

impl Lines {
    pub(crate) fn open(path: &Path, from: From, grep: Option<Regex>, opener: Opener) -> io::Result<Lines> {
        let (log, lost) = match from {
            From::Last(lines) => (Log::open(path, lines, opener)?, false),
            From::After(place) => Log::resume(path, &place, opener)?,
            From::New(since) => (Log::open_new(path, since, opener)?, false),
        };
        let begun = (log.place()?, Instant::now());
        Ok(Lines { log, grep, held: Vec::new(), begun, skipped: 0, lost, placed: false })
    }

    /// Looks for what is new, up to `room` bytes of it.
    pub(crate) fn look(&mut self, room: usize) -> io::Result<Look> {
        let mut look = Look::default();
        if !self.placed {
            self.placed = true;
            look.part(What::Lines(Vec::new()), self.log.place()?);
        }
        let room = room.min(PART_MAX);
        let found = self.log.read(room.saturating_sub(self.held.len()))?;
        self.skipped += found.skipped;
        self.lost |= found.lost;
        look.more = found.more;
        if room == 0 || (found.data.is_empty() && found.more && found.skipped > 0) {
            return Ok(look);
        }
        if self.skipped > 0 || self.lost {
            // The line that was begun ends among those that are missing.
            self.held.clear();
            let place = self.begun.0;
            if std::mem::take(&mut self.lost) {
                look.part(What::Lost(true), place);
            }
            if self.skipped > 0 {
                look.part(What::Dropped(std::mem::take(&mut self.skipped)), place);
            }
        }
        if self.held.is_empty() {
            let mut place = self.log.place()?;
            place.offset -= found.data.len() as u64;
            self.begun = (place, Instant::now());
        }
        let before = self.held.len();
        self.held.extend(&found.data);
        if let Some(newline) = found.data.iter().rposition(|byte| *byte == b'\n') {
            let rest = self.held.split_off(before + newline + 1);
            let whole = std::mem::replace(&mut self.held, rest);
            let mut place = self.log.place()?;
            place.offset -= self.held.len() as u64;
            self.begun = (place, Instant::now());
            look.lines(self.fitting(whole), place);
        }
        let waits = self.held.len() < LINE_MAX.min(room) && self.begun.1.elapsed() < UNFINISHED;
        if !self.held.is_empty() && !waits {
            self.give_held(&mut look)?;
        }
        Ok(look)
    }

    /// What is left: the beginning of a line that does not end.
    pub(crate) fn rest(&mut self) -> io::Result<Look> {
        let mut look = Look::default();
        if !self.held.is_empty() {
            self.give_held(&mut look)?;
        }
        Ok(look)
    }

    fn give_held(&mut self, look: &mut Look) -> io::Result<()> {
        let held = std::mem::take(&mut self.held);
        look.lines(self.fitting(held), self.log.place()?);
        Ok(())
    }

    /// Without the lines that don't fit.
    fn fitting(&self, lines: Vec<u8>) -> Vec<u8> {
        let Some(grep) = &self.grep else { return lines };
        let fits = |line: &&[u8]| grep.is_match(line.strip_suffix(b"\n").unwrap_or(line));
        lines.split_inclusive(|byte| *byte == b'\n').filter(fits).collect::<Vec<_>>().concat()
    }
}

impl Look {
    fn part(&mut self, what: What, place: LogPlace) {
        self.parts.push(LogPart { what: Some(what), place: Some(place) });
    }

    fn lines(&mut self, lines: Vec<u8>, place: LogPlace) {
        // Where nothing fits, nothing need be said.
        if !lines.is_empty() {
            self.bytes += lines.len();
            self.part(What::Lines(lines), place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::tests::{append, opener, rotate};
    use super::*;

    struct Case {
        _folder: tempfile::TempDir,
        path: std::path::PathBuf,
        lines: Lines,
    }

    impl Case {
        fn new(text: &str, pattern: &str) -> Case {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.log");
            append(&path, text);
            let lines = Lines::open(&path, From::Last(9), grep(pattern).unwrap(), opener).unwrap();
            Case { _folder: folder, path, lines }
        }

        /// What is new, with the words for what is missing; and the last place.
        fn new_text(&mut self) -> (String, Option<LogPlace>) {
            let (mut text, mut place) = (String::new(), None);
            loop {
                let look = self.lines.look(PART_MAX).unwrap();
                for part in look.parts {
                    place = part.place;
                    match part.what.unwrap() {
                        What::Lines(lines) => text.push_str(&String::from_utf8(lines).unwrap()),
                        What::Dropped(count) => text.push_str(&format!("<{count} dropped>")),
                        What::Lost(_) => text.push_str("<lost>"),
                        What::Error(error) => panic!("{error}"),
                    }
                }
                if !look.more {
                    return (text, place);
                }
            }
        }
    }

    #[test]
    fn a_line_waits_for_its_end_also_through_a_rotation() {
        let mut case = Case::new("one\ntw", "");
        assert_eq!(case.new_text().0, "one\n");
        rotate(&case.path);
        append(&case.path, "o\nthree\nfo");
        let (text, place) = case.new_text();
        assert_eq!(text, "two\nthree\n");
        append(&case.path, "ur\n");
        let after = Lines::open(&case.path, From::After(place.unwrap()), None, opener).unwrap();
        assert_eq!(Case { lines: after, ..case }.new_text().0, "four\n");
    }

    #[test]
    fn an_unfinished_line_is_given_after_a_while_or_at_the_end() {
        let mut case = Case::new("password: ", "");
        assert_eq!(case.new_text().0, "");
        case.lines.begun.1 -= UNFINISHED;
        assert_eq!(case.new_text().0, "password: ");
        append(&case.path, "no end");
        assert_eq!(case.new_text().0, "");
        let rest = case.lines.rest().unwrap();
        assert_eq!(rest.parts[0].what, Some(What::Lines(b"no end".to_vec())));
    }

    #[test]
    fn a_line_that_is_too_long_goes_in_pieces() {
        let long = "x".repeat(100_000);
        let mut case = Case::new(&format!("{long}\nshort\n"), "");
        assert_eq!(case.new_text().0, format!("{long}\nshort\n"));
        let mut small = Case::new(&format!("{long}\n"), "");
        let mut looks = 0;
        while small.lines.look(1000).unwrap().bytes > 0 {
            looks += 1;
        }
        assert_eq!(looks, 101);
    }

    #[test]
    fn only_lines_that_fit_are_given() {
        let mut case = Case::new("GET /a 200\nGET /b 500\nGET /c 200\nGET /d 503\n", " 5..$");
        assert_eq!(case.new_text().0, "GET /b 500\nGET /d 503\n");
        append(&case.path, "GET /e 200\n");
        assert_eq!(case.new_text().0, "");
        assert!(grep("(").is_err() && grep("(a{1000}){1000}").is_err());
    }

    #[test]
    fn what_is_left_out_is_said_in_its_place() {
        let mut case = Case::new("begun", "");
        assert_eq!(case.new_text().0, "");
        let line = format!("{}\n", "x".repeat(99));
        append(&case.path, &line.repeat(300_000));
        while case.lines.look(0).unwrap().more {}
        append(&case.path, "last\n");
        let (text, _) = case.new_text();
        let (dropped, rest) = text.split_once(" dropped>").unwrap();
        let dropped: usize = dropped.trim_start_matches('<').parse().unwrap();
        assert_eq!(dropped + rest.lines().count(), 300_001);
        assert!(rest.starts_with("xxx") && rest.ends_with("\nlast\n"));
        std::fs::write(&case.path, "anew\n").unwrap();
        assert_eq!(case.new_text().0, "<lost>anew\n");
    }
}
