//! A log as a row of files: the one that has its name, and those that had it before. Read from one place on, through
//! every rotation. Nothing of it is held in memory: who reads slowly is further behind in the files, and one who is
//! too far behind skips lines, counted. Blocking.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fleetvisor_proto::fleet::LogPlace;

/// How far a reader may be behind, in bytes, and how much of that is left to it when it was further.
const BEHIND_MAX: u64 = 16 << 20;
const BEHIND_KEPT: u64 = 1 << 20;
/// As much is skipped in one go.
const SKIPPED_AT_ONCE: u64 = 16 << 20;
/// The last lines are looked for in so many bytes.
const LINES_BYTES_MAX: u64 = 4 << 20;
const BLOCK: usize = 64 << 10;
/// Rotated files that are looked through.
const BACKUPS_MAX: usize = 1000;

/// Times of files may be behind the clock.
const TICK: Duration = Duration::from_millis(20);

/// Opens a log for reading; an error where it is not one that may be read.
pub(crate) type Opener = fn(&Path) -> io::Result<File>;

#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    opener: Opener,
    /// Oldest first, at least one. All but the last have lost the log's name.
    files: VecDeque<File>,
    /// Where in the first file.
    at: u64,
    /// It is on its way to a place that is less far behind.
    skips: bool,
}

/// What was found at the present place.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) data: Vec<u8>,
    /// Lines that were skipped before the data.
    pub(crate) skipped: u64,
    /// Something may be missing before the data: it was gone before it was read.
    pub(crate) lost: bool,
    /// It is worth looking again at once.
    pub(crate) more: bool,
}

/// A file, whatever its name is by now; with the time of its making, since numbers are given again.
type Identity = (u64, u64, i64);

impl Log {
    /// At its last lines, also where those have been rotated away.
    pub(crate) fn open(path: &Path, lines: u32, opener: Opener) -> io::Result<Log> {
        let mut files = VecDeque::from([opener(path)?]);
        let (mut at, mut wanted) = (size(&files[0])?, lines);
        let mut left = LINES_BYTES_MAX;
        for number in 1..BACKUPS_MAX {
            let oldest = &files[0];
            let (begin, found) = last_lines(oldest, at, wanted, left)?;
            left = left.saturating_sub(at - begin);
            (at, wanted) = (begin, wanted - found);
            if wanted == 0 || left == 0 || begin > 0 {
                break;
            }
            match opener(&backup(path, number)) {
                // A file that ends within a line is continued by the next.
                Ok(older) => {
                    at = size(&older)?;
                    files.push_front(older);
                }
                Err(_) => break,
            }
        }
        Ok(Log { path: path.to_owned(), opener, files, at, skips: false })
    }

    /// At the beginning of all that was written since a moment at which there was no such log.
    pub(crate) fn open_new(path: &Path, since: SystemTime, opener: Opener) -> io::Result<Log> {
        let mut files = VecDeque::from([opener(path)?]);
        for number in 1..BACKUPS_MAX {
            match opener(&backup(path, number)) {
                Ok(older) if older.metadata()?.modified()? >= since - TICK => files.push_front(older),
                Ok(_) | Err(_) => break,
            }
        }
        Ok(Log { path: path.to_owned(), opener, files, at: 0, skips: false })
    }

    /// Where an earlier reading ended; the flag tells that this place is no more, and that it begins with the
    /// oldest there is.
    pub(crate) fn resume(path: &Path, place: &LogPlace, opener: Opener) -> io::Result<(Log, bool)> {
        let wanted = (place.device, place.inode, place.born);
        let files = VecDeque::from([opener(path)?]);
        let mut log = Log { path: path.to_owned(), opener, files, at: 0, skips: false };
        for number in 1..=BACKUPS_MAX {
            let oldest = &log.files[0];
            if identity(oldest)? == wanted && size(oldest)? >= place.offset {
                log.at = place.offset;
                return Ok((log, false));
            }
            match opener(&backup(path, number)) {
                Ok(older) => log.files.push_front(older),
                Err(_) => break,
            }
        }
        Ok((log, true))
    }

