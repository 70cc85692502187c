//! Logs: from the programs' pipes to files, and the daemon's own. All of it lives in one thread ([`thread`]),
//! so that a slow disk holds up nothing else; the rest of the agent holds a [`Logs`] handle. Bytes of logs
//! pass through the loop only where event listeners are to see them, or say something themselves.

mod daemon;
mod file;
mod output;
mod thread;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use fleetvisor_core::effect::Instance;
use fleetvisor_core::exit::ExitStatus;
use fleetvisor_model::config::{LogLevel, OutputLog};
use fleetvisor_model::name::ProcessName;
use tokio::sync::{mpsc, oneshot};

pub(crate) use daemon::DaemonLog;

/// What a program's two streams are written to. `stderr` is `None` where it is redirected to stdout.
#[derive(Clone, Debug)]
pub(crate) struct Outputs {
    pub(crate) name: ProcessName,
    pub(crate) stdout: OutputLog,
    pub(crate) stderr: Option<OutputLog>,
    /// Its stdout is a conversation with the daemon.
    pub(crate) is_listener: bool,
}

/// What is asked of the thread, in order.
#[derive(Debug)]
enum Command {
    Line {
        level: LogLevel,
        line: String,
    },
    /// Opens what a program will write to; answered by [`crate::inbox::Message::LogsOpened`].
    Open {
        instance: Instance,
        outputs: Outputs,
    },
    Attach {
        instance: Instance,
        stdout: OwnedFd,
        stderr: Option<OwnedFd>,
    },
    /// Takes what is left in the pipes; answered by [`crate::inbox::Message::Drained`].
    Drain {
        instance: Instance,
        status: ExitStatus,
    },
    /// The spawn came to nothing.
    Forget {
        instance: Instance,
    },
    /// To the daemon's stdout.
    Print {
        text: String,
    },
    Reopen,
    Clear {
        files: Vec<PathBuf>,
        answer: oneshot::Sender<Result<(), String>>,
    },
    ClearDaemon {
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// A new configuration: the daemon's log goes elsewhere.
    Replace {
        daemon: DaemonLog,
    },
    /// An answer that is not given before everything above it is in the log.
    Answer(Answer),
    Close {
        answer: oneshot::Sender<()>,
    },
}

struct Answer(Box<dyn FnOnce() + Send>);

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answer")
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Logs {
    commands: mpsc::UnboundedSender<Command>,
    /// The daemon log's: lines below it are not even sent.
    level: LogLevel,
}

impl Logs {
    /// For tests of those who log: nobody reads it.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Logs {
        Logs { commands: mpsc::unbounded_channel().0, level: LogLevel::Info }
    }

    /// The thread is gone only after [`Logs::close`], when nothing is left to say.
    fn send(&self, command: Command) {
        let _ = self.commands.send(command);
    }

    /// A line of the daemon's own log.
    pub(crate) fn line(&self, level: LogLevel, line: impl Into<String>) {
        if level <= self.level {
            self.send(Command::Line { level, line: line.into() });
        }
    }

    /// Text for the daemon's own stdout.
    pub(crate) fn print(&self, text: String) {
        self.send(Command::Print { text });
    }

    /// Gives an answer once every line so far is written: whoever is told of a change finds it in the log.
    pub(crate) fn then(&self, answer: impl FnOnce() + Send + 'static) {
        self.send(Command::Answer(Answer(Box::new(answer))));
    }

    pub(crate) fn open(&self, instance: Instance, outputs: Outputs) {
        self.send(Command::Open { instance, outputs });
    }

    pub(crate) fn attach(&self, instance: Instance, stdout: OwnedFd, stderr: Option<OwnedFd>) {
        self.send(Command::Attach { instance, stdout, stderr });
    }

    pub(crate) fn drain(&self, instance: Instance, status: ExitStatus) {
        self.send(Command::Drain { instance, status });
    }

    pub(crate) fn forget(&self, instance: Instance) {
        self.send(Command::Forget { instance });
    }

    /// After an outside rotation: everything is opened anew by its name.
    pub(crate) fn reopen(&self) {
        self.send(Command::Reopen);
    }

    /// Empties these logs, whether their programs run or not.
    pub(crate) async fn clear(&self, files: Vec<PathBuf>) -> Result<(), String> {
        self.ask(|answer| Command::Clear { files, answer }).await
    }

    pub(crate) async fn clear_main(&self) -> Result<(), String> {
        self.ask(|answer| Command::ClearDaemon { answer }).await
    }

    async fn ask(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<(), String>>) -> Command,
    ) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        self.send(command(answer));
        answered.await.unwrap_or_else(|_| Err("the daemon is shutting down".to_owned()))
    }

    /// Another configuration's daemon log takes the place of the present one.
    pub(crate) fn replace_daemon(&mut self, daemon: DaemonLog) {
        self.level = daemon.level();
        self.send(Command::Replace { daemon });
    }

    /// Everything sent so far is written when this returns, and the thread ends.
    pub(crate) async fn close(&self) {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Close { answer });
        let _ = answered.await;
    }
}

pub(crate) use thread::start;
