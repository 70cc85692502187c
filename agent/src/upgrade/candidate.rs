//! The candidate's side of the proof: a process of the new program that reads the configuration, goes through a copy
//! of the journal as a successor would, and reports what it has found. It touches nothing and talks to nobody.
//!
//! Its stdin is the journal, its stdout takes one [`Report`] as JSON, and on its stderr it says what is wrong.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::process::ExitCode;

use fleetvisor_keeper::frame::VERSIONS;
use serde::{Deserialize, Serialize};

use super::{FileId, Seen};
use crate::clock;
use crate::journal;
use crate::settings::Settings;
use crate::takeover::{Left, TakeoverError};

/// In front of the first argument, followed by the version of the keeper's frames.
pub(crate) const OPTION: &str = "--prove-as-successor=";

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) version: String,
    /// The program that has made this report.
    pub(super) program: FileId,
    pub(super) processes: Vec<Seen>,
}

#[derive(Debug, thiserror::Error)]
enum ProofError {
    #[error("speaks versions {VERSIONS:?} of the keeper's frames, and the keeper {0}")]
    Frames(String),
    #[error("cannot read the journal: {0}")]
    Stdin(std::io::Error),
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    #[error("{0}")]
    Configuration(String),
    #[error("cannot find itself: {0}")]
    Itself(std::io::Error),
    #[error("cannot report: {0}")]
    Report(std::io::Error),
}

pub(crate) fn run(frames: &str) -> ExitCode {
    match prove(frames) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn prove(frames: &str) -> Result<(), ProofError> {
    if !VERSIONS.iter().any(|version| version.to_string() == frames) {
        return Err(ProofError::Frames(frames.to_owned()));
    }
    let journal = std::io::stdin().as_fd().try_clone_to_owned().map_err(ProofError::Stdin)?;
    let (snapshot, records, _) = journal::read(journal).map_err(TakeoverError::from)?;
    let left = Left::new(snapshot, records);
    // What would be read at the next reload: a program that can't, is not one to go on with.
    Settings::load(left.settings.invocation.clone())
        .map_err(|exit| ProofError::Configuration(first_line(&exit.stderr)))?;
    let statuses = left.replay.decisions.supervisor().statuses(clock::now());
    let report = Report {
        version: fleetvisor_proto::VERSION.to_owned(),
        program: FileId::own().map_err(ProofError::Itself)?,
        processes: Seen::all(statuses),
    };
    let mut stdout = std::io::stdout().lock();
    serde_json::to_writer(&mut stdout, &report).map_err(|error| ProofError::Report(error.into()))?;
    stdout.flush().map_err(ProofError::Report)
}

/// What is wrong, without the advice on the command line behind it.
fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    line.strip_prefix("Error: ").unwrap_or(line).to_owned()
}
