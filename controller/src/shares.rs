//! What one address may have of something at once. An IPv6 machine has its whole /64 to dial from, so that counts
//! as one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};

#[derive(Clone, Debug)]
pub(crate) struct Shares {
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
    most: usize,
}

/// One of them; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Shares,
    address: IpAddr,
}

impl Shares {
    pub(crate) fn new(most: usize) -> Shares {
        Shares { taken: Arc::default(), most }
    }

    /// One more for this address, if it has not got all it may have.
    pub(crate) fn take(&self, address: IpAddr) -> Option<Share> {
        let address = machine(address);
        let mut taken = self.taken();
        let count = taken.entry(address).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Share { shares: self.clone(), address })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.taken.lock().expect("nothing panics while it counts")
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.taken();
        if let Some(count) = taken.get_mut(&self.address) {
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
        let shares = Shares::new(2);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let held = [shares.take(address("::ffff:10.0.0.1")), shares.take(address("10.0.0.1"))];
        assert!(held.iter().all(Option::is_some));
        assert!(shares.take(address("10.0.0.1")).is_none());
        assert!(shares.take(address("10.0.0.2")).is_some());
        let six = [shares.take(address("2001:db8::1")), shares.take(address("2001:db8::2"))];
        assert!(six.iter().all(Option::is_some) && shares.take(address("2001:db8::3")).is_none());
        drop((held, six));
        assert!(shares.take(address("10.0.0.1")).is_some());
        assert!(shares.taken().is_empty());
    }
}
