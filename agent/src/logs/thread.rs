//! A thread that owns the logs of a disk: the pumps and when each has its turn, one writer per file however many
//! programs share it. It knows instances, not processes: what a program is and whether it may run is decided
//! elsewhere. Only here is a log's disk touched.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use fleetvisor_core::effect::Instance;
use fleetvisor_core::event::Channel;
use fleetvisor_model::config::{LogLevel, LogTarget, OutputLog};
use fleetvisor_model::name::ProcessName;
use nix::errno::Errno;
use tokio::sync::watch;

use super::file::{LogFile, errno};
use super::output::{Common, Output, Parts, Source};
use super::poller::Poller;
use super::pump::{Next, Pump};
use super::rotate::Rotation;
use super::router::Claim;
use super::tools::Tools;
use super::transform::{Transform, most_captured};
use super::voice::Voice;
use super::{Command, Failures, Pair, Sender, Share};
use crate::inbox::Handle;

/// Pumps of programs that have ended, whose target takes nothing.
const MOST_LINGERING: usize = 64;

/// The channels of the streams in a pair.
const CHANNELS: [Channel; 2] = [Channel::Stdout, Channel::Stderr];

pub(super) struct Thread {
    poller: Poller,
    common: Common,
    files: HashMap<PathBuf, Weak<RefCell<LogFile>>>,
    programs: HashMap<Instance, Program>,
    pumps: HashMap<u64, Pump>,
    next_pump: u64,
    /// Adopted, and not to be moved yet.
    waiting: Option<Vec<u64>>,
    lingering: usize,
    /// Pumps whose turn it is.
    ready: Vec<u64>,
    timers: BTreeSet<(Instant, u64)>,
    strip_ansi: bool,
    failures: watch::Sender<Arc<Failures>>,
}

struct Program {
    name: ProcessName,
    /// Opened, not yet attached.
    opened: Pair<Output>,
    pumps: Vec<u64>,
    /// So that its paths stay with this thread.
    _claims: Vec<Arc<Claim>>,
}

impl Thread {
    pub(super) fn start(
        name: String,
        daemon: Voice,
        strip_ansi: bool,
        handle: Handle,
        enlarged: Arc<AtomicUsize>,
    ) -> io::Result<(Arc<Sender>, watch::Receiver<Arc<Failures>>)> {
        let poller = Poller::new()?;
        let (commands, coming) = mpsc::channel();
        let (shown, failures) = watch::channel(Arc::default());
        let sender = Arc::new(Sender { commands, wake: poller.waker() });
        let common = Common { daemon, tools: Tools::new(enlarged)?, handle };
        std::thread::Builder::new().name(name).spawn(move || {
            let thread = Thread {
                poller,
                common,
                files: HashMap::new(),
                programs: HashMap::new(),
                pumps: HashMap::new(),
                next_pump: 0,
                waiting: None,
                lingering: 0,
                ready: Vec::new(),
                timers: BTreeSet::new(),
                strip_ansi,
                failures: shown,
            };
            thread.run(&coming);
        })?;
        Ok((sender, failures))
    }

    fn run(mut self, coming: &mpsc::Receiver<Command>) {
        loop {
            let limit = if self.ready.is_empty() {
                self.timers.first().map(|(at, _)| at.saturating_duration_since(Instant::now()))
            } else {
                Some(Duration::ZERO)
            };
            if self.poller.wait(limit, &mut self.ready) {
                while let Ok(command) = coming.try_recv() {
                    match command {
                        Command::Close { part } => {
                            if let Some(part) = part {
                                part.done(|()| ());
                            }
                            return;
                        }
                        command => self.carry_out(command),
                    }
                }
            }
            let now = Instant::now();
            while let Some((at, pump)) = self.timers.first().copied()
                && at <= now
            {
                self.timers.pop_first();
                self.ready.push(pump);
            }
            for pump in std::mem::take(&mut self.ready) {
                self.pass(pump);
            }
        }
    }

