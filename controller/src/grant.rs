//! What a certificate was given for: one enrolment of a host, or one appointment of an operator. The store's
//! record of the host or operator has it, and every certificate carries it as the first half of its serial
//! number. Revoking, or enrolling anew, gives the record another one or none, and with that all certificates of
//! before are void at once, however long they are valid and whoever signed them. Renewing keeps it.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Grant([u8; 8]);

impl Grant {
    /// At random: nobody who can sign certificates knows one without the store.
    pub(crate) fn new() -> Result<Grant, getrandom::Error> {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes)?;
        // A serial number is positive and has no zero in front.
        bytes[0] = bytes[0] & 0x7f | 0x40;
        Ok(Grant(bytes))
    }

    /// A serial number that carries it and that no other certificate has.
    pub(crate) fn serial(self) -> Result<[u8; 16], getrandom::Error> {
        let mut serial = [0; 16];
        getrandom::fill(&mut serial)?;
        serial[..8].copy_from_slice(&self.0);
        Ok(serial)
    }

    /// The one in a serial number (as DER has it); none in one of another make.
    pub(crate) fn of_serial(serial: &[u8]) -> Option<Grant> {
        let serial: &[u8; 16] = serial.try_into().ok()?;
        serial.first_chunk().map(|first| Grant(*first))
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Grant({self})")
    }
}

impl From<Grant> for String {
    fn from(grant: Grant) -> String {
        grant.to_string()
    }
}

impl TryFrom<String> for Grant {
    type Error = String;

    fn try_from(text: String) -> Result<Grant, String> {
        match u64::from_str_radix(&text, 16) {
            Ok(number) if text.len() == 16 => Ok(Grant(number.to_be_bytes())),
            Ok(_) | Err(_) => Err(format!("{text:?} is no grant")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_of_one_grant_differ_and_all_carry_it() {
        let (grant, other) = (Grant::new().unwrap(), Grant::new().unwrap());
        let (one, two) = (grant.serial().unwrap(), grant.serial().unwrap());
        assert!(one != two && one[0] & 0x80 == 0 && one[0] != 0);
        assert_eq!((Grant::of_serial(&one), Grant::of_serial(&two)), (Some(grant), Some(grant)));
        assert!(Grant::of_serial(&other.serial().unwrap()) != Some(grant));
        assert_eq!(Grant::of_serial(&one[..15]), None);
        assert_eq!(Grant::try_from(String::from(grant)), Ok(grant));
        assert!(Grant::try_from("x".to_owned()).is_err());
    }
}
