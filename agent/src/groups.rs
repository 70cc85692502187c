//! The configuration's groups as they were read, beside those that are active: what `reread` compares, and
//! the files that AUTO stands for.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use fleetvisor_model::config::{Group, LogTarget};
use serde::{Deserialize, Serialize};

use crate::inbox::{Changes, ConfiguredGroup};

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Groups {
    /// As last read.
    read: Vec<Group>,
    /// As they were read when they were added.
    active: BTreeMap<String, Active>,
}

/// There may be thousands of processes in a group, which are not kept twice where they are the same.
#[derive(Debug, Serialize, Deserialize)]
enum Active {
    /// What was last read of this name.
    AsRead,
    Other(Group),
}

impl Groups {
    pub(crate) fn new(read: Vec<Group>) -> Groups {
        Groups { read, active: BTreeMap::new() }
    }

    /// Takes in what was read anew and says what differs from what is active.
    pub(crate) fn reread(&mut self, read: Vec<Group>) -> Changes {
        let names = |groups: Vec<&Group>| groups.into_iter().map(|group| group.name.clone()).collect();
        let is_changed = |group: &&Group| self.active(&group.name).is_some_and(|old| old != *group);
        let changes = Changes {
            added: names(read.iter().filter(|group| !self.active.contains_key(&group.name)).collect()),
            changed: names(read.iter().filter(is_changed).collect()),
            removed: self
                .active
                .keys()
                .filter(|name| !read.iter().any(|group| group.name == **name))
                .cloned()
                .collect(),
        };
        for old in std::mem::replace(&mut self.read, read) {
            let Some(active @ Active::AsRead) = self.active.get_mut(&old.name) else { continue };
            if !self.read.contains(&old) {
                *active = Active::Other(old);
            }
        }
        changes
    }

    fn active(&self, name: &str) -> Option<&Group> {
        match self.active.get(name)? {
            Active::AsRead => self.find(name),
            Active::Other(group) => Some(group),
        }
    }

    /// The group of this name as last read.
    pub(crate) fn find(&self, name: &str) -> Option<&Group> {
        self.read.iter().find(|group| group.name == name)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.read.iter().map(|group| group.name.clone()).collect()
    }

    pub(crate) fn added(&mut self, group: Group) {
        let name = group.name.clone();
        let active = if self.find(&name) == Some(&group) { Active::AsRead } else { Active::Other(group) };
        self.active.insert(name, active);
    }

    pub(crate) fn removed(&mut self, name: &str) {
        self.active.remove(name);
    }

    /// All groups as last read; `running` gives an active one with its files chosen.
    pub(crate) fn configured<'a>(&self, running: impl Fn(&str) -> Option<&'a Group>) -> Vec<ConfiguredGroup> {
        self.read
            .iter()
            .map(|group| {
                let unchanged = self.active(&group.name) == Some(group);
                let resolved = running(&group.name).filter(|_| unchanged);
                ConfiguredGroup {
                    in_use: self.active.contains_key(&group.name),
                    group: resolved.unwrap_or(group).clone(),
                }
            })
            .collect()
    }
}

/// Puts files in the place of AUTO, newly made in `childlogdir` with Supervisor's names.
pub(crate) fn choose_auto_logs(
    group: &mut Group,
    childlogdir: &Path,
    identifier: &str,
) -> Result<(), String> {
    for process in &mut group.processes {
        let name = &process.name.process;
        for (channel, log) in [("stdout", &mut process.stdout), ("stderr", &mut process.stderr)] {
            if log.logfile == LogTarget::Auto {
                let path = childlogdir.join(format!("{name}-{channel}---{identifier}-"));
                let made = make_log(&path).map_err(|error| {
                    format!("cannot make a log for {name} in {}: {error}", childlogdir.display())
                })?;
                log.logfile = LogTarget::File(made);
            }
        }
    }
    Ok(())
}

/// A new file that nobody else can have made: `stem` with a unique end and `.log` behind it.
fn make_log(stem: &Path) -> std::io::Result<PathBuf> {
    loop {
        let unique = RandomState::new().build_hasher().finish();
        let mut path = stem.as_os_str().to_owned();
        path.push(format!("{:08x}.log", unique as u32));
        let path = PathBuf::from(path);
        match OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path) {
            Ok(_) => return Ok(path),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// Removes the AUTO logs of earlier runs; the remarks are for the daemon's log.
pub(crate) fn clear_auto_logs(childlogdir: &Path, identifier: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(childlogdir) else {
        return vec!["Could not clear childlog dir".to_owned()];
    };
    entries
        .flatten()
        .filter(|entry| is_auto_log(&entry.file_name(), identifier))
        .filter_map(|entry| {
            let path = entry.path();
            std::fs::remove_file(&path).err().map(|_| format!("Failed to clean up '{}'", path.display()))
        })
        .collect()
}

/// `NAME---IDENTIFIER-UNIQUE.log`, also rotated (`.log.3`).
fn is_auto_log(name: &OsStr, identifier: &str) -> bool {
    let marker = format!("---{identifier}-");
    let Ok(name) = std::str::from_utf8(name.as_bytes()) else { return false };
    let Some(at) = name.find(&marker).filter(|at| *at > 0) else { return false };
    let rest = &name[at + marker.len()..];
    rest.find(".log").is_some_and(|at| at > 0 && !rest[..at].contains(char::is_whitespace))
}

#[cfg(test)]
mod tests {
    use fleetvisor_model::config::GroupKind;

    use super::*;

    #[test]
    fn an_active_group_stays_as_it_was_read_when_it_was_added() {
        let group = |name: &str, priority| Group {
            name: name.to_owned(),
            priority,
            kind: GroupKind::Programs,
            processes: Vec::new(),
        };
        let mut groups = Groups::new(vec![group("a", 1), group("b", 1), group("c", 1)]);
        for name in ["a", "b", "c"] {
            groups.added(groups.find(name).unwrap().clone());
        }
        assert_eq!(groups.reread(vec![group("a", 1), group("b", 2), group("d", 1)]), changes("d", "b", "c"));
        // As often as it is read: what is active has not changed.
        assert_eq!(groups.reread(vec![group("a", 2), group("b", 2)]), changes("", "ab", "c"));
        assert_eq!(groups.reread(vec![group("c", 1), group("b", 1), group("a", 1)]), changes("", "", ""));
        groups.removed("a");
        groups.added(group("a", 3));
        assert_eq!(groups.reread(vec![group("a", 3), group("b", 1), group("c", 1)]), changes("", "", ""));
        let again: Groups = serde_json::from_str(&serde_json::to_string(&groups).unwrap()).unwrap();
        assert_eq!(again.active("a"), Some(&group("a", 3)));
    }

    fn changes(added: &str, changed: &str, removed: &str) -> Changes {
        let names = |letters: &str| letters.chars().map(String::from).collect();
        Changes { added: names(added), changed: names(changed), removed: names(removed) }
    }

    #[test]
    fn auto_logs_of_this_identifier_are_recognised() {
        let is = |name: &str| is_auto_log(OsStr::new(name), "supervisor");
        assert!(is("web-stdout---supervisor-a8f_x2.log"));
        assert!(is("web-stderr---supervisor-a8f_x2.log.10"));
        assert!(!is("web-stderr---other-a8f_x2.log"));
        assert!(!is("---supervisor-a8f_x2.log"));
        assert!(!is("web-stdout---supervisor-.log"));
        assert!(!is("web.log"));
    }
}
