//! How long to stay away after a link is lost: full jitter under a ceiling that doubles, so that a fleet
//! comes back spread out.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const CEILING: Duration = Duration::from_secs(30);
/// Even the luckiest waits this long: a controller that refuses at once is not hammered.
const LEAST: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// A link was up: the next loss starts from the beginning.
    pub(super) fn linked(&mut self) {
        self.failures = 0;
    }

    pub(super) fn is_fresh(&self) -> bool {
        self.failures <= 1
    }

    pub(super) fn next_wait(&mut self) -> Duration {
        let most = ceiling(self.failures);
        self.failures = self.failures.saturating_add(1);
        // The hasher's keys are random: enough to spread hosts out.
        let random = RandomState::new().build_hasher().finish();
        LEAST.max(most.mul_f64(random as f64 / u64::MAX as f64))
    }
}

fn ceiling(failures: u32) -> Duration {
    FIRST.saturating_mul(1 << failures.min(16)).min(CEILING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_up_to_its_limit_and_every_wait_is_under_it() {
        let mut backoff = Backoff::default();
        for failures in 0..40 {
            let wait = backoff.next_wait();
            assert!(wait >= LEAST && wait <= ceiling(failures), "{wait:?} after {failures}");
        }
        assert_eq!(ceiling(1), FIRST * 2);
        assert_eq!(ceiling(u32::MAX), CEILING);
    }
}
