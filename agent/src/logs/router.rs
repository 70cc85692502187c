//! Which thread a log belongs to. The home thread has the daemon's log, everything that is on its disk, and what is on
//! no disk; each other disk gets a thread when the first program logs to it. So a disk that hangs holds up its own
//! logs and nothing else, and a host with one disk has one thread.
//!
//! A path stays with its thread while any program has it open, whatever is mounted meanwhile: a file has one writer.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};

use fleetvisor_core::effect::Instance;
use fleetvisor_model::config::{LogLevel, LogTarget, OutputLog};
use tokio::sync::{oneshot, watch};

use super::disks::{Disk, MountTable, Mounts, Place};
use super::gather::{Part, gather};
use super::thread::Thread;
use super::voice::Voice;
use super::{Adoption, Answer, Command, Failures, LogStash, Outputs, Pair, Sender, Share};
use crate::inbox::{Handle, Message};

/// With the home thread. Disks beyond that share threads.
const MOST_THREADS: usize = 16;
const HOME: usize = 0;

#[derive(Debug)]
pub(super) struct Router {
    /// The first is the home thread.
    threads: Vec<Worker>,
    home_disk: Option<Disk>,
    mounts: MountTable,
    claims: HashMap<PathBuf, Weak<Claim>>,
    /// Which threads the streams of a program are with.
    programs: HashMap<Instance, Pair<usize>>,
    level: LogLevel,
    strip_ansi: bool,
    handle: Handle,
    enlarged: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Worker {
    /// `None` for the home thread.
    disk: Option<Disk>,
    sender: Arc<Sender>,
    failures: watch::Receiver<Arc<Failures>>,
}

/// A path is with this thread for as long as a program there holds this.
#[derive(Debug)]
pub(super) struct Claim {
    thread: usize,
}

/// What opening a program's logs has come to so far: what is to be kept for a successor, or what is wrong.
pub(super) type Opening = Result<Pair<OwnedFd>, String>;

impl Router {
    pub(super) fn new(
        home: Arc<Sender>,
        failures: watch::Receiver<Arc<Failures>>,
        home_disk: Option<Disk>,
        level: LogLevel,
        strip_ansi: bool,
        handle: Handle,
        enlarged: Arc<AtomicUsize>,
    ) -> Router {
        let threads = vec![Worker { disk: None, sender: home, failures }];
        let (claims, programs) = (HashMap::new(), HashMap::new());
        let mounts = MountTable::default();
        Router { threads, home_disk, mounts, claims, programs, level, strip_ansi, handle, enlarged }
    }

    pub(super) fn open(&mut self, instance: Instance, outputs: Outputs) {
        let shares = self.shares(instance, outputs);
        let handle = self.handle.clone();
        let parts = gather(shares.len(), Ok([None, None]), move |opening: Opening| {
            let result = opening.map(LogStash::of);
            let _ = handle.send(Message::LogsOpened { instance, result });
        });
        for ((thread, share), part) in shares.into_iter().zip(parts) {
            self.send(thread, Command::Open { instance, share, part });
        }
    }

    pub(super) fn attach(&mut self, instance: Instance, pipes: Pair<OwnedFd>) {
        let Some(streams) = self.programs.get(&instance).copied() else { return };
        for (thread, pipes) in split(streams, pipes) {
            self.send(thread, Command::Attach { instance, pipes });
        }
    }

    pub(super) fn adopt(&mut self, instance: Instance, adoption: Adoption) {
        let Adoption { outputs, stash, stdout, stderr, heard } = adoption;
        let shares = self.shares(instance, outputs);
        let streams = self.programs.get(&instance).copied().unwrap_or_default();
        let mut pipes: HashMap<_, _> = split(streams, [Some(stdout), stderr]).into_iter().collect();
        let mut memories: HashMap<_, _> = split(streams, stash.into_memories()).into_iter().collect();
        for (thread, share) in shares {
            let pipes = pipes.remove(&thread).unwrap_or_default();
            let memories = memories.remove(&thread).unwrap_or_default();
            self.send(thread, Command::Adopt { instance, share: Box::new(share), pipes, memories, heard });
        }
    }

    pub(super) fn drain(&mut self, instance: Instance) {
        // One whose pipes there was no room for is with nobody.
        let threads = self.programs.remove(&instance).map_or_else(|| vec![HOME], threads_of);
        let handle = self.handle.clone();
        let parts = gather(threads.len(), (), move |()| {
            let _ = handle.send(Message::Drained { instance });
        });
        for (thread, part) in threads.into_iter().zip(parts) {
            self.send(thread, Command::Drain { instance, part });
        }
    }

    pub(super) fn forget(&mut self, instance: Instance) {
        for thread in self.programs.remove(&instance).map(threads_of).unwrap_or_default() {
            self.send(thread, Command::Forget { instance });
        }
    }

