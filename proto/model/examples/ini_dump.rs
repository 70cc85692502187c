//! Prints what this crate reads of configuration files, one JSON document per file and line, for comparison
//! with another implementation: `ini_dump ini FILE...` the sections and options, `ini_dump config FILE...`
//! the typed configuration, `ini_dump ctl FILE...` the client's section. An error is `{"error": "..."}`.

use std::path::{Path, PathBuf};

use fleetvisor_model::config::{
    Config, Document, FcgiAddress, GroupKind, Host, HttpAddress, LogTarget, OutputLog, Process, User, load,
    load_ctl,
};

fn main() {
    let mut args = std::env::args().skip(1);
    let mode = args.next().unwrap_or_default();
    for file in args {
        let path = Path::new(&file);
        let dumped = match mode.as_str() {
            "ini" => ini(path),
            "config" => load(path, &Files).map(|config| dump_config(&config)).map_err(|e| e.to_string()),
            "ctl" => ctl(path),
            other => Err(format!("no such mode: {other}")),
        };
        println!("{}", dumped.unwrap_or_else(|error| object(&[("error", text(&error))])));
    }
}

fn ini(path: &Path) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let mut document = Document::default();
    document.read(path, &bytes).map_err(|error| error.to_string())?;
    let sections = document.sections().map(|section| {
        let mut options = document.options(section);
        options.sort_unstable();
        let option =
            |option: &str| array([text(option), text(document.get(section, option).unwrap_or_default())]);
        array([text(section), array(options.into_iter().map(option))])
    });
    Ok(object(&[("sections", array(sections))]))
}

fn ctl(path: &Path) -> Result<String, String> {
    let section = load_ctl(path, &Files).map_err(|error| error.to_string())?;
    let optional = |value: Option<&str>| value.map_or_else(|| "null".to_owned(), text);
    Ok(object(&[
        ("serverurl", text(&section.serverurl)),
        ("username", optional(section.username.as_deref())),
        ("password", optional(section.password.as_deref())),
        ("prompt", text(&section.prompt)),
        ("history_file", optional(section.history_file.as_deref().and_then(Path::to_str))),
    ]))
}

fn dump_config(config: &Config) -> String {
    let section = &config.supervisord;
    let supervisord = object(&[
        ("minfds", section.minfds.to_string()),
        ("minprocs", section.minprocs.to_string()),
        ("directory", optional_path(section.directory.as_deref())),
        ("user", section.user.as_deref().map_or_else(|| "null".to_owned(), text)),
        ("umask", section.umask.to_string()),
        ("logfile", text(&target(&section.logfile))),
        ("logfile_maxbytes", section.logfile_maxbytes.to_string()),
        ("logfile_backups", section.logfile_backups.to_string()),
        ("loglevel", text(&format!("{:?}", section.loglevel).to_lowercase())),
        ("pidfile", text(&section.pidfile.to_string_lossy())),
        ("identifier", text(&section.identifier)),
        ("nodaemon", section.nodaemon.to_string()),
        ("silent", section.silent.to_string()),
        ("childlogdir", text(&section.childlogdir.to_string_lossy())),
        ("nocleanup", section.nocleanup.to_string()),
        ("strip_ansi", section.strip_ansi.to_string()),
        ("environment", pairs(&section.environment)),
    ]);
    let servers = config.servers.iter().map(|server| {
        let address = match &server.address {
            HttpAddress::Inet { host, port } => array([text(host), port.to_string()]),
            HttpAddress::Unix { file, chmod, chown } => {
                array([text(&file.to_string_lossy()), chmod.to_string(), owner(*chown)])
            }
        };
        let auth = server.auth.as_ref();
        let auth = auth.map_or_else(|| "null".to_owned(), |a| array([text(&a.username), text(&a.password)]));
        array([text(&server.section), address, auth])
    });
    let interfaces = config.rpcinterfaces.iter().map(|i| array([text(&i.name), pairs(&i.options)]));
    let groups = config.groups.iter().map(|group| {
        let kind = match &group.kind {
            GroupKind::Programs => array([text("programs")]),
            GroupKind::Listeners { buffer_size, events, result_handler: _ } => array([
                text("listeners"),
                buffer_size.to_string(),
                array(events.iter().map(|event| text(event))),
            ]),
            GroupKind::Fcgi(socket) => {
                let backlog = socket.backlog.map_or_else(|| "null".to_owned(), |backlog| backlog.to_string());
                match &socket.address {
                    FcgiAddress::Tcp { host, port, address: _ } => {
                        array([text("tcp"), text(host), port.to_string(), backlog])
                    }
                    FcgiAddress::Unix { path, owner: chown, mode } => {
                        let path = text(&path.to_string_lossy());
                        array([text("unix"), path, owner(*chown), mode.to_string(), backlog])
                    }
                }
            }
        };
        let processes = array(group.processes.iter().map(process));
        array([text(&group.name), group.priority.to_string(), kind, processes])
    });
    object(&[
        ("supervisord", supervisord),
        ("servers", array(servers)),
        ("rpcinterfaces", array(interfaces)),
        ("groups", array(groups)),
        ("infos", array(config.infos.iter().map(|info| text(info)))),
        ("warnings", array(config.warnings.iter().map(|warning| text(warning)))),
    ])
}

