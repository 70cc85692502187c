//! The link with one host, from its Hello to its end. Owns what a host may say when, the reports' sequence, the
//! limit of silence, and telling the host what is desired. Commands are given by [`crate::operations`]; their
//! answers pass through here.
//!
//! ```text
//!   Hello ----> linked ----> away
//!     |  attach    |   silence, end of the stream, a broken rule, a reason to end
//!     '-> refused  '-- Report, Delta, Progress, CommandDone, Observed, Heartbeat
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fleetvisor_proto::fleet::{
    Delta, Farewell, FromHost, Hello, Report, ReportRequest, ToHost, Welcome, from_host, to_host,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Status, Streaming};

use crate::audit::{Entry, Outcome};
use crate::bundles;
use crate::clock;
use crate::connection::Peer;
use crate::controller::Controller;
use crate::desired;
use crate::pace::Pace;
use crate::reconcile::{Plan, reconcile};
use crate::registry::host::{Answer, Arrival, End};
use crate::registry::{Host, inventory};
use crate::report::{self, PROCESSES_MAX, ReportError};

const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
const HEARTBEAT_SECONDS: u32 = 5;
/// Almost three heartbeats: a host that vanished is seen to be away within 15 seconds.
const SILENCE_MAX: Duration = Duration::from_secs(14);
/// What one host may say: for each message 1, and for each [`STATUSES_A_MESSAGE`] statuses in it another 1. A
/// restart of all that a host can have fits into the burst; one that says more is listened to more slowly, and
/// gathers meanwhile.
const MESSAGES_PER_SECOND: u32 = 500;
const MESSAGES_BURST: u32 = 20_000;
const STATUSES_A_MESSAGE: f64 = 8.0;
/// Messages that wait for one host at most.
pub(crate) const OUTGOING_MAX: usize = 64;
/// A host whose set of processes changes all the time is stored this often at most.
const STORE_PAUSE: Duration = Duration::from_secs(5);
const RETRY_REFUSED: u32 = 15;
const RETRY_BROKEN: u32 = 30;
const RETRY_TOO_OFTEN: u32 = 5;

/// A link under way.
struct Link<'a> {
    controller: &'a Controller,
    host: Arc<Host>,
    boot_id: String,
    seq: u64,
    /// A full report is on its way; until then what changed cannot be placed.
    awaiting_report: bool,
    store_at: Option<Instant>,
    stored_at: Instant,
    pace: Pace,
}

/// Why a link ends.
#[derive(Debug)]
enum Ending {
    /// The host closed it, or it broke.
    Gone(String),
    Silent,
    /// The host said what it may not say.
    Broken(String),
    /// Somebody asked for its end.
    Asked(String),
    /// The controller stops; hosts may spread their return over this many seconds.
    Stopping(u32),
}

/// Runs the link of `name` until it ends.
pub(crate) async fn run(
    controller: Arc<Controller>,
    name: String,
    peer: Peer,
    mut incoming: Streaming<FromHost>,
    outgoing: mpsc::Sender<ToHost>,
) {
    let address = peer.address;
    let hello = match timeout(HELLO_TIMEOUT, hello(&mut incoming)).await {
        Ok(Ok(hello)) => hello,
        Ok(Err(reason)) => return farewell(&outgoing, &reason, RETRY_BROKEN).await,
        Err(_) => return farewell(&outgoing, "no Hello within 10 seconds", RETRY_BROKEN).await,
    };
    let config_state = hello.config_state.clone();
    let (arrival, seq) = match arrival(hello, address, outgoing.clone()) {
        Ok(arrived) => arrived,
        Err(error) => {
            tracing::warn!("host {name} at {address}: its Hello is refused: {error}");
            return farewell(&outgoing, &error.to_string(), RETRY_BROKEN).await;
        }
    };
    let host = controller.registry.host(&name);
    if let Err(wait) = host.admit() {
        tracing::debug!("host {name} at {address} links too often");
        let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(RETRY_TOO_OFTEN);
        return farewell(&outgoing, "this host links too often", seconds).await;
    }
    let id = controller.registry.next_link();

    let lane = host.lane.lock().await;
    let boot_id = arrival.boot_id.clone();
    let end = match host.attach(id, arrival) {
        Ok(end) => end,
        Err(taken) => {
            if taken.news {
                tracing::warn!("{}", taken.reason);
                let entry = Entry::new(format!("host {name}"), "host.link", &name).host(&name).from(address);
                controller.audit.note(entry.outcome(Outcome::Refused).detail(&taken.reason)).await;
            }
            return farewell(&outgoing, &taken.reason, RETRY_REFUSED).await;
        }
    };
    tracing::info!("host {name} is linked from {address}");
    controller.events.online(&name);
    let welcome = Welcome {
        heartbeat_seconds: HEARTBEAT_SECONDS,
        events_until: controller.events.until(&name, &boot_id),
        renew_in_seconds: peer.certificate.map(|certificate| certificate.renew_in(clock::now()).as_secs()),
    };
    // The queue is empty: a message that finds no room tells of a link that is already gone.
    let _ = host.send(to_host::Message::Welcome(welcome));
    tell(&controller, &host).await;
    drop(lane);
    host.told.linked(config_state);
    bundles::told::tell(&controller, &host);
    inventory::store(&*controller.store, &host).await;

    let mut link = Link {
        controller: &controller,
        host: host.clone(),
        boot_id,
        seq,
        awaiting_report: false,
        store_at: None,
        stored_at: Instant::now(),
        pace: Pace::new(MESSAGES_PER_SECOND, MESSAGES_BURST, Instant::now()),
    };
    let ending = link.receive_all(&mut incoming, &end).await;
    link.end(id, ending, &outgoing).await;
}

