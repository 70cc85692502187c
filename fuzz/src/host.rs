//! A host of a few files, one user and one group. Answers like a small real machine, always the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fleetvisor_model::config::{Host, User};

/// The main file; the others are beside it in `conf.d`.
const MAIN: &str = "/etc/supervisord.conf";

#[derive(Debug)]
pub struct MemoryHost {
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl MemoryHost {
    /// The first text is the main file, every later one is `/etc/conf.d/N.conf`.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a [u8]>) -> MemoryHost {
        let path = |place| match place {
            0 => PathBuf::from(MAIN),
            place => PathBuf::from(format!("/etc/conf.d/{place}.conf")),
        };
        let files = texts.into_iter().enumerate().map(|(place, text)| (path(place), text.to_owned()));
        MemoryHost { files: files.collect() }
    }

    pub fn main(&self) -> &'static Path {
        Path::new(MAIN)
    }
}

impl Host for MemoryHost {
    fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        self.files.get(path).cloned().ok_or_else(|| "No such file or directory".to_owned())
    }

    fn exists(&self, path: &Path) -> bool {
        self.files.contains_key(path) || self.is_dir(path)
    }

    fn is_dir(&self, path: &Path) -> bool {
        path == Path::new("/")
            || path == Path::new("/tmp")
            || self.files.keys().any(|file| file != path && file.starts_with(path))
    }

    fn entries(&self, directory: &Path) -> Vec<String> {
        let below = self.files.keys().filter_map(|file| file.strip_prefix(directory).ok());
        let names = below.filter_map(|rest| rest.components().next());
        let mut names: Vec<String> =
            names.map(|name| name.as_os_str().to_string_lossy().into_owned()).collect();
        names.dedup();
        names
    }

    fn env(&self) -> Vec<(String, String)> {
        [("HOME", "/home/op"), ("PORT", "80"), ("PERCENT", "50%")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    fn cwd(&self) -> PathBuf {
        PathBuf::from("/")
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
