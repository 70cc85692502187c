//! This machine as a configuration sees it: files, environment, users. Reads only; whatever must be created
//! or changed for a configuration is done elsewhere.

use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};

use fleetvisor_link::Kept;
use fleetvisor_model::config::{Bundles, Host, MAX_CONFIG_BYTES, User};
use nix::unistd::{AccessFlags, Gid, Group, Uid, access};

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FileSystem;

impl Host for FileSystem {
    fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        let mut text = Vec::new();
        let limit = MAX_CONFIG_BYTES as u64 + 1;
        let read = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut text));
        read.map(|_| text).map_err(|error| error.to_string())
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn is_dir(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn entries(&self, directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn env(&self) -> Vec<(String, String)> {
        std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .collect()
    }

    fn cwd(&self) -> PathBuf {
        std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"))
    }

    fn node_name(&self) -> String {
        nix::unistd::gethostname().map_or_else(|_| String::new(), |name| name.to_string_lossy().into_owned())
    }

    /// The first folder of `TMPDIR`, `TEMP`, `TMP`, the usual ones and the current one that can be written to.
    fn temp_dir(&self) -> PathBuf {
        let set =
            ["TMPDIR", "TEMP", "TMP"].into_iter().filter_map(std::env::var_os).filter(|dir| !dir.is_empty());
        let usual = ["/tmp", "/var/tmp", "/usr/tmp"].into_iter().map(Into::into);
        let writable =
            |dir: &PathBuf| dir.is_dir() && access(dir, AccessFlags::W_OK | AccessFlags::X_OK).is_ok();
        let candidates = set.chain(usual).map(|dir| self.cwd().join(dir));
        candidates.chain([self.cwd()]).find(writable).unwrap_or_else(|| PathBuf::from("/tmp"))
    }

    fn uid(&self) -> u32 {
        Uid::current().as_raw()
    }

    fn user_by_name(&self, name: &str) -> Option<User> {
        nix::unistd::User::from_name(name).ok().flatten().map(user)
    }

    fn user_by_uid(&self, uid: u32) -> Option<User> {
        nix::unistd::User::from_uid(Uid::from_raw(uid)).ok().flatten().map(user)
    }

    fn gid_by_name(&self, name: &str) -> Option<u32> {
        Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
    }

    fn gid_exists(&self, gid: u32) -> bool {
        matches!(Group::from_gid(Gid::from_raw(gid)), Ok(Some(_)))
    }

    fn bundles(&self, state_dir: &Path) -> Result<Bundles, String> {
        Kept::load(state_dir).map(|kept| kept.bundles(state_dir)).map_err(|error| error.to_string())
    }

    fn address_of(&self, name: &str) -> Option<Ipv4Addr> {
        let mut found = (name, 0).to_socket_addrs().ok()?;
        found.find_map(|address| match address.ip() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
    }
}

fn user(found: nix::unistd::User) -> User {
    let home = found.dir.to_string_lossy().into_owned();
    User { uid: found.uid.as_raw(), gid: found.gid.as_raw(), home }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_found_by_name_and_number() {
        let root = FileSystem.user_by_name("root").expect("every system has root");
        assert_eq!((root.uid, root.gid), (0, 0));
        assert_eq!(FileSystem.user_by_uid(0), Some(root));
        assert_eq!(FileSystem.gid_by_name("root"), Some(0));
        assert!(FileSystem.gid_exists(0));
        assert_eq!(FileSystem.user_by_name("no such user"), None);
        assert_eq!(FileSystem.user_by_name("nul\0inside"), None);
    }

    #[test]
    fn a_file_that_cannot_be_read_says_why() {
        let error = FileSystem.read(Path::new("/no/such/file")).unwrap_err();
        assert!(error.starts_with("No such file or directory"), "{error}");
        assert!(FileSystem.read(Path::new("/")).is_err());
    }

    #[test]
    fn reading_stops_at_the_limit() {
        let text = FileSystem.read(Path::new("/dev/zero")).unwrap();
        assert_eq!(text.len(), MAX_CONFIG_BYTES + 1);
    }

    #[test]
    fn entries_of_what_is_no_folder_are_none() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.conf"), "").unwrap();
        assert_eq!(FileSystem.entries(folder.path()), ["a.conf"]);
        assert_eq!(FileSystem.entries(&folder.path().join("a.conf")), Vec::<String>::new());
    }
}
