//! The controller's log: lines on stderr, filtered by what `--log` says.

use std::io::{self, IsTerminal};

use anyhow::anyhow;
use tracing_subscriber::EnvFilter;

/// Begins to log. The error says what in the filter is not understood.
pub(crate) fn init(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).map_err(|err| anyhow!("the log filter {filter:?}: {err}"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .try_init()
        .map_err(|err| anyhow!("cannot begin to log: {err}"))
}
