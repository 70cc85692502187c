//! Two clocks that are never mixed: [`Monotonic`] for deadlines, [`Wall`] for people.

use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point on a clock that only goes forward: nanoseconds since an origin that the host chose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Monotonic(pub u64);

impl Monotonic {
    pub const ZERO: Monotonic = Monotonic(0);

    pub fn since(self, earlier: Monotonic) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Monotonic {
    type Output = Monotonic;
    fn add(self, rhs: Duration) -> Monotonic {
        let nanos = u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX);
        Monotonic(self.0.saturating_add(nanos))
    }
}

impl Sub<Monotonic> for Monotonic {
    type Output = Duration;
    fn sub(self, rhs: Monotonic) -> Duration {
        self.since(rhs)
    }
}

/// Microseconds since the Unix epoch, as a person's clock shows it. May jump; decides nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Wall(pub i64);

impl Wall {
    pub const EPOCH: Wall = Wall(0);

    pub const fn from_secs(secs: i64) -> Wall {
        Wall(secs.saturating_mul(1_000_000))
    }

    pub const fn secs(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    pub const fn micros_of_second(self) -> u32 {
        self.0.rem_euclid(1_000_000) as u32
    }
}

/// Both clocks, read at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    pub monotonic: Monotonic,
    pub wall: Wall,
}

/// `H:MM:SS`, with days in front from one day on: Supervisor's uptime.
pub fn uptime(uptime: Duration) -> String {
    let secs = uptime.as_secs();
    let (days, hours, minutes, seconds) = (secs / 86_400, secs / 3_600 % 24, secs / 60 % 60, secs % 60);
    match days {
        0 => format!("{hours}:{minutes:02}:{seconds:02}"),
        1 => format!("1 day, {hours}:{minutes:02}:{seconds:02}"),
        days => format!("{days} days, {hours}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_reads_as_supervisor_prints_it() {
        assert_eq!(uptime(Duration::from_millis(1999)), "0:00:01");
        assert_eq!(uptime(Duration::from_secs(86_400 + 3_723)), "1 day, 1:02:03");
        assert_eq!(uptime(Duration::from_secs(10 * 86_400)), "10 days, 0:00:00");
    }

    #[test]
    fn monotonic_time_never_wraps() {
        assert_eq!(Monotonic(5).since(Monotonic(9)), Duration::ZERO);
        assert_eq!(Monotonic(5) + Duration::MAX, Monotonic(u64::MAX));
    }
}
