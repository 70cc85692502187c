//! The daemon's own log: a line's form, its level, and the file and terminal it goes to. A line that can't be
//! written is counted, and the log says how many bytes it lacks once it is written again.

use std::io::Write;
use std::path::Path;

use chrono::Local;
use fleetvisor_model::config::{LogLevel, LogTarget, SupervisordSection};

use super::file::LogFile;
use super::rotate::Rotation;
use super::syslog::Syslog;
use super::trouble::Failure;

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
    File(Box<LogFile>),
}

impl DaemonLog {
    /// Opens what `[supervisord]` names. In the foreground lines are shown on stdout too, unless silent.
    pub(crate) fn open(section: &SupervisordSection) -> std::io::Result<DaemonLog> {
        let rotation = Rotation::new(section.logfile_maxbytes, section.logfile_backups);
        let target = match &section.logfile {
            LogTarget::None | LogTarget::Auto => Target::Nowhere,
            LogTarget::Syslog => Target::Syslog(Syslog::default()),
            LogTarget::File(path) => {
                let mut file = LogFile::open(path, rotation)?;
                // A daemon that was killed may have left half a line.
                let _ = file.end_line();
                Target::File(Box::new(file))
            }
        };
        Ok(DaemonLog { level: section.loglevel, to_stdout: section.nodaemon && !section.silent, target })
    }

    #[cfg(test)]
    pub(super) fn nowhere() -> DaemonLog {
        DaemonLog { level: LogLevel::Info, to_stdout: false, target: Target::Nowhere }
    }

    pub(crate) fn level(&self) -> LogLevel {
        self.level
    }

    /// Where it is, if it is a file.
    pub(super) fn path(&self) -> Option<&Path> {
        match &self.target {
            Target::File(file) => Some(file.path()),
            Target::Nowhere | Target::Syslog(_) => None,
        }
    }

    pub(super) fn line(&mut self, level: LogLevel, line: &str) {
        if level > self.level {
            return;
        }
        let line = with_time(level, line);
        if self.to_stdout {
            // A terminal that is gone is no reason to stop logging.
            let _ = std::io::stdout().lock().write_all(line.as_bytes());
        }
        match &mut self.target {
            Target::Nowhere => {}
            Target::Syslog(syslog) => syslog.line(line.trim_end()),
            Target::File(file) => {
                let lost = |file: &mut LogFile, line: &str| {
                    if let Err(errno) = file.write_whole(line.as_bytes()) {
                        file.failed(errno);
                        file.trouble.lose(line.len());
                    }
                };
                lost(file, &line);
                for (level, remark) in file.trouble.take_said() {
                    if file.trouble.now().is_some() {
                        let _ = writeln!(std::io::stderr(), "{remark}");
                    } else if level <= self.level {
                        lost(file, &with_time(level, &remark));
                    }
                }
            }
        }
    }

    /// What keeps it from being written.
    pub(super) fn failure(&self) -> Option<Failure> {
        match &self.target {
            Target::File(file) => file.trouble.now().cloned(),
            Target::Nowhere | Target::Syslog(_) => None,
        }
    }

    /// Whether [`failure`](Self::failure) is different since this was last asked.
    pub(super) fn take_troubled(&mut self) -> bool {
        match &mut self.target {
            Target::File(file) => file.trouble.take_changed(),
            Target::Nowhere | Target::Syslog(_) => false,
        }
    }

    pub(super) fn reopen(&mut self) {
        if let Target::File(file) = &mut self.target
            && let Err(errno) = file.reopen()
        {
            let _ =
                writeln!(std::io::stderr(), "cannot open log {}: {}", file.path().display(), errno.desc());
        }
    }

    pub(super) fn clear(&mut self) -> Result<(), String> {
        match &mut self.target {
            Target::File(file) => file.clear().map_err(|errno| errno.desc().to_owned()),
            Target::Nowhere | Target::Syslog(_) => Ok(()),
        }
    }
}

fn with_time(level: LogLevel, line: &str) -> String {
    let time = Local::now().format("%Y-%m-%d %H:%M:%S,%3f");
    format!("{time} {} {line}\n", label(level))
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
