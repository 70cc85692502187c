//! The INI dialect: what Python's `RawConfigParser` reads as Supervisor sets it up, with `rust-ini` holding
//! the sections and options in order. Line by line it resolves comments, continuations, delimiters and
//! duplicates, and remembers the file and line of every option. It knows no section or option by name but
//! `[DEFAULT]`, and leaves `%` alone but for [`Document::expand_here`].

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ini::{Ini, Properties};

use super::error::ConfigError;
use super::python::{is_space, repr, rstrip, strip};

const DEFAULT: &str = "DEFAULT";
const HERE: &str = "%(here)s";

/// Several files read into one set of sections, later values over earlier ones.
#[derive(Clone, Debug, Default)]
pub struct Document {
    ini: Ini,
    files: Vec<PathBuf>,
    /// Index in `files` of the first file with this section.
    section_files: HashMap<String, usize>,
    origins: HashMap<String, HashMap<String, Origin>>,
    /// Options that may hold a `%(here)s` which no file has claimed yet.
    with_here: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug)]
struct Origin {
    file: usize,
    line: u32,
}

impl Document {
    /// Adds a file's text. On an error the document is of no further use.
    pub fn read(&mut self, file: &Path, text: &[u8]) -> Result<(), ConfigError> {
        let (text, cut_off) = decode(text).map_err(|e| e.in_file(file))?;
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        self.files.push(file.to_path_buf());
        let mut reader = Reader::default();
        for (line, number) in text.split_inclusive('\n').zip(1..) {
            reader.line(self, line, number).map_err(|e| e.in_file(file))?;
        }
        reader.finish_option(self);
        match (cut_off, reader.bad_lines.first()) {
            (Some(error), _) => Err(error.in_file(file)),
            (None, None) => Ok(()),
            (None, Some((first, _))) => {
                let mut message =
                    format!("Source contains parsing errors: {}", repr(&file.to_string_lossy()));
                for (number, line) in &reader.bad_lines {
                    let _ = write!(message, "\n\t[line {number:2}]: {}", repr(line));
                }
                Err(ConfigError { line: Some(*first), ..ConfigError::new(message).in_file(file) })
            }
        }
    }

    /// Without `[DEFAULT]`, in the order of their first headers.
    pub fn sections(&self) -> impl Iterator<Item = &str> {
        self.ini.sections().flatten().filter(|name| *name != DEFAULT)
    }

    /// Every file that was read, in order.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Whether there is a `[DEFAULT]`.
    pub fn has_defaults(&self) -> bool {
        self.ini.section(Some(DEFAULT)).is_some()
    }

    pub fn has_section(&self, section: &str) -> bool {
        section != DEFAULT && self.ini.section(Some(section)).is_some()
    }

    /// The section's own value or `[DEFAULT]`'s. `option` is lower case, as all options are kept.
    pub fn get(&self, section: &str, option: &str) -> Option<&str> {
        let own = self.ini.section(Some(section)).and_then(|properties| properties.get(option));
        own.or_else(|| self.ini.section(Some(DEFAULT)).and_then(|properties| properties.get(option)))
    }

    /// The section's own options, then those it has from `[DEFAULT]`; one that was written twice counts as
    /// late as its last value.
    pub fn options(&self, section: &str) -> Vec<&str> {
        let own = self.ini.section(Some(section));
        let own_keys = own.into_iter().flat_map(Properties::iter).map(|(key, _)| key);
        let defaults = self.ini.section(Some(DEFAULT)).into_iter().flat_map(Properties::iter);
        let inherited = defaults.map(|(key, _)| key).filter(|key| own.is_none_or(|p| !p.contains_key(key)));
        own_keys.chain(inherited).collect()
    }

    /// Where the value that [`Document::get`] gives was written: file and line, from 1.
    pub fn origin(&self, section: &str, option: &str) -> Option<(&Path, u32)> {
        let find = |section: &str| self.origins.get(section).and_then(|options| options.get(option));
        let origin = find(section).or_else(|| find(DEFAULT))?;
        Some((&self.files[origin.file], origin.line))
    }

