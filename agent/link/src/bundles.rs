//! The bundles that the fleet has given this host, on its disk: a host that starts without a controller starts
//! with them. All of them change at once or not at all.
//!
//! ```text
//! state_dir/bundles -> bundles.5       replaced by a rename once everything below it is on the disk
//! state_dir/bundles.5/kept.json        which bundles, at which revisions; the host's labels
//! state_dir/bundles.5/web/app.conf     what `%(here)s` of it is: state_dir/bundles/web
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fleetvisor_model::config::{Bundle, Bundles};
use fleetvisor_proto::fleet::{BundleContent, BundleFile};
use prost::Message;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const LINK: &str = "bundles";
const FILE: &str = "kept.json";

/// What this host keeps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    pub(crate) labels: BTreeMap<String, String>,
    /// By name.
    pub(crate) bundles: BTreeMap<String, KeptBundle>,
    /// The highest revision of each bundle that was ever kept, also of those that are gone.
    pub(crate) highest: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KeptBundle {
    pub(crate) revision: u64,
    pub(crate) content: BundleContent,
}

#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    #[error("cannot read the fleet's bundles in {path}: {reason}")]
    Read { path: PathBuf, reason: String },
    #[error("cannot keep the fleet's bundles in {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
}

#[derive(Default, Serialize, Deserialize)]
struct Index {
    labels: BTreeMap<String, String>,
    revisions: BTreeMap<String, u64>,
    highest: BTreeMap<String, u64>,
}

impl Kept {
    /// What is kept in `state_dir`; nothing where the host was given none so far.
    pub fn load(state_dir: &Path) -> Result<Kept, KeptError> {
        let folder = state_dir.join(LINK);
        let failed = |path: &Path, reason: String| KeptError::Read { path: path.to_path_buf(), reason };
        let path = folder.join(FILE);
        let index: Index = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| failed(&path, error.to_string()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::default()),
            Err(error) => return Err(failed(&path, error.to_string())),
        };
        let mut bundles = BTreeMap::new();
        for (name, revision) in index.revisions {
            let folder = folder.join(&name);
            let content = read_folder(&folder).map_err(|error| failed(&folder, error.to_string()))?;
            bundles.insert(name, KeptBundle { revision, content });
        }
        Ok(Kept { labels: index.labels, bundles, highest: index.highest })
    }

    /// As the configuration's reader takes them.
    pub fn bundles(&self, state_dir: &Path) -> Bundles {
        let bundle = |(name, kept): (&String, &KeptBundle)| {
            let folder = state_dir.join(LINK).join(name);
            let files = kept.content.files.iter().map(|file| (folder.join(&file.name), file.text.clone()));
            Bundle { name: name.clone(), files: files.collect() }
        };
        Bundles { labels: self.labels.clone(), bundles: self.bundles.iter().map(bundle).collect() }
    }

    /// Replaces what is kept; it is on the disk when this returns.
    pub(crate) fn save(&self, state_dir: &Path) -> Result<(), KeptError> {
        let write = || {
            let link = state_dir.join(LINK);
            let before = fs::read_link(&link).ok();
            let number = |name: &Path| name.to_str()?.strip_prefix("bundles.")?.parse::<u64>().ok();
            let next = before.as_deref().and_then(number).map_or(1, |number| number.wrapping_add(1));
            let name = format!("bundles.{next}");
            let folder = state_dir.join(&name);
            // Left behind by a daemon that was killed.
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            self.write_to(&folder)?;
            let new = state_dir.join("bundles.new");
            match fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            std::os::unix::fs::symlink(&name, &new)?;
            fs::rename(&new, &link)?;
            File::open(state_dir)?.sync_all()?;
            if let Some(before) = before {
                // Only space is lost if it stays.
                let _ = fs::remove_dir_all(state_dir.join(before));
            }
            Ok(())
        };
        write().map_err(|source| KeptError::Write { path: state_dir.to_path_buf(), source })
    }

    fn write_to(&self, folder: &Path) -> io::Result<()> {
        create_private(folder)?;
        for (name, kept) in &self.bundles {
            let folder = folder.join(name);
            create_private(&folder)?;
            for file in &kept.content.files {
                write_private(&folder.join(&file.name), &file.text)?;
            }
            File::open(&folder)?.sync_all()?;
        }
        let index = Index {
            labels: self.labels.clone(),
            revisions: self.bundles.iter().map(|(name, kept)| (name.clone(), kept.revision)).collect(),
            highest: self.highest.clone(),
        };
        write_private(&folder.join(FILE), &serde_json::to_vec(&index)?)?;
        File::open(folder)?.sync_all()
    }
}

