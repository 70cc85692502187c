//! Who goes when memory runs out: programs as they were meant to, the agent after them, the keeper never. Where the
//! kernel does not allow a lower score, which takes privilege, nothing changes.

use std::fs;

use nix::sys::prctl;

const FILE: &str = "/proc/self/oom_score_adj";
const KEEPER: i32 = -1000;
const AGENT: i32 = -900;

#[derive(Debug)]
pub(crate) struct OomScore {
    /// What programs get; `None` where the keeper's own was left as it is.
    programs: Option<i32>,
}

impl OomScore {
    pub(crate) fn protect() -> OomScore {
        let own = fs::read_to_string(FILE).ok().and_then(|score| score.trim().parse().ok());
        OomScore { programs: own.filter(|own| *own > KEEPER && set(KEEPER)) }
    }

    /// By a keeper, or an agent of one, in whose place this process is.
    pub(crate) fn protected(programs: Option<i32>) -> OomScore {
        match programs {
            Some(programs) => {
                set(KEEPER);
                OomScore { programs: Some(programs) }
            }
            None => OomScore::protect(),
        }
    }

    pub(crate) fn of_programs(&self) -> Option<i32> {
        self.programs
    }

    /// For a program that was just forked.
    pub(crate) fn restore(&self) {
        self.give(|programs| programs);
    }

    /// For an agent that was just forked.
    pub(crate) fn lower(&self) {
        self.give(|programs| programs.min(AGENT));
    }

    fn give(&self, score: impl Fn(i32) -> i32) {
        let Some(programs) = self.programs else { return };
        // A keeper that dropped its privileges is not dumpable, and then its children's files in /proc belong to
        // root until they execute something.
        let _ = prctl::set_dumpable(true);
        set(score(programs));
    }
}

fn set(score: i32) -> bool {
    fs::write(FILE, score.to_string()).is_ok()
}
