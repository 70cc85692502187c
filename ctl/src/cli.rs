//! `ctl`'s command line: the flags that every verb knows, and whether a command means this host or the
//! fleet. What a verb does is in its own file.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};

use crate::fleet::exit::Exit;
use crate::verb::Verb;

/// Starts, stops and watches processes, on this host or on a fleet of hosts.
///
/// Without a scope flag and without a host in front of a name, a command is for this host and does what
/// supervisorctl does. A scope flag (--all-hosts, --hosts, -l), before or after the verb, or a name in three
/// parts (host:group:process) addresses the fleet through its controller.
#[derive(Parser, Debug)]
#[command(
    name = "ctl",
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = "Exit status: 0 all done; 1 failed; 2 usage; 3 something is not running (status);
4 some hosts failed or are pending; 5 the controller cannot be reached; 6 not allowed.
For this host alone it is supervisorctl's.

Examples:
  ctl status
  ctl --all-hosts status
  ctl status 'web-*:app:*'
  ctl -l role=web restart web:"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) scope: Scope,
    #[command(flatten)]
    pub(crate) access: Access,
    #[command(flatten)]
    pub(crate) here: Here,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Which hosts.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Scope")]
pub(crate) struct Scope {
    /// Every host of the fleet
    #[arg(long, global = true)]
    pub(crate) all_hosts: bool,
    /// Hosts whose name fits one of these globs: 'web-*,db-01'
    #[arg(long, global = true, value_name = "GLOB,...", value_delimiter = ',')]
    pub(crate) hosts: Vec<String>,
    /// Hosts whose labels fit: role=web,dc!=eu,rack
    #[arg(short = 'l', long, global = true, value_name = "LABELS")]
    pub(crate) selector: Option<String>,
}

/// How the fleet is reached, and how it answers.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Fleet")]
pub(crate) struct Access {
    /// host:port of the controller, several with commas between [env: FLEETVISOR_CONTROLLER]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub(crate) controller: Option<String>,
    /// Directory with ca.crt, tls.crt and tls.key [env: FLEETVISOR_IDENTITY]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) identity: Option<PathBuf>,
    /// Form of what is printed on stdout
    #[arg(short = 'o', long, global = true, value_name = "FORM")]
    pub(crate) output: Option<Form>,
    /// Longest time for a host to finish: 30s, 5m
    #[arg(long, global = true, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<Duration>,
}

/// How this host's supervisord is reached, as supervisorctl takes it.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "This host")]
pub(crate) struct Here {
    /// Configuration file with [supervisorctl]; searched for if not given
    #[arg(short = 'c', long, global = true, value_name = "FILE")]
    pub(crate) configuration: Option<PathBuf>,
    /// Where supervisord listens: unix:///path or http://host:port
    #[arg(short = 's', long, global = true, value_name = "URL")]
    pub(crate) serverurl: Option<String>,
    /// User name for supervisord
    #[arg(short = 'u', long, global = true, value_name = "NAME")]
    pub(crate) username: Option<String>,
    /// Password for supervisord
    #[arg(short = 'p', long, global = true, value_name = "PASSWORD")]
    pub(crate) password: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// Lines for people and scripts
    #[default]
    Text,
    /// One JSON document
    Json,
}

/// The whole of the `ctl` program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.verb.run(&cli)
}

impl Scope {
    pub(crate) fn is_given(&self) -> bool {
        self.all_hosts || !self.hosts.is_empty() || self.selector.is_some()
    }
}

impl Access {
    pub(crate) fn form(&self) -> Form {
        self.output.unwrap_or_default()
    }
}

impl Cli {
    /// Whether the command is for the fleet: a scope flag, a name in three parts, or `host:all`.
    pub(crate) fn means_fleet(&self, names: &[String]) -> bool {
        let names_host = |name: &String| name.matches(':').count() >= 2 || name.ends_with(":all");
        self.scope.is_given() || names.iter().any(names_host)
    }

    /// Refuses flags that would have no effect on this host, where a command may have a JSON document.
    pub(crate) fn only_here(&self, has_json: bool) -> Result<(), String> {
        if self.access.form() == Form::Json && !has_json {
            return Err("-o json is for commands that read: status, avail, pid, version".to_owned());
        }
        let given = [
            ("--controller", self.access.controller.is_some()),
            ("--identity", self.access.identity.is_some()),
            ("--timeout", self.access.timeout.is_some()),
        ];
        refuse(given, "is for a fleet; add --all-hosts, --hosts or -l, or a host in front of the name")
    }

    /// Refuses flags that would have no effect on a fleet.
    pub(crate) fn only_fleet(&self) -> Result<(), String> {
        let given = [
            ("-c", self.here.configuration.is_some()),
            ("-s", self.here.serverurl.is_some()),
            ("-u", self.here.username.is_some()),
            ("-p", self.here.password.is_some()),
        ];
        refuse(given, "is for this host's supervisord; this command is for the fleet")
    }
}

fn refuse<const N: usize>(given: [(&str, bool); N], why: &str) -> Result<(), String> {
    match given.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(format!("{flag} {why}")),
        None => Ok(()),
    }
}

/// Prints what is wrong with the command line.
pub(crate) fn usage(message: &str) -> ExitCode {
    eprintln!("ctl: {message}\nFor help, use ctl --help");
    Exit::Usage.into()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn read(line: &str) -> Cli {
        Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn scope_flags_stand_before_or_after_the_verb() {
        for line in [
            "ctl --all-hosts status web:",
            "ctl status --all-hosts web:",
            "ctl status web: --all-hosts",
            "ctl restart web: --hosts web-*,db-01",
            "ctl --hosts web-* --hosts db-01 restart web:",
            "ctl -l role=web,dc!=eu stop app:",
            "ctl stop app: -l role=web",
        ] {
            assert!(read(line).scope.is_given(), "{line}");
        }
        assert_eq!(read("ctl status --hosts a,b").scope.hosts, ["a", "b"]);
    }

    #[test]
    fn a_name_with_a_host_in_front_means_the_fleet() {
        let names = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let cli = read("ctl status");
        assert!(!cli.means_fleet(&names("web app:web_00 app:")));
        assert!(cli.means_fleet(&names("web web-01:app:")));
        assert!(cli.means_fleet(&names("web-01:all")));
        assert!(read("ctl --all-hosts status").means_fleet(&[]));
    }

    #[test]
    fn flags_without_effect_are_refused() {
        assert!(read("ctl --timeout 3s status").only_here(true).is_err());
        assert!(read("ctl status -o json").only_here(true).is_ok());
        assert!(read("ctl stop web -o json").only_here(false).is_err());
        assert!(read("ctl -c x.conf status").only_here(true).is_ok());
        assert!(read("ctl -c x.conf --all-hosts status").only_fleet().is_err());
        assert!(read("ctl --timeout 3s --all-hosts status").only_fleet().is_ok());
    }

    #[test]
    fn every_verb_and_every_verb_of_host_has_an_example() {
        let mut cli = Cli::command();
        cli.build();
        let own = |verb: &&clap::Command| verb.get_name() != "help";
        let verbs = cli.get_subcommands().filter(own);
        for verb in verbs.flat_map(|verb| std::iter::once(verb).chain(verb.get_subcommands().filter(own))) {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{} has no example", verb.get_name());
        }
    }
}
