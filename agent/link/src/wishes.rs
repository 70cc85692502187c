//! What the fleet wishes of single processes, kept on this host: a reboot without a controller starts and
//! stops the same. Written before a wish counts as observed.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use fleetvisor_model::name::ProcessName;
use fleetvisor_proto::convert::process_name;
use fleetvisor_proto::fleet::{DesiredState, RunState};
use serde::{Deserialize, Serialize};

const FILE: &str = "wishes.json";

#[derive(Debug)]
pub struct Wishes {
    path: PathBuf,
    kept: Kept,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// Highest revision that was taken in.
    observed: u64,
    wishes: Vec<Wish>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Wish {
    name: ProcessName,
    run: bool,
    revision: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum WishesError {
    #[error("cannot read {path}: {reason}; remove it to take the controller's wishes anew")]
    Read { path: PathBuf, reason: String },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: std::io::Error },
}

impl Wishes {
    /// What is kept in `state_dir`; nothing where the host is new.
    pub fn load(state_dir: &Path) -> Result<Wishes, WishesError> {
        let path = state_dir.join(FILE);
        let kept = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| WishesError::Read { path: path.clone(), reason: error.to_string() })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Kept::default(),
            Err(error) => return Err(WishesError::Read { path, reason: error.to_string() }),
        };
        Ok(Wishes { path, kept })
    }

    pub fn observed(&self) -> u64 {
        self.kept.observed
    }

    /// Whether each wished-for process should run.
    pub fn all(&self) -> BTreeMap<ProcessName, bool> {
        self.kept.wishes.iter().map(|wish| (wish.name.clone(), wish.run)).collect()
    }

    /// Whether this process should run, where somebody wished anything of it.
    pub(crate) fn wish(&self, name: &ProcessName) -> Option<bool> {
        self.kept.wishes.iter().find(|wish| wish.name == *name).map(|wish| wish.run)
    }

    /// Whether there is a wish for the process that was stored after this revision.
    pub(crate) fn is_wished_later(&self, name: &ProcessName, revision: u64) -> bool {
        self.kept.wishes.iter().any(|wish| wish.name == *name && wish.revision > revision)
    }

    /// Takes in the controller's wishes, on the disk when this returns. Gives those that are new to this
    /// host; an older revision never undoes a newer one.
    pub fn take_in(&mut self, desired: &DesiredState) -> Result<BTreeMap<ProcessName, bool>, WishesError> {
        let coming: Vec<Wish> = desired
            .processes
            .iter()
            .filter_map(|process| {
                let name = process_name(process.name.clone()).ok()?;
                let run = match process.run() {
                    RunState::Started => true,
                    RunState::Stopped => false,
                    RunState::Unspecified => return None,
                };
                Some(Wish { name, run, revision: process.revision })
            })
            .collect();
        let observed = self.kept.observed;
        let mut next = self.kept.clone();
        if desired.complete {
            next.wishes.retain(|wish| coming.iter().any(|other| other.name == wish.name));
        }
        let fresh: Vec<Wish> = coming.into_iter().filter(|wish| wish.revision > observed).collect();
        for wish in &fresh {
            match next.wishes.iter_mut().find(|old| old.name == wish.name) {
                Some(old) if old.revision < wish.revision => *old = wish.clone(),
                Some(_) => {}
                None => next.wishes.push(wish.clone()),
            }
        }
        next.observed = observed.max(desired.revision);
        if next != self.kept {
            self.write(&next)?;
            self.kept = next;
        }
        Ok(fresh.into_iter().map(|wish| (wish.name, wish.run)).collect())
    }

    fn write(&self, kept: &Kept) -> Result<(), WishesError> {
        let failed = |source| WishesError::Write { path: self.path.clone(), source };
        let text = serde_json::to_vec(kept).map_err(|error| failed(error.into()))?;
        let new = self.path.with_extension("new");
        let write = || {
            let mut file = std::fs::File::create(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&new, &self.path)?;
            match self.path.parent() {
                Some(folder) => std::fs::File::open(folder)?.sync_all(),
                None => Ok(()),
            }
        };
        write().map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use fleetvisor_proto::fleet::DesiredProcess;
    use proptest::prelude::*;

    use super::*;

    fn desired(complete: bool, entries: &[(&str, bool, u64)]) -> DesiredState {
        let processes = entries.iter().map(|(name, run, revision)| DesiredProcess {
            name: Some((&ProcessName::new(*name, *name)).into()),
            run: if *run { RunState::Started } else { RunState::Stopped }.into(),
            revision: *revision,
        });
        let revision = entries.iter().map(|(_, _, revision)| *revision).max().unwrap_or(0);
        DesiredState { revision, complete, processes: processes.collect() }
    }

    #[test]
    fn wishes_survive_and_repeats_are_harmless() {
        let folder = tempfile::tempdir().unwrap();
        let mut wishes = Wishes::load(folder.path()).unwrap();
        let state = desired(true, &[("web", false, 3), ("db", true, 5)]);
        assert_eq!(wishes.take_in(&state).unwrap().len(), 2);
        assert!(wishes.take_in(&state).unwrap().is_empty());
        let again = Wishes::load(folder.path()).unwrap();
        assert_eq!(again.observed(), 5);
        assert_eq!(again.all().get(&ProcessName::new("web", "web")), Some(&false));
    }

    #[test]
    fn a_damaged_file_is_said_to_be() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        let error = Wishes::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("wishes.json") && error.contains("remove it"), "{error}");
    }

    proptest! {
        #[test]
        fn an_older_revision_never_undoes_a_newer_one(
            entries in prop::collection::vec(("[ab]", any::<bool>(), 1u64..9), 1..20)
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut wishes = Wishes::load(folder.path()).unwrap();
            let mut newest: BTreeMap<String, (u64, bool)> = BTreeMap::new();
            let mut observed = 0;
            for (name, run, revision) in &entries {
                wishes.take_in(&desired(false, &[(name, *run, *revision)])).unwrap();
                if *revision > observed {
                    newest.insert(name.clone(), (*revision, *run));
                    observed = *revision;
                }
            }
            for (name, (_, run)) in newest {
                let kept = wishes.all().get(&ProcessName::new(name.as_str(), name.as_str())).copied();
                prop_assert_eq!(kept, Some(run));
            }
        }
    }
}
