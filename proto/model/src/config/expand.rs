//! `%(name)s` in values: what names there are, and Supervisor's words when one is missing or a format is bad.

use std::collections::{HashMap, HashSet};

use super::percent::{FormatError, Value, format};
use super::python::repr;

/// Names and values in the order they were first set.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    entries: Vec<(String, Value)>,
    /// Places in `entries`.
    places: HashMap<String, usize>,
}

impl Names {
    /// One `ENV_X` for every variable; of a repeated one the first counts.
    pub(super) fn from_env(env: Vec<(String, String)>) -> Names {
        let mut names = Names::default();
        for (name, value) in env {
            let name = format!("ENV_{name}");
            if !names.places.contains_key(&name) {
                names.set(&name, Value::Text(value));
            }
        }
        names
    }

    pub(super) fn set(&mut self, name: &str, value: Value) {
        match self.places.get(name) {
            Some(place) => self.entries[*place].1 = value,
            None => {
                self.places.insert(name.to_owned(), self.entries.len());
                self.entries.push((name.to_owned(), value));
            }
        }
    }

    pub(super) fn with(mut self, name: &str, value: &str) -> Names {
        self.set(name, Value::Text(value.to_owned()));
        self
    }

    pub(super) fn set_env(&mut self, pairs: &[(String, String)]) {
        for (name, value) in pairs {
            self.set(&format!("ENV_{name}"), Value::Text(value.clone()));
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.places.get(name).map(|place| &self.entries[*place].1)
    }
}

/// Several sets of names on top of each other: a later one's value wins, an earlier one's place in the order
/// stays.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a>(pub(super) &'a [&'a Names]);

impl<'a> Scope<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.iter().rev().find_map(|names| names.get(name))
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let mut seen = HashSet::new();
        let scope = *self;
        let names = scope.0.iter().flat_map(|names| names.entries.iter().map(|(name, _)| name.as_str()));
        names.filter(move |name| seen.insert(*name)).filter_map(move |name| Some((name, scope.get(name)?)))
    }

    /// `name` is what the message calls the value: an option, mostly with its section in front.
    pub(super) fn expand(&self, text: &str, name: &str) -> Result<String, String> {
        if !text.contains('%') {
            return Ok(text.to_owned());
        }
        format(text, self).map_err(|error| match error {
            FormatError::UnknownName(unknown) => {
                let mut available: Vec<&str> = self.entries().map(|(name, _)| name).collect();
                available.sort_unstable();
                format!(
                    "Format string {} for {} contains names ({}) which cannot be expanded. Available names: {}",
                    repr(text),
                    repr(name),
                    repr(&unknown),
                    available.join(", ")
                )
            }
            FormatError::Bad(why) => {
                format!("Format string {} for {} is badly formatted: {why}", repr(text), repr(name))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expand(text: &str) -> Result<String, String> {
        let env = Names::from_env(vec![("B".into(), "b v".into()), ("B".into(), "second".into())]);
        let mut names = Names::default().with("program_name", "ab");
        names.set("process_num", Value::Int(7));
        names.set("minus", Value::Int(-7));
        Scope(&[&env, &names]).expand(text, "s.o")
    }

    #[test]
    fn formats_are_pythons() {
        for (text, expected) in [
            ("%(program_name)s_%(process_num)02d", "ab_07"),
            ("100%% %(ENV_B)s", "100% b v"),
            ("%(program_name)-5s|%(program_name)5s|%(program_name).1s", "ab   |   ab|a"),
            ("%(process_num)+d %(minus)05d %(minus)-5d|", "+7 -0007 -7   |"),
            ("%(process_num)08.3f %(process_num)g %(process_num)e", "0007.000 7 7.000000e+00"),
            ("%(process_num)#x %(process_num)#06o %(process_num).3d", "0x7 0o0007 007"),
            ("%(program_name)r %(process_num)r", "'ab' 7"),
            ("%(process_num)c", "\x07"),
            ("%s", "{'ENV_B': 'b v', 'program_name': 'ab', 'process_num': 7, 'minus': -7}"),
        ] {
            assert_eq!(expand(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn errors_are_pythons() {
        for (text, expected) in [
            ("%", "incomplete format"),
            ("%(program_name", "incomplete format key"),
            ("%(program_name)", "incomplete format"),
            ("%5%", "unsupported format character '%' (0x25) at index 2"),
            ("% d", "%d format: a real number is required, not dict"),
            ("%(program_name)d", "%d format: a real number is required, not str"),
            ("%(program_name)x", "%x format: an integer is required, not str"),
            ("%(program_name)f", "must be real number, not str"),
            ("%(program_name)c", "%c requires int or char"),
            ("%s %s", "not enough arguments for format string"),
            ("%(program_name)*d", "* wants int"),
            ("%99999999999999999999s", "width too big"),
        ] {
            let message = format!("Format string {} for 's.o' is badly formatted: {expected}", repr(text));
            assert_eq!(expand(text), Err(message), "{text}");
        }
        assert_eq!(
            expand("%(nope)s").unwrap_err(),
            "Format string '%(nope)s' for 's.o' contains names ('nope') which cannot be expanded. \
             Available names: ENV_B, minus, process_num, program_name"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_expanded_or_refused(text in "[%()a-z0-9*.+# -]{0,40}|(%\\(process_num\\)[-+ #0*.0-9a-zA-Z]{0,6})*") {
            let _ = expand(&text);
        }
    }
}
