//! Which files a pattern of `[include] files` names: Python's `glob` without its recursion, over whatever
//! files the host has.

use std::path::Path;

use super::host::Host;
use super::path::join;

/// Sorted. A pattern without `*`, `?` and `[` names one file, if that exists.
pub(super) fn glob(pattern: &str, host: &dyn Host) -> Vec<String> {
    let mut found = matching(pattern, host, false);
    found.sort_unstable();
    found
}

fn matching(pattern: &str, host: &dyn Host, only_folders: bool) -> Vec<String> {
    let (folder, name) = pattern.rsplit_once('/').map_or(("", pattern), |(folder, name)| {
        let trimmed = folder.trim_end_matches('/');
        (if trimmed.is_empty() { &pattern[..pattern.len() - name.len()] } else { trimmed }, name)
    });
    let there = |path: &str| match path.ends_with('/') {
        true => host.is_dir(Path::new(path)),
        false => host.exists(Path::new(path)),
    };
    if !has_magic(pattern) {
        return if there(pattern) { vec![pattern.to_owned()] } else { Vec::new() };
    }
    let folders = if has_magic(folder) { matching(folder, host, true) } else { vec![folder.to_owned()] };
    let mut found = Vec::new();
    for folder in folders {
        if has_magic(name) {
            let shown = if folder.is_empty() { "." } else { &folder };
            let hidden = name.starts_with('.');
            let names = host.entries(Path::new(shown)).into_iter();
            let paths = names
                .filter(|n| (hidden || !n.starts_with('.')) && matches(n, name))
                .map(|n| join(&folder, &n));
            found.extend(paths.filter(|path| !only_folders || host.is_dir(Path::new(path))));
        } else {
            found.extend(Some(join(&folder, name)).filter(|path| there(path)));
        }
    }
    found
}

fn has_magic(pattern: &str) -> bool {
    pattern.contains(['*', '?', '['])
}

/// One name against one part of a pattern: `*`, `?`, `[abc]`, `[a-z]`, `[!abc]`; a bracket that is not closed
/// stands for itself. Time grows with the product of the lengths at most.
fn matches(name: &str, pattern: &str) -> bool {
    let (name, pattern): (Vec<char>, Vec<char>) = (name.chars().collect(), pattern.chars().collect());
    let (mut n, mut p) = (0, 0);
    let mut retry = None;
    while n < name.len() {
        let step = match pattern.get(p) {
            Some('*') => {
                retry = Some((p + 1, n));
                p += 1;
                continue;
            }
            Some('?') => Some(1),
            Some('[') => set(&pattern[p..], name[n]),
            Some(c) => (*c == name[n]).then_some(1),
            None => None,
        };
        match (step, retry) {
            (Some(length), _) => (n, p) = (n + 1, p + length),
            (None, Some((after_star, from))) => {
                (n, p) = (from + 1, after_star);
                retry = Some((after_star, from + 1));
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// How many characters of the pattern the set takes, if `c` is in it.
fn set(pattern: &[char], c: char) -> Option<usize> {
    let negated = pattern.get(1) == Some(&'!');
    let start = if negated { 2 } else { 1 };
    // A bracket that comes first is one of the characters.
    let close = pattern.iter().skip(start + 1).position(|c| *c == ']').map(|at| at + start + 1);
    let Some(close) = close else { return (c == '[').then_some(1) };
    let members = &pattern[start..close];
    let mut found = false;
    let mut at = 0;
    while at < members.len() {
        match members[at..] {
            [low, '-', high, ..] => {
                found |= low <= c && c <= high;
                at += 3;
            }
            [member, ..] => {
                found |= member == c;
                at += 1;
            }
            [] => break,
        }
    }
    (found != negated).then_some(close + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_match_as_fnmatch_has_it() {
        for (pattern, name, expected) in [
            ("*.conf", "a.conf", true),
            ("*.conf", "a.conf~", false),
            ("a?c", "abc", true),
            ("[a-c]*", "bob", true),
            ("[!a-c]*", "bob", false),
            ("[]]x", "]x", true),
            ("[x", "[x", true),
            ("[x", "x", false),
            ("**", "anything", true),
            ("*a*b*c", "xxaxxbxxc", true),
            ("", "", true),
            ("?", "", false),
        ] {
            assert_eq!(matches(name, pattern), expected, "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn any_pattern_matches_or_not(pattern in "[a-c*?\\[\\]!-]{0,12}", name in "[a-c\\[\\]!-]{0,12}") {
            let _ = matches(&name, &pattern);
        }

        #[test]
        fn a_plain_name_matches_itself_alone(pattern in "[a-c]{0,4}", name in "[a-c]{0,4}") {
            prop_assert_eq!(matches(&name, &pattern), name == pattern);
        }
    }
}
