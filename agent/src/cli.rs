//! supervisord's command line: its options and their help, where the configuration is searched, and how both
//! are laid over each other. What a started daemon does with the result is not decided here.

mod getopt;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use fleetvisor_keeper::{ATTACH_OPTION, CHECK_OPTION, RESUME_OPTION};
use fleetvisor_model::config::{
    Config, ConfigError, Host, LogLevel, LogTarget, byte_size, existing_directory, existing_dirpath, integer,
    load, logging_level, main_logfile, name_to_uid, normalize, octal, repr,
};
use serde::{Deserialize, Serialize};

use getopt::{Found, Spelling, getopt};

use crate::upgrade;

/// The version of Supervisor that this daemon stands in for; `-v` prints it.
pub(crate) const SUPERVISOR_VERSION: &str = "4.3.0";

/// What a valid command line asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Invocation {
    /// The program as messages call it: with its folder where that is known.
    pub(crate) program: String,
    /// Where an upgrade looks for the next release; set once the daemon runs.
    #[serde(default)]
    pub(crate) executable: PathBuf,
    /// As given, or as found.
    pub(crate) config_path: PathBuf,
    pub(crate) overrides: Overrides,
    /// A line for stderr before anything else.
    pub(crate) warning: Option<String>,
}

/// Options that win over `[supervisord]`, by their names there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Overrides {
    pub(crate) nodaemon: bool,
    pub(crate) silent: bool,
    pub(crate) nocleanup: bool,
    pub(crate) strip_ansi: bool,
    pub(crate) user: Option<String>,
    pub(crate) umask: Option<u32>,
    pub(crate) directory: Option<PathBuf>,
    pub(crate) logfile: Option<LogTarget>,
    pub(crate) logfile_maxbytes: Option<i64>,
    pub(crate) logfile_backups: Option<i64>,
    pub(crate) loglevel: Option<LogLevel>,
    pub(crate) pidfile: Option<PathBuf>,
    pub(crate) identifier: Option<String>,
    pub(crate) childlogdir: Option<PathBuf>,
    pub(crate) minfds: Option<i64>,
    pub(crate) minprocs: Option<i64>,
}

/// The program has said everything and ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: u8,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// How one of the daemon's processes was started by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Started {
    /// By the keeper, with its end of their socket.
    AsAgent(i32),
    /// In the place of a keeper, with its state.
    AsKeeper(i32),
    /// By a keeper, to say whether it could be put in its place, with its state.
    ToCheck(i32),
}

/// Takes out of the arguments (the program's name first) what another process of the daemon has put there.
pub(crate) fn how_started(args: &mut Vec<OsString>) -> Option<Started> {
    let first = args.get(1).and_then(|arg| arg.to_str())?;
    let descriptor = |value: &str| value.parse().ok().filter(|fd| *fd >= 0);
    let agent = first.strip_prefix(ATTACH_OPTION).and_then(descriptor).map(Started::AsAgent);
    let keeper = || first.strip_prefix(RESUME_OPTION).and_then(descriptor).map(Started::AsKeeper);
    let check = || first.strip_prefix(CHECK_OPTION).and_then(descriptor).map(Started::ToCheck);
    let started = agent.or_else(keeper).or_else(check)?;
    args.remove(1);
    Some(started)
}

/// Which version of the keeper's frames a candidate for the agent's place is to speak, if this is one.
pub(crate) fn asked_to_prove(args: &[OsString]) -> Option<&str> {
    args.get(1).and_then(|arg| arg.to_str())?.strip_prefix(upgrade::candidate::OPTION)
}

/// Reads the arguments, the program's name first, and finds the configuration file.
pub(crate) fn parse(args: &[OsString], host: &dyn Host) -> Result<Invocation, Exit> {
    let (name, args) =
        args.split_first().map_or((OsStr::new("supervisord"), args), |(name, rest)| (name, rest));
    let program = program_path(&name.to_string_lossy(), host);
    let fail = |message: String| usage(&program, &message);
    let text = |arg: &OsString| {
        let known = arg.to_str().map(str::to_owned);
        known.ok_or_else(|| fail(format!("argument {} is not UTF-8", repr(&arg.to_string_lossy()))))
    };
    let args = args.iter().map(text).collect::<Result<Vec<String>, Exit>>()?;

    let spellings = OPTIONS.map(|option| option.spelling);
    let (found, positional) = getopt(&args, &spellings).map_err(fail)?;
    if !positional.is_empty() {
        let shown: Vec<String> = positional.iter().map(|arg| repr(arg)).collect();
        return Err(fail(format!("positional arguments are not supported: [{}]", shown.join(", "))));
    }
    let mut config_path = None;
    let mut overrides = Overrides::default();
    for option in &found {
        match OPTIONS[option.index].name {
            Name::Help => return Err(Exit { code: 0, stdout: help(&program), stderr: String::new() }),
            Name::Version => {
                return Err(Exit {
                    code: 0,
                    stdout: format!("{SUPERVISOR_VERSION}\n"),
                    stderr: String::new(),
                });
            }
            Name::Configuration => {
                once(&mut config_path, Ok(PathBuf::from(&option.value)), option).map_err(fail)?
            }
            Name::Override(setting) => overrides.set(setting, option, host).map_err(fail)?,
        }
    }
    let (config_path, warning) = match config_path {
        Some(path) => (path, None),
        None => search(&program, host)?,
    };
    Ok(Invocation { program, executable: PathBuf::new(), config_path, overrides, warning })
}

