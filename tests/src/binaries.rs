//! Where the built programs are. The suites drive programs of other packages, for which cargo hands out no
//! path, so they are looked for beside the test executable, and built once where nobody has.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The built program of this name (`supervisord`, `ctl`, ...). `FLEETVISOR_BIN` names a directory to take
/// them from; otherwise they are built first, in the profile of the tests.
///
/// # Panics
/// When it can't be built.
pub fn binary(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let path = FOLDER.get_or_init(folder).join(name);
    assert!(path.is_file(), "{} is missing: has it been built?", path.display());
    path
}

fn folder() -> PathBuf {
    if let Some(given) = std::env::var_os("FLEETVISOR_BIN") {
        let given = PathBuf::from(given);
        return given.canonicalize().unwrap_or(given);
    }
    let executable = std::env::current_exe().expect("the test executable has a path");
    let folder = executable
        .parent()
        .and_then(Path::parent)
        .expect("cargo puts test executables in target/PROFILE/deps")
        .to_owned();
    build(&folder);
    folder
}

fn build(folder: &Path) {
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // The whole workspace, as `cargo test --workspace` sees it: a narrower choice unites fewer features and
    // compiles the dependencies a second time.
    let mut build = Command::new(cargo);
    build
        .args(["build", "--workspace", "--bins", "--profile", profile])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    // What cargo says of this package to its tests makes dependencies be compiled again whose scripts ask for it.
    let of_this = |name: &str| ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|start| name.starts_with(start));
    for (name, _) in std::env::vars().filter(|(name, _)| of_this(name)) {
        build.env_remove(name);
    }
    let status = build.status().expect("cargo runs");
    assert!(status.success(), "the programs under test could not be built ({status})");
}
