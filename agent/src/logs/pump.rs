//! One pipe and the pace at which it is emptied. A line that comes alone is taken at once; a pipe that is written
//! to without a pause is emptied about once a millisecond, and what is filled faster gets larger. No pump keeps
//! the thread for long: after a slice it is the others' turn.
//!
//! A log that can't be written leaves its bytes in the pipe for as long as there is room, so that a short outbreak
//! costs nothing; then the oldest are thrown away and counted. A program is never kept waiting for its log.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::file::Writer;
use super::output::{Common, Output, Source};
use super::tools::{CHUNK, Moved, Tools};

/// Between two passes over a pipe that is being written to.
const PACE: Duration = Duration::from_millis(1);
/// Taken in one pass, or a little more.
const SLICE: usize = 512 << 10;
/// How long the beginning of a line waits for its end, where others write to the same file.
const HOLD: Duration = Duration::from_secs(1);
/// Between two looks at a target that takes nothing, or at a log that can't be written.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Most that is taken from a pipe whose program has ended; others may hold it and write on.
const LAST: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Pump {
    pub(super) source: Source,
    pub(super) output: Output,
    pipe: OwnedFd,
    capacity: usize,
    last: Option<Instant>,
    pause: Duration,
    /// Since when the beginning of a line has been waiting.
    held: Option<Instant>,
    /// When the next pass is due.
    pub(super) due: Option<Instant>,
    /// Its program has ended, and what it left waits for a pipe or a terminal.
    pub(super) lingers: bool,
}

/// When a pump wants its next pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Readable,
    At(Instant),
    Now,
    /// Nobody can write to the pipe any more.
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Emptied,
    Slice,
    Held,
    Blocked,
    /// The log can't be written; some bytes were thrown away, or none.
    Trouble {
        lost: bool,
    },
    Ended,
}

/// What is to be taken at once.
#[derive(Clone, Copy, Debug)]
struct Share {
    most: usize,
    /// It is whole lines.
    ends_line: bool,
}

impl Pump {
    pub(super) fn new(source: Source, output: Output, pipe: OwnedFd, tools: &mut Tools) -> Pump {
        let capacity = tools.opened(pipe.as_fd());
        Pump {
            source,
            output,
            pipe,
            capacity,
            last: None,
            pause: PACE,
            held: None,
            due: None,
            lingers: false,
        }
    }

