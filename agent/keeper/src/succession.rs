//! When the next agent is started after one that has died: at once, and ever later for those that die soon after
//! one another.

use std::time::{Duration, Instant};

/// An agent that has been up for this long is none of a crash loop.
const SETTLED: Duration = Duration::from_millis(250);
/// Agents in a row that may die sooner without any wait.
const AT_ONCE: u32 = 3;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Succession {
    /// Since when the agent has been up.
    up: Option<Instant>,
    /// Agents in a row that did not live long.
    short_lives: u32,
}

impl Succession {
    pub(crate) fn new() -> Succession {
        Succession { up: None, short_lives: 0 }
    }

    pub(crate) fn is_up(&mut self) {
        self.up.get_or_insert_with(Instant::now);
    }

    /// The agent has died: how long to wait with the next one.
    pub(crate) fn wait(&mut self) -> Duration {
        let life = self.up.take().map_or(Duration::ZERO, |up| up.elapsed());
        self.wait_after(life)
    }

    fn wait_after(&mut self, life: Duration) -> Duration {
        self.short_lives = if life >= SETTLED { 0 } else { self.short_lives.saturating_add(1) };
        match self.short_lives.checked_sub(AT_ONCE + 1) {
            None => Duration::ZERO,
            Some(doublings) => FIRST_WAIT.saturating_mul(1 << doublings.min(16)).min(LONGEST_WAIT),
        }
    }

    /// The present agent has been up for a while.
    pub(crate) fn has_lived(&self) -> bool {
        self.up.is_some_and(|up| up.elapsed() >= SETTLED)
    }

    /// The last agent had been, when it ended.
    pub(crate) fn is_settled(&self) -> bool {
        self.short_lives == 0
    }

    /// As many as may have died in a row without any wait.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.short_lives >= AT_ONCE
    }

    pub(crate) fn is_crash_loop(&self) -> bool {
        self.short_lives > AT_ONCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_loop_is_slowed_down_and_a_long_life_forgives() {
        let mut succession = Succession::new();
        let mut wait = |ms| succession.wait_after(Duration::from_millis(ms)).as_millis();
        assert_eq!([10, 10, 10, 10, 10, 10].map(&mut wait), [0, 0, 0, 100, 200, 400]);
        for _ in 0..20 {
            wait(10);
        }
        assert_eq!(wait(10), 10_000);
        assert_eq!((wait(5_000), wait(10)), (0, 0));
    }
}
