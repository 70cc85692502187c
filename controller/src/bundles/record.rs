//! A bundle in the store. The head says which revision is the latest; revisions and contents never change. A
//! content is kept once however many revisions have it, and is limited to what one record of the store holds.
//!
//! | key | record |
//! | --- | --- |
//! | `bundle/<name>/head` | [`Head`] |
//! | `bundle/<name>/revision/<number>` | [`Revision`] |
//! | `bundle/<name>/content/<digest>` | [`BundleContent`], encoded |
//! | `bundle/<name>/on/<host>` | number of its revision, where that is not the settled one |

use std::collections::BTreeSet;
use std::fmt::Write;

use fleetvisor_proto::fleet::{BundleContent, BundleFile, Scope};
use prost::Message;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub(crate) const BUNDLES: &str = "bundle/";

/// Files of a bundle.
pub(crate) const FILES_MAX: usize = 200;
/// Bytes of all files of a bundle: with their names they fit into one record of the store.
pub(crate) const BYTES_MAX: usize = 960 << 10;
const FILE_NAME_MAX: usize = 128;
const NAME_MAX: usize = 64;
pub(crate) const MESSAGE_MAX: usize = 1000;
/// Bundles that there can be, with those that were deleted.
pub(crate) const BUNDLES_MAX: usize = 1000;
/// Revisions that are kept of a bundle.
pub(crate) const REVISIONS_KEPT: u64 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// The latest.
    pub(crate) revision: u64,
    /// The one of every host of which nothing else is kept.
    pub(crate) settled: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Revision {
    pub(crate) revision: u64,
    pub(crate) author: String,
    /// Microseconds since the Unix epoch.
    pub(crate) at: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) message: String,
    /// Which hosts get it: globs and a label selector, as a scope has them.
    pub(crate) hosts: Vec<String>,
    pub(crate) labels: String,
    /// Of its content, hexadecimal; empty where the bundle was deleted.
    pub(crate) digest: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rollback_of: Option<u64>,
    /// The revision that had failed, and that this one was put in the place of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reverts: Option<u64>,
    /// The operation that carries it to the hosts; empty where it was for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) operation: String,
    pub(crate) files: u32,
    pub(crate) bytes: u64,
    /// Names of groups and programs that it defines.
    pub(crate) names: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ContentError {
    #[error(
        "a bundle's name is 1 to {NAME_MAX} letters, digits, '.', '_' or '-', and begins with none of '.', '-'"
    )]
    Name,
    #[error("a bundle has at least one .conf file")]
    NoFiles,
    #[error("{0} files are too many for a bundle (the limit is {FILES_MAX}); divide it into several")]
    TooManyFiles(usize),
    #[error(
        "{0} bytes are too many for a bundle (the limit is {BYTES_MAX} in all files); divide it into several"
    )]
    TooLarge(usize),
    #[error(
        "{0:?} cannot be the name of a bundle's file: letters, digits, '.', '_' and '-', with .conf at the end"
    )]
    FileName(String),
    #[error("there are two files called {0}")]
    Twice(String),
    #[error("a message of {0} bytes is too long (the limit is {MESSAGE_MAX})")]
    Message(usize),
}

impl Revision {
    pub(crate) fn is_deleted(&self) -> bool {
        self.digest.is_empty()
    }

    pub(crate) fn scope(&self) -> Scope {
        Scope { hosts: self.hosts.clone(), labels: self.labels.clone() }
    }
}

pub(crate) fn bundle_prefix(name: &str) -> String {
    format!("{BUNDLES}{name}/")
}

pub(crate) fn head_key(name: &str) -> String {
    format!("{BUNDLES}{name}/head")
}

pub(crate) fn revision_key(name: &str, revision: u64) -> String {
    format!("{BUNDLES}{name}/revision/{revision:020}")
}