    pub(super) fn pipe(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    pub(super) fn close(self, tools: &mut Tools) {
        if let Some(file) = &self.output.file {
            file.borrow_mut().closes_line(self.source.writer());
        }
        tools.closed(self.capacity);
    }

    /// Who has begun a line in the file and not ended it, if that is another.
    pub(super) fn line_of_another(&self) -> Option<Writer> {
        self.output.file.as_ref()?.borrow_mut().line_of_another(self.source.writer())
    }

    /// Takes what makes whole lines, whatever its pace.
    pub(super) fn end_line(&mut self, now: Instant, common: &mut Common) {
        self.run(false, now, common);
    }

    pub(super) fn pass(&mut self, now: Instant, common: &mut Common) -> Next {
        let paced = !self.output.is_listener();
        let since = self.last.map(|last| now.saturating_duration_since(last));
        if let Some(since) = since.filter(|since| paced && *since < PACE) {
            return Next::At(now + (PACE - since));
        }
        let (moved, stop) = self.run(self.lingers, now, common);
        if moved > 0 {
            self.last = Some(now);
        }
        if moved > 0 || stop == (Stop::Trouble { lost: true }) {
            self.pause = PACE;
        }
        match stop {
            Stop::Ended => Next::Never,
            Stop::Emptied if moved == 0 => Next::Readable,
            Stop::Slice | Stop::Emptied if moved >= self.capacity / 2 => {
                self.capacity = common.tools.enlarge(self.pipe.as_fd(), self.capacity);
                self.last = None;
                Next::Now
            }
            Stop::Slice => {
                self.last = None;
                Next::Now
            }
            // It came soon after the one before: more will.
            Stop::Emptied if paced && since.is_some_and(|since| since < 2 * PACE) => Next::At(now + PACE),
            Stop::Emptied => Next::Readable,
            Stop::Held | Stop::Blocked | Stop::Trouble { .. } => {
                let at = now + self.pause;
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                Next::At(at)
            }
        }
    }

    /// What is left of a program that has ended. False where the target takes nothing now: then passes go on.
    pub(super) fn drain(&mut self, now: Instant, common: &mut Common) -> bool {
        let mut taken = 0;
        loop {
            let (moved, stop) = self.run(true, now, common);
            taken += moved;
            match stop {
                Stop::Blocked => {
                    self.lingers = true;
                    return false;
                }
                Stop::Slice if taken < LAST.max(self.capacity) => {}
                Stop::Slice | Stop::Emptied | Stop::Held | Stop::Trouble { .. } | Stop::Ended => {
                    self.output.finish(&self.source, common);
                    return true;
                }
            }
        }
    }

    /// Takes what there is, or a slice of it; with `all`, also what would better wait.
    fn run(&mut self, all: bool, now: Instant, common: &mut Common) -> (usize, Stop) {
        let mut moved = 0;
        self.output.catch_up(&self.source, common);
        while moved < SLICE {
            let Share { most, ends_line } = match self.share(all, now, &mut common.tools) {
                Ok(share) => share,
                Err(stop) => return (moved, stop),
            };
            let writer = self.source.writer();
            if let Some(file) = self.output.file.as_ref().filter(|_| !ends_line) {
                file.borrow_mut().opens_line(writer);
            }
            match self.output.take(self.pipe.as_fd(), most, &self.source, common) {
                Ok(Moved::Bytes(count)) => {
                    if let Some(file) = self.output.file.as_ref().filter(|_| ends_line && count == most) {
                        file.borrow_mut().closes_line(writer);
                    }
                    moved += count;
                    self.held = None;
                    if count < most {
                        return (moved, Stop::Emptied);
                    }
                }
                Ok(Moved::Empty) => return (moved, Stop::Emptied),
                Ok(Moved::Ended) => return (moved, Stop::Ended),
                Ok(Moved::Blocked) => return (moved, Stop::Blocked),
                Err(_) => return (moved, self.make_room(all, common)),
            }
        }
        (moved, Stop::Slice)
    }

    /// How much to take so that lines are not torn, where others write to the same file.
    fn share(&mut self, all: bool, now: Instant, tools: &mut Tools) -> Result<Share, Stop> {
        let anything = Share { most: CHUNK, ends_line: false };
        if all || !self.output.is_shared() {
            return Ok(anything);
        }
        let count = match tools.peek(self.pipe.as_fd()) {
            Ok(Moved::Bytes(count)) => count,
            Ok(Moved::Ended) => return Err(Stop::Ended),
            Ok(Moved::Empty | Moved::Blocked) => return Err(Stop::Emptied),
            // Then lines may be torn.
            Err(_) => return Ok(anything),
        };
        let end = tools.buffer[..count].iter().rposition(|byte| *byte == b'\n');
        let has_waited = |held: Instant| now.saturating_duration_since(held) >= HOLD;
        if self.line_of_another().is_some() && !has_waited(*self.held.get_or_insert(now)) {
            return Err(Stop::Held);
        }
        if let Some(at) = end {
            return Ok(Share { most: at + 1, ends_line: true });
        }
        let held = *self.held.get_or_insert(now);
        if count >= CHUNK.min(nearly_full(self.capacity)) || has_waited(held) {
            return Ok(Share { most: count, ends_line: false });
        }
        Err(Stop::Held)
    }

    /// The log can't be written: the program must not wait for that.
    fn make_room(&mut self, all: bool, common: &mut Common) -> Stop {
        let tools = &common.tools;
        let there = tools.fill(self.pipe.as_fd());
        if !all && there < nearly_full(self.capacity.min(tools.sees)) {
            return Stop::Trouble { lost: false };
        }
        let left = if all { 0 } else { self.capacity / 8 };
        let lost = tools.throw_away(&self.pipe, there.saturating_sub(left));
        if let Some(file) = &self.output.file {
            file.borrow_mut().trouble.lose(lost);
        }
        Stop::Trouble { lost: lost > 0 }
    }
}

/// A pipe holds pages, which are never half empty but often not full.
fn nearly_full(capacity: usize) -> usize {
    capacity / 8 * 3
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use fleetvisor_core::effect::Instance;
    use fleetvisor_core::event::Channel;
    use fleetvisor_model::config::LogTarget;
    use fleetvisor_model::name::ProcessName;
    use nix::fcntl::OFlag;
    use nix::unistd::{pipe2, write};

    use super::super::daemon::DaemonLog;
    use super::super::file::LogFile;
    use super::super::output::Parts;
    use super::super::rotate::Rotation;
    use super::super::transform::Transform;
    use super::super::voice::Voice;
    use super::*;
    use crate::inbox::{Facts, Handle};

    type Log = Rc<RefCell<LogFile>>;

    /// Programs with one log, and a clock that goes when it is told to.
    struct Case {
        folder: tempfile::TempDir,
        common: Common,
        now: Instant,
    }

    impl Case {
        fn new() -> Case {
            let folder = tempfile::tempdir().unwrap();
            let facts = Facts {
                pid: 1,
                identifier: String::new(),
                logfile: LogTarget::None,
                config_path: folder.path().join("supervisord.conf"),
                executable: std::path::PathBuf::new(),
            };
            let handle = Handle::new(tokio::sync::mpsc::unbounded_channel().0, facts);
            let common = Common {
                daemon: Voice::Own(DaemonLog::nowhere()),
                tools: Tools::new(Default::default()).unwrap(),
                handle,
            };
            Case { folder, common, now: Instant::now() }
        }

        fn log(&self, maxbytes: u64) -> Log {
            let log = LogFile::open(&self.folder.path().join("log"), Rotation { maxbytes, backups: 5 });
            Rc::new(RefCell::new(log.unwrap()))
        }

        fn start(&mut self, instance: u64, log: Log) -> (Pump, OwnedFd) {
            let (ours, theirs) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
            let name = ProcessName::new("g", "p");
            let source = Source { instance: Instance(instance), name, channel: Channel::Stdout };
            let output = Output::new(Parts {
                file: Some(log),
                syslog: false,
                events: false,
                transform: Transform::new(false, 0, false, false),
                most_captured: 0,
            });
            (Pump::new(source, output.unwrap(), ours, &mut self.common.tools), theirs)
        }

        /// A pass some milliseconds after the one before.
        fn pass(&mut self, pump: &mut Pump) {
            self.now += 5 * PACE;
            pump.pass(self.now, &mut self.common);
        }

        /// What is in the log, its backups first.
        fn text(&self) -> String {
            let read = |name| std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
            ["log.2", "log.1", "log"].map(read).concat()
        }
    }

    /// A has the log for itself, and writes the beginning of a line; then B comes.
    fn begun(case: &mut Case, maxbytes: u64) -> [(Pump, OwnedFd); 2] {
        let log = case.log(maxbytes);
        let mut a = case.start(1, log);
        write(&a.1, b"one\na-").unwrap();
        case.pass(&mut a.0);
        assert_eq!(case.text(), "one\na-");
        let log = a.0.output.file.clone().unwrap();
        let b = case.start(2, log);
        write(&b.1, b"two\n").unwrap();
        [a, b]
    }

    #[test]
    fn who_comes_later_waits_for_the_line_that_has_been_begun() {
        // Within one file, and where the line began just before a rotation.
        for maxbytes in [0, 6] {
            let mut case = Case::new();
            let [mut a, mut b] = begun(&mut case, maxbytes);
            case.pass(&mut b.0);
            assert_eq!(case.text(), "one\na-");
            write(&a.1, b"end\na-").unwrap();
            case.pass(&mut a.0);
            case.pass(&mut b.0);
            assert_eq!(case.text(), "one\na-end\ntwo\n");
        }
    }

    #[test]
    fn a_line_that_is_not_ended_holds_nobody_up_for_long() {
        let mut case = Case::new();
        let [_a, mut b] = begun(&mut case, 0);
        case.pass(&mut b.0);
        case.now += HOLD;
        case.pass(&mut b.0);
        assert_eq!(case.text(), "one\na-two\n");
        write(&b.1, b"three\n").unwrap();
        case.pass(&mut b.0);
        assert_eq!(case.text(), "one\na-two\nthree\n");
    }

    #[test]
    fn who_is_gone_has_no_line_to_end() {
        let mut case = Case::new();
        let [(a, _), mut b] = begun(&mut case, 0);
        a.close(&mut case.common.tools);
        case.pass(&mut b.0);
        assert_eq!(case.text(), "one\na-two\n");
    }
}
