//! Takes ANSI escape sequences out of a program's output, also those that are cut by the end of a chunk.

use serde::{Deserialize, Serialize};

/// Letters that end a sequence, as Supervisor knows them.
const TERMINATORS: &[u8] = b"HfABCDRsuJKhlpm";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// After ESC [.
    Sequence,
}

/// What of a sequence has been seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stripper {
    state: State,
}

impl Stripper {
    /// Appends the text of `chunk` to `out`.
    pub fn strip(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        for &byte in chunk {
            self.state = match (self.state, byte) {
                (State::Text, 0x1b) => State::Escape,
                (State::Text, _) => {
                    out.push(byte);
                    State::Text
                }
                (State::Escape, b'[') => State::Sequence,
                (State::Escape, 0x1b) => {
                    out.push(0x1b);
                    State::Escape
                }
                (State::Escape, _) => {
                    out.extend([0x1b, byte]);
                    State::Text
                }
                (State::Sequence, byte) if TERMINATORS.contains(&byte) => State::Text,
                (State::Sequence, _) => State::Sequence,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stripped(chunks: &[&[u8]]) -> Vec<u8> {
        let (mut stripper, mut out) = (Stripper::default(), Vec::new());
        for chunk in chunks {
            stripper.strip(chunk, &mut out);
        }
        out
    }

    #[test]
    fn colours_go_and_text_stays() {
        assert_eq!(stripped(&[b"\x1b[1;31mred\x1b[0m plain \x1bX"]), b"red plain \x1bX");
    }

    proptest! {
        #[test]
        fn a_cut_anywhere_changes_nothing(text in "[\\x1b\\[0-9;mHa-c]{0,40}", at in 0usize..41) {
            let bytes = text.as_bytes();
            let at = at.min(bytes.len());
            prop_assert_eq!(stripped(&[bytes]), stripped(&[&bytes[..at], &bytes[at..]]));
        }
    }
}
