//! The plainest HTTP client there is: bytes out, bytes back, so that a test can send what no proper client
//! would.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

const READ_LIMIT: Duration = Duration::from_secs(60);

/// Where a server listens.
#[derive(Clone, Debug)]
pub enum Address {
    Unix(PathBuf),
    /// On 127.0.0.1.
    Inet(u16),
}

/// An answer, split at the empty line.
#[derive(Debug)]
pub struct Answer {
    /// 0 when the server closed without one.
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

trait Stream: Read + Write {
    fn limit(&self) -> std::io::Result<()>;
    fn end_of_request(&self) -> std::io::Result<()>;
}

impl Stream for UnixStream {
    fn limit(&self) -> std::io::Result<()> {
        self.set_read_timeout(Some(READ_LIMIT))?;
        self.set_write_timeout(Some(READ_LIMIT))
    }

    fn end_of_request(&self) -> std::io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Stream for TcpStream {
    fn limit(&self) -> std::io::Result<()> {
        self.set_read_timeout(Some(READ_LIMIT))?;
        self.set_write_timeout(Some(READ_LIMIT))
    }

    fn end_of_request(&self) -> std::io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Address {
    fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        let stream: Box<dyn Stream> = match self {
            Address::Unix(path) => Box::new(UnixStream::connect(path)?),
            Address::Inet(port) => Box::new(TcpStream::connect(("127.0.0.1", *port))?),
        };
        stream.limit()?;
        Ok(stream)
    }

    /// Begins a conversation.
    ///
    /// # Errors
    /// In words, when nobody listens.
    pub fn converse(&self) -> Result<Conversation, String> {
        let stream = self.connect().map_err(|error| format!("cannot connect to {self:?}: {error}"))?;
        Ok(Conversation { stream, ahead: Vec::new() })
    }

    /// Sends the bytes, says that there are no more, and gives what comes back until the server closes.
    /// A server that refuses before it has read everything is no error: its answer counts.
    pub fn exchange(&self, request: &[u8]) -> Result<Vec<u8>, String> {
        let mut stream = self.connect().map_err(|error| format!("cannot connect to {self:?}: {error}"))?;
        let sent = stream.write_all(request);
        if sent.is_ok() {
            // ENOTCONN: the server has closed already.
            stream.end_of_request().ok();
        }
        read(&mut *stream)
    }

    /// One HTTP request of its own connection. `headers` are whole lines, each with its `\r\n`.
    pub fn request(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Result<Answer, String> {
        let mut stream = self.connect().map_err(|error| format!("cannot connect to {self:?}: {error}"))?;
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        // Not closed for writing: to some servers that means that the caller has gone.
        stream.write_all(&request).ok();
        let bytes = if method == "HEAD" { read(&mut *stream)? } else { read_one(&mut *stream)? };
        Ok(Answer::split(&bytes))
    }
}

/// A connection that is kept, for what takes more than one request or an answer that does not end.
pub struct Conversation {
    stream: Box<dyn Stream>,
    /// What has been read and belongs to no answer yet.
    ahead: Vec<u8>,
}

impl std::fmt::Debug for Conversation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Conversation")
    }
}

impl Conversation {
    /// # Errors
    /// In words, also when the server takes no more.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).map_err(|error| format!("cannot send: {error}"))
    }

    /// The next answer, of a length that it says itself.
    ///
    /// # Errors
    /// In words, when there is no such answer.
    pub fn answer(&mut self) -> Result<Answer, String> {
        loop {
            let answer = Answer::split(&self.ahead);
            let head = answer.head.len() + 4;
            if self.ahead.len() >= head
                && let Some(length) = answer.length()
                && answer.body.len() >= length
            {
                let rest = self.ahead.split_off(head + length);
                return Ok(Answer::split(&std::mem::replace(&mut self.ahead, rest)));
            }
            self.more()?;
        }
    }

    /// Reads on until this has come, and gives everything that has come so far.
    ///
    /// # Errors
    /// In words, when it does not come.
    pub fn read_until(&mut self, part: &str) -> Result<String, String> {
        loop {
            let text = String::from_utf8_lossy(&self.ahead);
            if text.contains(part) {
                return Ok(text.into_owned());
            }
            self.more()?;
        }
    }

    fn more(&mut self) -> Result<(), String> {
        let mut chunk = [0; 16 << 10];
        let so_far = |ahead: &[u8]| String::from_utf8_lossy(ahead).into_owned();
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(format!("the server has closed; so far {:?}", so_far(&self.ahead))),
            Ok(count) => {
                self.ahead.extend_from_slice(&chunk[..count]);
                Ok(())
            }
            Err(error) => Err(format!("{error}; so far {:?}", so_far(&self.ahead))),
        }
    }
}

/// One answer: as long as it says, or until the server closes. Some servers don't, though they were asked to.
fn read_one(stream: &mut dyn Stream) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 << 10];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(bytes),
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                return Ok(bytes);
            }
            Err(error) => {
                let so_far = String::from_utf8_lossy(&bytes);
                return Err(format!("no end of the answer: {error}; so far {so_far:?}"));
            }
        }
        let is_begun = bytes.windows(4).any(|four| four == b"\r\n\r\n");
        let answer = Answer::split(&bytes);
        if is_begun && answer.length().is_some_and(|length| answer.body.len() >= length) {
            return Ok(bytes);
        }
    }
}

fn read(stream: &mut dyn Stream) -> Result<Vec<u8>, String> {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => Ok(answer),
        // The server closed with some of the request unread; what it said before may have arrived.
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
            Ok(answer)
        }
        Err(error) => {
            Err(format!("no end of the answer: {error}; so far {:?}", String::from_utf8_lossy(&answer)))
        }
    }
}

impl Answer {
    /// A header's value; its name is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }

    /// Of the body, in bytes, if it says.
    fn length(&self) -> Option<usize> {
        self.header("content-length")?.parse().ok()
    }

    fn split(bytes: &[u8]) -> Answer {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let (head, body) = match end {
            Some(end) => (&bytes[..end], &bytes[end + 4..]),
            None => (bytes, &[][..]),
        };
        let head = String::from_utf8_lossy(head).into_owned();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        Answer { status, head, body: body.to_vec() }
    }
}
