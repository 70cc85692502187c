//! From a configured process to what the keeper is to execute: words, file, environment, user. Says in
//! Supervisor's words why a program can't be executed; does not execute anything.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use fleetvisor_core::command;
use fleetvisor_core::request::Refusal;
use fleetvisor_keeper::frame::Identity;
use fleetvisor_model::config::{Process, repr};
use nix::unistd::{AccessFlags, Uid, User, access, getgrouplist};

/// Searched where neither the program nor the daemon has a PATH.
const DEFAULT_PATH: &str = "/bin:/usr/bin:/usr/local/bin";

/// What children get beside their own environment.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    /// Of the daemon itself.
    pub(crate) environment: BTreeMap<OsString, OsString>,
    /// `unix:///run/s.sock` or `http://host:port`.
    pub(crate) serverurl: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Executable {
    pub(crate) file: PathBuf,
    pub(crate) words: Vec<String>,
}

/// Finds the file to execute, or says why there is none.
pub(crate) fn executable(process: &Process, surroundings: &Surroundings) -> Result<Executable, Refusal> {
    let words = command::split(&process.command).map_err(|error| {
        Refusal::NotExecutable(format!("can't parse command {}: {error}", repr(&process.command)))
    })?;
    let Some(program) = words.first() else {
        return Err(Refusal::NotExecutable("command is empty".to_owned()));
    };
    let file = if program.contains('/') {
        PathBuf::from(program)
    } else {
        let own = process.environment.get("PATH").map(OsStr::new);
        let path = own.or_else(|| surroundings.environment.get(OsStr::new("PATH")).map(OsString::as_os_str));
        // The first file of that name is taken even where it can't be executed.
        std::env::split_paths(path.unwrap_or(OsStr::new(DEFAULT_PATH)))
            .map(|folder| folder.join(program))
            .find(|file| file.exists())
            .unwrap_or_else(|| PathBuf::from(program))
    };
    check(&file)?;
    Ok(Executable { file, words })
}

fn check(file: &Path) -> Result<(), Refusal> {
    use std::os::unix::fs::PermissionsExt;
    let shown = repr(&file.to_string_lossy());
    let Ok(metadata) = std::fs::metadata(file) else {
        return Err(Refusal::NoFile(format!("can't find command {shown}")));
    };
    if metadata.is_dir() {
        return Err(Refusal::NotExecutable(format!("command at {shown} is a directory")));
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(Refusal::NotExecutable(format!("command at {shown} is not executable")));
    }
    access(file, AccessFlags::X_OK)
        .map_err(|_| Refusal::NotExecutable(format!("no permission to run command {shown}")))
}

/// The words of a refusal as `spawnerr` shows them.
pub(crate) fn spawn_error(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NoFile(text) | Refusal::NotExecutable(text) | Refusal::Failed(text) => text.clone(),
        Refusal::BadName
        | Refusal::AlreadyStarted
        | Refusal::NotRunning
        | Refusal::SpawnError
        | Refusal::AbnormalTermination
        | Refusal::AlreadyAdded
        | Refusal::StillRunning
        | Refusal::ShutdownState => "unknown error".to_owned(),
    }
}

/// The child's whole environment: the daemon's, Supervisor's own variables, the program's on top.
pub(crate) fn environment(process: &Process, surroundings: &Surroundings) -> BTreeMap<OsString, OsString> {
    let url = process.serverurl.as_ref().or(surroundings.serverurl.as_ref());
    let own = [
        ("SUPERVISOR_ENABLED", Some("1")),
        ("SUPERVISOR_SERVER_URL", url.map(String::as_str)),
        ("SUPERVISOR_PROCESS_NAME", Some(process.name.process.as_str())),
        ("SUPERVISOR_GROUP_NAME", Some(process.name.group.as_str())),
    ];
    let mut environment = surroundings.environment.clone();
    let own = own.into_iter().filter_map(|(key, value)| Some((key, value?)));
    let programs = process.environment.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    environment.extend(own.chain(programs).map(|(key, value)| (key.into(), value.into())));
    environment
}

