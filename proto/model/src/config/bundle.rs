//! A bundle: `.conf` files that a fleet's controller gives a host beside its own configuration. Read on its own,
//! so that it means the same everywhere: no section of the host's can change it, and it can change none of
//! theirs. The controller reads a bundle with this before it accepts it, the host before it applies it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::error::ConfigError;
use super::group::groups;
use super::host::Host;
use super::path::{absolute, dirname};
use super::percent::Value;
use super::source::Source;
use super::types::{Config, Group};

/// Kinds of sections that a bundle may have.
pub const BUNDLE_SECTIONS: [&str; 4] = ["program:", "group:", "eventlistener:", "fcgi-program:"];

/// The files of one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    pub name: String,
    /// Path and text, by path.
    pub files: Vec<(PathBuf, Vec<u8>)>,
}

/// The bundles that a host has been given, and what their values may name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundles {
    /// `%(host_label_role)s`
    pub labels: BTreeMap<String, String>,
    pub bundles: Vec<Bundle>,
}

/// Where a bundle is read: what `%(host_name)s`, `%(host_label_X)s` and `%(ENV_X)s` stand for there.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub host_name: &'a str,
    pub labels: &'a BTreeMap<String, String>,
    /// `[supervisord] environment` of the host.
    pub environment: &'a BTreeMap<String, String>,
}

/// What a bundle says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundled {
    pub groups: Vec<Group>,
    /// Names that nothing else on a host may have: of its groups and of its programs.
    pub names: BTreeSet<String>,
    pub warnings: Vec<String>,
}

/// Why a bundle, or all of it, is not part of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, thiserror::Error)]
#[error("bundle {bundle} is not used: {error}")]
pub struct BundleFault {
    pub bundle: String,
    pub error: ConfigError,
}

/// Reads a bundle. Every error names the file, and mostly line and option.
pub fn read_bundle(bundle: &Bundle, place: Place<'_>, host: &dyn Host) -> Result<Bundled, ConfigError> {
    let mut source = Source::empty(PathBuf::from(&bundle.name), host);
    source.common_bytes = place.environment.iter().map(|(key, value)| key.len() + value.len()).sum();
    let environment: Vec<(String, String)> =
        place.environment.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    source.env.set_env(&environment);
    source.env.set("host_name", Value::Text(place.host_name.to_owned()));
    for (key, value) in place.labels {
        source.env.set(&format!("host_label_{key}"), Value::Text(value.clone()));
    }
    for (path, text) in &bundle.files {
        source.add_file(path, text)?;
        if source.document.has_defaults() {
            let message = "a bundle has no [DEFAULT]: write the option into each section";
            return Err(ConfigError::new(message).in_file(path).in_section("DEFAULT"));
        }
    }
    let mut names = BTreeSet::new();
    for section in source.document.sections() {
        let Some(name) = BUNDLE_SECTIONS.iter().find_map(|kind| section.strip_prefix(kind)) else {
            let message = format!(
                "section [{section}] cannot be in a bundle, which has [program:x], [group:x], [eventlistener:x] \
                 and [fcgi-program:x] alone; it belongs into the host's own configuration"
            );
            return Err(source.section_error(section, message));
        };
        names.insert(name.trim().to_owned());
    }
    let mut warnings = Vec::new();
    let mut groups = groups(&source, &mut warnings)?;
    names.extend(groups.iter().map(|group| group.name.clone()));
    inherit(&mut groups, place.environment);
    Ok(Bundled { groups, names, warnings })
}

/// Puts `[supervisord] environment` under each process's own.
pub(super) fn inherit(groups: &mut [Group], environment: &BTreeMap<String, String>) {
    for process in groups.iter_mut().flat_map(|group| &mut group.processes) {
        let own = std::mem::replace(&mut process.environment, environment.clone());
        process.environment.extend(own);
    }
}

