//! Which groups there are: `[group:x]`, and every `[program:x]`, `[eventlistener:x]` and `[fcgi-program:x]`
//! that is one by itself.

use std::collections::HashSet;
use std::path::PathBuf;

use super::error::ConfigError;
use super::expand::Names;
use super::path::normalize;
use super::program::processes;
use super::rpcinterface::cannot_load;
use super::source::{Section, Source};
use super::types::{FcgiAddress, FcgiSocket, Group, GroupKind, Process, ResultHandler};
use super::value::{
    boolean, integer, list, name_to_uid, octal, process_or_group_name, tcp_url, user_and_group,
};

/// Every event type that a listener may ask for; a name covers those that it starts with.
pub const EVENT_TYPES: [&str; 27] = [
    "EVENT",
    "PROCESS_COMMUNICATION",
    "PROCESS_COMMUNICATION_STDERR",
    "PROCESS_COMMUNICATION_STDOUT",
    "PROCESS_GROUP",
    "PROCESS_GROUP_ADDED",
    "PROCESS_GROUP_REMOVED",
    "PROCESS_LOG",
    "PROCESS_LOG_STDERR",
    "PROCESS_LOG_STDOUT",
    "PROCESS_STATE",
    "PROCESS_STATE_BACKOFF",
    "PROCESS_STATE_EXITED",
    "PROCESS_STATE_FATAL",
    "PROCESS_STATE_RUNNING",
    "PROCESS_STATE_STARTING",
    "PROCESS_STATE_STOPPED",
    "PROCESS_STATE_STOPPING",
    "PROCESS_STATE_UNKNOWN",
    "REMOTE_COMMUNICATION",
    "SUPERVISOR_STATE_CHANGE",
    "SUPERVISOR_STATE_CHANGE_RUNNING",
    "SUPERVISOR_STATE_CHANGE_STOPPING",
    "TICK",
    "TICK_3600",
    "TICK_5",
    "TICK_60",
];

/// Sorted by priority, then name. Of several groups with one name the first is kept, with a warning.
pub(super) fn groups(source: &Source<'_>, warnings: &mut Vec<String>) -> Result<Vec<Group>, ConfigError> {
    let here = Names::default().with("here", &source.here);
    let mut members = HashSet::new();
    let mut groups = Vec::new();
    for name in source.sections_with_prefix("group:") {
        groups.push(group(&source.section(&name, &[&here]), &mut members, warnings)?);
    }
    for name in source.sections_with_prefix("program:") {
        if !members.contains(&name) {
            groups.push(program(&source.section(&name, &[&here]), warnings)?);
        }
    }
    for name in source.sections_with_prefix("eventlistener:") {
        groups.push(listeners(&source.section(&name, &[&here]), warnings)?);
    }
    for name in source.sections_with_prefix("fcgi-program:") {
        if !members.contains(&name) {
            groups.push(fcgi_program(&source.section(&name, &[&here]), &here, warnings)?);
        }
    }
    groups.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
    let mut seen = HashSet::new();
    groups.retain(|group| {
        let first = seen.insert(group.name.clone());
        if !first {
            warnings.push(format!("More than one group is named {}, only the first one is used", group.name));
        }
        first
    });
    Ok(groups)
}

fn after_colon(section: &str) -> &str {
    section.split_once(':').map_or(section, |(_, name)| name)
}

fn named(section: &Section<'_>) -> Result<String, ConfigError> {
    let located = |message| section.source.section_error(section.name, message);
    process_or_group_name(after_colon(section.name)).map_err(located)
}

