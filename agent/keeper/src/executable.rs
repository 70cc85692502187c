//! Which program the next agent is: the keeper's own, or one that an agent has passed when it asked to be replaced.
//! The program before it is kept until an agent has lived for a while with the new one, and comes back if none does.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// An agent of a new program may take this long to be up.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Executable {
    /// The keeper's own, usually `/proc/self/exe`.
    own: PathBuf,
    /// What was passed; `None` for the keeper's own.
    passed: Option<OwnedFd>,
    /// What was before, while it may have to come back.
    before: Option<Option<OwnedFd>>,
    /// When an agent that is not up yet has failed.
    deadline: Option<Instant>,
}

impl Executable {
    pub(crate) fn new(own: PathBuf) -> Executable {
        Executable { own, passed: None, before: None, deadline: None }
    }

    /// To be executed by a child of this process, to which the descriptors are still open then.
    pub(crate) fn path(&self) -> PathBuf {
        match &self.passed {
            Some(passed) => format!("/proc/self/fd/{}", passed.as_raw_fd()).into(),
            None => self.own.clone(),
        }
    }

    /// From the next agent on.
    pub(crate) fn replace(&mut self, passed: OwnedFd) {
        let before = self.passed.replace(passed);
        // Of two that have not proved themselves, the one that did is what to come back to.
        self.before.get_or_insert(before);
    }

    pub(crate) fn is_on_trial(&self) -> bool {
        self.before.is_some()
    }

    /// An agent of it has lived.
    pub(crate) fn settle(&mut self) {
        self.before = None;
    }

    /// Back to the one before, if there is one.
    pub(crate) fn fall_back(&mut self) -> bool {
        let Some(before) = self.before.take() else { return false };
        self.passed = before;
        true
    }

    /// An agent was started.
    pub(crate) fn started(&mut self) {
        self.deadline = self.is_on_trial().then(|| Instant::now() + LIMIT);
    }

    /// The agent is up, or has ended.
    pub(crate) fn stop_waiting(&mut self) {
        self.deadline = None;
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> OwnedFd {
        std::fs::File::open("/proc/self/exe").unwrap().into()
    }

    #[test]
    fn the_one_before_comes_back_once_and_only_while_the_new_one_is_on_trial() {
        let mut executable = Executable::new("/proc/self/exe".into());
        assert!(!executable.fall_back());
        executable.replace(program());
        let first = executable.path();
        assert!(executable.is_on_trial() && first.starts_with("/proc/self/fd"));
        executable.settle();
        executable.replace(program());
        assert_ne!(executable.path(), first);
        assert!(executable.fall_back());
        assert_eq!(executable.path(), first);
        assert!(!executable.fall_back());
    }

    #[test]
    fn what_never_lived_is_not_come_back_to() {
        let mut executable = Executable::new("/own".into());
        executable.replace(program());
        executable.replace(program());
        assert!(executable.fall_back());
        assert_eq!(executable.path(), PathBuf::from("/own"));
    }

    #[test]
    fn only_an_agent_on_trial_has_a_time_to_be_up() {
        let mut executable = Executable::new("/own".into());
        executable.started();
        assert_eq!(executable.deadline(), None);
        executable.replace(program());
        executable.started();
        assert!(executable.deadline().is_some());
        executable.stop_waiting();
        assert_eq!(executable.deadline(), None);
    }
}
