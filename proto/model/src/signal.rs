//! Signals by number and name, without a platform library: numbers are Linux's.

use serde::{Deserialize, Serialize};

/// A signal number as `kill(2)` takes it. 0 is valid, as it is for Supervisor: it only probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Signal(pub i32);

/// Every name Python's `signal` module gives on Linux; the first of two for one number is the one shown.
const NAMES: [(&str, i32); 36] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("RTMIN", 34),
    ("RTMAX", 64),
    ("CLD", 17),
    ("IO", 29),
    ("IOT", 6),
];

impl Signal {
    pub const HUP: Signal = Signal(1);
    pub const INT: Signal = Signal(2);
    pub const QUIT: Signal = Signal(3);
    pub const KILL: Signal = Signal(9);
    pub const USR2: Signal = Signal(12);
    pub const TERM: Signal = Signal(15);
    pub const CHLD: Signal = Signal(17);

    /// By name without `SIG` (`TERM`).
    pub fn from_name(name: &str) -> Option<Signal> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| Signal(*number))
    }

    /// Whether Supervisor takes this number: 0, or one that has a name.
    pub fn is_valid(self) -> bool {
        self.0 == 0 || NAMES.iter().any(|(_, number)| *number == self.0)
    }

    /// `SIGTERM`, or `signal 64` for one without a name.
    pub fn name(self) -> String {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => format!("SIG{name}"),
            None => format!("signal {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree() {
        assert_eq!(Signal::from_name("TERM"), Some(Signal::TERM));
        assert_eq!(Signal::from_name("CLD"), Some(Signal::CHLD));
        assert_eq!(Signal::from_name("SIGTERM"), None);
        assert_eq!(Signal::CHLD.name(), "SIGCHLD");
        assert_eq!(Signal(29).name(), "SIGPOLL");
        assert_eq!(Signal(35).name(), "signal 35");
    }

    #[test]
    fn zero_is_valid_and_numbers_without_a_name_are_not() {
        let valid = (-1..70).filter(|number| Signal(*number).is_valid()).collect::<Vec<_>>();
        let expected = (0..=31).chain([34, 64]).collect::<Vec<_>>();
        assert_eq!(valid, expected);
    }
}
