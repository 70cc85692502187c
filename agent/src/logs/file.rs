//! One log file and its end. Bytes come straight from a pipe ([`LogFile::move_in`]: the kernel takes from the
//! pipe exactly what it has written, also where this process is killed in the middle), or from memory
//! ([`LogFile::write`]). After each the file is rotated if it is time, as Supervisor does.
//!
//! The end is asked for before each write, because logs are truncated, moved and deleted by others. A file that
//! somebody else adds to as well is opened for appending, which `splice` can't do.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fleetvisor_core::effect::Instance;
use fleetvisor_core::event::Channel;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::poll::{PollFd, PollFlags, poll};

use super::open;
use super::poller::is_readable;
use super::rotate::{Rotation, shift};
use super::tools::{Moved, Tools};
use super::trouble::Trouble;

/// Until a rotation that failed is tried again.
const ROTATION_PAUSE: Duration = Duration::from_secs(1);
/// How long a line waits for a pipe or a terminal that takes nothing.
const WAIT_MS: u16 = 200;

/// One stream of one run of a program.
pub(super) type Writer = (Instance, Channel);

#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    rotation: Rotation,
    open: Option<Open>,
    /// Who wrote last, where that may have ended within a line: nobody looks at what is spliced.
    open_line: Option<Writer>,
    /// When to rotate again after a rotation has failed.
    not_before: Option<Instant>,
    pub(super) trouble: Trouble,
}

#[derive(Debug)]
struct Open {
    file: File,
    rotation: Rotation,
    /// `None` for what has no end: pipes, terminals, devices.
    end: Option<End>,
    /// Bytes are copied: the target can't be spliced to.
    copies: bool,
}

/// Where in which file the next byte goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct End {
    device: u64,
    inode: u64,
    pub(super) at: u64,
}

/// What came of a write from memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Short {
    pub(super) written: usize,
    pub(super) errno: Errno,
}

impl LogFile {
    pub(super) fn open(path: &Path, rotation: Rotation) -> Result<LogFile, Errno> {
        let mut log = LogFile::closed(path, rotation);
        log.reopen()?;
        Ok(log)
    }

