//! What one address may have of something at once, and how many of these may be at work while the others wait for
//! their turn. An IPv6 machine has its whole /64 to dial from, so that counts as one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Semaphore;

#[derive(Clone, Debug)]
pub(crate) struct Shares {
    taken: Arc<Mutex<HashMap<IpAddr, Taken>>>,
    most: usize,
    at_once: usize,
}

/// By one address.
#[derive(Debug)]
struct Taken {
    count: usize,
    turns: Arc<Semaphore>,
}

/// One of them; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Shares,
    address: IpAddr,
    turns: Arc<Semaphore>,
}

impl Shares {
    pub(crate) fn new(most: usize, at_once: usize) -> Shares {
        Shares { taken: Arc::default(), most, at_once }
    }

    /// One more for this address, if it has not got all it may have.
    pub(crate) fn take(&self, address: IpAddr) -> Option<Share> {
        let address = machine(address);
        let mut taken = self.taken();
        let new = || Taken { count: 0, turns: Arc::new(Semaphore::new(self.at_once)) };
        let Taken { count, turns } = taken.entry(address).or_insert_with(new);
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Share { shares: self.clone(), address, turns: turns.clone() })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<IpAddr, Taken>> {
        self.taken.lock().expect("nothing panics while it counts")
    }
}

impl Share {
    /// A permit is its turn.
    pub(crate) fn turns(&self) -> &Semaphore {
        &self.turns
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.taken();
        if let Some(Taken { count, .. }) = taken.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

/// The address by which a machine is counted.
pub(crate) fn machine(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gets_its_share_and_leaves_that_of_others() {
        let shares = Shares::new(2, 1);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let held = [shares.take(address("::ffff:10.0.0.1")), shares.take(address("10.0.0.1"))];
        assert!(held.iter().all(Option::is_some));
        assert!(shares.take(address("10.0.0.1")).is_none());
        assert!(shares.take(address("10.0.0.2")).is_some());
        let six = [shares.take(address("2001:db8::1")), shares.take(address("2001:db8::2"))];
        assert!(six.iter().all(Option::is_some) && shares.take(address("2001:db8::3")).is_none());
        {
            let [first, second] = [&held[0], &held[1]].map(|share| share.as_ref().unwrap());
            let turn = first.turns().try_acquire().unwrap();
            assert!(second.turns().try_acquire().is_err());
            assert!(six[0].as_ref().unwrap().turns().try_acquire().is_ok());
            drop(turn);
            assert!(second.turns().try_acquire().is_ok());
        }
        drop((held, six));
        assert!(shares.take(address("10.0.0.1")).is_some());
        assert!(shares.taken().is_empty());
    }
}
