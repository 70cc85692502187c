//! This host, as reading a configuration asks for it: files, environment, users. Used for the client's own
//! section only.

use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use fleetvisor_model::config::{Host, MAX_CONFIG_BYTES, User};
use nix::unistd;

use super::repr::lossy;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ThisHost;

impl Host for ThisHost {
    fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
        let kind = file.metadata().map_err(|error| error.to_string())?.file_type();
        if kind.is_dir() || kind.is_block_device() {
            return Err("not a file".to_owned());
        }
        let mut bytes = Vec::new();
        file.take(MAX_CONFIG_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn is_dir(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn entries(&self, directory: &Path) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(directory) else {
            return Vec::new();
        };
        entries.flatten().map(|entry| lossy(&entry.file_name())).collect()
    }

    fn env(&self) -> Vec<(String, String)> {
        std::env::vars_os().map(|(name, value)| (lossy(&name), lossy(&value))).collect()
    }

    fn cwd(&self) -> PathBuf {
        std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"))
    }

    fn node_name(&self) -> String {
        unistd::gethostname().map(|name| lossy(&name)).unwrap_or_default()
    }

    fn temp_dir(&self) -> PathBuf {
        std::env::temp_dir()
    }

    fn uid(&self) -> u32 {
        unistd::getuid().as_raw()
    }

    fn user_by_name(&self, name: &str) -> Option<User> {
        unistd::User::from_name(name).ok().flatten().map(user)
    }

    fn user_by_uid(&self, uid: u32) -> Option<User> {
        unistd::User::from_uid(unistd::Uid::from_raw(uid)).ok().flatten().map(user)
    }

    fn gid_by_name(&self, name: &str) -> Option<u32> {
        unistd::Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
    }

    fn gid_exists(&self, gid: u32) -> bool {
        matches!(unistd::Group::from_gid(unistd::Gid::from_raw(gid)), Ok(Some(_)))
    }
}

fn user(user: unistd::User) -> User {
    User { uid: user.uid.as_raw(), gid: user.gid.as_raw(), home: user.dir.to_string_lossy().into_owned() }
}
