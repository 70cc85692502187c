//! Who holds which claim, for stores that one process has to itself: the leases end with it, so they are kept in
//! memory and measured on the monotonic clock.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::Claim;

#[derive(Debug, Default)]
pub(super) struct Claims {
    held: Mutex<HashMap<String, Lease>>,
}

#[derive(Debug)]
struct Lease {
    holder: String,
    ends: Instant,
}

impl Claims {
    pub(super) fn claim(&self, name: &str, holder: &str, lease: Duration) -> Claim {
        let now = Instant::now();
        let mut held = self.held.lock().expect("nothing panics while it holds the claims");
        // Those that ran out and that nobody asks for do not pile up.
        held.retain(|_, lease| lease.ends > now);
        match held.get(name) {
            Some(lease) if lease.holder != holder => Claim::HeldBy(lease.holder.clone()),
            Some(_) | None => {
                held.insert(name.to_owned(), Lease { holder: holder.to_owned(), ends: now + lease });
                Claim::Held
            }
        }
    }

    pub(super) fn release(&self, name: &str, holder: &str) {
        let mut held = self.held.lock().expect("nothing panics while it holds the claims");
        if held.get(name).is_some_and(|lease| lease.holder == holder) {
            held.remove(name);
        }
    }
}
