//! How a thread of logs says something in the daemon's log: one of them has it, the others send it their lines.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fleetvisor_model::config::LogLevel;

use super::daemon::DaemonLog;
use super::trouble::Failure;
use super::{Command, Sender};

/// Bytes of lines that wait until the daemon's log takes them. More are left out, and counted: neither this disk nor
/// the memory may suffer from the other disk.
const MOST_WAITING: usize = 4 << 20;

#[derive(Debug)]
pub(super) enum Voice {
    Own(DaemonLog),
    Sent { level: LogLevel, home: Arc<Sender>, waiting: Arc<AtomicUsize>, left_out: usize },
}

/// The place that a line takes until it is written.
#[derive(Debug)]
pub(super) struct Room {
    waiting: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Voice {
    pub(super) fn sent(level: LogLevel, home: Arc<Sender>) -> Voice {
        Voice::Sent { level, home, waiting: Arc::default(), left_out: 0 }
    }

    /// Lines below it are not wanted.
    pub(super) fn level(&self) -> LogLevel {
        match self {
            Voice::Own(daemon) => daemon.level(),
            Voice::Sent { level, .. } => *level,
        }
    }

    /// Of the log that another thread has.
    pub(super) fn set_level(&mut self, new: LogLevel) {
        if let Voice::Sent { level, .. } = self {
            *level = new;
        }
    }

    pub(super) fn line(&mut self, said: LogLevel, line: &str) {
        match self {
            Voice::Own(daemon) => daemon.line(said, line),
            Voice::Sent { level, .. } if said > *level => {}
            Voice::Sent { home, waiting, left_out, .. } => {
                if waiting.load(Ordering::Relaxed) + line.len() > MOST_WAITING {
                    *left_out += 1;
                    return;
                }
                let send = |level, line: String| {
                    let bytes = line.len();
                    waiting.fetch_add(bytes, Ordering::Relaxed);
                    let room = Room { waiting: Arc::clone(waiting), bytes };
                    home.send(Command::Said { level, line, room });
                };
                let count = std::mem::take(left_out);
                if count > 0 {
                    let line = format!("{count} lines of programs are missing here: too many came at once");
                    send(LogLevel::Warn, line);
                }
                send(said, line.to_owned());
            }
        }
    }

    /// What keeps the log that is here from being written.
    pub(super) fn failure(&self) -> Option<Failure> {
        match self {
            Voice::Own(daemon) => daemon.failure(),
            Voice::Sent { .. } => None,
        }
    }

    /// Whether [`failure`](Self::failure) is different since this was last asked.
    pub(super) fn take_troubled(&mut self) -> bool {
        match self {
            Voice::Own(daemon) => daemon.take_troubled(),
            Voice::Sent { .. } => false,
        }
    }

    pub(super) fn reopen(&mut self) {
        match self {
            Voice::Own(daemon) => daemon.reopen(),
            Voice::Sent { .. } => {}
        }
    }

    pub(super) fn clear(&mut self) -> Result<(), String> {
        match self {
            Voice::Own(daemon) => daemon.clear(),
            Voice::Sent { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::super::poller::Poller;
    use super::*;

    #[test]
    fn lines_that_find_no_room_are_counted_and_said() {
        let (commands, coming) = mpsc::channel();
        let home = Arc::new(Sender { commands, wake: Poller::new().unwrap().waker() });
        let mut voice = Voice::sent(LogLevel::Debug, home);
        let long = "x".repeat(1 << 20);
        voice.line(LogLevel::Trace, "not wanted");
        for _ in 0..6 {
            voice.line(LogLevel::Debug, &long);
        }
        assert_eq!(coming.try_iter().count(), 4);
        voice.line(LogLevel::Debug, "more");
        let said: Vec<_> = coming.try_iter().map(|command| format!("{command:?}")).collect();
        assert_eq!(said.len(), 2);
        assert!(said[0].contains("2 lines of programs are missing here"), "{}", said[0]);
    }
}
