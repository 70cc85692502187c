//! How text becomes part of a page or of a link. Everything that is not written in this program goes through
//! here.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What Python's `quote` leaves as it is.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'.').remove(b'-').remove(b'~').remove(b'/');

/// Text as the content of an element or as a quoted attribute.
#[derive(Debug)]
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(['&', '<', '>', '"', '\'', '\0']) {
            f.write_str(&rest[..at])?;
            f.write_str(match rest.as_bytes()[at] {
                b'&' => "&amp;",
                b'<' => "&lt;",
                b'>' => "&gt;",
                b'"' => "&quot;",
                b'\'' => "&#39;",
                // HTML has no way to write it.
                _ => "\u{fffd}",
            })?;
            rest = &rest[at + 1..];
        }
        f.write_str(rest)
    }
}

/// Text as a part of a link.
pub(super) fn quote(text: &str) -> String {
    utf8_percent_encode(text, KEPT).to_string()
}

/// What every page begins with, up to its body. `token` is what the page's script sends with actions.
pub(super) fn head(title: &str, token: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{}</title>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"token\" content=\"{}\">\n\
         <link rel=\"stylesheet\" href=\"stylesheets/supervisor.css\">\n\
         <link rel=\"icon\" type=\"image/svg+xml\" href=\"images/icon.svg\">\n\
         <script type=\"module\" src=\"scripts/live.js\"></script>\n</head>\n",
        Escaped(title),
        Escaped(token)
    )
}

/// The top of a page, with what it is about. The style sheet shows the name: programs that read a page's text
/// find what they find in Supervisor's.
pub(super) fn banner(name: &str) -> String {
    format!(
        "<header id=\"header\"><img src=\"images/icon.svg\" alt=\"\">\
         <h1 id=\"host\" data-name=\"{name}\" aria-label=\"{name}\"></h1></header>\n",
        name = Escaped(name)
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn links_are_quoted_as_python_quotes_them() {
        assert_eq!(quote("ERROR: a/b_c-d.e~f é"), "ERROR%3A%20a/b_c-d.e~f%20%C3%A9");
    }

    proptest! {
        #[test]
        fn text_can_neither_begin_nor_end_anything(text in any::<String>()) {
            let escaped = Escaped(&text).to_string();
            prop_assert!(!escaped.contains(['<', '>', '"', '\'', '\0']));
            let back = escaped.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
            let back = back.replace("&#39;", "'").replace("&amp;", "&");
            prop_assert_eq!(back, text.replace('\0', "\u{fffd}"));
        }
    }
}
