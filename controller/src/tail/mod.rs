//! Logs of many hosts for an operator who reads them. The lines never pass through a host's link: it is asked to call,
//! for each reader, over a connection of its own, and sends no more than there is room for here. Where a reader does
//! not take what waits for it, its hosts stop sending to it, and go on from their files when it does: nothing is kept
//! for it, and nobody else waits.
//!
//! - [`calls`]: hosts that were asked to call. [`host`]: one host for one reader. [`reader`]: one reader's hosts.
//!   [`seats`]: how many there may be.

use std::collections::HashMap;
use std::sync::Arc;

use fleetvisor_model::name::ProcessName;
use fleetvisor_proto::convert;
use fleetvisor_proto::fleet::{LogPlace, TailPart, TailRequest, tail_part};
use regex::bytes::RegexBuilder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::access::Operator;
use crate::controller::Controller;
use crate::registry::Host;
use crate::select::{Selection, SelectionError};

mod calls;
mod host;
mod reader;
mod seats;

pub(crate) use calls::{Calls, answer};
use seats::{Seat, Seats};

/// Readers at once, of all operators and of one, and of one host.
const READERS_MAX: usize = 64;
const READERS_OF_ONE_MAX: usize = 16;
const READERS_OF_HOST_MAX: usize = 32;
/// Hosts and logs of one reader.
const HOSTS_MAX: usize = 1000;
const LOGS_MAX: usize = 5000;
/// What may wait for one reader, in bytes of lines, shared by its hosts; and what each of them gets at least and at
/// most.
const READER_BYTES: u64 = 8 << 20;
const HOST_BYTES_MIN: u64 = 16 << 10;
const HOST_BYTES_MAX: u64 = 256 << 10;
/// Parts that wait behind that for the operator's connection.
const WAITING: usize = 4;
const GREP_MAX: usize = 1000;
/// Memory that a regular expression may take, as on the hosts.
const GREP_BYTES_MAX: usize = 1 << 20;

/// A log of a host: of this process, or the daemon's own.
type Key = Option<ProcessName>;
type Places = HashMap<Key, LogPlace>;

