//! A whole configuration: the main file, what it includes, and the sections of the daemon itself. Reads in
//! Supervisor's order, so that of two mistakes the same one is reported.

use std::collections::BTreeMap;
use std::path::Path;

use super::bundle::{add_bundles, inherit, own_names};
use super::error::ConfigError;
use super::expand::{Names, Scope};
use super::fleet::fleet_section;
use super::group::groups;
use super::host::Host;
use super::pairs::key_value_pairs;
use super::path::{existing_directory, existing_dirpath, normalize};
use super::rpcinterface::rpcinterfaces;
use super::server::servers;
use super::source::Source;
use super::types::{Config, LogLevel, LogTarget, SupervisordSection};
use super::value::{boolean, byte_size, integer, logging_level, octal};

/// Reads `path` and everything it includes. That `[supervisord] user` exists is not checked here: a command
/// line may name another.
pub fn load(path: &Path, host: &dyn Host) -> Result<Config, ConfigError> {
    let mut source = Source::open_with_includes(path, host)?;
    if !source.document.has_section("supervisord") {
        return Err(ConfigError::new(".ini file does not include supervisord section").in_file(path));
    }
    let supervisord = supervisord_section(&mut source)?;
    let rpcinterfaces = rpcinterfaces(&source)?;
    let mut warnings = std::mem::take(&mut source.warnings);
    let mut groups = groups(&source, &mut warnings)?;
    inherit(&mut groups, &supervisord.environment);
    let servers = servers(&source)?;
    let fleet = fleet_section(&source)?;
    let own = own_names(&source, &groups);
    let mut config = Config {
        supervisord,
        servers,
        groups,
        rpcinterfaces,
        fleet,
        bundled: BTreeMap::new(),
        bundle_faults: Vec::new(),
        infos: source.infos,
        warnings,
    };
    add_bundles(&mut config, own, host);
    Ok(config)
}

/// Also makes the section's `environment` known to every expansion that follows.
fn supervisord_section(source: &mut Source<'_>) -> Result<SupervisordSection, ConfigError> {
    let host = source.host;
    let here = Names::default().with("here", &source.here);
    let names = [&here];
    let section = source.section("supervisord", &names);
    let path = |value: &str| existing_dirpath(value, host).map(|path| normalize(&path, host));
    let read = SupervisordSection {
        minfds: section.value_or("minfds", 1024, integer)?,
        minprocs: section.value_or("minprocs", 200, integer)?,
        directory: section.value("directory", |value| existing_directory(value, host))?,
        user: section.text("user")?,
        umask: section.value_or("umask", 0o022, octal)?,
        logfile: match section.value("logfile", |value| main_logfile(value, host))? {
            Some(target) => target,
            None => LogTarget::File(normalize("supervisord.log", host)),
        },
        logfile_maxbytes: section.value_or("logfile_maxbytes", 50 << 20, byte_size)?,
        logfile_backups: section.value_or("logfile_backups", 10, integer)?,
        loglevel: section.value_or("loglevel", LogLevel::Info, logging_level)?,
        pidfile: section.value("pidfile", path)?.unwrap_or_else(|| normalize("supervisord.pid", host)),
        identifier: section.text("identifier")?.unwrap_or_else(|| "supervisor".to_owned()),
        nodaemon: section.value_or("nodaemon", false, boolean)?,
        silent: section.value_or("silent", false, boolean)?,
        childlogdir: match section.value("childlogdir", |value| existing_directory(value, host))? {
            Some(folder) => folder,
            None => host.temp_dir(),
        },
        nocleanup: section.value_or("nocleanup", false, boolean)?,
        strip_ansi: section.value_or("strip_ansi", false, boolean)?,
        environment: BTreeMap::new(),
    };
    let local = source.local_names();
    let scope = [&local, &source.env];
    // Supervisor expands this value twice.
    let pairs = section
        .value("environment", |value| key_value_pairs(&Scope(&scope).expand(value, "environment")?))?;
    let pairs = pairs.unwrap_or_default();
    source.common_bytes = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
    source.env.set_env(&pairs);
    Ok(SupervisordSection { environment: pairs.into_iter().collect(), ..read })
}

