//! Waits for a condition instead of a time, and says what it waited for when that never came.

use std::thread;
use std::time::{Duration, Instant};

/// How long anything that should happen may take; generous, since a loaded machine has two cores and
/// nothing waits longer than its condition takes.
pub const LIMIT: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_millis(10);

/// # Panics
/// With `what` when it has not come true within [`LIMIT`].
#[track_caller]
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    assert!(poll(LIMIT, condition), "waited {LIMIT:?} and never saw that {what}");
}

/// The value, once there is one; until then the attempt says why not.
///
/// # Panics
/// With `what` and the last reason when there is none within [`LIMIT`].
#[track_caller]
pub fn wait_for<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let mut last = Err(String::new());
    poll(LIMIT, || {
        last = attempt();
        last.is_ok()
    });
    last.unwrap_or_else(|why| panic!("waited {LIMIT:?} for {what}; at last: {why}"))
}

/// Whether it came true within the limit.
pub(crate) fn poll(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(PAUSE);
    }
}
