//! Rotation by size: a log's backups, `.1` the newest, move up by one and the log becomes `.1`. Interrupted
//! anywhere, it leaves a hole among the backups and nothing else, and the next one fills that hole.

use std::io;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rotation {
    /// 0 never rotates.
    pub(super) maxbytes: u64,
    pub(super) backups: u64,
}

impl Rotation {
    pub(super) const NEVER: Rotation = Rotation { maxbytes: 0, backups: 0 };

    /// Of configured numbers; one below 0 means none.
    pub(super) fn new(maxbytes: i64, backups: i64) -> Rotation {
        Rotation { maxbytes: maxbytes.try_into().unwrap_or(0), backups: backups.try_into().unwrap_or(0) }
    }

    pub(super) fn is_due(self, size: u64) -> bool {
        self.maxbytes > 0 && size >= self.maxbytes
    }
}

/// Gives the log's name free. Only what is below the first hole moves: a backup that has been removed, or an
/// interrupted rotation, costs no older one.
pub(super) fn shift(path: &Path, backups: u64) -> io::Result<()> {
    let is_free = |number: &u64| backup(path, *number).symlink_metadata().is_err();
    let top = (1..=backups).find(is_free).unwrap_or(backups);
    for number in (1..top).rev() {
        rename_if_there(&backup(path, number), &backup(path, number + 1))?;
    }
    rename_if_there(path, &backup(path, 1))
}

pub(super) fn backup(path: &Path, number: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(path: &Path) -> Vec<(u64, String)> {
        let read = |number| std::fs::read_to_string(backup(path, number)).ok();
        (1..9).filter_map(|number| Some((number, read(number)?))).collect()
    }

    #[test]
    fn backups_move_up_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        for round in ["a", "b", "c"] {
            std::fs::write(&path, round).unwrap();
            shift(&path, 2).unwrap();
        }
        assert!(!path.exists());
        assert_eq!(content(&path), [(1, "c".into()), (2, "b".into())]);
    }

    #[test]
    fn a_hole_is_filled_before_anything_older_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        for (number, text) in [(1, "new"), (3, "old"), (4, "oldest")] {
            std::fs::write(backup(&path, number), text).unwrap();
        }
        std::fs::write(&path, "log").unwrap();
        shift(&path, 4).unwrap();
        let expected = [(1, "log"), (2, "new"), (3, "old"), (4, "oldest")];
        assert_eq!(content(&path), expected.map(|(number, text)| (number, text.to_owned())));
    }

    #[test]
    fn what_is_gone_already_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        shift(&folder.path().join("log"), 3).unwrap();
    }
}
