//! What `supervisorctl` was asked on its command line and what `[supervisorctl]` of the configuration adds,
//! with Supervisor's precedence, search path and messages.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use fleetvisor_model::config::{CtlSection, Host, load_ctl};

use super::endpoint::is_url;
use super::getopt::{Known, getopt};
use super::host::ThisHost;
use super::repr::{lossy, repr};

/// How to reach the server and how to behave; `words` is the command, empty for the shell.
#[derive(Clone)]
pub struct Options {
    pub serverurl: String,
    pub username: Option<String>,
    pub password: Option<String>,
    pub prompt: String,
    /// Ask before shutting down, and for a missing password.
    pub interactive: bool,
    pub history_file: Option<PathBuf>,
    pub words: Vec<String>,
    /// One JSON document in place of lines; only commands that have one are run so.
    pub json: bool,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("serverurl", &self.serverurl)
            .field("words", &self.words)
            .finish_non_exhaustive()
    }
}

/// The end of the program before any command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Help for stdout, exit status 0.
    Help(String),
    /// A message for stderr, exit status 2.
    Usage(String),
}

pub(super) const OPTIONS: [Known; 8] = [
    Known { short: Some('h'), long: Some("help"), takes_value: false },
    Known { short: Some('?'), long: None, takes_value: false },
    Known { short: Some('c'), long: Some("configuration"), takes_value: true },
    Known { short: Some('i'), long: Some("interactive"), takes_value: false },
    Known { short: Some('s'), long: Some("serverurl"), takes_value: true },
    Known { short: Some('u'), long: Some("username"), takes_value: true },
    Known { short: Some('p'), long: Some("password"), takes_value: true },
    Known { short: Some('r'), long: Some("history_file"), takes_value: true },
];

/// Options that were given; each at most once.
#[derive(Default)]
struct Given {
    configuration: Option<String>,
    interactive: Option<String>,
    serverurl: Option<String>,
    username: Option<String>,
    password: Option<String>,
    history_file: Option<String>,
}

impl Options {
    /// Reads the command line and a configuration of the host that the program runs on.
    pub fn of_this_host(program: &OsStr, args: &[OsString]) -> Result<Options, Leave> {
        Options::read(program, args, &ThisHost)
    }

    /// Reads the command line (`program` is its first word) and then the configuration.
    pub fn read(program: &OsStr, args: &[OsString], host: &dyn Host) -> Result<Options, Leave> {
        let program_text = lossy(program);
        let usage =
            |message: String| Leave::Usage(format!("Error: {message}\nFor help, use {program_text} -h\n"));
        let (found, words) = getopt(args, &OPTIONS).map_err(usage)?;
        let mut given = Given::default();
        for option in found {
            let name = option.name.as_str();
            let value = option.value.unwrap_or_default();
            let slot = match name {
                "-h" | "--help" | "-?" => return Err(Leave::Help(help(&program_text))),
                "-c" | "--configuration" => &mut given.configuration,
                "-i" | "--interactive" => &mut given.interactive,
                "-s" | "--serverurl" => {
                    if !is_url(&value) {
                        let value = repr(&value);
                        return Err(usage(format!(
                            "invalid value for {name} {value}: value {value} is not a URL"
                        )));
                    }
                    &mut given.serverurl
                }
                "-u" | "--username" => &mut given.username,
                "-p" | "--password" => &mut given.password,
                _ => &mut given.history_file,
            };
            if slot.is_some() {
                return Err(usage(format!("conflicting command line option {}", repr(name))));
            }
            *slot = Some(value);
        }
        let file = match &given.configuration {
            Some(file) => Some(PathBuf::from(file)).filter(|file| !file.as_os_str().is_empty()),
            None => search_path(program).into_iter().find(|path| host.exists(path)),
        };
        let section = match file {
            Some(file) => load_ctl(&file, host).map_err(|error| usage(error.to_string()))?,
            None => CtlSection::default(),
        };
        Ok(Options {
            serverurl: given.serverurl.unwrap_or(section.serverurl),
            username: given.username.or(section.username),
            password: given.password.or(section.password),
            prompt: section.prompt,
            interactive: given.interactive.is_some() || words.is_empty(),
            history_file: given.history_file.map(PathBuf::from).or(section.history_file),
            words,
            json: false,
        })
    }
}

