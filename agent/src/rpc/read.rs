//! Parts of a log file, by Supervisor's rules about offsets and lengths that lie outside of it.

use std::io::{self, Read, Seek, SeekFrom};

/// One answer's worth of log, in bytes. Supervisor has no limit and dies of it.
pub(super) const MOST: u64 = 128 << 20;

#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("a negative length, or one beside a negative offset")]
    BadArguments,
    #[error("more than {MOST} bytes in one answer")]
    TooLong,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// `length` bytes from `offset`; all that follow when `length` is 0. A negative offset counts from the end
/// and allows no length.
pub(super) fn read(file: &mut (impl Read + Seek), offset: i64, length: i64) -> Result<Vec<u8>, ReadError> {
    if length < 0 || offset < 0 && length != 0 {
        return Err(ReadError::BadArguments);
    }
    let count = match u64::try_from(offset) {
        Ok(offset) => {
            file.seek(SeekFrom::Start(offset))?;
            if length == 0 { u64::MAX } else { length.unsigned_abs() }
        }
        Err(_) => {
            let size = file.seek(SeekFrom::End(0))?;
            let back = offset.unsigned_abs();
            file.seek(SeekFrom::Start(size.saturating_sub(back)))?;
            back
        }
    };
    take(file, count)
}

/// The last `length` bytes up to the end, the size of the file, and whether there is more than `offset` and
/// `length` cover. `offset` matters only in that it must lie before the end.
pub(super) fn tail(
    file: &mut (impl Read + Seek),
    mut offset: i64,
    mut length: i64,
) -> Result<(Vec<u8>, i64, bool), ReadError> {
    let size = i64::try_from(file.seek(SeekFrom::End(0))?).unwrap_or(i64::MAX);
    let overflow = size > offset.saturating_add(length);
    if overflow {
        offset = size - 1;
    }
    if offset.saturating_add(length) > size {
        if offset > size - 1 {
            length = 0;
        }
        offset = size - length;
    }
    let bytes = match length {
        ..=0 => Vec::new(),
        _ => {
            file.seek(SeekFrom::Start(u64::try_from(offset).unwrap_or(0)))?;
            take(file, length.unsigned_abs())?
        }
    };
    Ok((bytes, size, overflow))
}

fn take(file: &mut impl Read, count: u64) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    file.take(count.min(MOST + 1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(ReadError::TooLong);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    const LOG: &[u8] = b"0123456789";

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn reading_follows_supervisors_table() {
        for (offset, length, expected) in [
            (0, 0, "0123456789"),
            (0, 4, "0123"),
            (3, 0, "3456789"),
            (3, 3, "345"),
            (8, 100, "89"),
            (10, 1, ""),
            (50, 5, ""),
            (-4, 0, "6789"),
            (-40, 0, "0123456789"),
            (i64::MIN, 0, "0123456789"),
        ] {
            assert_eq!(
                text(read(&mut Cursor::new(LOG), offset, length).unwrap()),
                expected,
                "{offset} {length}"
            );
        }
        for (offset, length) in [(-4, 2), (0, -1), (-1, -1), (i64::MIN, i64::MIN)] {
            let result = read(&mut Cursor::new(LOG), offset, length);
            assert!(matches!(result, Err(ReadError::BadArguments)), "{offset} {length}");
        }
    }

    #[test]
    fn tailing_follows_supervisors_table() {
        for (offset, length, expected, overflow) in [
            (0, 100, "0123456789", false),
            (0, 10, "0123456789", false),
            (0, 4, "6789", true),
            (6, 4, "6789", false),
            (6, 100, "0123456789", false),
            (10, 10, "", false),
            (20, 5, "", false),
            (0, 0, "", true),
            (-5, 3, "789", true),
            (3, -2, "", true),
        ] {
            let (bytes, size, overflows) = tail(&mut Cursor::new(LOG), offset, length).unwrap();
            assert_eq!(
                (text(bytes).as_str(), size, overflows),
                (expected, 10, overflow),
                "{offset} {length}"
            );
        }
    }

    #[test]
    fn what_does_not_end_is_refused() {
        struct Endless;
        impl Read for Endless {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                Ok(buffer.len())
            }
        }
        assert!(matches!(take(&mut Endless, u64::MAX), Err(ReadError::TooLong)));
    }

    proptest! {
        #[test]
        fn reading_is_slicing(
            log in proptest::collection::vec(any::<u8>(), 0..40), offset in -50i64..50, length in 0i64..50,
        ) {
            let result = read(&mut Cursor::new(&log), offset, length);
            let from = if offset < 0 {
                log.len().saturating_sub(offset.unsigned_abs() as usize)
            } else {
                log.len().min(offset as usize)
            };
            match (offset < 0, length) {
                (true, 1..) => prop_assert!(matches!(result, Err(ReadError::BadArguments))),
                (_, 0) => prop_assert_eq!(result.unwrap(), &log[from..]),
                (_, _) => {
                    let to = log.len().min(from + length as usize);
                    prop_assert_eq!(result.unwrap(), &log[from..to]);
                }
            }
        }

        #[test]
        fn a_tail_is_an_end_of_the_log(
            log in proptest::collection::vec(any::<u8>(), 0..40),
            offset in prop_oneof![-50i64..50, any::<i64>()],
            length in prop_oneof![-50i64..50, any::<i64>()],
        ) {
            let (bytes, size, overflow) = tail(&mut Cursor::new(&log), offset, length).unwrap();
            prop_assert_eq!(size, log.len() as i64);
            prop_assert_eq!(overflow, i128::from(size) > i128::from(offset) + i128::from(length));
            prop_assert!(log.ends_with(&bytes));
            prop_assert!(bytes.len() as i64 <= length.max(0));
        }
    }
}