/// What becoming `uid` takes; `None` where this process is that user already.
pub(crate) fn become_user(uid: u32) -> Result<Option<Identity>, String> {
    let user =
        User::from_uid(Uid::from_raw(uid)).ok().flatten().ok_or_else(|| format!("Can't find uid {uid}"))?;
    let current = nix::unistd::getuid();
    if current == user.uid {
        return Ok(None);
    }
    if !current.is_root() {
        return Err("Can't drop privilege as nonroot user".to_owned());
    }
    let name = CString::new(user.name.as_bytes()).map_err(|_| format!("Can't find uid {uid}"))?;
    let groups = getgrouplist(&name, user.gid)
        .map_err(|_| "Could not set groups of effective user".to_owned())?
        .into_iter()
        .map(|gid| gid.as_raw())
        .collect();
    Ok(Some(Identity { uid, gid: user.gid.as_raw(), groups }))
}

/// `KEY=value` as `execve` takes it.
pub(crate) fn as_exec_strings(environment: &BTreeMap<OsString, OsString>) -> Vec<Vec<u8>> {
    environment.iter().map(|(key, value)| [key.as_bytes(), b"=", value.as_bytes()].concat()).collect()
}

/// A path as the keeper takes it.
pub(crate) fn path_bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use fleetvisor_model::config;

    use super::*;
    use crate::host::FileSystem;

    /// The first process of a configuration with this `[program:x]`.
    fn process(folder: &Path, lines: &str) -> Process {
        let path = folder.join("s.conf");
        std::fs::write(&path, format!("[supervisord]\n[program:x]\n{lines}\n")).unwrap();
        config::load(&path, &FileSystem).unwrap().groups.remove(0).processes.remove(0)
    }

    fn surroundings(path: &str) -> Surroundings {
        let environment = BTreeMap::from([("PATH".into(), path.into())]);
        Surroundings { environment, serverurl: Some("unix:///s.sock".to_owned()) }
    }

    fn file(folder: &Path, name: &str, mode: u32) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn the_programs_own_path_is_searched_before_the_daemons() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::create_dir(&a).unwrap();
        std::fs::create_dir(&b).unwrap();
        file(&a, "tool", 0o755);
        file(&b, "tool", 0o755);
        let own = process(folder.path(), &format!("command=tool -v\nenvironment=PATH=\"{}\"", a.display()));
        let found = executable(&own, &surroundings(&b.display().to_string())).unwrap();
        assert_eq!(found, Executable { file: a.join("tool"), words: vec!["tool".into(), "-v".into()] });
        let other = process(folder.path(), "command=tool");
        assert_eq!(executable(&other, &surroundings(&b.display().to_string())).unwrap().file, b.join("tool"));
    }

    #[test]
    fn what_can_not_be_executed_is_refused_in_supervisors_words() {
        let folder = tempfile::tempdir().unwrap();
        let plain = file(folder.path(), "plain", 0o644);
        let refused = |command: String| {
            let process = process(folder.path(), &format!("command={command}"));
            executable(&process, &surroundings("/bin")).unwrap_err()
        };
        assert_eq!(refused("nosuch".into()), Refusal::NoFile("can't find command 'nosuch'".into()));
        assert_eq!(
            refused(plain.display().to_string()),
            Refusal::NotExecutable(format!("command at '{}' is not executable", plain.display()))
        );
        assert_eq!(
            refused("/tmp/".into()),
            Refusal::NotExecutable("command at '/tmp/' is a directory".into())
        );
        assert_eq!(
            refused("'a".into()),
            Refusal::NotExecutable("can't parse command \"'a\": No closing quotation".into())
        );
    }

    #[test]
    fn a_child_learns_who_it_is_and_how_to_call_back() {
        let folder = tempfile::tempdir().unwrap();
        let process =
            process(folder.path(), "command=/bin/cat\nenvironment=A=\"1\",SUPERVISOR_ENABLED=\"2\"");
        let environment = environment(&process, &surroundings("/bin"));
        let get = |key: &str| environment.get(OsStr::new(key)).unwrap().to_str().unwrap();
        assert_eq!(get("SUPERVISOR_SERVER_URL"), "unix:///s.sock");
        assert_eq!((get("SUPERVISOR_PROCESS_NAME"), get("SUPERVISOR_GROUP_NAME")), ("x", "x"));
        assert_eq!((get("A"), get("SUPERVISOR_ENABLED"), get("PATH")), ("1", "2", "/bin"));
    }
}
