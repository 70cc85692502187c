//! The daemon as the fleet's link sees it: questions and requests go through the inbox, lines to the log.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};

use fleetvisor_core::request::{Outcome, Processes, Verb};
use fleetvisor_link::{Daemon, Gone, Own, Tried, Updated, Watched};
use fleetvisor_model::config::{Bundles, LogLevel};
use fleetvisor_model::name::ProcessName;
use fleetvisor_model::status::ProcessStatus;
use fleetvisor_model::time::Wall;
use tokio::sync::mpsc;

use crate::bundles;
use crate::clock;
use crate::inbox::{Handle, Message};
use crate::logs::{self, Logs};
use crate::update;
use crate::upgrade::{self, Upgrade, UpgradeError, Upgraded};

#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) handle: Handle,
    pub(crate) logs: Logs,
}

impl Daemon for Member {
    fn log(&self, level: LogLevel, line: String) {
        self.logs.line(level, line);
    }

    fn local(&self, time: Wall) -> String {
        clock::local(time)
    }

    fn watch(&self) -> Result<mpsc::UnboundedReceiver<Watched>, Gone> {
        let (changes, changed) = mpsc::unbounded_channel();
        self.handle.send(Message::Watch { changes })?;
        Ok(changed)
    }

    async fn statuses(&self) -> Result<Vec<ProcessStatus>, Gone> {
        self.handle.statuses().await
    }

    async fn status(&self, name: ProcessName) -> Result<Option<ProcessStatus>, Gone> {
        self.handle.status(name).await
    }

    fn verb(
        &self,
        verb: Verb,
        processes: Processes,
    ) -> Result<mpsc::UnboundedReceiver<(ProcessName, Outcome)>, Gone> {
        self.handle.verb(verb, processes)
    }

    async fn try_bundles(&self, bundles: Bundles) -> Result<Tried, Gone> {
        bundles::try_bundles(&self.handle, bundles).await
    }

    async fn update(&self, groups: BTreeSet<String>) -> Result<Updated, Gone> {
        bundles::update(&self.handle, groups).await
    }

    async fn own(&self) -> Result<Own, Gone> {
        Ok(bundles::own(&self.handle).await)
    }

    async fn update_groups(
        &self,
        groups: Vec<String>,
        told: mpsc::UnboundedSender<(ProcessName, Result<String, String>)>,
    ) -> Result<Result<(), String>, Gone> {
        update::update(&self.handle, &groups, &told).await
    }

    fn own_log(&self) -> Option<PathBuf> {
        self.handle.facts().own_log()
    }

    fn open_log(path: &Path) -> io::Result<File> {
        logs::open_for_reading(path)
    }

    async fn upgrade<L>(&self, leaving: L) -> Result<Result<String, String>, Gone>
    where
        L: Future<Output = Result<(), String>> + Send,
    {
        match upgrade::upgrade(self.handle.clone(), self.logs.clone(), leaving).await {
            Ok(Upgraded::Leaving { .. }) => std::future::pending().await,
            Ok(Upgraded::Same) => {
                let path = self.handle.facts().executable.display();
                Ok(Ok(format!("{} runs {path} already", fleetvisor_proto::VERSION)))
            }
            Err(UpgradeError::Gone) => Err(Gone),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    async fn upgraded(&self) -> Result<Result<String, String>, Gone> {
        Ok(match self.handle.latest_upgrade().await? {
            Some(Upgrade { error: Some(error), .. }) => Err(error),
            Some(Upgrade { from_version, version, .. }) => {
                Ok(format!("upgraded from {from_version} to {version}"))
            }
            None => Err("the daemon has started over during the upgrade".to_owned()),
        })
    }

    fn wish(&self, wishes: BTreeMap<ProcessName, bool>) -> Result<(), Gone> {
        self.handle.send(Message::Wishes { wishes })
    }
}
