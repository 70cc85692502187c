//! Answers that wait until what led to them is in the daemon's log: whoever is told of a change finds it there. A log
//! whose disk hangs keeps nobody waiting for long.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fleetvisor_model::time::Monotonic;

use crate::clock;
use crate::logs::Logs;

/// After this time an answer is given whatever the log does.
const PATIENCE: Duration = Duration::from_secs(1);

/// In the order in which they are given.
#[derive(Default)]
pub(crate) struct Answers(VecDeque<(Monotonic, Answer)>);

#[derive(Clone)]
struct Answer(Arc<Mutex<Waiting>>);

/// `None` once it is given.
type Waiting = Option<Box<dyn FnOnce() + Send>>;

impl Answer {
    fn give(&self) {
        let answer = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(answer) = answer {
            answer();
        }
    }

    fn is_given(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

impl Answers {
    pub(crate) fn give(&mut self, logs: &Logs, answer: impl FnOnce() + Send + 'static) {
        let answer = Answer(Arc::new(Mutex::new(Some(Box::new(answer)))));
        self.0.push_back((clock::now().monotonic + PATIENCE, answer.clone()));
        logs.then(move || answer.give());
    }

    /// When the next is late.
    pub(crate) fn deadline(&mut self) -> Option<Monotonic> {
        while self.0.front().is_some_and(|(_, answer)| answer.is_given()) {
            self.0.pop_front();
        }
        self.0.front().map(|(until, _)| *until)
    }

    pub(crate) fn give_late(&mut self, now: Monotonic) {
        while self.deadline().is_some_and(|until| until <= now) {
            if let Some((_, answer)) = self.0.pop_front() {
                answer.give();
            }
        }
    }
}

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} answers", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_log_that_takes_nothing_delays_answers_and_withholds_none() {
        let (mut answers, logs) = (Answers::default(), Logs::nowhere());
        let (given, got) = mpsc::channel();
        for number in 0..2 {
            let given = given.clone();
            answers.give(&logs, move || given.send(number).unwrap());
        }
        let deadline = answers.deadline().unwrap();
        answers.give_late(clock::now().monotonic);
        assert_eq!(got.try_iter().count(), 0);
        answers.give_late(deadline + PATIENCE);
        assert_eq!(got.try_iter().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(answers.deadline(), None);
    }
}
