//! The agent's side of the link to the keeper: non-blocking, for whatever loop the agent has. Knows no runtime
//! and keeps no account of programs.

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use thiserror::Error;

use crate::frame::{Event, FrameError, Pipes, Request, decode, encode};
pub use crate::socket::Flushed;
use crate::socket::{Filled, FrameReader, FrameWriter};

#[derive(Debug, Error)]
pub enum LinkError {
    #[error("descriptor {descriptor} is not the keeper's socket: {}", .errno.desc())]
    NotTheKeeper { descriptor: RawFd, errno: Errno },
    #[error("the keeper has gone")]
    Gone,
    #[error("the link to the keeper failed: {}", .0.desc())]
    Io(Errno),
    /// Of a request: it was not queued, and the link goes on. Of an event: the link can't be trusted any more.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl From<Errno> for LinkError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::EPIPE | Errno::ECONNRESET => LinkError::Gone,
            errno => LinkError::Io(errno),
        }
    }
}

/// Both directions. For epoll and the like, it is readable and writable as its socket is.
#[derive(Debug)]
pub struct KeeperLink {
    reader: LinkReader,
    writer: LinkWriter,
}

#[derive(Debug)]
pub struct LinkReader {
    socket: OwnedFd,
    frames: FrameReader,
}

#[derive(Debug)]
pub struct LinkWriter {
    socket: OwnedFd,
    frames: FrameWriter,
}

impl KeeperLink {
    /// Takes over the descriptor that the keeper named in [`ATTACH_OPTION`](crate::ATTACH_OPTION). To be called
    /// once: the number is the link's from then on.
    pub fn attach(descriptor: RawFd) -> Result<KeeperLink, LinkError> {
        let error = |errno| LinkError::NotTheKeeper { descriptor, errno };
        if descriptor <= 2 {
            return Err(error(Errno::EBADF));
        }
        // SAFETY: the descriptor was inherited for this purpose, and nothing else in the process owns it. One that
        // is not open at all is found out by the first call below and is given up unclosed.
        let socket = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(descriptor) });
        if getsockopt(&*socket, sockopt::SockType).map_err(error)? != SockType::Stream {
            return Err(error(Errno::EPROTOTYPE));
        }
        let socket = std::mem::ManuallyDrop::into_inner(socket);
        fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(error)?;
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(error)?;
        let second = socket.try_clone().map_err(|_| error(Errno::last()))?;
        let writer = LinkWriter { socket: second, frames: FrameWriter::default() };
        Ok(KeeperLink { reader: LinkReader { socket, frames: FrameReader::default() }, writer })
    }

    /// As [`LinkWriter::send`].
    pub fn send(&mut self, request: &Request, descriptors: Vec<OwnedFd>) -> Result<(), LinkError> {
        self.writer.send(request, descriptors.into_iter().map(Arc::new).collect())
    }

    /// As [`LinkWriter::flush`].
    pub fn flush(&mut self) -> Result<Flushed, LinkError> {
        self.writer.flush()
    }

    /// As [`LinkReader::receive`].
    pub fn receive(&mut self) -> Result<Option<(Event, Vec<OwnedFd>)>, LinkError> {
        self.reader.receive()
    }

    /// Halves with a descriptor of their own each, so that both can be watched on their own.
    pub fn split(self) -> (LinkReader, LinkWriter) {
        (self.reader, self.writer)
    }
}

impl LinkWriter {
    /// Queues a request; [`flush`](Self::flush) sends it.
    pub fn send(&mut self, request: &Request, descriptors: Vec<Arc<OwnedFd>>) -> Result<(), LinkError> {
        let frame = encode(request, descriptors.len())?;
        self.frames.push(frame, descriptors);
        Ok(())
    }

    pub fn flush(&mut self) -> Result<Flushed, LinkError> {
        Ok(self.frames.flush(self.socket.as_fd())?)
    }

    /// Requests that are not sent yet.
    pub fn queued(&self) -> usize {
        self.frames.len()
    }
}

impl LinkReader {
    /// The next event, or `None` until the socket is readable again. Fewer descriptors than the event speaks of
    /// come where this process is at its limit of open files.
    pub fn receive(&mut self) -> Result<Option<(Event, Vec<OwnedFd>)>, LinkError> {
        loop {
            if let Some(frame) = self.frames.next()? {
                return Ok(Some((decode(&frame.payload)?, frame.descriptors)));
            }
            match self.frames.fill(self.socket.as_fd())? {
                Filled::Some => {}
                Filled::Blocked => return Ok(None),
                Filled::Closed => return Err(LinkError::Gone),
            }
        }
    }
}

impl AsFd for KeeperLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.socket.as_fd()
    }
}

impl AsFd for LinkReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsFd for LinkWriter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The agent's ends of a program's pipes.
#[derive(Debug)]
pub struct ProgramEnds {
    pub stdin: Option<OwnedFd>,
    pub stdout: OwnedFd,
    pub stderr: Option<OwnedFd>,
}

impl ProgramEnds {
    /// Sorts the descriptors of [`Event::Spawned`] or [`Event::Adopted`]; `None` where some did not arrive.
    pub fn new(pipes: Pipes, descriptors: Vec<OwnedFd>) -> Option<ProgramEnds> {
        let mut descriptors = descriptors.into_iter();
        let stdin = if pipes.stdin { Some(descriptors.next()?) } else { None };
        let stdout = descriptors.next()?;
        let stderr = if pipes.stderr { Some(descriptors.next()?) } else { None };
        Some(ProgramEnds { stdin, stdout, stderr })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_is_no_socket_is_not_attached_to() {
        let file = std::fs::File::open("/dev/null").unwrap().into_raw_fd();
        for descriptor in [-1, 2, 1_000_000, file] {
            assert!(matches!(KeeperLink::attach(descriptor), Err(LinkError::NotTheKeeper { .. })));
        }
    }

    #[test]
    fn a_keeper_that_has_gone_is_told_from_one_that_is_silent() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut link = KeeperLink::attach(ours.into_raw_fd()).unwrap();
        assert!(matches!(link.receive(), Ok(None)));
        drop(theirs);
        assert!(matches!(link.receive(), Err(LinkError::Gone)));
        link.send(&Request::Ready, Vec::new()).unwrap();
        assert!(matches!(link.flush(), Err(LinkError::Gone)));
    }

    #[test]
    fn ends_are_none_where_one_is_missing() {
        let some = |count: usize| -> Vec<OwnedFd> {
            (0..count).map(|_| std::fs::File::open("/dev/null").unwrap().into()).collect()
        };
        let all = Pipes { stdin: true, stderr: true };
        assert!(ProgramEnds::new(all, some(3)).is_some());
        assert!(ProgramEnds::new(all, some(2)).is_none());
        let ends = ProgramEnds::new(Pipes { stdin: false, stderr: false }, some(1)).unwrap();
        assert!(ends.stdin.is_none() && ends.stderr.is_none());
    }
}
