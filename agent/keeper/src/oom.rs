//! Keeps the keeper alive when memory runs out: its score is lowered, every child gets the original one back.
//! Where the kernel does not allow that, nothing changes.

use std::fs;

use nix::sys::prctl;

const FILE: &str = "/proc/self/oom_score_adj";
const PROTECTED: i32 = -900;

#[derive(Debug)]
pub(crate) struct OomScore {
    /// What children get back; `None` where the keeper's own was left as it is.
    original: Option<String>,
}

impl OomScore {
    pub(crate) fn protect() -> OomScore {
        let original = fs::read_to_string(FILE).ok();
        let higher = original.filter(|score| score.trim().parse().is_ok_and(|score: i32| score > PROTECTED));
        OomScore { original: higher.filter(|_| fs::write(FILE, PROTECTED.to_string()).is_ok()) }
    }

    /// For a child that was just forked.
    pub(crate) fn restore(&self) {
        let Some(original) = &self.original else { return };
        // A keeper that dropped its privileges is not dumpable, and then its children's files in /proc belong to
        // root until they execute something.
        let _ = prctl::set_dumpable(true);
        let _ = fs::write(FILE, original);
    }
}
