//! Splits `command=` into words as Python's POSIX `shlex.split` does: quotes and backslashes, no comments,
//! no variables, no globs.

/// Worded as Python words it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitError {
    Quotation,
    Escape,
}

impl std::fmt::Display for SplitError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            SplitError::Quotation => "No closing quotation",
            SplitError::Escape => "No escaped character",
        })
    }
}

/// The words of a command; none for an empty one.
pub fn split(command: &str) -> Result<Vec<String>, SplitError> {
    let mut words = Vec::new();
    let mut chars = command.chars();
    while let Some(word) = next_word(&mut chars)? {
        words.push(word);
    }
    Ok(words)
}

fn next_word(chars: &mut std::str::Chars<'_>) -> Result<Option<String>, SplitError> {
    let mut word: Option<String> = None;
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\r' | '\n' => {
                if word.is_some() {
                    return Ok(word);
                }
            }
            '\'' | '"' => quoted(c, chars, word.get_or_insert_default())?,
            '\\' => word.get_or_insert_default().push(chars.next().ok_or(SplitError::Escape)?),
            c => word.get_or_insert_default().push(c),
        }
    }
    Ok(word)
}

fn quoted(quote: char, chars: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), SplitError> {
    while let Some(c) = chars.next() {
        match c {
            c if c == quote => return Ok(()),
            '\\' if quote == '"' => {
                let escaped = chars.next().ok_or(SplitError::Escape)?;
                if escaped != '"' && escaped != '\\' {
                    word.push('\\');
                }
                word.push(escaped);
            }
            c => word.push(c),
        }
    }
    Err(SplitError::Quotation)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn splits_as_python_does() {
        let words = |command| split(command).unwrap();
        assert_eq!(words("/bin/cat  -n\t'a b' \"c \\\" d\""), ["/bin/cat", "-n", "a b", "c \" d"]);
        assert_eq!(words(r#"a\ b "\n" '\n' x""y"#), ["a b", r"\n", r"\n", "xy"]);
        assert_eq!(words("sh -c '' # not a comment"), ["sh", "-c", "", "#", "not", "a", "comment"]);
        assert!(words("  ").is_empty());
        assert_eq!(split("a 'b"), Err(SplitError::Quotation));
        assert_eq!(split("a\\"), Err(SplitError::Escape));
    }

    proptest! {
        #[test]
        fn quoting_is_undone(words in prop::collection::vec("[^']{0,8}", 0..6)) {
            let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
            prop_assert_eq!(split(&quoted.join(" ")).unwrap(), words);
        }

        #[test]
        fn any_text_is_split_or_refused(text in ".{0,200}") {
            let _ = split(&text);
        }
    }
}
