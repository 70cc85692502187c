//! Text as Python shows it: `repr` of a string, and text that is not UTF-8.

use std::ffi::OsStr;

/// Undecodable bytes become the replacement character.
pub(super) fn lossy(text: &OsStr) -> String {
    text.to_string_lossy().into_owned()
}

/// `'text'`, in double quotes where that saves escaping, control characters escaped.
pub(super) fn repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for char in text.chars() {
        match char {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            char if char == quote => {
                out.push('\\');
                out.push(char);
            }
            char if char.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(char))),
            char => out.push(char),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted_as_python_quotes_them() {
        for (text, shown) in [
            ("a", "'a'"),
            ("it's", "\"it's\""),
            ("'\"", "'\\'\"'"),
            ("a\\b\n\u{1}", "'a\\\\b\\n\\x01'"),
            ("é", "'é'"),
        ] {
            assert_eq!(repr(text), shown);
        }
    }
}