/// Where the daemon's own log goes: `syslog`, or a path, made absolute. `NONE` and `AUTO` are names of files
/// here. The file's folder must exist.
pub fn main_logfile(value: &str, host: &dyn Host) -> Result<LogTarget, String> {
    let path = existing_dirpath(value, host)?;
    Ok(if path == "syslog" { LogTarget::Syslog } else { LogTarget::File(normalize(&path, host)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::host::memory::Memory;
    use proptest::prelude::*;

    fn config(text: &str) -> Result<Config, ConfigError> {
        load(Path::new("/etc/s.conf"), &Memory::new(&[("/etc/s.conf", text)]))
    }

    fn message(text: &str) -> String {
        config(text).unwrap_err().to_string()
    }

    #[test]
    fn an_empty_section_has_supervisors_defaults() {
        let section = config("[supervisord]\n").unwrap().supervisord;
        assert_eq!(section.logfile, LogTarget::File("/cwd/supervisord.log".into()));
        assert_eq!(section.pidfile, Path::new("/cwd/supervisord.pid"));
        assert_eq!((section.minfds, section.minprocs, section.umask), (1024, 200, 0o022));
        assert_eq!((section.logfile_maxbytes, section.logfile_backups), (50 << 20, 10));
        assert_eq!(section.childlogdir, Path::new("/tmp"));
    }

    #[test]
    fn the_environment_is_expanded_twice_and_known_to_programs() {
        let text = "[supervisord]\nenvironment=A=\"%%(host_node_name)s\",B='50%%%%'\n\
                    [program:p]\ncommand=%(ENV_A)s %(ENV_PORT)s\nenvironment=B=own\n";
        let config = config(text).unwrap();
        let process = &config.groups[0].processes[0];
        assert_eq!(process.command, "node-1 80");
        let expected = [("A", "node-1"), ("B", "own")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(process.environment, BTreeMap::from(expected));
        assert_eq!(config.supervisord.environment["B"], "50%");
    }

    #[test]
    fn mistakes_have_supervisors_words_and_their_place() {
        assert_eq!(message("[a]\n"), ".ini file does not include supervisord section");
        assert_eq!(message("[supervisord]\nloglevel=loud\n"), "bad logging level name 'loud'");
        assert_eq!(message("[supervisord]\ndirectory=/no\n"), "/no is not an existing directory");
        let error = config("[supervisord]\n\nminfds=many\n").unwrap_err();
        assert_eq!(error.to_string(), "invalid literal for int() with base 10: 'many'");
        assert_eq!((error.file.as_deref(), error.line), (Some(Path::new("/etc/s.conf")), Some(3)));
        assert_eq!(
            (error.section.as_deref(), error.option.as_deref()),
            (Some("supervisord"), Some("minfds"))
        );
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let error = load(Path::new("x.conf"), &Memory::new(&[])).unwrap_err();
        assert_eq!(error.to_string(), "could not find config file x.conf");
        let error = load(Path::new("/etc"), &Memory::new(&[("/etc/x", "")])).unwrap_err();
        assert_eq!(error.to_string(), "could not read config file /etc");
    }

    proptest! {
        #[test]
        fn any_configuration_is_read_or_refused(
            lines in proptest::collection::vec(
                "\\[(program|group|eventlistener|fcgi-program|fleet|include|DEFAULT|supervisord)(:[a-c ])?\\]|\
                 (command|programs|events|socket|numprocs|process_name|files|environment|controller|labels)\
                 =[%()a-c0-9, ='\"*:/.-]{0,20}(%\\(process_num\\)02d)?",
                0..20,
            )
        ) {
            let _ = config(&format!("[supervisord]\n{}\n", lines.join("\n")));
        }
    }
}
