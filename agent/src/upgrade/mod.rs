//! The upgrade of this agent in place. Its successor is another build of the same program, found where the daemon was
//! started from. It proves itself before anything is given up ([`proof`], [`candidate`]); then this agent writes a
//! fresh snapshot, has the keeper start the new program as the next agent, and leaves ([`leaving`]) as if it had died, the
//! one way in which agents follow one another ([`crate::takeover`]).
//!
//! ```text
//!   this agent:  open the program -> proof -> snapshot, Replace -> last answers -> exit
//!   candidate:                       parse, replay, report
//!   successor:                                              Hello -> takes over -> says how the upgrade came out
//! ```

pub(crate) mod candidate;
pub(crate) mod leaving;
mod proof;

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fleetvisor_model::config::LogLevel;
use fleetvisor_model::name::ProcessName;
use fleetvisor_model::state::ProcessState;
use fleetvisor_model::status::ProcessStatus;
use serde::{Deserialize, Serialize};

use crate::inbox::{Gone, Handle};
use crate::logs::Logs;

/// What an upgrade did not come to. Whichever it is, this agent goes on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpgradeError {
    #[error("another upgrade is under way")]
    UnderWay,
    #[error("the daemon is ending or starting over")]
    Ending,
    #[error(
        "this daemon's keeper is of a release that cannot exchange its agent; a restart of the daemon changes that"
    )]
    Keeper,
    #[error("cannot open {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error("{path} is {what}")]
    NoProgram { path: PathBuf, what: &'static str },
    #[error("cannot run {path}: {source}")]
    Start { path: PathBuf, source: io::Error },
    #[error("{path} has ended with {how} instead of proving itself{said}")]
    Ended { path: PathBuf, how: String, said: String },
    #[error("{path} has not proved itself within {seconds} s{said}")]
    TimedOut { path: PathBuf, seconds: u64, said: String },
    #[error("{path} has not proved itself: {why}")]
    Unproven { path: PathBuf, why: String },
    #[error("a disk with logs does not answer, and this agent could not end before it does")]
    Disk,
    #[error("too much is under way on this host; try again")]
    Busy,
    #[error("cannot write down the state for the next agent: {0}")]
    Journal(#[source] io::Error),
    /// Whoever asked for it has a reason why it must not be.
    #[error("{0}")]
    Unwanted(String),
    #[error("the daemon has ended meanwhile")]
    Gone,
}

impl From<Gone> for UpgradeError {
    fn from(_: Gone) -> UpgradeError {
        UpgradeError::Gone
    }
}

/// How far an upgrade has come when this agent can still say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Upgraded {
    /// The program there is the one that this agent runs.
    Same,
    /// This agent is about to leave; its successor knows the rest.
    Leaving { version: String },
}

/// A file, whatever its name is by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(metadata: &std::fs::Metadata) -> FileId {
        FileId { device: metadata.dev(), inode: metadata.ino() }
    }

    /// Of the program that this process runs.
    pub(crate) fn own() -> io::Result<FileId> {
        std::fs::metadata("/proc/self/exe").map(|metadata| FileId::of(&metadata))
    }
}

/// What a candidate needs for its proof, and what it is to find.
#[derive(Debug)]
pub(crate) struct Offer {
    /// A journal of its own, with a snapshot of this moment.
    pub(crate) journal: OwnedFd,
    /// The version of the keeper's frames.
    pub(crate) frames: u16,
    pub(crate) processes: Vec<Seen>,
}

/// A process as an agent sees it; the same for both at the same moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    name: ProcessName,
    state: ProcessState,
    pid: i32,
}

impl Seen {
    pub(crate) fn all(statuses: Vec<ProcessStatus>) -> Vec<Seen> {
        let seen = |ProcessStatus { name, state, pid, .. }| Seen { name, state, pid };
        statuses.into_iter().map(seen).collect()
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} (pid {})", self.name, self.state.name(), self.pid)
    }
}

/// The latest upgrade, as an agent leaves it to its successor, which knows by its own program how it came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Upgrade {
    pub(crate) from_pid: i32,
    pub(crate) from_version: String,
    pub(crate) version: String,
    program: FileId,
    /// Whether an agent has said in the log how it came out, and why it has failed.
    pub(crate) told: bool,
    pub(crate) error: Option<String>,
}

impl Upgrade {
    /// This process is what the upgrade was to lead to.
    pub(crate) fn has_come_true(&self) -> bool {
        FileId::own().is_ok_and(|own| own == self.program)
    }
}

