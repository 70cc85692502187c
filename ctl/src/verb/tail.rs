//! `ctl tail` and `ctl maintail`: of this host as supervisorctl has them, and of many processes and hosts.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use fleetvisor_proto::fleet::TailRequest;
use tonic::Request;

use super::{here, in_fleet};
use crate::cli::{Cli, Form, usage};
use crate::fleet::client::{FleetError, connect, reading};
use crate::fleet::exit::Exit;
use crate::fleet::print::{Colour, Writer};
use crate::fleet::scope::{Meant, meant};
use crate::fleet::tail::{Channel, Tails};

/// Between two attempts to go on with a controller that is gone.
const PAUSE: Duration = Duration::from_secs(1);
const LINES: u32 = 10;

/// Shows the end of processes' logs, or follows them
///
/// On this host it is supervisorctl's: one process, of which -BYTES are shown. In a fleet it shows the logs of all
/// that the names mean, in one stream: each line has host, group and process in front, coloured on a terminal. With
/// -f it goes on through rotations, restarts and broken connections, and with hosts and processes that come later.
/// Who reads too slowly is moved on, and is told in place how many lines are dropped; nobody else waits. A line
/// without an end is shown after a second. It needs the role operator.
///
/// With -o json one document per line: {"host", "process", "log", "kind", "line", "finished", "dropped", "reason"}.
/// "kind" is "line" (with "line", and "finished" false where the rest of it follows in the next), "dropped" (so many
/// lines are left out here), "lost" (lines may be missing here: rotated or emptied before they were read), "error" (why
/// there is no log, or none of a host), "away" and "back" (of a host), "unmatched" (a name that fits nothing). "process"
/// is group:name, "log" is stdout, stderr or main, and what does not apply is null.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ctl tail web
  ctl tail -100 web
  ctl tail -f web stderr
  ctl --all-hosts tail -f web:
  ctl tail -f 'web-*:app:*' stderr --grep 'ERROR|WARN'
  ctl tail --lines 100 web-01:web:app -o json")]
pub(crate) struct Tail {
    #[command(flatten)]
    amount: Amount,
    /// -BYTES on this host; names as for status; at the end stdout (if not given) or stderr
    #[arg(allow_negative_numbers = true)]
    words: Vec<String>,
}

/// Shows the end of supervisord's own log, or follows it
///
/// On this host it is supervisorctl's; in a fleet it shows the logs of all hosts in scope, as `ctl tail` shows those of
/// processes, with the host alone in front. With -o json the documents are those of `ctl tail`; "process" is null and
/// "log" is "main".
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ctl maintail -f
  ctl maintail -1000
  ctl --all-hosts maintail -f --grep 'gave up'
  ctl maintail web-01:all --lines 50")]
pub(crate) struct Maintail {
    #[command(flatten)]
    amount: Amount,
    /// -BYTES on this host; in a fleet host:all
    #[arg(allow_negative_numbers = true)]
    words: Vec<String>,
}

#[derive(Args, Debug)]
struct Amount {
    /// Go on with what is added, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// In a fleet: how many lines of each log to begin with [default: 10]
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<u32>,
    /// In a fleet: only lines that fit this regular expression
    #[arg(long, value_name = "REGEX")]
    grep: Option<String>,
}

impl Tail {
    pub(super) fn run(&self, cli: &Cli) -> ExitCode {
        let (names, channel) = self.names();
        if cli.means_fleet(names) {
            in_fleet(cli, self.amount.of_fleet(cli, names, channel))
        } else {
            self.amount.here(cli, "tail", &self.words)
        }
    }

    /// The last of several words may be a channel.
    fn names(&self) -> (&[String], Channel) {
        match self.words.split_last() {
            Some((last, names)) if last.eq_ignore_ascii_case("stderr") && self.has_name(names) => {
                (names, Channel::Stderr)
            }
            Some((last, names)) if last.eq_ignore_ascii_case("stdout") && self.has_name(names) => {
                (names, Channel::Stdout)
            }
            _ => (&self.words, Channel::Stdout),
        }
    }

    fn has_name(&self, names: &[String]) -> bool {
        names.iter().any(|name| !name.starts_with('-'))
    }
}

impl Maintail {
    pub(super) fn run(&self, cli: &Cli) -> ExitCode {
        if !cli.means_fleet(&self.words) {
            return self.amount.here(cli, "maintail", &self.words);
        }
        if let Some(name) = self.words.iter().find(|name| !name.ends_with(":all") && *name != "all") {
            return usage(&format!("{name}: a supervisord has one log of its own; name it host:all"));
        }
        in_fleet(cli, self.amount.of_fleet(cli, &self.words, Channel::Main))
    }
}

