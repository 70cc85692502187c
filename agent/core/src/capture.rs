//! Capture mode: takes what a program writes between two tokens out of its output, wherever chunks are cut.
//! As in Supervisor, output no longer than a token is held back until more comes.

use serde::{Deserialize, Serialize};

const BEGIN: &[u8] = b"<!--XSUPERVISOR:BEGIN-->";
const END: &[u8] = b"<!--XSUPERVISOR:END-->";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Outside the tokens.
    Text(Vec<u8>),
    /// Between the tokens.
    Captured(Vec<u8>),
    /// The end token: what was captured is complete.
    End,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Splitter {
    capturing: bool,
    held: Vec<u8>,
}

impl Splitter {
    pub fn split(&mut self, chunk: &[u8]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        self.held.extend_from_slice(chunk);
        loop {
            let token = if self.capturing { END } else { BEGIN };
            if self.held.len() <= token.len() {
                return pieces;
            }
            match self.held.windows(token.len()).position(|window| window == token) {
                Some(at) => {
                    let after = self.held.split_off(at + token.len());
                    let mut before = std::mem::replace(&mut self.held, after);
                    before.truncate(at);
                    self.push(before, &mut pieces);
                    if self.capturing {
                        pieces.push(Piece::End);
                    }
                    self.capturing = !self.capturing;
                }
                None => {
                    let begun = (1..token.len()).rev().find(|count| self.held.ends_with(&token[..*count]));
                    let rest = self.held.split_off(self.held.len() - begun.unwrap_or(0));
                    let data = std::mem::replace(&mut self.held, rest);
                    self.push(data, &mut pieces);
                    return pieces;
                }
            }
        }
    }

    /// Output that was held back and that nothing follows; none where it would have been captured.
    pub fn finish(&mut self) -> Vec<u8> {
        if self.capturing { Vec::new() } else { std::mem::take(&mut self.held) }
    }

    fn push(&self, data: Vec<u8>, pieces: &mut Vec<Piece>) {
        if !data.is_empty() {
            pieces.push(if self.capturing { Piece::Captured(data) } else { Piece::Text(data) });
        }
    }
}

/// What is captured, at most so many bytes: the oldest go first.
#[derive(Clone, Debug)]
pub struct Captured {
    most: usize,
    data: Vec<u8>,
}

impl Captured {
    pub fn new(most: usize) -> Captured {
        Captured::with(most, Vec::new())
    }

    /// With what was captured so far.
    pub fn with(most: usize, data: Vec<u8>) -> Captured {
        Captured { most, data }
    }

    pub fn data(&self) -> &[u8] {
        &self.data
    }

    pub fn add(&mut self, data: &[u8]) {
        if self.data.len() + data.len() > self.most {
            self.data.drain(..data.len().min(self.data.len()));
        }
        self.data.extend_from_slice(data);
    }

    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.data)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sorted_out(pieces: Vec<Piece>) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (mut text, mut current, mut captured) = (Vec::new(), Vec::new(), Vec::new());
        for piece in pieces {
            match piece {
                Piece::Text(data) => text.extend(data),
                Piece::Captured(data) => current.extend(data),
                Piece::End => captured.push(std::mem::take(&mut current)),
            }
        }
        (text, captured)
    }

    const WRITTEN: &[u8] =
        b"before<!--XSUPERVISOR:BEGIN-->one<!--XSUPERVISOR:END-->between<!<!--XSUPERVISOR:\
        BEGIN--><!--XSUPERVISOR:END--><!--XSUPERVISOR:BEGIN-->two<!--XSUPERVISOR:EN<!--XSUPERVISOR:END-->\
        and a tail that is longer than any token";

    proptest! {
        #[test]
        fn tokens_may_be_cut_anywhere(cuts in prop::collection::vec(1_usize..9, 0..200)) {
            let mut splitter = Splitter::default();
            let (mut pieces, mut rest) = (Vec::new(), WRITTEN);
            for cut in cuts {
                let (chunk, after) = rest.split_at(cut.min(rest.len()));
                pieces.extend(splitter.split(chunk));
                rest = after;
            }
            pieces.extend(splitter.split(rest));
            pieces.extend(splitter.split(b"and a tail that is longer than any token"));
            let (text, captured) = sorted_out(pieces);
            let tail = "and a tail that is longer than any token";
            prop_assert_eq!(String::from_utf8(text).unwrap(), format!("beforebetween<!{tail}{tail}"));
            let expected: [&[u8]; 3] = [b"one", b"", b"two<!--XSUPERVISOR:EN"];
            prop_assert_eq!(captured, expected);
        }
    }

    #[test]
    fn output_no_longer_than_the_token_waits() {
        let mut splitter = Splitter::default();
        assert_eq!(splitter.split(b"short\n"), []);
        assert_eq!(splitter.split(&[b'x'; 20]).len(), 1);
    }

    #[test]
    fn what_waits_comes_out_at_the_end() {
        let mut splitter = Splitter::default();
        assert_eq!(splitter.split(b"short\n"), []);
        assert_eq!(splitter.finish(), b"short\n");
        splitter.split(b"<!--XSUPERVISOR:BEGIN-->half an event");
        assert_eq!(splitter.finish(), b"");
    }

    #[test]
    fn the_oldest_captured_bytes_go_first() {
        let mut captured = Captured::new(4);
        captured.add(b"abc");
        captured.add(b"de");
        assert_eq!(captured.take(), b"cde");
    }
}
