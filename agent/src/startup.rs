//! From a valid configuration to a daemon that may begin: user, limits and folder of keeper and agent, the
//! daemon's log, the sockets, the pidfile. What can't be done ends the start with Supervisor's message.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use fleetvisor_core::effect::Instance;
use fleetvisor_core::exit::ExitStatus;
use fleetvisor_keeper::frame::{Identity, Prepare, PrepareStep};
use fleetvisor_keeper::{Event, LinkError, ProgramEnds, Request};
use fleetvisor_model::config::{LogLevel, SupervisordSection, name_to_uid};
use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

use crate::cli::Exit;
use crate::host::FileSystem;
use crate::keeper_link::KeeperLink;
use crate::keeper_link::wording::exit_status;
use crate::logs::Logs;
use crate::program::become_user;
use crate::settings::Settings;

/// What is said in the log once there is one.
#[derive(Debug, Default)]
pub(crate) struct Remarks(Vec<(LogLevel, String)>);

impl Remarks {
    fn add(&mut self, level: LogLevel, line: impl Into<String>) {
        self.0.push((level, line.into()));
    }

    /// In Supervisor's order: what is critical first.
    pub(crate) fn log(mut self, logs: &Logs) {
        self.0.sort_by_key(|(level, _)| *level);
        for (level, line) in self.0 {
            logs.line(level, line);
        }
    }
}

/// What the keeper says first.
#[derive(Debug, Default)]
pub(crate) struct Greeting {
    /// The daemon's, for people and service managers.
    pub(crate) keeper_pid: i32,
    /// Another agent was up before this one.
    pub(crate) ready: bool,
    /// How it ended.
    pub(crate) predecessor: Option<(i32, ExitStatus)>,
    /// Pid of a keeper that was killed, in whose place the keeper is.
    pub(crate) former_keeper: Option<i32>,
    /// What the keeper said while nobody could log it.
    pub(crate) said: Vec<String>,
    pub(crate) programs: BTreeMap<Instance, Program>,
    pub(crate) stash: BTreeMap<String, (Vec<u8>, Vec<OwnedFd>)>,
}

/// A program that another agent has spawned.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) pid: i32,
    /// Those of its pipes; `None` where there was no room for them.
    pub(crate) ends: Option<ProgramEnds>,
    pub(crate) exited: Option<ExitStatus>,
    /// Signals that it has got.
    pub(crate) signals: u64,
}

/// Says hello; the answer is everything that there is already.
pub(crate) async fn greet(keeper: &mut KeeperLink) -> Result<Greeting, LinkError> {
    let versions = fleetvisor_keeper::frame::VERSIONS.to_vec();
    keeper.send(Request::Hello { versions }, Vec::new());
    let mut greeting = Greeting::default();
    let mut coming = None;
    let mut signals = 0;
    while coming != Some(0) {
        let (event, descriptors) = keeper.next().await?;
        match event {
            Event::Hello { version, keeper_pid, ready, adopted, stashed, .. } => {
                keeper.version = version;
                (greeting.keeper_pid, greeting.ready) = (keeper_pid, ready);
                coming = Some(u64::from(adopted) + u64::from(stashed));
                continue;
            }
            Event::Succeeded { pid, exit } => {
                greeting.predecessor = Some((pid, exit_status(exit)));
                continue;
            }
            Event::OomScore { .. } => continue,
            Event::Said { line } => {
                greeting.said.push(line);
                continue;
            }
            Event::Revived { keeper_pid } => {
                greeting.former_keeper = Some(keeper_pid);
                continue;
            }
            Event::Signalled { count, .. } => {
                signals = count;
                continue;
            }
            Event::Adopted { id, pid, pipes, exited } => {
                let ends = ProgramEnds::new(pipes, descriptors);
                let exited = exited.map(|exited| exit_status(exited.exit));
                let signals = std::mem::take(&mut signals);
                greeting.programs.insert(Instance(id), Program { pid, ends, exited, signals });
            }
            Event::Stashed { key, bytes } => {
                greeting.stash.insert(key, (bytes, descriptors));
            }
            Event::Prepared
            | Event::PrepareFailed { .. }
            | Event::Spawned { .. }
            | Event::SpawnFailed { .. }
            | Event::Exited { .. }
            | Event::SignalFailed { .. }
            | Event::Reaped { .. }
            | Event::Relayed { .. }
            | Event::Refused { .. }
            | Event::Renewed { .. } => continue,
        }
        coming = coming.map(|coming| coming - 1);
    }
    Ok(greeting)
}

/// Makes keeper and agent what the configuration says they are. Limits, folder and umask are set at the first
/// start only; a user may also be taken on when the daemon starts over.
pub(crate) async fn prepare(
    settings: &Settings,
    keeper: &mut KeeperLink,
    first: bool,
    remarks: &mut Remarks,
) -> Result<(), Exit> {
    let section = &settings.config.supervisord;
    let fail = |message: String| settings.invocation.usage(&message);
    let user = user(section, remarks).map_err(fail)?;
    if !first && user.is_none() {
        return Ok(());
    }
    let background = first && !section.nodaemon;
    let request = Prepare {
        user: user.clone(),
        minfds: first.then(|| least(section.minfds)),
        minprocs: first.then(|| least(section.minprocs)),
        directory: section.directory.as_deref().filter(|_| background).map(crate::program::path_bytes),
        umask: background.then_some(section.umask),
    };
    let short = [
        (Resource::RLIMIT_NOFILE, "RLIMIT_NOFILE", least(section.minfds)),
        (Resource::RLIMIT_NPROC, "RLIMIT_NPROC", least(section.minprocs)),
    ];
    for (resource, name, least) in short {
        if first && is_short(resource, least) {
            remarks.add(LogLevel::Info, format!("Increased {name} limit to {least}"));
        }
    }
    keeper.send(Request::Prepare(request), Vec::new());
    loop {
        match keeper.next().await {
            Ok((Event::Prepared, _)) => break,
            Ok((Event::PrepareFailed { step, errno }, _)) => {
                return Err(fail(prepare_failed(section, step, errno)));
            }
            Ok(_) => {}
            Err(error) => return Err(fail(error.to_string())),
        }
    }
    become_the_same(section, user.as_ref(), background, keeper)
        .map_err(|errno| fail(format!("cannot prepare the agent: {}", errno.desc())))
}

