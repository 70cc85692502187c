//! This agent's side of the proof: runs the candidate, listens to it for a limited time and to a limited extent, and
//! judges what it reports.

use std::collections::VecDeque;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::candidate::{OPTION, Report};
use super::{Candidate, Offer, Seen, UpgradeError};

/// For the whole proof.
pub(super) const LIMIT: Duration = Duration::from_secs(30);
/// Bytes of a report: far more than the largest configuration makes.
const MOST_REPORT: usize = 32 << 20;
/// Of what it says on stderr, the end that is repeated.
const MOST_SAID: usize = 2048;
const LINES_SAID: usize = 5;
const EXIT_POLL: Duration = Duration::from_millis(2);

/// The candidate's version, once it has proved that it could go on in this agent's place. Blocks.
pub(super) fn prove(candidate: &Candidate, offer: Offer, limit: Duration) -> Result<String, UpgradeError> {
    let Offer { journal, frames, processes } = offer;
    let mut child = start(candidate, journal.into(), frames)?;
    let heard = listen(&mut child, Instant::now() + limit);
    if heard.is_none() {
        let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
        let _ = child.kill();
    }
    let ended = child.wait();
    let path = candidate.path.clone();
    let Some(Heard { report, said }) = heard else {
        let said = "; it may hang, or wait for something".to_owned();
        return Err(UpgradeError::TimedOut { path, seconds: limit.as_secs(), said });
    };
    match ended {
        Ok(status) if status.success() => {}
        Ok(status) => return Err(UpgradeError::Ended { path, how: how(status), said: last_lines(said) }),
        Err(source) => return Err(UpgradeError::Start { path, source }),
    }
    judge(candidate, &report, &processes).map_err(|why| UpgradeError::Unproven { path, why })
}

fn start(candidate: &Candidate, journal: Stdio, frames: u16) -> Result<Child, UpgradeError> {
    let cannot = |source| UpgradeError::Start { path: candidate.path.clone(), source };
    // What is neither is run by a shell in some libraries, and half a program is no script.
    let mut magic = [0; 4];
    let _ = candidate.file.read_at(&mut magic, 0);
    if magic != *b"\x7fELF" && !magic.starts_with(b"#!") {
        return Err(UpgradeError::NoProgram { path: candidate.path.clone(), what: "no program" });
    }
    let inherited = |flags| fcntl(&candidate.file, FcntlArg::F_SETFD(flags)).map_err(std::io::Error::from);
    // A script's interpreter opens it again. Nothing else is started by this process meanwhile.
    inherited(FdFlag::empty()).map_err(cannot)?;
    let child = Command::new(format!("/proc/self/fd/{}", candidate.file.as_raw_fd()))
        .arg0(&candidate.path)
        .arg(format!("{OPTION}{frames}"))
        .stdin(journal)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    inherited(FdFlag::FD_CLOEXEC).map_err(cannot)?;
    child.map_err(cannot)
}

struct Heard {
    report: Vec<u8>,
    said: VecDeque<u8>,
}

/// Everything until it has closed both streams and ended; `None` where it does not in time.
fn listen(child: &mut Child, deadline: Instant) -> Option<Heard> {
    let mut heard = Heard { report: Vec::new(), said: VecDeque::new() };
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let mut buffer = vec![0; 64 << 10];
    while stdout.is_some() || stderr.is_some() {
        let left = deadline.checked_duration_since(Instant::now())?;
        let watched = [stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd)];
        let mut watched: Vec<PollFd<'_>> =
            watched.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let limit = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        if poll(&mut watched, limit).is_err() {
            continue;
        }
        let mut ready = watched.iter().map(|fd| fd.any() == Some(true)).collect::<VecDeque<_>>();
        if stdout.is_some() && ready.pop_front() == Some(true) {
            let count = read(&mut stdout, &mut buffer);
            let room = MOST_REPORT - heard.report.len();
            heard.report.extend_from_slice(&buffer[..count.min(room)]);
        }
        if stderr.is_some() && ready.pop_front() == Some(true) {
            let count = read(&mut stderr, &mut buffer);
            heard.said.extend(&buffer[..count]);
            let excess = heard.said.len().saturating_sub(MOST_SAID);
            heard.said.drain(..excess);
        }
    }
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(EXIT_POLL);
    }
    Some(heard)
}

/// At the end, also one by an error, the stream is dropped.
fn read(stream: &mut Option<impl Read>, buffer: &mut [u8]) -> usize {
    let count = stream.as_mut().and_then(|stream| stream.read(buffer).ok()).unwrap_or(0);
    if count == 0 {
        *stream = None;
    }
    count
}

