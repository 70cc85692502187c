//! Bundles of the fleet as the daemon uses them: its configuration read with others than it has, and brought to
//! life group by group, as supervisorctl's `update` does it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fleetvisor_core::request::Refusal;
use fleetvisor_link::{Accepted, Begun, Gone, Own, Tried, Updated};
use fleetvisor_model::config::{self, Bundles, Host, User, own_programs};

use crate::host::FileSystem;
use crate::inbox::Handle;
use crate::settings::load_again;
use crate::update::{Change, carry_out};

pub(crate) async fn try_bundles(handle: &Handle, bundles: Bundles) -> Result<Tried, Gone> {
    let path = handle.facts().config_path.clone();
    let read = tokio::task::spawn_blocking(move || config::load(&path, &WithBundles(bundles)));
    let Ok(read) = read.await else { return Ok(Err("it could not be read".to_owned())) };
    Ok(match read {
        Ok(config) => {
            let faults = config.bundle_faults.into_iter();
            let faults = faults.map(|fault| (fault.bundle, place(&fault.error))).collect();
            Ok(Accepted { groups: config.bundled, faults })
        }
        Err(error) => Err(error.to_string()),
    })
}

/// With the line, which Supervisor's words leave out.
fn place(error: &config::ConfigError) -> String {
    match (&error.file, error.line) {
        (Some(file), Some(line)) => {
            format!("{}:{line}: {error}", file.file_name().unwrap_or_default().to_string_lossy())
        }
        (_, _) => error.to_string(),
    }
}

pub(crate) async fn own(handle: &Handle) -> Own {
    let path = handle.facts().config_path.clone();
    match tokio::task::spawn_blocking(move || own_programs(&path, &FileSystem)).await {
        Ok(own) => own.map_err(|error| error.to_string()),
        Err(_) => Err("the configuration could not be read".to_owned()),
    }
}

/// Only `groups` are looked at: what else the configuration says by now is for those who changed it.
pub(crate) async fn update(handle: &Handle, groups: BTreeSet<String>) -> Result<Updated, Gone> {
    let config = match load_again(handle).await {
        Ok(config) => config,
        Err(reason) => return Ok(Err(format!("the configuration cannot be read: {reason}"))),
    };
    let changes = handle.reread(config).await?.of(|group| groups.contains(group));
    let mut begun = Begun::default();
    carry_out(handle, changes, |group, change, outcome| match outcome {
        Ok(()) if change == Change::Removed => {}
        Ok(()) => drop(begun.groups.insert(group)),
        Err(refusal) => begun.failed.push((group, worded(&refusal))),
    })
    .await?;
    Ok(Ok(begun))
}

fn worded(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Failed(reason) | Refusal::NoFile(reason) | Refusal::NotExecutable(reason) => reason.clone(),
        Refusal::StillRunning => "it has processes that do not stop".to_owned(),
        Refusal::ShutdownState => "the daemon is shutting down".to_owned(),
        Refusal::AlreadyAdded => "it is active already".to_owned(),
        Refusal::BadName
        | Refusal::AlreadyStarted
        | Refusal::NotRunning
        | Refusal::SpawnError
        | Refusal::AbnormalTermination => "it is not there any more".to_owned(),
    }
}

/// This machine, as if it had been given other bundles.
struct WithBundles(Bundles);

impl Host for WithBundles {
    fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        FileSystem.read(path)
    }

    fn exists(&self, path: &Path) -> bool {
        FileSystem.exists(path)
    }

    fn is_dir(&self, path: &Path) -> bool {
        FileSystem.is_dir(path)
    }

    fn entries(&self, directory: &Path) -> Vec<String> {
        FileSystem.entries(directory)
    }

    fn env(&self) -> Vec<(String, String)> {
        FileSystem.env()
    }

    fn cwd(&self) -> PathBuf {
        FileSystem.cwd()
    }

    fn node_name(&self) -> String {
        FileSystem.node_name()
    }

    fn temp_dir(&self) -> PathBuf {
        FileSystem.temp_dir()
    }

    fn uid(&self) -> u32 {
        FileSystem.uid()
    }

    fn user_by_name(&self, name: &str) -> Option<User> {
        FileSystem.user_by_name(name)
    }

    fn user_by_uid(&self, uid: u32) -> Option<User> {
        FileSystem.user_by_uid(uid)
    }

    fn gid_by_name(&self, name: &str) -> Option<u32> {
        FileSystem.gid_by_name(name)
    }

    fn gid_exists(&self, gid: u32) -> bool {
        FileSystem.gid_exists(gid)
    }

    fn bundles(&self, _state_dir: &Path) -> Result<Bundles, String> {
        Ok(self.0.clone())
    }
}