/// Supervisor's way to end over a mistake of the user's.
pub(crate) fn usage(program: &str, message: &str) -> Exit {
    let stderr = format!("Error: {message}\nFor help, use {program} -h\n");
    Exit { code: 2, stdout: String::new(), stderr }
}

impl Invocation {
    /// The configuration with the command line over it. That `user` exists is checked last.
    pub(crate) fn load(&self, host: &dyn Host) -> Result<Config, ConfigError> {
        let mut config = load(&self.config_path, host)?;
        self.overrides.apply(&mut config);
        if let Some(user) = &config.supervisord.user {
            name_to_uid(user, host).map_err(|message| ConfigError {
                message,
                file: self.overrides.user.is_none().then(|| self.config_path.clone()),
                line: None,
                section: Some("supervisord".to_owned()),
                option: Some("user".to_owned()),
            })?;
        }
        Ok(config)
    }

    /// [`usage`] in this program's name.
    pub(crate) fn usage(&self, message: &str) -> Exit {
        usage(&self.program, message)
    }
}

#[derive(Clone, Copy, Debug)]
enum Name {
    Help,
    Version,
    Configuration,
    Override(Setting),
}

#[derive(Clone, Copy, Debug)]
enum Setting {
    Nodaemon,
    Silent,
    Nocleanup,
    StripAnsi,
    User,
    Umask,
    Directory,
    Logfile,
    LogfileMaxbytes,
    LogfileBackups,
    Loglevel,
    Pidfile,
    Identifier,
    Childlogdir,
    Minfds,
    Minprocs,
    ProfileOptions,
}

pub(crate) struct CliOption {
    name: Name,
    pub(crate) spelling: Spelling,
    /// Begins with what its value is, if it takes one.
    pub(crate) help: &'static str,
}

const fn option(
    name: Name,
    short: Option<char>,
    long: Option<&'static str>,
    help: &'static str,
) -> CliOption {
    CliOption { name, spelling: Spelling { short, long, takes_value: false }, help }
}

const fn setting(setting: Setting, short: Option<char>, long: &'static str, help: &'static str) -> CliOption {
    CliOption {
        name: Name::Override(setting),
        spelling: Spelling { short, long: Some(long), takes_value: true },
        help,
    }
}

const fn flag(setting: Setting, short: char, long: &'static str, help: &'static str) -> CliOption {
    option(Name::Override(setting), Some(short), Some(long), help)
}

