//! Agents and keepers that die, or are replaced, while everything goes on: programs, clients, exits and logs. Each suite runs a
//! few rounds by default; `FLEETVISOR_ROUNDS` says how many (`FLEETVISOR_ROUNDS=200 cargo test -p
//! fleetvisor-tests --test e2e succession`).

mod keeper;
mod killed;
mod upgraded;
mod workers;

/// Rounds of a suite.
fn rounds(by_default: usize) -> usize {
    std::env::var("FLEETVISOR_ROUNDS")
        .map_or(by_default, |rounds| rounds.parse().expect("a number of rounds"))
}

/// Random enough to kill at random moments, and to be seen in the output of a test that fails.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn new() -> Dice {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = now.map_or(1, |time| time.as_nanos() as u64) | 1;
        println!("seed {seed}");
        Dice(seed)
    }

    /// Below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}
