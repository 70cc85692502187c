//! Runs a command and passes signals on to the process that a pidfile names: for a program that goes to the
//! background by itself while the command stays. Looks at the pidfile anew for each signal, starts nothing
//! again, and does not wait for the process it signals.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_else(|| "pidproxy".into());
    let (Some(pidfile), Some(command)) = (args.next(), args.next()) else {
        println!("Usage: {} <pidfile> <command> [<argument> ...]", program.to_string_lossy());
        println!("Runs the command and sends the signals that come here to the process in the pidfile.");
        return ExitCode::from(1);
    };
    // As Supervisor has it: a path from the current folder, not a name to look up in PATH.
    let path = std::path::absolute(&command).unwrap_or_else(|_| PathBuf::from(&command));
    let mut child = Command::new(path);
    child.arg0(command).args(args);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    match runtime.and_then(|runtime| runtime.block_on(run(child, Path::new(&pidfile)))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pidproxy: {error}");
            ExitCode::from(127)
        }
    }
}

/// Until the command ends, or a signal that ends programs was passed on.
async fn run(mut command: Command, pidfile: &Path) -> std::io::Result<()> {
    // Before the command starts, so that none is missed.
    let mut child_ended = signal(SignalKind::child())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut user1 = signal(SignalKind::user_defined1())?;
    let mut user2 = signal(SignalKind::user_defined2())?;
    let mut child = command.spawn()?;
    loop {
        let received = tokio::select! {
            _ = child_ended.recv() => match child.try_wait()? {
                Some(_) => return Ok(()),
                None => continue,
            },
            _ = hangup.recv() => Signal::SIGHUP,
            _ = interrupt.recv() => Signal::SIGINT,
            _ = quit.recv() => Signal::SIGQUIT,
            _ = terminate.recv() => Signal::SIGTERM,
            _ = user1.recv() => Signal::SIGUSR1,
            _ = user2.recv() => Signal::SIGUSR2,
        };
        let Some(pid) = read_pid(pidfile) else {
            println!("Can't read child pidfile {}!", pidfile.display());
            continue;
        };
        kill(pid, received)?;
        if matches!(received, Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT) {
            return Ok(());
        }
    }
}

/// Only a single process: 0 and negative numbers would mean groups.
fn read_pid(pidfile: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(pidfile).ok()?;
    text.trim().parse().ok().filter(|pid| *pid > 0).map(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pidfile_names_one_process_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        for (text, pid) in [("12\n", Some(12)), ("0", None), ("-1", None), ("x", None), ("", None)] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(read_pid(&file), pid.map(Pid::from_raw), "{text:?}");
        }
        assert_eq!(read_pid(Path::new("/no/such/file")), None);
    }

    #[tokio::test]
    async fn it_ends_with_its_command() {
        run(Command::new("/bin/true"), Path::new("/no/such/file")).await.unwrap();
    }

    #[tokio::test]
    async fn a_command_that_cannot_start_is_an_error() {
        assert!(run(Command::new("/no/such/command"), Path::new("/no/such/file")).await.is_err());
    }
}
