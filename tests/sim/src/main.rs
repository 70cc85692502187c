//! `fleet-sim`: a fleet of simulated hosts against a real controller. Each host has a certificate, a link of its
//! own (the agent's code) and the agent's core; it has no processes. `--check` asserts what must be true and no
//! time; without it the fleet's figures are measured beside a bare tonic server, and printed.

mod figures;
mod fleet;
mod floor;
mod host;
mod measure;
mod server;

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Measures a controller with simulated hosts, or checks it
#[derive(Debug, Parser)]
#[command(name = "fleet-sim", version)]
struct Cli {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    options: Options,
}

#[derive(Clone, Debug, clap::Args)]
struct Options {
    /// How many hosts
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..=20_000))]
    hosts: u32,
    /// Processes of each
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    processes: u32,
    /// Assert what must be true, and measure nothing
    #[arg(long)]
    check: bool,
    /// Leave out the bare server
    #[arg(long)]
    no_floor: bool,
    /// Where fleetvisor-controller and ctl are; beside this program if not given
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Print what the hosts log
    #[arg(long)]
    verbose: bool,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// The bare server; started by the measurement itself
    #[command(hide = true)]
    Floor {
        #[arg(long)]
        port: u16,
        #[arg(long)]
        identity: PathBuf,
        #[arg(long)]
        processes: usize,
    },
}

/// Threads that wait for the hosts' disks.
const BLOCKING: usize = 8;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fleet-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    // What a thousand daemons do on a thousand machines is done by a few threads here, not by a thousand.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().max_blocking_threads(BLOCKING).enable_all().build()?;
    if let Some(Part::Floor { port, identity, processes }) = cli.part {
        return runtime.block_on(floor::serve(port, &identity, processes));
    }
    let needed = u64::from(cli.options.hosts) + 200;
    anyhow::ensure!(
        most >= needed,
        "{} hosts need {needed} descriptors, and the hard limit is {most}: raise it (ulimit -Hn)",
        cli.options.hosts
    );
    let programs = match &cli.options.programs {
        Some(programs) => programs.clone(),
        None => std::env::current_exe()?.parent().context("this program has no directory")?.to_owned(),
    };
    runtime.block_on(measure::run(&cli.options, programs))
}

/// A port that nobody listens on.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
