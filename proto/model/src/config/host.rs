//! What reading a configuration asks of the host it is for. Implemented over the file system by the programs
//! that run there, and over a bundle's files where a configuration is only checked.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::bundle::Bundles;

/// Larger files, and more than this in one configuration, are refused.
pub const MAX_CONFIG_BYTES: usize = 16 << 20;

/// A line of the user database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    pub home: String,
}

pub trait Host {
    /// The whole file. An implementation stops reading one byte past [`MAX_CONFIG_BYTES`]; the error is text
    /// for a person.
    fn read(&self, path: &Path) -> Result<Vec<u8>, String>;

    fn exists(&self, path: &Path) -> bool;

    fn is_dir(&self, path: &Path) -> bool;

    /// Names of a directory's entries in any order, without `.` and `..`; none when it can't be listed.
    fn entries(&self, directory: &Path) -> Vec<String>;

    /// The environment in its own order, for `%(ENV_X)s`.
    fn env(&self) -> Vec<(String, String)>;

    fn cwd(&self) -> PathBuf;

    /// The node's name as `uname -n` prints it.
    fn node_name(&self) -> String;

    /// Where temporary files go: the default of `childlogdir`.
    fn temp_dir(&self) -> PathBuf;

    /// Of this process.
    fn uid(&self) -> u32;

    fn user_by_name(&self, name: &str) -> Option<User>;

    fn user_by_uid(&self, uid: u32) -> Option<User>;

    fn gid_by_name(&self, name: &str) -> Option<u32>;

    fn gid_exists(&self, gid: u32) -> bool;

    /// The bundles that a fleet has given this host, kept in `state_dir`; the error is text for a person.
    fn bundles(&self, _state_dir: &Path) -> Result<Bundles, String> {
        Ok(Bundles::default())
    }

    /// The IPv4 address that a name stands for; may take as long as a look-up takes. Where nothing is going to
    /// listen there is no need to know.
    fn address_of(&self, _name: &str) -> Option<Ipv4Addr> {
        None
    }
}

/// A host of a few files, one user and one group, for tests.
#[cfg(test)]
pub(super) mod memory {
    use std::collections::BTreeMap;

    use super::*;

    pub(in crate::config) struct Memory(pub(in crate::config) BTreeMap<PathBuf, String>);

    impl Memory {
        pub(in crate::config) fn new(files: &[(&str, &str)]) -> Memory {
            Memory(files.iter().map(|(path, text)| (PathBuf::from(path), text.to_string())).collect())
        }
    }

    impl Host for Memory {
        fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
            self.0
                .get(path)
                .map(|text| text.clone().into_bytes())
                .ok_or_else(|| "No such file or directory".to_owned())
        }

        fn exists(&self, path: &Path) -> bool {
            self.0.contains_key(path) || self.is_dir(path)
        }

        fn is_dir(&self, path: &Path) -> bool {
            let known = ["/", "/tmp"].into_iter().any(|folder| path == Path::new(folder));
            known || self.0.keys().any(|file| file != path && file.starts_with(path))
        }

        fn entries(&self, directory: &Path) -> Vec<String> {
            let below = self.0.keys().filter_map(|file| file.strip_prefix(directory).ok());
            let names = below.filter_map(|rest| rest.components().next());
            let mut names: Vec<String> =
                names.map(|name| name.as_os_str().to_string_lossy().into_owned()).collect();
            names.dedup();
            names
        }

        fn env(&self) -> Vec<(String, String)> {
            [("HOME", "/home/op"), ("PORT", "80")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into()
        }

        fn cwd(&self) -> PathBuf {
            PathBuf::from("/cwd")
        }

        fn node_name(&self) -> String {
            "node-1".to_owned()
        }

        fn temp_dir(&self) -> PathBuf {
            PathBuf::from("/tmp")
        }

        fn uid(&self) -> u32 {
            0
        }

        fn user_by_name(&self, name: &str) -> Option<User> {
            (name == "op").then(|| User { uid: 5, gid: 6, home: "/home/op/".to_owned() })
        }

        fn user_by_uid(&self, uid: u32) -> Option<User> {
            self.user_by_name("op").filter(|user| user.uid == uid)
        }

        fn gid_by_name(&self, name: &str) -> Option<u32> {
            (name == "ops").then_some(6)
        }

        fn gid_exists(&self, gid: u32) -> bool {
            gid == 6
        }
    }
}
