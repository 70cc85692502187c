//! What a link's query or a form's body says. Of a name that is repeated, Supervisor takes a query's first and
//! a body's last value, and a body's before a query's.

use percent_encoding::percent_decode;

/// More fields than any link or form of a page has.
const MOST_FIELDS: usize = 64;

/// Fields with their values, neither of them empty.
#[derive(Debug)]
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    pub(super) fn read(query: &str, body: &[u8]) -> Form {
        let mut posted = fields(body);
        posted.reverse();
        posted.extend(fields(query.as_bytes()));
        Form(posted)
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

fn fields(encoded: &[u8]) -> Vec<(String, String)> {
    let pairs = encoded.split(|byte| *byte == b'&').take(MOST_FIELDS);
    let pair = |pair: &[u8]| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (decoded(&pair[..at]), decoded(&pair[at + 1..]));
        (!name.is_empty() && !value.is_empty()).then_some((name, value))
    };
    pairs.filter_map(pair).collect()
}

fn decoded(encoded: &[u8]) -> String {
    let spaced: Vec<u8> = encoded.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    percent_decode(&spaced).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_and_values_are_decoded() {
        let form = Form::read("processname=g%3Am&message=a+b%20%3Cc%3E&empty=&=x&flag", b"");
        assert_eq!(form.get("processname"), Some("g:m"));
        assert_eq!(form.get("message"), Some("a b <c>"));
        assert_eq!([form.get("empty"), form.get(""), form.get("flag")], [None; 3]);
    }

    #[test]
    fn repeated_names_are_taken_as_supervisor_takes_them() {
        let form = Form::read("a=1&a=2&b=3", b"b=4&b=5");
        assert_eq!((form.get("a"), form.get("b")), (Some("1"), Some("5")));
    }

    proptest! {
        #[test]
        fn nothing_posted_makes_it_panic(query in ".{0,40}", body in proptest::collection::vec(any::<u8>(), 0..80)) {
            let form = Form::read(&query, &body);
            prop_assert_eq!(form.get(""), None);
        }
    }
}
