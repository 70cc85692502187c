//! Moments as people and programs read them, always UTC: hosts of a fleet live in many zones.

use std::time::{Duration, UNIX_EPOCH};

/// Last second of the year 9999; there is no such form beyond.
const LAST: u64 = 253_402_300_799;

/// `2026-11-21T10:55:00Z`. Microseconds since the Unix epoch; what is before it reads as the epoch.
pub(crate) fn rfc3339(micros: i64) -> String {
    let secs = u64::try_from(micros).unwrap_or(0) / 1_000_000;
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(secs.min(LAST))).to_string()
}

/// `2026-11-21 10:55:00 UTC`.
pub(crate) fn utc(micros: i64) -> String {
    format!("{} UTC", rfc3339(micros).trim_end_matches('Z').replace('T', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_in_utc() {
        assert_eq!(utc(1_795_258_500_999_999), "2026-11-21 10:55:00 UTC");
        assert_eq!(rfc3339(1_795_258_500_000_000), "2026-11-21T10:55:00Z");
        assert_eq!(rfc3339(-5), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(i64::MAX), "9999-12-31T23:59:59Z");
    }
}
