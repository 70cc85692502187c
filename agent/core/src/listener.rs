//! One event listener's side of the protocol: READY, then a RESULT for each event. Pure parsing: what a
//! result means for its event is decided in [`crate::pool`].
use serde::{Deserialize, Serialize};

use crate::event::bytes_repr;

const READY: &[u8] = b"READY\n";
/// `RESULT `, which is counted but, as in Supervisor, not compared.
const BEFORE_LENGTH: usize = 7;
/// Longest line and result that are waited for, in bytes.
const LONGEST_LINE: usize = 4096;
const LONGEST_RESULT: usize = 4 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    /// Its last event is done; it has not said READY yet.
    Acknowledged,
    Ready,
    Busy,
    /// It broke the protocol and gets no more events.
    Unknown,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            State::Acknowledged => "ACKNOWLEDGED",
            State::Ready => "READY",
            State::Busy => "BUSY",
            State::Unknown => "UNKNOWN",
        }
    }
}

/// What was understood of a listener's stdout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Ready,
    Result(Vec<u8>),
    /// In place of a result.
    BadLine(String),
    /// In place of READY, or without being asked.
    Nonsense,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Listener {
    state: State,
    buffer: Vec<u8>,
    /// Of the result that is being read.
    length: Option<usize>,
}

impl Default for Listener {
    fn default() -> Listener {
        Listener { state: State::Acknowledged, buffer: Vec::new(), length: None }
    }
}

impl Listener {
    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// It has been sent an event.
    pub(crate) fn sent(&mut self) {
        self.state = State::Busy;
    }

    /// Its result could not be made sense of, or its stdin is closed.
    pub(crate) fn give_up(&mut self) {
        self.state = State::Unknown;
        self.buffer = Vec::new();
    }

    pub(crate) fn read(&mut self, chunk: &[u8]) {
        if self.state != State::Unknown {
            self.buffer.extend_from_slice(chunk);
        }
    }

    /// The next thing it said, if all of it is there.
    pub(crate) fn next_said(&mut self) -> Option<Said> {
        if self.buffer.is_empty() && self.length != Some(0) {
            return None;
        }
        match self.state {
            State::Unknown => None,
            State::Acknowledged if self.buffer.len() < READY.len() => None,
            State::Acknowledged if self.buffer.starts_with(READY) => {
                self.buffer.drain(..READY.len());
                self.state = State::Ready;
                Some(Said::Ready)
            }
            State::Acknowledged | State::Ready => {
                self.give_up();
                Some(Said::Nonsense)
            }
            State::Busy => self.result(),
        }
    }

    fn result(&mut self) -> Option<Said> {
        let length = match self.length {
            Some(length) => length,
            None => {
                let end = self.buffer.iter().position(|byte| *byte == b'\n');
                if end.is_none() && self.buffer.len() <= LONGEST_LINE {
                    return None;
                }
                let mut line = self.buffer.clone();
                line.truncate(end.unwrap_or(LONGEST_LINE));
                let Some(length) = end.and_then(|_| result_length(&line)) else {
                    self.give_up();
                    let shown = String::from_utf8(line)
                        .unwrap_or_else(|error| format!("Undecodable: {}", bytes_repr(error.as_bytes())));
                    return Some(Said::BadLine(shown));
                };
                self.buffer.drain(..=line.len());
                self.length = Some(length);
                length
            }
        };
        if self.buffer.len() < length {
            return None;
        }
        let rest = self.buffer.split_off(length);
        self.length = None;
        self.state = State::Acknowledged;
        Some(Said::Result(std::mem::replace(&mut self.buffer, rest)))
    }
}

fn result_length(line: &[u8]) -> Option<usize> {
    let number = std::str::from_utf8(line.get(BEFORE_LENGTH..)?).ok()?;
    number.trim().parse().ok().filter(|length| *length <= LONGEST_RESULT)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn conversation(chunks: &[&[u8]]) -> Vec<Said> {
        let mut listener = Listener::default();
        let mut all = Vec::new();
        for chunk in chunks {
            listener.read(chunk);
            while let Some(said) = listener.next_said() {
                if said == Said::Ready {
                    listener.sent();
                }
                all.push(said);
            }
        }
        all
    }

    proptest! {
        #[test]
        fn the_protocol_may_be_cut_anywhere(cuts in prop::collection::vec(0_usize..70, 0..10)) {
            let bytes: &[u8] = b"READY\nRESULT 2\nOKREADY\nRESULT 4\nFAILREADY\nRESULT 0\nREADY\n";
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(
                conversation(&chunks),
                [
                    Said::Ready,
                    Said::Result(b"OK".to_vec()),
                    Said::Ready,
                    Said::Result(b"FAIL".to_vec()),
                    Said::Ready,
                    Said::Result(Vec::new()),
                    Said::Ready,
                ]
            );
        }

        #[test]
        fn no_bytes_are_too_strange(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..9)) {
            let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            conversation(&chunks);
        }
    }

    #[test]
    fn a_line_that_is_no_result_ends_the_conversation() {
        assert_eq!(
            conversation(&[b"READY\nGARBAGE\nREADY\n"]),
            [Said::Ready, Said::BadLine("GARBAGE".to_owned())]
        );
        assert_eq!(conversation(&[b"HELLO\n"]), [Said::Nonsense]);
        let endless = [b"READY\n".as_slice(), &[b'x'; 5000]].concat();
        assert_eq!(conversation(&[&endless]).len(), 2);
        assert!(matches!(conversation(&[b"READY\nRESULT 99999999\n"])[1], Said::BadLine(_)));
    }
}
