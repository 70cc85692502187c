//! Where one stream of a program goes: to a log file that it may share with others, to syslog, to event
//! listeners, to the daemon. Bytes that nobody looks at are moved from pipe to file by the kernel; others go
//! through a spool, and what they come to is recorded so that it is done once.

use std::cell::RefCell;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;

use fleetvisor_core::effect::Instance;
use fleetvisor_core::event::{Channel, bytes_repr};
use fleetvisor_model::config::{LogLevel, repr};
use fleetvisor_model::name::ProcessName;
use nix::errno::Errno;
use nix::unistd::read;

use super::file::{End, LogFile, Short, Writer};
use super::spool::{Record, Spool};
use super::syslog::Syslog;
use super::tools::{CHUNK, Moved, Tools};
use super::transform::{Shown, Transform, Work};
use super::voice::Voice;
use crate::inbox::{Handle, Message};

/// What listeners have said that is kept for an agent that has not heard it.
const KEPT_OF_LISTENERS: u64 = 64 << 10;

/// What all streams of a thread share.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) daemon: Voice,
    pub(super) tools: Tools,
    pub(super) handle: Handle,
}

/// Which stream of which run of a program.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) instance: Instance,
    pub(super) name: ProcessName,
    pub(super) channel: Channel,
}

impl Source {
    pub(super) fn writer(&self) -> Writer {
        (self.instance, self.channel)
    }
}

#[derive(Debug)]
pub(super) struct Output {
    /// `None` where nothing is written.
    pub(super) file: Option<Rc<RefCell<LogFile>>>,
    syslog: Option<Syslog>,
    events: bool,
    looked_at: Option<Box<LookedAt>>,
}

/// A stream whose bytes this process has to see.
#[derive(Debug)]
struct LookedAt {
    /// `None` where the system has no memory for it: then a killed agent takes with it what it was just doing.
    spool: Option<Spool>,
    transform: Transform,
    /// The last that was recorded.
    recorded: Record,
    /// What a pipe or a terminal has not taken yet.
    rest: Vec<u8>,
}

/// What an output is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) file: Option<Rc<RefCell<LogFile>>>,
    pub(super) syslog: bool,
    pub(super) events: bool,
    pub(super) transform: Transform,
    pub(super) most_captured: usize,
}

impl Output {
    pub(super) fn new(parts: Parts) -> Result<Output, Errno> {
        let Parts { file, syslog, events, transform, most_captured } = parts;
        let mut output = Output { file, syslog: syslog.then(Syslog::default), events, looked_at: None };
        if !transform.is_nothing() {
            let spool = match Spool::new(most_captured, kept(&transform)) {
                Ok(spool) => Some(spool),
                Err(errno @ (Errno::EMFILE | Errno::ENFILE)) => return Err(errno),
                Err(_) => None,
            };
            output.look_at(spool, transform, Record::default());
        }
        Ok(output)
    }

    /// With the memory of an agent that is gone.
    pub(super) fn adopt(parts: Parts, memory: Option<OwnedFd>) -> Output {
        let Parts { file, syslog, events, mut transform, most_captured } = parts;
        let mut output = Output { file, syslog: syslog.then(Syslog::default), events, looked_at: None };
        if !transform.is_nothing() {
            let kept = kept(&transform);
            let adopted = memory.and_then(|memory| Spool::adopt(memory, most_captured, kept).ok());
            let (spool, record) = match adopted {
                Some((spool, record)) => (Some(spool), record),
                None => (None, Record::default()),
            };
            transform.go_on_from(record.clone(), most_captured);
            output.look_at(spool, transform, record);
        }
        output
    }

    fn look_at(&mut self, spool: Option<Spool>, transform: Transform, recorded: Record) {
        let looked_at = LookedAt { spool, transform, recorded, rest: Vec::new() };
        self.looked_at = Some(Box::new(looked_at));
    }

