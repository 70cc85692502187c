//! What hyper has no setting for and clients of Supervisor have seen otherwise: spellings in the head of an
//! answer, and which garbage is answered at all. Works on whole heads only; bodies are never looked at.

use bytes::{BufMut, BytesMut};

/// Longer than any head of ours.
const MOST: usize = 8 << 10;

/// As much of a request as [`is_request`] needs to see.
pub(super) const MOST_LINE: usize = 8 << 10;

/// Whether the first line of what a client sent has the form of a request, be it a good or a bad one.
pub(super) fn is_request(sent: &[u8]) -> bool {
    let Some(line) = sent.split_inclusive(|byte| *byte == b'\n').find(|line| *line != b"\r\n") else {
        return false;
    };
    let Some(line) = line.strip_suffix(b"\r\n") else { return false };
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let is_version = |word: &[u8]| {
        let number = word.strip_prefix(b"HTTP/").unwrap_or_default();
        !number.is_empty() && number.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.')
    };
    match words[..] {
        [method, uri] => !method.is_empty() && !uri.is_empty(),
        [method, uri, version] => !method.is_empty() && !uri.is_empty() && is_version(version),
        _ => false,
    }
}

/// Whether `written` is what hyper answers to something that it can't parse.
pub(super) fn is_bad_request(written: &[u8]) -> bool {
    written.starts_with(b"HTTP/1.1 400 ")
}

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
    fn a_request_is_told_from_garbage_by_its_first_line() {
        for request in ["GET / HTTP/1.1\r\nx", "GET /\r\n", "G@T x HTTP/2.0\r\n", "\r\nGET / HTTP/1.0\r\n"] {
            assert!(is_request(request.as_bytes()), "{request:?}");
        }
        for garbage in [
            "",
            "garbage\r\n",
            "GET / HTTP/1.1",
            "GET  / HTTP/1.1\r\n",
            "GET / HTTP/1.0 x\r\n",
            "GET / FTP/1\r\n",
            "\u{16}\u{3}",
        ] {
            assert!(!is_request(garbage.as_bytes()), "{garbage:?}");
        }
    }

    #[test]
    fn what_is_not_a_whole_head_is_left_alone() {
        assert_eq!(rewrite(b"HTTP/1.1 200 OK\r\nConnection: close\r\n", true), None);
        assert_eq!(rewrite(b"0\r\n\r\n", true), None);
        assert_eq!(rewrite(b"", true), None);
    }
}
