//! Sends logs to whoever asked for them through the controller: one call for each reader, over a connection beside the
//! link's, and no more than there is room for at the other end. So neither the link nor another reader waits for one
//! that is slow.
//!
//! - [`file`]: a log as a row of files. [`lines`]: its lines for one reader.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use fleetvisor_model::config::LogLevel;
use fleetvisor_proto::convert::process_name;
use fleetvisor_proto::fleet::host_logs_client::HostLogsClient;
use fleetvisor_proto::fleet::log_part::What;
use fleetvisor_proto::fleet::{LogChunk, LogCredit, LogPart, OpenLogs, WantedLog};
use fleetvisor_proto::tls;
use regex::bytes::Regex;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::daemon::{Daemon, Gone};
use crate::enrol;
use crate::membership::{LinkError, Membership};

mod file;
mod lines;

use lines::{From as Begin, LINE_MAX, Lines, Look};

/// Readers at once, and logs that are open for all of them.
const READERS_MAX: usize = 32;
const LOGS_MAX: usize = 256;
/// Passes over files at once: the agent has other things to do.
const PASSES_MAX: usize = 4;
/// Logs are looked at soon after something came, and then ever less often.
const SOONEST: Duration = Duration::from_millis(20);
const LATEST: Duration = Duration::from_millis(250);
/// One who has no room is looked after this often.
const STALLED: Duration = Duration::from_secs(1);
/// How long the controller may take to take the last of it.
const LAST_WORDS: Duration = Duration::from_secs(30);
/// Chunks on their way to the connection.
const SENDING: usize = 4;

/// What all readers of one link share. They end with it.
#[derive(Debug)]
pub(crate) struct Logs {
    address: String,
    /// There is one as long as anybody reads.
    channel: Mutex<Weak<Channel>>,
    readers: Arc<Semaphore>,
    places: Arc<Semaphore>,
    passes: Arc<Semaphore>,
}

/// One log of a reader.
#[derive(Debug)]
struct Open {
    index: u32,
    lines: Lines,
    _place: OwnedSemaphorePermit,
}

/// Why there is no log, and whether there may be one later.
#[derive(Debug)]
struct NoLog {
    reason: String,
    may_come: bool,
}

impl From<String> for NoLog {
    fn from(reason: String) -> NoLog {
        NoLog { reason, may_come: false }
    }
}

/// What one pass over a reader's logs has brought.
struct Pass {
    logs: Vec<Open>,
    chunks: Vec<LogChunk>,
    bytes: usize,
    more: bool,
}

impl Logs {
    pub(crate) fn new(address: &str) -> Logs {
        let some = |most| Arc::new(Semaphore::new(most));
        Logs {
            address: address.to_owned(),
            channel: Mutex::default(),
            readers: some(READERS_MAX),
            places: some(LOGS_MAX),
            passes: some(PASSES_MAX),
        }
    }

    /// Serves one reader, until everything is sent or nobody reads any more.
    pub(crate) async fn send<D: Daemon>(&self, membership: &Membership<D>, open: OpenLogs) {
        // A controller keeps to less; what it hears is that nobody calls.
        let Ok(_reader) = Arc::clone(&self.readers).try_acquire_owned() else { return };
        if let Err(error) = self.call(membership, open).await {
            membership.daemon.log(LogLevel::Warn, format!("fleet: logs cannot be sent: {error}"));
        }
    }

    async fn call<D: Daemon>(&self, membership: &Membership<D>, open: OpenLogs) -> Result<(), LinkError> {
        let channel = self.connection(membership).await?;
        let (chunks, sent) = mpsc::channel(SENDING);
        let first = LogChunk { id: open.id.clone(), ..LogChunk::default() };
        if chunks.send(first).await.is_err() {
            return Ok(());
        }
        let answer = HostLogsClient::new(Channel::clone(&channel)).send(ReceiverStream::new(sent)).await;
        // Whoever asked may have gone by now.
        let Ok(answer) = answer else { return Ok(()) };
        let mut credit = answer.into_inner();
        if self.serve(membership, open, &mut credit, &chunks).await.is_some() {
            let _ = chunks.send(LogChunk { done: true, ..LogChunk::default() }).await;
            drop(chunks);
            // The call is ended by who has read all of it.
            let ended = async { while let Ok(Some(_)) = credit.message().await {} };
            let _ = timeout(LAST_WORDS, ended).await;
        }
        Ok(())
    }

    async fn connection<D: Daemon>(&self, membership: &Membership<D>) -> Result<Arc<Channel>, LinkError> {
        let mut open = self.channel.lock().await;
        if let Some(channel) = open.upgrade() {
            return Ok(channel);
        }
        let identity = enrol::load(&membership.section)?;
        let channel = Arc::new(tls::dial(&self.address, tls::client_config(&identity)?).await?);
        *open = Arc::downgrade(&channel);
        Ok(channel)
    }

