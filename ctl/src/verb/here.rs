//! Verbs that know this host only: each is handed to supervisorctl's own code as it would be typed there.

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::cli::{Cli, Form, usage};
use crate::local::{self, Options};

#[derive(Subcommand, Debug)]
pub(crate) enum Here {
    /// Prints the process id of supervisord or of processes
    ///
    /// With -o json one document: {"supervisord": pid}, or {"processes": [{"name", "pid"}]} where names are given; the
    /// pid of what does not run is null.
    #[command(after_help = "Examples:\n  ctl pid\n  ctl pid web")]
    Pid(Names),
    /// Clears the logs of processes
    #[command(after_help = "Example: ctl clear web")]
    Clear(Names),
    /// Brings a process to the foreground: its output here, lines from here to it
    #[command(after_help = "Example: ctl fg web")]
    Fg(Names),
    /// Reads the configuration again and says what has changed
    #[command(after_help = "Example: ctl reread")]
    Reread,
    /// Activates groups that a reread has found
    #[command(after_help = "Example: ctl add web")]
    Add(Names),
    /// Removes stopped groups from the active configuration
    #[command(after_help = "Example: ctl remove web")]
    Remove(Names),
    /// Lists what is configured
    ///
    /// With -o json one document: {"programs": [{"name", "group", "process", "in_use", "autostart", "group_priority",
    /// "priority"}]}.
    #[command(after_help = "Example: ctl avail")]
    Avail,
    /// Restarts supervisord
    #[command(after_help = "Example: ctl reload")]
    Reload,
    /// Shuts supervisord down, with all its processes
    #[command(after_help = "Example: ctl shutdown")]
    Shutdown,
}

#[derive(Args, Debug)]
pub(crate) struct Names {
    /// name, group:name, group:* or all
    names: Vec<String>,
}

impl Here {
    pub(crate) fn run(&self, cli: &Cli) -> ExitCode {
        let words = self.words();
        if cli.means_fleet(&words) {
            return usage(&format!("{} is for this host only", words[0]));
        }
        run(cli, words, matches!(self, Here::Pid(_) | Here::Avail))
    }

    /// The command as supervisorctl takes it.
    fn words(&self) -> Vec<String> {
        let with = |verb: &str, names: &[String]| [&[verb.to_owned()], names].concat();
        match self {
            Here::Pid(Names { names }) => with("pid", names),
            Here::Clear(Names { names }) => with("clear", names),
            Here::Fg(Names { names }) => with("fg", names),
            Here::Reread => with("reread", &[]),
            Here::Add(Names { names }) => with("add", names),
            Here::Remove(Names { names }) => with("remove", names),
            Here::Avail => with("avail", &[]),
            Here::Reload => with("reload", &[]),
            Here::Shutdown => with("shutdown", &[]),
        }
    }
}

/// Carries out a command on this host, exactly as supervisorctl does; as JSON only where it has some.
pub(super) fn run(cli: &Cli, words: Vec<String>, has_json: bool) -> ExitCode {
    if let Err(message) = cli.only_here(has_json) {
        return usage(&message);
    }
    let program = std::env::args_os().next().unwrap_or_else(|| OsString::from("ctl"));
    match options(cli, &program, words) {
        Ok(options) => local::run(&Options { json: cli.access.form() == Form::Json, ..options }),
        Err(leave) => leave.tell(),
    }
}

fn options(cli: &Cli, program: &OsStr, words: Vec<String>) -> Result<Options, local::Leave> {
    let here = &cli.here;
    let mut args: Vec<OsString> = Vec::new();
    let mut option = |name: &str, value: Option<OsString>| {
        if let Some(value) = value {
            args.extend([OsString::from(name), value]);
        }
    };
    option("-c", here.configuration.clone().map(OsString::from));
    option("-s", here.serverurl.clone().map(OsString::from));
    option("-u", here.username.clone().map(OsString::from));
    option("-p", here.password.clone().map(OsString::from));
    args.push(OsString::from("--"));
    args.extend(words.into_iter().map(OsString::from));
    Options::of_this_host(program, &args)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::verb::Verb;

    fn words(line: &str) -> Vec<String> {
        match Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{error}")).verb {
            Verb::Here(here) => here.words(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn words_reach_supervisorctl_as_they_would_be_typed_there() {
        assert_eq!(words("ctl add web"), ["add", "web"]);
        assert_eq!(words("ctl -c x shutdown"), ["shutdown"]);
    }
}