    /// Opened when it is first written to.
    pub(super) fn closed(path: &Path, rotation: Rotation) -> LogFile {
        LogFile {
            path: path.to_owned(),
            rotation,
            open: None,
            open_line: None,
            not_before: None,
            trouble: Trouble::new(path.display().to_string()),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the path anew, whatever it is by now. Where that fails the file that was open stays so.
    pub(super) fn reopen(&mut self) -> Result<(), Errno> {
        self.open = Some(Open::new(&self.path, self.rotation)?);
        Ok(())
    }

    /// Removes the file and begins a new one; a target that is no regular file is left alone.
    pub(super) fn clear(&mut self) -> Result<(), Errno> {
        if self.path.is_file() {
            match std::fs::remove_file(&self.path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => other.map_err(errno)?,
            }
        }
        self.reopen()
    }

    /// A write has failed. Unless room is what was missing, the path is opened anew for the next one.
    pub(super) fn failed(&mut self, errno: Errno) {
        if !matches!(errno, Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG) {
            self.open = None;
        }
        self.trouble.begin(errno);
    }

    /// Where the next byte goes; `None` where there is no such place.
    pub(super) fn end(&mut self) -> Result<Option<End>, Errno> {
        Ok(self.ready()?.end)
    }

    fn ready(&mut self) -> Result<&mut Open, Errno> {
        if let Some(open) = &mut self.open
            && !open.find_end()?
        {
            self.open = None;
        }
        match &mut self.open {
            Some(open) => Ok(open),
            none => Ok(none.insert(Open::new(&self.path, self.rotation)?)),
        }
    }

    /// What this writer puts there next may end within a line.
    pub(super) fn opens_line(&mut self, writer: Writer) {
        self.open_line = Some(writer);
    }

    /// This writer has ended its line, or writes no more.
    pub(super) fn closes_line(&mut self, writer: Writer) {
        self.open_line = self.open_line.filter(|open| *open != writer);
    }

    /// Who is in the middle of a line, if that is somebody else.
    pub(super) fn line_of_another(&mut self, writer: Writer) -> Option<Writer> {
        let another = self.open_line.filter(|open| *open != writer)?;
        // Empty as it was rotated within the line.
        if self.last_byte() == Some(b'\n') {
            self.open_line = None;
        }
        self.open_line.and(Some(another))
    }

    fn last_byte(&self) -> Option<u8> {
        let at = self.open.as_ref()?.end?.at.checked_sub(1)?;
        let mut byte = [0];
        File::open(&self.path).ok()?.read_exact_at(&mut byte, at).ok()?;
        Some(byte[0])
    }

    /// Up to `most` bytes, no more than a chunk, out of a pipe to the end of the file.
    pub(super) fn move_in(
        &mut self,
        pipe: BorrowedFd<'_>,
        most: usize,
        tools: &mut Tools,
    ) -> Result<Moved, Errno> {
        let open = self.ready()?;
        let mut moved = if open.copies { Err(Errno::EINVAL) } else { open.splice_in(pipe, most) };
        if moved == Err(Errno::EINVAL) {
            open.copies = true;
            moved = open.copy_in(pipe, most, tools);
        }
        if matches!(moved, Ok(Moved::Bytes(_))) {
            self.trouble.end();
            self.rotate_if_due();
        }
        moved
    }

    /// All of `bytes`, at the end. A target that takes nothing now is `EAGAIN`. When it has been recorded that
    /// they are written, it is time for [`rotate_if_due`](Self::rotate_if_due).
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Short> {
        let open = self.ready().map_err(|errno| Short { written: 0, errno })?;
        let written = open.write(bytes);
        self.wrote(written)
    }

    fn wrote(&mut self, written: Result<(), Short>) -> Result<(), Short> {
        if written.is_ok() {
            self.trouble.end();
        }
        written
    }

    /// As [`write`](Self::write), but none of them where not all can be written: for whole lines.
    pub(super) fn write_whole(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let open = self.ready()?;
        let before = open.end;
        let mut result = open.write(bytes);
        if let Err(Short { written, errno: Errno::EAGAIN }) = result
            && becomes_writable(&open.file)
        {
            result = open.write(&bytes[written..]);
        }
        if let Err(short) = result {
            if let (Some(end), true) = (before, short.written > 0) {
                // A disk that is full still lets go.
                let _ = open.file.set_len(end.at);
                open.end = before;
            }
            return Err(short.errno);
        }
        self.trouble.end();
        self.rotate_if_due();
        Ok(())
    }

    /// The same bytes again, at the place where an earlier agent has begun to write them. At the end, where that
    /// place is not there any more.
    pub(super) fn write_again(&mut self, bytes: &[u8], place: Option<End>) -> Result<(), Short> {
        if let Ok(open) = self.ready()
            && let (Some(end), Some(place)) = (open.end.as_mut(), place)
            && (end.device, end.inode) == (place.device, place.inode)
            && end.at >= place.at
        {
            end.at = place.at;
            let written = open.write(bytes);
            return self.wrote(written);
        }
        self.write(bytes)
    }

    /// Ends a line that an agent that was killed did not.
    pub(super) fn end_line(&mut self) -> Result<(), Short> {
        if self.ready().is_err() {
            return Ok(());
        }
        if self.last_byte().is_some_and(|byte| byte != b'\n') { self.write(b"\n") } else { Ok(()) }
    }

    /// To be called after each write from memory; otherwise it is done by itself.
    pub(super) fn rotate_if_due(&mut self) {
        let is_due = |open: &Open| open.end.is_some_and(|end| open.rotation.is_due(end.at));
        if !self.open.as_ref().is_some_and(is_due)
            || self.not_before.is_some_and(|time| Instant::now() < time)
        {
            return;
        }
        if self.open_line.is_some() && self.last_byte() == Some(b'\n') {
            self.open_line = None;
        }
        let Some(Open { file, rotation, end: Some(end), .. }) = &mut self.open else { return };
        let result = if rotation.backups == 0 {
            file.set_len(0).map(|()| end.at = 0)
        } else {
            // The new file is made when it is first written to, and no later than this.
            shift(&self.path, rotation.backups).map(|()| self.open = None)
        };
        match result.map_err(errno) {
            Ok(()) => {
                self.not_before = None;
                self.trouble.rotated();
                if let Err(errno) = self.ready().map(drop) {
                    self.trouble.begin(errno);
                }
            }
            Err(errno) => {
                self.not_before = Some(Instant::now() + ROTATION_PAUSE);
                self.trouble.cannot_rotate(errno);
            }
        }
    }
}

impl Open {
    fn new(path: &Path, rotation: Rotation) -> Result<Open, Errno> {
        let opened = open::open(path).map_err(errno)?;
        let metadata = opened.file.metadata().map_err(errno)?;
        let end = metadata.is_file().then(|| End {
            device: metadata.dev(),
            inode: metadata.ino(),
            at: metadata.len(),
        });
        if end.is_some() && opened.is_inherited {
            // The daemon writes to it too, by another descriptor, and must not write over what is added here.
            append_to_inherited((metadata.dev(), metadata.ino()));
        }
        // Only what has a name of its own and a length can be rotated.
        let rotation = if opened.is_inherited { Rotation::NEVER } else { rotation };
        Ok(Open { file: opened.file, rotation, end, copies: false })
    }

    /// False where the file has no name any more.
    fn find_end(&mut self) -> Result<bool, Errno> {
        let Some(end) = &mut self.end else { return Ok(true) };
        let metadata = self.file.metadata().map_err(errno)?;
        if metadata.len() > end.at && !self.copies {
            // Somebody else adds to it.
            fcntl(&self.file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
            self.copies = true;
        }
        end.at = metadata.len();
        Ok(metadata.nlink() > 0)
    }

    fn splice_in(&mut self, pipe: BorrowedFd<'_>, most: usize) -> Result<Moved, Errno> {
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
        let result = match &mut self.end {
            Some(end) => {
                let mut at = end.at.try_into().map_err(|_| Errno::EFBIG)?;
                splice(pipe, None, &self.file, Some(&mut at), most, flags)
                    .inspect(|count| end.at += *count as u64)
            }
            None => splice(pipe, None, &self.file, None, most, flags),
        };
        match result {
            Ok(0) => Ok(Moved::Ended),
            Ok(count) => Ok(Moved::Bytes(count)),
            // It may be the pipe or the target that made it stop.
            Err(Errno::EAGAIN) if self.end.is_none() && is_readable(pipe) => Ok(Moved::Blocked),
            Err(Errno::EAGAIN) => Ok(Moved::Empty),
            Err(errno) => Err(errno),
        }
    }

    /// What is written is taken from the pipe afterwards: killed in between, it is written once more.
    fn copy_in(&mut self, pipe: BorrowedFd<'_>, most: usize, tools: &mut Tools) -> Result<Moved, Errno> {
        let count = match tools.peek(pipe)? {
            Moved::Bytes(count) => count.min(most),
            other => return Ok(other),
        };
        let (written, errno) = match self.write(&tools.buffer[..count]) {
            Ok(()) => (count, None),
            Err(short) => (short.written, Some(short.errno)),
        };
        tools.throw_away(pipe, written);
        match errno {
            Some(Errno::EAGAIN) if written == 0 => Ok(Moved::Blocked),
            Some(errno) if written == 0 => Err(errno),
            Some(_) | None => Ok(Moved::Bytes(written)),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Short> {
        let mut written = 0;
        while written < bytes.len() {
            let rest = &bytes[written..];
            let result = match &self.end {
                Some(end) => self.file.write_at(rest, end.at),
                None => (&self.file).write(rest),
            };
            match result.map_err(errno) {
                Ok(0) => return Err(Short { written, errno: Errno::EIO }),
                Ok(count) => {
                    written += count;
                    if let Some(end) = &mut self.end {
                        end.at += count as u64;
                    }
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Short { written, errno }),
            }
        }
        Ok(())
    }
}

/// Waits a moment for a pipe or a terminal to take something.
fn becomes_writable(target: &File) -> bool {
    let mut watched = [PollFd::new(target.as_fd(), PollFlags::POLLOUT)];
    poll(&mut watched, WAIT_MS).is_ok_and(|count| count > 0)
}

/// stdout and stderr share their position with nobody who opens them by name.
fn append_to_inherited(identity: (u64, u64)) {
    let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
    for descriptor in [stdout.as_fd(), stderr.as_fd()] {
        let found = nix::sys::stat::fstat(descriptor).map(|stat| (stat.st_dev, stat.st_ino));
        if found == Ok(identity)
            && let Ok(flags) = fcntl(descriptor, FcntlArg::F_GETFL)
        {
            let flags = OFlag::from_bits_retain(flags) | OFlag::O_APPEND;
            let _ = fcntl(descriptor, FcntlArg::F_SETFL(flags));
        }
    }
}

pub(super) fn errno(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use nix::unistd::{mkfifo, pipe2};
    use proptest::prelude::*;

    use super::super::rotate::backup;
    use super::*;

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap_or_default()
    }

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap()
    }

    struct Case {
        folder: tempfile::TempDir,
        tools: Tools,
        ours: OwnedFd,
        theirs: OwnedFd,
    }

    impl Case {
        fn new() -> Case {
            let (ours, theirs) = pipe();
            Case {
                folder: tempfile::tempdir().unwrap(),
                tools: Tools::new(Default::default()).unwrap(),
                ours,
                theirs,
            }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("log")
        }

        fn log(&self, rotation: Rotation) -> LogFile {
            LogFile::open(&self.path(), rotation).unwrap()
        }

        fn pass(&mut self, log: &mut LogFile, text: &str) -> Result<Moved, Errno> {
            nix::unistd::write(&self.theirs, text.as_bytes()).unwrap();
            log.move_in(self.ours.as_fd(), 128 << 10, &mut self.tools)
        }
    }

    #[test]
    fn an_empty_pipe_and_one_that_has_ended_are_told_apart() {
        let mut case = Case::new();
        let mut log = case.log(Rotation::NEVER);
        assert_eq!(case.pass(&mut log, "one\n"), Ok(Moved::Bytes(4)));
        assert_eq!(case.pass(&mut log, ""), Ok(Moved::Empty));
        drop(std::mem::replace(&mut case.theirs, pipe().1));
        assert_eq!(log.move_in(case.ours.as_fd(), 1, &mut case.tools), Ok(Moved::Ended));
        assert_eq!(read(&case.path()), "one\n");
    }

    #[test]
    fn without_backups_a_full_log_is_emptied() {
        let mut case = Case::new();
        let mut log = case.log(Rotation { maxbytes: 6, backups: 0 });
        for text in ["one\n", "two\n", "three\n", "x"] {
            case.pass(&mut log, text).unwrap();
        }
        assert_eq!(read(&case.path()), "x");
    }

    #[test]
    fn a_log_that_was_truncated_or_deleted_goes_on_at_its_end() {
        let mut case = Case::new();
        let mut log = case.log(Rotation::NEVER);
        case.pass(&mut log, "a long line\n").unwrap();
        File::create(case.path()).unwrap();
        case.pass(&mut log, "short\n").unwrap();
        assert_eq!(read(&case.path()), "short\n");
        std::fs::remove_file(case.path()).unwrap();
        case.pass(&mut log, "new\n").unwrap();
        assert_eq!(read(&case.path()), "new\n");
    }

    #[test]
    fn what_others_add_is_not_written_over() {
        let mut case = Case::new();
        let mut log = case.log(Rotation::NEVER);
        case.pass(&mut log, "1").unwrap();
        let mut stranger = std::fs::OpenOptions::new().append(true).open(case.path()).unwrap();
        for _ in 0..3 {
            stranger.write_all(b"s").unwrap();
            case.pass(&mut log, "2").unwrap();
        }
        assert!(log.open.as_ref().is_some_and(|open| open.copies));
        assert_eq!(read(&case.path()), "1s2s2s2");
    }

    #[test]
    fn a_folder_that_is_gone_is_an_error_until_it_is_back() {
        let mut case = Case::new();
        let folder = case.folder.path().join("inner");
        std::fs::create_dir(&folder).unwrap();
        let mut log = LogFile::open(&folder.join("log"), Rotation::NEVER).unwrap();
        case.pass(&mut log, "before").unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(case.pass(&mut log, "kept"), Err(Errno::ENOENT));
        std::fs::create_dir(&folder).unwrap();
        assert_eq!(case.pass(&mut log, "!"), Ok(Moved::Bytes(5)));
        assert_eq!(read(&folder.join("log")), "kept!");
    }

    #[test]
    fn a_pipe_takes_what_it_can_and_is_never_rotated() {
        let mut case = Case::new();
        mkfifo(&case.path(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(LogFile::open(&case.path(), Rotation::NEVER).unwrap_err(), Errno::ENXIO);
        let options = &mut std::fs::OpenOptions::new();
        let options = std::os::unix::fs::OpenOptionsExt::custom_flags(options.read(true), 0o4000);
        let mut reader = options.open(case.path()).unwrap();
        let mut log = case.log(Rotation { maxbytes: 1, backups: 1 });
        assert_eq!(case.pass(&mut log, "line\n"), Ok(Moved::Bytes(5)));
        let mut got = [0; 5];
        std::io::Read::read_exact(&mut reader, &mut got).unwrap();
        assert_eq!(&got, b"line\n");
        while case.pass(&mut log, &"x".repeat(32 << 10)) != Ok(Moved::Blocked) {}
        assert!(!backup(&case.path(), 1).exists());
        drop(reader);
        assert_eq!(case.pass(&mut log, "x"), Err(Errno::EPIPE));
    }

    #[test]
    fn a_device_that_is_full_leaves_the_bytes_in_the_pipe() {
        let mut case = Case::new();
        let mut log = LogFile::open(Path::new("/dev/full"), Rotation { maxbytes: 1, backups: 1 }).unwrap();
        for _ in 0..2 {
            assert_eq!(case.pass(&mut log, "abc"), Err(Errno::ENOSPC));
        }
        assert_eq!(case.tools.fill(case.ours.as_fd()), 6);
        assert_eq!(log.write_whole(b"x"), Err(Errno::ENOSPC));
    }

    #[test]
    fn what_is_written_again_takes_the_same_place() {
        let case = Case::new();
        std::fs::write(case.path(), "before|half of it").unwrap();
        let mut log = case.log(Rotation::NEVER);
        let end = log.end().unwrap().unwrap();
        log.write_again(b"half of it|", Some(End { at: 7, ..end })).unwrap();
        assert_eq!(read(&case.path()), "before|half of it|");
        // Another file has the name: nothing of it is there.
        log.write_again(b"all", Some(End { inode: 0, ..end })).unwrap();
        assert_eq!(read(&case.path()), "before|half of it|all");
    }

    #[test]
    fn half_a_line_is_ended() {
        let case = Case::new();
        for (there, expected) in [("", ""), ("line\n", "line\n"), ("li", "li\n")] {
            std::fs::write(case.path(), there).unwrap();
            case.log(Rotation::NEVER).end_line().unwrap();
            assert_eq!(read(&case.path()), expected);
        }
    }

    #[test]
    fn a_rotation_that_fails_is_said_once_and_loses_nothing() {
        let mut case = Case::new();
        std::fs::create_dir_all(backup(&case.path(), 1).join("x")).unwrap();
        let mut log = case.log(Rotation { maxbytes: 2, backups: 1 });
        for text in ["one\n", "two\n", "three\n"] {
            assert!(case.pass(&mut log, text).is_ok());
        }
        assert_eq!(read(&case.path()), "one\ntwo\nthree\n");
        let said = log.trouble.take_said();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].1.starts_with("cannot rotate log "), "{said:?}");
    }

    proptest! {
        #[test]
        fn with_enough_backups_every_byte_is_there_once_and_in_order(
            chunks in prop::collection::vec(("[a-z]{1,19}", any::<bool>()), 1..40),
            maxbytes in 1u64..30,
        ) {
            let mut case = Case::new();
            let mut log = case.log(Rotation { maxbytes, backups: 100 });
            for (chunk, spliced) in &chunks {
                if *spliced {
                    prop_assert_eq!(case.pass(&mut log, chunk), Ok(Moved::Bytes(chunk.len())));
                } else {
                    prop_assert_eq!(log.write(chunk.as_bytes()), Ok(()));
                    log.rotate_if_due();
                }
            }
            let found: String = (1..=100).rev().map(|number| read(&backup(&case.path(), number))).collect();
            let expected: String = chunks.into_iter().map(|(chunk, _)| chunk).collect();
            prop_assert_eq!(found + &read(&case.path()), expected);
        }
    }
}
