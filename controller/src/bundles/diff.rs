//! What a change comes to in a bundle's files, as a unified diff in which no value of a key that looks like a
//! secret is shown. Hiding goes by the look of the text, not by its meaning, so it also reaches into
//! `environment=`, command lines and addresses.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use fleetvisor_proto::fleet::BundleContent;
use similar::TextDiff;

const HIDDEN: &str = "(hidden)";
const HIDDEN_CHANGED: &str = "(hidden, changed)";
/// Files that differ in everything are not worth longer; the diff is then a coarser one.
const PATIENCE: Duration = Duration::from_secs(2);

/// Empty where nothing differs.
pub(super) fn unified(
    (old, old_title): (Option<&BundleContent>, &str),
    (new, new_title): (Option<&BundleContent>, &str),
) -> String {
    let text_of = |content: Option<&BundleContent>, name: &str| {
        let file = content.and_then(|content| content.files.iter().find(|file| file.name == name));
        file.map(|file| String::from_utf8_lossy(&file.text).into_owned())
    };
    let mut names: Vec<&str> = [old, new]
        .into_iter()
        .flatten()
        .flat_map(|content| &content.files)
        .map(|f| f.name.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    let mut diff = String::new();
    for name in names {
        let (before, after) = (text_of(old, name), text_of(new, name));
        if before == after {
            continue;
        }
        let title = |text: &Option<String>, title: &str| match text {
            Some(_) => format!("{name} ({title})"),
            None => "/dev/null".to_owned(),
        };
        let titles = (title(&before, old_title), title(&after, new_title));
        let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
        let after = hide_against(&after, &before);
        let before = hide(&before);
        let lines = TextDiff::configure().timeout(PATIENCE).diff_lines(&before, &after);
        diff.push_str(&lines.unified_diff().header(&titles.0, &titles.1).to_string());
    }
    diff
}

/// A text without its secrets.
pub(super) fn hide(text: &str) -> String {
    replace(text, |_, _| HIDDEN)
}

/// The same, where those that are others than in `before` say so: else a new password would look like the old one.
fn hide_against(text: &str, before: &str) -> String {
    let mut old: HashMap<String, Vec<&str>> = HashMap::new();
    for secret in secrets(before) {
        old.entry(secret.key).or_default().push(&before[secret.value]);
    }
    replace(text, |key, value| match old.get(key) {
        Some(values) if !values.contains(&value) => HIDDEN_CHANGED,
        Some(_) | None => HIDDEN,
    })
}

fn replace<'t>(text: &'t str, instead: impl Fn(&str, &'t str) -> &'static str) -> String {
    let (mut hidden, mut done) = (String::with_capacity(text.len()), 0);
    for secret in secrets(text) {
        hidden.push_str(&text[done..secret.value.start]);
        hidden.push_str(instead(&secret.key, &text[secret.value.clone()]));
        done = secret.value.end;
    }
    hidden.push_str(&text[done..]);
    hidden
}

struct Secret {
    key: String,
    value: Range<usize>,
}

fn secrets(text: &str) -> Vec<Secret> {
    let bytes = text.as_bytes();
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let blanks = |from: usize| bytes[from..].iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"://") {
            at += 3;
            let end = end_of(bytes, at, |byte| byte.is_ascii_whitespace() || b"/\"',".contains(&byte));
            let login = bytes[at..end].iter().rposition(|byte| *byte == b'@').map(|length| at + length);
            let colon = login.and_then(|login| bytes[at..login].iter().position(|byte| *byte == b':'));
            if let (Some(login), Some(colon)) = (login, colon) {
                found.push(Secret { key: "://".to_owned(), value: at + colon + 1..login });
                at = login;
            }
            continue;
        }
        if !is_word(bytes[at]) {
            at += 1;
            continue;
        }
        let start = at;
        at = end_of(bytes, at, |byte| !is_word(byte));
        let key = &text[start..at];
        if !looks_secret(key) {
            continue;
        }
        let after = at + blanks(at);
        let value = match bytes.get(after) {
            Some(b'=' | b':') => {
                let value = after + 1 + blanks(after + 1);
                let opens_line = start == 0 || bytes[start - 1] == b'\n';
                if opens_line { value..end_of_option(bytes, value) } else { word(bytes, value) }
            }
            Some(_) if key.starts_with('-') && after > at => word(bytes, after),
            _ => continue,
        };
        at = value.end.max(at);
        if !value.is_empty() {
            found.push(Secret { key: key.to_owned(), value });
        }
    }
    found
}