#[derive(Debug)]
pub(crate) struct Tails {
    pub(crate) calls: Calls,
    readers: Arc<Semaphore>,
    readers_of: Seats,
    readers_of_host: Seats,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum TailError {
    #[error(transparent)]
    Selection(#[from] SelectionError),
    #[error("the expression for lines cannot be used: {0}")]
    Grep(String),
    #[error(
        "{operator} reads {READERS_OF_ONE_MAX} times already, or the controller has {READERS_MAX} readers"
    )]
    TooManyReaders { operator: String },
    #[error("{count} {what} are too many to read at once (the limit is {limit}); name fewer")]
    TooMuch { what: &'static str, count: usize, limit: usize },
}

impl Default for Tails {
    fn default() -> Tails {
        Tails {
            calls: Calls::default(),
            readers: Arc::new(Semaphore::new(READERS_MAX)),
            readers_of: Seats::new(READERS_OF_ONE_MAX),
            readers_of_host: Seats::new(READERS_OF_HOST_MAX),
        }
    }
}

/// What one reader wants.
struct Reader {
    controller: Arc<Controller>,
    selection: Selection,
    request: TailRequest,
    /// Room for bytes of one host.
    room: u64,
    _seat: (OwnedSemaphorePermit, Seat),
}

impl Reader {
    /// The logs of a host that are wanted, in order.
    fn logs(&self, host: &Host) -> Vec<Key> {
        if !self.selection.includes(&host.name, &host.labels()) {
            return Vec::new();
        }
        if self.request.daemon {
            return if self.selection.wants_all_of(&host.name) { vec![None] } else { Vec::new() };
        }
        let names = host.process_names().into_iter();
        names.filter(|name| self.selection.wants(&host.name, name)).map(Some).collect()
    }
}

/// Begins to read. The parts end with the last of what there is, or never where they are followed; nothing is left
/// behind when the receiver is dropped.
pub(crate) fn read(
    controller: &Arc<Controller>,
    operator: &Operator,
    mut request: TailRequest,
) -> Result<mpsc::Receiver<TailPart>, TailError> {
    let selection =
        Selection::parse(Some(operator.narrow(request.scope.take())), std::mem::take(&mut request.targets))?;
    check_grep(&request.grep)?;
    let tails = &controller.tails;
    let full = || TailError::TooManyReaders { operator: operator.to_string() };
    let seat = Arc::clone(&tails.readers).try_acquire_owned().map_err(|_| full())?;
    let share = tails.readers_of.take(&operator.name).ok_or_else(full)?;
    let after = places(std::mem::take(&mut request.after));

    // From now on, so that no host falls between the two.
    let presence = controller.registry.presence();
    let mut reader =
        Reader { controller: controller.clone(), selection, request, room: 0, _seat: (seat, share) };
    let all = controller.registry.all();
    let unmatched = unmatched(&reader, &all);
    let hosts: Vec<(String, usize)> = all
        .iter()
        .map(|host| (host.name.clone(), reader.logs(host).len()))
        .filter(|(_, logs)| *logs > 0)
        .collect();
    too_much("hosts", hosts.len(), HOSTS_MAX)?;
    too_much("logs", hosts.iter().map(|(_, logs)| logs).sum(), LOGS_MAX)?;
    let hosts: Vec<String> = hosts.into_iter().map(|(name, _)| name).collect();
    reader.room = (READER_BYTES / hosts.len().max(1) as u64).clamp(HOST_BYTES_MIN, HOST_BYTES_MAX);

    let (parts, receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        for target in unmatched {
            let part = TailPart { what: Some(tail_part::What::Unmatched(target)), ..TailPart::default() };
            if parts.send(part).await.is_err() {
                return;
            }
        }
        if !reader.request.follow {
            reader::once(Arc::new(reader), hosts, &parts).await;
        } else if !hosts.is_empty() {
            reader::follow(Arc::new(reader), hosts, after, presence, &parts).await;
        }
    });
    Ok(receiver)
}

fn check_grep(pattern: &str) -> Result<(), TailError> {
    if pattern.len() > GREP_MAX {
        return Err(TailError::Grep(format!("it has {} bytes, {GREP_MAX} is the limit", pattern.len())));
    }
    let built = RegexBuilder::new(pattern).size_limit(GREP_BYTES_MAX).dfa_size_limit(GREP_BYTES_MAX).build();
    built.map(drop).map_err(|error| TailError::Grep(error.to_string()))
}

fn too_much(what: &'static str, count: usize, limit: usize) -> Result<(), TailError> {
    if count > limit { Err(TailError::TooMuch { what, count, limit }) } else { Ok(()) }
}

/// Places that make no sense are left out: those logs begin with their last lines.
fn places(after: Vec<fleetvisor_proto::fleet::TailPlace>) -> HashMap<String, Places> {
    let mut places: HashMap<String, Places> = HashMap::new();
    for tail in after {
        let key = match tail.name {
            None => Some(None),
            name => convert::process_name(name).ok().map(Some),
        };
        if let (Some(key), Some(place)) = (key, tail.place) {
            places.entry(tail.host).or_default().insert(key, place);
        }
    }
    places
}

/// Targets that mean no log of any host.
fn unmatched(reader: &Reader, hosts: &[Arc<Host>]) -> Vec<fleetvisor_proto::fleet::Target> {
    let included: Vec<_> =
        hosts.iter().filter(|host| reader.selection.includes(&host.name, &host.labels())).collect();
    let daemon = reader.request.daemon;
    let targets = reader.selection.targets().iter().filter(|target| {
        !included.iter().any(|host| {
            target.host_matches(&host.name)
                && (daemon || host.process_names().iter().any(|name| target.wants(&host.name, name)))
        })
    });
    targets.map(|target| target.typed().clone()).collect()
}