    /// `None` where nobody reads any more.
    async fn serve<D: Daemon>(
        &self,
        membership: &Membership<D>,
        wanted: OpenLogs,
        credit: &mut Streaming<LogCredit>,
        chunks: &mpsc::Sender<LogChunk>,
    ) -> Option<()> {
        let (mut logs, mut missing, began) = (Vec::new(), Vec::new(), SystemTime::now());
        let grep = match lines::grep(&wanted.grep) {
            Ok(grep) => grep,
            Err(error) => return refuse(chunks, 0, error.to_string()).await,
        };
        for (index, log) in (0..).zip(&wanted.logs) {
            let from = log.after.map_or(Begin::Last(wanted.lines), Begin::After);
            match self.open(membership, log, from, grep.clone()).await {
                Ok(open) => logs.push(Open { index, ..open }),
                Err(NoLog { reason, may_come }) => {
                    if may_come && wanted.follow {
                        missing.push(index);
                    }
                    refuse(chunks, index, reason).await?;
                }
            }
        }
        let (mut room, mut pause, mut looked) = (0_usize, SOONEST, Instant::now());
        while !logs.is_empty() || !missing.is_empty() {
            if looked.elapsed() >= STALLED && !missing.is_empty() {
                looked = Instant::now();
                for index in std::mem::take(&mut missing) {
                    let from = Begin::New(began);
                    match self.open(membership, &wanted.logs[index as usize], from, grep.clone()).await {
                        Ok(open) => logs.push(Open { index, ..open }),
                        Err(_) => missing.push(index),
                    }
                }
            }
            // A part of a line goes whole.
            let usable = if room < LINE_MAX { 0 } else { room };
            let permit = Arc::clone(&self.passes).acquire_owned().await.ok()?;
            let passed = spawn_blocking(move || {
                let _permit = permit;
                pass(logs, usable, wanted.follow)
            });
            let pass = passed.await.ok()?;
            logs = pass.logs;
            room = room.saturating_sub(pass.bytes);
            if !pass.chunks.is_empty() {
                pause = SOONEST;
            }
            for chunk in pass.chunks {
                chunks.send(chunk).await.ok()?;
            }
            if pass.more && usable > 0 {
                while let Some(more) = at_once(credit).await {
                    room = more?.saturating_add(room);
                }
                continue;
            }
            let wait = if usable == 0 { STALLED } else { pause };
            tokio::select! {
                more = next(credit) => room = more?.saturating_add(room),
                () = sleep(wait) => pause = (pause * 2).min(LATEST),
            }
        }
        Some(())
    }

    async fn open<D: Daemon>(
        &self,
        membership: &Membership<D>,
        wanted: &WantedLog,
        from: Begin,
        grep: Option<Regex>,
    ) -> Result<Open, NoLog> {
        let full = || format!("{LOGS_MAX} logs of this host are being read, which is the most there can be");
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| NoLog::from(full()))?;
        let path = path(membership, wanted).await?;
        let opened = spawn_blocking(move || {
            Lines::open(&path, from, grep, D::open_log).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => NoLog { reason: "no log file".to_owned(), may_come: true },
                _ => NoLog::from(format!("cannot read {}: {error}", path.display())),
            })
        });
        let lines = opened.await.map_err(|error| NoLog::from(error.to_string()))??;
        Ok(Open { index: 0, lines, _place: place })
    }
}

async fn path<D: Daemon>(membership: &Membership<D>, wanted: &WantedLog) -> Result<PathBuf, String> {
    let Some(name) = wanted.name.clone() else {
        return membership.daemon.own_log().ok_or_else(|| "supervisord has no log file".to_owned());
    };
    let name = process_name(Some(name)).map_err(|error| error.to_string())?;
    let status = membership.daemon.status(name).await.map_err(|Gone| Gone.to_string())?;
    let status = status.ok_or("no such process")?;
    let (path, channel) =
        if wanted.stderr { (status.stderr_logfile, "stderr") } else { (status.stdout_logfile, "stdout") };
    if path.is_empty() { Err(format!("no log file for {channel}")) } else { Ok(PathBuf::from(path)) }
}

/// Says why there is no such log, or no more of it.
async fn refuse(chunks: &mpsc::Sender<LogChunk>, log: u32, error: String) -> Option<()> {
    chunks.send(failed(log, error)).await.ok()
}

fn failed(log: u32, error: String) -> LogChunk {
    LogChunk {
        log,
        part: Some(LogPart { what: Some(What::Error(error)), place: None }),
        ..LogChunk::default()
    }
}

async fn next(credit: &mut Streaming<LogCredit>) -> Option<usize> {
    let more = credit.message().await.ok()??;
    usize::try_from(more.bytes).ok()
}

/// What has come already; the inner `None` is the end.
async fn at_once(credit: &mut Streaming<LogCredit>) -> Option<Option<usize>> {
    tokio::select! {
        biased;
        more = next(credit) => Some(more),
        () = std::future::ready(()) => None,
    }
}

/// One look at each log that is followed. Of others the first alone, to its end: they come one after the other.
fn pass(mut logs: Vec<Open>, room: usize, follow: bool) -> Pass {
    let (mut chunks, mut bytes, mut more) = (Vec::new(), 0, false);
    let looked_at = if follow { logs.len() } else { 1 };
    let mut ended = Vec::new();
    for log in &mut logs[..looked_at] {
        let left = room.saturating_sub(bytes);
        let mut take = |look: Look| {
            bytes += look.bytes;
            let chunk = |part| LogChunk { log: log.index, part: Some(part), ..LogChunk::default() };
            chunks.extend(look.parts.into_iter().map(chunk));
        };
        match log.lines.look(if left < LINE_MAX { 0 } else { left }) {
            Ok(look) => {
                let at_end = !look.more && left >= LINE_MAX;
                more |= look.more;
                take(look);
                if !follow && at_end {
                    match log.lines.rest() {
                        Ok(rest) => take(rest),
                        Err(error) => chunks.push(failed(log.index, error.to_string())),
                    }
                    ended.push(log.index);
                    more = true;
                }
            }
            Err(error) => {
                chunks.push(failed(log.index, error.to_string()));
                ended.push(log.index);
                more = true;
            }
        }
    }
    logs.retain(|log| !ended.contains(&log.index));
    // Whoever was last is first next time.
    if follow && !logs.is_empty() {
        logs.rotate_left(1);
    }
    Pass { logs, chunks, bytes, more }
}
