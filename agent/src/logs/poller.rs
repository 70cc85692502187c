//! Waiting for pipes, for commands and for a time, in one place: an epoll instance whose entries fire once and
//! are silent until they are armed again. A pipe that is written to without a pause therefore costs a wake-up
//! when somebody wants to know of it, not one for each write.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

const WAKE: u64 = u64::MAX;
const EVENTS_AT_ONCE: usize = 64;

/// Ends a wait from another thread.
#[derive(Debug)]
pub(super) struct Wake {
    event: EventFd,
    /// Somebody has woken the poller, and it has not looked yet: no need to do it again.
    pending: AtomicBool,
}

impl Wake {
    pub(super) fn wake(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            // It can only fail where the counter is full, and then the poller wakes up anyway.
            let _ = self.event.write(1);
        }
    }
}

#[derive(Debug)]
pub(super) struct Poller {
    epoll: Epoll,
    wake: Arc<Wake>,
}

impl Poller {
    pub(super) fn new() -> Result<Poller, Errno> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&event, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        Ok(Poller { epoll, wake: Arc::new(Wake { event, pending: AtomicBool::new(false) }) })
    }

    pub(super) fn waker(&self) -> Arc<Wake> {
        Arc::clone(&self.wake)
    }

    /// Armed. `token` names the pipe in what [`wait`](Self::wait) gives.
    pub(super) fn add(&self, pipe: BorrowedFd<'_>, token: u64) -> Result<(), Errno> {
        self.epoll.add(pipe, readable_once(token))
    }

    /// Once more.
    pub(super) fn arm(&self, pipe: BorrowedFd<'_>, token: u64) -> Result<(), Errno> {
        self.epoll.modify(pipe, &mut readable_once(token))
    }

    /// To be called before a pipe is closed: others may hold it open, and then it would stay.
    pub(super) fn remove(&self, pipe: BorrowedFd<'_>) {
        // One that was never added.
        let _ = self.epoll.delete(pipe);
    }

    /// Appends the tokens of what is readable, or has ended. Whether somebody called [`Wake::wake`] is returned.
    pub(super) fn wait(&self, limit: Option<Duration>, readable: &mut Vec<u64>) -> bool {
        let mut events = [EpollEvent::empty(); EVENTS_AT_ONCE];
        // An error is an interrupted wait: the turn goes on and finds nothing.
        let count = self.epoll.wait(&mut events, limit.map_or(EpollTimeout::NONE, rounded_up)).unwrap_or(0);
        let mut woken = false;
        for event in &events[..count] {
            match event.data() {
                WAKE => woken = true,
                token => readable.push(token),
            }
        }
        if woken {
            let _ = self.wake.event.read();
            self.wake.pending.store(false, Ordering::Release);
        }
        woken
    }
}

fn readable_once(token: u64) -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, token)
}

/// In whole milliseconds: never earlier than asked for.
fn rounded_up(limit: Duration) -> EpollTimeout {
    EpollTimeout::try_from(limit.saturating_add(Duration::from_micros(999))).unwrap_or(EpollTimeout::MAX)
}

/// Whether a read would give something, or the end.
pub(super) fn is_readable(descriptor: impl AsFd) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut watched = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    poll(&mut watched, PollTimeout::ZERO).is_ok_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use nix::unistd::{pipe, write};

    use super::*;

    #[test]
    fn an_entry_fires_once_until_it_is_armed_again() {
        let poller = Poller::new().unwrap();
        let (ours, theirs) = pipe().unwrap();
        poller.add(ours.as_fd(), 7).unwrap();
        write(&theirs, b"x").unwrap();
        let mut readable = Vec::new();
        poller.wait(None, &mut readable);
        write(&theirs, b"x").unwrap();
        poller.wait(Some(Duration::ZERO), &mut readable);
        assert_eq!(readable, [7]);
        poller.arm(ours.as_fd(), 7).unwrap();
        poller.wait(Some(Duration::ZERO), &mut readable);
        assert_eq!(readable, [7, 7]);
        poller.remove(ours.as_fd());
        assert!(is_readable(&ours));
    }

    #[test]
    fn a_wake_from_another_thread_ends_the_wait() {
        let poller = Poller::new().unwrap();
        let wake = poller.waker();
        let thread = std::thread::spawn(move || (0..3).for_each(|_| wake.wake()));
        assert!(poller.wait(None, &mut Vec::new()));
        thread.join().unwrap();
    }
}
