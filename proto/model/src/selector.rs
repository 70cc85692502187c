//! Which hosts a command means, by label: `role=web,dc!=eu,rack`. Where the labels come from is not known
//! here.

use std::collections::BTreeMap;

const MAX_BYTES: usize = 4096;
const MAX_TERMS: usize = 64;

/// Terms that must all hold. Without any, every host matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    /// `key=value`
    Is(String, String),
    /// `key!=value`; holds for a host without the label, too.
    IsNot(String, String),
    /// `key`
    Has(String),
    /// `!key`
    HasNot(String),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error("a selector has at most {MAX_BYTES} bytes and {MAX_TERMS} terms")]
    TooLong,
    #[error("selector {0}: an empty term; write key=value, key!=value, key or !key, with commas between")]
    EmptyTerm(String),
    #[error("selector term {0}: a key is letters, digits, '.', '_', '-' and '/'")]
    Key(String),
    #[error("selector term {0}: a value is letters, digits, '.', '_', '-', '/' and ':'")]
    Value(String),
}

impl Selector {
    /// Reads `role=web,dc!=eu,rack,!old`; space around a term is allowed. Empty text selects every host.
    pub fn parse(typed: &str) -> Result<Selector, SelectorError> {
        if typed.len() > MAX_BYTES {
            return Err(SelectorError::TooLong);
        }
        if typed.trim().is_empty() {
            return Ok(Selector::default());
        }
        let terms: Vec<&str> = typed.split(',').map(str::trim).collect();
        if terms.len() > MAX_TERMS {
            return Err(SelectorError::TooLong);
        }
        let terms = terms.into_iter().map(|term| Term::parse(term, typed)).collect::<Result<_, _>>()?;
        Ok(Selector { terms })
    }

    /// Whether it selects every host, having no term.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.terms.iter().all(|term| match term {
            Term::Is(key, value) => labels.get(key) == Some(value),
            Term::IsNot(key, value) => labels.get(key) != Some(value),
            Term::Has(key) => labels.contains_key(key),
            Term::HasNot(key) => !labels.contains_key(key),
        })
    }
}

impl Term {
    fn parse(term: &str, typed: &str) -> Result<Term, SelectorError> {
        if term.is_empty() {
            return Err(SelectorError::EmptyTerm(typed.to_owned()));
        }
        let key = |key: &str| {
            let letter = |char: char| char.is_ascii_alphanumeric() || matches!(char, '.' | '_' | '-' | '/');
            if !key.is_empty() && key.chars().all(letter) {
                Ok(key.to_owned())
            } else {
                Err(SelectorError::Key(term.to_owned()))
            }
        };
        let value = |value: &str| {
            let letter = |char: char| char.is_alphanumeric() || matches!(char, '.' | '_' | '-' | '/' | ':');
            if value.chars().all(letter) {
                Ok(value.to_owned())
            } else {
                Err(SelectorError::Value(term.to_owned()))
            }
        };
        match term.split_once('=') {
            Some((left, right)) => match left.strip_suffix('!') {
                Some(left) => Ok(Term::IsNot(key(left.trim_end())?, value(right.trim_start())?)),
                None => Ok(Term::Is(key(left.trim_end())?, value(right.trim_start())?)),
            },
            None => match term.strip_prefix('!') {
                Some(left) => Ok(Term::HasNot(key(left)?)),
                None => Ok(Term::Has(key(term)?)),
            },
        }
    }
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, term) in self.terms.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            match term {
                Term::Is(key, value) => write!(f, "{key}={value}")?,
                Term::IsNot(key, value) => write!(f, "{key}!={value}")?,
                Term::Has(key) => f.write_str(key)?,
                Term::HasNot(key) => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

impl std::str::FromStr for Selector {
    type Err = SelectorError;
    fn from_str(typed: &str) -> Result<Selector, SelectorError> {
        Selector::parse(typed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_term_must_hold() {
        let selector = Selector::parse("role=web, dc!=eu,rack,!old").unwrap();
        assert!(selector.matches(&labels(&[("role", "web"), ("dc", "us"), ("rack", "7")])));
        assert!(selector.matches(&labels(&[("role", "web"), ("rack", "")])));
        assert!(!selector.matches(&labels(&[("role", "web"), ("dc", "eu"), ("rack", "7")])));
        assert!(!selector.matches(&labels(&[("role", "web")])));
        assert!(!selector.matches(&labels(&[("role", "web"), ("rack", "7"), ("old", "")])));
        assert_eq!(selector.to_string(), "role=web,dc!=eu,rack,!old");
    }

    #[test]
    fn an_empty_selector_selects_all() {
        let selector = Selector::parse(" ").unwrap();
        assert!(selector.is_empty());
        assert!(selector.matches(&labels(&[])));
    }

    #[test]
    fn a_bad_term_is_named() {
        for typed in ["role=web,", ",", "role=web,,dc=eu"] {
            assert!(matches!(Selector::parse(typed), Err(SelectorError::EmptyTerm(_))), "{typed}");
        }
        for typed in ["=web", "!", "!=x", "ro le=web", "r*", "rôle"] {
            assert!(matches!(Selector::parse(typed), Err(SelectorError::Key(_))), "{typed}");
        }
        for typed in ["a=b=c", "a=b c", "a==b", "a=*"] {
            assert!(matches!(Selector::parse(typed), Err(SelectorError::Value(_))), "{typed}");
        }
        assert_eq!(Selector::parse(&"a,".repeat(3000)), Err(SelectorError::TooLong));
        assert_eq!(Selector::parse(&vec!["a"; 65].join(",")), Err(SelectorError::TooLong));
    }

    proptest! {
        #[test]
        fn what_is_displayed_is_read_back(typed in "[a-c=!, ]{0,16}") {
            if let Ok(selector) = Selector::parse(&typed) {
                prop_assert_eq!(Selector::parse(&selector.to_string()), Ok(selector));
            }
        }

        #[test]
        fn no_text_makes_it_panic(typed in ".{0,60}") {
            let _ = Selector::parse(&typed);
        }

        #[test]
        fn a_term_and_its_opposite_share_the_hosts(key in "[a-b]", value in "[x-y]", has in "[a-b]", is in "[x-y]") {
            let host = labels(&[(&has, &is)]);
            let one = Selector::parse(&format!("{key}={value}")).unwrap();
            let other = Selector::parse(&format!("{key}!={value}")).unwrap();
            prop_assert!(one.matches(&host) != other.matches(&host));
        }
    }
}
