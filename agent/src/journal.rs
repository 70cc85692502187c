//! What this agent leaves to a successor: a snapshot of everything that was decided, then each step since, in a
//! file in memory that the keeper holds too. A step is written before anything that follows from it is done; a
//! record cut short by the agent's end is one of which nothing has been done. What is done with it is in
//! [`crate::takeover`].

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;

use fleetvisor_core::decisions::{Decisions, Step};
use fleetvisor_model::config::Group;
use fleetvisor_model::time::Now;
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use crate::groups::Groups;
use crate::settings::Settings;
use crate::upgrade::Upgrade;

/// The stash's key of the journal.
pub(crate) const KEY: &str = "journal";
/// Of the snapshot's form, which other releases read too: fields may be added.
const FORMAT: u32 = 1;
/// Of the steps' form, which is changed whenever a step is. Another release begins with a snapshot without any.
const STEPS: u32 = 1;
/// Bytes of a record before its payload: its length, and its checksum.
const HEADER: usize = 8;
/// Steps are gathered up to this many bytes, or as many as the snapshot has, before a new one is begun.
const LEAST_STEPS: u64 = 1 << 20;
const LONGEST: u64 = 512 << 20;

/// Everything that a successor can't find out otherwise.
#[derive(Debug, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) settings: Settings,
    pub(crate) pidfile_written: bool,
    pub(crate) decisions: Decisions,
    pub(crate) groups: Groups,
    pub(crate) next_ticket: u64,
    #[serde(default)]
    pub(crate) upgrade: Option<Upgrade>,
    /// The form of the steps behind it.
    #[serde(default = "first_steps")]
    steps: u32,
}

fn first_steps() -> u32 {
    1
}

/// [`Snapshot`] as it is written.
#[derive(Debug, Serialize)]
pub(crate) struct SnapshotOf<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) pidfile_written: bool,
    pub(crate) decisions: &'a Decisions,
    pub(crate) groups: &'a Groups,
    pub(crate) next_ticket: u64,
    pub(crate) upgrade: Option<&'a Upgrade>,
}