fn process(process: &Process) -> String {
    let number = |value: Option<u32>| value.map_or_else(|| "null".to_owned(), |value| value.to_string());
    object(&[
        ("name", text(&process.name.process)),
        ("command", text(&process.command)),
        ("directory", optional_path(process.directory.as_deref())),
        ("umask", number(process.umask)),
        ("priority", process.priority.to_string()),
        ("autostart", process.autostart.to_string()),
        ("autorestart", text(&format!("{:?}", process.autorestart).to_lowercase())),
        ("startsecs", process.startsecs.to_string()),
        ("startretries", process.startretries.to_string()),
        ("uid", number(process.uid)),
        ("stdout", output(&process.stdout)),
        ("stderr", output(&process.stderr)),
        ("redirect_stderr", process.redirect_stderr.to_string()),
        ("stopsignal", process.stopsignal.0.to_string()),
        ("stopwaitsecs", process.stopwaitsecs.to_string()),
        ("stopasgroup", process.stopasgroup.to_string()),
        ("killasgroup", process.killasgroup.to_string()),
        ("exitcodes", array(process.exitcodes.iter().map(i32::to_string))),
        ("environment", pairs(&process.environment)),
        ("serverurl", process.serverurl.as_deref().map_or_else(|| "null".to_owned(), text)),
    ])
}

fn output(log: &OutputLog) -> String {
    array([
        text(&target(&log.logfile)),
        log.logfile_maxbytes.to_string(),
        log.logfile_backups.to_string(),
        log.capture_maxbytes.to_string(),
        log.events_enabled.to_string(),
        log.syslog.to_string(),
    ])
}

fn target(target: &LogTarget) -> String {
    match target {
        LogTarget::None => "NONE".to_owned(),
        LogTarget::Auto => "AUTO".to_owned(),
        LogTarget::Syslog => "syslog".to_owned(),
        LogTarget::File(path) => path.to_string_lossy().into_owned(),
    }
}

fn owner(owner: Option<(u32, u32)>) -> String {
    owner.map_or_else(|| "null".to_owned(), |(uid, gid)| array([uid, gid].map(|id| (id as i32).to_string())))
}

fn optional_path(path: Option<&Path>) -> String {
    path.map_or_else(|| "null".to_owned(), |path| text(&path.to_string_lossy()))
}

fn pairs(pairs: &std::collections::BTreeMap<String, String>) -> String {
    array(pairs.iter().map(|(name, value)| array([text(name), text(value)])))
}

fn array(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(","))
}

fn object(members: &[(&str, String)]) -> String {
    let members: Vec<String> =
        members.iter().map(|(name, value)| format!("{}:{value}", text(name))).collect();
    format!("{{{}}}", members.join(","))
}

/// A JSON string.
fn text(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' || c == '\u{7f}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The files, and the users that `/etc/passwd` and `/etc/group` list.
struct Files;

fn database(file: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect()
}

fn user(matches: impl Fn(&[String]) -> bool) -> Option<User> {
    let line = database("/etc/passwd").into_iter().find(|line| line.len() > 5 && matches(line))?;
    Some(User { uid: line[2].parse().ok()?, gid: line[3].parse().ok()?, home: line[5].clone() })
}

impl Host for Files {
    fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        std::fs::read(path).map_err(|error| error.to_string())
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn is_dir(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn entries(&self, directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn env(&self) -> Vec<(String, String)> {
        std::env::vars().collect()
    }

    fn cwd(&self) -> PathBuf {
        std::env::current_dir().unwrap_or_default()
    }

    fn node_name(&self) -> String {
        std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
    }

    fn temp_dir(&self) -> PathBuf {
        std::env::temp_dir()
    }

    fn uid(&self) -> u32 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        line.and_then(|ids| ids.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }

    fn user_by_name(&self, name: &str) -> Option<User> {
        user(|line| line[0] == name)
    }

    fn user_by_uid(&self, uid: u32) -> Option<User> {
        user(|line| line[2] == uid.to_string())
    }

    fn gid_by_name(&self, name: &str) -> Option<u32> {
        database("/etc/group").iter().find(|line| line[0] == name)?.get(2)?.parse().ok()
    }

    fn gid_exists(&self, gid: u32) -> bool {
        database("/etc/group").iter().any(|line| line.get(2) == Some(&gid.to_string()))
    }
}