fn user(section: &SupervisordSection, remarks: &mut Remarks) -> Result<Option<Identity>, String> {
    let Some(user) = &section.user else {
        if nix::unistd::getuid().is_root() {
            remarks.add(
                LogLevel::Critical,
                "Supervisor is running as root.  Privileges were not dropped because no user is specified in \
                 the config file.  If you intend to run as root, you can set user=root in the config file to \
                 avoid this message.",
            );
        }
        return Ok(None);
    };
    let uid = name_to_uid(user, &FileSystem)?;
    let identity = become_user(uid)?;
    remarks.add(LogLevel::Info, format!("Set uid to user {uid} succeeded"));
    Ok(identity)
}

/// A configured number as a limit; one below 0 asks for nothing.
fn least(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn is_short(resource: Resource, least: u64) -> bool {
    getrlimit(resource).is_ok_and(|(soft, _)| soft != RLIM_INFINITY && soft < least)
}

fn prepare_failed(section: &SupervisordSection, step: PrepareStep, errno: i32) -> String {
    let hard = |resource| getrlimit(resource).map_or(0, |(_, hard)| hard);
    match step {
        PrepareStep::Files => format!(
            "The minimum number of file descriptors required to run this process is {} as per the \"minfds\" \
             command-line argument or config file setting. The current environment will only allow you to open \
             {} file descriptors.  Either raise the number of usable file descriptors in your environment (see \
             README.rst) or lower the minfds setting in the config file to allow the process to start.",
            section.minfds,
            hard(Resource::RLIMIT_NOFILE)
        ),
        PrepareStep::Processes => format!(
            "The minimum number of available processes required to run this program is {} as per the \
             \"minprocs\" command-line argument or config file setting. The current environment will only allow \
             you to open {} processes.  Either raise the number of usable processes in your environment (see \
             README.rst) or lower the minprocs setting in the config file to allow the program to start.",
            section.minprocs,
            hard(Resource::RLIMIT_NPROC)
        ),
        PrepareStep::Groups => "Could not set groups of effective user".to_owned(),
        PrepareStep::Gid => "Could not set group id of effective user".to_owned(),
        PrepareStep::Uid => format!("Could not set user id: {}", Errno::from_raw(errno).desc()),
        PrepareStep::Directory => {
            let directory = section.directory.as_deref().unwrap_or(Path::new(""));
            format!("cannot change to {}: {}", directory.display(), Errno::from_raw(errno).desc())
        }
    }
}

/// The agent is to the system what the keeper is, but for its own descriptors.
fn become_the_same(
    section: &SupervisordSection,
    user: Option<&Identity>,
    background: bool,
    keeper: &mut KeeperLink,
) -> Result<(), Errno> {
    if let Some(user) = user {
        let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
        setgroups(&groups)?;
        setgid(Gid::from_raw(user.gid))?;
        setuid(Uid::from_raw(user.uid))?;
    }
    raise_files(least(section.minfds), keeper)?;
    if background {
        if let Some(directory) = &section.directory {
            nix::unistd::chdir(directory)?;
        }
        umask(Mode::from_bits_truncate(section.umask));
    }
    Ok(())
}

/// As many as it may: clients and logs of this process must not run short before programs do, which get the
/// keeper's limit. That is what this process was given, or the `least` that the keeper was asked for since.
pub(crate) fn raise_files(least: u64, keeper: &mut KeeperLink) -> Result<(), Errno> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    keeper.give_programs(soft.max(least));
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}

/// Writes the pidfile; that it can't be written is logged, and no reason to end.
pub(crate) fn write_pidfile(path: &Path, pid: i32, logs: &Logs) -> bool {
    match std::fs::write(path, format!("{pid}\n")) {
        Ok(()) => {
            logs.line(LogLevel::Info, format!("supervisord started with pid {pid}"));
            true
        }
        Err(_) => {
            logs.line(LogLevel::Critical, format!("could not write pidfile {}", path.display()));
            false
        }
    }
}

/// Another keeper has taken the place of one that was killed.
pub(crate) fn rewrite_pidfile(path: &Path, pid: i32, logs: &Logs) {
    if std::fs::write(path, format!("{pid}\n")).is_err() {
        logs.line(LogLevel::Critical, format!("could not write pidfile {}", path.display()));
    }
}

/// Leaves the terminal to whoever launched the daemon.
pub(crate) fn detach_stdio() -> std::io::Result<()> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    Ok(())
}

/// What is said before anything of the configuration was tried.
pub(crate) fn remarks_of(settings: &Settings) -> Remarks {
    let mut remarks = Remarks::default();
    for line in &settings.config.warnings {
        remarks.add(LogLevel::Warn, line);
    }
    for line in &settings.config.infos {
        remarks.add(LogLevel::Info, line);
    }
    remarks
}