    /// The file that had this section first.
    pub fn section_file(&self, section: &str) -> Option<&Path> {
        self.section_files.get(section).map(|file| self.files[*file].as_path())
    }

    /// Replaces `%(here)s` in every value read so far, as Supervisor does after each included file: the text
    /// alone, so also after a `%`. `[DEFAULT]` keeps its own; the sections get copies that are theirs.
    pub fn expand_here(&mut self, here: &str) {
        self.inherit_here();
        for (section, option) in std::mem::take(&mut self.with_here) {
            let Some(properties) = self.ini.section(Some(section.as_str())) else { continue };
            let Some(value) = properties.get(&option).filter(|value| value.contains(HERE)) else { continue };
            let value = value.replace(HERE, here);
            let origin = self.origins.get(&section).and_then(|options| options.get(&option)).copied();
            if let Some(origin) = origin {
                self.set(&section, &option, value, origin);
            }
        }
    }

    /// Copies every value of `[DEFAULT]` with `%(here)s` into the sections that don't have their own.
    fn inherit_here(&mut self) {
        let Some(defaults) = self.ini.section(Some(DEFAULT)) else { return };
        let shared: Vec<(String, String)> = defaults
            .iter()
            .filter(|(_, value)| value.contains(HERE))
            .map(|(option, value)| (option.to_owned(), value.to_owned()))
            .collect();
        for (option, value) in shared {
            let Some(origin) = self.origins.get(DEFAULT).and_then(|o| o.get(&option)).copied() else {
                continue;
            };
            let heirs: Vec<String> = self
                .sections()
                .filter(|s| self.ini.section(Some(*s)).is_some_and(|p| !p.contains_key(&option)))
                .map(str::to_owned)
                .collect();
            for section in heirs {
                self.set(&section, &option, value.clone(), origin);
            }
        }
    }

    fn open_section(&mut self, section: &str) {
        self.ini.entry(Some(section.to_owned())).or_insert_with(Properties::new);
        let file = self.files.len() - 1;
        self.section_files.entry(section.to_owned()).or_insert(file);
    }

    fn set(&mut self, section: &str, option: &str, value: String, origin: Origin) {
        if section != DEFAULT && value.contains(HERE) {
            self.with_here.push((section.to_owned(), option.to_owned()));
        }
        let properties = self.ini.entry(Some(section.to_owned())).or_insert_with(Properties::new);
        properties.insert(option, value);
        self.origins.entry(section.to_owned()).or_default().insert(option.to_owned(), origin);
    }
}

/// Where in a file the reading is: the section, and the option whose value may go on.
#[derive(Debug, Default)]
struct Reader {
    section: Option<String>,
    option: Option<OpenOption>,
    indent: usize,
    bad_lines: Vec<(u32, String)>,
}

#[derive(Debug)]
struct OpenOption {
    name: String,
    lines: Vec<String>,
    line: u32,
}

impl Reader {
    fn line(&mut self, document: &mut Document, line: &str, number: u32) -> Result<(), ConfigError> {
        let comment = comment_start(line);
        let value = strip(&line[..comment.unwrap_or(line.len())]);
        if value.is_empty() {
            // An empty line belongs to the value, a comment does not.
            if let (None, Some(option)) = (comment, &mut self.option) {
                option.lines.push(String::new());
            }
            return Ok(());
        }
        let indent = line.chars().take_while(|c| is_space(*c)).count();
        if let Some(option) = self.option.as_mut().filter(|_| indent > self.indent) {
            option.lines.push(value.to_owned());
            return Ok(());
        }
        self.indent = indent;
        if let Some(header) = section_header(value) {
            self.finish_option(document);
            document.open_section(header);
            self.section = Some(header.to_owned());
            return Ok(());
        }
        if self.section.is_none() {
            return Err(missing_header(
                document.files.last().map_or(Path::new(""), PathBuf::as_path),
                line,
                number,
            ));
        }
        match value.split_once(['=', ':']) {
            None => self.bad_lines.push((number, line.to_owned())),
            Some((name, value)) => {
                self.finish_option(document);
                let name = rstrip(name).to_lowercase();
                if name.is_empty() {
                    self.bad_lines.push((number, line.to_owned()));
                } else {
                    self.option =
                        Some(OpenOption { name, lines: vec![strip(value).to_owned()], line: number });
                }
            }
        }
        Ok(())
    }

