//! The daemon's own log: a line's form, its level, and the file and terminal it goes to.

use std::io::Write;

use chrono::Local;
use fleetvisor_model::config::{LogLevel, LogTarget, SupervisordSection};

use super::file::{LogFile, Rotation};
use super::output::Syslog;

#[derive(Debug)]
pub(crate) struct DaemonLog {
    level: LogLevel,
    to_stdout: bool,
    target: Target,
}

#[derive(Debug)]
enum Target {
    Nowhere,
    Syslog(Syslog),
    File(LogFile),
}

impl DaemonLog {
    /// Opens what `[supervisord]` names. In the foreground lines are shown on stdout too, unless silent.
    pub(crate) fn open(section: &SupervisordSection) -> std::io::Result<DaemonLog> {
        let rotation = Rotation::new(section.logfile_maxbytes, section.logfile_backups);
        let target = match &section.logfile {
            LogTarget::None | LogTarget::Auto => Target::Nowhere,
            LogTarget::Syslog => Target::Syslog(Syslog::default()),
            LogTarget::File(path) => Target::File(LogFile::open(path, rotation)?),
        };
        Ok(DaemonLog { level: section.loglevel, to_stdout: section.nodaemon && !section.silent, target })
    }

    pub(crate) fn level(&self) -> LogLevel {
        self.level
    }

    pub(super) fn line(&mut self, level: LogLevel, line: &str) {
        if level > self.level {
            return;
        }
        let time = Local::now().format("%Y-%m-%d %H:%M:%S,%3f");
        let line = format!("{time} {} {line}\n", label(level));
        if self.to_stdout {
            // A terminal that is gone is no reason to stop logging.
            let _ = std::io::stdout().lock().write_all(line.as_bytes());
        }
        match &mut self.target {
            Target::Nowhere => {}
            Target::Syslog(syslog) => syslog.line(line.trim_end()),
            Target::File(file) => {
                if let Some(remark) = file.write(line.as_bytes()) {
                    let _ = writeln!(std::io::stderr(), "{remark}");
                }
            }
        }
    }

    pub(super) fn reopen(&mut self) {
        if let Target::File(file) = &mut self.target
            && let Err(error) = file.reopen()
        {
            let _ = writeln!(std::io::stderr(), "cannot open log {}: {error}", file.path().display());
        }
    }

    pub(super) fn clear(&mut self) -> Result<(), String> {
        match &mut self.target {
            Target::File(file) => file.clear().map_err(|error| error.to_string()),
            Target::Nowhere | Target::Syslog(_) => Ok(()),
        }
    }
}

/// Supervisor's four letters.
fn label(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Critical => "CRIT",
        LogLevel::Error => "ERRO",
        LogLevel::Warn => "WARN",
        LogLevel::Info => "INFO",
        LogLevel::Debug => "DEBG",
        LogLevel::Trace => "TRAC",
        LogLevel::Blather => "BLAT",
    }
}