/// Adds the groups of the host's bundles to its own. One that is faulty, or that defines what the host's own
/// configuration or a bundle before it defines, is left out as a whole.
pub(super) fn add_bundles(config: &mut Config, local: BTreeSet<String>, host: &dyn Host) {
    let Some(fleet) = &config.fleet else { return };
    let bundles = match host.bundles(&fleet.state_dir) {
        Ok(bundles) => bundles,
        Err(reason) => {
            config.warnings.push(format!("no bundle of the fleet is used: {reason}"));
            return;
        }
    };
    let place = Place {
        host_name: &fleet.host,
        labels: &bundles.labels,
        environment: &config.supervisord.environment,
    };
    let mut taken: BTreeMap<String, Option<&str>> = local.into_iter().map(|name| (name, None)).collect();
    let mut faults = Vec::new();
    let mut added = Vec::new();
    for bundle in &bundles.bundles {
        let read = read_bundle(bundle, place, host);
        let read = read.and_then(|read| match read.names.iter().find_map(|name| taken.get_key_value(name)) {
            Some((name, owner)) => Err(clash(bundle, name, *owner)),
            None => Ok(read),
        });
        match read {
            Ok(read) => {
                taken.extend(read.names.into_iter().map(|name| (name, Some(bundle.name.as_str()))));
                config.warnings.extend(read.warnings);
                config.bundled.extend(read.groups.iter().map(|g| (g.name.clone(), bundle.name.clone())));
                added.extend(read.groups);
            }
            Err(error) => faults.push(BundleFault { bundle: bundle.name.clone(), error }),
        }
    }
    config.warnings.extend(faults.iter().map(ToString::to_string));
    config.bundle_faults = faults;
    config.groups.extend(added);
    config.groups.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
}

fn clash(bundle: &Bundle, name: &str, owner: Option<&str>) -> ConfigError {
    let owner = match owner {
        Some(other) => format!("by bundle {other}"),
        None => "by this host's own configuration".to_owned(),
    };
    ConfigError::new(format!("{name} is defined {owner}, and by bundle {} too", bundle.name))
}

/// Names that the host's own configuration has taken.
pub(super) fn own_names(source: &Source<'_>, groups: &[Group]) -> BTreeSet<String> {
    let sections = source.document.sections();
    let named =
        sections.filter_map(|section| BUNDLE_SECTIONS.iter().find_map(|kind| section.strip_prefix(kind)));
    let mut names: BTreeSet<String> = named.map(|name| name.trim().to_owned()).collect();
    names.extend(groups.iter().map(|group| group.name.clone()));
    names
}

/// Names of `%(ENV_X)s` and `%(host_label_X)s` that a text uses: what a reader who is not on the host has to
/// stand in for.
pub fn names_used(text: &str, prefix: &str) -> BTreeSet<String> {
    let opening = format!("%({prefix}");
    text.match_indices(&opening)
        .filter_map(|(at, _)| text[at + opening.len()..].split_once(')'))
        .map(|(name, _)| name.to_owned())
        .filter(|name| name.len() <= 256)
        .collect()
}

/// What of a host's own configuration can be a bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnPrograms {
    /// File name and text.
    pub files: Vec<(String, String)>,
    /// Headers of the other sections, with their files.
    pub left_out: Vec<String>,
}

/// The programs of the configuration at `path` and of what it includes, file by file.
pub fn own_programs(path: &Path, host: &dyn Host) -> Result<OwnPrograms, ConfigError> {
    let source = Source::open_with_includes(path, host)?;
    let mut own = OwnPrograms::default();
    for file in source.document.files() {
        let unreadable = |reason: String| ConfigError::new(reason).in_file(file);
        let text = host.read(file).map_err(unreadable)?;
        let here = absolute(dirname(&file.to_string_lossy()), host);
        let (part, left_out) = bundle_part(file, &String::from_utf8_lossy(&text), &here);
        own.left_out.extend(left_out);
        if !part.is_empty() {
            let name = free_name(file, &own.files);
            own.files.push((name, part));
        }
    }
    Ok(own)
}

