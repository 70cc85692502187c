//! Supervisor 4.3.0 itself, installed by `tests/venv`: what ours is compared with, and the client that has
//! to be able to drive ours.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Python's `supervisorctl`.
pub fn python_supervisorctl() -> PathBuf {
    folder().join("supervisorctl")
}

/// Python's `supervisord`.
pub fn python_supervisord() -> PathBuf {
    folder().join("supervisord")
}

/// Any other program that `tests/venv` installs: `python`, `memmon`, ...
pub fn python_program(name: &str) -> PathBuf {
    folder().join(name)
}

fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        // Does nothing when it is there already.
        let status = Command::new(tests.join("venv")).status().expect("tests/venv can be run");
        assert!(status.success(), "tests/venv could not install Supervisor ({status})");
        tests.join(".venv/bin")
    })
}
