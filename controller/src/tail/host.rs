//! One host for one reader: asks it to call, takes what it sends, and passes that on as the reader takes it. Where a
//! call breaks it is made again after the last place that was passed on, so nothing is missed or said twice.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fleetvisor_proto::fleet::log_part::What;
use fleetvisor_proto::fleet::{
    LogChunk, LogCredit, LogPart, OpenLogs, TailPart, WantedLog, tail_part, to_host,
};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until};

use super::calls::Call;
use super::seats::Seat;
use super::{Key, Places, Reader};
use crate::registry::Host;

/// Within which a host that was asked calls.
const CALL: Duration = Duration::from_secs(15);
/// Before a call that broke is made again.
const AGAIN: Duration = Duration::from_secs(1);
/// Before a host that did not call is asked again.
const LATER: Duration = Duration::from_secs(10);
/// Parts of one host that may wait: they may be small.
const PARTS_MAX: usize = 1024;

pub(super) struct HostTail {
    reader: Arc<Reader>,
    name: String,
    places: Places,
    parts: mpsc::Sender<TailPart>,
    woken: Arc<Notify>,
    /// What was said of logs that there are none of.
    errors: HashMap<Key, String>,
}

/// Why a call has ended.
#[derive(Debug)]
enum Ended {
    /// Everything was sent.
    Done,
    /// Nobody reads any more.
    Unread,
    /// The host's link is lost, or another one.
    Gone,
    /// It has other processes by now, or may not be seen any more.
    Changed,
    Broken(String),
}

impl HostTail {
    pub(super) fn new(
        reader: Arc<Reader>,
        name: String,
        places: Places,
        parts: mpsc::Sender<TailPart>,
    ) -> HostTail {
        HostTail { reader, name, places, parts, woken: Arc::default(), errors: HashMap::new() }
    }

    /// To be notified whenever something about the host has changed.
    pub(super) fn woken(&self) -> Arc<Notify> {
        self.woken.clone()
    }