    pub(super) fn clear(&mut self, files: Vec<PathBuf>, answer: oneshot::Sender<Result<(), String>>) {
        let mounts = self.mounts.now();
        let mut of_threads: Vec<(usize, Vec<PathBuf>)> = Vec::new();
        for file in files {
            let thread = self.claim(&file, &mounts).thread;
            match of_threads.iter_mut().find(|(other, _)| *other == thread) {
                Some((_, files)) => files.push(file),
                None => of_threads.push((thread, vec![file])),
            }
        }
        let parts = gather(of_threads.len(), Ok(()), move |result| {
            let _ = answer.send(result);
        });
        for ((thread, files), part) in of_threads.into_iter().zip(parts) {
            self.send(thread, Command::Clear { files, part });
        }
    }

    /// To every thread.
    pub(super) fn send_all(&self, command: impl Fn() -> Command) {
        for worker in &self.threads {
            worker.sender.send(command());
        }
    }

    /// To all but the home thread. What is returned comes when all of them have closed.
    pub(super) fn close_others(&self) -> oneshot::Receiver<()> {
        ask(&self.threads[1..], |part| Command::Close { part: Some(part) })
    }

    /// What is returned comes when every thread has done what it was asked for.
    pub(super) fn all_done(&self) -> oneshot::Receiver<()> {
        ask(&self.threads, |part| Command::Answer(Answer(Box::new(|| part.done(|()| ())))))
    }

    pub(super) fn failures(&self) -> Arc<Failures> {
        let mut all = Arc::clone(&self.threads[HOME].failures.borrow());
        for worker in &self.threads[1..] {
            let more = worker.failures.borrow();
            if !more.programs.is_empty() {
                let all = Arc::make_mut(&mut all);
                for (name, failures) in &more.programs {
                    all.programs.entry(name.clone()).or_default().extend(failures.iter().cloned());
                }
            }
        }
        all
    }

    /// The daemon's log is on another disk from now on, and has another level.
    pub(super) fn replace_daemon(&mut self, level: LogLevel, path: Option<&Path>) {
        (self.level, self.home_disk) = (level, disk_of_daemon(path));
        for worker in &self.threads[1..] {
            worker.sender.send(Command::Level { level });
        }
    }

    fn send(&self, thread: usize, command: Command) {
        self.threads[thread].sender.send(command);
    }

    /// What each thread has of a program, and notes it. A program with no log at all is at home.
    fn shares(&mut self, instance: Instance, outputs: Outputs) -> Vec<(usize, Share)> {
        let Outputs { name, stdout, stderr, is_listener } = outputs;
        let mounts = self.mounts.now();
        let mut claimed = |log: &OutputLog| match &log.logfile {
            LogTarget::File(path) => {
                let claim = self.claim(path, &mounts);
                (claim.thread, Some(claim))
            }
            LogTarget::None | LogTarget::Auto | LogTarget::Syslog => (HOME, None),
        };
        let logs = [Some(stdout), stderr];
        let places = logs.each_ref().map(|log| log.as_ref().map(&mut claimed));
        let streams = places.each_ref().map(|place| place.as_ref().map(|(thread, _)| *thread));
        let mut claims = places.map(|place| place.and_then(|(_, claim)| claim));
        self.programs.insert(instance, streams);
        let share = |(thread, logs): (usize, Pair<OutputLog>)| {
            let claims = claims.iter_mut().zip(streams).filter(|(_, stream)| *stream == Some(thread));
            let claims = claims.filter_map(|(claim, _)| claim.take()).collect();
            (thread, Share { name: name.clone(), is_listener, logs, claims })
        };
        split(streams, logs).into_iter().map(share).collect()
    }

    fn claim(&mut self, path: &Path, mounts: &Mounts) -> Arc<Claim> {
        let Place { path, disk } = place(path, mounts);
        if let Some(claim) = self.claims.get(&path).and_then(Weak::upgrade) {
            return claim;
        }
        // Now and then: a thousand programs have as many paths.
        if self.claims.len().is_power_of_two() {
            self.claims.retain(|_, claim| claim.strong_count() > 0);
        }
        let claim = Arc::new(Claim { thread: self.thread_of(disk) });
        self.claims.insert(path, Arc::downgrade(&claim));
        claim
    }

