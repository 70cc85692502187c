//! The simulated fleet: hosts that have enrolled the way any host does, and whose links run in this process.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use fleetvisor_link::Wishes;
use fleetvisor_model::config::FleetSection;
use fleetvisor_proto::fleet::CreateTokenRequest;
use fleetvisor_proto::fleet::fleet_client::FleetClient;
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use crate::host::{Counters, SimulatedHost};

/// Connections without a certificate that the controller takes at once, with room to spare.
const ENROLLING: usize = 100;
/// So that 10,000 hosts find ports enough, they dial as many addresses of loopback.
pub(crate) const ADDRESSES: [&str; 4] = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"];

#[derive(Debug)]
pub(crate) struct Fleet {
    hosts: Vec<Member>,
    pub(crate) counters: Arc<Counters>,
}

#[derive(Debug)]
struct Member {
    host: SimulatedHost,
    section: FleetSection,
    task: Option<JoinHandle<()>>,
}

impl Fleet {
    /// Hosts that have not joined yet; what they keep is below `dir`.
    pub(crate) fn new(hosts: usize, processes: usize, port: u16, dir: &Path, quiet: bool) -> Fleet {
        let counters = Arc::new(Counters::default());
        let hosts = (0..hosts)
            .map(|number| {
                let name = format!("host-{number:05}");
                let section = FleetSection {
                    controller: vec![format!("{}:{port}", ADDRESSES[number % ADDRESSES.len()])],
                    labels: BTreeMap::from([("rack".to_owned(), format!("r{}", number % 10))]),
                    join_token_file: Some(dir.join(format!("{name}.token"))),
                    state_dir: dir.join(&name),
                    enforce: false,
                    host: name,
                };
                let host = SimulatedHost::new(&section.host, processes, counters.clone(), quiet);
                Member { host, section, task: None }
            })
            .collect();
        Fleet { hosts, counters }
    }

    pub(crate) fn len(&self) -> usize {
        self.hosts.len()
    }

    pub(crate) fn host(&self, number: usize) -> &SimulatedHost {
        &self.hosts[number].host
    }

    pub(crate) fn hosts(&self) -> impl Iterator<Item = &SimulatedHost> {
        self.hosts.iter().map(|member| &member.host)
    }

    /// Where host `number` keeps its identity.
    pub(crate) fn state_dir(&self, number: usize) -> &Path {
        &self.hosts[number].section.state_dir
    }

    pub(crate) fn name(&self, number: usize) -> &str {
        &self.hosts[number].section.host
    }

    /// Each host gets a token of its own, trades it for a certificate and links once.
    pub(crate) async fn enrol(&mut self, operator: &FleetClient<Channel>) -> anyhow::Result<()> {
        let tokens = self.hosts.iter().map(|member| {
            let (mut operator, section) = (operator.clone(), member.section.clone());
            async move {
                let request = CreateTokenRequest { ttl_seconds: 3600, host: section.host.clone() };
                let answer = operator.create_token(request).await.context("no join token")?.into_inner();
                let path = section.join_token_file.context("a simulated host has a token")?;
                std::fs::write(&path, answer.token).with_context(|| format!("{}", path.display()))
            }
        });
        let mut written = stream::iter(tokens.collect::<Vec<_>>()).buffer_unordered(16);
        while let Some(written) = written.next().await {
            written?;
        }
        drop(written);
        let mut numbers = 0..self.hosts.len();
        loop {
            let some: Vec<usize> = numbers.by_ref().take(ENROLLING).collect();
            if some.is_empty() {
                return Ok(());
            }
            let before = self.counters.links.load(Ordering::Relaxed);
            for number in &some {
                self.link(*number)?;
            }
            self.wait_links(before + some.len() as u64, Duration::from_secs(120)).await?;
            for number in some {
                self.cut(number).await;
            }
        }
    }

    /// Starts the link of one host.
    pub(crate) fn link(&mut self, number: usize) -> anyhow::Result<()> {
        let member = &mut self.hosts[number];
        let wishes = Wishes::load(&member.section.state_dir)?;
        let running = fleetvisor_link::run(member.section.clone(), wishes, member.host.clone());
        member.task = Some(tokio::spawn(running));
        Ok(())
    }

    /// Ends the link of one host without a word.
    pub(crate) async fn cut(&mut self, number: usize) {
        if let Some(task) = self.hosts[number].task.take() {
            task.abort();
            // It ends because it was told to.
            let _ = task.await;
        }
    }

    pub(crate) async fn cut_all(&mut self) {
        for number in 0..self.hosts.len() {
            self.cut(number).await;
        }
    }

    /// Waits until there have been so many links in all.
    pub(crate) async fn wait_links(&self, wanted: u64, limit: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + limit;
        loop {
            let links = self.counters.links.load(Ordering::Relaxed);
            if links >= wanted {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("{} of {wanted} links are missing after {limit:?}", wanted - links);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
