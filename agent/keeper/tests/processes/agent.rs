//! The agent's side of a test: asks, and waits for what is to come.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use fleetvisor_keeper::frame::{Exited, Identity, Pipes, Spawn, SpawnUser, Stdin, VERSIONS};
use fleetvisor_keeper::{Event, KeeperLink, ProgramEnds, Request};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const LIMIT: Duration = Duration::from_secs(20);
pub(crate) const NOBODY: Identity = Identity { uid: 65534, gid: 65534, groups: Vec::new() };

pub(crate) struct Agent {
    pub(crate) link: KeeperLink,
    /// Came while something else was waited for.
    early: VecDeque<(Event, Vec<OwnedFd>)>,
    pub(crate) keeper: i32,
}

pub(crate) struct Program {
    pub(crate) id: u64,
    pub(crate) pid: i32,
    pub(crate) ends: ProgramEnds,
}

impl Agent {
    pub(crate) fn attach(descriptor: RawFd) -> Agent {
        let link = KeeperLink::attach(descriptor).unwrap();
        Agent { link, early: VecDeque::new(), keeper: nix::unistd::getppid().as_raw() }
    }

    pub(crate) fn hello(&mut self) -> (bool, u32, u32) {
        self.ask(Request::Hello { versions: VERSIONS.to_vec() });
        let (event, _) = self.wait(|event| matches!(event, Event::Hello { .. }));
        let Event::Hello { version: 3, keeper_pid, ready, adopted, stashed, .. } = event else {
            panic!("{event:?}")
        };
        assert_eq!(keeper_pid, self.keeper);
        (ready, adopted, stashed)
    }

    pub(crate) fn ask(&mut self, request: Request) {
        self.ask_with(request, Vec::new());
    }

    pub(crate) fn ask_with(&mut self, request: Request, descriptors: Vec<OwnedFd>) {
        self.link.send(&request, descriptors).unwrap();
        while self.link.flush().unwrap() != fleetvisor_keeper::Flushed::All {
            ready(self.link.as_fd(), PollFlags::POLLOUT);
        }
    }

    /// Pid of the keeper's parent, which runs the tests.
    pub(crate) fn runner(&self) -> i32 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.keeper)).unwrap();
        stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn stop(&mut self, status: i32) {
        self.ask(Request::Stop { status });
    }

    /// The next event of that kind; others are kept.
    pub(crate) fn wait(&mut self, wanted: impl Fn(&Event) -> bool) -> (Event, Vec<OwnedFd>) {
        if let Some(index) = self.early.iter().position(|(event, _)| wanted(event)) {
            return self.early.remove(index).unwrap();
        }
        let began = Instant::now();
        while began.elapsed() < LIMIT {
            match self.link.receive().unwrap() {
                Some((event, descriptors)) if wanted(&event) => return (event, descriptors),
                Some(other) => self.early.push_back(other),
                None if readable(self.link.as_fd()) => {}
                None => break,
            }
        }
        panic!("it did not come; instead: {:?}", self.early);
    }

    /// What came and was not waited for.
    pub(crate) fn early(&self) -> Vec<&Event> {
        self.early.iter().map(|(event, _)| event).collect()
    }

    pub(crate) fn refused(&mut self) -> (Option<u64>, String) {
        match self.wait(|event| matches!(event, Event::Refused { .. })) {
            (Event::Refused { id, reason }, _) => (id, reason),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn spawn(&mut self, spawn: Spawn) -> Program {
        let id = spawn.id;
        self.ask(Request::Spawn(Box::new(spawn)));
        self.spawned(id)
    }

    pub(crate) fn spawned(&mut self, id: u64) -> Program {
        let (event, descriptors) =
            self.wait(|event| matches!(event, Event::Spawned { id: found, .. } if *found == id));
        let Event::Spawned { pid, pipes, .. } = event else { panic!("{event:?}") };
        let Pipes { stdin, stderr } = pipes;
        assert_eq!(descriptors.len(), 2 + usize::from(stdin) + usize::from(stderr), "pipes and a pidfd");
        Program { id, pid, ends: ProgramEnds::new(pipes, descriptors).unwrap() }
    }

    pub(crate) fn exited(&mut self, id: u64) -> Exited {
        match self.wait(|event| matches!(event, Event::Exited { id: found, .. } if *found == id)) {
            (Event::Exited { exited, .. }, _) => exited,
            other => panic!("{other:?}"),
        }
    }

    /// Runs a program to its end: how it ended, its stdout and its stderr.
    pub(crate) fn complete(&mut self, spawn: Spawn) -> (Exited, String, String) {
        let program = self.spawn(spawn);
        let stdout = read_all(program.ends.stdout);
        let stderr = program.ends.stderr.map(read_all).unwrap_or_default();
        let exited = self.exited(program.id);
        self.ask(Request::Release { id: program.id });
        (exited, stdout, stderr)
    }
}

/// `sh -c script`.
pub(crate) fn shell(id: u64, script: &str) -> Spawn {
    program(id, "/bin/sh", &["sh", "-c", script])
}

pub(crate) fn program(id: u64, file: &str, argv: &[&str]) -> Spawn {
    Spawn {
        id,
        file: file.into(),
        argv: argv.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
        env: vec![b"PATH=/usr/bin:/bin".to_vec()],
        directory: None,
        umask: None,
        user: SpawnUser::Same,
        redirect_stderr: false,
        stdin: Stdin::Pipe,
    }
}

/// Until the last writer has closed the pipe.
pub(crate) fn read_all(end: OwnedFd) -> String {
    let mut text = Vec::new();
    let mut file = File::from(end);
    loop {
        match file.read_to_end(&mut text) {
            Ok(_) => return String::from_utf8(text).unwrap(),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                ready(file.as_fd(), PollFlags::POLLIN);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// The next bytes.
pub(crate) fn read_some(end: &OwnedFd) -> String {
    ready(end.as_fd(), PollFlags::POLLIN);
    let mut bytes = [0; 4096];
    let count = nix::unistd::read(end, &mut bytes).unwrap();
    String::from_utf8(bytes[..count].to_vec()).unwrap()
}

pub(crate) fn ready(descriptor: BorrowedFd<'_>, flags: PollFlags) {
    let limit = PollTimeout::try_from(LIMIT).unwrap();
    assert_ne!(poll(&mut [PollFd::new(descriptor, flags)], limit), Ok(0), "nothing in {LIMIT:?}");
}

fn readable(descriptor: BorrowedFd<'_>) -> bool {
    let limit = PollTimeout::try_from(LIMIT).unwrap();
    poll(&mut [PollFd::new(descriptor, PollFlags::POLLIN)], limit) != Ok(0)
}

pub(crate) fn kill(pid: i32, signo: i32) -> Result<(), nix::errno::Errno> {
    // SAFETY: takes numbers and touches no memory.
    nix::errno::Errno::result(unsafe { libc::kill(pid, signo) }).map(drop)
}
