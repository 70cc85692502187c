//! What the daemon was started with: its command line, and the configuration that this leads to.

use std::collections::BTreeMap;
use std::ffi::OsString;

use fleetvisor_model::config::{self, Config, HttpAddress};
use serde::{Deserialize, Serialize};

use crate::cli::{Exit, Invocation};
use crate::host::FileSystem;
use crate::inbox::{Facts, Handle};
use crate::program::Surroundings;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) invocation: Invocation,
    pub(crate) config: Config,
}

impl Settings {
    /// Reads the configuration; the error is Supervisor's message and exit code.
    pub(crate) fn load(invocation: Invocation) -> Result<Settings, Exit> {
        let config = invocation.load(&FileSystem).map_err(|error| invocation.usage(&error.to_string()))?;
        Ok(Settings { invocation, config })
    }

    pub(crate) fn facts(&self, pid: i32) -> Facts {
        let section = &self.config.supervisord;
        Facts {
            pid,
            identifier: section.identifier.clone(),
            logfile: section.logfile.clone(),
            config_path: self.invocation.config_path.clone(),
            executable: self.invocation.executable.clone(),
        }
    }

    /// What programs inherit: the daemon's environment, and the server they can call back.
    pub(crate) fn surroundings(&self) -> Surroundings {
        let mut environment: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        let own = &self.config.supervisord.environment;
        environment.extend(own.iter().map(|(key, value)| (key.into(), value.into())));
        Surroundings { environment, serverurl: self.serverurl() }
    }

    /// The unix socket if there is one, else the first TCP server.
    fn serverurl(&self) -> Option<String> {
        let addresses = || self.config.servers.iter().map(|server| &server.address);
        let unix = addresses().find_map(|address| match address {
            HttpAddress::Unix { file, .. } => Some(format!("unix://{}", file.display())),
            HttpAddress::Inet { .. } => None,
        });
        unix.or_else(|| {
            addresses().find_map(|address| match address {
                HttpAddress::Inet { host, port } => {
                    let host = if host.is_empty() { "localhost" } else { host };
                    Some(format!("http://{host}:{port}"))
                }
                HttpAddress::Unix { .. } => None,
            })
        })
    }
}

/// Reads the configuration file as it is now, off the loop.
pub(crate) async fn load_again(handle: &Handle) -> Result<Config, String> {
    let path = handle.facts().config_path.clone();
    let read = tokio::task::spawn_blocking(move || config::load(&path, &FileSystem));
    match read.await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the configuration could not be read".to_owned()),
    }
}
