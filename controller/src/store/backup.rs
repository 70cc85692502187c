//! All records of a store as one text: a line for each, and a last one that proves that nothing is missing.
//! Owns the form, writing and reading; where the text goes, and what is done with the records, is for others.
//!
//! ```text
//! {"fleetvisor-store":1}
//! {"key":"host/web-01","revision":7,"value":"eyJ..."}
//! {"revision":9,"records":1,"sha256":"..."}
//! ```

use std::io::{self, BufRead, Read};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Listing, Record, VALUE_MAX};

const HEAD: &str = "{\"fleetvisor-store\":1}";
/// A value in base64, a key, and what is around them.
const LINE_MAX: u64 = (VALUE_MAX * 4 / 3 + 16 * 1024) as u64;

#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("it is no backup of a store")]
    NoBackup,
    #[error("line {line}: {reason}")]
    Line { line: usize, reason: String },
    #[error("it is cut off after {0} records")]
    CutOff(usize),
    #[error("it was changed after it was made: its last line does not fit what is before it")]
    Changed,
}

#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    revision: u64,
    value: String,
}

#[derive(Serialize, Deserialize)]
struct End {
    revision: u64,
    records: usize,
    sha256: String,
}

/// The text, line by line.
pub(crate) fn lines(listing: Listing) -> impl Iterator<Item = Vec<u8>> + Send {
    let Listing { records, revision } = listing;
    let count = records.len();
    let records = records.into_iter().map(|(key, record)| {
        let value = STANDARD.encode(&record.value);
        with_newline(&Line { key, revision: record.revision, value })
    });
    let mut digest = Sha256::new();
    let mut body = std::iter::once(format!("{HEAD}\n").into_bytes()).chain(records);
    let mut ended = false;
    std::iter::from_fn(move || match body.next() {
        Some(line) => {
            digest.update(&line);
            Some(line)
        }
        None if ended => None,
        None => {
            ended = true;
            let sha256 = seal(std::mem::take(&mut digest), revision, count);
            Some(with_newline(&End { revision, records: count, sha256 }))
        }
    })
}

/// Reads the text back, whole or not at all.
pub(crate) fn read(mut text: impl BufRead) -> Result<Listing, BackupError> {
    let mut digest = Sha256::new();
    let mut records = Vec::new();
    let mut number = 0;
    loop {
        let mut line = Vec::new();
        (&mut text).take(LINE_MAX).read_until(b'\n', &mut line)?;
        number += 1;
        if number == 1 {
            if line.strip_suffix(b"\n") != Some(HEAD.as_bytes()) {
                return Err(BackupError::NoBackup);
            }
            digest.update(&line);
            continue;
        }
        if !line.ends_with(b"\n") {
            return Err(BackupError::CutOff(records.len()));
        }
        if let Ok(end) = serde_json::from_slice::<End>(&line) {
            if end.sha256 != seal(digest, end.revision, records.len()) || end.records != records.len() {
                return Err(BackupError::Changed);
            }
            return Ok(Listing { records, revision: end.revision });
        }
        digest.update(&line);
        let fault = |reason: String| BackupError::Line { line: number, reason };
        let Line { key, revision, value } =
            serde_json::from_slice(&line).map_err(|error| fault(error.to_string()))?;
        let value = STANDARD.decode(value).map_err(|error| fault(error.to_string()))?;
        records.push((key, Record { value: value.into(), revision }));
    }
}

fn with_newline(line: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec(line).expect("lines are plain data");
    text.push(b'\n');
    text
}

/// Over the lines before the last, and the numbers in it.
fn seal(lines: Sha256, revision: u64, records: usize) -> String {
    hex(&lines.chain_update(format!("{revision} {records}")).finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing() -> Listing {
        let record = |value: &[u8], revision| Record { value: value.into(), revision };
        let records = vec![("a".to_owned(), record(b"1", 3)), ("b/\"".to_owned(), record(&[0, 255], 7))];
        Listing { records, revision: 9 }
    }

    fn text() -> Vec<u8> {
        lines(listing()).flatten().collect()
    }

    #[test]
    fn what_is_written_is_read_back() {
        assert_eq!(read(&*text()).unwrap(), listing());
        let empty = Listing { records: Vec::new(), revision: 0 };
        assert_eq!(read(&*lines(empty.clone()).flatten().collect::<Vec<u8>>()).unwrap(), empty);
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_noticed() {
        let text = text();
        for end in 0..text.len() {
            assert!(read(&text[..end]).is_err(), "cut at {end}");
        }
        for at in 0..text.len() {
            let mut changed = text.clone();
            changed[at] ^= 1;
            assert!(
                read(&*changed).is_err_and(|_| true) || read(&*changed).unwrap() == listing(),
                "byte {at}"
            );
        }
        assert!(matches!(read(&b"something else\n"[..]), Err(BackupError::NoBackup)));
    }
}