    fn finish_option(&mut self, document: &mut Document) {
        if let (Some(option), Some(section)) = (self.option.take(), &self.section) {
            let value = option.lines.join("\n");
            let origin = Origin { file: document.files.len() - 1, line: option.line };
            document.set(section, &option.name, rstrip(&value).to_owned(), origin);
        }
    }
}

/// Byte offset of the comment in a line. `;` and `#` start one at the line's first character, and after white
/// space wherever that is. Python looks at the first of each, then at the second of each, and so on, and
/// stops at the first round that finds one: of two comments the later may be the one that counts.
fn comment_start(line: &str) -> Option<usize> {
    if strip(line).starts_with([';', '#']) {
        return Some(0);
    }
    let starts = |prefix: char| {
        line.match_indices(prefix).map(|(at, _)| (at, line[..at].chars().next_back().is_none_or(is_space)))
    };
    let (mut semicolons, mut hashes) = (starts(';'), starts('#'));
    loop {
        let round = [semicolons.next(), hashes.next()];
        if round == [None, None] {
            return None;
        }
        let found = round.into_iter().flatten().filter(|(_, comment)| *comment).map(|(at, _)| at).min();
        if found.is_some() {
            return found;
        }
    }
}

/// `[name]`, up to the last bracket of the line; what follows is ignored.
fn section_header(value: &str) -> Option<&str> {
    let rest = value.strip_prefix('[')?;
    rest.rfind(']').map(|end| &rest[..end]).filter(|name| !name.is_empty())
}

fn missing_header(file: &Path, line: &str, number: u32) -> ConfigError {
    let file = repr(&file.to_string_lossy());
    let message = format!("File contains no section headers.\nfile: {file}, line: {number}\n{}", repr(line));
    ConfigError { line: Some(number), ..ConfigError::new(message) }
}