    fn pass(&mut self, id: u64) {
        let Some(pump) = self.pumps.get_mut(&id) else { return };
        if let Some(due) = pump.due.take() {
            self.timers.remove(&(due, id));
        }
        let next = pump.pass(Instant::now(), &mut self.common);
        let is_last = pump.lingers && matches!(next, Next::Readable | Next::Never);
        if is_last {
            pump.output.finish(&pump.source, &mut self.common);
        }
        let file = pump.output.file.clone();
        match next {
            Next::Readable | Next::Never if is_last => {
                self.lingering -= 1;
                self.close(id);
            }
            Next::Readable => {
                // It was added before, so this can only fail for want of kernel memory.
                let _ = self.poller.arm(pump.pipe(), id);
            }
            Next::At(at) => {
                pump.due = Some(at);
                self.timers.insert((at, id));
            }
            Next::Now => self.ready.push(id),
            Next::Never => self.poller.remove(pump.pipe()),
        }
        self.heed(file.as_ref());
    }

    /// Says what there is to say about a file.
    fn heed(&mut self, file: Option<&Rc<RefCell<LogFile>>>) {
        let Some(file) = file else { return };
        let mut file = file.borrow_mut();
        for (level, line) in file.trouble.take_said() {
            self.common.daemon.line(level, &line);
        }
        let changed = file.trouble.take_changed();
        drop(file);
        if changed {
            self.show_failures();
        }
    }

