//! Lines from standard input, read so that waiting for one can be given up without losing a byte. Editing,
//! history and completion are the shell's.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::oneshot;

/// Longest line that is taken; the rest of a longer one is the next.
const MAX_LINE: usize = 1 << 20;

/// What has been read and not been asked for yet.
#[derive(Debug, Default)]
pub(super) struct Input {
    pending: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Without its line end.
    Text(String),
    End,
    GivenUp,
}

impl Input {
    /// The next line. Returns [`Line::GivenUp`] as soon as the other end of `give_up` is dropped.
    fn read(&mut self, give_up: BorrowedFd<'_>) -> io::Result<Line> {
        let stdin = io::stdin();
        loop {
            if let Some(line) = self.take_line() {
                return Ok(line);
            }
            let mut waiting =
                [PollFd::new(stdin.as_fd(), PollFlags::POLLIN), PollFd::new(give_up, PollFlags::POLLIN)];
            match poll(&mut waiting, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let ready = |at: usize| waiting[at].any().unwrap_or(false);
            if ready(1) {
                return Ok(Line::GivenUp);
            }
            if !ready(0) {
                continue;
            }
            let mut chunk = [0; 8192];
            match nix::unistd::read(stdin.as_fd(), &mut chunk) {
                Ok(0) if self.pending.is_empty() => return Ok(Line::End),
                Ok(0) => return Ok(text(std::mem::take(&mut self.pending))),
                Ok(read) => self.pending.extend_from_slice(&chunk[..read]),
                Err(nix::errno::Errno::EINTR | nix::errno::Errno::EAGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn take_line(&mut self) -> Option<Line> {
        match self.pending.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                let rest = self.pending.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.pending, rest);
                line.pop();
                Some(text(line))
            }
            None if self.pending.len() >= MAX_LINE => Some(text(std::mem::take(&mut self.pending))),
            None => None,
        }
    }
}

fn text(bytes: Vec<u8>) -> Line {
    Line::Text(String::from_utf8_lossy(&bytes).into_owned())
}

/// A line that is being waited for, in a thread of its own.
pub(super) struct Awaited(State);

enum State {
    Waiting { done: oneshot::Receiver<(Input, io::Result<Line>)>, give_up: PipeWriter },
    Done(Input),
}

impl Awaited {
    pub(super) fn start(mut input: Input) -> io::Result<Awaited> {
        let (given_up, give_up): (PipeReader, PipeWriter) = io::pipe()?;
        let (tell, done) = oneshot::channel();
        std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
            let line = input.read(given_up.as_fd());
            // Whoever waited may be gone, and the program with it.
            let _ = tell.send((input, line));
        })?;
        Ok(Awaited(State::Waiting { done, give_up }))
    }

    /// The line; [`Line::End`] when it was given out before. May be cancelled and asked again.
    pub(super) async fn line(&mut self) -> io::Result<Line> {
        let State::Waiting { done, .. } = &mut self.0 else {
            return Ok(Line::End);
        };
        let (input, line) = done.await.unwrap_or_else(|_| (Input::default(), Ok(Line::End)));
        self.0 = State::Done(input);
        line
    }

    /// Goes on to the next line after one was given out; does nothing while one is waited for.
    pub(super) fn again(&mut self) -> io::Result<()> {
        if let State::Done(input) = &mut self.0 {
            *self = Awaited::start(std::mem::take(input))?;
        }
        Ok(())
    }

    /// Stops waiting, and gives the input back: what was read of a line stays for the next.
    pub(super) async fn give_up(self) -> Input {
        match self.0 {
            State::Done(input) => input,
            State::Waiting { done, give_up } => {
                drop(give_up);
                done.await.map(|(input, _)| input).unwrap_or_default()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_at_their_ends_and_at_the_limit() {
        let mut input = Input { pending: b"one\n\ntwo".to_vec() };
        assert_eq!(input.take_line(), Some(Line::Text("one".to_owned())));
        assert_eq!(input.take_line(), Some(Line::Text(String::new())));
        assert_eq!(input.take_line(), None);
        assert_eq!(input.pending, b"two");
        input.pending = vec![b'x'; MAX_LINE];
        assert!(matches!(input.take_line(), Some(Line::Text(text)) if text.len() == MAX_LINE));
    }
}
