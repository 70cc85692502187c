//! The parts of Python's text handling that show in a configuration's values and messages: white space,
//! `repr`, `int`. Nothing here knows about configurations.

/// `str.isspace`: Unicode's white space and the four ASCII separators.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// `str.strip()`.
pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.rstrip()`.
pub(super) fn rstrip(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// `repr` of a `str`, as Supervisor quotes values in its messages.
pub fn repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => out.push_str(&escaped(c)),
        }
    }
    out.push(quote);
    out
}

/// `ascii` of a `str`.
pub(super) fn ascii(text: &str) -> String {
    repr(text).chars().map(|c| if c.is_ascii() { c.to_string() } else { escaped(c) }).collect()
}

fn escaped(c: char) -> String {
    match u32::from(c) {
        code @ 0..=0xff => format!("\\x{code:02x}"),
        code @ 0x100..=0xffff => format!("\\u{code:04x}"),
        code => format!("\\U{code:08x}"),
    }
}

/// `str.isprintable`. Rust's debug escaping has the same table; it also escapes a combining mark that comes
/// first, hence the letter in front.
fn is_printable(c: char) -> bool {
    match c {
        ' '..='~' => true,
        c if c.is_ascii() => false,
        c => ['a', c].iter().collect::<String>().escape_debug().count() == 2,
    }
}

/// `int(text)`: white space around, a sign, `_` between digits. Numbers past 64 bits are refused, which
/// Python does not do; nothing that takes one could use it.
pub(super) fn int(text: &str) -> Result<i64, String> {
    from_digits(text, 10).ok_or_else(|| invalid_literal(text))?
}

/// `int(text, 8)`: also with `0o` in front.
pub(super) fn octal(text: &str) -> Option<i64> {
    from_digits(text, 8)?.ok()
}

fn invalid_literal(text: &str) -> String {
    format!("invalid literal for int() with base 10: {}", repr(text))
}

/// `None` for what is no number at all, an error for one that is out of range.
fn from_digits(text: &str, radix: u32) -> Option<Result<i64, String>> {
    let unsigned = strip(text);
    let (negative, digits) = match unsigned.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, unsigned.strip_prefix('+').unwrap_or(unsigned)),
    };
    let digits = match (radix, digits.get(..2)) {
        (8, Some("0o" | "0O")) => digits[2..].strip_prefix('_').unwrap_or(&digits[2..]),
        _ => digits,
    };
    let mut value: Option<i64> = Some(0);
    let mut after_digit = false;
    for c in digits.chars() {
        match c.to_digit(radix) {
            Some(digit) => {
                let digit = i64::from(digit);
                let shifted = value.and_then(|v| v.checked_mul(i64::from(radix)));
                value =
                    shifted.and_then(|v| if negative { v.checked_sub(digit) } else { v.checked_add(digit) });
                after_digit = true;
            }
            None if c == '_' && after_digit => after_digit = false,
            None => return None,
        }
    }
    after_digit.then(|| value.ok_or_else(|| format!("{} is out of range", strip(text))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repr_quotes_and_escapes_as_python_does() {
        assert_eq!(repr("a\n\t\\"), r"'a\n\t\\'");
        assert_eq!(repr("it's"), r#""it's""#);
        assert_eq!(repr("it's \"so\""), r#"'it\'s "so"'"#);
        assert_eq!(repr("é\u{301}\u{7f}\u{a0}\u{feff}\u{e0001}"), "'é\u{301}\\x7f\\xa0\\ufeff\\U000e0001'");
        assert_eq!(repr("\u{301}"), "'\u{301}'");
        assert_eq!(ascii("é"), r"'\xe9'");
    }

    #[test]
    fn integers_are_what_python_takes() {
        for (text, value) in [("1_000", 1000), ("+5", 5), (" -7 ", -7), ("007", 7), ("-0", 0)] {
            assert_eq!(int(text), Ok(value), "{text}");
        }
        assert_eq!(int("-9223372036854775808"), Ok(i64::MIN));
        for text in ["", "_1", "1_", "1__0", "+-1", "0x1", "1.0", "- 1", "+"] {
            let message = format!("invalid literal for int() with base 10: {}", repr(text));
            assert_eq!(int(text), Err(message));
        }
        assert_eq!(int("9223372036854775808"), Err("9223372036854775808 is out of range".into()));
    }

    #[test]
    fn octal_takes_its_prefix() {
        assert_eq!(octal("0o22"), Some(18));
        assert_eq!(octal("0O_22"), Some(18));
        assert_eq!(octal("022"), Some(18));
        assert_eq!(octal("8"), None);
        assert_eq!(octal("0o"), None);
        assert_eq!(octal("_7"), None);
    }
}
