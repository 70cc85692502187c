//! One link from Hello to its loss: what changes on the host goes up, commands and wishes come down. Neither a
//! command nor a slow disk nor a slow controller holds up the link; the controller's silence ends it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use fleetvisor_core::request::{Processes, Verb};
use fleetvisor_model::config::LogLevel;
use fleetvisor_model::name::ProcessName;
use fleetvisor_model::status::ProcessStatus;
use fleetvisor_proto::convert::reported;
use fleetvisor_proto::fleet::hosts_client::HostsClient;
use fleetvisor_proto::fleet::{
    Delta, DesiredState, FromHost, Heartbeat, Hello, Observed, Report, ToHost, from_host, to_host,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::command::{carry_out, say};
use crate::config;
use crate::daemon::{Daemon, Gone, Watched};
use crate::logs::Logs;
use crate::membership::{LinkError, Membership};

/// How long the controller may take to answer a Hello.
const WELCOME: Duration = Duration::from_secs(15);
/// Changes that come together go up together.
const GATHER: Duration = Duration::from_millis(5);
/// Messages that may wait to go up.
const OUTGOING: usize = 1024;
/// Largest message that is taken from a controller, in bytes.
const INCOMING_BYTES: usize = 8 << 20;

/// What has changed and is not yet on its way: the latest of each process, `None` for one that is gone. However
/// slowly the controller takes it, this is no longer than the list of processes.
type Pending = BTreeMap<ProcessName, Option<Arc<ProcessStatus>>>;

/// Sets `linked` once the controller has bidden welcome, and `renew_in` to how long it gives the certificate.
pub(crate) async fn serve<D: Daemon>(
    membership: &Arc<Membership<D>>,
    address: &str,
    channel: Channel,
    linked: &mut bool,
    renew_in: &watch::Sender<Option<Duration>>,
) -> Result<Infallible, LinkError> {
    // Watched before it is read: no change falls between the two.
    let mut changed = membership.daemon.watch()?;
    let (up, going_up) = mpsc::channel(OUTGOING);
    let hello = Hello {
        version: fleetvisor_proto::VERSION.to_owned(),
        boot_id: membership.boot_id.clone(),
        labels: membership.labels().into_iter().collect(),
        observed_revision: membership.wishes.lock().await.observed(),
        report: Some(membership.report(1).await?),
        config_state: Some(membership.given.state().await),
        enforces: membership.section.enforce,
    };
    say(&up, from_host::Message::Hello(hello)).await;
    let welcome_by = Instant::now() + WELCOME;
    let fetching = channel.clone();
    let mut hosts = HostsClient::new(channel).max_decoding_message_size(INCOMING_BYTES);
    let answer = timeout(WELCOME, hosts.link(ReceiverStream::new(going_up)))
        .await
        .map_err(|_| LinkError::Silent(WELCOME))?;
    let mut down = answer.map_err(|status| LinkError::Refused(Box::new(status)))?.into_inner();

    let (failed, mut failure) = mpsc::channel(1);
    let mut seq = 1;
    let mut pending = Pending::new();
    // The last event that was said on this link, once the controller has told what it has.
    let (mut unsaid, mut events_due): (Option<u64>, bool) = (None, false);
    let (logs, mut readers) = (Arc::new(Logs::new(address)), JoinSet::new());
    let mut gathered = Instant::now();
    let mut every = WELCOME;
    let mut said = Instant::now();
    loop {
        tokio::select! {
            message = down.message() => {
                let message = message.map_err(|status| LinkError::Broken(Box::new(status)))?;
                let Some(ToHost { message }) = message else { return Err(LinkError::Closed) };
                match message {
                    Some(to_host::Message::Welcome(welcome)) => {
                        every = Duration::from_secs(u64::from(welcome.heartbeat_seconds.clamp(1, 60)));
                        *linked = true;
                        renew_in.send_replace(welcome.renew_in_seconds.map(Duration::from_secs));
                        unsaid = Some(membership.events.resume(welcome.events_until));
                        let line = format!("fleet: linked to {address} as host {}", membership.section.host);
                        membership.daemon.log(LogLevel::Info, line);
                    }
                    Some(to_host::Message::Farewell(farewell)) => {
                        let retry_after = Duration::from_secs(u64::from(farewell.retry_after_seconds));
                        return Err(LinkError::Farewell { reason: farewell.reason, retry_after });
                    }
                    Some(to_host::Message::Command(command)) => {
                        let (membership, up) = (Arc::clone(membership), up.clone());
                        tokio::spawn(async move {
                            if let Err(error) = carry_out(&membership, command, &up).await {
                                let line = format!("fleet: a command was not carried out: {error}");
                                membership.daemon.log(LogLevel::Error, line);
                            }
                        });
                    }
                    Some(to_host::Message::Desired(desired)) => {
                        let (membership, up, failed) = (Arc::clone(membership), up.clone(), failed.clone());
                        tokio::spawn(async move {
                            if let Err(error) = membership.converge(desired, &up).await {
                                // The first that failed ends the link, and everything is told anew.
                                let _ = failed.try_send(error);
                            }
                        });
                    }
                    Some(to_host::Message::Assignment(assignment)) => {
                        let turn = membership.given.turn();
                        let (membership, up, failed) = (Arc::clone(membership), up.clone(), failed.clone());
                        let channel = fetching.clone();
                        tokio::spawn(async move {
                            if let Err(error) = config::take_on(&membership, assignment, turn, channel, &up).await {
                                let _ = failed.try_send(error);
                            }
                        });
                    }
                    Some(to_host::Message::LocalConfigRequest(request)) => {
                        let (membership, up) = (Arc::clone(membership), up.clone());
                        tokio::spawn(async move { config::tell_own(&membership, request.id, &up).await });
                    }
                    Some(to_host::Message::OpenLogs(open)) => {
                        let (membership, logs) = (Arc::clone(membership), Arc::clone(&logs));
                        readers.spawn(async move { logs.send(&membership, open).await });
                    }
                    Some(to_host::Message::ReportRequest(_)) => {
                        seq += 1;
                        let report = membership.report(seq).await?;
                        say(&up, from_host::Message::Report(report)).await;
                        said = Instant::now();
                    }
                    // A kind of message that only newer agents know.
                    None => {}
                }
            }
            Some(_) = readers.join_next() => {}
            error = failure.recv() => {
                if let Some(error) = error {
                    return Err(error);
                }
            }
            watched = changed.recv() => {
                if pending.is_empty() && unsaid.is_none() {
                    gathered = Instant::now() + GATHER;
                }
                gather(watched.ok_or(Gone)?, &mut pending);
                while let Ok(watched) = changed.try_recv() {
                    gather(watched, &mut pending);
                }
            }
            () = membership.events.after(unsaid), if unsaid.is_some() && !events_due => {
                events_due = true;
            }
            room = room(&up, gathered), if events_due => {
                let room = room.ok_or(LinkError::Closed)?;
                events_due = false;
                if let Some((events, last)) = membership.events.take(unsaid) {
                    unsaid = Some(last);
                    room.send(FromHost { message: Some(from_host::Message::Events(events)) });
                    said = Instant::now();
                }
            }
            room = room(&up, gathered), if !pending.is_empty() => {
                let room = room.ok_or(LinkError::Closed)?;
                seq += 1;
                let delta = membership.delta(seq, std::mem::take(&mut pending));
                room.send(FromHost { message: Some(from_host::Message::Delta(delta)) });
                said = Instant::now();
            }
            () = sleep_until(said + every) => {
                // Where there is no room, something else is on its way.
                let _ = up.try_send(FromHost { message: Some(from_host::Message::Heartbeat(Heartbeat {})) });
                said = Instant::now();
            }
            () = sleep_until(welcome_by), if !*linked => return Err(LinkError::Silent(WELCOME)),
        }
    }
}

/// A place in the queue, not before `from`; `None` once nobody takes from it any more.
async fn room(up: &mpsc::Sender<FromHost>, from: Instant) -> Option<mpsc::Permit<'_, FromHost>> {
    sleep_until(from).await;
    up.reserve().await.ok()
}