fn group(
    section: &Section<'_>,
    members: &mut HashSet<String>,
    warnings: &mut Vec<String>,
) -> Result<Group, ConfigError> {
    let source = section.source;
    let name = named(section)?;
    let programs = section.text("programs")?.unwrap_or_default();
    let priority = section.value_or("priority", 999, integer)?;
    let mut all = Vec::new();
    // Supervisor's messages call the group by the member before.
    let mut shown = section.name.to_owned();
    for program in list(&programs) {
        let sections = [format!("program:{program}"), format!("fcgi-program:{program}")];
        let [as_program, as_fcgi] = sections.each_ref().map(|name| source.document.has_section(name));
        let [program_section, fcgi_section] = sections;
        shown = match (as_program, as_fcgi) {
            (true, false) => program_section,
            (false, true) => fcgi_section,
            (true, true) => {
                let why =
                    format!("[{shown}] name {program} is ambiguous (exists as program and fcgi-program)");
                return Err(section.error("programs", why));
            }
            (false, false) => {
                let why = format!("[{shown}] names unknown program or fcgi-program {program}");
                return Err(section.error("programs", why));
            }
        };
        all.extend(processes(source, &shown, &name, false, warnings)?);
        members.insert(shown.clone());
    }
    Ok(Group { name, priority, kind: GroupKind::Programs, processes: unique(all) })
}

/// Of several processes with one name the last is kept, at the place of the first.
fn unique(processes: Vec<Process>) -> Vec<Process> {
    let mut places = std::collections::HashMap::new();
    let mut kept: Vec<Process> = Vec::with_capacity(processes.len());
    for process in processes {
        let place = *places.entry(process.name.process.clone()).or_insert(kept.len());
        match kept.get_mut(place) {
            Some(old) => *old = process,
            None => kept.push(process),
        }
    }
    kept
}

fn program(section: &Section<'_>, warnings: &mut Vec<String>) -> Result<Group, ConfigError> {
    let name = named(section)?;
    let priority = section.value_or("priority", 999, integer)?;
    let processes = unique(processes(section.source, section.name, &name, false, warnings)?);
    Ok(Group { name, priority, kind: GroupKind::Programs, processes })
}

fn listeners(section: &Section<'_>, warnings: &mut Vec<String>) -> Result<Group, ConfigError> {
    let shown = section.name;
    let pool = after_colon(shown).to_owned();
    // The default makes listeners start first and stop last.
    let priority = section.value_or("priority", -1, integer)?;
    let buffer_size = section.value_or("buffer_size", 10, |value| {
        let size = integer(value)?;
        let valid = usize::try_from(size).ok().filter(|size| *size >= 1);
        valid.ok_or_else(|| format!("[{shown}] section sets invalid buffer_size ({size})"))
    })?;
    let result_handler = section.value_or("result_handler", ResultHandler::Default, |value| match value {
        "supervisor.dispatchers:default_handler" => Ok(ResultHandler::Default),
        "supervisor_stdout:event_handler" => Ok(ResultHandler::SupervisorStdout),
        other => {
            Err(cannot_load(other, shown, "leave result_handler out and answer with RESULT as documented"))
        }
    })?;
    let events = section.value("events", |value| events(value, shown))?.unwrap_or_default();
    if events.is_empty() {
        return Err(section.error("events", format!("[{shown}] section requires an \"events\" line")));
    }
    if section.value_or("redirect_stderr", false, boolean)? {
        let message = format!(
            "[{shown}] section sets redirect_stderr=true but this is not allowed because it will interfere \
             with the eventlistener protocol"
        );
        return Err(section.error("redirect_stderr", message));
    }
    let processes = unique(processes(section.source, shown, &pool, false, warnings)?);
    let kind = GroupKind::Listeners { buffer_size, events, result_handler };
    Ok(Group { name: pool, priority, kind, processes })
}

fn events(value: &str, section: &str) -> Result<Vec<String>, String> {
    let mut events: Vec<String> = list(value).into_iter().map(str::to_uppercase).collect();
    if let Some(unknown) = events.iter().find(|event| !EVENT_TYPES.contains(&event.as_str())) {
        return Err(format!("Unknown event type {unknown} in [{section}] events"));
    }
    events.sort_unstable();
    events.dedup();
    Ok(events)
}

