//! Opening a log by its path. A program that may write to the folder of its log could put a link in the log's
//! place, to a file that only the daemon may write: a link is followed only where root or the daemon's own user
//! made it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::readlinkat;
use nix::libc::{O_NOCTTY, O_NOFOLLOW, O_NONBLOCK, O_PATH};
use nix::unistd::geteuid;

/// As the kernel has it.
pub(super) const MOST_LINKS: usize = 40;

#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    /// One of this process's own descriptors, as `/dev/stdout` is.
    pub(super) is_inherited: bool,
}

/// For writing; made if it is not there. Never waits, whatever it is.
pub(super) fn open(path: &Path) -> io::Result<Opened> {
    open_with(path, OpenOptions::new().write(true).create(true))
}

/// A log, or one that was rotated, for reading. What is no regular file is refused.
pub(crate) fn open_for_reading(path: &Path) -> io::Result<File> {
    let Opened { file, .. } = open_with(path, OpenOptions::new().read(true))?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    Ok(file)
}

fn open_with(path: &Path, options: &mut OpenOptions) -> io::Result<Opened> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        if path.starts_with("/proc") {
            let file = options.custom_flags(O_NONBLOCK | O_NOCTTY).open(&path)?;
            return Ok(Opened { file, is_inherited: true });
        }
        match options.custom_flags(O_NONBLOCK | O_NOCTTY | O_NOFOLLOW).open(&path) {
            Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) => path = target_of(&path)?,
            other => return other.map(|file| Opened { file, is_inherited: false }),
        }
    }
    Err(Errno::ELOOP.into())
}

/// The owner is asked of the very link whose target is used: whoever exchanges it meanwhile gains nothing.
fn target_of(link: &Path) -> io::Result<PathBuf> {
    let opened = OpenOptions::new().read(true).custom_flags(O_PATH | O_NOFOLLOW).open(link)?;
    let owner = opened.metadata()?.uid();
    if owner != 0 && owner != geteuid().as_raw() {
        return Err(Errno::ELOOP.into());
    }
    let target = readlinkat(&opened, "")?;
    Ok(link.parent().unwrap_or(Path::new("")).join(target))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_of_the_daemons_own_user_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        symlink("second", &link).unwrap();
        symlink("file", folder.path().join("second")).unwrap();
        assert!(!open(&link).unwrap().is_inherited);
        assert!(folder.path().join("file").exists());
        symlink("/dev/stderr", folder.path().join("stderr")).unwrap();
        assert!(open(&folder.path().join("stderr")).map_or(true, |opened| opened.is_inherited));
    }

    #[test]
    fn only_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(open_for_reading(&fifo).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let missing = open_for_reading(&folder.path().join("no")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_link_that_somebody_else_made_is_not() {
        if !geteuid().is_root() {
            println!("not root: nobody else's link can be made");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (link, file) = (folder.path().join("link"), folder.path().join("file"));
        symlink(&file, &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(1), Some(1)).unwrap();
        assert_eq!(open(&link).unwrap_err().raw_os_error(), Some(Errno::ELOOP as i32));
        assert!(!file.exists());
    }

    #[test]
    fn links_in_a_circle_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        symlink("b", folder.path().join("a")).unwrap();
        symlink("a", folder.path().join("b")).unwrap();
        assert_eq!(open(&folder.path().join("a")).unwrap_err().raw_os_error(), Some(Errno::ELOOP as i32));
    }
}
