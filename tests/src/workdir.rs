//! A directory for one test: removed when the test passes, kept and its logs printed when it fails.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The path is short, because unix sockets inside it may have 107 bytes.
#[derive(Debug)]
pub struct WorkDir {
    dir: Option<TempDir>,
    path: PathBuf,
}

impl WorkDir {
    /// # Panics
    /// When it can't be made.
    #[allow(clippy::new_without_default)]
    pub fn new() -> WorkDir {
        let dir = tempfile::Builder::new().prefix("fv").tempdir_in("/tmp").expect("/tmp is writable");
        // Programs with `user=` look into it too.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("an own directory");
        let path = dir.path().to_owned();
        WorkDir { dir: Some(dir), path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file, with its folders, and gives its path.
    ///
    /// # Panics
    /// When it can't be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir_all(path.parent().expect("inside the directory")).expect("an own directory");
        fs::write(&path, content).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        path
    }

    /// Writes a program for `/bin/sh` and gives its path.
    pub fn script(&self, name: &str, body: &str) -> PathBuf {
        let path = self.write(name, format!("#!/bin/sh\n{body}\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("an own file");
        path
    }

    /// The content, lossy; empty while there is no such file.
    pub fn read(&self, name: &str) -> String {
        fs::read(self.path.join(name))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        if let Some(dir) = self.dir.take() {
            let path = dir.keep();
            println!("\nthe test failed; {} is kept, its logs:", path.display());
            print_logs(&path);
        }
    }
}

fn print_logs(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() && !path.is_symlink() {
            print_logs(&path);
        } else if path.extension().is_some_and(|end| end == "log" || end == "out" || end == "err") {
            let Ok(bytes) = fs::read(&path) else { continue };
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            println!("--- {} (last {} of {} lines)", path.display(), lines.len().min(60), lines.len());
            for line in &lines[lines.len().saturating_sub(60)..] {
                println!("{line}");
            }
        }
    }
}
