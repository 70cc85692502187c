//! Stdout of a fleet command: whole lines, each shown at once; and whether it may be coloured.

use std::io::{self, IsTerminal as _, Write as _};

use fleetvisor_model::state::ProcessState;
use tokio::sync::{mpsc, oneshot};

/// Texts that may wait to be written.
const WAITING: usize = 16;

use super::progress::Line;

/// Whether states are coloured: on a terminal, unless `NO_COLOR` says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    Plain,
    Coloured,
}

impl Colour {
    pub(crate) fn of_stdout() -> Colour {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if io::stdout().is_terminal() && !set("NO_COLOR") && !dumb { Colour::Coloured } else { Colour::Plain }
    }

    /// The state's name, with escape sequences around it where colour is wanted.
    pub(crate) fn state(self, state: ProcessState) -> String {
        let code = match (self, state) {
            (Colour::Plain, _) | (_, ProcessState::Stopped) => return state.name().to_owned(),
            (Colour::Coloured, ProcessState::Running) => 32,
            (Colour::Coloured, ProcessState::Starting | ProcessState::Stopping | ProcessState::Backoff) => 33,
            (Colour::Coloured, ProcessState::Exited | ProcessState::Fatal | ProcessState::Unknown) => 31,
        };
        format!("\x1b[{code}m{}\x1b[0m", state.name())
    }
}

/// Where results appear as they come. On a terminal a last line says how far it is; it gives way to the next
/// result, and never reaches a pipe.
#[derive(Debug)]
pub(crate) struct Screen {
    colour: Colour,
    has_status: bool,
    shows_status: bool,
}

impl Screen {
    pub(crate) fn new(colour: Colour) -> Screen {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Screen { colour, has_status: io::stderr().is_terminal() && !dumb, shows_status: false }
    }

    pub(crate) fn line(&mut self, line: &str) -> io::Result<()> {
        self.clear();
        lines(&[line.to_owned()])
    }

    /// `web-01:web:app: restarted`, green, or red.
    pub(crate) fn outcomes(&mut self, all: &[Line]) -> io::Result<()> {
        let coloured = |line: &Line| match (self.colour, line.text.split_once(": ")) {
            (Colour::Coloured, Some((name, text))) => {
                format!("{name}: \x1b[{}m{text}\x1b[0m", if line.good { 32 } else { 31 })
            }
            (Colour::Plain, _) | (_, None) => line.text.clone(),
        };
        let all: Vec<String> = all.iter().map(coloured).collect();
        self.clear();
        lines(&all)
    }

    pub(crate) fn remark(&mut self, remark: &str) {
        self.clear();
        eprintln!("ctl: {remark}");
    }

    pub(crate) fn status(&mut self, status: impl FnOnce() -> String) {
        if self.has_status {
            eprint!("\r\x1b[K{}", status());
            self.shows_status = true;
        }
    }

    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.shows_status) {
            eprint!("\r\x1b[K");
        }
    }
}

/// Stdout with a thread of its own: whoever reads it slowly holds up the writing, and not the connection, which has to
/// answer the controller's pings.
#[derive(Debug)]
pub(crate) struct Writer {
    texts: mpsc::Sender<Vec<u8>>,
    ended: oneshot::Receiver<io::Result<()>>,
}

impl Writer {
    pub(crate) fn start() -> Writer {
        let (texts, mut to_write) = mpsc::channel::<Vec<u8>>(WAITING);
        let (end, ended) = oneshot::channel();
        // Not a task of the runtime: that would wait for it at its end, and nobody may ever read.
        std::thread::spawn(move || {
            let mut write = || {
                let mut stdout = io::stdout().lock();
                while let Some(text) = to_write.blocking_recv() {
                    stdout.write_all(&text)?;
                    if to_write.is_empty() {
                        stdout.flush()?;
                    }
                }
                stdout.flush()
            };
            let _ = end.send(write());
        });
        Writer { texts, ended }
    }

    /// Waits while too much waits to be written; an error means that nobody reads any more.
    pub(crate) async fn write(&mut self, text: Vec<u8>) -> io::Result<()> {
        if !text.is_empty() && self.texts.send(text).await.is_err() {
            return self.end().await;
        }
        Ok(())
    }

    /// Waits until everything is written.
    pub(crate) async fn finish(mut self) -> io::Result<()> {
        let (closed, _) = mpsc::channel(1);
        self.texts = closed;
        self.end().await
    }

    async fn end(&mut self) -> io::Result<()> {
        (&mut self.ended).await.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
    }
}

/// Writes lines and flushes; an error means that nobody reads any more.
pub(crate) fn lines(lines: &[String]) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut text = lines.join("\n");
    text.push('\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_around_the_name_only() {
        assert_eq!(Colour::Plain.state(ProcessState::Fatal), "FATAL");
        assert_eq!(Colour::Coloured.state(ProcessState::Running), "\x1b[32mRUNNING\x1b[0m");
        assert_eq!(Colour::Coloured.state(ProcessState::Stopped), "STOPPED");
    }
}
