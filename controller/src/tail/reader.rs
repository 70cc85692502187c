//! One reader's hosts: all at once where they are followed, with those that join meanwhile, and otherwise one after
//! the other, by name.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use fleetvisor_proto::fleet::TailPart;
use tokio::sync::{Notify, broadcast, mpsc};
use tokio::task::JoinSet;

use super::host::HostTail;
use super::{HOSTS_MAX, Places, Reader};

/// Hosts that are asked ahead of their turn, and parts that each may have ready.
const AHEAD: usize = 16;
const READY: usize = 4;

/// Reads what there is.
pub(super) async fn once(reader: Arc<Reader>, hosts: Vec<String>, parts: &mpsc::Sender<TailPart>) {
    let mut hosts = hosts.into_iter();
    let (mut tasks, mut ahead) = (JoinSet::new(), VecDeque::new());
    let mut stopping = reader.controller.stopping.clone();
    loop {
        for name in hosts.by_ref().take(AHEAD - ahead.len()) {
            let (ready, coming) = mpsc::channel(READY);
            tasks.spawn(HostTail::new(reader.clone(), name, Places::new(), ready).run());
            ahead.push_back(coming);
        }
        let Some(mut coming) = ahead.pop_front() else { return };
        loop {
            let part = tokio::select! {
                part = coming.recv() => part,
                () = parts.closed() => return,
                _ = stopping.wait_for(Option::is_some) => return,
            };
            let Some(part) = part else { break };
            if parts.send(part).await.is_err() {
                return;
            }
        }
    }
}

/// Reads on and on, until nobody listens.
pub(super) async fn follow(
    reader: Arc<Reader>,
    hosts: Vec<String>,
    mut after: HashMap<String, Places>,
    mut presence: broadcast::Receiver<String>,
    parts: &mpsc::Sender<TailPart>,
) {
    let (mut tasks, mut woken) = (JoinSet::new(), HashMap::<String, Arc<Notify>>::new());
    let mut stopping = reader.controller.stopping.clone();
    let mut due = hosts;
    loop {
        for name in due.drain(..) {
            if let Some(host) = woken.get(&name) {
                host.notify_one();
                continue;
            }
            let host = reader.controller.registry.known(&name);
            if woken.len() < HOSTS_MAX && host.is_some_and(|host| !reader.logs(&host).is_empty()) {
                let places = after.remove(&name).unwrap_or_default();
                let tail = HostTail::new(reader.clone(), name.clone(), places, parts.clone());
                woken.insert(name, tail.woken());
                tasks.spawn(tail.run());
            }
        }
        tokio::select! {
            told = presence.recv() => match told {
                Ok(name) => due.push(name),
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    due = reader.controller.registry.all().iter().map(|host| host.name.clone()).collect();
                }
                Err(broadcast::error::RecvError::Closed) => return,
            },
            Some(ended) = tasks.join_next() => match ended {
                Ok(name) => drop(woken.remove(&name)),
                Err(error) => tracing::error!("reading logs of a host has failed: {error}"),
            },
            () = parts.closed() => return,
            _ = stopping.wait_for(Option::is_some) => return,
        }
    }
}
