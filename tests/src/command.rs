//! Runs a command to its end: captured output, a time limit, and a text that says everything when an
//! assertion fails.

use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use crate::wait::{poll, wait_until};

/// How a command came out.
#[derive(Debug)]
pub struct Ran {
    /// The command line, for messages.
    pub line: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Exit code; -1 when a signal ended it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// # Panics
    /// With all of its output, when it exited otherwise.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Ran {
        assert_eq!(self.code(), code, "exit code of {self}");
        self
    }

    /// # Panics
    /// With all of its output, when stdout has no such part.
    #[track_caller]
    pub fn expect_stdout(self, part: &str) -> Ran {
        assert!(self.stdout.contains(part), "stdout has no {part:?}: {self}");
        self
    }

    /// # Panics
    /// With all of its output, when stderr has no such part.
    #[track_caller]
    pub fn expect_stderr(self, part: &str) -> Ran {
        assert!(self.stderr.contains(part), "stderr has no {part:?}: {self}");
        self
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}` ({})\n--- stdout\n{}--- stderr\n{}---",
            self.line, self.status, self.stdout, self.stderr
        )
    }
}

/// Runs it with no stdin. `limit` is for the whole run: what takes longer is killed and fails the test.
///
/// # Panics
/// When it can't be started or takes too long.
#[track_caller]
pub fn run(command: &mut Command, limit: Duration) -> Ran {
    let line = line(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {line}: {error}"));
    let stdout = reader(child.stdout.take());
    let stderr = reader(child.stderr.take());
    let mut status = None;
    let ended = poll(limit, || {
        status = child.try_wait().expect("an own child can be waited for");
        status.is_some()
    });
    if !ended {
        child.kill().ok();
        child.wait().ok();
    }
    // A grandchild may hold the pipes for ever; its output is not the command's.
    wait_until("the readers of the output are done", || {
        !ended || (stdout.is_finished() && stderr.is_finished())
    });
    let text = |reader: thread::JoinHandle<String>| {
        if reader.is_finished() { reader.join().expect("a reader does not panic") } else { String::new() }
    };
    let (stdout, stderr) = (text(stdout), text(stderr));
    match status {
        Some(status) => Ran { line, status, stdout, stderr },
        None => panic!("`{line}` still ran after {limit:?}\n--- stdout\n{stdout}--- stderr\n{stderr}---"),
    }
}

fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            pipe.read_to_end(&mut bytes).ok();
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_outputs_and_the_code_come_back() {
        let ran =
            run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]), Duration::from_secs(10))
                .expect_code(3);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"));
    }

    #[test]
    #[should_panic(expected = "still ran after")]
    fn a_command_that_takes_too_long_fails_the_test() {
        run(Command::new("sleep").arg("600"), Duration::from_millis(50));
    }
}