#[derive(Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    snapshot: &'a SnapshotOf<'a>,
    steps: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record<'a> {
    pub(crate) now: Now,
    /// Lines of the core that were in the daemon's log when this was written.
    pub(crate) lines: u64,
    pub(crate) entry: Entry<'a>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Entry<'a> {
    Step(Cow<'a, Step>),
    /// A configuration was read: these are its groups.
    Read(Cow<'a, [Group]>),
    /// The group is active, as it was read.
    Added(Cow<'a, Group>),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("cannot read the journal: {0}")]
    Io(#[from] io::Error),
    #[error("the journal has no snapshot")]
    Empty,
    #[error("the journal is of format {0}, and this is {FORMAT}")]
    Format(u32),
    #[error("cannot read the journal's snapshot: {0}")]
    Snapshot(#[from] serde_json::Error),
    #[error("the journal has steps of form {0} behind its snapshot, and this release's are of form {STEPS}")]
    OtherSteps(u32),
    #[error("cannot read a step of the journal: {0}")]
    Step(#[from] postcard::Error),
}

#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    length: u64,
    /// When it is time for another snapshot.
    limit: u64,
    buffer: Vec<u8>,
}

impl Journal {
    pub(crate) fn begin(snapshot: &SnapshotOf<'_>) -> io::Result<Journal> {
        let file = memfd_create("journal", MFdFlags::MFD_CLOEXEC)?;
        let mut journal = Journal { file: File::from(file), length: 0, limit: 0, buffer: Vec::new() };
        let mut payload = FORMAT.to_le_bytes().to_vec();
        serde_json::to_writer(&mut payload, &Written { snapshot, steps: STEPS })?;
        journal.buffer = vec![0; HEADER];
        journal.buffer.extend(payload);
        journal.write()?;
        journal.limit = journal.length + journal.length.max(LEAST_STEPS);
        journal.buffer = Vec::new();
        Ok(journal)
    }

    /// The same file, for the stash.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    pub(crate) fn is_long(&self) -> bool {
        self.length >= self.limit
    }

    pub(crate) fn append(&mut self, record: &Record<'_>) -> io::Result<()> {
        self.buffer.clear();
        self.buffer.resize(HEADER, 0);
        self.buffer =
            postcard::to_extend(record, std::mem::take(&mut self.buffer)).map_err(io::Error::other)?;
        self.write()
    }

    /// Writes the buffer's payload behind its header.
    fn write(&mut self) -> io::Result<()> {
        let payload = &self.buffer[HEADER..];
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let checksum = crc32fast::hash(payload);
        self.buffer[..4].copy_from_slice(&length.to_le_bytes());
        self.buffer[4..HEADER].copy_from_slice(&checksum.to_le_bytes());
        self.file.write_all(&self.buffer)?;
        self.length += self.buffer.len() as u64;
        Ok(())
    }
}

/// Another agent's snapshot, the records since, and its journal, to be gone on with.
pub(crate) fn read(descriptor: OwnedFd) -> Result<(Snapshot, Vec<Record<'static>>, Journal), JournalError> {
    let mut file = File::from(descriptor);
    // The offset is shared with whoever wrote it.
    file.rewind()?;
    let mut bytes = Vec::new();
    (&mut file).take(LONGEST).read_to_end(&mut bytes)?;
    let mut rest = bytes.as_slice();
    let first = next(&mut rest).ok_or(JournalError::Empty)?;
    let (format, snapshot) = first.split_first_chunk::<4>().ok_or(JournalError::Empty)?;
    let format = u32::from_le_bytes(*format);
    if format != FORMAT {
        return Err(JournalError::Format(format));
    }
    let snapshot: Snapshot = serde_json::from_slice(snapshot)?;
    let whole = bytes.len() - rest.len();
    let limit = 2 * (whole as u64).max(LEAST_STEPS);
    let mut records = Vec::new();
    while let Some(payload) = next(&mut rest) {
        if snapshot.steps != STEPS {
            return Err(JournalError::OtherSteps(snapshot.steps));
        }
        records.push(postcard::from_bytes(payload)?);
    }
    // Behind the last whole record.
    let length = (bytes.len() - rest.len()) as u64;
    file.set_len(length)?;
    file.seek(SeekFrom::Start(length))?;
    Ok((snapshot, records, Journal { file, length, limit, buffer: Vec::new() }))
}

/// The next whole record's payload.
fn next<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (header, behind) = rest.split_first_chunk::<HEADER>()?;
    let [a, b, c, d, checksum @ ..] = *header;
    let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?;
    let payload = behind.get(..length)?;
    if crc32fast::hash(payload) != u32::from_le_bytes(checksum) {
        return None;
    }
    *rest = &behind[length..];
    Some(payload)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fleetvisor_core::decisions::Counters;
    use fleetvisor_core::supervisor::Input;
    use fleetvisor_model::config;

    use super::*;
    use crate::cli;
    use crate::host::FileSystem;

    fn begin(folder: &std::path::Path) -> Journal {
        let path = folder.join("s.conf");
        std::fs::write(&path, "[supervisord]\n[program:p]\ncommand=/bin/cat\n").unwrap();
        let args = ["supervisord".into(), "-c".into(), path.clone().into()];
        let invocation = cli::parse(&args, &FileSystem).unwrap();
        let config = config::load(&path, &FileSystem).unwrap();
        let groups = Groups::new(config.groups.clone());
        let decisions = Decisions::new(BTreeMap::new(), "id".to_owned(), Counters { serial: 7, instance: 0 });
        let settings = Settings { invocation, config };
        Journal::begin(&SnapshotOf {
            settings: &settings,
            pidfile_written: true,
            decisions: &decisions,
            groups: &groups,
            next_ticket: 3,
            upgrade: None,
        })
        .unwrap()
    }

    fn tick(lines: u64) -> Record<'static> {
        Record { now: Now::default(), lines, entry: Entry::Step(Cow::Owned(Step::Input(Input::Tick))) }
    }

    #[test]
    fn a_record_that_is_cut_short_is_none_and_the_next_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = begin(folder.path());
        journal.append(&tick(1)).unwrap();
        journal.append(&tick(2)).unwrap();
        let left = journal.descriptor().unwrap();
        journal.file.set_len(journal.length - 1).unwrap();
        drop(journal);
        let (snapshot, records, mut journal) = read(left.try_clone().unwrap()).unwrap();
        assert_eq!((snapshot.next_ticket, snapshot.decisions.pools().next_serial()), (3, 7));
        assert_eq!(snapshot.groups.names(), ["p"]);
        assert_eq!(records.iter().map(|record| record.lines).collect::<Vec<_>>(), [1]);
        journal.append(&tick(3)).unwrap();
        let (_, records, _) = read(left).unwrap();
        assert_eq!(records.iter().map(|record| record.lines).collect::<Vec<_>>(), [1, 3]);
    }

    /// The snapshot as another release might have written it.
    fn altered(change: impl Fn(&mut serde_json::Map<String, serde_json::Value>)) -> Journal {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = begin(folder.path());
        let mut bytes = Vec::new();
        journal.file.rewind().unwrap();
        journal.file.read_to_end(&mut bytes).unwrap();
        let mut snapshot: serde_json::Value = serde_json::from_slice(&bytes[HEADER + 4..]).unwrap();
        change(snapshot.as_object_mut().unwrap());
        journal.file = tempfile::tempfile().unwrap();
        journal.buffer = vec![0; HEADER];
        journal.buffer.extend(FORMAT.to_le_bytes());
        serde_json::to_writer(&mut journal.buffer, &snapshot).unwrap();
        journal.write().unwrap();
        journal
    }

    #[test]
    fn a_snapshot_of_another_release_is_read_and_steps_of_another_form_are_not() {
        let mut earlier = altered(|snapshot| {
            assert!(snapshot.remove("upgrade").is_some() && snapshot.remove("steps").is_some());
        });
        earlier.append(&tick(1)).unwrap();
        let (snapshot, records, _) = read(earlier.descriptor().unwrap()).unwrap();
        assert_eq!((snapshot.upgrade, records.len()), (None, 1));
        let mut later = altered(|snapshot| {
            snapshot.insert("steps".to_owned(), (STEPS + 1).into());
            snapshot.insert("unheard of".to_owned(), true.into());
        });
        let (_, records, _) = read(later.descriptor().unwrap()).unwrap();
        assert!(records.is_empty());
        later.append(&tick(1)).unwrap();
        let refused = read(later.descriptor().unwrap()).unwrap_err();
        assert!(matches!(refused, JournalError::OtherSteps(form) if form == STEPS + 1), "{refused}");
    }

    #[test]
    fn what_is_no_journal_is_an_error() {
        let file = || OwnedFd::from(tempfile::tempfile().unwrap());
        assert!(matches!(read(file()), Err(JournalError::Empty)));
        let mut other = tempfile::tempfile().unwrap();
        other.write_all(&[7; 4000]).unwrap();
        assert!(matches!(read(other.into()), Err(JournalError::Empty)));
    }
}