pub(crate) fn digest(content: &BundleContent) -> Vec<u8> {
    Sha256::digest(content.encode_to_vec()).to_vec()
}

/// What may stand in a path of ours: no separator, nothing hidden.
pub(crate) fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && name.len() <= 128 && !name.starts_with(['.', '-']) && name.chars().all(plain)
}

fn read_folder(folder: &Path) -> io::Result<BundleContent> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string() {
            files.push(BundleFile { name, text: fs::read(entry.path())? });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(BundleContent { files })
}

/// Bundles may hold passwords.
fn create_private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(0o700).create(folder)
}

fn write_private(path: &Path, text: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(revision: u64, text: &str) -> Kept {
        let files = vec![BundleFile { name: "a.conf".to_owned(), text: text.as_bytes().to_vec() }];
        let bundle = KeptBundle { revision, content: BundleContent { files } };
        Kept {
            labels: BTreeMap::from([("role".to_owned(), "web".to_owned())]),
            bundles: BTreeMap::from([("web".to_owned(), bundle)]),
            highest: BTreeMap::from([("web".to_owned(), revision)]),
        }
    }

    #[test]
    fn what_was_kept_last_is_found_again_and_nothing_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Kept::load(folder.path()).unwrap(), Kept::default());
        for revision in 1..4 {
            let kept = kept(revision, &format!("# {revision}\n"));
            kept.save(folder.path()).unwrap();
            assert_eq!(Kept::load(folder.path()).unwrap(), kept);
        }
        let mut names: Vec<String> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["bundles", "bundles.3"]);
        let bundles = Kept::load(folder.path()).unwrap().bundles(folder.path());
        assert_eq!(bundles.bundles[0].files[0].0, folder.path().join("bundles/web/a.conf"));
        assert_eq!(fs::read_to_string(&bundles.bundles[0].files[0].0).unwrap(), "# 3\n");
    }

    #[test]
    fn a_save_that_was_cut_short_leaves_the_one_before_and_is_no_hindrance() {
        let folder = tempfile::tempdir().unwrap();
        kept(1, "# 1\n").save(folder.path()).unwrap();
        fs::create_dir_all(folder.path().join("bundles.2/web")).unwrap();
        fs::write(folder.path().join("bundles.2/web/a.conf"), "ha").unwrap();
        assert_eq!(Kept::load(folder.path()).unwrap(), kept(1, "# 1\n"));
        kept(2, "# 2\n").save(folder.path()).unwrap();
        assert_eq!(Kept::load(folder.path()).unwrap(), kept(2, "# 2\n"));
    }

    #[test]
    fn a_damaged_index_is_said_to_be() {
        let folder = tempfile::tempdir().unwrap();
        kept(1, "").save(folder.path()).unwrap();
        fs::write(folder.path().join("bundles").join(FILE), "{").unwrap();
        let error = Kept::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("kept.json"), "{error}");
    }

    #[test]
    fn names_stay_in_their_folder() {
        assert!(is_plain("web.conf"));
        for bad in ["", "..", "../x", "a/b", ".x", "-x", "a\0"] {
            assert!(!is_plain(bad), "{bad:?}");
        }
    }
}
