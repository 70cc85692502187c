//! What a command prints. Lines are gathered and written at once, before the program waits for anything,
//! so that a long `status` is one write and a slow `stop all` still shows each line in time.

use std::io::{self, Write};

pub(super) struct Output {
    gathered: Vec<u8>,
    sink: Box<dyn Write + Send>,
}

impl Output {
    pub(super) fn new(sink: Box<dyn Write + Send>) -> Output {
        Output { gathered: Vec::new(), sink }
    }

    pub(super) fn line(&mut self, text: &str) {
        self.text(text);
        self.gathered.push(b'\n');
    }

    pub(super) fn text(&mut self, text: &str) {
        self.gathered.extend_from_slice(text.as_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.gathered.extend_from_slice(bytes);
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let written = self.sink.write_all(&self.gathered).and_then(|()| self.sink.flush());
        self.gathered.clear();
        written
    }
}