impl Link<'_> {
    async fn receive_all(&mut self, incoming: &mut Streaming<FromHost>, end: &End) -> Ending {
        let mut stopping = self.controller.stopping.clone();
        let host = self.host.clone();
        // How long it has been silent, and until when it is not listened to, because it has said so much.
        let (mut heard, mut listen) = (Instant::now(), Instant::now());
        loop {
            tokio::select! {
                // In this order: a host whose words have not been taken yet is not silent.
                biased;
                reason = end.requested() => return Ending::Asked(reason),
                spread = stop(&mut stopping) => return Ending::Stopping(spread),
                message = next(incoming, listen) => match message {
                    Ok(Some(FromHost { message })) => {
                        self.host.heard();
                        heard = Instant::now();
                        let wait = self.pace.take(message.as_ref().map_or(1.0, cost), heard);
                        listen = heard + wait;
                        // A kind of message that only newer hosts know is still a sign of life.
                        if let Some(message) = message
                            && let Err(reason) = self.receive(message).await
                        {
                            return Ending::Broken(reason);
                        }
                    }
                    Ok(None) => return Ending::Gone("it closed the link".to_owned()),
                    Err(status) => return Ending::Gone(status.message().to_owned()),
                },
                () = sleep_until(heard.max(listen) + SILENCE_MAX) => return Ending::Silent,
                () = host.news.notified() => {}
                () = sleep_until(self.store_at.unwrap_or(self.stored_at)), if self.store_at.is_some() => {
                    self.store_inventory().await;
                }
            }
            if self.host.told.has_news() {
                bundles::told::tell(self.controller, &self.host);
            }
            if self.host.has_news()
                && let Ok(_lane) = self.host.lane.try_lock()
            {
                tell(self.controller, &self.host).await;
            }
        }
    }

    /// Takes one message; an error is a reason to end the link.
    async fn receive(&mut self, message: from_host::Message) -> Result<(), String> {
        match message {
            from_host::Message::Hello(_) => return Err("a second Hello".to_owned()),
            from_host::Message::Report(report) => self.report(report).map_err(|err| err.to_string())?,
            from_host::Message::Delta(delta) => self.delta(delta).map_err(|err| err.to_string())?,
            from_host::Message::Progress(progress) => {
                let id = progress.id.clone();
                self.host.answer(&id, Answer::Progress(progress));
            }
            from_host::Message::CommandDone(done) => {
                let id = done.id.clone();
                self.host.answer(&id, Answer::Done(done));
            }
            from_host::Message::Observed(observed) => self.host.set_observed(observed.revision),
            from_host::Message::ConfigState(state) => self.host.told.reported(state),
            from_host::Message::LocalConfig(local) => self.host.told.local(local),
            from_host::Message::Heartbeat(_) => {}
            from_host::Message::Events(told) => {
                let events = &self.controller.events;
                events.heard(&self.host.name, &self.boot_id, told).map_err(|err| err.to_string())?;
            }
        }
        if self.store_at.is_some_and(|at| at <= Instant::now()) {
            self.store_inventory().await;
        }
        Ok(())
    }

    fn report(&mut self, report: Report) -> Result<(), ReportError> {
        self.host.report(report::processes(report.processes)?);
        self.seq = report.seq;
        self.awaiting_report = false;
        self.set_changed();
        Ok(())
    }

    fn delta(&mut self, delta: Delta) -> Result<(), ReportError> {
        if self.awaiting_report {
            return Ok(());
        }
        if delta.seq != self.seq.wrapping_add(1) {
            tracing::debug!("host {}: change {} after {}", self.host.name, delta.seq, self.seq);
            self.awaiting_report = true;
            // If it cannot be sent the link is at its end anyway.
            let _ = self.host.send(to_host::Message::ReportRequest(ReportRequest {}));
            return Ok(());
        }
        self.seq = delta.seq;
        let changed = self.host.change(report::processes(delta.changed)?, &report::names(delta.removed)?);
        if changed.total > PROCESSES_MAX {
            return Err(ReportError::TooMany(changed.total));
        }
        if changed.names {
            self.set_changed();
        }
        Ok(())
    }

    /// The set of processes may have changed: stored at once, or as soon as it is its turn again.
    fn set_changed(&mut self) {
        self.store_at.get_or_insert(self.stored_at + STORE_PAUSE);
    }

    async fn store_inventory(&mut self) {
        inventory::store(&*self.controller.store, &self.host).await;
        self.store_at = None;
        self.stored_at = Instant::now();
    }

    async fn end(&self, id: u64, ending: Ending, outgoing: &mpsc::Sender<ToHost>) {
        let name = &self.host.name;
        let detached = self.host.detach(id);
        match &ending {
            Ending::Gone(reason) => tracing::info!("host {name} is away: {reason}"),
            Ending::Silent => {
                let seconds = SILENCE_MAX.as_secs();
                tracing::warn!("host {name} is away: it has said nothing for {seconds} seconds");
                farewell(outgoing, &format!("nothing was heard for {seconds} seconds"), 1).await;
            }
            Ending::Broken(reason) => {
                tracing::warn!("host {name}: its link is ended: {reason}");
                farewell(outgoing, reason, RETRY_BROKEN).await;
            }
            Ending::Asked(reason) => {
                tracing::info!("host {name}: its link is ended: {reason}");
                farewell(outgoing, reason, 1).await;
            }
            Ending::Stopping(spread) => {
                return farewell(outgoing, "the controller is stopping", 1 + random_below(*spread)).await;
            }
        }
        if detached {
            self.controller.events.away(name);
            inventory::store(&*self.controller.store, &self.host).await;
        }
    }
}

