//! The command line: which verbs there are. What each takes and does is in its own file.

use clap::{Parser, Subcommand};

use crate::{backup, init, man, recover, restore, run, verify};

/// The control plane of a fleet of supervisord agents
#[derive(Debug, Parser)]
#[command(name = "fleetvisor-controller", version = fleetvisor_proto::VERSION, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Init(init::Args),
    Run(run::Args),
    Verify(verify::Args),
    Backup(backup::Args),
    Restore(restore::Args),
    Admin(recover::Args),
    Man(man::Args),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
