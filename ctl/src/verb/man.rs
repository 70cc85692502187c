//! `ctl man`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _};

use crate::cli::{Cli, Form, usage};
use crate::fleet::exit::Exit;
use crate::local;

/// Writes the manual pages: ctl's, one for each verb, and supervisorctl's
#[derive(Args, Debug)]
#[command(after_help = "Example: ctl man /usr/local/share/man/man1")]
pub(crate) struct Man {
    /// The directory they go to
    dir: PathBuf,
}

impl Man {
    pub(super) fn run(&self, cli: &Cli) -> ExitCode {
        if cli.scope.is_given() || cli.only_fleet().is_err() || cli.access.form() == Form::Json {
            return usage("man takes a directory and nothing else");
        }
        let supervisorctl = || std::fs::write(self.dir.join("supervisorctl.1"), local::manual_page());
        match clap_mangen::generate_to(Cli::command(), &self.dir).and_then(|()| supervisorctl()) {
            Ok(()) => Exit::Done.into(),
            Err(error) => {
                eprintln!("ctl: cannot write manual pages to {}: {error}", self.dir.display());
                Exit::Failed.into()
            }
        }
    }
}
