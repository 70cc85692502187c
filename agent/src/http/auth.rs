//! Basic authentication. Decides about one request; what a refusal looks like is [`super::reply`]'s business.

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use fleetvisor_model::config::Credentials;
use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq;

/// Base64 as Python reads it: bits left over are ignored.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// As much of a client's scheme as is repeated.
const SHOWN: usize = 40;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Welcome,
    /// Wrong, or nothing said.
    Unknown,
    /// A scheme that is not served; lower case, shortened, printable.
    Unsupported(String),
    /// Not base64, or not UTF-8 in it.
    Malformed,
}

/// `header` is what the client's `Authorization` says.
pub(super) fn check(wanted: &Credentials, header: Option<&[u8]>) -> Verdict {
    let Some(header) = header else { return Verdict::Unknown };
    let mut parts = header.splitn(2, |byte| *byte == b' ');
    let (Some(scheme), Some(given)) = (parts.next(), parts.next()) else { return Verdict::Unknown };
    let scheme = String::from_utf8_lossy(scheme).to_lowercase();
    if scheme != "basic" {
        return Verdict::Unsupported(scheme.escape_default().take(SHOWN).collect());
    }
    let alphabet = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    let given: Vec<u8> = given.iter().copied().filter(alphabet).collect();
    let decoded = BASE64.decode(given).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    match decoded.as_deref().map(|pair| pair.split_once(':')) {
        None => Verdict::Malformed,
        Some(None) => Verdict::Unknown,
        Some(Some((username, password))) => {
            // Both are always compared: how long it takes tells nothing.
            let username = username.as_bytes().ct_eq(wanted.username.as_bytes());
            if bool::from(username & password_matches(&wanted.password, password)) {
                Verdict::Welcome
            } else {
                Verdict::Unknown
            }
        }
    }
}

fn password_matches(wanted: &str, given: &str) -> subtle::Choice {
    match wanted.strip_prefix("{SHA}") {
        Some(wanted) => {
            let given: String =
                Sha1::digest(given.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
            wanted.as_bytes().ct_eq(given.as_bytes())
        }
        None => wanted.as_bytes().ct_eq(given.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn credentials(username: &str, password: &str) -> Credentials {
        Credentials { username: username.to_owned(), password: password.to_owned() }
    }

    fn basic(username: &str, password: &str) -> Vec<u8> {
        format!("Basic {}", BASE64.encode(format!("{username}:{password}"))).into_bytes()
    }

    #[test]
    fn the_right_pair_is_welcome_and_no_other() {
        let wanted = credentials("user", "se:cret");
        assert_eq!(check(&wanted, Some(&basic("user", "se:cret"))), Verdict::Welcome);
        assert_eq!(check(&wanted, Some(&basic("user", "se:cre"))), Verdict::Unknown);
        assert_eq!(check(&wanted, Some(&basic("", ""))), Verdict::Unknown);
        assert_eq!(check(&wanted, None), Verdict::Unknown);
        assert_eq!(check(&wanted, Some(b"Basic")), Verdict::Unknown);
        assert_eq!(check(&wanted, Some(b"Basic dXNlcg==")), Verdict::Unknown);
        assert_eq!(check(&wanted, Some(b"Basic dXNlcg")), Verdict::Malformed);
        assert_eq!(check(&wanted, Some(b"Digest x")), Verdict::Unsupported("digest".to_owned()));
    }

    #[test]
    fn the_scheme_may_be_written_in_any_case() {
        let header = String::from_utf8(basic("user", "secret")).unwrap().replacen("Basic", "bAsIc", 1);
        assert_eq!(check(&credentials("user", "secret"), Some(header.as_bytes())), Verdict::Welcome);
    }

    #[test]
    fn a_hashed_password_is_compared_by_its_hash() {
        let wanted = credentials("user", "{SHA}82ab876d1387bfafe46cc1c8a2ef074eae50cb1d");
        assert_eq!(check(&wanted, Some(&basic("user", "thepassword"))), Verdict::Welcome);
        assert_eq!(
            check(&wanted, Some(&basic("user", "82ab876d1387bfafe46cc1c8a2ef074eae50cb1d"))),
            Verdict::Unknown
        );
        assert_eq!(check(&wanted, Some(&basic("user", &wanted.password))), Verdict::Unknown);
    }

    proptest! {
        #[test]
        fn only_equal_pairs_are_welcome(
            username in "[a-c]{0,2}", password in "[a-c:]{0,3}", other in "[a-c]{0,2}", guess in "[a-c:]{0,3}",
        ) {
            let verdict = check(&credentials(&username, &password), Some(&basic(&other, &guess)));
            prop_assert_eq!(verdict == Verdict::Welcome, (username, password) == (other, guess));
        }

        #[test]
        fn no_header_makes_it_panic(header in proptest::collection::vec(any::<u8>(), 0..60)) {
            check(&credentials("user", "secret"), Some(&header));
        }
    }
}
