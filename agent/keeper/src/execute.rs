//! Other processes of the daemon: the same arguments, with an option in front that says what each is to be, and the
//! descriptors that it is to have.

use std::ffi::{CString, OsString};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{ForkResult, execv, fork};

use crate::keeper::Agent;
use crate::launch::{FAILURE, LaunchError, RELAYED, failed};
use crate::oom::OomScore;
use crate::spawn::{exit_now, reset_signals};

/// What the agent finds in front of its first argument, followed by the number of its end of the link.
pub const ATTACH_OPTION: &str = "--attached-to-keeper=";
/// What a keeper finds there that goes on with another one's programs, followed by the number of its state.
pub const RESUME_OPTION: &str = "--keeper-state=";
/// As [`RESUME_OPTION`], for a process that is only to say by its exit status whether it can read the state.
pub const CHECK_OPTION: &str = "--check-keeper-state=";

pub(crate) fn start_agent(program: &Path, args: &[OsString], oom: &OomScore) -> Result<Agent, LaunchError> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (socket, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)
        .map_err(failed("create the agent's socket"))?;
    let option = format!("{ATTACH_OPTION}{}", theirs.as_raw_fd());
    Ok(Agent { pid: execute(program, args, option, &[theirs.as_raw_fd()], oom)?, socket })
}

/// In a child, whose pid this returns.
pub(crate) fn execute(
    program: &Path,
    args: &[OsString],
    option: String,
    inherited: &[RawFd],
    oom: &OomScore,
) -> Result<i32, LaunchError> {
    let (program, args) = strings(program, args, option)?;
    // SAFETY: there is one thread, so the child may do whatever its parent may.
    match unsafe { fork() }.map_err(failed("fork"))? {
        ForkResult::Parent { child } => Ok(child.as_raw()),
        ForkResult::Child => {
            // Ctrl-C in a terminal and a service manager's TERM reach every process; the agent is to hear of it
            // from the keeper, once. A log that reaches RLIMIT_FSIZE is an error that it deals with, as Python does.
            let ignored: Vec<i32> =
                RELAYED.map(|signal| signal as i32).into_iter().chain([libc::SIGXFSZ]).collect();
            reset_signals(&ignored);
            oom.lower();
            let Err(errno) = leave_open(inherited, true).and_then(|()| execv(&program, &args));
            let _ = writeln!(io::stderr(), "supervisord: cannot execute {program:?}: {}", errno.desc());
            exit_now(FAILURE)
        }
    }
}

/// In this process: its pid, children and blocked signals stay. Comes back only with why it could not.
pub(crate) fn in_place(
    program: &Path,
    args: &[OsString],
    option: String,
    inherited: &[RawFd],
) -> LaunchError {
    let (program, args) = match strings(program, args, option) {
        Ok(strings) => strings,
        Err(error) => return error,
    };
    let Err(errno) = leave_open(inherited, true).and_then(|()| execv(&program, &args));
    let _ = leave_open(inherited, false);
    failed("execute the new keeper")(errno)
}

fn strings(
    program: &Path,
    args: &[OsString],
    option: String,
) -> Result<(CString, Vec<CString>), LaunchError> {
    let mut args = args.to_vec();
    args.insert(args.len().min(1), option.into());
    let string = |bytes: Vec<u8>| CString::new(bytes).map_err(|_| LaunchError::NulInArgument);
    let args = args.into_iter().map(|arg| string(arg.into_vec())).collect::<Result<_, _>>()?;
    Ok((string(program.as_os_str().as_bytes().to_vec())?, args))
}

/// Whether these stay open when a program is executed.
pub(crate) fn leave_open(descriptors: &[RawFd], open: bool) -> Result<(), Errno> {
    let flags = if open { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
    descriptors.iter().try_for_each(|descriptor| {
        // SAFETY: whoever lists them has them open for as long as this runs.
        let descriptor = unsafe { BorrowedFd::borrow_raw(*descriptor) };
        fcntl(descriptor, FcntlArg::F_SETFD(flags)).map(drop)
    })
}