/// In the order of the help; one without a text is not in it.
pub(crate) const OPTIONS: [CliOption; 21] = [
    CliOption {
        name: Name::Configuration,
        spelling: Spelling { short: Some('c'), long: Some("configuration"), takes_value: true },
        help: "FILE: read this configuration instead of searching for one",
    },
    flag(Setting::Nodaemon, 'n', "nodaemon", "stay in the foreground"),
    flag(Setting::Silent, 's', "silent", "in the foreground, keep the log off stdout"),
    option(Name::Help, Some('h'), Some("help"), "show this text"),
    option(Name::Help, Some('?'), None, ""),
    option(
        Name::Version,
        Some('v'),
        Some("version"),
        "show the version of Supervisor that this stands in for",
    ),
    setting(Setting::User, Some('u'), "user", "USER: become this user, by name or number"),
    setting(Setting::Umask, Some('m'), "umask", "OCTAL: the daemon's umask (022)"),
    setting(
        Setting::Directory,
        Some('d'),
        "directory",
        "DIR: change to this folder when going to the background",
    ),
    setting(Setting::Logfile, Some('l'), "logfile", "FILE: the daemon's own log"),
    setting(
        Setting::LogfileMaxbytes,
        Some('y'),
        "logfile_maxbytes",
        "SIZE: rotate that log at this size (50MB)",
    ),
    setting(
        Setting::LogfileBackups,
        Some('z'),
        "logfile_backups",
        "COUNT: how many rotated logs to keep (10)",
    ),
    setting(
        Setting::Loglevel,
        Some('e'),
        "loglevel",
        "LEVEL: critical, error, warn, info, debug, trace or blather (info)",
    ),
    setting(Setting::Pidfile, Some('j'), "pidfile", "FILE: where to write the process id"),
    setting(
        Setting::Identifier,
        Some('i'),
        "identifier",
        "NAME: what this instance calls itself (supervisor)",
    ),
    setting(Setting::Childlogdir, Some('q'), "childlogdir", "DIR: where AUTO logs of programs go"),
    flag(Setting::Nocleanup, 'k', "nocleanup", "keep the AUTO logs of an earlier run"),
    setting(Setting::Minfds, Some('a'), "minfds", "COUNT: file descriptors that must be available (1024)"),
    flag(Setting::StripAnsi, 't', "strip_ansi", "take escape codes out of programs' logs"),
    setting(Setting::Minprocs, None, "minprocs", "COUNT: processes that must be available (200)"),
    setting(
        Setting::ProfileOptions,
        None,
        "profile_options",
        "LIST: refused, as it asks for Python's profiler",
    ),
];

fn help(program: &str) -> String {
    let mut text = format!(
        "supervisord: start programs, watch them, and start them again when they end.\n\n\
         Usage: {program} [option ...]\n\
         \x20      {program} man DIR\n\n\
         The second form writes manual pages below DIR, a directory as /usr/local/share/man.\n\
         Options win over what the configuration file says. Defaults are in brackets.\n\n"
    );
    for option in OPTIONS.iter().filter(|option| !option.help.is_empty()) {
        let short = option.spelling.short.map_or_else(|| "    ".to_owned(), |short| format!("-{short}, "));
        let long = option.spelling.long.unwrap_or_default();
        text.push_str(&format!("  {short}--{long:<18} {}\n", option.help));
    }
    text.push_str("\nWithout -c, the first of these files is read:\n");
    for path in search_paths(program) {
        text.push_str(&format!("  {}\n", path.display()));
    }
    let version = fleetvisor_proto::VERSION;
    text.push_str(&format!("\nFleetvisor {version}, in the place of Supervisor {SUPERVISOR_VERSION}.\n"));
    text
}

/// Stores a value that may be given once.
fn once<T>(slot: &mut Option<T>, value: Result<T, String>, option: &Found) -> Result<(), String> {
    let value =
        value.map_err(|why| format!("invalid value for {} {}: {why}", option.shown, repr(&option.value)))?;
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(conflict(option)),
    }
}

fn on(flag: &mut bool, option: &Found) -> Result<(), String> {
    if std::mem::replace(flag, true) { Err(conflict(option)) } else { Ok(()) }
}

fn conflict(option: &Found) -> String {
    format!("conflicting command line option {}", repr(&option.shown))
}

impl Overrides {
    fn set(&mut self, setting: Setting, option: &Found, host: &dyn Host) -> Result<(), String> {
        let value = option.value.as_str();
        match setting {
            Setting::Nodaemon => on(&mut self.nodaemon, option),
            Setting::Silent => on(&mut self.silent, option),
            Setting::Nocleanup => on(&mut self.nocleanup, option),
            Setting::StripAnsi => on(&mut self.strip_ansi, option),
            Setting::User => once(&mut self.user, Ok(value.to_owned()), option),
            Setting::Umask => once(&mut self.umask, octal(value), option),
            Setting::Directory => once(&mut self.directory, existing_directory(value, host), option),
            Setting::Logfile => once(&mut self.logfile, main_logfile(value, host), option),
            Setting::LogfileMaxbytes => once(&mut self.logfile_maxbytes, byte_size(value), option),
            Setting::LogfileBackups => once(&mut self.logfile_backups, integer(value), option),
            Setting::Loglevel => once(&mut self.loglevel, logging_level(value), option),
            Setting::Pidfile => {
                let path = existing_dirpath(value, host).map(|path| normalize(&path, host));
                once(&mut self.pidfile, path, option)
            }
            Setting::Identifier => once(&mut self.identifier, Ok(value.to_owned()), option),
            Setting::Childlogdir => once(&mut self.childlogdir, existing_directory(value, host), option),
            Setting::Minfds => once(&mut self.minfds, integer(value), option),
            Setting::Minprocs => once(&mut self.minprocs, integer(value), option),
            Setting::ProfileOptions => {
                Err(format!("{} asks for Python's profiler; use perf on this program instead", option.shown))
            }
        }
    }

