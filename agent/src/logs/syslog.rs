//! Lines to the local syslog daemon; lost where there is none, as `syslog(3)` does.

use std::os::unix::net::UnixDatagram;

/// The local syslog daemon's socket.
const SOCKET: &str = "/dev/log";
/// `LOG_USER | LOG_INFO`, as Python's `syslog` sends by default.
const PRIORITY: u8 = 14;

#[derive(Debug, Default)]
pub(super) struct Syslog {
    socket: Option<UnixDatagram>,
}

impl Syslog {
    /// A datagram for each line of a text, with what is to stand before it.
    pub(super) fn text(&mut self, before: &str, text: &str) {
        for line in text.trim_end_matches('\n').split('\n') {
            self.line(&format!("{before}{line}"));
        }
    }

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
    socket.connect(SOCKET)?;
    // A syslog daemon that does not read must not hold up the logs.
    socket.set_nonblocking(true)?;
    Ok(socket)
}
