//! Where things are in the controller's directory. Names only: making and reading them is for others.

use std::path::{Path, PathBuf};

/// ```text
/// DIR/ca/      ca.crt, ca.key
/// DIR/server/  the controller's own identity
/// DIR/admin/   the first operator's identity
/// DIR/store/   everything else that lasts
/// DIR/audit/   the older part of the audit log, once there is one
/// ```
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    dir: PathBuf,
}

impl Layout {
    pub(crate) fn new(dir: &Path) -> Layout {
        Layout { dir: dir.to_owned() }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.join("ca")
    }

    pub(crate) fn server(&self) -> PathBuf {
        self.dir.join("server")
    }

    pub(crate) fn admin(&self) -> PathBuf {
        self.dir.join("admin")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    pub(crate) fn audit(&self) -> PathBuf {
        self.dir.join("audit")
    }

    /// Whatever `init` makes, in the order in which it does.
    pub(crate) fn all(&self) -> [PathBuf; 4] {
        [self.ca(), self.store(), self.admin(), self.server()]
    }
}