    /// To be kept for a successor.
    pub(super) fn memory(&self) -> Option<BorrowedFd<'_>> {
        self.looked_at.as_ref()?.spool.as_ref().map(Spool::memory)
    }

    pub(super) fn is_listener(&self) -> bool {
        self.looked_at.as_ref().is_some_and(|looked_at| looked_at.transform.is_listener)
    }

    /// Others write to the same file: it is to get whole lines.
    pub(super) fn is_shared(&self) -> bool {
        !self.is_listener() && self.file.as_ref().is_some_and(|file| Rc::strong_count(file) > 1)
    }

    /// Up to `most` bytes, no more than a chunk, out of the pipe to wherever they go. An error leaves all of them
    /// in the pipe.
    pub(super) fn take(
        &mut self,
        pipe: BorrowedFd<'_>,
        most: usize,
        source: &Source,
        common: &mut Common,
    ) -> Result<Moved, Errno> {
        if self.looked_at.is_some() {
            return self.look(pipe, most, source, common);
        }
        match &self.file {
            None => common.tools.move_to_nowhere(pipe),
            Some(file) => {
                let mut file = file.borrow_mut();
                let moved = file.move_in(pipe, most, &mut common.tools);
                moved.inspect_err(|errno| file.failed(*errno))
            }
        }
    }

    fn look(
        &mut self,
        pipe: BorrowedFd<'_>,
        most: usize,
        source: &Source,
        common: &mut Common,
    ) -> Result<Moved, Errno> {
        if !self.write_rest() {
            return Ok(Moved::Blocked);
        }
        let Some(looked_at) = &mut self.looked_at else { return Ok(Moved::Empty) };
        let moved = looked_at.fill(pipe, most, &mut common.tools, &mut common.daemon, source)?;
        if let Moved::Bytes(count) = moved {
            let chunk = std::mem::take(&mut common.tools.buffer);
            self.deal_with(&chunk[..count], None, source, common);
            common.tools.buffer = chunk;
        }
        Ok(moved)
    }

    /// Does again what an agent that was killed was just writing, at its place: nothing may go to the file before.
    /// A listener's first `heard` bytes are known, what it said after them is said again.
    pub(super) fn redo(&mut self, heard: u64, source: &Source, common: &mut Common) {
        let Some(looked_at) = &self.looked_at else { return };
        let (done, begun) = (looked_at.recorded.done, looked_at.recorded.begun);
        let Some(spool) = &looked_at.spool else { return };
        if looked_at.transform.is_listener
            && heard < done
            && let Ok(data) = spool.kept(heard, done)
        {
            let _ = common.handle.send(Message::ListenerSays { instance: source.instance, data, upto: done });
        }
        if begun.is_some() {
            self.go_on(begun, source, common);
        }
    }

    /// What an agent that was killed took from the pipe and had not begun to write.
    pub(super) fn catch_up(&mut self, source: &Source, common: &mut Common) {
        while self.go_on(None, source, common) {}
    }

    /// False where there is nothing in the spool that is not done.
    fn go_on(&mut self, again: Option<End>, source: &Source, common: &mut Common) -> bool {
        let Some(looked_at) = &self.looked_at else { return false };
        let LookedAt { spool: Some(spool), recorded, .. } = &**looked_at else { return false };
        let left = spool.taken_after(recorded.done);
        if left == 0 {
            return false;
        }
        let mut chunk = vec![0; CHUNK.min(left)];
        let Ok(count @ 1..) = spool.read(recorded.done, &mut chunk) else { return false };
        self.deal_with(&chunk[..count], again, source, common);
        // It may have been cut within a line by the kill.
        if let Some(file) = self.file.as_ref().filter(|_| !chunk[..count].ends_with(b"\n")) {
            file.borrow_mut().opens_line(source.writer());
        }
        true
    }

    /// What was held back, once nothing follows.
    pub(super) fn finish(&mut self, source: &Source, common: &mut Common) {
        let Some(looked_at) = &mut self.looked_at else { return };
        let work = looked_at.transform.finish();
        if work != Work::default() {
            self.log(work, &[], None, source, common);
        }
        if !self.write_rest()
            && let (Some(file), Some(looked_at)) = (&self.file, &mut self.looked_at)
        {
            let mut file = file.borrow_mut();
            file.trouble.begin(Errno::EAGAIN);
            file.trouble.lose(looked_at.rest.len());
            looked_at.rest.clear();
        }
    }

    fn deal_with(&mut self, chunk: &[u8], again: Option<End>, source: &Source, common: &mut Common) {
        let Some(looked_at) = &mut self.looked_at else { return };
        let work = looked_at.transform.work(chunk);
        self.log(work, chunk, again, source, common);
    }

    /// Writes, records, and then tells everybody else: they hear of each byte once at most.
    fn log(&mut self, work: Work, chunk: &[u8], again: Option<End>, source: &Source, common: &mut Common) {
        let Some(looked_at) = &mut self.looked_at else { return };
        if let Some(file) = self.file.as_ref().filter(|_| !work.text.is_empty()) {
            let mut file = file.borrow_mut();
            let written = match again {
                Some(_) => file.write_again(&work.text, again),
                None => {
                    if let Ok(end) = file.end() {
                        looked_at.announce(end);
                    }
                    file.write(&work.text)
                }
            };
            match written {
                Ok(()) => {}
                Err(Short { written, errno: Errno::EAGAIN }) => {
                    looked_at.rest = work.text[written..].to_vec();
                }
                Err(Short { written, errno }) => {
                    file.failed(errno);
                    file.trouble.lose(work.text.len() - written);
                }
            }
            looked_at.record(chunk.len());
            // Not before: what is written again after a kill must find its place.
            file.rotate_if_due();
        } else {
            looked_at.record(chunk.len());
        }
        let upto = looked_at.recorded.done;
        if looked_at.transform.is_listener && !chunk.is_empty() {
            let Source { instance, .. } = *source;
            let _ = common.handle.send(Message::ListenerSays { instance, data: chunk.to_vec(), upto });
            common.echo(source, || bytes_repr(chunk));
        }
        for shown in work.shown {
            self.show(shown, source, common);
        }
    }

    fn show(&mut self, shown: Shown, source: &Source, common: &mut Common) {
        let Source { instance, channel, .. } = *source;
        match shown {
            Shown::Logged(data) => {
                if let Some(syslog) = &mut self.syslog {
                    syslog.text(&format!("{} ", source.name.process), &String::from_utf8_lossy(&data));
                }
                self.tell(data, source, common);
            }
            Shown::Captured(data) => self.tell(data, source, common),
            Shown::Communication(data) => {
                let _ = common.handle.send(Message::Communication { instance, channel, data });
                let line = format!("{} {} emitted a comm event", repr(&source.name.process), channel.name());
                common.daemon.line(LogLevel::Debug, &line);
            }
        }
    }

    fn tell(&mut self, data: Vec<u8>, source: &Source, common: &mut Common) {
        common.echo(source, || match std::str::from_utf8(&data) {
            Ok(text) => text.to_owned(),
            Err(_) => format!("Undecodable: {}", bytes_repr(&data)),
        });
        if self.events {
            let Source { instance, channel, .. } = *source;
            let _ = common.handle.send(Message::Logged { instance, channel, data });
        }
    }

    /// False while a pipe or a terminal takes nothing.
    fn write_rest(&mut self) -> bool {
        let (Some(looked_at), Some(file)) = (&mut self.looked_at, &self.file) else { return true };
        if looked_at.rest.is_empty() {
            return true;
        }
        let mut file = file.borrow_mut();
        match file.write(&looked_at.rest) {
            Ok(()) => {
                looked_at.rest.clear();
                file.rotate_if_due();
            }
            Err(Short { written, errno: Errno::EAGAIN }) => {
                looked_at.rest.drain(..written);
            }
            Err(Short { written, errno }) => {
                file.failed(errno);
                file.trouble.lose(looked_at.rest.len() - written);
                looked_at.rest.clear();
            }
        }
        looked_at.rest.is_empty()
    }
}

