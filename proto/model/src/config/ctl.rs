//! `[supervisorctl]`: what the client reads of a configuration. It does not follow `[include]`, as
//! Supervisor's client doesn't.

use std::path::{Path, PathBuf};

use super::error::ConfigError;
use super::expand::Names;
use super::host::Host;
use super::path::{absolute, dirname, expand_user, normalize};
use super::rpcinterface::refuse_ctlplugins;
use super::source::Source;

#[derive(Clone, PartialEq, Eq)]
pub struct CtlSection {
    /// `http://host:port` or `unix:///path`.
    pub serverurl: String,
    pub username: Option<String>,
    pub password: Option<String>,
    pub prompt: String,
    pub history_file: Option<PathBuf>,
}

impl Default for CtlSection {
    /// What holds without a configuration.
    fn default() -> CtlSection {
        CtlSection {
            serverurl: "http://localhost:9001".to_owned(),
            username: None,
            password: None,
            prompt: "supervisor".to_owned(),
            history_file: None,
        }
    }
}

impl std::fmt::Debug for CtlSection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CtlSection").field("serverurl", &self.serverurl).finish_non_exhaustive()
    }
}

/// Reads `[supervisorctl]` of the file. A file without that section is an error, a `[ctlplugin:x]` too.
pub fn load_ctl(path: &Path, host: &dyn Host) -> Result<CtlSection, ConfigError> {
    let full = absolute(&expand_user(&path.to_string_lossy(), host), host);
    let source = Source::open(path, dirname(&full).to_owned(), host)?;
    if !source.document.has_section("supervisorctl") {
        return Err(ConfigError::new(".ini file does not include supervisorctl section").in_file(path));
    }
    let here = Names::default().with("here", &source.here);
    let layers = [&here];
    let with_here = source.section("supervisorctl", &layers);
    let section = source.section("supervisorctl", &[]);
    let default = CtlSection::default();
    let serverurl = with_here.text("serverurl")?.unwrap_or(default.serverurl);
    let serverurl = match serverurl.strip_prefix("unix://") {
        Some(socket) => format!("unix://{}", normalize(socket, host).display()),
        None => serverurl,
    };
    let read = CtlSection {
        serverurl,
        prompt: section.text("prompt")?.unwrap_or(default.prompt),
        username: section.text("username")?,
        password: section.text("password")?,
        history_file: with_here.text("history_file")?.filter(|f| !f.is_empty()).map(|f| normalize(&f, host)),
    };
    refuse_ctlplugins(&source)?;
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::host::memory::Memory;

    fn section(text: &str) -> Result<CtlSection, ConfigError> {
        load_ctl(Path::new("/etc/s.conf"), &Memory::new(&[("/etc/s.conf", text)]))
    }

    #[test]
    fn paths_are_made_absolute() {
        let text = "[supervisorctl]\nserverurl=unix://%(here)s/../s.sock\nhistory_file=~/.h\nusername=u\npassword=%%\n";
        let read = section(text).unwrap();
        assert_eq!((read.serverurl.as_str(), read.prompt.as_str()), ("unix:///s.sock", "supervisor"));
        assert_eq!(read.history_file.as_deref(), Some(Path::new("/home/op/.h")));
        assert_eq!((read.username.as_deref(), read.password.as_deref()), (Some("u"), Some("%")));
        assert!(!format!("{read:?}").contains('%'), "the password stays out of debug output");
    }

    #[test]
    fn the_section_is_required_and_plugins_are_refused() {
        let error = section("[supervisord]\n").unwrap_err();
        assert_eq!(error.to_string(), ".ini file does not include supervisorctl section");
        let error = section("[supervisorctl]\n[ctlplugin:x]\n").unwrap_err();
        assert_eq!(error.to_string(), "section [ctlplugin:x] does not specify a supervisor.ctl_factory");
        let error = section("[supervisorctl]\n[ctlplugin:x]\nsupervisor.ctl_factory=a:b\n").unwrap_err();
        assert!(
            error.to_string().starts_with("a:b cannot be resolved within [ctlplugin:x]: Python"),
            "{error}"
        );
    }
}
