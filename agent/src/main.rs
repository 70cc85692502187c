//! supervisord. The process that is started checks the configuration and becomes the keeper; the keeper starts
//! this program again as the agent, which does everything else, and begins another keeper if its own is killed.

mod answers;
mod bundles;
mod children;
mod cli;
mod clock;
mod daemon;
mod fcgi;
mod fleet;
mod front;
mod groups;
mod host;
mod http;
mod inbox;
mod journal;
mod keeper_link;
mod legacy;
mod logs;
mod manual;
mod program;
mod rpc;
mod run;
mod settings;
mod startup;
mod stdin;
mod takeover;
mod update;
mod upgrade;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use fleetvisor_keeper::Launch;

use crate::cli::{Exit, Started};
use crate::host::FileSystem;
use crate::settings::Settings;

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    if let Some(frames) = cli::asked_to_prove(&args) {
        return upgrade::candidate::run(frames);
    }
    // Supervisor takes no positional arguments.
    if args.get(1).is_some_and(|arg| arg == "man") {
        return manual::run(&args[2..]);
    }
    let started = cli::how_started(&mut args);
    if started.is_some() {
        // Executed as /proc/self/exe, it would be listed as `exe`.
        let _ = std::fs::write("/proc/self/comm", "supervisord");
    }
    match started {
        Some(Started::AsAgent(descriptor)) => {
            fleetvisor_keeper::give_back_freed_memory();
            daemon::run(descriptor, &args)
        }
        Some(Started::AsKeeper(state)) => status(fleetvisor_keeper::resume(state, args)),
        Some(Started::ToCheck(state)) => status(fleetvisor_keeper::check(state)),
        None => launch(args),
    }
}

/// What is wrong with the command line or the configuration is said here, where nothing has begun.
fn launch(args: Vec<OsString>) -> ExitCode {
    let daemonize = match check(&args) {
        Ok(daemonize) => daemonize,
        Err(exit) => return say(&exit),
    };
    let launch = Launch { daemonize, agent_program: PathBuf::from("/proc/self/exe"), agent_args: args };
    status(fleetvisor_keeper::run(launch))
}

fn status(status: i32) -> ExitCode {
    ExitCode::from(u8::try_from(status).unwrap_or(1))
}

/// Whether to go to the background.
fn check(args: &[OsString]) -> Result<bool, Exit> {
    let invocation = cli::parse(args, &FileSystem)?;
    if let Some(warning) = &invocation.warning {
        let _ = writeln!(std::io::stderr(), "{warning}");
    }
    let settings = Settings::load(invocation)?;
    Ok(!settings.config.supervisord.nodaemon)
}

/// Says the last words of a program that ends.
fn say(exit: &Exit) -> ExitCode {
    let _ = std::io::stdout().write_all(exit.stdout.as_bytes());
    let _ = std::io::stderr().write_all(exit.stderr.as_bytes());
    ExitCode::from(exit.code)
}
