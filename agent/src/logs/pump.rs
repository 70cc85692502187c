//! One pipe and the pace at which it is emptied. A line that comes alone is taken at once; a pipe that is written
//! to without a pause is emptied about once a millisecond, and what is filled faster gets larger. No pump keeps
//! the thread for long: after a slice it is the others' turn.
//!
//! A log that can't be written leaves its bytes in the pipe for as long as there is room, so that a short outbreak
//! costs nothing; then the oldest are thrown away and counted. A program is never kept waiting for its log.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

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
        tools.closed(self.capacity);
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
        while moved < SLICE {
            let most = match self.whole_lines(all, now, &mut common.tools) {
                Ok(most) => most,
                Err(stop) => return (moved, stop),
            };
            match self.output.take(self.pipe.as_fd(), most, &self.source, common) {
                Ok(Moved::Bytes(count)) => {
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
    fn whole_lines(&mut self, all: bool, now: Instant, tools: &mut Tools) -> Result<usize, Stop> {
        if all || !self.output.is_shared() {
            return Ok(CHUNK);
        }
        let count = match tools.peek(self.pipe.as_fd()) {
            Ok(Moved::Bytes(count)) => count,
            Ok(Moved::Ended) => return Err(Stop::Ended),
            Ok(Moved::Empty | Moved::Blocked) => return Err(Stop::Emptied),
            // Then lines may be torn.
            Err(_) => return Ok(CHUNK),
        };
        if let Some(at) = tools.buffer[..count].iter().rposition(|byte| *byte == b'\n') {
            return Ok(at + 1);
        }
        let held = *self.held.get_or_insert(now);
        if count >= CHUNK.min(nearly_full(self.capacity)) || now.saturating_duration_since(held) >= HOLD {
            return Ok(count);
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
