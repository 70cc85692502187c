//! The chain of the audit log: each record's hash covers its place, its payload and the hash before it, so that
//! a record that is changed, removed or slipped in breaks every one behind it. Owns the arithmetic, for the
//! controller that appends and for whoever checks; what a payload says is not known here.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// A place in the chain: the record's number, from 1 without gaps, and its hash. Displays as `12:<64 hex digits>`;
/// who keeps that text elsewhere can check later that the log still contains it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Head {
    pub seq: u64,
    pub hash: [u8; 32],
}

/// Where a chain is not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("record {expected} is missing: record {found} follows {}", .expected - 1)]
    Gap { expected: u64, found: u64 },
    #[error("record {seq} is not what was written, or not behind what was written before it")]
    Changed { seq: u64 },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no place in the audit log: NUMBER:HASH, as `audit verify` prints it")]
pub struct HeadError(String);

impl Head {
    /// Before the first record.
    pub const START: Head = Head { seq: 0, hash: [0; 32] };

    /// The place of a record with this payload behind this one.
    #[must_use]
    pub fn next(&self, payload: &[u8]) -> Head {
        let seq = self.seq + 1;
        let mut hasher = Sha256::new();
        hasher.update(self.hash);
        hasher.update(seq.to_be_bytes());
        hasher.update(payload);
        Head { seq, hash: hasher.finalize().into() }
    }

    /// Moves on to the next record, if it is that.
    pub fn follow(&mut self, seq: u64, hash: &[u8], payload: &[u8]) -> Result<(), Broken> {
        let next = self.next(payload);
        if seq != next.seq {
            return Err(Broken::Gap { expected: next.seq, found: seq });
        }
        if hash != next.hash {
            return Err(Broken::Changed { seq });
        }
        *self = next;
        Ok(())
    }

    /// The hash in hexadecimal digits.
    pub fn hash_text(&self) -> String {
        hex(&self.hash)
    }
}

/// Reads 64 hexadecimal digits.
pub fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    if digits.len() == 64 { bytes.try_into().ok() } else { None }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash_text())
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Head({self})")
    }
}

impl FromStr for Head {
    type Err = HeadError;

    fn from_str(text: &str) -> Result<Head, HeadError> {
        let wrong = || HeadError(text.to_owned());
        let (seq, hash) = text.split_once(':').ok_or_else(wrong)?;
        let seq = seq.parse().map_err(|_| wrong())?;
        Ok(Head { seq, hash: parse_hash(hash).ok_or_else(wrong)? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chain(payloads: &[Vec<u8>]) -> Vec<(Head, Vec<u8>)> {
        let mut head = Head::START;
        payloads
            .iter()
            .map(|payload| {
                head = head.next(payload);
                (head, payload.clone())
            })
            .collect()
    }

    fn verify(records: &[(Head, Vec<u8>)]) -> Result<Head, Broken> {
        let mut head = Head::START;
        for (record, payload) in records {
            head.follow(record.seq, &record.hash, payload)?;
        }
        Ok(head)
    }

    proptest! {
        #[test]
        fn what_was_appended_is_whole_and_any_change_is_found(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..8), 2..8),
            at: prop::sample::Index,
            how in 0..5,
        ) {
            let mut records = chain(&payloads);
            prop_assert_eq!(verify(&records), Ok(records[records.len() - 1].0));
            let before = records.clone();
            let at = at.index(records.len() - 1);
            match how {
                0 => records[at].1.push(1),
                1 => records[at].0.hash[0] ^= 1,
                2 => drop(records.remove(at)),
                3 => records.swap(at, at + 1),
                _ => {
                    let again = records[at].clone();
                    records.insert(at, again);
                }
            }
            prop_assert!(records == before || verify(&records).is_err());
        }

        #[test]
        fn a_place_survives_its_text_and_no_text_panics(seq: u64, hash: [u8; 32], text in "\\PC{0,80}") {
            let head = Head { seq, hash };
            prop_assert_eq!(head.to_string().parse::<Head>(), Ok(head));
            let _ = text.parse::<Head>();
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let records = chain(&[b"a".to_vec(), b"b".to_vec(), b"c".to_vec()]);
        let missing = verify(&[records[0].clone(), records[2].clone()]).unwrap_err();
        assert_eq!(missing.to_string(), "record 2 is missing: record 3 follows 1");
        let mut changed = records;
        changed[1].1 = b"x".to_vec();
        assert_eq!(verify(&changed), Err(Broken::Changed { seq: 2 }));
    }
}
