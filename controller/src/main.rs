//! `fleetvisor-controller`, the control plane of a fleet. `init` makes its directory, `run` serves;
//! `verify`, `backup` and `restore` look after what it stores; `admin` lets its owner in again.
//!
//! A call's way: [`connection`] (TLS) -> [`access`] (may it?) -> [`services`] and [`enrolment`] (what is meant)
//! -> [`operations`], [`link`], [`registry`] (doing it) -> [`audit`] and [`store`] (what lasts). What a host is told follows
//! from [`reconcile`], which host of an operation is next from [`rollout`]; both are pure.

mod access;
mod audit;
mod backup;
mod bundles;
mod cli;
mod clock;
mod connection;
mod controller;
mod desired;
mod enrolment;
mod events;
mod grant;
mod health;
mod hosts;
mod init;
mod layout;
mod link;
mod logging;
mod man;
mod operations;
mod operators;
mod pace;
mod pki;
mod reconcile;
mod records;
mod recover;
mod refusals;
mod registry;
mod report;
mod restore;
mod rollout;
mod run;
mod select;
mod server;
mod services;
mod sessions;
mod shares;
mod status;
mod store;
mod tail;
#[cfg(test)]
mod tests;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Verb};

/// 0 after all went well, 1 with the reason on stderr, 2 for a wrong command line.
fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Init(args) => init::init(&args),
        Verb::Run(args) => run::run(&args),
        Verb::Verify(args) => verify::verify(&args),
        Verb::Backup(args) => backup::backup(&args),
        Verb::Restore(args) => restore::restore(&args),
        Verb::Admin(args) => recover::recover(&args),
        Verb::Man(args) => man::man(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fleetvisor-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}