    pub(crate) fn place(&self) -> io::Result<LogPlace> {
        let (device, inode, born) = identity(&self.files[0])?;
        Ok(LogPlace { device, inode, offset: self.at, born })
    }

    /// Up to `most` bytes of one file; with 0 it only keeps up with what happens to the files. One who is too far
    /// behind is moved on.
    pub(crate) fn read(&mut self, most: usize) -> io::Result<Found> {
        let mut found = Found { lost: self.find_newer()?, ..Found::default() };
        if size(&self.files[0])? < self.at {
            // Emptied, and perhaps written again.
            (self.at, found.lost) = (0, true);
        }
        let behind = self.behind()?;
        self.skips = behind > if self.skips { BEHIND_KEPT } else { BEHIND_MAX };
        if self.skips {
            found.skipped = self.skip(behind - BEHIND_KEPT)?;
            found.more = true;
            return Ok(found);
        }
        self.leave_read_files()?;
        found.data.resize(most, 0);
        let count = self.files[0].read_at(&mut found.data, self.at)?;
        found.data.truncate(count);
        self.at += count as u64;
        found.more = most > 0 && (count == most || self.files.len() > 1);
        Ok(found)
    }

    fn behind(&self) -> io::Result<u64> {
        let sizes = self.files.iter().map(size).sum::<io::Result<u64>>()?;
        Ok(sizes.saturating_sub(self.at))
    }

    /// What a file holds once another has its name is all it will ever hold.
    fn leave_read_files(&mut self) -> io::Result<()> {
        while self.files.len() > 1 && size(&self.files[0])? <= self.at {
            self.files.pop_front();
            self.at = 0;
        }
        Ok(())
    }

    /// Takes up the files that were begun since; tells whether there may have been others in between.
    fn find_newer(&mut self) -> io::Result<bool> {
        let Some(known) = self.files.back() else { return Ok(false) };
        let (this, modified) = (identity(known)?, known.metadata()?.modified()?);
        match std::fs::metadata(&self.path) {
            Ok(named) if (named.dev(), named.ino()) != (this.0, this.1) => {}
            Ok(_) | Err(_) => return Ok(false),
        }
        let mut newer: Vec<File> = Vec::new();
        let (mut reached, mut backups) = (false, 0);
        for number in 0..BACKUPS_MAX {
            let file = match (self.opener)(&backup(&self.path, number)) {
                Ok(file) => file,
                Err(error) if number > 0 && error.kind() == io::ErrorKind::NotFound => break,
                // The new file is about to be made, or cannot be read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(error),
            };
            let found = identity(&file)?;
            // One that was written last before this one was is older: this one was removed, not rotated.
            if found == this || (number > 0 && file.metadata()?.modified()? < modified) {
                reached = true;
                break;
            }
            backups += usize::from(number > 0);
            // A rotation in between shows a file twice.
            if newer.last().map(identity).transpose()? != Some(found) {
                newer.push(file);
            }
        }
        self.files.extend(newer.into_iter().rev());
        Ok(!reached && backups > 0)
    }

    /// Goes on by so many bytes at least, to the beginning of a line if one is near, and counts the lines that end
    /// in between. Of a long way it goes a part.
    fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        let (mut left, mut lines) = (bytes.min(SKIPPED_AT_ONCE), 0);
        let whole = bytes == left;
        let mut block = vec![0; BLOCK];
        while left > 0 {
            self.leave_read_files()?;
            let most = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
            let count = self.files[0].read_at(&mut block[..most], self.at)?;
            if count == 0 {
                return Ok(lines);
            }
            lines += newlines(&block[..count]);
            self.at += count as u64;
            left -= count as u64;
        }
        if whole {
            let count = self.files[0].read_at(&mut block, self.at)?;
            if let Some(end) = block[..count].iter().position(|byte| *byte == b'\n') {
                self.at += end as u64 + 1;
                lines += 1;
            }
        }
        Ok(lines)
    }
}

