//! Command line options with the rules and messages of Python's `getopt`: bundled short options, unambiguous
//! prefixes of long ones, and the first word that is no option ends them.

use std::ffi::OsString;

use super::repr::lossy;

/// An option that a program knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) short: Option<char>,
    pub(super) long: Option<&'static str>,
    pub(super) takes_value: bool,
}

/// An option as it was found: under its short (`-c`) or full long (`--configuration`) name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) name: String,
    pub(super) value: Option<String>,
}

/// Options in the order given, and the words after them. The error is `getopt`'s message.
pub(super) fn getopt(args: &[OsString], known: &[Known]) -> Result<(Vec<Given>, Vec<String>), String> {
    let mut given = Vec::new();
    let mut words = args.iter().map(|arg| lossy(arg)).peekable();
    while let Some(word) = words.next_if(|word| word.starts_with('-') && word != "-") {
        if word == "--" {
            break;
        }
        match word.strip_prefix("--") {
            Some(long) => given.push(long_option(long, known, &mut words)?),
            None => short_options(&word[1..], known, &mut words, &mut given)?,
        }
    }
    Ok((given, words.collect()))
}

fn long_option(
    word: &str,
    known: &[Known],
    words: &mut impl Iterator<Item = String>,
) -> Result<Given, String> {
    let (name, attached) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (word, None),
    };
    let candidates: Vec<(&str, &Known)> = known
        .iter()
        .filter_map(|known| known.long.map(|long| (long, known)))
        .filter(|(long, _)| long.starts_with(name))
        .collect();
    let exact = candidates.iter().find(|(long, _)| *long == name);
    let (long, option) = match (exact, candidates.as_slice()) {
        (Some(exact), _) => *exact,
        (None, []) => return Err(format!("option --{name} not recognized")),
        (None, [only]) => *only,
        (None, _) => return Err(format!("option --{name} not a unique prefix")),
    };
    let value = match (option.takes_value, attached) {
        (true, Some(value)) => Some(value),
        (true, None) => Some(words.next().ok_or_else(|| format!("option --{long} requires argument"))?),
        (false, Some(_)) => return Err(format!("option --{long} must not have an argument")),
        (false, None) => None,
    };
    Ok(Given { name: format!("--{long}"), value })
}

fn short_options(
    letters: &str,
    known: &[Known],
    words: &mut impl Iterator<Item = String>,
    given: &mut Vec<Given>,
) -> Result<(), String> {
    let mut rest = letters.chars();
    while let Some(letter) = rest.next() {
        let option = known
            .iter()
            .find(|known| known.short == Some(letter))
            .ok_or_else(|| format!("option -{letter} not recognized"))?;
        let name = format!("-{letter}");
        if !option.takes_value {
            given.push(Given { name, value: None });
            continue;
        }
        let attached = rest.as_str();
        let value = if attached.is_empty() {
            words.next().ok_or_else(|| format!("option {name} requires argument"))?
        } else {
            attached.to_owned()
        };
        given.push(Given { name, value: Some(value) });
        return Ok(());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KNOWN: [Known; 4] = [
        Known { short: Some('i'), long: Some("interactive"), takes_value: false },
        Known { short: Some('c'), long: Some("configuration"), takes_value: true },
        Known { short: Some('u'), long: Some("username"), takes_value: true },
        Known { short: None, long: Some("user"), takes_value: true },
    ];

    fn read(line: &str) -> Result<(Vec<Given>, Vec<String>), String> {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        getopt(&args, &KNOWN)
    }

    fn given(name: &str, value: Option<&str>) -> Given {
        Given { name: name.to_owned(), value: value.map(str::to_owned) }
    }

    #[test]
    fn options_come_in_every_form() {
        for (line, options, words) in [
            ("-i status -i", vec![given("-i", None)], vec!["status", "-i"]),
            ("-icfile x", vec![given("-i", None), given("-c", Some("file"))], vec!["x"]),
            ("-c file", vec![given("-c", Some("file"))], vec![]),
            ("--conf=a=b", vec![given("--configuration", Some("a=b"))], vec![]),
            ("--configuration x y", vec![given("--configuration", Some("x"))], vec!["y"]),
            ("--user=me", vec![given("--user", Some("me"))], vec![]),
            ("-- -i", vec![], vec!["-i"]),
            ("- -i", vec![], vec!["-", "-i"]),
        ] {
            let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
            assert_eq!(read(line), Ok((options, words)), "{line}");
        }
    }

    #[test]
    fn errors_are_worded_as_getopt_words_them() {
        for (line, message) in [
            ("-x", "option -x not recognized"),
            ("-c", "option -c requires argument"),
            ("--x", "option --x not recognized"),
            ("--use=1", "option --use not a unique prefix"),
            ("--inter=1", "option --interactive must not have an argument"),
            ("--conf", "option --configuration requires argument"),
        ] {
            assert_eq!(read(line), Err(message.to_owned()), "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_words_make_it_panic(words in proptest::collection::vec("[-=a-zé]{0,6}", 0..6)) {
            let args: Vec<OsString> = words.into_iter().map(OsString::from).collect();
            let _ = getopt(&args, &KNOWN);
        }
    }
}
