//! Text to number, time and bytes and back, as Python's `int`, `float`, `strptime` and `binascii` do it:
//! what Supervisor accepts in a parameter is what they accept.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// Space around it, a sign, and `_` between digits are allowed. Numbers past 64 bits become the nearest.
pub(super) fn int(text: &str) -> Option<i64> {
    let text = text.trim();
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let digits = without_underscores(digits)?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut value: i64 = 0;
    for byte in digits.bytes() {
        let digit = i64::from(byte - b'0');
        value = value.saturating_mul(10);
        value = if negative { value.saturating_sub(digit) } else { value.saturating_add(digit) };
    }
    Some(value)
}

pub(super) fn double(text: &str) -> Option<f64> {
    without_underscores(text.trim())?.parse().ok()
}

/// `None` where an underscore is not between two digits.
fn without_underscores(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    for (at, byte) in bytes.iter().enumerate() {
        if *byte == b'_' && !(digit(at.checked_sub(1)) && digit(Some(at + 1))) {
            return None;
        }
    }
    Some(text.replace('_', ""))
}

/// Python's `repr` of a float: shortest digits, an exponent outside 1e-4 to 1e16.
pub(super) fn repr(double: f64) -> String {
    if double.is_nan() {
        return "nan".to_owned();
    }
    if double.is_infinite() {
        return if double > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{double:e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("{:e} always writes an exponent");
    let exponent: i32 = exponent.parse().expect("{:e} writes a decimal exponent");
    if (-4..16).contains(&exponent) {
        let plain = format!("{double}");
        if plain.contains('.') { plain } else { format!("{plain}.0") }
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{mantissa}e{sign}{:02}", exponent.abs())
    }
}

/// Whether this is a moment that exists, written `20261121T10:55:00`.
pub(super) fn is_datetime(text: &str) -> bool {
    let bytes = text.as_bytes();
    let layout = bytes.len() == 17 && bytes[8] == b'T' && bytes[11] == b':' && bytes[14] == b':';
    if !layout {
        return false;
    }
    let number = |from: usize, to: usize| {
        bytes[from..to].iter().try_fold(0u32, |number, byte| {
            byte.is_ascii_digit().then(|| number * 10 + u32::from(byte - b'0'))
        })
    };
    let (Some(year), Some(month), Some(day)) = (number(0, 4), number(4, 6), number(6, 8)) else {
        return false;
    };
    let (Some(hour), Some(minute), Some(second)) = (number(9, 11), number(12, 14), number(15, 17)) else {
        return false;
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return false,
    };
    year >= 1 && (1..=days).contains(&day) && hour < 24 && minute < 60 && second < 60
}

/// Anything outside the alphabet is skipped, as `binascii` does.
pub(super) fn base64_decode(text: &str) -> Option<Vec<u8>> {
    let kept: Vec<u8> = text
        .bytes()
        .filter(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='))
        .collect();
    LENIENT.decode(kept).ok()
}

/// Lines of 76 characters, each ended, as MIME has it.
pub(super) fn base64_encode(bytes: &[u8], out: &mut String) {
    for line in bytes.chunks(57) {
        LENIENT.encode_string(line, out);
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_what_python_takes_for_one() {
        assert_eq!(int(" 1_000\n"), Some(1000));
        assert_eq!(int("+5"), Some(5));
        assert_eq!(int("-007"), Some(-7));
        assert_eq!(int("99999999999999999999"), Some(i64::MAX));
        assert_eq!(int("-99999999999999999999"), Some(i64::MIN));
        for bad in ["", " ", "-", "1__0", "_1", "1_", "1.0", "0x10", "٣"] {
            assert_eq!(int(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn floats_print_as_python_prints_them() {
        for (double, text) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(repr(double), text);
        }
    }

    #[test]
    fn moments_must_exist() {
        assert!(is_datetime("20240229T23:59:59"));
        assert!(!is_datetime("20230229T00:00:00"));
        assert!(!is_datetime("20231301T00:00:00"));
        assert!(!is_datetime("2023-01-01T00:00"));
    }

    #[test]
    fn base64_skips_what_is_not_of_it() {
        assert_eq!(base64_decode(" aGVs\nbG8= "), Some(b"hello".to_vec()));
        assert_eq!(base64_decode("aGVsbG8"), None);
        let mut out = String::new();
        base64_encode(&[0; 58], &mut out);
        assert_eq!(out.lines().map(str::len).collect::<Vec<_>>(), [76, 4]);
    }
}
