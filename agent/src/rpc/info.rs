//! Methods that tell what is: processes as they are, and as they are configured. Keys stand in Supervisor's
//! order, and every value has the type that Supervisor gives it: clients cast without looking.

use std::path::Path;

use fleetvisor_model::config::{Group, LogTarget, OutputLog, Process};
use fleetvisor_model::name::ProcessName;
use fleetvisor_model::status::ProcessStatus;
use fleetvisor_model::time::Wall;
use fleetvisor_proto::xmlrpc::Value;

use super::Api;
use super::args::Args;
use super::call::Answer;
use crate::clock;

pub(super) async fn one(api: &Api, args: Args) -> Answer {
    let name = args.name(0)?;
    let process = name.process.ok_or_else(|| name.is_bad())?;
    let status = api.handle.status(ProcessName::new(name.group, process)).await;
    let status = status.map_err(|gone| api.gone(gone))?.ok_or_else(|| name.is_bad())?;
    Ok(process_info(&status))
}

pub(super) async fn all(api: &Api) -> Answer {
    let statuses = api.handle.statuses().await.map_err(|gone| api.gone(gone))?;
    Ok(statuses.iter().map(process_info).collect::<Vec<_>>().into())
}

pub(super) async fn configs(api: &Api) -> Answer {
    let groups = api.handle.configs().await.map_err(|gone| api.gone(gone))?;
    let mut all: Vec<(&str, Value)> = groups
        .iter()
        .flat_map(|configured| {
            let (group, in_use) = (&configured.group, configured.in_use);
            group
                .processes
                .iter()
                .map(move |process| (process.name.process.as_str(), config_info(group, process, in_use)))
        })
        .collect();
    all.sort_by_key(|(name, _)| *name);
    Ok(all.into_iter().map(|(_, info)| info).collect::<Vec<_>>().into())
}

fn process_info(status: &ProcessStatus) -> Value {
    Value::record([
        ("name", Value::from(status.name.process.as_str())),
        ("group", status.name.group.as_str().into()),
        ("start", seconds(status.start)),
        ("stop", seconds(status.stop)),
        ("now", seconds(status.now)),
        ("state", status.state.code().into()),
        ("statename", status.state.name().into()),
        ("spawnerr", status.spawnerr.as_str().into()),
        ("exitstatus", status.exitstatus.into()),
        ("logfile", status.stdout_logfile.as_str().into()),
        ("stdout_logfile", status.stdout_logfile.as_str().into()),
        ("stderr_logfile", status.stderr_logfile.as_str().into()),
        ("pid", status.pid.into()),
        ("description", status.description(clock::local).into()),
    ])
}

/// XML-RPC's integers end in 2038, and so do these times.
fn seconds(time: Wall) -> Value {
    time.secs().clamp(i64::from(i32::MIN), i64::from(i32::MAX)).into()
}

fn config_info(group: &Group, process: &Process, in_use: bool) -> Value {
    let (stdout, stderr) = (&process.stdout, &process.stderr);
    let exitcodes: Vec<Value> = process.exitcodes.iter().map(|code| Value::from(*code)).collect();
    Value::record([
        ("autostart", Value::from(process.autostart)),
        ("directory", or_none(process.directory.as_deref().map(path))),
        ("uid", or_none(process.uid.map(|uid| i64::from(uid).into()))),
        ("command", process.command.as_str().into()),
        ("exitcodes", exitcodes.into()),
        ("group", group.name.as_str().into()),
        ("group_prio", group.priority.into()),
        ("inuse", in_use.into()),
        ("killasgroup", process.killasgroup.into()),
        ("name", process.name.process.as_str().into()),
        ("process_prio", process.priority.into()),
        ("redirect_stderr", process.redirect_stderr.into()),
        ("startretries", process.startretries.into()),
        ("startsecs", process.startsecs.into()),
        ("stdout_capture_maxbytes", stdout.capture_maxbytes.into()),
        ("stdout_events_enabled", stdout.events_enabled.into()),
        ("stdout_logfile", logfile(stdout)),
        ("stdout_logfile_backups", stdout.logfile_backups.into()),
        ("stdout_logfile_maxbytes", stdout.logfile_maxbytes.into()),
        ("stdout_syslog", stdout.syslog.into()),
        ("stopsignal", process.stopsignal.0.into()),
        ("stopwaitsecs", process.stopwaitsecs.into()),
        ("stderr_capture_maxbytes", stderr.capture_maxbytes.into()),
        ("stderr_events_enabled", stderr.events_enabled.into()),
        ("stderr_logfile", logfile(stderr)),
        ("stderr_logfile_backups", stderr.logfile_backups.into()),
        ("stderr_logfile_maxbytes", stderr.logfile_maxbytes.into()),
        ("stderr_syslog", stderr.syslog.into()),
        ("serverurl", or_none(process.serverurl.as_deref().map(Value::from))),
    ])
}

fn logfile(log: &OutputLog) -> Value {
    match &log.logfile {
        LogTarget::File(file) => path(file),
        LogTarget::Auto => "auto".into(),
        LogTarget::None | LogTarget::Syslog => "none".into(),
    }
}

fn path(path: &Path) -> Value {
    path.to_string_lossy().into_owned().into()
}

/// XML-RPC has no null.
fn or_none(value: Option<Value>) -> Value {
    value.unwrap_or_else(|| "none".into())
}
