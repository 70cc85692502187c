//! Which controller to dial next, and when. Full jitter under a ceiling that doubles with every round in which
//! none could be linked to, on top of the time that a controller asked for: a fleet comes back spread out.

use std::time::Duration;

use tokio::time::Instant;

const FIRST: Duration = Duration::from_millis(500);
const CEILING: Duration = Duration::from_secs(30);
/// Even the luckiest waits this long: a controller that refuses at once is not hammered.
const LEAST: Duration = Duration::from_millis(50);
/// Whatever a controller asks for, it is asked again by then.
const LONGEST_REST: Duration = Duration::from_secs(300);

/// The controllers of this host, tried in turn.
#[derive(Debug)]
pub(crate) struct Itinerary {
    controllers: Vec<Controller>,
    /// The one that is dialled, or linked to.
    at: usize,
    /// How many in a row could not be linked to.
    failures: u32,
}

#[derive(Debug)]
struct Controller {
    address: String,
    /// It asked to be left alone until then.
    resting: Option<Instant>,
}

impl Itinerary {
    pub(crate) fn new(addresses: &[String]) -> Itinerary {
        let controller = |address: &String| Controller { address: address.clone(), resting: None };
        Itinerary { controllers: addresses.iter().map(controller).collect(), at: 0, failures: 0 }
    }

    /// Where to dial now; `None` where there is no controller at all.
    pub(crate) fn address(&self) -> Option<String> {
        self.controllers.get(self.at).map(|controller| controller.address.clone())
    }

    /// A link is up: the next loss starts from the beginning.
    pub(crate) fn linked(&mut self) {
        self.failures = 0;
    }

    /// There is no link any more, or none came about, and the controller wants to be left alone for a while.
    /// Chooses the next one, and gives the time to wait before it is dialled.
    pub(crate) fn lost(&mut self, now: Instant, retry_after: Duration) -> Duration {
        self.lost_by(now, retry_after, random())
    }

    /// `random` is from 0 to 1.
    fn lost_by(&mut self, now: Instant, retry_after: Duration, random: f64) -> Duration {
        let count = self.controllers.len();
        if count == 0 {
            return CEILING;
        }
        let round = self.failures / u32::try_from(count).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        let jitter = LEAST.max(ceiling(round).mul_f64(random));
        self.controllers[self.at].resting =
            (retry_after > Duration::ZERO).then(|| now + retry_after.min(LONGEST_REST));
        let rest = |at: usize| {
            self.controllers[at].resting.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
        };
        // The first in turn that need not be waited for, or else the one to be waited for the least.
        let in_turn = (1..=count).map(|step| (self.at + step) % count);
        let next = in_turn.min_by_key(|at| rest(*at)).unwrap_or(self.at);
        let wait = rest(next) + jitter;
        self.at = next;
        wait
    }
}

fn ceiling(round: u32) -> Duration {
    FIRST.saturating_mul(1 << round.min(16)).min(CEILING)
}

/// Without a random source it is the middle.
fn random() -> f64 {
    getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn itinerary(addresses: &[&str]) -> Itinerary {
        Itinerary::new(&addresses.iter().map(|&address| address.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_ceiling_doubles_up_to_its_limit_and_every_wait_is_under_it() {
        let mut itinerary = itinerary(&["a"]);
        let now = Instant::now();
        for round in 0..40 {
            let wait = itinerary.lost(now, Duration::ZERO);
            assert!(wait >= LEAST && wait <= ceiling(round), "{wait:?} in round {round}");
        }
        assert_eq!((ceiling(1), ceiling(u32::MAX)), (FIRST * 2, CEILING));
        itinerary.linked();
        assert!(itinerary.lost(now, Duration::ZERO) <= FIRST);
    }

    #[test]
    fn waits_are_spread_over_all_of_the_time_under_the_ceiling() {
        let now = Instant::now();
        let mut waits: Vec<Duration> = (0..=100)
            .map(|percent| itinerary(&["a"]).lost_by(now, Duration::ZERO, f64::from(percent) / 100.0))
            .collect();
        assert_eq!((waits[0], waits[100]), (LEAST, FIRST));
        waits.dedup();
        assert!(waits.len() > 85);
    }

    #[test]
    fn controllers_are_tried_in_turn_and_a_round_counts_once() {
        let mut itinerary = itinerary(&["a", "b", "c"]);
        let now = Instant::now();
        for round in 0..5 {
            for address in ["a", "b", "c"] {
                assert_eq!(itinerary.address().as_deref(), Some(address));
                assert_eq!(itinerary.lost_by(now, Duration::ZERO, 1.0), ceiling(round));
            }
        }
    }

    #[test]
    fn a_controller_that_asks_for_time_gets_it_while_the_others_are_tried() {
        let mut itinerary = itinerary(&["a", "b"]);
        let now = Instant::now();
        let minute = Duration::from_secs(60);
        assert_eq!(itinerary.lost_by(now, minute, 1.0), FIRST);
        for _ in 0..2 {
            assert_eq!(itinerary.address().as_deref(), Some("b"));
            itinerary.lost_by(now, Duration::ZERO, 1.0);
        }
        // All want to be left alone: the wait is the shortest rest, and jitter on top of it.
        itinerary.linked();
        assert_eq!(itinerary.lost_by(now, minute * 2, 1.0), minute + FIRST);
        assert_eq!(itinerary.address().as_deref(), Some("a"));
    }

    #[test]
    fn a_single_controller_is_waited_for_and_not_for_ever() {
        let mut itinerary = itinerary(&["a"]);
        let now = Instant::now();
        assert_eq!(itinerary.lost_by(now, Duration::from_secs(7), 0.0), Duration::from_secs(7) + LEAST);
        assert_eq!(itinerary.lost_by(now, Duration::from_secs(1 << 40), 0.0), LONGEST_REST + LEAST);
    }
}