impl Amount {
    /// Carried out as supervisorctl takes it.
    fn here(&self, cli: &Cli, verb: &str, words: &[String]) -> ExitCode {
        for (flag, given) in [("--lines", self.lines.is_some()), ("--grep", self.grep.is_some())] {
            if given {
                return usage(&format!("{flag} is for a fleet; on this host give -BYTES before the name"));
            }
        }
        here::run(cli, self.words(verb, words), false)
    }

    fn words(&self, verb: &str, words: &[String]) -> Vec<String> {
        let follow = self.follow.then(|| "-f".to_owned());
        std::iter::once(verb.to_owned()).chain(follow).chain(words.iter().cloned()).collect()
    }

    async fn of_fleet(&self, cli: &Cli, names: &[String], channel: Channel) -> Result<Exit, FleetError> {
        if let Some(bytes) = names.iter().find(|name| name.starts_with('-')) {
            return Err(FleetError::Usage(format!("{bytes}: in a fleet give --lines N instead")));
        }
        let meant = meant(&cli.scope, names)?;
        let form = cli.access.form();
        let colour = if form == Form::Text { Colour::of_stdout() } else { Colour::Plain };
        let mut tails = Tails::new(form, colour, channel);
        let mut writer = Writer::start();
        loop {
            let broken = match self.read(cli, &meant, channel, &mut tails, &mut writer).await {
                Ok(()) if !self.follow || !tails.has_hosts() => break,
                Ok(()) => "the controller has ended the stream".to_owned(),
                Err(error) if self.follow && tails.has_hosts() && error.may_pass() => error.to_string(),
                Err(error) => return Err(error),
            };
            eprintln!("ctl: {broken}; trying to go on");
            tokio::time::sleep(PAUSE).await;
        }
        writer.write(tails.finish()).await?;
        writer.finish().await?;
        if !tails.has_hosts() {
            eprintln!("ctl: no host fits");
        }
        Ok(tails.exit())
    }

    /// Writes what comes until there is no more.
    async fn read(
        &self,
        cli: &Cli,
        meant: &Meant,
        channel: Channel,
        tails: &mut Tails,
        writer: &mut Writer,
    ) -> Result<(), FleetError> {
        let request = TailRequest {
            scope: Some(meant.scope.clone()),
            targets: meant.wire_targets(),
            daemon: channel == Channel::Main,
            stderr: channel == Channel::Stderr,
            lines: self.lines.unwrap_or(LINES),
            follow: self.follow,
            grep: self.grep.clone().unwrap_or_default(),
            after: tails.places(),
        };
        let mut fleet = connect(&cli.access).await?;
        // Who follows has all the time there is.
        let request = if self.follow { Request::new(request) } else { reading(request, &cli.access) };
        let mut parts = fleet.tail(request).await?.into_inner();
        while let Some(part) = parts.message().await? {
            writer.write(tails.part(part)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::verb::Verb;

    fn tail(line: &str) -> Tail {
        match Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{error}")).verb {
            Verb::Tail(tail) => tail,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn words_reach_supervisorctl_as_they_would_be_typed_there() {
        let words = |line: &str| {
            let tail = tail(line);
            tail.amount.words("tail", &tail.words)
        };
        assert_eq!(words("ctl tail -f web stderr"), ["tail", "-f", "web", "stderr"]);
        assert_eq!(words("ctl tail -100 web"), ["tail", "-100", "web"]);
        assert_eq!(words("ctl tail web -f"), ["tail", "-f", "web"]);
    }

    #[test]
    fn the_last_word_may_be_a_channel() {
        let names = |line: &str| {
            let tail = tail(line);
            let (names, channel) = tail.names();
            (names.join(" "), channel)
        };
        assert_eq!(names("ctl tail a:b:c stderr"), ("a:b:c".to_owned(), Channel::Stderr));
        assert_eq!(names("ctl tail a:b:c d:e:f STDOUT"), ("a:b:c d:e:f".to_owned(), Channel::Stdout));
        assert_eq!(names("ctl tail a:b:c"), ("a:b:c".to_owned(), Channel::Stdout));
        assert_eq!(names("ctl tail stderr"), ("stderr".to_owned(), Channel::Stdout));
    }
}
