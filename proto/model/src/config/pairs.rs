//! `KEY=value,KEY2="a, b"`: the form of `environment=`. Splits as Python's non-POSIX `shlex` does with
//! Supervisor's extra word characters; of the separators only `=` is checked.

use std::collections::HashMap;

/// In the order of the text; of a repeated key the last value counts.
pub(super) fn key_value_pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let tokens = tokens(text)?;
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut places = HashMap::new();
    for group in tokens.chunks(4) {
        let [key, equals, value, ..] = group else { return Err(unexpected_end(text)) };
        if equals != "=" {
            return Err(unexpected_end(text));
        }
        let value = value.trim_matches(['\'', '"']).to_owned();
        match places.insert(key.as_str(), pairs.len()) {
            None => pairs.push((key.clone(), value)),
            Some(place) => {
                places.insert(key, place);
                pairs[place].1 = value;
            }
        }
    }
    Ok(pairs)
}

/// Supervisor does not quote what is inside.
fn unexpected_end(text: &str) -> String {
    format!("Unexpected end of key/value pairs in value '{text}'")
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_/.+-():".contains(c)
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// Quoted text with its quotes, words, and everything else one character at a time.
fn tokens(text: &str) -> Result<Vec<String>, String> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(first) = chars.next() {
        if is_blank(first) {
            continue;
        }
        if first == '#' {
            skip_line(&mut chars);
            continue;
        }
        let mut token = String::from(first);
        if first == '\'' || first == '"' {
            loop {
                let c = chars.next().ok_or("No closing quotation")?;
                token.push(c);
                if c == first {
                    break;
                }
            }
        } else if is_word(first) {
            // A quote inside a word is part of it; a comment is taken out of the middle.
            while let Some(c) = chars.next_if(|c| is_word(*c) || matches!(c, '\'' | '"' | '#')) {
                match c {
                    '#' => skip_line(&mut chars),
                    c => token.push(c),
                }
            }
        }
        tokens.push(token);
    }
    Ok(tokens)
}

fn skip_line(chars: &mut impl Iterator<Item = char>) {
    for c in chars {
        if c == '\n' {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
        key_value_pairs(text)
    }

    fn owned(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn quotes_protect_commas_and_are_taken_off() {
        assert_eq!(
            pairs("A=\"one two\",B='three, four'"),
            Ok(owned(&[("A", "one two"), ("B", "three, four")]))
        );
        assert_eq!(pairs("A=\"\",B=''"), Ok(owned(&[("A", ""), ("B", "")])));
        assert_eq!(pairs("A = \"x\" , B = 'say \"hi\"'"), Ok(owned(&[("A", "x"), ("B", "say \"hi")])));
    }

    #[test]
    fn words_have_supervisors_extra_characters() {
        assert_eq!(pairs("A=/a/b-c.d:e(f)+g"), Ok(owned(&[("A", "/a/b-c.d:e(f)+g")])));
        assert_eq!(pairs("A=a@b"), Err("Unexpected end of key/value pairs in value 'A=a@b'".into()));
        assert_eq!(pairs("A=it's,B=2"), Ok(owned(&[("A", "it's"), ("B", "2")])));
    }

    #[test]
    fn separators_are_not_checked_and_the_last_may_lack_its_pair() {
        assert_eq!(pairs("A=1;B=2 \n"), Ok(owned(&[("A", "1"), ("B", "2")])));
        assert_eq!(pairs("KEY=a b"), Ok(owned(&[("KEY", "a")])));
        assert_eq!(pairs("A=1,A=2"), Ok(owned(&[("A", "2")])));
        assert_eq!(pairs("=x"), Err("Unexpected end of key/value pairs in value '=x'".into()));
        assert_eq!(pairs("A=\"open"), Err("No closing quotation".into()));
    }

    #[test]
    fn comments_reach_to_the_end_of_the_line() {
        assert_eq!(pairs("A=1,#B=2\nC=3"), Ok(owned(&[("A", "1"), ("C", "3")])));
        assert_eq!(pairs("A=b#c\nd"), Ok(owned(&[("A", "bd")])));
    }

    proptest! {
        #[test]
        fn any_text_is_split_or_refused(text in "[A-C=,'\"# \n@é]{0,60}") {
            let _ = pairs(&text);
        }
    }
}
