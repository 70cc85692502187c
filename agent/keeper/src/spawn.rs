//! From a request to a running program: pipes, fork, and the child's way to `execve`. What goes wrong after the
//! fork the child says itself, on its stderr and in Supervisor's words, and it ends with 127. Keeps no account.

use std::ffi::{CStr, CString};
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{
    ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, fork, pipe2, read, setpgid,
};

use crate::errno_name;
use crate::frame::{Pipes, PrepareStep, Spawn, SpawnStep, SpawnUser};
use crate::oom::OomScore;
use crate::prepare::become_user;
use crate::socket::Gate;

/// Of `argv` and `env` together. The kernel has its own, lower limits on their bytes.
const MAX_STRINGS: usize = 65_536;
const NOT_SPAWNED: i32 = 127;

/// A child that waits until it is known to somebody who outlives a keeper that is killed: nothing is to run that
/// nobody knows of.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pid: Pid,
    pub(crate) pipes: Pipes,
    pub(crate) ends: Vec<Arc<OwnedFd>>,
    pub(crate) gate: Gate,
}

/// A request that was checked, in the form that the child needs.
#[derive(Debug)]
pub(crate) struct Program {
    file: CString,
    argv: Vec<CString>,
    env: Vec<CString>,
    directory: Option<CString>,
    umask: Option<u32>,
    user: SpawnUser,
    redirect_stderr: bool,
    stdin: Option<OwnedFd>,
}

impl Program {
    /// With `stdin` in place of a pipe.
    pub(crate) fn new(spawn: Spawn, stdin: Option<OwnedFd>) -> Result<Program, String> {
        let strings = spawn.argv.len() + spawn.env.len();
        if strings > MAX_STRINGS {
            return Err(format!("{strings} strings of argv and env are over the limit of {MAX_STRINGS}"));
        }
        if spawn.argv.is_empty() {
            return Err("argv is empty".to_owned());
        }
        let string = |bytes| CString::new(bytes).map_err(|error| error.to_string());
        let strings = |list: Vec<Vec<u8>>| list.into_iter().map(string).collect::<Result<_, _>>();
        Ok(Program {
            file: string(spawn.file)?,
            argv: strings(spawn.argv)?,
            env: strings(spawn.env)?,
            directory: spawn.directory.map(string).transpose()?,
            umask: spawn.umask,
            user: spawn.user,
            redirect_stderr: spawn.redirect_stderr,
            stdin,
        })
    }

    pub(crate) fn spawn(mut self, oom: &OomScore) -> Result<Spawned, (SpawnStep, Errno)> {
        let failed = |errno| (SpawnStep::Pipes, errno);
        let mut ends = Vec::with_capacity(3);
        let pipes = Pipes { stdin: self.stdin.is_none(), stderr: !self.redirect_stderr };
        let stdin = match self.stdin.take() {
            Some(passed) => passed,
            None => {
                let (child, ours) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
                ends.push(non_blocking(ours).map_err(failed)?);
                child
            }
        };
        let (ours, stdout) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
        ends.push(non_blocking(ours).map_err(failed)?);
        let stderr = if pipes.stderr {
            let (ours, child) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
            ends.push(non_blocking(ours).map_err(failed)?);
            Some(child)
        } else {
            None
        };
        let (gate, opener) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
        // SAFETY: the keeper has one thread, so the child may do whatever the keeper may.
        match unsafe { fork() }.map_err(|errno| (SpawnStep::Fork, errno))? {
            ForkResult::Child => {
                drop(opener);
                self.run(&gate, &stdin, &stdout, stderr.as_ref().unwrap_or(&stdout), oom)
            }
            ForkResult::Parent { child } => {
                // Also here: a signal to the group must find it, however late the child gets to run.
                let _ = setpgid(child, child);
                Ok(Spawned { pid: child, pipes, ends, gate: Gate(opener) })
            }
        }
    }

    /// The child, in Supervisor's order.
    fn run(&self, gate: &OwnedFd, stdin: &OwnedFd, stdout: &OwnedFd, stderr: &OwnedFd, oom: &OomScore) -> ! {
        let _ = setpgid(Pid::this(), Pid::this());
        reset_signals(&[]);
        // Closed where the keeper was killed. One that was forked later has the other end too until it has passed
        // its own gate, so they go last to first.
        // No handler is set, so no signal comes between.
        if read(gate, &mut [0]) != Ok(1) {
            exit_now(NOT_SPAWNED);
        }
        // Of the descriptors 0 to 2 all are open in the keeper, so none of the three can be one of them.
        let placed = dup2_stdin(stdin).and_then(|()| dup2_stdout(stdout)).and_then(|()| dup2_stderr(stderr));
        close_others();
        oom.restore();
        let message = match placed {
            Ok(()) => self.execute(),
            Err(errno) => format!("couldn't set up stdin, stdout and stderr: {}", name(errno)).into_bytes(),
        };
        let message =
            [&b"supervisor: "[..], &message, b"\nsupervisor: child process was not spawned\n"].concat();
        let _ = io::stderr().write_all(&message);
        exit_now(NOT_SPAWNED)
    }

