//! Applies what every later program is to inherit to the keeper itself: user, limits, directory, umask. The
//! values are the agent's; none is looked up here.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, chdir, setgid, setgroups, setuid};

use crate::frame::{Identity, Prepare, PrepareStep};

pub(crate) fn prepare(prepare: &Prepare) -> Result<(), (PrepareStep, Errno)> {
    if let Some(user) = &prepare.user {
        become_user(user)?;
    }
    if let Some(minfds) = prepare.minfds {
        raise(Resource::RLIMIT_NOFILE, minfds).map_err(|errno| (PrepareStep::Files, errno))?;
    }
    if let Some(minprocs) = prepare.minprocs {
        raise(Resource::RLIMIT_NPROC, minprocs).map_err(|errno| (PrepareStep::Processes, errno))?;
    }
    if let Some(directory) = &prepare.directory {
        chdir(OsStr::from_bytes(directory)).map_err(|errno| (PrepareStep::Directory, errno))?;
    }
    if let Some(mask) = prepare.umask {
        umask(Mode::from_bits_truncate(mask));
    }
    Ok(())
}

pub(crate) fn become_user(user: &Identity) -> Result<(), (PrepareStep, Errno)> {
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups).map_err(|errno| (PrepareStep::Groups, errno))?;
    setgid(Gid::from_raw(user.gid)).map_err(|errno| (PrepareStep::Gid, errno))?;
    setuid(Uid::from_raw(user.uid)).map_err(|errno| (PrepareStep::Uid, errno))
}

/// To at least `least`; the hard limit follows where it is lower, which takes privilege.
fn raise(resource: Resource, least: u64) -> Result<(), Errno> {
    let (soft, hard) = getrlimit(resource)?;
    let short = |limit: u64| limit != RLIM_INFINITY && limit < least;
    if !short(soft) {
        return Ok(());
    }
    setrlimit(resource, least, if short(hard) { least } else { hard })
}
