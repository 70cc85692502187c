//! What is written to a program's stdin: at once if the pipe takes it, else in order as the program reads. What
//! an event listener is sent goes through a file in memory that the keeper holds too: bytes move from there into
//! the pipe in one step with the file's offset, so that a successor knows to the byte what the listener has got.

use std::fs::File;
use std::io::{self, Seek as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, SpliceFFlags, fallocate, splice};
use nix::sys::memfd::{MFdFlags, memfd_create};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

/// A program that does not read is not sent more than this, in bytes.
const MOST_WAITING: usize = 4 << 20;
/// Memory of bytes that have gone is given back in pieces of this size: a multiple of every page size.
const PIECE: u64 = 1 << 20;

#[derive(Debug)]
pub(crate) enum Stdin {
    Plain(Plain),
    Spooled(Arc<Spooled>),
}

impl Stdin {
    /// With the spool of an event listener.
    pub(crate) fn new(pipe: OwnedFd, spool: Option<Spool>) -> io::Result<Stdin> {
        Ok(match spool {
            None => Stdin::Plain(Plain {
                pipe: Arc::new(pipe::Sender::from_owned_fd(pipe)?),
                waiting: Arc::default(),
                rest: None,
            }),
            Some(spool) => {
                #[expect(deprecated, reason = "sound for an OwnedFd, which closes nothing behind its back")]
                let pipe = AsyncFd::with_interest(pipe, Interest::WRITABLE)?;
                Stdin::Spooled(Arc::new(Spooled { pipe, spool: Mutex::new(spool) }))
            }
        })
    }

    /// Fails with `BrokenPipe` when the program has closed its end, with `OutOfMemory` when too much waits.
    pub(crate) fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            Stdin::Plain(plain) => plain.write(data),
            Stdin::Spooled(spooled) => Spooled::write(spooled, data),
        }
    }
}

/// What a listener is to be sent: all of it so far but what was given back, and the file's offset is how much
/// of it has gone into the pipe.
#[derive(Debug)]
pub(crate) struct Spool {
    file: File,
    end: u64,
    given_back: u64,
    /// A task waits for the pipe.
    waits: bool,
}

impl Spool {
    pub(crate) fn new() -> io::Result<Spool> {
        let file = File::from(memfd_create("stdin", MFdFlags::MFD_CLOEXEC)?);
        Ok(Spool { file, end: 0, given_back: 0, waits: false })
    }

    /// As an agent that has died has left it.
    pub(crate) fn restore(descriptor: OwnedFd) -> io::Result<Spool> {
        let file = File::from(descriptor);
        let end = file.metadata()?.len();
        Ok(Spool { file, end, given_back: 0, waits: false })
    }

    /// The same file, for the stash.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// Bytes that were put in so far.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    fn put(&mut self, data: &[u8]) -> io::Result<()> {
        let gone = self.file.stream_position()?;
        if self.end - gone + data.len() as u64 > MOST_WAITING as u64 {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.file.write_all_at(data, self.end)?;
        self.end += data.len() as u64;
        Ok(())
    }

    /// Moves what the pipe takes; `WouldBlock` where that is not all.
    fn push(&mut self, pipe: &OwnedFd) -> io::Result<()> {
        loop {
            let gone = self.file.stream_position()?;
            let left = usize::try_from(self.end - gone).unwrap_or(usize::MAX);
            if left == 0 {
                self.give_back(gone);
                return Ok(());
            }
            match splice(&self.file, None, pipe, None, left, SpliceFFlags::SPLICE_F_NONBLOCK) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn give_back(&mut self, gone: u64) {
        let whole = gone - gone % PIECE;
        if whole > self.given_back {
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            let (from, length) = (self.given_back as i64, (whole - self.given_back) as i64);
            if fallocate(&self.file, flags, from, length).is_ok() {
                self.given_back = whole;
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Spooled {
    pipe: AsyncFd<OwnedFd>,
    spool: Mutex<Spool>,
}

impl Spooled {
    fn write(self: &Arc<Spooled>, data: &[u8]) -> io::Result<()> {
        let mut spool = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
        spool.put(data)?;
        if spool.waits {
            return Ok(());
        }
        match spool.push(self.pipe.get_ref()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                spool.waits = true;
                tokio::spawn(Arc::clone(self).push_all());
                Ok(())
            }
            pushed => pushed,
        }
    }

    async fn push_all(self: Arc<Spooled>) {
        while let Ok(mut ready) = self.pipe.writable().await {
            let pushed = ready.try_io(|pipe| {
                let mut spool = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
                let pushed = spool.push(pipe.get_ref());
                spool.waits = pushed.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
                pushed
            });
            if pushed.is_ok() {
                return;
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Plain {
    pipe: Arc<pipe::Sender>,
    waiting: Arc<AtomicUsize>,
    rest: Option<mpsc::UnboundedSender<Vec<u8>>>,
}

impl Plain {
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        if self.waiting.load(Ordering::Acquire) > 0 {
            return self.wait(data);
        }
        let mut left = data;
        while !left.is_empty() {
            // Past the runtime, which learns late that a pipe can be written to.
            match nix::unistd::write(&*self.pipe, left) {
                Ok(count) => left = &left[count..],
                Err(Errno::EAGAIN) => return self.wait(left),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn wait(&mut self, data: &[u8]) -> io::Result<()> {
        if self.waiting.load(Ordering::Acquire) + data.len() > MOST_WAITING {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.waiting.fetch_add(data.len(), Ordering::AcqRel);
        let rest = self.rest.get_or_insert_with(|| {
            let (rest, coming) = mpsc::unbounded_channel();
            tokio::spawn(write_all(Arc::clone(&self.pipe), Arc::clone(&self.waiting), coming));
            rest
        });
        rest.send(data.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

async fn write_all(
    pipe: Arc<pipe::Sender>,
    waiting: Arc<AtomicUsize>,
    mut coming: mpsc::UnboundedReceiver<Vec<u8>>,
) {
    while let Some(data) = coming.recv().await {
        let mut left = data.as_slice();
        while !left.is_empty() {
            match pipe.try_write(left) {
                Ok(count) => left = &left[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if pipe.writable().await.is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
        waiting.fetch_sub(data.len(), Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use nix::fcntl::OFlag;
    use nix::unistd::pipe2;

    use super::*;

    #[tokio::test]
    async fn a_successor_goes_on_to_the_byte() {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        let spool = Spool::new().unwrap();
        let left = spool.descriptor().unwrap();
        let mut stdin = Stdin::new(write.try_clone().unwrap(), Some(spool)).unwrap();
        let text: Vec<u8> = (0..3_000_000u32).flat_map(|number| number.to_le_bytes()[..1].to_vec()).collect();
        for chunk in text.chunks(100_000) {
            stdin.write(chunk).unwrap();
        }
        drop(stdin);
        // What the task of the one before would have written, the next one writes.
        let spool = Spool::restore(left).unwrap();
        assert_eq!(spool.end(), text.len() as u64);
        let mut stdin = Stdin::new(write, Some(spool)).unwrap();
        stdin.write(b"more").unwrap();
        let reader = tokio::task::spawn_blocking(move || {
            let mut found = Vec::new();
            let mut file = File::from(read);
            while found.len() < 3_000_004 {
                let mut chunk = [0; 70_000];
                match file.read(&mut chunk) {
                    Ok(count) => found.extend_from_slice(&chunk[..count]),
                    Err(_) => std::thread::yield_now(),
                }
            }
            found
        });
        let found = reader.await.unwrap();
        assert!(found == [&text[..], b"more"].concat());
    }
}
