//! Where one stream of a program goes: a log file that it may share with others, and syslog.

use std::cell::RefCell;
use std::os::unix::net::UnixDatagram;
use std::rc::Rc;

use fleetvisor_core::ansi::Stripper;
use fleetvisor_core::capture::{Captured, Splitter};

use super::file::LogFile;

/// The local syslog daemon's socket.
const SYSLOG: &str = "/dev/log";
/// `LOG_USER | LOG_INFO`, as Python's `syslog` sends by default.
const PRIORITY: u8 = 14;

#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) file: Option<Rc<RefCell<LogFile>>>,
    pub(super) syslog: Option<Syslog>,
    pub(super) stripper: Option<Stripper>,
    pub(super) capture: Option<Capture>,
    /// What is written is also an event.
    pub(super) events: bool,
    /// What is written is meant for the daemon.
    pub(super) is_listener: bool,
}

/// Capture mode of one stream.
#[derive(Debug)]
pub(super) struct Capture {
    pub(super) splitter: Splitter,
    pub(super) captured: Captured,
}

impl Output {
    /// The chunk without its escape sequences, where those are not wanted.
    pub(super) fn strip<'a>(&mut self, chunk: &'a [u8], scratch: &'a mut Vec<u8>) -> &'a [u8] {
        match &mut self.stripper {
            Some(stripper) => {
                scratch.clear();
                stripper.strip(chunk, scratch);
                scratch.as_slice()
            }
            None => chunk,
        }
    }

    /// Writes a chunk; remarks are for the daemon's log.
    pub(super) fn write(&mut self, chunk: &[u8]) -> Option<String> {
        if let Some(syslog) = &mut self.syslog {
            for line in String::from_utf8_lossy(chunk).lines() {
                syslog.line(line);
            }
        }
        self.file.as_ref().and_then(|file| file.borrow_mut().write(chunk))
    }
}

/// Lines to the local syslog daemon; lost where there is none, as `syslog(3)` does.
#[derive(Debug, Default)]
pub(super) struct Syslog {
    socket: Option<UnixDatagram>,
}

impl Syslog {
    pub(super) fn line(&mut self, line: &str) {
        let time = chrono::Local::now().format("%b %e %H:%M:%S");
        let packet = format!("<{PRIORITY}>{time} supervisord: {line}");
        if self.socket.is_none() {
            self.socket = connect().ok();
        }
        let sent = self.socket.as_ref().map(|socket| socket.send(packet.as_bytes()));
        if !matches!(sent, Some(Ok(_))) {
            self.socket = None;
        }
    }
}

fn connect() -> std::io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(SYSLOG)?;
    // A syslog daemon that does not read must not hold up the logs.
    socket.set_nonblocking(true)?;
    Ok(socket)
}
