//! Python's `getopt`: clustered short options, long ones by any unambiguous prefix, options before
//! arguments. It knows no option by name and converts no value.

/// An option that may be given as `-x`, `--long`, or both.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spelling {
    pub(crate) short: Option<char>,
    pub(crate) long: Option<&'static str>,
    pub(crate) takes_value: bool,
}

/// One option as it was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Place in the table of spellings.
    pub(super) index: usize,
    /// `-x` or the full `--long`.
    pub(super) shown: String,
    /// Empty for an option without one.
    pub(super) value: String,
}

/// The options in their order, and the arguments after them. The error is getopt's text.
pub(super) fn getopt(args: &[String], table: &[Spelling]) -> Result<(Vec<Found>, Vec<String>), String> {
    let mut found = Vec::new();
    let mut rest = args;
    while let Some((first, after)) = rest.split_first() {
        if first == "--" {
            rest = after;
            break;
        } else if let Some(long) = first.strip_prefix("--") {
            rest = long_option(long, after, table, &mut found)?;
        } else if let Some(shorts) = first.strip_prefix('-').filter(|shorts| !shorts.is_empty()) {
            rest = short_options(shorts, after, table, &mut found)?;
        } else {
            break;
        }
    }
    Ok((found, rest.to_vec()))
}

fn long_option<'a>(
    text: &str,
    after: &'a [String],
    table: &[Spelling],
    found: &mut Vec<Found>,
) -> Result<&'a [String], String> {
    let (name, given) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    let candidates: Vec<(usize, &str)> = (0..)
        .zip(table)
        .filter_map(|(index, spelling)| Some((index, spelling.long?)))
        .filter(|(_, long)| long.starts_with(name))
        .collect();
    let exact = candidates.iter().find(|(_, long)| *long == name);
    let (index, long) = match (exact, candidates.as_slice()) {
        (Some(exact), _) => *exact,
        (None, [only]) => *only,
        (None, []) => return Err(format!("option --{name} not recognized")),
        (None, _) => return Err(format!("option --{name} not a unique prefix")),
    };
    let (value, after) = match (table[index].takes_value, given) {
        (true, Some(value)) => (value.to_owned(), after),
        (true, None) => match after.split_first() {
            Some((value, after)) => (value.clone(), after),
            None => return Err(format!("option --{long} requires argument")),
        },
        (false, Some(_)) => return Err(format!("option --{long} must not have an argument")),
        (false, None) => (String::new(), after),
    };
    found.push(Found { index, shown: format!("--{long}"), value });
    Ok(after)
}

fn short_options<'a>(
    text: &str,
    mut after: &'a [String],
    table: &[Spelling],
    found: &mut Vec<Found>,
) -> Result<&'a [String], String> {
    let mut shorts = text.chars();
    while let Some(short) = shorts.next() {
        let index = table.iter().position(|spelling| spelling.short == Some(short));
        let index = index.ok_or_else(|| format!("option -{short} not recognized"))?;
        let mut value = String::new();
        if table[index].takes_value {
            value = shorts.by_ref().collect();
            if value.is_empty() {
                let (next, rest) =
                    after.split_first().ok_or_else(|| format!("option -{short} requires argument"))?;
                value.clone_from(next);
                after = rest;
            }
        }
        found.push(Found { index, shown: format!("-{short}"), value });
    }
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TABLE: [Spelling; 4] = [
        Spelling { short: Some('n'), long: Some("nodaemon"), takes_value: false },
        Spelling { short: Some('c'), long: Some("configuration"), takes_value: true },
        Spelling { short: None, long: Some("nocleanup"), takes_value: false },
        Spelling { short: Some('l'), long: Some("log"), takes_value: true },
    ];

    type Options = Vec<(String, String)>;

    fn run(args: &[&str]) -> Result<(Options, Vec<String>), String> {
        let args: Vec<String> = args.iter().map(|arg| arg.to_string()).collect();
        let (found, rest) = getopt(&args, &TABLE)?;
        Ok((found.into_iter().map(|f| (f.shown, f.value)).collect(), rest))
    }

    #[test]
    fn short_options_cluster_and_take_the_rest_as_value() {
        let (found, rest) = run(&["-ncFILE", "-c", "x", "-", "-n"]).unwrap();
        let expected = [("-n", ""), ("-c", "FILE"), ("-c", "x")].map(|(a, b)| (a.to_string(), b.to_string()));
        assert_eq!(found, expected);
        assert_eq!(rest, ["-", "-n"]);
    }

    #[test]
    fn long_options_go_by_prefix() {
        assert_eq!(
            run(&["--conf=a", "--nod", "--", "-n"]).unwrap().0[0],
            ("--configuration".into(), "a".into())
        );
        assert_eq!(run(&["--no"]).unwrap_err(), "option --no not a unique prefix");
        assert_eq!(run(&["--nodaemon=1"]).unwrap_err(), "option --nodaemon must not have an argument");
        assert_eq!(run(&["--conf"]).unwrap_err(), "option --configuration requires argument");
        assert_eq!(run(&["--x=1"]).unwrap_err(), "option --x not recognized");
        assert_eq!(run(&["-c"]).unwrap_err(), "option -c requires argument");
        assert_eq!(run(&["-nZ"]).unwrap_err(), "option -Z not recognized");
    }

    proptest! {
        #[test]
        fn any_arguments_are_read_or_refused(args in proptest::collection::vec("-{0,2}[nclZ=é]{0,6}", 0..5)) {
            let _ = getopt(&args, &TABLE);
        }
    }
}