/// The next message, not taken before `from`.
async fn next(incoming: &mut Streaming<FromHost>, from: Instant) -> Result<Option<FromHost>, Status> {
    if from > Instant::now() {
        sleep_until(from).await;
    }
    incoming.message().await
}

fn cost(message: &from_host::Message) -> f64 {
    let statuses = match message {
        from_host::Message::Report(report) => report.processes.len(),
        from_host::Message::Delta(delta) => delta.changed.len() + delta.removed.len(),
        from_host::Message::Events(told) => told.events.len(),
        from_host::Message::Progress(progress) => progress.results.len(),
        _ => 0,
    };
    1.0 + statuses as f64 / STATUSES_A_MESSAGE
}

async fn hello(incoming: &mut Streaming<FromHost>) -> Result<Hello, String> {
    match incoming.message().await {
        Ok(Some(FromHost { message: Some(from_host::Message::Hello(hello)) })) => Ok(hello),
        Ok(Some(_)) => Err("the first message of a link is Hello".to_owned()),
        Ok(None) => Err("the link was closed before its Hello".to_owned()),
        Err(status) => Err(status.message().to_owned()),
    }
}

fn arrival(
    hello: Hello,
    address: SocketAddr,
    outgoing: mpsc::Sender<ToHost>,
) -> Result<(Arrival, u64), ReportError> {
    let report = hello.report.unwrap_or_default();
    let arrival = Arrival {
        boot_id: report::short(hello.boot_id, "boot id")?,
        version: report::short(hello.version, "version")?,
        labels: report::labels(hello.labels)?,
        observed_revision: hello.observed_revision,
        enforces: hello.enforces,
        address,
        processes: report::processes(report.processes)?,
        outgoing,
    };
    Ok((arrival, report.seq))
}

/// Sends what [`reconcile`] says the host should hear. The caller holds the lane.
async fn tell(controller: &Controller, host: &Arc<Host>) {
    let (desired, store_revision) = match desired::read(&*controller.store, &host.name).await {
        Ok(read) => read,
        Err(error) => {
            tracing::error!("host {}: cannot read what is desired: {error}", host.name);
            return host.end_link("what is desired of it cannot be read");
        }
    };
    let Some(observed) = host.observed() else { return };
    if observed.carried_out > store_revision {
        tracing::error!(
            "host {} has carried out revision {}, which this store has not reached: is it an old backup? \
             The host will ignore what is asked of it until the store has passed that revision",
            host.name,
            observed.carried_out
        );
    }
    match reconcile(&desired, observed) {
        Plan::Tell { complete, revision, wishes } => {
            for wish in wishes.iter().filter(|wish| wish.revision > observed.carried_out) {
                tracing::info!("host {} is told to {wish}", host.name);
            }
            let message = to_host::Message::Desired(desired::message(complete, revision, &wishes));
            // Without a link there is nobody to tell; the next one begins with everything.
            let _ = host.tell(message, revision);
        }
        Plan::Wait { .. } | Plan::Settled => {}
    }
}

async fn farewell(outgoing: &mpsc::Sender<ToHost>, reason: &str, retry_after_seconds: u32) {
    let farewell = Farewell { reason: reason.to_owned(), retry_after_seconds };
    let message = ToHost { message: Some(to_host::Message::Farewell(farewell)) };
    // A host that takes nothing gets none: nobody waits for it here.
    let _ = outgoing.try_send(message);
}

/// Completes when the controller stops, with the seconds over which hosts may spread their return.
async fn stop(stopping: &mut watch::Receiver<Option<u32>>) -> u32 {
    let spread = stopping.wait_for(Option::is_some).await.map(|spread| spread.unwrap_or_default());
    match spread {
        Ok(spread) => spread,
        Err(_) => std::future::pending().await,
    }
}

/// At random from 0 to `limit - 1`, 0 for no limit.
fn random_below(limit: u32) -> u32 {
    let random = getrandom::u32().unwrap_or_default();
    random.checked_rem(limit).unwrap_or_default()
}