fn end_of(bytes: &[u8], from: usize, ends: impl Fn(u8) -> bool) -> usize {
    bytes[from..].iter().position(|byte| ends(*byte)).map_or(bytes.len(), |length| from + length)
}

/// Without its quotes.
fn word(bytes: &[u8], from: usize) -> Range<usize> {
    match bytes.get(from) {
        Some(quote @ (b'"' | b'\'')) => from + 1..end_of(bytes, from + 1, |byte| byte == *quote),
        _ => from..end_of(bytes, from, |byte| byte.is_ascii_whitespace() || b",\"'".contains(&byte)),
    }
}

/// An option goes on in lines that are indented.
fn end_of_option(bytes: &[u8], from: usize) -> usize {
    let mut end = end_of(bytes, from, |byte| byte == b'\n');
    while matches!(bytes.get(end + 1), Some(b' ' | b'\t')) {
        end = end_of(bytes, end + 1, |byte| byte == b'\n');
    }
    end
}

fn looks_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let inside =
        ["password", "passwd", "passphrase", "secret", "token", "credential", "apikey", "privatekey"];
    let parts = ["key", "keys", "pass", "pwd", "pw", "auth", "cookie", "dsn", "pin", "salt"];
    inside.iter().any(|word| key.contains(word))
        || key.split(['_', '-', '.']).any(|part| parts.contains(&part))
}

#[cfg(test)]
mod tests {
    use fleetvisor_proto::fleet::BundleFile;
    use proptest::prelude::*;

    use super::*;

    fn content(text: &str) -> BundleContent {
        BundleContent {
            files: vec![BundleFile { name: "a.conf".to_owned(), text: text.as_bytes().to_vec() }],
        }
    }

    #[test]
    fn values_of_keys_that_look_like_secrets_are_hidden() {
        for (text, expected) in [
            ("password=abc\n", "password=(hidden)\n"),
            ("db_password : a b ; c\n more\nx=1\n", "db_password : (hidden)\nx=1\n"),
            (
                "environment=A=\"1\",API_TOKEN=\"t 1\",SSH_KEY=k2,B=2\n",
                "environment=A=\"1\",API_TOKEN=\"(hidden)\",SSH_KEY=(hidden),B=2\n",
            ),
            (
                "environment=\n  AWS_SECRET_ACCESS_KEY='x',\n  B=2\n",
                "environment=\n  AWS_SECRET_ACCESS_KEY='(hidden)',\n  B=2\n",
            ),
            (
                "command=run --token=abc --password 'x y' -v\n",
                "command=run --token=(hidden) --password '(hidden)' -v\n",
            ),
            (
                "command=run postgres://me:s3cret@db:5432/x\n",
                "command=run postgres://me:(hidden)@db:5432/x\n",
            ),
            (
                "command=/bin/keyboard monkey=1 killasgroup=1\n",
                "command=/bin/keyboard monkey=1 killasgroup=1\n",
            ),
            ("stopwaitsecs=3\ncommand=token\n", "stopwaitsecs=3\ncommand=token\n"),
        ] {
            assert_eq!(hide(text), expected);
        }
    }

    #[test]
    fn a_diff_shows_that_a_secret_changed_and_not_what_it_is() {
        let (old, new) = (
            content("[program:a]\ncommand=x\nenvironment=KEY=\"old1\"\n"),
            content("[program:a]\ncommand=y\nenvironment=KEY=\"new2\"\n"),
        );
        let diff = unified((Some(&old), "revision 1"), (Some(&new), "revision 2"));
        assert_eq!(
            diff,
            "--- a.conf (revision 1)\n+++ a.conf (revision 2)\n@@ -1,3 +1,3 @@\n [program:a]\n-command=x\n\
             -environment=KEY=\"(hidden)\"\n+command=y\n+environment=KEY=\"(hidden, changed)\"\n"
        );
        assert_eq!(unified((Some(&old), ""), (Some(&old), "")), "");
        let made = unified((None, ""), (Some(&old), "revision 1"));
        assert!(made.starts_with("--- /dev/null\n+++ a.conf (revision 1)\n"), "{made}");
    }

    proptest! {
        #[test]
        fn any_text_is_hidden_or_left(text in "[a-z=:,\"'\n @/é-]{0,20}(password|TOKEN|key|://)?[a-z=:,\"'\n @é-]{0,20}") {
            let _ = hide(&text);
        }
    }
}