fn gather(watched: Watched, pending: &mut Pending) {
    let (name, latest) = match watched {
        Watched::Changed(status) => (status.name.clone(), Some(status)),
        Watched::Removed(name) => (name, None),
        // Told by the events of this host, which outlive a link.
        Watched::Happened(_) => return,
    };
    pending.insert(name, latest);
}

impl<D: Daemon> Membership<D> {
    fn delta(&self, seq: u64, pending: Pending) -> Delta {
        let mut delta = Delta { seq, changed: Vec::new(), removed: Vec::new() };
        for (name, status) in pending {
            match status {
                Some(status) => delta.changed.push(reported(&status, |time| self.daemon.local(time))),
                None => delta.removed.push((&name).into()),
            }
        }
        delta
    }

    async fn report(&self, seq: u64) -> Result<Report, LinkError> {
        let statuses = self.daemon.statuses().await?;
        let wire = |status| reported(status, |time| self.daemon.local(time));
        Ok(Report { seq, processes: statuses.iter().map(wire).collect() })
    }

    /// Keeps wishes on this host and says so; gives those that are new.
    pub(crate) async fn remember(
        &self,
        desired: DesiredState,
        up: &mpsc::Sender<FromHost>,
    ) -> Result<BTreeMap<ProcessName, bool>, LinkError> {
        // Held to the end: wishes are acted on in the order in which they are kept.
        let mut wishes = Arc::clone(&self.wishes).lock_owned().await;
        // Off this thread, which does more than wait for a disk.
        let kept = tokio::task::spawn_blocking(move || {
            let fresh = wishes.take_in(&desired);
            (wishes, fresh)
        });
        let (wishes, fresh) = kept.await.map_err(|_| Gone)?;
        let fresh = fresh?;
        self.daemon.wish(fresh.clone())?;
        say(up, from_host::Message::Observed(Observed { revision: wishes.observed() })).await;
        Ok(fresh)
    }

    /// Starts and stops what was wished for while this host was away.
    async fn converge(&self, desired: DesiredState, up: &mpsc::Sender<FromHost>) -> Result<(), LinkError> {
        let fresh = self.remember(desired, up).await?;
        for (wanted, verb) in [(false, Verb::Stop { wait: false }), (true, Verb::Start { wait: false })] {
            let names: Vec<ProcessName> =
                fresh.iter().filter(|(_, run)| **run == wanted).map(|(name, _)| name.clone()).collect();
            if names.is_empty() {
                continue;
            }
            let shown: Vec<String> = names.iter().map(ToString::to_string).collect();
            let verb_shown = if wanted { "start" } else { "stop" };
            let line = format!("fleet: catching up: {verb_shown} {}", shown.join(" "));
            self.daemon.log(LogLevel::Info, line);
            let _asked = self.events.asked(&names, "the fleet, while this host was away");
            // The states that follow are reported; the outcomes only tell when it is over.
            let mut outcomes = self.daemon.verb(verb, Processes::Named(names))?;
            while outcomes.recv().await.is_some() {}
        }
        Ok(())
    }
}