fn judge(candidate: &Candidate, report: &[u8], expected: &[Seen]) -> Result<String, String> {
    let report: Report =
        serde_json::from_slice(report).map_err(|error| format!("its report cannot be read: {error}"))?;
    if report.program != candidate.id {
        return Err("it runs another program, which has to be in that place itself".to_owned());
    }
    let differs = report.processes.iter().zip(expected).find(|(found, expected)| found != expected);
    match differs {
        Some((found, expected)) => Err(format!("it finds {found} instead of {expected}")),
        None if report.processes.len() != expected.len() => {
            Err(format!("it finds {} processes instead of {}", report.processes.len(), expected.len()))
        }
        None => Ok(report.version),
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => fleetvisor_model::signal::Signal(signal).name().clone(),
        (None, None) => status.to_string(),
    }
}

/// `: the last; lines of it`, or nothing where it was silent.
fn last_lines(said: VecDeque<u8>) -> String {
    let said = Vec::from(said);
    let text = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match &lines[lines.len().saturating_sub(LINES_SAID)..] {
        [] => String::new(),
        last => format!(": {}", last.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::OpenOptionsExt as _;
    use std::path::Path;

    use fleetvisor_model::name::ProcessName;
    use fleetvisor_model::state::ProcessState;

    use super::*;

    fn offer() -> Offer {
        let journal = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let running = Seen { name: ProcessName::new("web", "app"), state: ProcessState::Running, pid: 12 };
        Offer { journal, frames: 3, processes: vec![running] }
    }

    fn refused(folder: &Path, content: &[u8], limit: Duration) -> String {
        let path = folder.join("p");
        {
            use std::io::Write as _;
            let mut options = std::fs::File::options();
            let mut file = options.write(true).create(true).truncate(true).mode(0o755).open(&path).unwrap();
            file.write_all(content).unwrap();
        }
        let candidate = Candidate::open(&path).unwrap();
        let error = prove(&candidate, offer(), limit).unwrap_err().to_string();
        error.replace(&path.display().to_string(), "P")
    }

    #[test]
    fn why_a_candidate_fails_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |content: &[u8]| refused(folder.path(), content, LIMIT);
        let silent = refused(b"#!/bin/sh\nexit 3\n");
        assert_eq!(silent, "P has ended with exit status 3 instead of proving itself");
        let loud = refused(b"#!/bin/sh\nfor i in 1 2 3 4 5 6; do echo line $i >&2; done; kill -9 $$\n");
        assert_eq!(
            loud,
            "P has ended with SIGKILL instead of proving itself: line 2; line 3; line 4; line 5; line 6"
        );
        assert_eq!(refused(b"\xff\xfe\0\0 something else"), "P is no program");
        assert_eq!(refused(b""), "P is no program");
        let half = std::fs::read("/proc/self/exe").unwrap();
        let half = refused(&half[..1000]);
        assert!(half.starts_with("cannot run P: ") || half.starts_with("P has ended with SIG"), "{half}");
        let garbage = refused(b"#!/bin/sh\nhead -c 1000 /dev/zero\n");
        assert!(garbage.starts_with("P has not proved itself: its report cannot be read: "), "{garbage}");
    }

    #[test]
    fn one_that_hangs_is_ended_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let script = format!("#!/bin/sh\nsleep 1000 &\necho $! >{}/pid\nwait\n", folder.path().display());
        let error = refused(folder.path(), script.as_bytes(), Duration::from_secs(1));
        assert!(error.starts_with("P has not proved itself within 1 s"), "{error}");
        let pid = std::fs::read_to_string(folder.path().join("pid")).unwrap();
        let ended = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        let began = Instant::now();
        while !ended() {
            assert!(began.elapsed() < LIMIT, "still there");
            std::thread::sleep(EXIT_POLL);
        }
    }

    #[test]
    fn a_report_must_be_of_the_program_and_see_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p");
        std::fs::copy("/bin/true", &path).unwrap();
        let candidate = Candidate::open(&path).unwrap();
        let expected = offer().processes;
        let judged = |program, processes: &[Seen]| {
            let report = Report { version: "9.9".to_owned(), program, processes: processes.to_vec() };
            judge(&candidate, &serde_json::to_vec(&report).unwrap(), &expected)
        };
        assert_eq!(judged(candidate.id, &expected).unwrap(), "9.9");
        let own = super::super::FileId::own().unwrap();
        assert!(judged(own, &expected).unwrap_err().contains("another program"));
        assert_eq!(judged(candidate.id, &[]).unwrap_err(), "it finds 0 processes instead of 1");
        let stopped = Seen { state: ProcessState::Stopped, pid: 0, ..expected[0].clone() };
        let error = judged(candidate.id, &[stopped]).unwrap_err();
        assert_eq!(error, "it finds web:app STOPPED (pid 0) instead of web:app RUNNING (pid 12)");
    }
}