fn fcgi_program(
    section: &Section<'_>,
    here: &Names,
    warnings: &mut Vec<String>,
) -> Result<Group, ConfigError> {
    let source = section.source;
    let host = source.host;
    let shown = section.name;
    let name = named(section)?;
    let priority = section.value_or("priority", 999, integer)?;
    let user = section.value("user", |value| name_to_uid(value, host))?;
    let backlog = section.value("socket_backlog", |value| match integer(value)? {
        backlog @ 1..=65535 => Ok(backlog as u32),
        _ => Err(format!("Invalid socket_backlog value {}", integer(value)?)),
    })?;
    let owner = section.value("socket_owner", |value| {
        user_and_group(value, host).ok_or_else(|| format!("Invalid socket_owner value {value}"))
    })?;
    let mode = section.value("socket_mode", |value| {
        octal(value).map_err(|_| format!("Invalid socket_mode value {value}"))
    })?;

    let program_name = Names::default().with("program_name", &name);
    let layers = [&program_name, here];
    let text = source.section(shown, &layers).text("socket")?.filter(|text| !text.is_empty());
    let Some(text) = text else {
        return Err(section.error("socket", format!("[{shown}] section requires a \"socket\" line")));
    };
    let in_socket = |message: String| section.error("socket", format!("{message} in [{shown}] socket"));
    let address = if let Some(path) = text.strip_prefix("unix://") {
        let path = unix_path(path, source).map_err(in_socket)?;
        let own_user = || {
            let user = host.user_by_uid(user?)?;
            (user.uid != host.uid()).then_some((user.uid, user.gid))
        };
        FcgiAddress::Unix { path, owner: owner.or_else(own_user), mode: mode.unwrap_or(0o700) }
    } else if owner.is_some() || mode.is_some() {
        let message = "socket_owner and socket_mode params should only be used with a Unix domain socket";
        return Err(in_socket(message.to_owned()));
    } else {
        let bad = || Err(format!("('Bad socket format %s', {})", super::python::repr(&text)));
        let (name, port) = tcp_url(&text).unwrap_or_else(bad).map_err(in_socket)?;
        FcgiAddress::Tcp { address: host.address_of(&name), host: name, port }
    };
    let processes = unique(processes(source, shown, &name, true, warnings)?);
    Ok(Group { name, priority, kind: GroupKind::Fcgi(FcgiSocket { address, backlog }), processes })
}