/// Prefix of the hosts that should have another revision than the settled one.
pub(crate) fn apart_prefix(name: &str) -> String {
    format!("{BUNDLES}{name}/on/")
}

pub(crate) fn apart_key(name: &str, host: &str) -> String {
    format!("{BUNDLES}{name}/on/{host}")
}

pub(crate) fn content_key(name: &str, digest: &str) -> String {
    format!("{BUNDLES}{name}/content/{digest}")
}

pub(crate) fn check_name(name: &str) -> Result<(), ContentError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match !name.is_empty()
        && name.len() <= NAME_MAX
        && !name.starts_with(['.', '-'])
        && name.chars().all(plain)
    {
        true => Ok(()),
        false => Err(ContentError::Name),
    }
}

/// The files as they are kept: by name, each checked.
pub(crate) fn content(mut files: Vec<BundleFile>) -> Result<BundleContent, ContentError> {
    if files.is_empty() {
        return Err(ContentError::NoFiles);
    }
    if files.len() > FILES_MAX {
        return Err(ContentError::TooManyFiles(files.len()));
    }
    let bytes = files.iter().map(|file| file.text.len()).sum();
    if bytes > BYTES_MAX {
        return Err(ContentError::TooLarge(bytes));
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    for file in &files {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let stem = file.name.strip_suffix(".conf").unwrap_or_default();
        if stem.is_empty()
            || stem.starts_with(['.', '-'])
            || file.name.len() > FILE_NAME_MAX
            || !stem.chars().all(plain)
        {
            return Err(ContentError::FileName(file.name.clone()));
        }
    }
    match files.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => Err(ContentError::Twice(pair[0].name.clone())),
        None => Ok(BundleContent { files }),
    }
}

pub(crate) fn digest(content: &BundleContent) -> String {
    hex(&Sha256::digest(content.encode_to_vec()))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of a digest that this file has made.
pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    (0..text.len()).step_by(2).filter_map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::VALUE_MAX;

    fn file(name: &str, bytes: usize) -> BundleFile {
        BundleFile { name: name.to_owned(), text: vec![b'#'; bytes] }
    }

    #[test]
    fn the_largest_content_fits_into_a_record() {
        let name = |n: usize| format!("{n:0width$}.conf", width = FILE_NAME_MAX - 5);
        let each = BYTES_MAX / FILES_MAX;
        let files: Vec<BundleFile> = (0..FILES_MAX).map(|n| file(&name(n), each)).collect();
        let content = content(files).unwrap();
        assert!(content.encode_to_vec().len() <= VALUE_MAX);
    }

    #[test]
    fn files_are_checked_and_their_order_means_nothing() {
        let [a, b] = [file("a.conf", 1), file("b.conf", 2)];
        let one = content(vec![a.clone(), b.clone()]).unwrap();
        assert_eq!(digest(&one), digest(&content(vec![b, a.clone()]).unwrap()));
        assert_eq!(unhex(&digest(&one)).len(), 32);
        assert_eq!(hex(&unhex(&digest(&one))), digest(&one));
        for bad in ["a", ".conf", "../a.conf", "a/b.conf", ".a.conf", "ä.conf"] {
            assert_eq!(content(vec![file(bad, 1)]), Err(ContentError::FileName(bad.to_owned())));
        }
        assert_eq!(content(vec![]), Err(ContentError::NoFiles));
        assert_eq!(content(vec![a.clone(), a]), Err(ContentError::Twice("a.conf".to_owned())));
        let much = content(vec![file("a.conf", BYTES_MAX + 1)]).unwrap_err();
        assert!(matches!(much, ContentError::TooLarge(_)), "{much}");
    }

    #[test]
    fn names_cannot_leave_their_place() {
        assert!(check_name("web-1.x_y").is_ok());
        for bad in ["", ".", "..", "a/b", "-x", "a b", &"a".repeat(65)] {
            assert_eq!(check_name(bad), Err(ContentError::Name), "{bad}");
        }
    }
}
