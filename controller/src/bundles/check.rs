//! Whether a content is good on the hosts that would get it, by the agent's own parser. What only a host knows
//! (its users, folders and environment) is taken to be there; the host has the last word on that.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use fleetvisor_model::config::{Bundle, Bundled, ConfigError, Host, Place, User, names_used, read_bundle};
use fleetvisor_proto::fleet::BundleContent;

/// What a name stands for that only hosts know: a number is a text, too.
const PLACEHOLDER: &str = "1";

/// Reads one content for one host after the other. Hosts for which it says the same are read once.
pub(super) struct Reader {
    bundle: Bundle,
    host: Anywhere,
    uses_host_name: bool,
    labels_used: BTreeSet<String>,
    known: BTreeMap<(String, Vec<Option<String>>), Bundled>,
}

/// Why a content is refused: the place, as far as it is known, and the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    Everywhere(String),
    #[error("on host {host}: {place}")]
    OnHost { host: String, place: String },
}

impl Reader {
    pub(super) fn new(name: &str, content: &BundleContent) -> Reader {
        let text: String = content.files.iter().map(|file| String::from_utf8_lossy(&file.text)).collect();
        let files = content.files.iter().map(|file| (PathBuf::from(&file.name), file.text.clone()));
        Reader {
            bundle: Bundle { name: name.to_owned(), files: files.collect() },
            host: Anywhere { environment: names_used(&text, "ENV_").into_iter().collect() },
            uses_host_name: text.contains("%(host_name)"),
            labels_used: names_used(&text, "host_label_"),
            known: BTreeMap::new(),
        }
    }

    /// What it says on this host.
    pub(super) fn on(&mut self, host: &str, labels: &BTreeMap<String, String>) -> Result<&Bundled, Refusal> {
        let name = if self.uses_host_name { host } else { "" };
        let used = self.labels_used.iter().map(|label| labels.get(label).cloned()).collect();
        let key = (name.to_owned(), used);
        if !self.known.contains_key(&key) {
            let place = Place { host_name: host, labels, environment: &BTreeMap::new() };
            let read = read_bundle(&self.bundle, place, &self.host).map_err(|error| {
                let place = self.place(&error);
                match self.uses_host_name || !self.labels_used.is_empty() {
                    true => Refusal::OnHost { host: host.to_owned(), place },
                    false => Refusal::Everywhere(place),
                }
            })?;
            self.known.insert(key.clone(), read);
        }
        Ok(&self.known[&key])
    }

    /// What it says where no host is known that would get it.
    pub(super) fn anywhere(&mut self) -> Result<&Bundled, Refusal> {
        let stand_in = |label: &String| (label.clone(), PLACEHOLDER.to_owned());
        let labels = self.labels_used.iter().map(stand_in).collect();
        self.on("host", &labels)
    }

    /// `web.conf:3: startsecs in [program:web]: invalid literal for int() with base 10: 'soon'`
    fn place(&self, error: &ConfigError) -> String {
        let file = error.file.as_deref().map(|file| file.display().to_string());
        let line = error.line.or_else(|| self.header_line(error));
        let mut place = match (&file, line) {
            (Some(file), Some(line)) => format!("{file}:{line}: "),
            (Some(file), None) => format!("{file}: "),
            (None, _) => String::new(),
        };
        match (&error.option, &error.section) {
            (Some(option), Some(section)) => place.push_str(&format!("{option} in [{section}]: ")),
            (None, Some(section)) if !error.message.contains(&format!("[{section}]")) => {
                place.push_str(&format!("[{section}]: "));
            }
            (_, _) => {}
        }
        let mut reason = error.message.as_str();
        // Supervisor's words for the place, which stands in front.
        if let Some(at) = reason.rfind(" in section '")
            && reason.ends_with(')')
        {
            reason = &reason[..at];
        }
        place.push_str(reason);
        place
    }

    /// Where the section begins that an error without a line is about.
    fn header_line(&self, error: &ConfigError) -> Option<u32> {
        let (file, section) = (error.file.as_deref()?, error.section.as_deref()?);
        let (_, text) = self.bundle.files.iter().find(|(path, _)| path == file)?;
        let header = format!("[{section}]");
        let text = String::from_utf8_lossy(text);
        let line = text.lines().position(|line| line.starts_with(&header))?;
        u32::try_from(line + 1).ok()
    }
}

