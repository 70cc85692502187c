//! What all pumps use: ways to look into a pipe, to empty it, and to make it larger. None of it knows logs.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice, tee};
use nix::unistd::{pipe2, read};

/// Taken from a pipe at once; Supervisor's own chunk, which decides where a log is rotated.
pub(super) const CHUNK: usize = 128 << 10;
/// What a pipe is enlarged to: the most that an ordinary user may have.
const LARGE: usize = 1 << 20;
/// Of all pipes that were enlarged. Half of what the kernel lets an ordinary user have in pipes: beyond it every
/// new pipe of that user would be a tiny one.
const LARGE_TOGETHER: usize = 32 << 20;
/// A pipe's capacity where the kernel doesn't say.
const USUAL: usize = 64 << 10;

/// What a look into a pipe, or a move out of it, came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    Bytes(usize),
    /// Nothing now.
    Empty,
    /// Nothing ever again: nobody can write to it.
    Ended,
    /// There is something, and its target takes nothing now.
    Blocked,
}

#[derive(Debug)]
pub(super) struct Tools {
    /// What was looked at.
    pub(super) buffer: Vec<u8>,
    null: File,
    /// A pipe that is empty between two calls.
    scratch: (OwnedFd, OwnedFd),
    /// Its capacity: the most that can be seen of another.
    pub(super) sees: usize,
    /// What pipes were enlarged to, in all threads.
    enlarged: Arc<AtomicUsize>,
}

impl Tools {
    pub(super) fn new(enlarged: Arc<AtomicUsize>) -> io::Result<Tools> {
        let scratch = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // Refused to a user who has many pipes: then less is looked at in one go.
        let _ = fcntl(&scratch.0, FcntlArg::F_SETPIPE_SZ(LARGE as i32));
        let null = OpenOptions::new().write(true).open("/dev/null")?;
        let sees = capacity(scratch.0.as_fd());
        Ok(Tools { buffer: vec![0; CHUNK], null, scratch, sees, enlarged })
    }

    /// Copies up to a chunk into the buffer and leaves the pipe as it is.
    pub(super) fn peek(&mut self, pipe: BorrowedFd<'_>) -> Result<Moved, Errno> {
        let count = match tee(pipe, &self.scratch.1, CHUNK, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Ok(0) => return Ok(Moved::Ended),
            Ok(count) => count,
            Err(Errno::EAGAIN) => return Ok(Moved::Empty),
            Err(errno) => return Err(errno),
        };
        let mut got = 0;
        while got < count {
            match read(&self.scratch.0, &mut self.buffer[got..count])? {
                0 => return Err(Errno::EIO),
                more => got += more,
            }
        }
        Ok(Moved::Bytes(count))
    }

    /// How much is in a pipe, as far as it can be seen.
    pub(super) fn fill(&self, pipe: BorrowedFd<'_>) -> usize {
        let count = tee(pipe, &self.scratch.1, LARGE, SpliceFFlags::SPLICE_F_NONBLOCK).unwrap_or(0);
        self.throw_away(&self.scratch.0, count);
        count
    }

    /// Takes so many bytes out of a pipe, if there are as many, and gives how many it were.
    pub(super) fn throw_away(&self, pipe: impl AsFd, count: usize) -> usize {
        let mut gone = 0;
        while gone < count {
            let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
            match splice(pipe.as_fd(), None, &self.null, None, count - gone, flags) {
                Ok(0) | Err(_) => break,
                Ok(some) => gone += some,
            }
        }
        gone
    }

    /// Up to a chunk of a pipe to nowhere.
    pub(super) fn move_to_nowhere(&self, pipe: BorrowedFd<'_>) -> Result<Moved, Errno> {
        match splice(pipe, None, &self.null, None, CHUNK, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Ok(0) => Ok(Moved::Ended),
            Ok(count) => Ok(Moved::Bytes(count)),
            Err(Errno::EAGAIN) => Ok(Moved::Empty),
            Err(errno) => Err(errno),
        }
    }

    /// A pipe that is filled faster than it is emptied gets larger, so that it is emptied less often and its
    /// writer waits less. Its capacity is returned, whatever it is by then.
    pub(super) fn enlarge(&mut self, pipe: BorrowedFd<'_>, capacity: usize) -> usize {
        if capacity >= LARGE {
            return capacity;
        }
        if self.enlarged.fetch_add(LARGE, Ordering::Relaxed) + LARGE > LARGE_TOGETHER
            || fcntl(pipe, FcntlArg::F_SETPIPE_SZ(LARGE as i32)).is_err()
        {
            self.enlarged.fetch_sub(LARGE, Ordering::Relaxed);
            return capacity;
        }
        LARGE
    }

    /// A pipe of this capacity is closed.
    pub(super) fn closed(&mut self, capacity: usize) {
        if capacity >= LARGE {
            self.enlarged.fetch_sub(LARGE, Ordering::Relaxed);
        }
    }

    /// A pipe's capacity; one that an earlier agent made larger is counted here.
    pub(super) fn opened(&mut self, pipe: BorrowedFd<'_>) -> usize {
        let capacity = capacity(pipe);
        if capacity >= LARGE {
            self.enlarged.fetch_add(LARGE, Ordering::Relaxed);
        }
        capacity
    }
}

fn capacity(pipe: BorrowedFd<'_>) -> usize {
    let size = fcntl(pipe, FcntlArg::F_GETPIPE_SZ).ok();
    size.and_then(|size| usize::try_from(size).ok()).unwrap_or(USUAL)
}

#[cfg(test)]
mod tests {
    use nix::unistd::write;

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap()
    }

    #[test]
    fn a_look_leaves_the_pipe_as_it_is() {
        let mut tools = Tools::new(Arc::default()).unwrap();
        let (ours, theirs) = pair();
        assert_eq!(tools.peek(ours.as_fd()), Ok(Moved::Empty));
        write(&theirs, b"one two").unwrap();
        for _ in 0..2 {
            assert_eq!(tools.peek(ours.as_fd()), Ok(Moved::Bytes(7)));
            assert_eq!(&tools.buffer[..7], b"one two");
            assert_eq!(tools.fill(ours.as_fd()), 7);
        }
        assert_eq!(tools.throw_away(&ours, 4), 4);
        assert_eq!(tools.peek(ours.as_fd()), Ok(Moved::Bytes(3)));
        assert_eq!(&tools.buffer[..3], b"two");
        assert_eq!(tools.move_to_nowhere(ours.as_fd()), Ok(Moved::Bytes(3)));
        drop(theirs);
        assert_eq!(tools.peek(ours.as_fd()), Ok(Moved::Ended));
        assert_eq!(tools.move_to_nowhere(ours.as_fd()), Ok(Moved::Ended));
    }

    #[test]
    fn only_so_much_memory_goes_into_large_pipes() {
        let mut tools = Tools::new(Arc::default()).unwrap();
        let pipes: Vec<_> = (0..40).map(|_| pair()).collect();
        let capacities: Vec<usize> =
            pipes.iter().map(|(ours, _)| tools.enlarge(ours.as_fd(), USUAL)).collect();
        let large = capacities.iter().filter(|capacity| **capacity == LARGE).count();
        assert!(large * LARGE <= LARGE_TOGETHER, "{large}");
        for capacity in capacities {
            tools.closed(capacity);
        }
        assert_eq!(tools.enlarged.load(Ordering::Relaxed), 0);
    }
}
