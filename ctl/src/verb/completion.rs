//! `ctl completion`.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::{Cli, Form, usage};
use crate::fleet::exit::Exit;

/// Prints a script that completes ctl's command line
#[derive(Args, Debug)]
#[command(after_help = "Example: ctl completion bash > /etc/bash_completion.d/ctl")]
pub(crate) struct Completion {
    /// The shell it is for
    shell: Shell,
}

impl Completion {
    pub(super) fn run(&self, cli: &Cli) -> ExitCode {
        if cli.scope.is_given() || cli.only_fleet().is_err() || cli.access.form() == Form::Json {
            return usage("completion takes a shell and nothing else");
        }
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "ctl", &mut script);
        match std::io::stdout().write_all(&script) {
            Ok(()) => Exit::Done.into(),
            Err(_) => Exit::Failed.into(),
        }
    }
}
