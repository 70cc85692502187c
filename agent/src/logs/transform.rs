//! What becomes of a stream's bytes on their way, where they are not just moved: escape sequences are taken out,
//! what stands between capture tokens goes its own way, and others want to see what was written. From the same
//! state the same bytes always give the same, which is what makes it possible to do them again.

use fleetvisor_core::ansi::Stripper;
use fleetvisor_core::capture::{Captured, Piece, Splitter};
use fleetvisor_model::config::OutputLog;

use super::spool::Record;

#[derive(Debug)]
pub(super) struct Transform {
    stripper: Option<Stripper>,
    capture: Option<Capture>,
    /// What is written is meant for the daemon, and is no text.
    pub(super) is_listener: bool,
    /// Whether somebody wants to see text that is written.
    pub(super) shows_text: bool,
}

#[derive(Debug)]
struct Capture {
    splitter: Splitter,
    captured: Captured,
}

/// What a chunk comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// For the log.
    pub(super) text: Vec<u8>,
    /// For everybody else, in order.
    pub(super) shown: Vec<Shown>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// What was written to the log.
    Logged(Vec<u8>),
    /// What stood between tokens, as it came.
    Captured(Vec<u8>),
    /// All that was captured between two tokens.
    Communication(Vec<u8>),
}

/// The most that is captured of a stream; 0 where nothing is.
pub(super) fn most_captured(log: &OutputLog) -> usize {
    usize::try_from(log.capture_maxbytes).unwrap_or(0)
}

impl Transform {
    pub(super) fn new(strips: bool, most_captured: usize, is_listener: bool, shows_text: bool) -> Transform {
        let capture = (most_captured > 0 && !is_listener)
            .then(|| Capture { splitter: Splitter::default(), captured: Captured::new(most_captured) });
        Transform { stripper: strips.then(Stripper::default), capture, is_listener, shows_text }
    }

    /// Whether bytes come out as they went in and nobody looks at them.
    pub(super) fn is_nothing(&self) -> bool {
        self.stripper.is_none() && self.capture.is_none() && !self.is_listener && !self.shows_text
    }

    pub(super) fn go_on_from(&mut self, record: Record, most_captured: usize) {
        if let Some(stripper) = &mut self.stripper {
            *stripper = record.stripper;
        }
        if let Some(capture) = &mut self.capture {
            capture.splitter = record.splitter;
            capture.captured = Captured::with(most_captured, record.captured);
        }
    }

    /// The state after everything so far, with `done` and `end` left to the caller.
    pub(super) fn state(&self) -> Record {
        let capture = self.capture.as_ref();
        Record {
            stripper: self.stripper.unwrap_or_default(),
            splitter: capture.map(|capture| capture.splitter.clone()).unwrap_or_default(),
            captured: capture.map(|capture| capture.captured.data().to_vec()).unwrap_or_default(),
            ..Record::default()
        }
    }

    pub(super) fn work(&mut self, chunk: &[u8]) -> Work {
        let mut work = Work::default();
        let Some(capture) = &mut self.capture else {
            self.text(chunk, &mut work);
            return work;
        };
        for piece in capture.splitter.split(chunk) {
            match piece {
                Piece::Text(data) => self.text(&data, &mut work),
                Piece::Captured(data) => self.captured(&data, &mut work),
                Piece::End => {
                    let data = self.capture.as_mut().map(|capture| capture.captured.take());
                    work.shown.push(Shown::Communication(data.unwrap_or_default()));
                }
            }
        }
        work
    }

    /// What was held back, once nothing follows.
    pub(super) fn finish(&mut self) -> Work {
        let held = self.capture.as_mut().map(|capture| capture.splitter.finish());
        let mut work = Work::default();
        self.text(&held.unwrap_or_default(), &mut work);
        work
    }

    fn text(&mut self, data: &[u8], work: &mut Work) {
        let from = work.text.len();
        self.strip(data, &mut work.text);
        if self.shows_text && !self.is_listener && work.text.len() > from {
            work.shown.push(Shown::Logged(work.text[from..].to_vec()));
        }
    }

    fn captured(&mut self, data: &[u8], work: &mut Work) {
        let mut text = Vec::with_capacity(data.len());
        self.strip(data, &mut text);
        if let Some(capture) = &mut self.capture {
            capture.captured.add(&text);
        }
        if self.shows_text && !text.is_empty() {
            work.shown.push(Shown::Captured(text));
        }
    }

    fn strip(&mut self, data: &[u8], out: &mut Vec<u8>) {
        match &mut self.stripper {
            Some(stripper) => stripper.strip(data, out),
            None => out.extend_from_slice(data),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn transform() -> Transform {
        Transform::new(true, 64, false, true)
    }

    #[test]
    fn what_is_captured_is_shown_and_not_logged() {
        let written =
            b"long enough before \x1b[1mit<!--XSUPERVISOR:BEGIN-->in\x1b[0mside<!--XSUPERVISOR:END-->";
        let work = transform().work(written);
        assert_eq!(work.text, b"long enough before it");
        let shown = [
            Shown::Logged(b"long enough before it".to_vec()),
            Shown::Captured(b"inside".to_vec()),
            Shown::Communication(b"inside".to_vec()),
        ];
        assert_eq!(work.shown, shown);
    }

    proptest! {
        /// A successor that goes on from the state of any moment comes to what would have come without it.
        #[test]
        fn a_successor_does_the_same(
            written in "(<!--XSUPERVISOR:(BEGIN|END)-->|\\x1b\\[[0-9;]{0,4}m|[a-z\\n]{1,30}){0,12}",
            cuts in prop::collection::vec(1_usize..40, 0..12),
        ) {
            let (mut one, mut other) = (transform(), transform());
            let mut rest = written.as_bytes();
            for cut in cuts {
                let (chunk, after) = rest.split_at(cut.min(rest.len()));
                rest = after;
                let state = other.state();
                let expected = one.work(chunk);
                // Killed before it was recorded: done again from the state before.
                prop_assert_eq!(&other.work(chunk), &expected);
                other = transform();
                other.go_on_from(state, 64);
                prop_assert_eq!(&other.work(chunk), &expected);
                prop_assert_eq!(other.state(), one.state());
            }
            prop_assert_eq!(one.finish(), other.finish());
        }
    }
}
