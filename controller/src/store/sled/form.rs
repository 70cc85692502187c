//! The form of a record on the disk, and proof that none is missing. Every record carries a CRC-32. A record of
//! its own, [`Meta`], holds the revision, how many records there are and the sum of their checksums, and
//! changes with them in one batch: whatever was lost since is noticed.

use std::collections::BTreeMap;

use crate::store::Record;

/// Sorts before, and can be none of, the keys.
pub(super) const META_KEY: &[u8] = b"\0meta";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) revision: u64,
    pub(super) records: u64,
    /// Sum of the checksums of all records.
    pub(super) digest: u64,
}

/// What was found in the files.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) meta: Meta,
    pub(super) records: BTreeMap<String, Record>,
    /// What is wrong, in words; empty for a store that is whole.
    pub(super) faults: Vec<String>,
}

impl Meta {
    pub(super) fn encode(self) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        for number in [self.revision, self.records, self.digest] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        let checksum = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Meta> {
        let (checksum, rest) = bytes.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*checksum) != crc32fast::hash(rest) {
            return None;
        }
        let (revision, rest) = rest.split_first_chunk::<8>()?;
        let (records, rest) = rest.split_first_chunk::<8>()?;
        let digest: [u8; 8] = rest.try_into().ok()?;
        Some(Meta {
            revision: u64::from_le_bytes(*revision),
            records: u64::from_le_bytes(*records),
            digest: u64::from_le_bytes(digest),
        })
    }
}

/// `crc32(key, revision, value) | revision | value`, little endian.
pub(super) fn encode(key: &str, record: &Record) -> (Vec<u8>, u32) {
    let revision = record.revision.to_le_bytes();
    let checksum = checksum(key, &revision, &record.value);
    let mut bytes = Vec::with_capacity(12 + record.value.len());
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(&revision);
    bytes.extend_from_slice(&record.value);
    (bytes, checksum)
}

pub(super) fn decode(key: &str, bytes: &[u8]) -> Option<(Record, u32)> {
    let (stored, rest) = bytes.split_first_chunk::<4>()?;
    let (revision, value) = rest.split_first_chunk::<8>()?;
    let stored = u32::from_le_bytes(*stored);
    if stored != checksum(key, revision, value) {
        return None;
    }
    Some((Record { value: value.into(), revision: u64::from_le_bytes(*revision) }, stored))
}

fn checksum(key: &str, revision: &[u8; 8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key.as_bytes());
    hasher.update(revision);
    hasher.update(value);
    hasher.finalize()
}

/// Reads everything and judges it as a whole.
pub(super) fn scan<K, V>(items: impl Iterator<Item = Result<(K, V), sled::Error>>) -> Scan
where
    K: AsRef<[u8]>,
    V: AsRef<[u8]>,
{
    let mut scan = Scan::default();
    let mut meta = None;
    let mut found = Meta::default();
    for item in items {
        let (key, bytes) = match item {
            Ok((key, bytes)) => (key, bytes),
            Err(error) => {
                // What comes behind it cannot be reached.
                scan.faults.push(error.to_string());
                break;
            }
        };
        if key.as_ref() == META_KEY {
            meta = Meta::decode(bytes.as_ref());
            continue;
        }
        let Ok(key) = String::from_utf8(key.as_ref().to_vec()) else {
            scan.faults.push(format!("the key {:?} is not text", String::from_utf8_lossy(key.as_ref())));
            continue;
        };
        let Some((record, checksum)) = decode(&key, bytes.as_ref()) else {
            scan.faults.push(format!("the checksum of {key} is wrong"));
            continue;
        };
        found.records += 1;
        found.digest = found.digest.wrapping_add(u64::from(checksum));
        found.revision = found.revision.max(record.revision);
        scan.records.insert(key, record);
    }
    match meta {
        None => scan.faults.push("the record of its revision is missing or damaged".to_owned()),
        Some(meta) => {
            scan.meta = meta;
            if found.records != meta.records {
                scan.faults
                    .push(format!("{} whole records are there instead of {}", found.records, meta.records));
            } else if found.digest != meta.digest || found.revision > meta.revision {
                scan.faults.push(format!("its records are not those of revision {}", meta.revision));
            }
        }
    }
    scan
}