    /// Gives the host's name back at the end.
    pub(super) async fn run(mut self) -> String {
        let follow = self.reader.request.follow;
        let (mut absent, mut said) = (false, String::new());
        // Until it is forgotten, or concerns the reader no more.
        while let Some(host) = self.reader.controller.registry.known(&self.name) {
            let logs = self.reader.logs(&host);
            if logs.is_empty() {
                break;
            }
            let Some(link) = host.link() else {
                if !absent && !self.say(None, tail_part::What::Away(host.describe())).await {
                    break;
                }
                absent = true;
                if !follow {
                    break;
                }
                self.woken.notified().await;
                continue;
            };
            let ended = match self.call(&host, link, &logs).await {
                Ok((call, _share)) => {
                    said.clear();
                    if std::mem::take(&mut absent) && !self.say(None, tail_part::What::Back(true)).await {
                        break;
                    }
                    self.pass_on(call, &host, link, &logs).await
                }
                Err(ended) => ended,
            };
            match ended {
                Ended::Done | Ended::Unread => break,
                // A moment for a host that only links anew.
                Ended::Gone if follow => self.settle().await,
                Ended::Gone if host.link() == Some(link) => {
                    let hung_up = "it has ended its call before everything was sent".to_owned();
                    let _ = self.say(None, tail_part::What::Error(hung_up)).await;
                    break;
                }
                Ended::Gone | Ended::Changed => {}
                Ended::Broken(reason) => {
                    let pause = if said.is_empty() { AGAIN } else { LATER };
                    if said != reason && !self.say(None, tail_part::What::Error(reason.clone())).await {
                        break;
                    }
                    said = reason;
                    if !follow {
                        break;
                    }
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = self.parts.closed() => break,
                    }
                }
            }
        }
        self.name
    }

    /// Until the registry says of a lost link that it is lost.
    async fn settle(&self) {
        tokio::select! {
            () = self.woken.notified() => {}
            () = sleep(AGAIN) => {}
        }
    }

    /// Asks the host, and waits until it calls.
    async fn call(&self, host: &Host, link: u64, logs: &[Key]) -> Result<(Call, Seat), Ended> {
        let tails = &self.reader.controller.tails;
        let busy = || Ended::Broken("too many readers have its logs open; try again later".to_owned());
        let share = tails.readers_of_host.take(&self.name).ok_or_else(busy)?;
        let (id, mut awaited) = tails.calls.expect(&self.name);
        let request = &self.reader.request;
        let open = OpenLogs {
            id,
            logs: logs.iter().map(|key| self.wanted(key)).collect(),
            lines: request.lines,
            follow: request.follow,
            grep: request.grep.clone(),
        };
        host.send(to_host::Message::OpenLogs(open)).map_err(|_| Ended::Gone)?;
        let until = Instant::now() + CALL;
        loop {
            tokio::select! {
                call = &mut awaited.call => {
                    let call = call.map_err(|_| Ended::Broken("it has not called".to_owned()))?;
                    return Ok((call, share));
                }
                () = self.woken.notified() => {
                    if host.link() != Some(link) {
                        return Err(Ended::Gone);
                    }
                }
                () = self.parts.closed() => return Err(Ended::Unread),
                () = sleep_until(until) => {
                    let seconds = CALL.as_secs();
                    return Err(Ended::Broken(format!(
                        "it was asked for logs and has sent none for {seconds} seconds; its log may say why, or its \
                         agent is too old"
                    )));
                }
            }
        }
    }

    fn wanted(&self, key: &Key) -> WantedLog {
        WantedLog {
            name: key.as_ref().map(Into::into),
            stderr: self.reader.request.stderr,
            after: self.places.get(key).copied(),
        }
    }

    /// Takes all there is room for, whether the reader takes it or not: so no other call of this host waits.
    async fn pass_on(&mut self, mut call: Call, host: &Host, link: u64, logs: &[Key]) -> Ended {
        let room = self.reader.room;
        let (mut waiting, mut expected) = (VecDeque::new(), room);
        let mut owed = 0;
        let mut ended = None;
        if call.credit.send(LogCredit { bytes: room }).await.is_err() {
            return Ended::Broken("it has hung up".to_owned());
        }
        let parts = self.parts.clone();
        loop {
            if let (Some(_), true) = (&ended, waiting.is_empty()) {
                return ended.unwrap_or(Ended::Done);
            }
            tokio::select! {
                chunk = call.chunks.message(), if ended.is_none() && waiting.len() < PARTS_MAX => match chunk {
                    Ok(Some(LogChunk { done: true, .. })) => ended = Some(Ended::Done),
                    Ok(Some(chunk)) => {
                        let bytes = bytes(&chunk);
                        let key = usize::try_from(chunk.log).ok().and_then(|index| logs.get(index));
                        let (Some(left), Some(key)) = (u64::checked_sub(expected, bytes), key) else {
                            return Ended::Broken("it has sent what it may not send".to_owned());
                        };
                        expected = left;
                        waiting.extend(chunk.part.map(|part| (key, part)));
                    }
                    Ok(None) => ended = Some(Ended::Gone),
                    Err(status) => {
                        tracing::debug!("host {}: its logs end: {}", self.name, status.message());
                        ended = Some(Ended::Gone);
                    }
                },
                place = parts.reserve(), if !waiting.is_empty() => {
                    let Ok(place) = place else { return Ended::Unread };
                    let Some((key, part)) = waiting.pop_front() else { continue };
                    owed += bytes_of(&part);
                    if let Some(part) = self.passed(key, part) {
                        place.send(part);
                    }
                    // A host that does not listen gets no more room.
                    if owed >= room / 4 && call.credit.try_send(LogCredit { bytes: owed }).is_ok() {
                        expected += std::mem::take(&mut owed);
                    }
                }
                () = self.woken.notified() => {
                    if host.link() != Some(link) {
                        return Ended::Gone;
                    }
                    if self.reader.logs(host) != logs {
                        return Ended::Changed;
                    }
                }
                () = parts.closed() => return Ended::Unread,
            }
        }
    }

    /// As it goes on to the reader; nothing where that knows already.
    fn passed(&mut self, key: &Key, part: LogPart) -> Option<TailPart> {
        if let Some(place) = part.place {
            self.places.insert(key.clone(), place);
        }
        match &part.what {
            Some(What::Error(error)) => {
                if self.errors.insert(key.clone(), error.clone()).as_ref() == Some(error) {
                    return None;
                }
            }
            Some(_) => drop(self.errors.remove(key)),
            None => return None,
        }
        Some(self.part(key.as_ref().map(Into::into), tail_part::What::Log(part)))
    }

    /// Whether anybody hears it.
    async fn say(&self, name: Option<fleetvisor_proto::fleet::ProcessName>, what: tail_part::What) -> bool {
        self.parts.send(self.part(name, what)).await.is_ok()
    }

    fn part(&self, name: Option<fleetvisor_proto::fleet::ProcessName>, what: tail_part::What) -> TailPart {
        TailPart { host: self.name.clone(), name, what: Some(what) }
    }
}

fn bytes(chunk: &LogChunk) -> u64 {
    chunk.part.as_ref().map_or(0, bytes_of)
}

fn bytes_of(part: &LogPart) -> u64 {
    match &part.what {
        Some(What::Lines(lines)) => lines.len() as u64,
        Some(What::Dropped(_) | What::Lost(_) | What::Error(_)) | None => 0,
    }
}