    fn show_failures(&mut self) {
        let mut programs = BTreeMap::new();
        for program in self.programs.values() {
            let pumps = program.pumps.iter().filter_map(|id| self.pumps.get(id));
            let failures: Vec<_> =
                pumps.filter_map(|pump| pump.output.file.as_ref()?.borrow().trouble.now().cloned()).collect();
            if !failures.is_empty() {
                programs.insert(program.name.clone(), failures);
            }
        }
        let daemon = self.common.daemon.failure();
        self.failures.send_replace(Arc::new(Failures { daemon, programs }));
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Line { level, line } => self.say(level, &line),
            Command::Said { level, line, room } => {
                self.say(level, &line);
                drop(room);
            }
            Command::Open { instance, share, part } => {
                let opened = self.open(instance, share);
                part.done(|opening| match (opening, opened) {
                    (Ok(memories), Ok(opened)) => {
                        for (memory, opened) in memories.iter_mut().zip(opened) {
                            *memory = memory.take().or(opened);
                        }
                    }
                    (opening @ Ok(_), Err(error)) => *opening = Err(error),
                    (Err(_), _) => {}
                });
            }
            Command::Attach { instance, pipes } => self.attach(instance, pipes),
            Command::Adopt { instance, share, pipes, memories, heard } => {
                self.adopt(instance, *share, pipes, memories, heard);
            }
            Command::Resume => self.resume(),
            Command::Drain { instance, part } => {
                self.drain(instance);
                part.done(|()| ());
            }
            Command::Forget { instance } => {
                self.programs.remove(&instance);
            }
            Command::Print { text } => {
                // A terminal that is gone is no reason to stop.
                let _ = io::stdout().lock().write_all(text.as_bytes());
            }
            Command::Reopen => self.reopen(),
            Command::Clear { files, part } => {
                let clear = |file: &PathBuf| {
                    self.clear(file)
                        .map_err(|errno| format!("cannot clear {}: {}", file.display(), errno.desc()))
                };
                let cleared = files.iter().try_for_each(clear);
                part.done(|result| *result = std::mem::replace(result, Ok(())).and(cleared));
            }
            Command::ClearDaemon { answer } => {
                let _ = answer.send(self.common.daemon.clear());
            }
            Command::Answer(answer) => (answer.0)(),
            Command::Replace { daemon } => self.common.daemon = Voice::Own(daemon),
            Command::Level { level } => self.common.daemon.set_level(level),
            Command::Close { .. } => {}
        }
    }

    fn say(&mut self, level: LogLevel, line: &str) {
        self.common.daemon.line(level, line);
        if self.common.daemon.take_troubled() {
            self.show_failures();
        }
    }

    /// Opens a program's files before it is spawned, so that one that can't be opened stops the spawn. Gives what is to
    /// be kept for a successor.
    fn open(&mut self, instance: Instance, share: Share) -> Result<Pair<OwnedFd>, String> {
        let Share { name, is_listener, logs, claims } = share;
        let process = &name.process;
        let too_many = || format!("too many open files to spawn '{process}'");
        let (mut opened, mut memories) = ([None, None], [None, None]);
        for (stream, log) in logs.iter().enumerate() {
            let Some(log) = log else { continue };
            let file = self.file(log, LogFile::open).map_err(|errno| match errno {
                Errno::EMFILE => too_many(),
                errno => format!("unknown error making dispatchers for '{process}': {errno:?}"),
            })?;
            let is_listener = is_listener && CHANNELS[stream] == Channel::Stdout;
            let output = Output::new(self.parts(log, file, is_listener)).map_err(|_| too_many())?;
            let memory = output.memory().map(|memory| memory.try_clone_to_owned()).transpose();
            memories[stream] = memory.map_err(|_| too_many())?;
            opened[stream] = Some(output);
        }
        self.programs.insert(instance, Program { name, opened, pumps: Vec::new(), _claims: claims });
        Ok(memories)
    }

    fn parts(&self, log: &OutputLog, file: Option<Rc<RefCell<LogFile>>>, is_listener: bool) -> Parts {
        let syslog = !is_listener && (log.syslog || log.logfile == LogTarget::Syslog);
        let events = !is_listener && log.events_enabled;
        let most_captured = if is_listener { 0 } else { most_captured(log) };
        let shows_text = syslog || events || self.common.daemon.level() >= LogLevel::Debug;
        let transform = Transform::new(
            self.strip_ansi && (file.is_some() || shows_text || most_captured > 0),
            most_captured,
            is_listener,
            shows_text,
        );
        Parts { file, syslog, events, transform, most_captured }
    }

    /// The one writer of a path.
    fn file(
        &mut self,
        log: &OutputLog,
        open: impl FnOnce(&Path, Rotation) -> Result<LogFile, Errno>,
    ) -> Result<Option<Rc<RefCell<LogFile>>>, Errno> {
        let path = match &log.logfile {
            LogTarget::File(path) => one_name(path),
            LogTarget::None | LogTarget::Auto | LogTarget::Syslog => return Ok(None),
        };
        if let Some(file) = self.files.get(&path).and_then(Weak::upgrade) {
            return Ok(Some(file));
        }
        // Now and then: a thousand programs have as many files.
        if self.files.len().is_power_of_two() {
            self.files.retain(|_, file| file.strong_count() > 0);
        }
        let rotation = Rotation::new(log.logfile_maxbytes, log.logfile_backups);
        let file = Rc::new(RefCell::new(open(&path, rotation)?));
        self.files.insert(path, Rc::downgrade(&file));
        Ok(Some(file))
    }

    fn attach(&mut self, instance: Instance, pipes: Pair<OwnedFd>) {
        let Some(program) = self.programs.get_mut(&instance) else { return };
        let name = program.name.clone();
        let opened = std::mem::take(&mut program.opened);
        for ((channel, pipe), output) in CHANNELS.into_iter().zip(pipes).zip(opened) {
            let (Some(pipe), Some(output)) = (pipe, output) else { continue };
            let source = Source { instance, name: name.clone(), channel };
            let pump = Pump::new(source, output, pipe, &mut self.common.tools);
            self.add(pump);
        }
    }

    fn add(&mut self, pump: Pump) {
        let id = self.next_pump;
        self.next_pump += 1;
        if let Some(program) = self.programs.get_mut(&pump.source.instance) {
            program.pumps.push(id);
        }
        match &mut self.waiting {
            Some(waiting) => waiting.push(id),
            None => watch_pipe(&self.poller, &pump, id, &mut self.common.daemon),
        }
        self.pumps.insert(id, pump);
    }

    /// Takes over what an agent that is gone was doing. What it was just writing is done again at once, before
    /// anything else goes to the same file; everything else waits for [`resume`](Self::resume).
    fn adopt(
        &mut self,
        instance: Instance,
        share: Share,
        pipes: Pair<OwnedFd>,
        memories: Pair<OwnedFd>,
        heard: u64,
    ) {
        let Share { name, is_listener, logs, claims } = share;
        self.waiting.get_or_insert_default();
        let program =
            Program { name: name.clone(), opened: [None, None], pumps: Vec::new(), _claims: claims };
        self.programs.insert(instance, program);
        let streams = CHANNELS.into_iter().zip(logs).zip(pipes.into_iter().zip(memories));
        for ((channel, log), (pipe, memory)) in streams {
            let (Some(log), Some(pipe)) = (log, pipe) else { continue };
            let is_stdout = channel == Channel::Stdout;
            let file = self.file(&log, |path, rotation| Ok(LogFile::closed(path, rotation))).ok().flatten();
            let parts = self.parts(&log, file, is_listener && is_stdout);
            let mut output = Output::adopt(parts, memory);
            let source = Source { instance, name: name.clone(), channel };
            output.redo(if is_stdout { heard } else { 0 }, &source, &mut self.common);
            self.heed(output.file.clone().as_ref());
            let pump = Pump::new(source, output, pipe, &mut self.common.tools);
            self.add(pump);
        }
    }

    fn resume(&mut self) {
        for id in self.waiting.take().unwrap_or_default() {
            if let Some(pump) = self.pumps.get(&id) {
                watch_pipe(&self.poller, pump, id, &mut self.common.daemon);
                self.ready.push(id);
            }
        }
    }

    /// The rest of what a program that has ended wrote. Whoever inherited its pipes writes to nobody from
    /// here on, as with Supervisor.
    fn drain(&mut self, instance: Instance) {
        let Some(program) = self.programs.remove(&instance) else { return };
        for id in program.pumps {
            self.end_line_before(id);
            let Some(pump) = self.pumps.get_mut(&id) else { continue };
            let drained = pump.drain(Instant::now(), &mut self.common);
            let file = pump.output.file.clone();
            if drained || self.lingering >= MOST_LINGERING {
                self.close(id);
            } else {
                self.lingering += 1;
                self.ready.push(id);
            }
            if let Some(file) = &file {
                self.heed(Some(file));
            }
        }
        if self.failures.borrow().programs.contains_key(&program.name) {
            self.show_failures();
        }
    }

    /// Another that is in the middle of a line gets to its end first, if that has been written.
    fn end_line_before(&mut self, id: u64) {
        let Some(writer) = self.pumps.get(&id).and_then(Pump::line_of_another) else { return };
        if let Some(other) = self.pumps.values_mut().find(|pump| pump.source.writer() == writer) {
            other.end_line(Instant::now(), &mut self.common);
        }
    }

    fn close(&mut self, id: u64) {
        if let Some(pump) = self.pumps.remove(&id) {
            if let Some(due) = pump.due {
                self.timers.remove(&(due, id));
            }
            self.poller.remove(pump.pipe());
            pump.close(&mut self.common.tools);
        }
    }

    fn reopen(&mut self) {
        self.common.daemon.reopen();
        let files: Vec<_> = self.files.values().filter_map(Weak::upgrade).collect();
        for file in files {
            let mut file = file.borrow_mut();
            if let Err(errno) = file.reopen() {
                let line = format!("cannot open log {}: {}", file.path().display(), errno.desc());
                self.common.daemon.line(LogLevel::Error, &line);
            }
        }
    }

    fn clear(&mut self, path: &Path) -> Result<(), Errno> {
        let open = self.files.get(&one_name(path)).and_then(Weak::upgrade);
        match open {
            Some(file) => file.borrow_mut().clear(),
            None if path.is_file() => std::fs::File::create(path).map(drop).map_err(errno),
            None => Ok(()),
        }
    }
}

fn watch_pipe(poller: &Poller, pump: &Pump, id: u64, daemon: &mut Voice) {
    if let Err(errno) = poller.add(pump.pipe(), id) {
        let Source { name, channel, .. } = &pump.source;
        let line = format!("cannot read {} of {name}: {}", channel.name(), errno.desc());
        daemon.line(LogLevel::Critical, &line);
    }
}

/// One name for a file, however its folder is spelled.
fn one_name(path: &Path) -> PathBuf {
    let name = path.file_name();
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    match (folder, name) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}
