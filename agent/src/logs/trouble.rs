//! What keeps a log from being written, and what is said of it: the reason once, and how much was lost once it
//! is written again.

use fleetvisor_model::config::LogLevel;
use nix::errno::Errno;

/// Of one log.
#[derive(Debug)]
pub(super) struct Trouble {
    shown: String,
    now: Option<Failure>,
    cannot_rotate: Option<Errno>,
    said: Vec<(LogLevel, String)>,
    changed: bool,
}

/// A log that can't be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) log: String,
    /// As the system words it.
    pub(crate) reason: String,
    /// Bytes that could not be written since it began.
    pub(crate) lost: u64,
}

impl Trouble {
    pub(super) fn new(shown: String) -> Trouble {
        Trouble { shown, now: None, cannot_rotate: None, said: Vec::new(), changed: false }
    }

    pub(super) fn now(&self) -> Option<&Failure> {
        self.now.as_ref()
    }

    /// A write has failed.
    pub(super) fn begin(&mut self, errno: Errno) {
        let reason = errno.desc();
        self.changed = true;
        match &mut self.now {
            Some(failure) => failure.reason = reason.to_owned(),
            None => {
                self.said.push((LogLevel::Error, format!("cannot write log {}: {reason}", self.shown)));
                let failure = Failure { log: self.shown.clone(), reason: reason.to_owned(), lost: 0 };
                self.now = Some(failure);
            }
        }
    }

    pub(super) fn lose(&mut self, bytes: usize) {
        if let Some(failure) = &mut self.now {
            failure.lost += bytes as u64;
            self.changed = true;
        }
    }

    /// A write has succeeded.
    pub(super) fn end(&mut self) {
        if let Some(Failure { lost, .. }) = self.now.take() {
            self.changed = true;
            let line = format!("log {} is written again; {lost} bytes were lost", self.shown);
            self.said.push((LogLevel::Warn, line));
        }
    }

    /// The log goes on in the same file.
    pub(super) fn cannot_rotate(&mut self, errno: Errno) {
        if self.cannot_rotate.replace(errno).is_none() {
            let line = format!("cannot rotate log {}: {}", self.shown, errno.desc());
            self.said.push((LogLevel::Error, line));
        }
    }

    pub(super) fn rotated(&mut self) {
        self.cannot_rotate = None;
    }

    /// Lines for the daemon's log.
    pub(super) fn take_said(&mut self) -> Vec<(LogLevel, String)> {
        std::mem::take(&mut self.said)
    }

    /// Whether anything is different since this was last asked.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outbreak_is_said_once_and_its_losses_at_its_end() {
        let mut trouble = Trouble::new("/x".to_owned());
        trouble.lose(9);
        trouble.end();
        for _ in 0..3 {
            trouble.begin(Errno::ENOSPC);
            trouble.lose(2);
        }
        assert_eq!(trouble.now().map(|failure| failure.lost), Some(6));
        trouble.end();
        trouble.end();
        let said = [
            (LogLevel::Error, "cannot write log /x: No space left on device".to_owned()),
            (LogLevel::Warn, "log /x is written again; 6 bytes were lost".to_owned()),
        ];
        assert_eq!(trouble.take_said(), said);
        assert_eq!(trouble.take_said(), []);
    }
}