/// Where a configuration is looked for, relative to the program first.
fn search_path(program: &OsStr) -> Vec<PathBuf> {
    let up = |path: &Path| path.parent().map(Path::to_path_buf).unwrap_or_default();
    let above = up(&up(Path::new(program)));
    vec![
        above.join("etc/supervisord.conf"),
        above.join("supervisord.conf"),
        PathBuf::from("supervisord.conf"),
        PathBuf::from("etc/supervisord.conf"),
        PathBuf::from("/etc/supervisord.conf"),
        PathBuf::from("/etc/supervisor/supervisord.conf"),
    ]
}

fn help(program: &str) -> String {
    format!(
        "supervisorctl -- control applications run by supervisord from the cmd line.

Usage: {program} [options] [action [arguments]]

Options:
-c/--configuration FILENAME -- configuration file path (searches if not given)
-h/--help -- print usage message and exit
-i/--interactive -- start an interactive shell after executing commands
-s/--serverurl URL -- URL on which supervisord server is listening
     (default \"http://localhost:9001\").
-u/--username USERNAME -- username to use for authentication with server
-p/--password PASSWORD -- password to use for authentication with server
-r/--history-file -- keep a readline history (if readline is available)

action [arguments] -- see below

Actions are commands like \"tail\" or \"stop\".  If -i is specified or no action is
specified on the command line, a \"shell\" interpreting actions typed
interactively is started.  Use the action \"help\" to find out about available
actions.

"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Options, Leave> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        Options::read(OsStr::new("/nowhere/bin/supervisorctl"), &args, &ThisHost)
    }

    fn usage(args: &[&str]) -> String {
        match read(args) {
            Err(Leave::Usage(text)) => text.lines().next().unwrap_or_default().to_owned(),
            other => panic!("{other:?}"),
        }
    }

    fn config(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn the_command_line_goes_before_the_configuration() {
        let file = config(
            "[supervisorctl]\nserverurl=unix:///run/a.sock\nusername=me\npassword=secret\nprompt=mine\n",
        );
        let path = file.path().to_str().unwrap();
        let options = read(&["-c", path, "-u", "you", "status", "-x"]).unwrap();
        assert_eq!(options.serverurl, "unix:///run/a.sock");
        assert_eq!(options.username.as_deref(), Some("you"));
        assert_eq!(options.password.as_deref(), Some("secret"));
        assert_eq!(options.prompt, "mine");
        assert_eq!(options.words, ["status", "-x"]);
        assert!(!options.interactive);
        assert!(read(&["-c", path]).unwrap().interactive);
        let options = read(&["-c", path, "-s", "http://a:1", "-r", "/tmp/history", "-i", "status"]).unwrap();
        assert_eq!(options.serverurl, "http://a:1");
        assert_eq!(options.history_file.as_deref(), Some(Path::new("/tmp/history")));
        assert!(options.interactive);
    }

    #[test]
    fn what_is_wrong_is_said_in_supervisors_words() {
        for (args, message) in [
            (&["-x"][..], "Error: option -x not recognized"),
            (&["-i", "--inter"], "Error: conflicting command line option '--interactive'"),
            (&["-s", "nonsense"], "Error: invalid value for -s 'nonsense': value 'nonsense' is not a URL"),
            (&["-c", "/nowhere/x.conf"], "Error: could not find config file /nowhere/x.conf"),
        ] {
            assert_eq!(usage(args), message);
        }
        let empty = config("");
        let path = empty.path().to_str().unwrap();
        assert_eq!(usage(&["-c", path]), "Error: .ini file does not include supervisorctl section");
    }

    #[test]
    fn help_names_the_program() {
        let Err(Leave::Help(text)) = read(&["-c", "/nowhere", "-h"]) else {
            panic!("no help");
        };
        assert!(text.contains("Usage: /nowhere/bin/supervisorctl [options]"));
    }

    #[test]
    fn the_configuration_is_looked_for_beside_the_program_first() {
        let paths = search_path(OsStr::new("/opt/x/bin/supervisorctl"));
        assert_eq!(paths[0], Path::new("/opt/x/etc/supervisord.conf"));
        assert_eq!(search_path(OsStr::new("supervisorctl"))[1], Path::new("supervisord.conf"));
    }
}
