//! The thread that owns every log: one task per pipe, one writer per file however many programs share it.
//! It knows instances, not processes: what a program is and whether it may run is decided elsewhere.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};

use fleetvisor_core::ansi::Stripper;
use fleetvisor_core::capture::{Captured, Piece, Splitter};
use fleetvisor_core::effect::Instance;
use fleetvisor_core::event::{Channel, bytes_repr};
use fleetvisor_model::config::{LogLevel, LogTarget, OutputLog, repr};
use nix::errno::Errno;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, LocalSet, spawn_local};

use super::daemon::DaemonLog;
use super::file::{LogFile, Rotation};
use super::output::{Capture, Output, Syslog};
use super::{Command, Logs, Outputs};
use crate::inbox::{Handle, Message};

/// Read at once; Supervisor's own chunk.
const CHUNK: usize = 128 << 10;
/// Most that a pipe can hold by default: what a program wrote before it ended is no more than this.
const MOST_IN_A_PIPE: usize = 1 << 20;

/// Starts the thread. Answers go to the loop through `handle`.
pub(crate) fn start(daemon: DaemonLog, strip_ansi: bool, handle: Handle) -> io::Result<Logs> {
    let (commands, coming) = mpsc::unbounded_channel();
    let level = daemon.level();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    std::thread::Builder::new().name("logs".to_owned()).spawn(move || {
        let state = Rc::new(State {
            daemon: RefCell::new(daemon),
            files: RefCell::default(),
            programs: RefCell::default(),
            buffers: RefCell::new((vec![0; CHUNK], Vec::new())),
            strip_ansi,
            handle,
        });
        LocalSet::new().block_on(&runtime, state.serve(coming));
    })?;
    Ok(Logs { commands, level })
}

struct State {
    daemon: RefCell<DaemonLog>,
    files: RefCell<HashMap<PathBuf, Weak<RefCell<LogFile>>>>,
    programs: RefCell<HashMap<Instance, Program>>,
    /// For reading and for stripping: one of each for all pipes.
    buffers: RefCell<(Vec<u8>, Vec<u8>)>,
    strip_ansi: bool,
    handle: Handle,
}

struct Program {
    name: String,
    /// Opened, not yet attached: stdout's, stderr's.
    outputs: Vec<Output>,
    streams: Vec<Stream>,
}

struct Stream {
    pump: Rc<Pump>,
    task: AbortHandle,
}

/// A pipe and where it goes.
struct Pump {
    pipe: pipe::Receiver,
    output: RefCell<Output>,
    instance: Instance,
    name: String,
    channel: Channel,
}

impl Pump {
    fn line(&self, output: &str) -> String {
        format!("{} {} output:\n{output}", repr(&self.name), self.channel.name())
    }
}

impl State {
    async fn serve(self: Rc<State>, mut coming: mpsc::UnboundedReceiver<Command>) {
        while let Some(command) = coming.recv().await {
            match command {
                Command::Line { level, line } => self.daemon.borrow_mut().line(level, &line),
                Command::Open { instance, outputs } => {
                    let result = self.open(instance, &outputs);
                    let _ = self.handle.send(Message::LogsOpened { instance, result });
                }
                Command::Attach { instance, stdout, stderr } => {
                    let pipes = [(Channel::Stdout, Some(stdout)), (Channel::Stderr, stderr)];
                    for (channel, pipe) in pipes.into_iter().filter_map(|(name, pipe)| Some((name, pipe?))) {
                        if let Err(error) = self.attach(instance, channel, pipe) {
                            let line = format!("cannot read {}: {error}", channel.name());
                            self.remark(LogLevel::Critical, line);
                        }
                    }
                }
                Command::Drain { instance, status } => {
                    self.drain(instance);
                    let _ = self.handle.send(Message::Drained { instance, status });
                }
                Command::Forget { instance } => {
                    self.programs.borrow_mut().remove(&instance);
                }
                Command::Print { text } => {
                    // A terminal that is gone is no reason to stop.
                    let _ = io::stdout().lock().write_all(text.as_bytes());
                }
                Command::Reopen => self.reopen(),
                Command::Clear { files, answer } => {
                    let clear = |file: &PathBuf| {
                        self.clear(file).map_err(|error| format!("cannot clear {}: {error}", file.display()))
                    };
                    let _ = answer.send(files.iter().try_for_each(clear));
                }
                Command::ClearDaemon { answer } => {
                    let _ = answer.send(self.daemon.borrow_mut().clear());
                }
                Command::Answer(answer) => (answer.0)(),
                Command::Replace { daemon } => *self.daemon.borrow_mut() = daemon,
                Command::Close { answer } => {
                    let _ = answer.send(());
                    return;
                }
            }
        }
    }

