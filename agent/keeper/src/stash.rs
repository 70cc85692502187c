//! What an agent leaves for its successor: named bytes with descriptors, opaque to the keeper and bounded.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

const MAX_ENTRIES: usize = 4096;
const MAX_KEY: usize = 255;
/// Of all entries together. One alone is bounded by its frame.
const MAX_BYTES: usize = 64 << 20;

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) bytes: Vec<u8>,
    pub(crate) descriptors: Vec<Arc<OwnedFd>>,
}

#[derive(Debug, Default)]
pub(crate) struct Stash {
    entries: BTreeMap<String, Entry>,
    /// Of all entries.
    bytes: usize,
}

impl Stash {
    /// In place of what the key had; or why not, and then the key keeps that.
    pub(crate) fn put(
        &mut self,
        key: String,
        bytes: Vec<u8>,
        descriptors: Vec<Arc<OwnedFd>>,
    ) -> Result<(), String> {
        if key.len() > MAX_KEY {
            return Err(format!("a stash key of {} bytes is over the limit of {MAX_KEY}", key.len()));
        }
        let replaced = self.entries.get(&key).map(|entry| entry.bytes.len());
        let count = self.entries.len() + usize::from(replaced.is_none());
        let total = self.bytes - replaced.unwrap_or(0) + bytes.len();
        if count > MAX_ENTRIES || total > MAX_BYTES {
            return Err(format!(
                "the stash is full: {count} entries of {MAX_ENTRIES}, {total} bytes of {MAX_BYTES}"
            ));
        }
        self.bytes = total;
        self.entries.insert(key, Entry { bytes, descriptors });
        Ok(())
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.bytes -= self.entries.remove(key).map_or(0, |entry| entry.bytes.len());
    }

    pub(crate) fn entries(&self) -> impl ExactSizeIterator<Item = (&String, &Entry)> {
        self.entries.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_replaces_the_one_of_its_key_and_counts_once() {
        let mut stash = Stash::default();
        for _ in 0..3 {
            stash.put("a".into(), vec![0; MAX_BYTES / 2 + 1], Vec::new()).unwrap();
        }
        assert!(stash.put("b".into(), vec![0; MAX_BYTES / 2], Vec::new()).is_err());
        stash.remove("a");
        stash.put("b".into(), vec![0; MAX_BYTES / 2], Vec::new()).unwrap();
        assert_eq!(stash.entries().len(), 1);
    }

    #[test]
    fn entries_and_keys_are_limited() {
        let mut stash = Stash::default();
        assert!(stash.put("k".repeat(MAX_KEY + 1), Vec::new(), Vec::new()).is_err());
        for index in 0..MAX_ENTRIES {
            stash.put(index.to_string(), Vec::new(), Vec::new()).unwrap();
        }
        assert!(stash.put("one more".into(), Vec::new(), Vec::new()).is_err());
    }
}