/// A host that has every user, group and folder.
struct Anywhere {
    /// Names of variables that the content uses.
    environment: Vec<String>,
}

/// A number of its own for each name, so that another name is another user.
fn number(name: &str) -> u32 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    1 + (hasher.finish() % (1 << 30)) as u32
}

impl Host for Anywhere {
    fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        Err(format!("{} is on no host", path.display()))
    }

    fn exists(&self, _path: &Path) -> bool {
        true
    }

    fn is_dir(&self, _path: &Path) -> bool {
        true
    }

    fn entries(&self, _directory: &Path) -> Vec<String> {
        Vec::new()
    }

    fn env(&self) -> Vec<(String, String)> {
        self.environment.iter().map(|name| (name.clone(), PLACEHOLDER.to_owned())).collect()
    }

    fn cwd(&self) -> PathBuf {
        PathBuf::from("/")
    }

    fn node_name(&self) -> String {
        "node".to_owned()
    }

    fn temp_dir(&self) -> PathBuf {
        PathBuf::from("/tmp")
    }

    fn uid(&self) -> u32 {
        0
    }

    fn user_by_name(&self, name: &str) -> Option<User> {
        Some(User { uid: number(name), gid: number(name), home: format!("/home/{name}") })
    }

    fn user_by_uid(&self, uid: u32) -> Option<User> {
        Some(User { uid, gid: uid, home: format!("/home/{uid}") })
    }

    fn gid_by_name(&self, name: &str) -> Option<u32> {
        Some(number(name))
    }

    fn gid_exists(&self, _gid: u32) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use fleetvisor_proto::fleet::BundleFile;

    use super::*;

    fn reader(text: &str) -> Reader {
        let file = BundleFile { name: "web.conf".to_owned(), text: text.as_bytes().to_vec() };
        Reader::new("web", &BundleContent { files: vec![file] })
    }

    fn refusal(text: &str) -> String {
        reader(text).anywhere().unwrap_err().to_string()
    }

    #[test]
    fn a_refusal_names_file_line_option_and_reason() {
        assert_eq!(
            refusal("[program:web]\ncommand=x\nstartsecs=soon\n"),
            "web.conf:3: startsecs in [program:web]: invalid literal for int() with base 10: 'soon'"
        );
        let missing = refusal("[program:a]\ncommand=x\n[program:web]\nstartsecs=1\n");
        assert_eq!(
            missing,
            "web.conf:3: command in [program:web]: program section program:web does not specify a command"
        );
        let include = refusal("[program:a]\ncommand=x\n[include]\nfiles=x\n");
        assert!(include.starts_with("web.conf:3: section [include] cannot be in a bundle"), "{include}");
        let text = refusal("oops\n");
        assert!(text.starts_with("web.conf:1: File contains no section headers."), "{text}");
    }

    #[test]
    fn what_only_hosts_know_is_taken_to_be_there() {
        let text = "[program:web]\ncommand=/opt/%(ENV_APP)s\nuser=deploy\ndirectory=/srv\nstdout_logfile=/no/x.log\n\
                    priority=%(ENV_PRIO)s\n";
        assert_eq!(reader(text).anywhere().unwrap().groups.len(), 1);
    }

    #[test]
    fn hosts_are_told_apart_by_what_a_content_uses() {
        let mut reader = reader("[program:web]\ncommand=x %(host_label_role)s\n");
        let labels = |role: &str| BTreeMap::from([("role".to_owned(), role.to_owned())]);
        for (host, role) in [("a", "web"), ("b", "web"), ("c", "db")] {
            let read = reader.on(host, &labels(role)).unwrap();
            assert_eq!(read.groups[0].processes[0].command, format!("x {role}"));
        }
        assert_eq!(reader.known.len(), 2);
        let error = reader.on("d", &BTreeMap::new()).unwrap_err().to_string();
        assert!(
            error.starts_with("on host d: web.conf:2: command in [program:web]: Format string"),
            "{error}"
        );
    }
}