/// UTF-8, or the error Python gives for it. Where only the end of the text is cut off, Python has read the
/// lines before that, and counts from the cut: these lines come with that error.
fn decode(text: &[u8]) -> Result<(&str, Option<ConfigError>), ConfigError> {
    let error = match std::str::from_utf8(text) {
        Ok(text) => return Ok((text, None)),
        Err(error) => error,
    };
    let (valid, bad) = text.split_at(error.valid_up_to());
    let line = u32::try_from(valid.iter().filter(|byte| **byte == b'\n').count() + 1).ok();
    let (start, length, reason) = match error.error_len() {
        None => (0, bad.len(), "unexpected end of data"),
        Some(1) if !matches!(bad[0], 0xc2..=0xf4) => (valid.len(), 1, "invalid start byte"),
        Some(length) => (valid.len(), length, "invalid continuation byte"),
    };
    let place = match length {
        1 => format!("byte 0x{:02x} in position {start}", bad[0]),
        _ => format!("bytes in position {start}-{}", start + length - 1),
    };
    let message = format!("'utf-8' codec can't decode {place}: {reason}");
    let described = ConfigError { line, ..ConfigError::new(message) };
    match (error.error_len(), std::str::from_utf8(valid)) {
        (None, Ok(valid)) => {
            let valid = valid.trim_end_matches('\r');
            let complete = valid.rfind(['\r', '\n']).map_or(0, |at| at + 1);
            Ok((&valid[..complete], Some(described)))
        }
        _ => Err(described),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Document, ConfigError> {
        let mut document = Document::default();
        document.read(Path::new("f.conf"), text.as_bytes())?;
        Ok(document)
    }

    fn value(text: &str) -> Option<String> {
        read(text).unwrap().get("a", "x").map(str::to_owned)
    }

    #[test]
    fn comments_start_after_white_space_only() {
        assert_eq!(value("[a]\nx=1 ; two\n").as_deref(), Some("1"));
        assert_eq!(value("[a]\nx=;1\n").as_deref(), Some(";1"));
        assert_eq!(value("[a]\nx='1 #2'\n").as_deref(), Some("'1"));
        assert_eq!(
            value("[a]\nx=1#2 #3 ;4\n").as_deref(),
            Some("1#2 #3"),
            "the round that finds one is the last"
        );
    }

    #[test]
    fn values_go_on_where_the_indent_is_deeper() {
        assert_eq!(value("[a]\nx=1\n\n  2\n ;no\n  3\n\n").as_deref(), Some("1\n\n2\n3"));
        assert_eq!(value("[a]\n  x=1\n   y=2\n  z=3\n").as_deref(), Some("1\ny=2"));
    }

    #[test]
    fn sections_merge_and_the_last_value_wins() {
        let document = read("[a]\nX: 1\ny=2\n[b]\n[a]\nx = 3\n[DEFAULT]\nz=9\n").unwrap();
        assert_eq!(document.sections().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(document.options("a"), ["y", "x", "z"]);
        assert_eq!(document.get("a", "x"), Some("3"));
        assert_eq!(document.get("b", "z"), Some("9"));
        assert_eq!(document.origin("b", "z"), Some((Path::new("f.conf"), 8)));
    }

    #[test]
    fn an_unclosed_header_is_an_option() {
        let document = read("[a]\nx=1\n[program:b\n").unwrap();
        assert_eq!(document.get("a", "[program"), Some("b"));
    }

    #[test]
    fn bad_lines_are_listed_together() {
        let error = read("[a]\nfoo\nx=1\n=2\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "Source contains parsing errors: 'f.conf'\n\t[line  2]: 'foo\\n'\n\t[line  4]: '=2\\n'"
        );
        assert_eq!((error.line, error.file.as_deref()), (Some(2), Some(Path::new("f.conf"))));
        let error = read("\n; c\nhello\n[a]\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "File contains no section headers.\nfile: 'f.conf', line: 3\n'hello\\n'"
        );
    }

    #[test]
    fn text_that_is_not_utf8_is_refused() {
        let error = Document::default().read(Path::new("f"), b"[a]\nx=\xff\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "'utf-8' codec can't decode byte 0xff in position 6: invalid start byte"
        );
        assert_eq!(error.line, Some(2));
    }

    #[test]
    fn here_is_the_folder_of_the_file_that_says_so() {
        let mut document = read("[DEFAULT]\nd=%(here)s\n[a]\nx=%%(here)s/1\n").unwrap();
        document.expand_here("/main");
        document.read(Path::new("b"), b"[b]\nx=%(here)s/2\n").unwrap();
        document.expand_here("/other");
        let all = [("a", "x"), ("a", "d"), ("b", "x"), ("b", "d")].map(|(s, o)| document.get(s, o).unwrap());
        assert_eq!(all, ["%/main/1", "/main", "/other/2", "/other"]);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[ \t\n\r\\[\\]=:;#a-cA-C%\u{85}é]{0,200}") {
            let _ = read(&text);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Document::default().read(Path::new("f"), &bytes);
        }

        #[test]
        fn every_value_has_an_origin(text in "(\\[[a-c]\\]\n|[a-c]=[a-c]\n|  [a-c]\n|\n){0,30}") {
            if let Ok(document) = read(&text) {
                for section in document.sections() {
                    for option in document.options(section) {
                        prop_assert!(document.origin(section, option).is_some());
                    }
                }
            }
        }
    }
}
