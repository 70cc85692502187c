//! How many readers one operator or one host may have.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

#[derive(Clone, Debug)]
pub(super) struct Seats {
    taken: Arc<Mutex<HashMap<String, usize>>>,
    most: usize,
}

/// One of them; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Seats,
    whose: String,
}

impl Seats {
    pub(super) fn new(most: usize) -> Seats {
        Seats { taken: Arc::default(), most }
    }

    /// One more, if there are not all there may be.
    pub(super) fn take(&self, whose: &str) -> Option<Seat> {
        let mut taken = self.taken();
        let count = taken.entry(whose.to_owned()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Seat { seats: self.clone(), whose: whose.to_owned() })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.taken.lock().expect("nothing panics while it counts")
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        if let Some(count) = taken.get_mut(&self.whose) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.whose);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_so_many_and_gets_them_back() {
        let seats = Seats::new(2);
        let held = [seats.take("alice"), seats.take("alice")];
        assert!(held.iter().all(Option::is_some));
        assert!(seats.take("alice").is_none() && seats.take("bob").is_some());
        drop(held);
        assert!(seats.take("alice").is_some());
        assert!(seats.taken().is_empty());
    }
}
