//! The two clocks, read together. The monotonic one counts from the machine's start, so that it means the
//! same to every process on it.

use std::time::{SystemTime, UNIX_EPOCH};

use fleetvisor_model::time::{Monotonic, Now, Wall};
use nix::time::{ClockId, clock_gettime};

pub(crate) fn now() -> Now {
    let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| (time.tv_sec() as u64) * 1_000_000_000 + time.tv_nsec() as u64);
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as i64);
    Now { monotonic: Monotonic(monotonic), wall: Wall(wall) }
}

/// `2026-11-21 10:55:03,021` in this host's zone, as the daemon's log has it.
pub(crate) fn log_time(wall: Wall) -> String {
    chrono::DateTime::from_timestamp_micros(wall.0)
        .map(|time| time.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M:%S,%3f").to_string())
        .unwrap_or_default()
}

/// `Nov 21 10:55 AM` in this host's zone.
pub(crate) fn local(wall: Wall) -> String {
    chrono::DateTime::from_timestamp_micros(wall.0)
        .map(|time| time.with_timezone(&chrono::Local).format("%b %d %I:%M %p").to_string())
        .unwrap_or_default()
}