impl LookedAt {
    /// Up to `most` bytes into the buffer.
    fn fill(
        &mut self,
        pipe: BorrowedFd<'_>,
        most: usize,
        tools: &mut Tools,
        daemon: &mut Voice,
        source: &Source,
    ) -> Result<Moved, Errno> {
        if let Some(spool) = &mut self.spool {
            match spool.take(pipe, most.min(CHUNK)) {
                Ok(Moved::Bytes(_)) => {
                    let count = spool.read(self.recorded.done, &mut tools.buffer)?;
                    return Ok(Moved::Bytes(count));
                }
                Ok(other) => return Ok(other),
                Err(errno) => {
                    let line = format!(
                        "no memory for the output of {}: {}; it is read without, and what is being read is lost \
                         if the agent is killed",
                        source.name,
                        errno.desc()
                    );
                    daemon.line(LogLevel::Warn, &line);
                    self.spool = None;
                }
            }
        }
        match read(pipe, &mut tools.buffer[..most.min(CHUNK)]) {
            Ok(0) => Ok(Moved::Ended),
            Ok(count) => Ok(Moved::Bytes(count)),
            Err(Errno::EAGAIN) => Ok(Moved::Empty),
            Err(errno) => Err(errno),
        }
    }

    /// What is written next goes there.
    fn announce(&mut self, end: Option<End>) {
        self.recorded.begun = end;
        if let (Some(spool), Some(_)) = (&mut self.spool, end) {
            // Without it the text would go to the end of the file if it had to be written again.
            let _ = spool.record(&self.recorded);
        }
    }