    fn apply(&self, config: &mut Config) {
        fn put<T: Clone>(slot: &mut T, value: &Option<T>) {
            if let Some(value) = value {
                slot.clone_from(value);
            }
        }
        let section = &mut config.supervisord;
        section.nodaemon |= self.nodaemon;
        section.silent |= self.silent;
        section.nocleanup |= self.nocleanup;
        section.strip_ansi |= self.strip_ansi;
        section.user = self.user.clone().or(section.user.take());
        section.directory = self.directory.clone().or(section.directory.take());
        put(&mut section.umask, &self.umask);
        put(&mut section.logfile, &self.logfile);
        put(&mut section.logfile_maxbytes, &self.logfile_maxbytes);
        put(&mut section.logfile_backups, &self.logfile_backups);
        put(&mut section.loglevel, &self.loglevel);
        put(&mut section.pidfile, &self.pidfile);
        put(&mut section.identifier, &self.identifier);
        put(&mut section.childlogdir, &self.childlogdir);
        put(&mut section.minfds, &self.minfds);
        put(&mut section.minprocs, &self.minprocs);
    }
}

/// Python sees the path that the shell found, this program only the name: looks it up again.
fn program_path(name: &str, host: &dyn Host) -> String {
    if name.contains('/') {
        return name.to_owned();
    }
    let path = host.env().into_iter().find(|(variable, _)| variable == "PATH").map(|(_, path)| path);
    let folders = path.iter().flat_map(|path| path.split(':')).filter(|folder| !folder.is_empty());
    let mut candidates = folders.map(|folder| format!("{folder}/{name}"));
    candidates.find(|candidate| host.exists(Path::new(candidate))).unwrap_or_else(|| name.to_owned())
}

/// Where a configuration is searched for, after two places that depend on where the program is.
pub(crate) const CONFIG_PATHS: [&str; 4] =
    ["supervisord.conf", "etc/supervisord.conf", "/etc/supervisord.conf", "/etc/supervisor/supervisord.conf"];

fn search_paths(program: &str) -> Vec<PathBuf> {
    let above = |path: &Path| path.parent().unwrap_or(path).to_path_buf();
    let prefix = above(&above(Path::new(program)));
    let near = [prefix.join("etc/supervisord.conf"), prefix.join("supervisord.conf")];
    near.into_iter().chain(CONFIG_PATHS.map(PathBuf::from)).collect()
}

