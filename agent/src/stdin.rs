//! What is written to a program's stdin: at once if the pipe takes it, else in order as the program reads.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::unix::pipe;
use tokio::sync::mpsc;

/// A program that does not read is not sent more than this, in bytes.
const MOST_WAITING: usize = 4 << 20;

#[derive(Debug)]
pub(crate) struct Stdin {
    pipe: Arc<pipe::Sender>,
    waiting: Arc<AtomicUsize>,
    rest: Option<mpsc::UnboundedSender<Vec<u8>>>,
}

impl Stdin {
    pub(crate) fn new(pipe: OwnedFd) -> io::Result<Stdin> {
        let pipe = Arc::new(pipe::Sender::from_owned_fd(pipe)?);
        Ok(Stdin { pipe, waiting: Arc::default(), rest: None })
    }

    /// Fails with `BrokenPipe` when the program has closed its end, with `OutOfMemory` when too much waits.
    pub(crate) fn write(&mut self, data: &[u8]) -> io::Result<()> {
        if self.waiting.load(Ordering::Acquire) > 0 {
            return self.wait(data);
        }
        let mut left = data;
        while !left.is_empty() {
            // Past the runtime, which learns late that a pipe can be written to.
            match nix::unistd::write(&*self.pipe, left) {
                Ok(count) => left = &left[count..],
                Err(nix::errno::Errno::EAGAIN) => return self.wait(left),
                Err(nix::errno::Errno::EINTR) => {}
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