/// `app.log`, `app.log.1`, ...
fn backup(path: &Path, number: usize) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn identity(file: &File) -> io::Result<Identity> {
    let metadata = file.metadata()?;
    // Not every file system knows when.
    let born = metadata.created().unwrap_or(SystemTime::UNIX_EPOCH);
    let born = born.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    Ok((metadata.dev(), metadata.ino(), i64::try_from(born).unwrap_or(0)))
}

fn size(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.len())
}

fn newlines(block: &[u8]) -> u64 {
    block.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Where the last so many lines before `end` begin, and how many there are: an unfinished one counts. Looks at no
/// more than `most` bytes.
fn last_lines(file: &File, end: u64, lines: u32, most: u64) -> io::Result<(u64, u32)> {
    if lines == 0 || end == 0 {
        return Ok((end, 0));
    }
    let least = end.saturating_sub(most);
    let mut begin = end;
    let (mut found, mut block) = (0, Vec::new());
    let mut first = end;
    while begin > least {
        let from = begin.saturating_sub(BLOCK as u64).max(least);
        block.resize(usize::try_from(begin - from).unwrap_or(0), 0);
        file.read_exact_at(&mut block, from)?;
        for (index, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let behind = from + index as u64 + 1;
            // The newline at the very end ends a line and begins none.
            if behind == end {
                continue;
            }
            found += 1;
            first = behind;
            if found == lines {
                return Ok((first, found));
            }
        }
        begin = from;
    }
    // The line at the very beginning, or what is left of one that is longer than may be looked at.
    if least == 0 || found == 0 { Ok((least, found + 1)) } else { Ok((first, found)) }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs::OpenOptions;
    use std::io::Write as _;

    use super::*;

    pub(in super::super) fn append(path: &Path, text: &str) {
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// As the daemon does it, keeping three.
    pub(in super::super) fn rotate(path: &Path) {
        for number in (0..3).rev() {
            let _ = std::fs::rename(backup(path, number), backup(path, number + 1));
        }
        append(path, "");
    }

    pub(in super::super) fn opener(path: &Path) -> io::Result<File> {
        File::open(path)
    }

    fn open(path: &Path, lines: u32) -> Log {
        Log::open(path, lines, opener).unwrap()
    }

    fn all(log: &mut Log) -> (String, bool) {
        let (mut text, mut lost) = (Vec::new(), false);
        loop {
            let found = log.read(7).unwrap();
            lost |= found.lost;
            if found.data.is_empty() && !found.more {
                return (String::from_utf8(text).unwrap(), lost);
            }
            text.extend(found.data);
        }
    }

    fn log(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        append(&path, text);
        (folder, path)
    }

    #[test]
    fn a_log_begins_with_its_last_lines() {
        let (_folder, path) = log("one\ntwo\nthree\n");
        for (lines, text) in [(0, ""), (1, "three\n"), (2, "two\nthree\n"), (9, "one\ntwo\nthree\n")] {
            assert_eq!(all(&mut open(&path, lines)).0, text, "{lines}");
        }
        append(&path, "four");
        assert_eq!(all(&mut open(&path, 2)).0, "three\nfour");
        append(&path, &"x".repeat(200_000));
        assert_eq!(all(&mut open(&path, 1)).0.len(), 200_004);
    }

    #[test]
    fn the_last_lines_may_have_been_rotated_away() {
        let (_folder, path) = log("one\ntwo\n");
        for text in ["three\n", "four\nfive\n", ""] {
            rotate(&path);
            append(&path, text);
        }
        for (lines, text) in [(1, "five\n"), (2, "four\nfive\n"), (4, "two\nthree\nfour\nfive\n")] {
            assert_eq!(all(&mut open(&path, lines)).0, text, "{lines}");
        }
    }

    #[test]
    fn nothing_is_missed_through_several_rotations_at_once() {
        let (_folder, path) = log("1 ");
        let mut log = open(&path, 9);
        append(&path, "2 ");
        for text in ["3 ", "4 ", "5 "] {
            rotate(&path);
            append(&path, text);
        }
        assert_eq!(all(&mut log), ("1 2 3 4 5 ".to_owned(), false));
        let place = log.place().unwrap();
        append(&path, "6 ");
        rotate(&path);
        append(&path, "7 ");
        let (mut log, lost) = Log::resume(&path, &place, opener).unwrap();
        assert_eq!((all(&mut log).0.as_str(), lost), ("6 7 ", false));
    }

    #[test]
    fn one_who_keeps_up_without_reading_loses_no_file() {
        let (_folder, path) = log("0 ");
        let mut log = open(&path, 9);
        for number in 1..=9 {
            rotate(&path);
            append(&path, &format!("{number} "));
            assert_eq!(log.read(0).unwrap(), Found::default());
        }
        assert_eq!(all(&mut log), ("0 1 2 3 4 5 6 7 8 9 ".to_owned(), false));
    }

    #[test]
    fn what_was_rotated_away_is_said_to_be_lost() {
        let (_folder, path) = log("0 ");
        let mut log = open(&path, 9);
        let place = log.place().unwrap();
        for number in 1..=5 {
            rotate(&path);
            append(&path, &format!("{number} "));
        }
        assert_eq!(all(&mut log), ("0 2 3 4 5 ".to_owned(), true));
        let (mut log, lost) = Log::resume(&path, &place, opener).unwrap();
        assert_eq!((all(&mut log).0.as_str(), lost), ("2 3 4 5 ", true));
    }

    #[test]
    fn a_log_that_is_removed_and_made_anew_does_not_repeat_its_backups() {
        let (_folder, path) = log("old ");
        rotate(&path);
        // Times of files have the kernel's tick.
        std::thread::sleep(Duration::from_millis(20));
        append(&path, "1 ");
        let mut log = open(&path, 0);
        append(&path, "2 ");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(all(&mut log), ("2 ".to_owned(), false));
        append(&path, "3 ");
        assert_eq!(all(&mut log), ("3 ".to_owned(), false));
    }

    #[test]
    fn a_log_that_was_waited_for_begins_with_its_first_line() {
        let (_folder, path) = log("long before ");
        rotate(&path);
        std::fs::remove_file(&path).unwrap();
        std::thread::sleep(TICK * 2);
        let since = SystemTime::now();
        append(&path, "1 ");
        rotate(&path);
        append(&path, "2 ");
        assert_eq!(all(&mut Log::open_new(&path, since, opener).unwrap()).0, "1 2 ");
    }

    #[test]
    fn one_who_is_too_far_behind_skips_lines_and_counts_them() {
        let (_folder, path) = log("begun ");
        let mut log = open(&path, 0);
        let line = format!("{}\n", "x".repeat(99));
        append(&path, &line.repeat(100_000));
        rotate(&path);
        append(&path, &line.repeat(100_000));
        let (mut skipped, mut read) = (0, 0);
        loop {
            let found = log.read(1000).unwrap();
            skipped += found.skipped;
            assert!(read == 0 || found.skipped == 0, "it skips first");
            read += newlines(&found.data);
            if found.data.is_empty() && !found.more {
                break;
            }
        }
        assert_eq!(skipped + read, 200_000);
        assert!((10_000..11_000).contains(&read), "{read}");
    }

    #[test]
    fn an_emptied_log_is_read_from_its_beginning_and_that_is_said() {
        let (_folder, path) = log("long before\n");
        let mut log = open(&path, 1);
        all(&mut log);
        std::fs::write(&path, "new\n").unwrap();
        assert_eq!(all(&mut log), ("new\n".to_owned(), true));
    }
}
