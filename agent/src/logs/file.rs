//! One log file, rotated by size as Supervisor does: checked after each write, so a file may pass its limit by
//! one write. A disk that is full or gone loses bytes, which are counted and said, and writing goes on when the
//! cause is gone.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    rotation: Rotation,
    /// Bytes that could not be written since the last write that succeeded.
    lost: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rotation {
    /// 0 never rotates.
    pub(super) maxbytes: u64,
    pub(super) backups: u64,
}

impl Rotation {
    /// Of configured numbers; one below 0 means none.
    pub(super) fn new(maxbytes: i64, backups: i64) -> Rotation {
        Rotation { maxbytes: maxbytes.try_into().unwrap_or(0), backups: backups.try_into().unwrap_or(0) }
    }
}

impl LogFile {
    pub(super) fn open(path: &Path, rotation: Rotation) -> io::Result<LogFile> {
        let mut log = LogFile { path: path.to_owned(), file: None, size: 0, rotation, lost: 0 };
        log.reopen()?;
        Ok(log)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the path anew, whatever it is by now.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        let file = OpenOptions::new().append(true).create(true).open(&self.path)?;
        let metadata = file.metadata()?;
        // Only what can be renamed and has a length is rotated: not a terminal, a pipe or a device.
        if !metadata.is_file() {
            self.rotation.maxbytes = 0;
        }
        self.size = metadata.len();
        self.file = Some(file);
        Ok(())
    }

    /// Removes the file and begins a new one; a target that is no regular file is left alone.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        if self.path.is_file() {
            std::fs::remove_file(&self.path)?;
        }
        self.reopen()
    }

    /// Writes all of `bytes`, then rotates if it is time. A remark for the daemon's log comes back when
    /// writing begins to fail, and when it goes on.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Option<String> {
        match self.try_write(bytes) {
            Ok(()) => {
                let lost = std::mem::take(&mut self.lost);
                (lost > 0).then(|| format!("log {} is written again; {lost} bytes were lost", self.shown()))
            }
            Err(error) => {
                let first = self.lost == 0;
                self.lost += bytes.len() as u64;
                first.then(|| format!("cannot write log {}: {error}", self.shown()))
            }
        }
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            self.reopen()?;
        }
        if let Some(file) = &mut self.file {
            file.write_all(bytes)?;
        }
        self.size += bytes.len() as u64;
        if self.rotation.maxbytes > 0 && self.size >= self.rotation.maxbytes {
            self.rotate_if_full()?;
        }
        Ok(())
    }

    fn rotate_if_full(&mut self) -> io::Result<()> {
        // Somebody may have truncated the file: what counts is where the write ended.
        if let Some(file) = &mut self.file {
            self.size = file.stream_position()?;
        }
        if self.size < self.rotation.maxbytes {
            return Ok(());
        }
        self.file = None;
        if self.rotation.backups == 0 {
            std::fs::remove_file(&self.path)?;
        } else {
            for number in (1..self.rotation.backups).rev() {
                rename_if_there(&self.backup(number), &self.backup(number + 1))?;
            }
            rename_if_there(&self.path, &self.backup(1))?;
        }
        self.reopen()
    }

    fn backup(&self, number: u64) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }

    fn shown(&self) -> std::path::Display<'_> {
        self.path.display()
    }
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(path: PathBuf) -> Vec<u8> {
        std::fs::read(path).unwrap_or_default()
    }

    #[test]
    fn backups_move_up_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = LogFile::open(&path, Rotation { maxbytes: 3, backups: 2 }).unwrap();
        for chunk in [b"aaa", b"bbb", b"ccc"] {
            assert_eq!(log.write(chunk), None);
        }
        log.write(b"d");
        assert_eq!(read(path.clone()), b"d");
        assert_eq!(read(log.backup(1)), b"ccc");
        assert_eq!(read(log.backup(2)), b"bbb");
        assert!(!log.backup(3).exists());
    }

    #[test]
    fn what_can_not_be_written_is_counted_and_said_once() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let mut log = LogFile::open(&inner.join("log"), Rotation { maxbytes: 2, backups: 0 }).unwrap();
        std::fs::remove_dir_all(&inner).unwrap();
        assert!(log.write(b"abc").unwrap().starts_with("cannot write log "));
        assert_eq!(log.write(b"abc"), None);
        std::fs::create_dir(&inner).unwrap();
        assert!(log.write(b"d").unwrap().ends_with("6 bytes were lost"));
    }

    #[test]
    fn a_device_is_never_rotated() {
        let mut log = LogFile::open(Path::new("/dev/null"), Rotation { maxbytes: 1, backups: 1 }).unwrap();
        assert_eq!(log.write(b"abc"), None);
        assert!(!Path::new("/dev/null.1").exists());
    }

    proptest! {
        #[test]
        fn with_enough_backups_every_byte_is_there_once_and_in_order(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 1..40),
            maxbytes in 1u64..30,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("log");
            let mut log = LogFile::open(&path, Rotation { maxbytes, backups: 100 }).unwrap();
            for chunk in &chunks {
                log.write(chunk);
            }
            let mut found = Vec::new();
            for number in (1..=100).rev() {
                found.extend(read(log.backup(number)));
            }
            found.extend(read(path));
            prop_assert_eq!(found, chunks.concat());
        }
    }
}