/// A name that a bundle's file may have and none has yet, like that of `file`.
fn free_name(file: &Path, taken: &[(String, String)]) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    let stem: String = stem.trim_start_matches(['.', '-']).chars().map(plain).take(100).collect();
    let stem = if stem.is_empty() { "programs".to_owned() } else { stem };
    let numbered = (2..).map(|number| format!("{stem}-{number}.conf"));
    let mut names = std::iter::once(format!("{stem}.conf")).chain(numbered);
    names.find(|name| taken.iter().all(|(other, _)| other != name)).unwrap_or(stem)
}

/// The parts of a file that may be in a bundle, word by word, with `%(here)s` as the folder that it stands for.
/// Also gives the headers of the sections that were left out.
fn bundle_part(path: &Path, text: &str, here: &str) -> (String, Vec<String>) {
    let (mut part, mut left_out) = (String::new(), Vec::new());
    let mut keep = false;
    // Comments in front of a section belong to it.
    let mut waiting = String::new();
    for line in text.split_inclusive('\n') {
        let header = line.strip_prefix('[').and_then(|rest| rest.rfind(']').map(|end| &rest[..end]));
        if let Some(header) = header {
            keep = BUNDLE_SECTIONS.iter().any(|kind| header.starts_with(kind));
            if !keep {
                left_out.push(format!("[{header}] of {}", path.display()));
            }
        } else if line.starts_with([';', '#']) || line.trim().is_empty() {
            waiting.push_str(line);
            continue;
        }
        if keep {
            part.push_str(&waiting);
            part.push_str(&line.replace("%(here)s", here));
        }
        waiting.clear();
    }
    (part, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::host::memory::Memory;
    use crate::config::load;

    fn bundle(name: &str, files: &[(&str, &str)]) -> Bundle {
        let files = files.iter().map(|(path, text)| (PathBuf::from(path), text.as_bytes().to_vec()));
        Bundle { name: name.to_owned(), files: files.collect() }
    }

    fn read(files: &[(&str, &str)]) -> Result<Bundled, ConfigError> {
        let labels = BTreeMap::from([("role".to_owned(), "web".to_owned())]);
        let environment = BTreeMap::from([("ZONE".to_owned(), "eu".to_owned())]);
        let place = Place { host_name: "web-01", labels: &labels, environment: &environment };
        read_bundle(&bundle("b", files), place, &Memory::new(&[]))
    }

    #[test]
    fn values_know_the_host_its_labels_and_its_environment() {
        let text = "[program:a]\ncommand=run %(host_name)s %(host_label_role)s %(ENV_ZONE)s\n";
        let read = read(&[("a.conf", text)]).unwrap();
        let process = &read.groups[0].processes[0];
        assert_eq!(process.command, "run web-01 web eu");
        assert_eq!(process.environment["ZONE"], "eu");
    }

    #[test]
    fn a_mistake_names_its_file_and_line() {
        let ok = ("a.conf", "[program:a]\ncommand=x\n");
        let bad = ("b.conf", "[program:b]\ncommand=x\n\nstartsecs=soon\n");
        let error = read(&[ok, bad]).unwrap_err();
        assert_eq!((error.file, error.line), (Some("b.conf".into()), Some(4)));
        assert_eq!(error.option.as_deref(), Some("startsecs"));
        let error = read(&[("a.conf", "[program:a]\ncommand=%(host_label_dc)s\n")]).unwrap_err();
        assert!(error.message.contains("'host_label_dc'"), "{error}");
    }

    #[test]
    fn sections_of_the_daemon_are_refused() {
        for section in ["supervisord", "include", "fleet", "rpcinterface:x", "unix_http_server", "DEFAULT"] {
            let error =
                read(&[("a.conf", &format!("[program:a]\ncommand=x\n[{section}]\nx=1\n"))]).unwrap_err();
            assert!(error.message.contains("bundle"), "{section}: {error}");
            assert_eq!(error.file, Some("a.conf".into()), "{section}");
        }
    }

    struct Given(Memory, Bundles);

    impl Host for Given {
        fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
            self.0.read(path)
        }
        fn exists(&self, path: &Path) -> bool {
            self.0.exists(path)
        }
        fn is_dir(&self, path: &Path) -> bool {
            self.0.is_dir(path)
        }
        fn entries(&self, directory: &Path) -> Vec<String> {
            self.0.entries(directory)
        }
        fn env(&self) -> Vec<(String, String)> {
            self.0.env()
        }
        fn cwd(&self) -> PathBuf {
            self.0.cwd()
        }
        fn node_name(&self) -> String {
            self.0.node_name()
        }
        fn temp_dir(&self) -> PathBuf {
            self.0.temp_dir()
        }
        fn uid(&self) -> u32 {
            self.0.uid()
        }
        fn user_by_name(&self, name: &str) -> Option<crate::config::User> {
            self.0.user_by_name(name)
        }
        fn user_by_uid(&self, uid: u32) -> Option<crate::config::User> {
            self.0.user_by_uid(uid)
        }
        fn gid_by_name(&self, name: &str) -> Option<u32> {
            self.0.gid_by_name(name)
        }
        fn gid_exists(&self, gid: u32) -> bool {
            self.0.gid_exists(gid)
        }
        fn bundles(&self, _state_dir: &Path) -> Result<Bundles, String> {
            Ok(self.1.clone())
        }
    }

    #[test]
    fn bundles_stand_beside_the_hosts_own_programs_and_never_take_their_names() {
        let own = "[supervisord]\nenvironment=A=1\n[fleet]\ncontroller=c:1\nhost=web-01\n[program:own]\ncommand=x\n";
        let bundles = vec![
            bundle("a", &[("/b/a/x.conf", "[program:web]\ncommand=%(here)s\npriority=5\n")]),
            bundle("b", &[("/b/b/x.conf", "[program:web]\ncommand=y\n")]),
            bundle("c", &[("/b/c/x.conf", "[group:g]\nprograms=own\n[program:own]\ncommand=y\n")]),
            bundle("d", &[("/b/d/x.conf", "[program:d]\ncommand=y\nuser=nobody\n")]),
            bundle("e", &[("/b/e/x.conf", "[program:e]\ncommand=y\n")]),
        ];
        let host = Given(Memory::new(&[("/etc/s.conf", own)]), Bundles { bundles, ..Bundles::default() });
        let config = load(Path::new("/etc/s.conf"), &host).unwrap();
        let names: Vec<&str> = config.groups.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(names, ["web", "e", "own"]);
        assert_eq!(config.groups[0].processes[0].command, "/b/a");
        assert_eq!(config.groups[0].processes[0].environment["A"], "1");
        assert_eq!(config.bundled["web"], "a");
        let faults: Vec<String> = config.bundle_faults.iter().map(ToString::to_string).collect();
        assert_eq!(faults[0], "bundle b is not used: web is defined by bundle a, and by bundle b too");
        assert_eq!(
            faults[1],
            "bundle c is not used: own is defined by this host's own configuration, and by bundle c too"
        );
        assert!(faults[2].starts_with("bundle d is not used: Invalid user name nobody"), "{}", faults[2]);
        assert_eq!(faults.len(), 3);
    }

    #[test]
    fn the_names_that_a_text_uses_are_found() {
        let used = names_used("%(ENV_A)s %(ENV_B)d %(ENV_A)s %(host_name)s %(ENV_", "ENV_");
        assert_eq!(used, ["A", "B"].map(str::to_owned).into());
    }

    #[test]
    fn the_part_of_a_file_that_is_for_a_bundle_is_taken_word_by_word() {
        let text = "[supervisord]\nlogfile=x\n; about a\n\n[program:a]\ncommand=%(here)s/run\n  -v\n[fleet]\nhost=x\n[group:g]\nprograms=a\n";
        let (part, left_out) = bundle_part(Path::new("/etc/s.conf"), text, "/etc");
        assert_eq!(part, "; about a\n\n[program:a]\ncommand=/etc/run\n  -v\n[group:g]\nprograms=a\n");
        assert_eq!(left_out, ["[supervisord] of /etc/s.conf", "[fleet] of /etc/s.conf"]);
    }
}