    /// Comes back only with why it could not.
    fn execute(&self) -> Vec<u8> {
        if let Err((uid, reason)) = self.take_user() {
            return format!("couldn't setuid to {uid}: {reason}").into_bytes();
        }
        let sentence = |what: &str, path: &CStr, errno| {
            [b"couldn't ", what.as_bytes(), b" ", path.to_bytes(), b": ", name(errno).as_bytes()].concat()
        };
        if let Some(directory) = &self.directory
            && let Err(errno) = chdir(directory.as_c_str())
        {
            return sentence("chdir to", directory, errno);
        }
        if let Some(mask) = self.umask {
            umask(Mode::from_bits_truncate(mask));
        }
        let Err(errno) = execve(&self.file, &self.argv, &self.env);
        sentence("exec", &self.argv[0], errno)
    }

    fn take_user(&self) -> Result<(), (u32, String)> {
        match &self.user {
            SpawnUser::Same => Ok(()),
            SpawnUser::Impossible { uid, reason } => Err((*uid, reason.clone())),
            SpawnUser::Become(user) => become_user(user).map_err(|(step, errno)| {
                let reason = match step {
                    PrepareStep::Groups => "Could not set groups of effective user".to_owned(),
                    PrepareStep::Gid => "Could not set group id of effective user".to_owned(),
                    PrepareStep::Uid
                    | PrepareStep::Files
                    | PrepareStep::Processes
                    | PrepareStep::Directory => name(errno),
                };
                (user.uid, reason)
            }),
        }
    }
}

fn name(errno: Errno) -> String {
    errno_name(errno as i32)
}

fn non_blocking(end: OwnedFd) -> Result<Arc<OwnedFd>, Errno> {
    fcntl(&end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(Arc::new(end))
}

/// For a child: every signal has its default meaning, but those to be ignored, and none is blocked. A signal that
/// came since the fork takes effect here; were they unblocked first or not blocked, it could be lost.
pub(crate) fn reset_signals(ignored: &[i32]) {
    // The kernel's sigaction with all fields zero, which is SIG_DFL; larger than any architecture's.
    let default = [0usize; 16];
    for signo in 1..=libc::SIGRTMAX() {
        // SAFETY: `default` outlives the call, and no handler is set. Not by libc's function, which leaves two
        // signals that it uses itself as they are. KILL and STOP are refused and have no other meaning anyway.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signo, default.as_ptr(), 0usize, 8usize) };
    }
    for signo in ignored {
        // SAFETY: sets no handler.
        unsafe { libc::signal(*signo, libc::SIG_IGN) };
    }
    let _ = SigSet::empty().thread_set_mask();
}

/// Closes all but 0 to 2: also what the keeper itself inherited without close-on-exec.
fn close_others() {
    // SAFETY: the child leaves by `execve` or `_exit` and never uses or drops the values that own these.
    if unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) } == 0 {
        return;
    }
    // A kernel before 5.9, or a sandbox that does not know the call.
    let listed = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers = listed.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let numbers: Vec<i32> = numbers.filter(|number| *number > 2).collect();
    for number in numbers {
        // SAFETY: as above.
        unsafe { libc::close(number) };
    }
}

pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: ends the process without the parent's exit handlers, which are not the child's to run.
    unsafe { libc::_exit(status) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Stdin;

    fn request() -> Spawn {
        Spawn {
            id: 1,
            file: b"/bin/true".to_vec(),
            argv: vec![b"true".to_vec()],
            env: Vec::new(),
            directory: None,
            umask: None,
            user: SpawnUser::Same,
            redirect_stderr: false,
            stdin: Stdin::Pipe,
        }
    }

    #[test]
    fn what_execve_could_not_take_is_refused() {
        let refused = |spawn| Program::new(spawn, None).unwrap_err();
        assert!(Program::new(request(), None).is_ok());
        assert_eq!(refused(Spawn { argv: Vec::new(), ..request() }), "argv is empty");
        assert!(refused(Spawn { env: vec![b"A=\0".to_vec()], ..request() }).contains("nul byte"));
        let many = vec![Vec::new(); MAX_STRINGS];
        assert!(refused(Spawn { env: many, ..request() }).contains("over the limit"));
    }
}
