//! How fast one outsider may go: a bucket that fills at a steady rate, holds a burst, and says how long to wait
//! once it is empty. Pure: the time is given.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct Pace {
    per_second: f64,
    burst: f64,
    /// Below zero for one who has taken more than there was.
    left: f64,
    at: Instant,
}

impl Pace {
    pub(crate) fn new(per_second: u32, burst: u32, now: Instant) -> Pace {
        Pace { per_second: per_second.into(), burst: burst.into(), left: burst.into(), at: now }
    }

    /// Takes `cost`, and gives the time after which more may be taken: zero while there is some left.
    pub(crate) fn take(&mut self, cost: f64, now: Instant) -> Duration {
        self.fill(now);
        self.left -= cost;
        Duration::from_secs_f64((-self.left).max(0.0) / self.per_second)
    }

    /// Takes 1 if it is there, or else nothing and gives the time after which it will be.
    pub(crate) fn try_take(&mut self, now: Instant) -> Result<(), Duration> {
        self.fill(now);
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.left) / self.per_second))
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = self.burst.min(self.left + passed * self.per_second);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_is_free_and_what_comes_after_it_waits() {
        let now = Instant::now();
        let mut pace = Pace::new(10, 100, now);
        for _ in 0..100 {
            assert_eq!(pace.take(1.0, now), Duration::ZERO);
        }
        assert_eq!(pace.take(1.0, now), SECOND / 10);
        assert_eq!(pace.take(9.0, now), SECOND);
        assert_eq!(pace.take(0.0, now + SECOND), Duration::ZERO);
        assert_eq!(pace.take(100.0, now + SECOND * 1000), Duration::ZERO, "it holds no more than a burst");
        assert_eq!(pace.take(10.0, now + SECOND * 1000), SECOND);
    }

    #[test]
    fn what_is_refused_costs_nothing() {
        let now = Instant::now();
        let mut pace = Pace::new(1, 2, now);
        assert_eq!((pace.try_take(now), pace.try_take(now)), (Ok(()), Ok(())));
        for _ in 0..5 {
            assert_eq!(pace.try_take(now), Err(SECOND));
        }
        assert_eq!(pace.try_take(now + SECOND), Ok(()));
    }
}
