//! The last touch on the head of an answer: spellings that hyper has no setting for and clients of Supervisor
//! have seen otherwise. Works on whole heads only; bodies are never looked at.

use bytes::{BufMut, BytesMut};

/// Longer than any head of ours.
const MOST: usize = 8 << 10;

/// Rewrites the head that `written` begins with. Gives the new head and how many bytes of `written` it stands
/// for; `None` where `written` does not begin with a whole head.
///
/// With `drop_close` the line `Connection: close` is left out: to a client that asked for it, Supervisor does
/// not repeat it.
pub(super) fn rewrite(written: &[u8], drop_close: bool) -> Option<(BytesMut, usize)> {
    if !written.starts_with(b"HTTP/1.") {
        return None;
    }
    let window = &written[..written.len().min(MOST)];
    let length = window.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let mut head = BytesMut::with_capacity(length);
    for line in written[..length].split_inclusive(|byte| *byte == b'\n') {
        if drop_close && line == b"Connection: close\r\n" {
            continue;
        }
        match line.strip_prefix(b"Www-Authenticate:") {
            Some(value) => {
                head.put_slice(b"WWW-Authenticate:");
                head.put_slice(value);
            }
            None => head.put_slice(line),
        }
    }
    Some((head, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_are_supervisors_and_the_body_is_untouched() {
        let written = b"HTTP/1.1 401 Unauthorized\r\nWww-Authenticate: Basic\r\nConnection: close\r\n\r\n\
                        Connection: close\r\n\r\n";
        let (head, length) = rewrite(written, true).unwrap();
        assert_eq!(&head[..], b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\n\r\n");
        assert_eq!(&written[length..], b"Connection: close\r\n\r\n");
        let (head, length) = rewrite(written, false).unwrap();
        assert_eq!(head.len(), length);
    }

    #[test]
    fn what_is_not_a_whole_head_is_left_alone() {
        assert_eq!(rewrite(b"HTTP/1.1 200 OK\r\nConnection: close\r\n", true), None);
        assert_eq!(rewrite(b"0\r\n\r\n", true), None);
        assert_eq!(rewrite(b"", true), None);
    }
}
