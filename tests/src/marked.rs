//! Finds what a daemon of a test has started, whoever its parent is by now: a program inherits the daemon's
//! environment, and one variable of it names the test's directory.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::poll;

pub(crate) const VARIABLE: &str = "FLEETVISOR_TEST_DAEMON";

/// Pids of all living processes that carry the mark.
pub(crate) fn pids(mark: &Path) -> Vec<Pid> {
    let entry = format!("{VARIABLE}={}", mark.display());
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|process| process.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            // A zombie's environment reads as empty, so the dead don't count.
            fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|var| var == entry.as_bytes()))
        })
        .map(Pid::from_raw)
        .collect()
}

/// Ends them all by SIGKILL, until none is left: a daemon may fork while it is being looked for. All are halted
/// first, so that none has time to notice that another has gone.
pub(crate) fn kill_all(mark: &Path) {
    poll(std::time::Duration::from_secs(10), || {
        let found = pids(mark);
        for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
            for pid in &found {
                // ESRCH: it ended by itself in the meantime.
                kill(*pid, signal).ok();
            }
        }
        found.is_empty()
    });
}