fn unix_path(path: &str, source: &Source<'_>) -> Result<PathBuf, String> {
    if path.starts_with('/') {
        return Ok(normalize(path, source.host));
    }
    // Supervisor shows the unformatted message and its argument.
    Err(format!("('Unix socket path %s is not an absolute path', {})", super::python::repr(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::host::memory::Memory;
    use crate::config::{Config, load};
    use std::path::Path;

    fn config(text: &str) -> Result<Config, ConfigError> {
        load(Path::new("/s.conf"), &Memory::new(&[("/s.conf", &format!("[supervisord]\n{text}"))]))
    }

    fn message(text: &str) -> String {
        config(text).unwrap_err().to_string()
    }

    fn program(name: &str) -> String {
        format!("[program:{name}]\ncommand=x\n")
    }

    #[test]
    fn members_of_a_group_are_no_groups_of_their_own() {
        let text =
            format!("[group:g]\nprograms=b, a\npriority=5\n{}{}{}", program("a"), program("b"), program("c"));
        let config = config(&text).unwrap();
        let groups: Vec<&str> = config.groups.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(groups, ["g", "c"]);
        let members: Vec<String> = config.groups[0].processes.iter().map(|p| p.name.full()).collect();
        assert_eq!(members, ["g:b", "g:a"]);
    }

    #[test]
    fn an_unknown_member_is_reported_as_supervisor_does() {
        let text = format!("[group:g]\nprograms=a,zz\n{}", program("a"));
        assert_eq!(message(&text), "[program:a] names unknown program or fcgi-program zz");
        assert_eq!(message("[group:g h]\nprograms=a\n"), "Invalid name: 'g h' because of character: ' '");
    }

    #[test]
    fn one_name_is_one_group_and_one_process() {
        let text = format!("[group:a]\nprograms=b,b\n{}{}", program("a"), program("b"));
        let config = config(&text).unwrap();
        assert_eq!((config.groups.len(), config.groups[0].processes.len()), (1, 1));
        assert_eq!(config.warnings, ["More than one group is named a, only the first one is used"]);
    }

    #[test]
    fn listeners_ask_for_known_events() {
        let listener = |options: &str| format!("[eventlistener:l]\ncommand=x\n{options}\n");
        let kind = config(&listener("events=tick_5,EVENT,TICK_5")).unwrap().groups[0].kind.clone();
        let events = vec!["EVENT".to_owned(), "TICK_5".to_owned()];
        let expected =
            GroupKind::Listeners { buffer_size: 10, events, result_handler: ResultHandler::Default };
        assert_eq!(kind, expected);
        for (options, expected) in [
            ("", "[eventlistener:l] section requires an \"events\" line"),
            ("events=NOPE", "Unknown event type NOPE in [eventlistener:l] events"),
            ("events=TICK\nbuffer_size=0", "[eventlistener:l] section sets invalid buffer_size (0)"),
        ] {
            assert_eq!(message(&listener(options)), expected);
        }
        let plugin = message(&listener("events=TICK\nresult_handler=my.module:handler"));
        assert!(
            plugin.starts_with("my.module:handler cannot be resolved within [eventlistener:l]: Python"),
            "{plugin}"
        );
    }

    #[test]
    fn fcgi_sockets_are_unix_or_tcp() {
        let fcgi = |options: &str| format!("[fcgi-program:f]\ncommand=x\n{options}\n");
        let kind = config(&fcgi("socket=unix:///run/../tmp/%(program_name)s\nuser=op")).unwrap().groups[0]
            .kind
            .clone();
        let address = FcgiAddress::Unix { path: "/tmp/f".into(), owner: Some((5, 6)), mode: 0o700 };
        assert_eq!(kind, GroupKind::Fcgi(FcgiSocket { address, backlog: None }));
        let both = "socket_owner and socket_mode params should only be used with a Unix domain socket";
        for (options, expected) in [
            ("", "[fcgi-program:f] section requires a \"socket\" line".to_owned()),
            ("socket=foo", "('Bad socket format %s', 'foo') in [fcgi-program:f] socket".to_owned()),
            (
                "socket=tcp://a:99999",
                "99999 is above upper bound (65535) in [fcgi-program:f] socket".to_owned(),
            ),
            ("socket=tcp://a:1\nsocket_mode=0700", format!("{both} in [fcgi-program:f] socket")),
            ("socket=tcp://a:1\nsocket_backlog=0", "Invalid socket_backlog value 0".to_owned()),
        ] {
            assert_eq!(message(&fcgi(options)), expected);
        }
    }

    #[test]
    fn only_the_built_in_interface_can_be_loaded() {
        let interface =
            |factory: &str| format!("[rpcinterface:x]\nsupervisor.rpcinterface_factory={factory}\nk=%%\n");
        let built_in = config(&interface("supervisor.rpcinterface:make_main_rpcinterface")).unwrap();
        assert_eq!(built_in.rpcinterfaces[0].options["k"], "%");
        let refused = message(&interface("supvisors.plugin:make_supvisors_rpcinterface"));
        assert!(
            refused.ends_with("instead, join this host to a controller with a [fleet] section"),
            "{refused}"
        );
        let missing = "section [rpcinterface:x] does not specify a supervisor.rpcinterface_factory";
        assert_eq!(message("[rpcinterface:x]\n"), missing);
    }
}
