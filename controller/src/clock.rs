//! Wall time: reading it, and wording it for people. Deadlines are tokio's, on the monotonic clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fleetvisor_model::time::Wall;

pub(crate) fn now() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// `2026-11-21 10:55:00 UTC`.
pub(crate) fn utc(wall: Wall) -> String {
    let secs = u64::try_from(wall.secs()).unwrap_or(0);
    // Beyond the year 9999 there is no such form.
    let time = UNIX_EPOCH + Duration::from_secs(secs.min(253_402_300_799));
    let text = humantime::format_rfc3339_seconds(time).to_string();
    format!("{} UTC", text.trim_end_matches('Z').replace('T', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_a_person_writes_them() {
        assert_eq!(utc(Wall::from_secs(1_795_258_500)), "2026-11-21 10:55:00 UTC");
        assert_eq!(utc(Wall(i64::MAX)), "9999-12-31 23:59:59 UTC");
        assert_eq!(utc(Wall(-1)), "1970-01-01 00:00:00 UTC");
    }
}
