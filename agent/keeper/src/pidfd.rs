//! Descriptors of processes: each means one process for ever, and is readable once that has ended. For programs
//! that are nobody's children here.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;

/// Of a process that is known not to have been waited for.
pub(crate) fn open(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: takes numbers and touches no memory.
    let descriptor = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: it was just opened, close-on-exec, and is nobody's.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) })
}

/// ESRCH where the process has been waited for.
pub(crate) fn signal(pidfd: &OwnedFd, signo: i32) -> Result<(), Errno> {
    let info = ptr::null::<libc::siginfo_t>();
    // SAFETY: without a siginfo it takes numbers and touches no memory.
    Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signo, info, 0) })
        .map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process::Command;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn has_ended(pidfd: &OwnedFd) -> bool {
        let mut watched = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        poll(&mut watched, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    #[test]
    fn a_process_is_signalled_and_its_end_is_seen() {
        let mut child = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let pidfd = open(child.id() as i32).unwrap();
        assert!(!has_ended(&pidfd));
        signal(&pidfd, libc::SIGKILL).unwrap();
        child.wait().unwrap();
        assert!(has_ended(&pidfd));
        assert_eq!(signal(&pidfd, libc::SIGKILL), Err(Errno::ESRCH));
    }
}
