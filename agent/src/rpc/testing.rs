//! A daemon without processes: a loop that answers as the real one does about a few that are made up.

use std::path::{Path, PathBuf};

use fleetvisor_core::request::{Outcome, Processes, Refusal, Verb};
use fleetvisor_model::config;
use fleetvisor_model::name::ProcessName;
use fleetvisor_model::state::{DaemonState, ProcessState};
use fleetvisor_model::status::ProcessStatus;
use fleetvisor_model::time::Wall;
use tokio::sync::mpsc;

use super::Api;
use crate::host::FileSystem;
use crate::inbox::{ConfiguredGroup, Facts, Handle, Message, StdinError};
use crate::logs::{self, DaemonLog};

const CONFIG: &str = "[supervisord]\nlogfile=%(here)s/s.log\nidentifier=me\n\
    [program:run]\ncommand=/bin/cat\nstdout_logfile=%(here)s/run.log\nstderr_logfile=NONE\n\
    [group:g]\nprograms=x,y\n[program:x]\ncommand=/bin/cat\n[program:y]\ncommand=/bin/cat\nautostart=false\n";

/// `run` and `g:x` run, `g:y` does not; `new` could be added. `run` logs to `run.log` in this folder, the
/// daemon to `s.log`.
pub(crate) fn api(folder: &Path) -> Api {
    let path = folder.join("s.conf");
    std::fs::write(&path, CONFIG).unwrap();
    let config = config::load(&path, &FileSystem).unwrap();
    let section = &config.supervisord;
    let (messages, mut inbox) = mpsc::unbounded_channel();
    let facts = Facts {
        pid: 4711,
        identifier: section.identifier.clone(),
        logfile: section.logfile.clone(),
        config_path: path,
        executable: PathBuf::new(),
    };
    let handle = Handle::new(messages, facts);
    let logs = logs::start(DaemonLog::open(section).unwrap(), false, handle.clone()).unwrap();
    let daemon = Daemon { handle: handle.clone(), configs: config.groups };
    tokio::spawn(async move {
        while let Some(message) = inbox.recv().await {
            daemon.take(message);
        }
    });
    Api { handle, logs }
}

struct Daemon {
    handle: Handle,
    configs: Vec<config::Group>,
}

impl Daemon {
    fn take(&self, message: Message) {
        match message {
            Message::Verb { verb, processes, outcomes } => {
                for (name, outcome) in self.verb(verb, processes) {
                    outcomes.send((name, outcome)).unwrap();
                }
            }
            Message::AddGroup { name, answer } => {
                let outcome = match name.as_str() {
                    "new" => Ok(()),
                    "run" | "g" => Err(Refusal::AlreadyAdded),
                    _ => Err(Refusal::BadName),
                };
                answer.send(outcome).unwrap();
            }
            Message::RemoveGroup { name, answer } => {
                let known = self.configs.iter().any(|group| group.name == name);
                answer.send(Err(if known { Refusal::StillRunning } else { Refusal::BadName })).unwrap();
            }
            Message::Shutdown { answer } => {
                self.handle.set_state(DaemonState::Shutdown);
                answer.send(()).unwrap();
            }
            Message::Status { name, answer } => answer.send(self.status(&name)).unwrap(),
            Message::Statuses { answer } => {
                let names = self.configs.iter().flat_map(|group| &group.processes);
                let mut all: Vec<_> = names.filter_map(|process| self.status(&process.name)).collect();
                all.sort_by(|a, b| a.name.cmp(&b.name));
                answer.send(all).unwrap();
            }
            Message::GroupNames { group, answer } => {
                let group = self.configs.iter().find(|config| config.name == group);
                let names = |group: &config::Group| {
                    group.processes.iter().map(|process| process.name.clone()).collect()
                };
                answer.send(group.map(names)).unwrap();
            }
            Message::Configs { answer } => {
                let configured =
                    |group: &config::Group| ConfiguredGroup { group: group.clone(), in_use: true };
                answer.send(self.configs.iter().map(configured).collect()).unwrap();
            }
            Message::WriteStdin { name, answer, .. } => {
                let running = self.status(&name).map(|status| status.state.is_running());
                answer
                    .send(match running {
                        Some(true) => Ok(()),
                        Some(false) => Err(StdinError::NotRunning),
                        None => Err(StdinError::BadName),
                    })
                    .unwrap();
            }
            Message::RemoteEvent { .. } => {}
            other => panic!("not asked for in these tests: {other:?}"),
        }
    }

    fn verb(&self, verb: Verb, processes: Processes) -> Vec<(ProcessName, Outcome)> {
        let all = self.configs.iter().flat_map(|group| &group.processes).map(|process| &process.name);
        let (names, named): (Vec<ProcessName>, bool) = match processes {
            Processes::Named(names) => (names, true),
            Processes::Group(group) => (all.filter(|name| name.group == group).cloned().collect(), false),
            Processes::All => (all.cloned().collect(), false),
        };
        let outcome = |name: ProcessName| {
            let running = self.status(&name).map(|status| status.state.is_running());
            let outcome = match (running, verb) {
                (None, _) => Err(Refusal::BadName),
                (Some(true), Verb::Start { .. }) => Err(Refusal::AlreadyStarted),
                (Some(false), Verb::Stop { .. } | Verb::Signal(_)) => Err(Refusal::NotRunning),
                (Some(_), _) => Ok(()),
            };
            (named || outcome.is_ok()).then_some((name, outcome))
        };
        names.into_iter().filter_map(outcome).collect()
    }

    fn status(&self, name: &ProcessName) -> Option<ProcessStatus> {
        let process = self.configs.iter().flat_map(|group| &group.processes).find(|p| p.name == *name)?;
        let running = process.autostart;
        let file = |log: &config::OutputLog| match &log.logfile {
            config::LogTarget::File(path) => path.clone(),
            _ => PathBuf::new(),
        };
        Some(ProcessStatus {
            name: name.clone(),
            state: if running { ProcessState::Running } else { ProcessState::Stopped },
            start: Wall::from_secs(if running { 5_000_000_000 } else { 0 }),
            stop: Wall::EPOCH,
            now: Wall::from_secs(1_700_000_000),
            uptime_secs: 61,
            pid: if running { 99 } else { 0 },
            exitstatus: 0,
            spawnerr: String::new(),
            started_once: running,
            stdout_logfile: file(&process.stdout).display().to_string(),
            stderr_logfile: file(&process.stderr).display().to_string(),
        })
    }
}
