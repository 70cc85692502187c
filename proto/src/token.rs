//! The join token: what an administrator hands to a new host, once. Owns its text and the comparison with
//! what the controller stored. Expiry and being spent are the controller's.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

const VERSION: &str = "fv1";
const TEXT_MAX: usize = 256;

/// `fv1.<id>.<secret>.<CA fingerprint>`, each part base64url. `Debug` leaves the secret out.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Under which the controller stored it.
    pub id: [u8; 8],
    /// Whom to trust before there is a certificate.
    pub ca: Fingerprint,
    secret: [u8; 32],
}

/// SHA-256 of a certificate in DER. Displays as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

/// SHA-256 of a token's secret: the only form in which the controller keeps it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretHash(pub [u8; 32]);

/// Says nothing of the text itself, which is a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("a join token has four parts, fv1.<id>.<secret>.<fingerprint>")]
    Form,
    #[error("this join token is of a version that this program does not know")]
    Version,
    #[error("the {0} of the join token is damaged: was it copied as a whole?")]
    Part(&'static str),
}

impl JoinToken {
    /// `id` and `secret` must come from the system's random source.
    pub fn new(id: [u8; 8], secret: [u8; 32], ca: Fingerprint) -> JoinToken {
        JoinToken { id, ca, secret }
    }

    /// The text that is handed over; it is the secret.
    pub fn reveal(&self) -> String {
        format!(
            "{VERSION}.{}.{}.{}",
            self.id_text(),
            URL_SAFE_NO_PAD.encode(self.secret),
            URL_SAFE_NO_PAD.encode(self.ca.0)
        )
    }

    /// The id as the text has it; safe to log.
    pub fn id_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.id)
    }

    pub fn secret_hash(&self) -> SecretHash {
        SecretHash(Sha256::digest(self.secret).into())
    }
}

impl SecretHash {
    /// Whether this is the hash of the token's secret, in time that tells nothing.
    pub fn matches(&self, token: &JoinToken) -> bool {
        self.0.ct_eq(&token.secret_hash().0).into()
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    /// White space around it, as a file ends with, is ignored.
    fn from_str(text: &str) -> Result<JoinToken, TokenError> {
        let text = text.trim();
        if text.len() > TEXT_MAX {
            return Err(TokenError::Form);
        }
        let parts: Vec<&str> = text.split('.').collect();
        let [version, id, secret, ca] = parts.as_slice() else {
            return Err(TokenError::Form);
        };
        if *version != VERSION {
            return Err(TokenError::Version);
        }
        Ok(JoinToken {
            id: part(id, "id")?,
            secret: part(secret, "secret")?,
            ca: Fingerprint(part(ca, "fingerprint")?),
        })
    }
}

fn part<const N: usize>(text: &str, name: &'static str) -> Result<[u8; N], TokenError> {
    URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(TokenError::Part(name))
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("id", &self.id_text()).finish_non_exhaustive()
    }
}

impl Fingerprint {
    pub fn of(certificate: &[u8]) -> Fingerprint {
        Fingerprint(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_survives_its_text(id: [u8; 8], secret: [u8; 32], ca: [u8; 32]) {
            let token = JoinToken::new(id, secret, Fingerprint(ca));
            let text = token.reveal();
            prop_assert_eq!(&format!(" {text}\n").parse::<JoinToken>().unwrap(), &token);
            prop_assert!(token.secret_hash().matches(&token));
            let printed = format!("{token:?}");
            prop_assert!(!printed.contains(&URL_SAFE_NO_PAD.encode(secret)));
        }

        #[test]
        fn any_text_is_answered(text in "\\PC{0,300}") {
            let _ = text.parse::<JoinToken>();
            let _ = format!("fv1.{text}").parse::<JoinToken>();
        }

        #[test]
        fn another_secret_does_not_match(a: [u8; 32], b: [u8; 32]) {
            prop_assume!(a != b);
            let ca = Fingerprint([0; 32]);
            let (a, b) = (JoinToken::new([0; 8], a, ca), JoinToken::new([0; 8], b, ca));
            prop_assert!(!a.secret_hash().matches(&b));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let token = JoinToken::new([1; 8], [2; 32], Fingerprint([3; 32])).reveal();
        assert_eq!("".parse::<JoinToken>(), Err(TokenError::Form));
        assert_eq!(token.replace("fv1", "fv2").parse::<JoinToken>(), Err(TokenError::Version));
        assert_eq!(token[..token.len() - 1].parse::<JoinToken>(), Err(TokenError::Part("fingerprint")));
    }
}
