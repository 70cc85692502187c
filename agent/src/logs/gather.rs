//! What several threads do a part of each and what is told once: by whoever comes last.

use std::sync::{Arc, Mutex, PoisonError};

/// One thread's part. Where one is dropped instead of [`done`](Self::done), nothing is ever told.
pub(super) struct Part<T>(Arc<Mutex<Gathering<T>>>);

struct Gathering<T> {
    left: usize,
    /// Until it is told.
    sum: Option<(T, Tell<T>)>,
}

type Tell<T> = Box<dyn FnOnce(T) + Send>;

/// So many parts. With none it is told at once.
pub(super) fn gather<T>(parts: usize, begin: T, tell: impl FnOnce(T) + Send + 'static) -> Vec<Part<T>> {
    if parts == 0 {
        tell(begin);
        return Vec::new();
    }
    let gathering = Gathering { left: parts, sum: Some((begin, Box::new(tell) as Tell<T>)) };
    let gathering = Arc::new(Mutex::new(gathering));
    (0..parts).map(|_| Part(Arc::clone(&gathering))).collect()
}

impl<T> Part<T> {
    /// Adds what this part has come to.
    pub(super) fn done(self, add: impl FnOnce(&mut T)) {
        let mut gathering = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((sum, _)) = &mut gathering.sum {
            add(sum);
        }
        gathering.left = gathering.left.saturating_sub(1);
        let all = if gathering.left == 0 { gathering.sum.take() } else { None };
        drop(gathering);
        if let Some((sum, tell)) = all {
            tell(sum);
        }
    }
}

impl<T> std::fmt::Debug for Part<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Part")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn three() -> (Vec<Part<Vec<u8>>>, mpsc::Receiver<Vec<u8>>) {
        let (told, heard) = mpsc::channel();
        (gather(3, Vec::new(), move |sum| told.send(sum).unwrap()), heard)
    }

    #[test]
    fn the_last_part_tells_all_of_them_once() {
        let (parts, heard) = three();
        for (number, part) in (0..).zip(parts) {
            assert!(heard.try_recv().is_err());
            std::thread::spawn(move || part.done(|sum| sum.push(number))).join().unwrap();
        }
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), [[0, 1, 2]]);
    }

    #[test]
    fn nothing_is_told_where_a_part_is_missing() {
        let (mut parts, heard) = three();
        drop(parts.pop());
        for part in parts {
            part.done(|_| ());
        }
        assert_eq!(heard.recv(), Err(mpsc::RecvError));
    }

    #[test]
    fn what_has_no_parts_is_told_at_once() {
        let (told, heard) = mpsc::channel();
        assert!(gather(0, 7, move |sum| told.send(sum).unwrap()).is_empty());
        assert_eq!(heard.try_recv(), Ok(7));
    }
}
