//! Which refusals are worth telling: the same one again and again is told once a minute, so that nobody fills the
//! log or the audit log by being refused.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

const AGAIN: Duration = Duration::from_secs(60);
const TRACKED: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Refusals {
    told: Mutex<HashMap<(String, String), Instant>>,
}

impl Refusals {
    pub(crate) fn is_news(&self, who: &str, what: &str, now: Instant) -> bool {
        let mut told = self.told.lock().expect("nothing panics while it counts");
        if told.len() >= TRACKED {
            told.retain(|_, at| now.duration_since(*at) < AGAIN);
        }
        let key = (who.to_owned(), what.to_owned());
        let old = told.get(&key).is_none_or(|at| now.duration_since(*at) >= AGAIN);
        let news = old && told.len() < TRACKED;
        if news {
            told.insert(key, now);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_refusal_is_told_once_a_minute() {
        let refusals = Refusals::default();
        let now = Instant::now();
        assert!(refusals.is_news("operator eve", "Run", now));
        assert!(!refusals.is_news("operator eve", "Run", now));
        assert!(refusals.is_news("operator eve", "Audit", now));
        assert!(refusals.is_news("operator bob", "Run", now));
        assert!(refusals.is_news("operator eve", "Run", now + AGAIN));
    }
}
