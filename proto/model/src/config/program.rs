//! `[program:x]`, and the same options in `[eventlistener:x]` and `[fcgi-program:x]`: one section to its
//! processes. Which group they belong to is decided in [`super::group`].

use std::path::{Path, PathBuf};

use super::error::ConfigError;
use super::expand::{Names, Scope};
use super::pairs::key_value_pairs;
use super::percent::Value;
use super::source::{Section, Source};
use super::types::{Autorestart, LogTarget, OutputLog, Process};
use super::value::{
    LogfileName, autorestart, boolean, byte_size, exitcodes, integer, logfile_name, name_to_uid, octal,
    process_or_group_name, signal,
};
use crate::name::ProcessName;
use crate::signal::Signal;

/// A section that asks for more processes is refused.
const MAX_NUMPROCS: i64 = 1 << 16;

/// The section's processes by name. Every error ends with the section and its file.
pub(super) fn processes(
    source: &Source<'_>,
    section: &str,
    group: &str,
    fcgi: bool,
    warnings: &mut Vec<String>,
) -> Result<Vec<Process>, ConfigError> {
    let file = source.document.section_file(section).unwrap_or(Path::new("")).to_path_buf();
    let read = read(source, section, group, fcgi, warnings);
    read.map_err(|error| error.in_section(section).within(section, &file))
}

fn read(
    source: &Source<'_>,
    name: &str,
    group: &str,
    fcgi: bool,
    warnings: &mut Vec<String>,
) -> Result<Vec<Process>, ConfigError> {
    let after_colon = name.split_once(':').map_or(name, |(_, rest)| rest);
    let program = process_or_group_name(after_colon).map_err(ConfigError::new)?;
    let mut names = Names::default()
        .with("here", &source.here)
        .with("program_name", &program)
        .with("host_node_name", &source.node_name)
        .with("group_name", group);
    let template = template(&source.section(name, &[&names]), group, fcgi)?;

    let mut processes = Vec::new();
    for process_num in template.numbers.clone() {
        names.set("process_num", Value::Int(process_num));
        names.set("numprocs", Value::Int(template.numprocs));
        processes.push(process(source, name, &names, &template, warnings)?);
    }
    // They share their priority, so this is the order in which they start.
    processes.sort_by(|a: &Process, b| a.name.process.cmp(&b.name.process));
    Ok(processes)
}

/// What all processes of a section have in common.
struct Template {
    process: Process,
    process_name: String,
    /// Not expanded.
    environment: String,
    numprocs: i64,
    numbers: std::ops::Range<i64>,
}

fn template(section: &Section<'_>, group: &str, fcgi: bool) -> Result<Template, ConfigError> {
    let host = section.source.host;
    let priority = section.value_or("priority", 999, integer)?;
    let autostart = section.value_or("autostart", true, boolean)?;
    let autorestart = section.value_or("autorestart", Autorestart::Unexpected, autorestart)?;
    let startsecs = section.value_or("startsecs", 1, integer)?;
    let startretries = section.value_or("startretries", 3, integer)?;
    let stopsignal = section.value_or("stopsignal", Signal::TERM, signal)?;
    let stopwaitsecs = section.value_or("stopwaitsecs", 10, integer)?;
    let stopasgroup = section.value_or("stopasgroup", false, boolean)?;
    let killasgroup = section.value_or("killasgroup", stopasgroup, boolean)?;
    let exitcodes = section.value_or("exitcodes", vec![0], exitcodes)?;
    let redirect_stderr = section.value_or("redirect_stderr", false, boolean)?;
    let numprocs = section.value_or("numprocs", 1, |value| limited_numprocs(integer(value)?))?;
    let numbers = section.value_or("numprocs_start", 0..numprocs, |value| {
        let start = integer(value)?;
        let end = start.checked_add(numprocs).ok_or_else(|| format!("{start} is out of range"))?;
        Ok(start..end)
    })?;
    let environment = section.raw("environment").unwrap_or_default().to_owned();
    let stdout = output(section, "stdout")?;
    let stderr = output(section, "stderr")?;
    let serverurl = section.text("serverurl")?;
    let uid = section.value("user", |value| name_to_uid(value, host))?;
    let umask = section.value("umask", octal)?;
    let process_name = section.raw("process_name").unwrap_or("%(program_name)s");
    let process_name =
        process_or_group_name(process_name).map_err(|message| section.error("process_name", message))?;

    if numprocs > 1 && !process_name.contains("%(process_num)") {
        let message = "%(process_num) must be present within process_name when numprocs > 1";
        return Err(section.error("process_name", message));
    }
    if stopasgroup && !killasgroup {
        return Err(section.error("killasgroup", "Cannot set stopasgroup=true and killasgroup=false"));
    }
    let process = Process {
        name: ProcessName::new(group, ""),
        command: String::new(),
        directory: None,
        umask,
        priority,
        autostart,
        autorestart,
        startsecs,
        startretries,
        uid,
        stdout,
        stderr,
        redirect_stderr,
        stopsignal,
        stopwaitsecs,
        stopasgroup,
        killasgroup,
        exitcodes,
        environment: Default::default(),
        serverurl: serverurl.filter(|url| !url.trim().eq_ignore_ascii_case("auto")),
        fcgi,
    };
    Ok(Template { process, process_name, environment, numprocs, numbers })
}

