//! Prints a sample configuration with every option, to be kept as a file. Reads nothing.

use std::io::Write as _;
use std::process::ExitCode;

const SAMPLE: &str = include_str!("../sample.conf");

fn main() -> ExitCode {
    match std::io::stdout().write_all(SAMPLE.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo_supervisord_conf: cannot write to stdout: {error}");
            ExitCode::FAILURE
        }
    }
}
