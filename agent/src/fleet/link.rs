//! One link from Hello to its loss: what changes on the host goes up, commands and wishes come down. A
//! command never holds up the link; the controller's silence ends it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use fleetvisor_core::request::{Processes, Verb};
use fleetvisor_model::config::LogLevel;
use fleetvisor_model::name::ProcessName;
use fleetvisor_proto::convert::reported;
use fleetvisor_proto::fleet::hosts_client::HostsClient;
use fleetvisor_proto::fleet::{
    Delta, DesiredState, FromHost, Heartbeat, Hello, Observed, Report, ToHost, from_host, to_host,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::backoff::Backoff;
use super::command::{carry_out, say};
use super::{LinkError, Membership};
use crate::clock;
use crate::inbox::{Message, Watched};

/// How long the controller may take to answer a Hello.
const WELCOME: Duration = Duration::from_secs(15);
/// Changes that come together go up together.
const GATHER: Duration = Duration::from_millis(5);
/// Messages that may wait to go up.
const OUTGOING: usize = 1024;

pub(super) async fn serve(
    membership: &Arc<Membership>,
    address: &str,
    channel: Channel,
    backoff: &mut Backoff,
) -> Result<Infallible, LinkError> {
    // Watched before it is read: no change falls between the two.
    let (changes, mut changed) = mpsc::unbounded_channel();
    membership.handle.send(Message::Watch { changes })?;
    let (up, going_up) = mpsc::channel(OUTGOING);
    let hello = Hello {
        version: fleetvisor_proto::VERSION.to_owned(),
        boot_id: membership.boot_id.clone(),
        labels: membership.labels().into_iter().collect(),
        observed_revision: membership.wishes.lock().await.observed(),
        report: Some(membership.report(1).await?),
    };
    say(&up, from_host::Message::Hello(hello)).await;
    let mut hosts = HostsClient::new(channel);
    let answer = tokio::time::timeout(WELCOME, hosts.link(ReceiverStream::new(going_up)))
        .await
        .map_err(|_| LinkError::Silent(WELCOME))?;
    let mut down = answer.map_err(|status| LinkError::Refused(Box::new(status)))?.into_inner();

    let mut seq = 1;
    let mut heartbeat = tokio::time::interval(WELCOME);
    loop {
        tokio::select! {
            message = down.message() => {
                let message = message.map_err(|status| LinkError::Refused(Box::new(status)))?;
                let Some(ToHost { message: Some(message) }) = message else {
                    return Err(LinkError::Closed);
                };
                match message {
                    to_host::Message::Welcome(welcome) => {
                        let every = Duration::from_secs(u64::from(welcome.heartbeat_seconds.clamp(1, 60)));
                        heartbeat = tokio::time::interval(every);
                        backoff.linked();
                        let line = format!("fleet: linked to {address} as host {}", membership.section.host);
                        membership.logs.line(LogLevel::Info, line);
                    }
                    to_host::Message::Farewell(farewell) => {
                        let retry_after = Duration::from_secs(u64::from(farewell.retry_after_seconds));
                        return Err(LinkError::Farewell { reason: farewell.reason, retry_after });
                    }
                    to_host::Message::Command(command) => {
                        let (membership, up) = (Arc::clone(membership), up.clone());
                        tokio::spawn(async move {
                            let line = match carry_out(&membership, command, &up).await {
                                Ok(()) => return,
                                Err(error) => format!("fleet: a command was not carried out: {error}"),
                            };
                            membership.logs.line(LogLevel::Error, line);
                        });
                    }
                    to_host::Message::Desired(desired) => membership.converge(&desired, &up).await?,
                    to_host::Message::ReportRequest(_) => {
                        seq += 1;
                        let report = membership.report(seq).await?;
                        say(&up, from_host::Message::Report(report)).await;
                    }
                }
            }
            first = changed.recv() => {
                let first = first.ok_or(LinkError::Gone(crate::inbox::Gone))?;
                tokio::time::sleep(GATHER).await;
                seq += 1;
                let delta = delta(seq, first, &mut changed);
                say(&up, from_host::Message::Delta(delta)).await;
            }
            _ = heartbeat.tick() => {
                say(&up, from_host::Message::Heartbeat(Heartbeat {})).await;
            }
        }
    }
}

/// The latest of each process among what has gathered.
fn delta(seq: u64, first: Watched, changed: &mut mpsc::UnboundedReceiver<Watched>) -> Delta {
    let mut latest: BTreeMap<ProcessName, Option<fleetvisor_proto::fleet::ProcessStatus>> = BTreeMap::new();
    let mut next = Some(first);
    while let Some(watched) = next {
        match watched {
            Watched::Changed(status) => {
                latest.insert(status.name.clone(), Some(reported(&status, clock::local)));
            }
            Watched::Removed(name) => {
                latest.insert(name, None);
            }
        }
        next = changed.try_recv().ok();
    }
    let mut delta = Delta { seq, changed: Vec::new(), removed: Vec::new() };
    for (name, status) in latest {
        match status {
            Some(status) => delta.changed.push(status),
            None => delta.removed.push((&name).into()),
        }
    }
    delta
}

impl Membership {
    async fn report(&self, seq: u64) -> Result<Report, LinkError> {
        let statuses = self.handle.statuses().await?;
        let processes = statuses.iter().map(|status| reported(status, clock::local)).collect();
        Ok(Report { seq, processes })
    }

    /// Keeps wishes on this host and says so; gives those that are new.
    pub(super) async fn remember(
        &self,
        desired: &DesiredState,
        up: &mpsc::Sender<FromHost>,
    ) -> Result<BTreeMap<ProcessName, bool>, LinkError> {
        let mut wishes = self.wishes.lock().await;
        let fresh = wishes.take_in(desired)?;
        self.handle.send(Message::Wishes { wishes: fresh.clone() })?;
        say(up, from_host::Message::Observed(Observed { revision: wishes.observed() })).await;
        Ok(fresh)
    }

    /// Starts and stops what was wished for while this host was away.
    async fn converge(&self, desired: &DesiredState, up: &mpsc::Sender<FromHost>) -> Result<(), LinkError> {
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
            self.logs.line(LogLevel::Info, line);
            // Nobody waits for the outcomes: the states that follow are reported.
            drop(self.handle.verb(verb, Processes::Named(names))?);
        }
        Ok(())
    }
}
