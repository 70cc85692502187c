//! Which controller, and as whom: flags, then the environment, then `~/.config/fleetvisor/ctl.toml`. Reads
//! that file; does not connect.

use std::env;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cli::Access;

const CONTROLLER: &str = "FLEETVISOR_CONTROLLER";
const IDENTITY: &str = "FLEETVISOR_IDENTITY";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `host:port`, tried in turn; at least one.
    pub(crate) controllers: Vec<String>,
    /// Directory with `ca.crt`, `tls.crt` and `tls.key`.
    pub(crate) identity: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error(
        "which controller? Give --controller, set {CONTROLLER}, or write controller = \"host:port\" to {file}"
    )]
    NoController { file: String },
    #[error("as whom? Give --identity, set {IDENTITY}, or write identity = \"directory\" to {file}")]
    NoIdentity { file: String },
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {reason}")]
    Content { path: PathBuf, reason: String },
}

/// What `ctl.toml` may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    controller: Option<String>,
    identity: Option<PathBuf>,
}

impl Settings {
    pub(crate) fn read(access: &Access) -> Result<Settings, SettingsError> {
        let var = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let home = var("HOME").map(PathBuf::from);
        let file = var("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| home.as_ref().map(|home| home.join(".config")))
            .map(|config| config.join("fleetvisor/ctl.toml"));
        let controller = access.controller.clone().or_else(|| var(CONTROLLER));
        let identity = access.identity.clone().or_else(|| var(IDENTITY).map(PathBuf::from));
        choose(controller, identity, file.as_deref(), home.as_deref())
    }
}

/// The file is read only for what flags and environment left open.
fn choose(
    controller: Option<String>,
    identity: Option<PathBuf>,
    file: Option<&Path>,
    home: Option<&Path>,
) -> Result<Settings, SettingsError> {
    let written = match file {
        Some(file) if controller.is_none() || identity.is_none() => read(file)?,
        Some(_) | None => Written::default(),
    };
    let shown =
        || file.map_or_else(|| "~/.config/fleetvisor/ctl.toml".to_owned(), |file| file.display().to_string());
    let controllers: Vec<String> = controller
        .or(written.controller)
        .unwrap_or_default()
        .split(',')
        .map(|address| address.trim().to_owned())
        .filter(|address| !address.is_empty())
        .collect();
    if controllers.is_empty() {
        return Err(SettingsError::NoController { file: shown() });
    }
    let identity = identity
        .or_else(|| written.identity.map(|path| under_home(path, home)))
        .ok_or_else(|| SettingsError::NoIdentity { file: shown() })?;
    Ok(Settings { controllers, identity })
}

fn read(file: &Path) -> Result<Written, SettingsError> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Written::default()),
        Err(source) => return Err(SettingsError::Read { path: file.to_owned(), source }),
    };
    toml::from_str(&text).map_err(|error| SettingsError::Content {
        path: file.to_owned(),
        reason: error.to_string().trim_end().to_owned(),
    })
}

/// `~/x` is a person's way to write it; no shell expands it in a file.
fn under_home(path: PathBuf, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        (Ok(_), None) | (Err(_), _) => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn flags_and_environment_go_before_the_file() {
        let written = file("controller = \"a:1, b:2\"\nidentity = \"~/me\"\n");
        let home = Path::new("/home/me");
        let settings = choose(None, None, Some(written.path()), Some(home)).unwrap();
        assert_eq!(settings.controllers, ["a:1", "b:2"]);
        assert_eq!(settings.identity, Path::new("/home/me/me"));
        let settings = choose(Some("c:3".to_owned()), None, Some(written.path()), Some(home)).unwrap();
        assert_eq!(settings.controllers, ["c:3"]);
    }

    #[test]
    fn the_file_may_be_missing_but_not_wrong() {
        let nowhere = Path::new("/nowhere/ctl.toml");
        let error = choose(None, None, Some(nowhere), None).unwrap_err();
        assert!(
            error.to_string().contains("--controller") && error.to_string().contains("/nowhere/ctl.toml")
        );
        let error = choose(Some("a:1".to_owned()), None, Some(nowhere), None).unwrap_err();
        assert!(matches!(error, SettingsError::NoIdentity { .. }));
        let wrong = file("controler = \"a:1\"\n");
        let error = choose(None, None, Some(wrong.path()), None).unwrap_err();
        assert!(error.to_string().contains("controler"), "{error}");
    }
}
