//! Paths as Supervisor makes them of values: `~`, absolute, normalised by text alone (links are not
//! followed), and the checks that a folder exists.

use std::path::{Path, PathBuf};

use super::host::Host;

/// `~` and `~user` in front, where the user is known.
pub(super) fn expand_user(path: &str, host: &dyn Host) -> String {
    let Some(rest) = path.strip_prefix('~') else { return path.to_owned() };
    let (name, tail) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let home = if name.is_empty() {
        let variable = host.env().into_iter().find(|(name, _)| name == "HOME").map(|(_, value)| value);
        variable.or_else(|| host.user_by_uid(host.uid()).map(|user| user.home))
    } else {
        host.user_by_name(name).map(|user| user.home)
    };
    match home {
        None => path.to_owned(),
        Some(home) => {
            let expanded = format!("{}{tail}", home.trim_end_matches('/'));
            if expanded.is_empty() { "/".to_owned() } else { expanded }
        }
    }
}

/// Absolute, without `.`, `..` and repeated slashes. Two slashes in front stay two, as POSIX wants it.
pub(super) fn absolute(path: &str, host: &dyn Host) -> String {
    let path = join(&host.cwd().to_string_lossy(), path);
    let root = if path.starts_with("//") && !path.starts_with("///") { "//" } else { "/" };
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("{root}{}", parts.join("/"))
}

/// What Supervisor does to the path of every file of its own.
pub fn normalize(path: &str, host: &dyn Host) -> PathBuf {
    PathBuf::from(absolute(&expand_user(path, host), host))
}

pub(super) fn join(base: &str, path: &str) -> String {
    match base {
        _ if path.starts_with('/') => path.to_owned(),
        "" => path.to_owned(),
        base if base.ends_with('/') => format!("{base}{path}"),
        base => format!("{base}/{path}"),
    }
}

/// Everything before the last slash, without slashes at its end unless it is the root.
pub(super) fn dirname(path: &str) -> &str {
    let head = &path[..path.rfind('/').map_or(0, |at| at + 1)];
    let trimmed = head.trim_end_matches('/');
    if trimmed.is_empty() { head } else { trimmed }
}

pub fn existing_directory(value: &str, host: &dyn Host) -> Result<PathBuf, String> {
    let path = PathBuf::from(expand_user(value, host));
    if host.is_dir(&path) { Ok(path) } else { Err(format!("{value} is not an existing directory")) }
}

/// A file's path; its folder must exist.
pub fn existing_dirpath(value: &str, host: &dyn Host) -> Result<String, String> {
    let path = expand_user(value, host);
    let folder = dirname(&path);
    if folder.is_empty() || host.is_dir(Path::new(folder)) {
        return Ok(path);
    }
    Err(format!("The directory named as part of the path {value} does not exist"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::host::memory::Memory;

    #[test]
    fn paths_become_absolute_and_normal() {
        let host = Memory::new(&[]);
        for (path, expected) in [
            ("x.log", "/cwd/x.log"),
            ("", "/cwd"),
            ("/a/./b/../c//d/", "/a/c/d"),
            ("/../..", "/"),
            ("//x", "//x"),
            ("///x", "/x"),
            ("~/x", "/home/op/x"),
            ("~op/x", "/home/op/x"),
            ("~nobody/x", "/cwd/~nobody/x"),
        ] {
            assert_eq!(normalize(path, &host), PathBuf::from(expected), "{path}");
        }
    }

    #[test]
    fn folders_must_exist() {
        let host = Memory::new(&[]);
        assert_eq!(existing_dirpath("/tmp/x", &host).as_deref(), Ok("/tmp/x"));
        assert_eq!(existing_dirpath("x", &host).as_deref(), Ok("x"));
        let missing = "The directory named as part of the path /no/x does not exist";
        assert_eq!(existing_dirpath("/no/x", &host).unwrap_err(), missing);
        assert_eq!(existing_directory("/no", &host).unwrap_err(), "/no is not an existing directory");
    }
}
