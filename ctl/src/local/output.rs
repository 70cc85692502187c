//! What a command prints. Lines are gathered and written at once, before the program waits for anything,
//! so that a long `status` is one write and a slow `stop all` still shows each line in time.

use std::io::{self, Write};

pub(super) struct Output {
    lines: Stream,
    /// If documents are asked for; lines are remarks then.
    documents: Option<Stream>,
}

struct Stream {
    gathered: Vec<u8>,
    sink: Box<dyn Write + Send>,
}

impl Output {
    pub(super) fn new(sink: Box<dyn Write + Send>) -> Output {
        Output { lines: Stream::new(sink), documents: None }
    }

    /// JSON goes to `documents`, and whatever else is said to `remarks`.
    pub(super) fn json(documents: Box<dyn Write + Send>, remarks: Box<dyn Write + Send>) -> Output {
        Output { lines: Stream::new(remarks), documents: Some(Stream::new(documents)) }
    }

    /// A line that a document has the content of: said only where none is asked for.
    pub(super) fn row(&mut self, text: &str) {
        if self.documents.is_none() {
            self.line(text);
        }
    }

    pub(super) fn wants_documents(&self) -> bool {
        self.documents.is_some()
    }

    /// Prints it if documents are asked for.
    pub(super) fn document(&mut self, document: &serde_json::Value) {
        if let Some(documents) = &mut self.documents {
            documents.gathered.extend(format!("{document:#}\n").into_bytes());
        }
    }

    pub(super) fn line(&mut self, text: &str) {
        self.text(text);
        self.bytes(b"\n");
    }

    pub(super) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.lines.gathered.extend_from_slice(bytes);
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.lines.flush()?;
        self.documents.as_mut().map_or(Ok(()), Stream::flush)
    }
}

impl Stream {
    fn new(sink: Box<dyn Write + Send>) -> Stream {
        Stream { gathered: Vec::new(), sink }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let written = self.sink.write_all(&self.gathered).and_then(|()| self.sink.flush());
        self.gathered.clear();
        written
    }
}