    fn remark(&self, level: LogLevel, line: String) {
        self.daemon.borrow_mut().line(level, &line);
    }

    /// Opens a program's files before it is spawned, so that one that can't be opened stops the spawn.
    fn open(&self, instance: Instance, outputs: &Outputs) -> Result<(), String> {
        let open = |log: &OutputLog| {
            self.output(log).map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EMFILE) => format!("too many open files to spawn '{}'", outputs.name.process),
                Some(errno) => {
                    format!("unknown error making dispatchers for '{}': {errno:?}", outputs.name.process)
                }
                None => format!("unknown error making dispatchers for '{}': {error}", outputs.name.process),
            })
        };
        let logs = [Some(&outputs.stdout), outputs.stderr.as_ref()];
        let mut opened = logs.into_iter().flatten().map(open).collect::<Result<Vec<Output>, String>>()?;
        if let Some(stdout) = opened.first_mut().filter(|_| outputs.is_listener) {
            (stdout.is_listener, stdout.syslog, stdout.capture) = (true, None, None);
        }
        let name = outputs.name.process.clone();
        let program = Program { name, outputs: opened, streams: Vec::new() };
        self.programs.borrow_mut().insert(instance, program);
        Ok(())
    }

    fn output(&self, log: &OutputLog) -> io::Result<Output> {
        let file = match &log.logfile {
            LogTarget::File(path) => Some(self.file(path, log)?),
            LogTarget::None | LogTarget::Auto | LogTarget::Syslog => None,
        };
        let syslog = (log.syslog || log.logfile == LogTarget::Syslog).then(Syslog::default);
        let capture = usize::try_from(log.capture_maxbytes)
            .ok()
            .filter(|most| *most > 0)
            .map(|most| Capture { splitter: Splitter::default(), captured: Captured::new(most) });
        Ok(Output {
            file,
            syslog,
            stripper: self.strip_ansi.then(Stripper::default),
            capture,
            events: log.events_enabled,
            is_listener: false,
        })
    }

    /// The one writer of a path.
    fn file(&self, path: &Path, log: &OutputLog) -> io::Result<Rc<RefCell<LogFile>>> {
        let mut files = self.files.borrow_mut();
        if let Some(file) = files.get(path).and_then(Weak::upgrade) {
            return Ok(file);
        }
        files.retain(|_, file| file.strong_count() > 0);
        let rotation = Rotation::new(log.logfile_maxbytes, log.logfile_backups);
        let file = Rc::new(RefCell::new(LogFile::open(path, rotation)?));
        files.insert(path.to_owned(), Rc::downgrade(&file));
        Ok(file)
    }

    fn attach(self: &Rc<State>, instance: Instance, channel: Channel, pipe: OwnedFd) -> io::Result<()> {
        let mut programs = self.programs.borrow_mut();
        let Some(program) = programs.get_mut(&instance) else { return Ok(()) };
        if program.outputs.is_empty() {
            return Ok(());
        }
        let pump = Rc::new(Pump {
            pipe: pipe::Receiver::from_owned_fd(pipe)?,
            output: RefCell::new(program.outputs.remove(0)),
            instance,
            name: program.name.clone(),
            channel,
        });
        let task = spawn_local(Rc::clone(self).follow(Rc::clone(&pump))).abort_handle();
        program.streams.push(Stream { pump, task });
        Ok(())
    }

    /// Moves a pipe's bytes for as long as anybody can write to it.
    async fn follow(self: Rc<State>, pump: Rc<Pump>) {
        while pump.pipe.readable().await.is_ok() {
            let mut buffers = self.buffers.borrow_mut();
            let (chunk, scratch) = &mut *buffers;
            match pump.pipe.try_read(chunk) {
                Ok(0) => return,
                Ok(count) => self.write(&pump, &chunk[..count], scratch),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    /// The rest of what a program that has ended wrote. Whoever inherited its pipes writes to nobody from
    /// here on, as with Supervisor.
    fn drain(&self, instance: Instance) {
        let Some(program) = self.programs.borrow_mut().remove(&instance) else { return };
        let mut buffers = self.buffers.borrow_mut();
        let (chunk, scratch) = &mut *buffers;
        for stream in program.streams {
            stream.task.abort();
            let mut taken = 0;
            // Not through the runtime: it may not know yet that there is something to read.
            while let Ok(count) = nix::unistd::read(stream.pump.pipe.as_fd(), chunk) {
                if count == 0 || taken >= MOST_IN_A_PIPE {
                    break;
                }
                taken += count;
                self.write(&stream.pump, &chunk[..count], scratch);
            }
        }
    }

    fn write(&self, pump: &Pump, chunk: &[u8], scratch: &mut Vec<u8>) {
        let mut output = pump.output.borrow_mut();
        let Pump { instance, channel, .. } = *pump;
        if output.is_listener {
            let _ = self.handle.send(Message::ListenerSays { instance, data: chunk.to_vec() });
            if self.daemon.borrow().level() >= LogLevel::Debug {
                self.remark(LogLevel::Debug, pump.line(&bytes_repr(chunk)));
            }
            let chunk = output.strip(chunk, scratch);
            return self.remark_failure(output.write(chunk));
        }
        let pieces = match &mut output.capture {
            Some(capture) => capture.splitter.split(chunk),
            None => return self.write_text(pump, &mut output, chunk, scratch),
        };
        for piece in pieces {
            match piece {
                Piece::Text(data) => self.write_text(pump, &mut output, &data, scratch),
                Piece::Captured(data) => self.capture(pump, &mut output, &data, scratch),
                Piece::End => {
                    let captured = output.capture.as_mut().map(|capture| capture.captured.take());
                    let data = captured.unwrap_or_default();
                    let _ = self.handle.send(Message::Communication { instance, channel, data });
                    let line = format!("{} {} emitted a comm event", repr(&pump.name), channel.name());
                    self.remark(LogLevel::Debug, line);
                }
            }
        }
    }

    fn write_text(&self, pump: &Pump, output: &mut Output, chunk: &[u8], scratch: &mut Vec<u8>) {
        let chunk = output.strip(chunk, scratch);
        self.remark_failure(output.write(chunk));
        self.tell(pump, output.events, chunk);
    }

    fn capture(&self, pump: &Pump, output: &mut Output, chunk: &[u8], scratch: &mut Vec<u8>) {
        let chunk = output.strip(chunk, scratch);
        if let Some(capture) = &mut output.capture {
            capture.captured.add(chunk);
        }
        self.tell(pump, output.events, chunk);
    }

    fn remark_failure(&self, remark: Option<String>) {
        if let Some(remark) = remark {
            self.remark(LogLevel::Error, remark);
        }
    }

    /// What a program wrote, to those who follow it beside its log.
    fn tell(&self, pump: &Pump, events: bool, chunk: &[u8]) {
        if self.daemon.borrow().level() >= LogLevel::Debug {
            self.remark(LogLevel::Debug, pump.line(&String::from_utf8_lossy(chunk)));
        }
        if events && !chunk.is_empty() {
            let Pump { instance, channel, .. } = *pump;
            let _ = self.handle.send(Message::Logged { instance, channel, data: chunk.to_vec() });
        }
    }

    fn reopen(&self) {
        self.daemon.borrow_mut().reopen();
        let mut remarks = Vec::new();
        for file in self.files.borrow().values().filter_map(Weak::upgrade) {
            let mut file = file.borrow_mut();
            if let Err(error) = file.reopen() {
                remarks.push(format!("cannot open log {}: {error}", file.path().display()));
            }
        }
        for remark in remarks {
            self.remark(LogLevel::Error, remark);
        }
    }

    fn clear(&self, path: &Path) -> io::Result<()> {
        let open = self.files.borrow().get(path).and_then(Weak::upgrade);
        match open {
            Some(file) => file.borrow_mut().clear(),
            None if path.is_file() => std::fs::File::create(path).map(drop),
            None => Ok(()),
        }
    }
}