/// The first file there is, and what root is told about searching at all.
fn search(program: &str, host: &dyn Host) -> Result<(PathBuf, Option<String>), Exit> {
    let warning = (host.uid() == 0).then(|| {
        "UserWarning: Supervisord is running as root and it is searching for its configuration file in default \
         locations (including its current working directory); you probably want to specify a \"-c\" argument \
         specifying an absolute path to a configuration file for improved security."
            .to_owned()
    });
    let paths = search_paths(program);
    match paths.iter().find(|path| host.exists(path)) {
        Some(path) => Ok((path.clone(), warning)),
        None => {
            let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            let message = format!(
                "No config file found at default paths ({}); use the -c option to specify a config file at a \
                 different path",
                shown.join(", ")
            );
            let exit = usage(program, &message);
            let warning = warning.map_or_else(String::new, |warning| warning + "\n");
            Err(Exit { stderr: warning + &exit.stderr, ..exit })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::FileSystem;

    fn run(args: &[&str]) -> Result<Invocation, Exit> {
        let args: Vec<OsString> = ["/opt/x/bin/supervisord"].iter().chain(args).map(OsString::from).collect();
        parse(&args, &FileSystem)
    }

    fn error(args: &[&str]) -> String {
        let exit = run(args).unwrap_err();
        assert_eq!(exit.code, 2, "{args:?}");
        let tail = "\nFor help, use /opt/x/bin/supervisord -h\n";
        exit.stderr.strip_prefix("Error: ").and_then(|text| text.strip_suffix(tail)).unwrap().to_owned()
    }

    #[test]
    fn options_cluster_and_convert() {
        let invocation = run(&["-sc/x.conf", "-ecritical", "-iflag", "--logfile_max=1KB"]).unwrap();
        assert_eq!(invocation.config_path, Path::new("/x.conf"));
        let expected = Overrides {
            silent: true,
            loglevel: Some(LogLevel::Critical),
            identifier: Some("flag".into()),
            logfile_maxbytes: Some(1024),
            ..Overrides::default()
        };
        assert_eq!(invocation.overrides, expected);
        assert_eq!(invocation.warning, None);
    }

    #[test]
    fn mistakes_are_told_as_supervisor_tells_them() {
        for (args, expected) in [
            (vec!["-Z"], "option -Z not recognized"),
            (vec!["--no"], "option --no not a unique prefix"),
            (vec!["extra", "words"], "positional arguments are not supported: ['extra', 'words']"),
            (vec!["-e", "loud", "-c", "x"], "invalid value for -e 'loud': bad logging level name 'loud'"),
            (vec!["-y", "ten"], "invalid value for -y 'ten': invalid literal for int() with base 10: 'ten'"),
            (vec!["-m", "999"], "invalid value for -m '999': 999 can not be converted to an octal type"),
            (vec!["-d", "/no/dir"], "invalid value for -d '/no/dir': /no/dir is not an existing directory"),
            (vec!["-n", "--nodaemon"], "conflicting command line option '--nodaemon'"),
            (vec!["-ca", "-cb"], "conflicting command line option '-c'"),
        ] {
            assert_eq!(error(&args), expected, "{args:?}");
        }
    }

    #[test]
    fn help_and_version_go_to_stdout() {
        let version = Exit { code: 0, stdout: "4.3.0\n".into(), stderr: String::new() };
        assert_eq!(run(&["-v"]).unwrap_err(), version);
        assert_eq!(run(&["--vers", "-h"]).unwrap_err(), version);
        let help = run(&["-?"]).unwrap_err();
        for option in OPTIONS.iter().filter_map(|option| option.spelling.long) {
            assert!(help.stdout.contains(&format!("--{option} ")), "{option}");
        }
        assert!(!help.stdout.contains("keeper"));
    }

    #[test]
    fn the_keepers_descriptor_is_taken_out_of_the_arguments() {
        let mut args: Vec<OsString> =
            ["supervisord", "--attached-to-keeper=5", "-n"].map(OsString::from).into();
        assert_eq!(how_started(&mut args), Some(Started::AsAgent(5)));
        assert_eq!(args, ["supervisord", "-n"]);
        assert_eq!(how_started(&mut args), None);
        let mut args: Vec<OsString> = ["supervisord", "--keeper-state=7", "-n"].map(OsString::from).into();
        assert_eq!(how_started(&mut args), Some(Started::AsKeeper(7)));
        let mut args: Vec<OsString> = ["supervisord", "--attached-to-keeper=x"].map(OsString::from).into();
        assert_eq!(how_started(&mut args), None);
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("s.conf");
        let text = "[supervisord]\nidentifier=conf\nloglevel=warn\numask=077\nuser=no such user\n";
        std::fs::write(&file, text).unwrap();
        let path = file.to_str().unwrap();
        let config =
            run(&["-c", path, "-i", "flag", "-n", "-u", "root", "-l", "syslog"]).unwrap().load(&FileSystem);
        let section = config.unwrap().supervisord;
        assert_eq!(
            (section.identifier.as_str(), section.loglevel, section.umask),
            ("flag", LogLevel::Warn, 0o077)
        );
        assert!(section.nodaemon && !section.silent);
        assert_eq!(section.logfile, LogTarget::Syslog);
        let error = run(&["-c", path]).unwrap().load(&FileSystem).unwrap_err();
        assert_eq!(error.to_string(), "Invalid user name no such user");
    }

    #[test]
    fn the_sample_is_valid_as_it_is_and_with_every_option() {
        let sample = include_str!("sample.conf");
        let uncommented = |line: &str| match line.strip_prefix(';') {
            Some(rest) if rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()) => rest.to_owned(),
            _ => line.to_owned(),
        };
        let all: Vec<String> = sample.lines().map(uncommented).collect();
        // Users that not every system has.
        let all = all
            .join("\n")
            .replace("www-data", "root")
            .replace("nobody:nogroup", "root")
            .replace("=nobody", "=root");
        let folder = tempfile::tempdir().unwrap();
        for (name, text, groups) in [("plain", sample, 0), ("all", all.as_str(), 2)] {
            let file = folder.path().join(name);
            std::fs::write(&file, text).unwrap();
            let config = load(&file, &FileSystem).unwrap();
            assert_eq!(config.groups.len(), groups, "{name}");
            assert_eq!(config.fleet.is_some(), name == "all");
        }
    }

    #[test]
    fn default_paths_start_beside_the_program() {
        let paths = search_paths("/opt/x/bin/supervisord");
        assert_eq!(paths[0], Path::new("/opt/x/etc/supervisord.conf"));
        assert_eq!(search_paths("supervisord")[0], Path::new("etc/supervisord.conf"));
    }
}