fn limited_numprocs(numprocs: i64) -> Result<i64, String> {
    match numprocs {
        ..=MAX_NUMPROCS => Ok(numprocs),
        _ => Err(format!("{numprocs} is above upper bound ({MAX_NUMPROCS})")),
    }
}

/// The options of one output that don't depend on the process; [`logfile`] adds the others.
fn output(section: &Section<'_>, channel: &str) -> Result<OutputLog, ConfigError> {
    Ok(OutputLog {
        logfile: LogTarget::Auto,
        logfile_maxbytes: 0,
        logfile_backups: 0,
        capture_maxbytes: section.value_or(&format!("{channel}_capture_maxbytes"), 0, byte_size)?,
        events_enabled: section.value_or(&format!("{channel}_events_enabled"), false, boolean)?,
        syslog: false,
    })
}

fn process(
    source: &Source<'_>,
    name: &str,
    names: &Names,
    template: &Template,
    warnings: &mut Vec<String>,
) -> Result<Process, ConfigError> {
    let expanded = Scope(&[names, &source.env]).expand(&template.environment, "environment");
    let pairs = expanded.and_then(|text| key_value_pairs(&text));
    let environment = pairs.map_err(|message| source.error(name, "environment", message))?;
    let mut own_env = Names::default();
    own_env.set_env(&environment);
    let layers = [names, &own_env];
    let section = source.section(name, &layers);
    // Supervisor expands some values twice; the second time the order of names is another.
    let again = [names, &source.env, &own_env];

    let shared = template.process.clone();
    let directory = section.text("directory")?.map(PathBuf::from);
    let mut stdout = logfile(&section, "stdout", &Scope(&again), shared.stdout, warnings)?;
    let mut stderr = logfile(&section, "stderr", &Scope(&again), shared.stderr, warnings)?;
    if shared.redirect_stderr {
        if matches!(stderr.logfile, LogTarget::File(_) | LogTarget::Syslog) {
            warnings.push(format!(
                "For [{name}], redirect_stderr=true but stderr_logfile has also been set to a filename, \
                 the filename has been ignored"
            ));
        }
        stderr.logfile = LogTarget::None;
    }
    // An empty name counts as one above, but opens nothing.
    for log in [&mut stdout, &mut stderr] {
        if log.logfile == LogTarget::File(PathBuf::new()) {
            log.logfile = LogTarget::None;
        }
    }
    let Some(command) = section.text("command")? else {
        return Err(section.error("command", format!("program section {name} does not specify a command")));
    };
    let process_name = Scope(&again).expand(&template.process_name, "process_name");
    let process_name = process_name.map_err(|message| section.error("process_name", message))?;
    let own_bytes: usize = environment.iter().map(|(name, value)| name.len() + value.len()).sum();
    source.spend(command.len() + process_name.len() + own_bytes)?;
    Ok(Process {
        name: ProcessName::new(shared.name.group, process_name),
        command,
        directory,
        stdout,
        stderr,
        environment: environment.into_iter().collect(),
        ..shared
    })
}