    /// So many more bytes are done.
    fn record(&mut self, count: usize) {
        let done = self.recorded.done + count as u64;
        self.recorded = Record { done, begun: None, ..self.transform.state() };
        if let Some(spool) = &mut self.spool {
            if spool.record(&self.recorded).is_err() {
                self.spool = None;
                return;
            }
            spool.trim(done);
        }
    }
}

impl Common {
    /// What a program wrote, in the daemon's own log.
    fn echo(&mut self, source: &Source, output: impl FnOnce() -> String) {
        if self.daemon.level() >= LogLevel::Debug {
            let line =
                format!("{} {} output:\n{}", repr(&source.name.process), source.channel.name(), output());
            self.daemon.line(LogLevel::Debug, &line);
        }
    }
}

fn kept(transform: &Transform) -> u64 {
    if transform.is_listener { KEPT_OF_LISTENERS } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::path::Path;

    use nix::fcntl::OFlag;
    use nix::unistd::{pipe2, write};

    use super::super::daemon::DaemonLog;
    use super::super::rotate::Rotation;
    use super::*;
    use crate::inbox::Facts;

    fn common() -> Common {
        let facts = Facts {
            pid: 1,
            identifier: String::new(),
            logfile: fleetvisor_model::config::LogTarget::None,
            config_path: std::path::PathBuf::new(),
            executable: std::path::PathBuf::new(),
        };
        let handle = Handle::new(tokio::sync::mpsc::unbounded_channel().0, facts);
        Common {
            daemon: Voice::Own(DaemonLog::nowhere()),
            tools: Tools::new(Default::default()).unwrap(),
            handle,
        }
    }

    fn parts(log: &Rc<RefCell<LogFile>>) -> Parts {
        let transform = Transform::new(true, 0, false, false);
        Parts { file: Some(Rc::clone(log)), syslog: false, events: false, transform, most_captured: 0 }
    }

    fn source(instance: u64) -> Source {
        let name = ProcessName::new("g", "p");
        Source { instance: Instance(instance), name, channel: Channel::Stdout }
    }

    fn log(path: &Path) -> Rc<RefCell<LogFile>> {
        Rc::new(RefCell::new(LogFile::closed(path, Rotation::NEVER)))
    }

    /// Two share a log; A has written, then B; then A's next bytes are taken, and at most begun to be written,
    /// when everything ends.
    fn killed(begins: bool) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let text = || std::fs::read_to_string(&path).unwrap();
        let (mut common, first) = (common(), log(&path));
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        let mut outputs = [1, 2].map(|_| Output::new(parts(&first)).unwrap());
        for (output, number) in outputs.iter_mut().zip(1..) {
            write(&theirs, format!("first of {number}\n").as_bytes()).unwrap();
            output.take(ours.as_fd(), CHUNK, &source(number), &mut common).unwrap();
        }
        let [a, b] = &mut outputs;
        write(&theirs, b"\x1b[1msecond of 1\n").unwrap();
        let of_a = a.looked_at.as_mut().unwrap();
        of_a.fill(ours.as_fd(), CHUNK, &mut common.tools, &mut common.daemon, &source(1)).unwrap();
        if begins {
            of_a.announce(first.borrow_mut().end().unwrap());
            first.borrow_mut().write(b"seco").unwrap();
        }
        let memory = |output: &Output| output.memory().unwrap().try_clone_to_owned().unwrap();
        let memories = [memory(b), memory(a)];

        let second = log(&path);
        let mut successors = memories.map(|memory| Output::adopt(parts(&second), Some(memory)));
        for (output, number) in successors.iter_mut().zip([2, 1]) {
            output.redo(0, &source(number), &mut common);
        }
        for (output, number) in successors.iter_mut().zip([2, 1]) {
            output.catch_up(&source(number), &mut common);
        }
        assert_eq!(text(), "first of 1\nfirst of 2\nsecond of 1\n");
    }

    #[test]
    fn what_was_taken_and_not_begun_goes_after_what_others_have_written() {
        killed(false);
    }

    #[test]
    fn what_was_begun_is_written_again_at_its_place() {
        killed(true);
    }
}
