//! The link to the keeper, for this runtime: requests go out in order, events come in, and neither waits for
//! the other. Keeps a copy of what the keeper has, so that another can be begun when it was killed.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use fleetvisor_keeper::holdings::Ledger;
use fleetvisor_keeper::revive::{Former, ReviveError, revive};
use fleetvisor_keeper::{Event, Flushed, KeeperLink as Link, LinkError, LinkReader, LinkWriter, Request};
use nix::errno::Errno;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Until the keeper has taken descriptors that are under way to it.
const THROTTLED: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(crate) struct KeeperLink {
    reader: LinkReader,
    writer: LinkWriter,
    /// The same socket: says when it can be read or written.
    socket: UnixStream,
    /// Met while sending; said by [`KeeperLink::next`] when it has given all that came.
    failed: Option<LinkError>,
    /// The version of the frames, once the keeper has said hello.
    pub(crate) version: u16,
    ledger: Ledger,
    keeper_pid: i32,
    /// The soft RLIMIT_NOFILE of the keeper.
    files: Option<u64>,
}

impl KeeperLink {
    /// To be called within a runtime.
    pub(crate) fn new(link: Link) -> std::io::Result<KeeperLink> {
        let socket = std::os::unix::net::UnixStream::from(link.as_fd().try_clone_to_owned()?);
        let (reader, writer) = link.split();
        let socket = UnixStream::from_std(socket)?;
        let (ledger, keeper_pid, files) = (Ledger::default(), 0, None);
        Ok(KeeperLink { reader, writer, socket, failed: None, version: 0, ledger, keeper_pid, files })
    }

    /// The soft RLIMIT_NOFILE that the keeper has, and programs get.
    pub(crate) fn give_programs(&mut self, files: u64) {
        self.files.get_or_insert(files);
    }

    /// Begins another keeper in the place of one that was killed. This process is then to end at once.
    pub(crate) fn revive(&mut self, args: &[OsString]) -> Result<(), ReviveError> {
        revive(&mut self.ledger, Former { keeper_pid: self.keeper_pid, files: self.files }, args)
    }

    pub(crate) fn send(&mut self, request: Request, descriptors: Vec<OwnedFd>) {
        let descriptors: Vec<_> = descriptors.into_iter().map(Arc::new).collect();
        self.ledger.sent(&request, &descriptors);
        if let Err(error) =
            self.writer.send(&request, descriptors).and_then(|()| self.writer.flush().map(drop))
        {
            self.failed.get_or_insert(error);
        }
    }

    /// Requests that the socket has not taken yet.
    pub(crate) fn queued(&self) -> usize {
        self.writer.queued()
    }

    /// The next event. Nothing is lost where this is cancelled. A keeper that has gone is said after all that it
    /// has sent.
    pub(crate) async fn next(&mut self) -> Result<(Event, Vec<OwnedFd>), LinkError> {
        let (event, mut descriptors) = self.receive().await?;
        if let Event::Hello { keeper_pid, .. } = event {
            self.keeper_pid = keeper_pid;
        }
        self.ledger.came(&event, &mut descriptors);
        Ok((event, descriptors))
    }

    async fn receive(&mut self) -> Result<(Event, Vec<OwnedFd>), LinkError> {
        loop {
            if self.failed.is_some()
                && let Some(event) = self.reader.receive()?
            {
                return Ok(event);
            }
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            let waiting = self.writer.queued() > 0;
            let interest = if waiting { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            let ready = self.socket.ready(interest).await.map_err(io)?;
            if ready.is_writable()
                && waiting
                && let Err(error) = self.write_on().await
            {
                self.failed = Some(error);
                continue;
            }
            if ready.is_readable()
                && let Some(event) = attempt(&self.socket, Interest::READABLE, || self.reader.receive())?
            {
                return Ok(event);
            }
        }
    }

    /// Everything sent so far is with the keeper when this returns.
    pub(crate) async fn flush(&mut self) -> Result<(), LinkError> {
        while self.writer.queued() > 0 {
            self.socket.writable().await.map_err(io)?;
            self.write_on().await?;
        }
        Ok(())
    }

    async fn write_on(&mut self) -> Result<(), LinkError> {
        let flushed = attempt(&self.socket, Interest::WRITABLE, || match self.writer.flush()? {
            Flushed::Blocked => Ok(None),
            done => Ok(Some(done)),
        })?;
        if flushed == Some(Flushed::Throttled) {
            tokio::time::sleep(THROTTLED).await;
        }
        Ok(())
    }
}

/// Tries something that gives `None` where the socket is not ready after all, and has the runtime take note.
fn attempt<T>(
    socket: &UnixStream,
    interest: Interest,
    mut try_it: impl FnMut() -> Result<Option<T>, LinkError>,
) -> Result<Option<T>, LinkError> {
    let tried = socket.try_io(interest, || match try_it() {
        Ok(Some(value)) => Ok(Ok(value)),
        Ok(None) => Err(std::io::ErrorKind::WouldBlock.into()),
        Err(error) => Ok(Err(error)),
    });
    match tried {
        Ok(result) => result.map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(io(error)),
    }
}

fn io(error: std::io::Error) -> LinkError {
    LinkError::Io(Errno::from_raw(error.raw_os_error().unwrap_or(0)))
}

/// The keeper's answers in Supervisor's words.
pub(crate) mod wording {
    use fleetvisor_core::exit::ExitStatus;
    use fleetvisor_keeper::errno_name;
    use fleetvisor_keeper::frame::{Exit, SpawnStep};
    use fleetvisor_model::signal::Signal;
    use nix::errno::Errno;

    pub(crate) fn exit_status(exit: Exit) -> ExitStatus {
        match exit {
            Exit::Code(code) => ExitStatus::Code(code),
            Exit::Unknown => ExitStatus::Unknown,
            Exit::Signal { signo, core_dumped } => ExitStatus::Signal { signal: Signal(signo), core_dumped },
        }
    }

    pub(crate) fn spawn_failed(name: &str, step: SpawnStep, errno: i32) -> String {
        match (step, Errno::from_raw(errno)) {
            (SpawnStep::Pipes, Errno::EMFILE) => format!("too many open files to spawn '{name}'"),
            (SpawnStep::Pipes, _) => {
                format!("unknown error making dispatchers for '{name}': {}", errno_name(errno))
            }
            (SpawnStep::Fork, Errno::EAGAIN) => {
                format!("Too many processes in process table to spawn '{name}'")
            }
            (SpawnStep::Fork, _) => format!("unknown error during fork for '{name}': {}", errno_name(errno)),
        }
    }
}