/// Has this agent replaced by what is at its path now. `leaving` is awaited once the new program has proved itself; its
/// error keeps this agent from leaving. It goes on also where nobody waits for its outcome.
pub(crate) async fn upgrade(
    handle: Handle,
    logs: Logs,
    leaving: impl Future<Output = Result<(), String>>,
) -> Result<Upgraded, UpgradeError> {
    let path = handle.facts().executable.clone();
    let upgraded = attempt(&handle, &logs, &path, leaving).await;
    match &upgraded {
        Ok(Upgraded::Same) => {}
        Ok(Upgraded::Leaving { version }) => {
            let (own, shown) = (fleetvisor_proto::VERSION, path.display());
            logs.line(LogLevel::Info, format!("upgrading from {own} to {version}: {shown} takes over"));
        }
        Err(error) => {
            let line = format!("not upgraded, {} goes on: {error}", fleetvisor_proto::VERSION);
            logs.line(LogLevel::Critical, line);
        }
    }
    upgraded
}

async fn attempt(
    handle: &Handle,
    logs: &Logs,
    path: &Path,
    leaving: impl Future<Output = Result<(), String>>,
) -> Result<Upgraded, UpgradeError> {
    let _alone = handle.begin_upgrade().ok_or(UpgradeError::UnderWay)?;
    let candidate = Candidate::open(path)?;
    if FileId::own().is_ok_and(|own| own == candidate.id) {
        return Ok(Upgraded::Same);
    }
    let offer = handle.offer().await??;
    let proving = tokio::task::spawn_blocking(move || {
        let version = proof::prove(&candidate, offer, proof::LIMIT)?;
        Ok::<_, UpgradeError>((candidate, version))
    });
    let (candidate, version) = proving.await.map_err(|_| UpgradeError::Gone)??;
    if !logs.answer().await {
        return Err(UpgradeError::Disk);
    }
    leaving.await.map_err(UpgradeError::Unwanted)?;
    let upgrade = Upgrade {
        from_pid: std::process::id().cast_signed(),
        from_version: fleetvisor_proto::VERSION.to_owned(),
        version: version.clone(),
        program: candidate.id,
        told: false,
        error: None,
    };
    handle.hand_over(candidate.file.into(), upgrade).await??;
    Ok(Upgraded::Leaving { version })
}

/// A program that may become the next agent: what was opened is what is proved and what will run, whatever becomes of
/// its path meanwhile.
#[derive(Debug)]
struct Candidate {
    path: PathBuf,
    file: File,
    id: FileId,
}

impl Candidate {
    fn open(path: &Path) -> Result<Candidate, UpgradeError> {
        let cannot = |source| UpgradeError::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(cannot)?;
        let metadata = file.metadata().map_err(cannot)?;
        let no_program = |what| UpgradeError::NoProgram { path: path.to_owned(), what };
        if !metadata.is_file() {
            return Err(no_program("no regular file"));
        }
        if metadata.mode() & 0o111 == 0 {
            return Err(no_program("not executable"));
        }
        let id = FileId::of(&metadata);
        Ok(Candidate { path: path.to_owned(), file, id })
    }
}

/// Where the program is that this process was started from, by the name it was started under: a link that is changed
/// leads to another one. Where that name does not lead here, the file itself.
pub(crate) fn executable(program: &str) -> PathBuf {
    let own = FileId::own().ok();
    let named = std::env::current_dir().unwrap_or_default().join(program);
    let named: PathBuf = named.components().collect();
    let is_own = std::fs::metadata(&named).is_ok_and(|metadata| Some(FileId::of(&metadata)) == own);
    if is_own { named } else { own_path() }
}

/// The path of the program that this process runs, also where there is another program by now.
pub(crate) fn own_path() -> PathBuf {
    let path = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let shown = path.to_string_lossy();
    shown.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_leads_here_is_kept_and_any_other_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/proc/self/exe", &link).unwrap();
        assert_eq!(executable(link.to_str().unwrap()), link);
        assert_eq!(executable("/bin/sh"), own_path());
        assert_eq!(own_path(), std::env::current_exe().unwrap());
    }

    #[test]
    fn what_is_no_program_is_refused_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p");
        let refused = || Candidate::open(&path).unwrap_err().to_string();
        let shown = path.display();
        assert_eq!(refused(), format!("cannot open {shown}: No such file or directory (os error 2)"));
        std::fs::write(&path, "").unwrap();
        assert_eq!(refused(), format!("{shown} is not executable"));
        let error = Candidate::open(folder.path()).unwrap_err().to_string();
        assert_eq!(error, format!("{} is no regular file", folder.path().display()));
    }
}
