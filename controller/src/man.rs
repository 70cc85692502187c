//! `fleetvisor-controller man`: manual pages, made from the same words as `--help`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::CommandFactory as _;

use crate::cli::Cli;

/// Write the manual pages, one for each verb
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The directory they go to
    dir: PathBuf,
}

pub(crate) fn man(args: &Args) -> anyhow::Result<()> {
    clap_mangen::generate_to(Cli::command(), &args.dir)
        .with_context(|| format!("cannot write manual pages to {}", args.dir.display()))
}