    fn thread_of(&mut self, disk: Option<Disk>) -> usize {
        let Some(disk) = disk.filter(|disk| Some(*disk) != self.home_disk) else { return HOME };
        if let Some(found) = self.threads.iter().position(|worker| worker.disk == Some(disk)) {
            return found;
        }
        if self.threads.len() >= MOST_THREADS {
            return 1 + disk.minor as usize % (MOST_THREADS - 1);
        }
        let home = Arc::clone(&self.threads[HOME].sender);
        let voice = Voice::sent(self.level, home);
        let number = self.threads.len();
        let started = Thread::start(
            format!("logs-{number}"),
            voice,
            self.strip_ansi,
            self.handle.clone(),
            Arc::clone(&self.enlarged),
        );
        match started {
            Ok((sender, failures)) => {
                self.threads.push(Worker { disk: Some(disk), sender, failures });
                number
            }
            Err(error) => {
                let line = format!("logs on another disk have no thread of their own: {error}");
                self.send(HOME, Command::Line { level: LogLevel::Error, line });
                HOME
            }
        }
    }
}

fn ask(threads: &[Worker], command: impl Fn(Part<()>) -> Command) -> oneshot::Receiver<()> {
    let (answer, answered) = oneshot::channel();
    let parts = gather(threads.len(), (), move |()| {
        let _ = answer.send(());
    });
    for (worker, part) in threads.iter().zip(parts) {
        worker.sender.send(command(part));
    }
    answered
}

/// The disk whose logs the home thread has: the daemon's log's, or the root file system where that is on none.
pub(super) fn disk_of_daemon(path: Option<&Path>) -> Option<Disk> {
    let mounts = MountTable::default().now();
    let disk = path.and_then(|path| place(path, &mounts).disk);
    disk.or_else(|| place(Path::new("/"), &mounts).disk)
}

fn place(path: &Path, mounts: &Mounts) -> Place {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    mounts.place(&path, |link| std::fs::read_link(link).ok())
}

/// What belongs to each thread, the first stream's first.
fn split<T>(streams: Pair<usize>, of_streams: Pair<T>) -> Vec<(usize, Pair<T>)> {
    let mut parts: Vec<(usize, Pair<T>)> = Vec::new();
    for (stream, (thread, what)) in streams.into_iter().zip(of_streams).enumerate() {
        let Some(thread) = thread else { continue };
        let at = parts.iter().position(|(other, _)| *other == thread).unwrap_or_else(|| {
            parts.push((thread, [None, None]));
            parts.len() - 1
        });
        parts[at].1[stream] = what;
    }
    parts
}

fn threads_of(streams: Pair<usize>) -> Vec<usize> {
    let mut threads: Vec<usize> = streams.into_iter().flatten().collect();
    threads.dedup();
    threads
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::super::poller::Poller;
    use super::*;
    use crate::inbox::Facts;

    fn router() -> Router {
        let home = Sender { commands: mpsc::channel().0, wake: Poller::new().unwrap().waker() };
        let handle = Handle::new(tokio::sync::mpsc::unbounded_channel().0, Facts::nothing());
        let (failures, disk) = (watch::channel(Arc::default()).1, Disk { major: 254, minor: 0 });
        Router::new(Arc::new(home), failures, Some(disk), LogLevel::Info, false, handle, Arc::default())
    }

    /// With so many other disks, at `/no-0` and so on.
    fn mounts(others: u32) -> Mounts {
        let mut text = "1 0 254:0 / / rw - ext4 /dev/vda rw\n".to_owned();
        for number in 0..others {
            text.push_str(&format!("{} 1 8:{number} / /no-{number} rw - ext4 /dev/sda rw\n", number + 2));
        }
        Mounts::parse(text.as_bytes())
    }

    #[test]
    fn the_daemons_disk_needs_no_other_thread() {
        let mut router = router();
        assert_eq!(router.claim(Path::new("/no-0/x"), &mounts(0)).thread, HOME);
        assert_eq!(router.claim(Path::new("/no-1/x"), &Mounts::default()).thread, HOME);
        assert_eq!(router.threads.len(), 1);
    }

    #[test]
    fn a_path_stays_with_its_thread_while_it_is_open() {
        let mut router = router();
        let path = Path::new("/no-0/x");
        let claim = router.claim(path, &mounts(1));
        assert_eq!(claim.thread, 1);
        assert_eq!(router.claim(Path::new("/no-0/../no-0/x"), &mounts(0)).thread, 1);
        assert_eq!(router.claim(Path::new("/no-0/other"), &mounts(0)).thread, HOME);
        drop(claim);
        assert_eq!(router.claim(path, &mounts(0)).thread, HOME);
    }

    #[test]
    fn very_many_disks_share_threads() {
        let mut router = router();
        for number in 0..40 {
            let path = PathBuf::from(format!("/no-{number}/x"));
            assert_ne!(router.claim(&path, &mounts(40)).thread, HOME);
        }
        assert_eq!(router.threads.len(), MOST_THREADS);
    }

    #[test]
    fn streams_go_to_their_threads_together() {
        assert_eq!(split([Some(3), Some(3)], [Some('a'), Some('b')]), [(3, [Some('a'), Some('b')])]);
        let apart = [(1, [Some('a'), None]), (0, [None, Some('b')])];
        assert_eq!(split([Some(1), Some(0)], [Some('a'), Some('b')]), apart);
        assert_eq!(split([Some(1), None], [Some('a'), None]), [(1, [Some('a'), None])]);
    }
}
