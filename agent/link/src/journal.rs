//! Which commands this host has begun, and how they came out, kept in its state_dir. A command is written down
//! before it is acted on, so that neither a link that breaks, nor another controller, nor a restart of this
//! daemon makes the host do it twice; who asks again is told what became of it.
//!
//! A file of lines, each on the disk before [`Journal::begin`] returns. It is written anew once most of its lines
//! are about commands that are forgotten.

use std::collections::{HashMap, VecDeque};
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use fleetvisor_model::name::ProcessName;
use serde::{Deserialize, Serialize};

const FILE: &str = "commands.log";
/// Commands that are remembered: far more than can be under way, or wait for this host.
const REMEMBERED: usize = 4096;
/// The latest of them, of which the results are remembered too.
const WITH_RESULTS: usize = 64;
/// Lines after which the file is written anew.
const LINES_MAX: usize = 4 * REMEMBERED;

#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    /// Whether the file has what is known, in lines that are whole; if not it is written anew before the next one.
    whole: bool,
    lines: usize,
    /// The earliest first.
    ids: VecDeque<String>,
    known: HashMap<String, Known>,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Known {
    /// It was begun; where nobody carries it out, the daemon ended in the middle.
    Begun,
    /// The daemon was about to be replaced by another release, which knows how it came out.
    Upgrading,
    Done {
        results: Vec<Told>,
        error: String,
    },
    /// It was recalled before it had begun.
    Recalled,
}

/// What was told of one process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) name: ProcessName,
    /// As on the wire.
    pub(crate) outcome: i32,
    pub(crate) text: String,
}

#[derive(Serialize, Deserialize)]
struct Line {
    id: String,
    is: Known,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
}

impl Journal {
    /// What is kept in `state_dir`; nothing where the host is new.
    pub(crate) fn open(state_dir: &Path) -> Result<Journal, JournalError> {
        let path = state_dir.join(FILE);
        let mut journal = Journal {
            path: path.clone(),
            whole: false,
            lines: 0,
            ids: VecDeque::new(),
            known: HashMap::new(),
        };
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(journal),
            Err(source) => return Err(JournalError::Read { path, source }),
        };
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            journal.lines += 1;
            // A line that was cut off by a crash was not acted on.
            if let Ok(Line { id, is }) = serde_json::from_slice(line) {
                journal.remember(id, is);
            }
        }
        if !text.is_empty() && !text.ends_with(b"\n") {
            // What follows must not become part of it.
            journal.rewrite()?;
        }
        Ok(journal)
    }

    pub(crate) fn known(&self, id: &str) -> Option<&Known> {
        self.known.get(id)
    }

    /// Writes down what is so from now on; on the disk when this returns.
    pub(crate) fn write(&mut self, id: &str, is: Known) -> Result<(), JournalError> {
        let line = line(&Line { id: id.to_owned(), is: is.clone() });
        if !self.whole {
            self.rewrite()?;
        }
        if let Err(source) = append(&self.path, &line) {
            // Half a line may be there.
            self.whole = false;
            return Err(JournalError::Write { path: self.path.clone(), source });
        }
        self.lines += 1;
        self.remember(id.to_owned(), is);
        if self.lines > LINES_MAX {
            self.rewrite()?;
        }
        Ok(())
    }

    fn remember(&mut self, id: String, is: Known) {
        if self.known.insert(id.clone(), is).is_none() {
            self.ids.push_back(id);
        }
        if self.ids.len() > REMEMBERED
            && let Some(oldest) = self.ids.pop_front()
        {
            self.known.remove(&oldest);
        }
        if let Some(at) = self.ids.len().checked_sub(WITH_RESULTS + 1)
            && let Some(Known::Done { results, .. }) = self.known.get_mut(&self.ids[at])
        {
            *results = Vec::new();
        }
    }

    fn rewrite(&mut self) -> Result<(), JournalError> {
        let new = self.path.with_extension("new");
        let write = || {
            if let Some(folder) = self.path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            }
            let mut text = Vec::new();
            for id in &self.ids {
                if let Some(is) = self.known.get(id) {
                    text.extend(line(&Line { id: id.clone(), is: is.clone() }));
                }
            }
            let mut file = File::create(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&new, &self.path)?;
            if let Some(folder) = self.path.parent() {
                File::open(folder)?.sync_all()?;
            }
            Ok(())
        };
        write().map_err(|source| JournalError::Write { path: self.path.clone(), source })?;
        self.whole = true;
        self.lines = self.ids.len();
        Ok(())
    }
}

/// Commands are rare: between them no descriptor is held.
fn append(path: &Path, line: &[u8]) -> io::Result<()> {
    let mut file = File::options().append(true).open(path)?;
    file.write_all(line)?;
    file.sync_data()
}

fn line(line: &Line) -> Vec<u8> {
    let mut text = serde_json::to_vec(line).expect("lines are plain data");
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(text: &str) -> Known {
        let told = Told { name: ProcessName::new("web", "web"), outcome: 1, text: text.to_owned() };
        Known::Done { results: vec![told], error: String::new() }
    }

    #[test]
    fn what_was_begun_is_known_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path()).unwrap();
        assert_eq!(journal.known("a"), None);
        journal.write("a", Known::Begun).unwrap();
        journal.write("b", Known::Begun).unwrap();
        journal.write("b", done("restarted")).unwrap();
        journal.write("c", Known::Recalled).unwrap();
        journal.write("d", Known::Upgrading).unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!(journal.known("a"), Some(&Known::Begun));
        assert_eq!(journal.known("b"), Some(&done("restarted")));
        assert_eq!(journal.known("c"), Some(&Known::Recalled));
        assert_eq!(journal.known("d"), Some(&Known::Upgrading));
    }

    #[test]
    fn a_line_that_was_cut_off_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path()).unwrap();
        journal.write("a", Known::Begun).unwrap();
        drop(journal);
        let path = folder.path().join(FILE);
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"{\"id\":\"b\",\"is").unwrap();
        let mut journal = Journal::open(folder.path()).unwrap();
        assert_eq!(journal.known("b"), None);
        journal.write("c", Known::Begun).unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!((journal.known("a"), journal.known("c")), (Some(&Known::Begun), Some(&Known::Begun)));
    }

    #[test]
    fn the_file_does_not_grow_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path()).unwrap();
        for number in 0..REMEMBERED + 10 {
            journal.remember(number.to_string(), done("restarted"));
        }
        assert_eq!(journal.known("9"), None);
        assert_eq!(journal.known("10"), Some(&Known::Done { results: Vec::new(), error: String::new() }));
        let last = (REMEMBERED + 9).to_string();
        assert_eq!(journal.known(&last), Some(&done("restarted")));
        journal.lines = LINES_MAX;
        journal.write("x", Known::Begun).unwrap();
        assert!(journal.lines <= REMEMBERED + 1);
        assert_eq!(Journal::open(folder.path()).unwrap().ids, journal.ids);
    }
}
