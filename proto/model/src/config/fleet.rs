//! `[fleet]`: our own section, in Supervisor's manner. A configuration without it is a host on its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::error::ConfigError;
use super::path::normalize;
use super::python::repr;
use super::source::{Section, Source};
use super::types::FleetSection;
use super::value::{inet_address, list};

const DEFAULT_STATE_DIR: &str = "/var/lib/fleetvisor/agent";
const MAX_CONTROLLERS: usize = 16;
const MAX_LABELS: usize = 64;
/// Of a host's name, and of a label's key and value.
const MAX_NAME: usize = 253;

pub(super) fn fleet_section(source: &Source<'_>) -> Result<Option<FleetSection>, ConfigError> {
    if !source.document.has_section("fleet") {
        return Ok(None);
    }
    let names = source.local_names();
    let file = source.document.section_file("fleet").unwrap_or(Path::new(""));
    let read = read(&source.section("fleet", &[&names]));
    read.map(Some).map_err(|error| error.within("fleet", file))
}

fn read(section: &Section<'_>) -> Result<FleetSection, ConfigError> {
    let host = section.source.host;
    let path = |value: &str| -> Result<PathBuf, String> {
        if value.is_empty() { Err("empty path".to_owned()) } else { Ok(normalize(value, host)) }
    };
    let Some(controller) = section.value("controller", controllers)? else {
        return Err(section.error("controller", "fleet section does not specify a controller"));
    };
    let name = match section.value("host", host_name)? {
        Some(name) => name,
        None => host_name(&section.source.node_name).map_err(|message| section.error("host", message))?,
    };
    Ok(FleetSection {
        controller,
        host: name,
        labels: section.value("labels", labels)?.unwrap_or_default(),
        join_token_file: section.value("join_token_file", path)?,
        state_dir: section.value("state_dir", path)?.unwrap_or_else(|| PathBuf::from(DEFAULT_STATE_DIR)),
        enforce: section.value("reconcile", reconcile)?.unwrap_or(false),
    })
}

fn reconcile(value: &str) -> Result<bool, String> {
    match value {
        "report" => Ok(false),
        "enforce" => Ok(true),
        _ => Err(format!("not report or enforce: {}", repr(value))),
    }
}

fn controllers(value: &str) -> Result<Vec<String>, String> {
    let addresses: Vec<String> = list(value).into_iter().map(str::to_owned).collect();
    if addresses.is_empty() || addresses.len() > MAX_CONTROLLERS {
        return Err(format!("not a list of 1 to {MAX_CONTROLLERS} controllers: {}", repr(value)));
    }
    for address in &addresses {
        let host = address.rsplit_once(':').map_or("", |(host, _)| host);
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let plain = match bare {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => is_name(host),
        };
        if !plain {
            return Err(format!("controller {} is not of the form host:port", repr(address)));
        }
        inet_address(address).map_err(|why| format!("controller {}: {why}", repr(address)))?;
    }
    Ok(addresses)
}

/// What may stand between the colons of `host:group:process`, and in a certificate.
fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !text.is_empty() && text.len() <= MAX_NAME && !text.starts_with('-') && text.chars().all(plain)
}

fn host_name(value: &str) -> Result<String, String> {
    match is_name(value) {
        true => Ok(value.to_owned()),
        false => Err(format!("not a valid host name: {} (letters, digits, '.', '_', '-')", repr(value))),
    }
}

fn labels(value: &str) -> Result<BTreeMap<String, String>, String> {
    let mut labels = BTreeMap::new();
    for part in list(value).into_iter().filter(|part| !part.is_empty()) {
        let pair = part.split_once('=').map(|(key, value)| (key.trim(), value.trim()));
        let Some((key, value)) = pair.filter(|(key, value)| is_name(key) && is_name(value)) else {
            return Err(format!(
                "not a valid label: {} (key=value of letters, digits, '.', '_', '-')",
                repr(part)
            ));
        };
        labels.insert(key.to_owned(), value.to_owned());
    }
    match labels.len() {
        0..=MAX_LABELS => Ok(labels),
        count => Err(format!("{count} labels are more than {MAX_LABELS}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::host::memory::Memory;
    use crate::config::load;

    fn fleet(options: &str) -> Result<Option<FleetSection>, ConfigError> {
        let host = Memory::new(&[("/etc/s.conf", &format!("[supervisord]\n[fleet]\n{options}\n"))]);
        load(Path::new("/etc/s.conf"), &host).map(|config| config.fleet)
    }

    #[test]
    fn a_host_joins_under_its_own_name() {
        let section = fleet(
            "controller=127.0.0.1:7443, other:7443,[::1]:1\nlabels=role=web, dc=eu\n\
             join_token_file=%(here)s/token\nstate_dir=%(here)s/fleet",
        );
        let labels = [("dc", "eu"), ("role", "web")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let expected = FleetSection {
            controller: ["127.0.0.1:7443", "other:7443", "[::1]:1"].map(str::to_owned).into(),
            host: "node-1".to_owned(),
            labels: BTreeMap::from(labels),
            join_token_file: Some("/etc/token".into()),
            state_dir: "/etc/fleet".into(),
            enforce: false,
        };
        assert_eq!(section.unwrap(), Some(expected));
        assert!(fleet("controller=a:1\nreconcile=enforce").unwrap().unwrap().enforce);
        assert!(!fleet("controller=a:1\nreconcile=report").unwrap().unwrap().enforce);
    }

    #[test]
    fn mistakes_end_with_the_section_and_its_file() {
        for (options, expected) in [
            ("", "fleet section does not specify a controller"),
            ("controller=", "not a list of 1 to 16 controllers: ''"),
            ("controller=a", "controller 'a' is not of the form host:port"),
            ("controller=a:0", "controller 'a:0': 0 is below lower bound (1)"),
            ("controller=a:1\nhost=a:b", "not a valid host name: 'a:b' (letters, digits, '.', '_', '-')"),
            (
                "controller=a:1\nlabels=role",
                "not a valid label: 'role' (key=value of letters, digits, '.', '_', '-')",
            ),
            ("controller=a:1\nstate_dir=", "empty path"),
            ("controller=a:1\nreconcile=yes", "not report or enforce: 'yes'"),
        ] {
            let message = format!("{expected} in section 'fleet' (file: '/etc/s.conf')");
            assert_eq!(fleet(options).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_host_without_the_section_is_on_its_own() {
        let host = Memory::new(&[("/s.conf", "[supervisord]\n")]);
        assert_eq!(load(Path::new("/s.conf"), &host).unwrap().fleet, None);
    }
}