fn logfile(
    section: &Section<'_>,
    channel: &str,
    again: &Scope<'_>,
    shared: OutputLog,
    warnings: &mut Vec<String>,
) -> Result<OutputLog, ConfigError> {
    let host = section.source.host;
    let option = format!("{channel}_logfile");
    let named = section
        .value_or(&option, LogfileName::Auto, |value| logfile_name(&again.expand(value, &option)?, host))?;
    let logfile_backups = section.value_or(&format!("{option}_backups"), 10, integer)?;
    let logfile_maxbytes = section.value_or(&format!("{option}_maxbytes"), 50 << 20, byte_size)?;
    let mut syslog = section.value_or(&format!("{channel}_syslog"), false, boolean)?;
    let logfile = match named {
        LogfileName::None => LogTarget::None,
        LogfileName::Path(path) => LogTarget::File(PathBuf::from(path)),
        LogfileName::Syslog => {
            warnings.push(format!(
                "For [{}], {option}=syslog but this is deprecated and will be removed.  \
                 Use {channel}_syslog=true to enable syslog instead.",
                section.name
            ));
            syslog = true;
            LogTarget::None
        }
        LogfileName::Auto => {
            if logfile_maxbytes == 0 {
                warnings.push(format!(
                    "For [{}], AUTO logging used for {option} without rollover, set maxbytes > 0 to avoid \
                     filling up filesystem unintentionally",
                    section.name
                ));
            }
            LogTarget::Auto
        }
    };
    Ok(OutputLog { logfile, logfile_maxbytes, logfile_backups, syslog, ..shared })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::host::memory::Memory;
    use crate::config::load;

    fn config(options: &str) -> Result<Config, ConfigError> {
        let text = format!("[supervisord]\n[program:a]\ncommand=/bin/cat\n{options}\n");
        load(Path::new("/s.conf"), &Memory::new(&[("/s.conf", &text)]))
    }

    fn first(options: &str) -> Process {
        config(options).unwrap().groups[0].processes[0].clone()
    }

    #[test]
    fn an_empty_section_has_supervisors_defaults() {
        let process = first("");
        assert_eq!(
            (process.priority, process.startsecs, process.startretries, process.stopwaitsecs),
            (999, 1, 3, 10)
        );
        assert_eq!((process.autorestart, process.stopsignal), (Autorestart::Unexpected, Signal::TERM));
        assert_eq!(
            (process.stdout.logfile.clone(), process.stdout.logfile_maxbytes),
            (LogTarget::Auto, 50 << 20)
        );
        assert_eq!((process.exitcodes.as_slice(), process.fcgi), ([0].as_slice(), false));
    }

    #[test]
    fn numprocs_makes_processes_sorted_by_name() {
        let config = config(
            "numprocs=3\nnumprocs_start=9\nprocess_name=%(program_name)s_%(process_num)d\n\
             environment=N=%(process_num)d\nstdout_logfile=/tmp/%(process_num)03d-%(ENV_N)s",
        );
        let group = &config.unwrap().groups[0];
        let names: Vec<&str> = group.processes.iter().map(|p| p.name.process.as_str()).collect();
        assert_eq!(names, ["a_10", "a_11", "a_9"]);
        assert_eq!(group.processes[2].stdout.logfile, LogTarget::File("/tmp/009-9".into()));
    }

    #[test]
    fn mistakes_end_with_the_section_and_its_file() {
        for (options, expected) in [
            ("autostart=maybe", "not a valid boolean value: 'maybe'"),
            ("numprocs=2", "%(process_num) must be present within process_name when numprocs > 1"),
            ("stopasgroup=true\nkillasgroup=false", "Cannot set stopasgroup=true and killasgroup=false"),
            ("user=nosuchuser", "Invalid user name nosuchuser"),
            ("environment=KEY", "Unexpected end of key/value pairs in value 'KEY'"),
            ("process_name=x y", "Invalid name: 'x y' because of character: ' '"),
            ("numprocs=9999999", "9999999 is above upper bound (65536)"),
        ] {
            let message = format!("{expected} in section 'program:a' (file: '/s.conf')");
            assert_eq!(config(options).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_section_without_a_command_is_refused() {
        let text = "[supervisord]\n[program:a]\nautostart=true\n";
        let error = load(Path::new("/s.conf"), &Memory::new(&[("/s.conf", text)])).unwrap_err();
        let expected =
            "program section program:a does not specify a command in section 'program:a' (file: '/s.conf')";
        assert_eq!(error.to_string(), expected);
        let none = "[supervisord]\n[program:a]\nnumprocs=0\n";
        assert!(
            load(Path::new("/s.conf"), &Memory::new(&[("/s.conf", none)])).unwrap().groups[0]
                .processes
                .is_empty()
        );
    }

    #[test]
    fn redirected_output_has_no_log_of_its_own() {
        let config = config("redirect_stderr=true\nstderr_logfile=/tmp/x\nstdout_logfile=syslog").unwrap();
        let process = &config.groups[0].processes[0];
        assert_eq!(process.stderr.logfile, LogTarget::None);
        assert_eq!((process.stdout.logfile.clone(), process.stdout.syslog), (LogTarget::None, true));
        assert_eq!(config.warnings.len(), 2);
        assert_eq!(first("stdout_logfile=").stdout.logfile, LogTarget::None);
    }
}
