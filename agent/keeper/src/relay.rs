//! Signals that came to the keeper and are the agent's to act on: told to it, and told again to its successor
//! unless it has said that they are safe.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Relay {
    signals: Vec<Relayed>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Relayed {
    signo: i32,
    told: bool,
}

impl Relay {
    /// Several of the same that were not told yet are one.
    pub(crate) fn add(&mut self, signo: i32) {
        if !self.signals.iter().any(|it| it.signo == signo && !it.told) {
            self.signals.push(Relayed { signo, told: false });
        }
    }

    /// Those that the agent has not been told; `kept` until it says that it has heard.
    pub(crate) fn take(&mut self, kept: bool) -> Vec<i32> {
        let untold = self.signals.iter_mut().filter(|it| !it.told);
        let signals = untold.map(|it| {
            it.told = true;
            it.signo
        });
        let signals = signals.collect();
        if !kept {
            self.signals.clear();
        }
        signals
    }

    pub(crate) fn heard(&mut self, signo: i32) {
        if let Some(at) = self.signals.iter().position(|it| it.signo == signo && it.told) {
            self.signals.remove(at);
        }
    }

    /// The agent has gone: its successor is told what it has not said to have heard.
    pub(crate) fn again(&mut self) {
        self.signals.iter_mut().for_each(|it| it.told = false);
    }

    pub(crate) fn has_any(&self, signals: &[i32]) -> bool {
        self.signals.iter().any(|it| signals.contains(&it.signo))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_told_again_until_it_was_heard() {
        let mut relay = Relay::default();
        relay.add(15);
        relay.add(15);
        assert_eq!(relay.take(true), [15]);
        assert!(relay.take(true).is_empty());
        relay.again();
        assert_eq!(relay.take(true), [15]);
        relay.add(15);
        relay.heard(15);
        assert_eq!(relay.take(true), [15]);
        relay.heard(15);
        relay.again();
        assert!(relay.take(true).is_empty() && !relay.has_any(&[15]));
    }

    #[test]
    fn an_agent_that_never_says_so_has_heard() {
        let mut relay = Relay::default();
        relay.add(1);
        assert_eq!(relay.take(false), [1]);
        assert!(!relay.has_any(&[1]));
    }
}
