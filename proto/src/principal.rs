//! Who a certificate speaks for: the controller, one host, or an operator with a role, carried as the
//! certificate's single URI name. Owns the forms of these names; whether the certificate can be
//! believed is decided before, by the TLS handshake.

use std::fmt;
use std::str::FromStr;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

const SCHEME: &str = "fleetvisor:";
const HOST_NAME_MAX: usize = 253;
const OPERATOR_NAME_MAX: usize = 64;

/// The one party that a certificate stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    Controller,
    Host(String),
    Operator { role: Role, name: String },
}

/// What an operator may do; each role includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Viewer,
    Operator,
    Admin,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrincipalError {
    #[error("not an X.509 certificate")]
    NotACertificate,
    #[error("the certificate carries no fleetvisor: name")]
    Missing,
    #[error("the certificate carries more than one URI name")]
    Several,
    #[error("{0:?} names neither the controller, a host nor an operator")]
    Form(String),
    #[error(transparent)]
    Name(#[from] NameError),
}

/// A name of a host or operator that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name cannot be empty")]
    Empty,
    #[error("a name of {length} bytes is too long (the limit is {limit})")]
    TooLong { length: usize, limit: usize },
    #[error("{name:?} is not a name: it may have letters, digits, '.', '_' and '-', and begin with no '-'")]
    Charset { name: String },
}

impl Principal {
    /// The principal of a certificate (DER). Exactly one URI name is allowed, so that no certificate can be
    /// read in two ways.
    pub fn from_der(certificate: &[u8]) -> Result<Principal, PrincipalError> {
        let (_, certificate) =
            X509Certificate::from_der(certificate).map_err(|_| PrincipalError::NotACertificate)?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| PrincipalError::NotACertificate)?
            .ok_or(PrincipalError::Missing)?;
        let mut uris = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let uri = uris.next().ok_or(PrincipalError::Missing)?;
        if uris.next().is_some() {
            return Err(PrincipalError::Several);
        }
        uri.parse()
    }

    /// The form in a certificate: `fleetvisor:host:web-01`.
    pub fn uri(&self) -> String {
        match self {
            Principal::Controller => format!("{SCHEME}controller"),
            Principal::Host(name) => format!("{SCHEME}host:{name}"),
            Principal::Operator { role, name } => format!("{SCHEME}operator:{role}:{name}"),
        }
    }
}

impl FromStr for Principal {
    type Err = PrincipalError;

    fn from_str(uri: &str) -> Result<Principal, PrincipalError> {
        let form = || PrincipalError::Form(uri.to_owned());
        let rest = uri.strip_prefix(SCHEME).ok_or_else(form)?;
        let parts: Vec<&str> = rest.split(':').collect();
        match parts.as_slice() {
            ["controller"] => Ok(Principal::Controller),
            ["host", name] => {
                check_host_name(name)?;
                Ok(Principal::Host((*name).to_owned()))
            }
            ["operator", role, name] => {
                check_operator_name(name)?;
                let role = role.parse().map_err(|_| form())?;
                Ok(Principal::Operator { role, name: (*name).to_owned() })
            }
            _ => Err(form()),
        }
    }
}

impl fmt::Display for Principal {
    /// As logs and messages name it: `host web-01`, `operator alice`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Principal::Controller => f.write_str("the controller"),
            Principal::Host(name) => write!(f, "host {name}"),
            Principal::Operator { name, .. } => write!(f, "operator {name}"),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        })
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Role, String> {
        match text {
            "viewer" => Ok(Role::Viewer),
            "operator" => Ok(Role::Operator),
            "admin" => Ok(Role::Admin),
            other => Err(format!("{other:?} is no role: viewer, operator or admin")),
        }
    }
}

/// A host's name: 1 to 253 of `A-Z a-z 0-9 . _ -`, with no `-` in front. It becomes part of keys and
/// certificates, and never means a glob or an option.
pub fn check_host_name(name: &str) -> Result<(), NameError> {
    check_name(name, HOST_NAME_MAX)
}

/// An operator's name: the same letters, at most 64.
pub fn check_operator_name(name: &str) -> Result<(), NameError> {
    check_name(name, OPERATOR_NAME_MAX)
}

fn check_name(name: &str, limit: usize) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > limit {
        return Err(NameError::TooLong { length: name.len(), limit });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.starts_with('-') || !name.chars().all(allowed) {
        return Err(NameError::Charset { name: name.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn certificate(uris: &[&str]) -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names =
            uris.iter().map(|uri| rcgen::SanType::URI((*uri).try_into().unwrap())).collect();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn every_kind_survives_the_way_through_a_certificate() {
        for principal in [
            Principal::Controller,
            Principal::Host("web-01".to_owned()),
            Principal::Operator { role: Role::Viewer, name: "alice".to_owned() },
            Principal::Operator { role: Role::Admin, name: "a.b_c".to_owned() },
        ] {
            assert_eq!(Principal::from_der(&certificate(&[&principal.uri()])), Ok(principal));
        }
    }

    #[test]
    fn a_certificate_with_no_name_or_two_is_refused() {
        assert_eq!(Principal::from_der(&certificate(&[])), Err(PrincipalError::Missing));
        assert_eq!(
            Principal::from_der(&certificate(&["fleetvisor:host:a", "fleetvisor:host:b"])),
            Err(PrincipalError::Several)
        );
        assert_eq!(Principal::from_der(b"no certificate"), Err(PrincipalError::NotACertificate));
    }

    #[test]
    fn forms_that_are_nearly_right_are_refused() {
        for uri in [
            "fleetvisor:host",
            "fleetvisor:host:",
            "fleetvisor:host:a:b",
            "fleetvisor:host:-a",
            "fleetvisor:host:a*",
            "fleetvisor:operator:root:alice",
            "fleetvisor:operator:admin",
            "Fleetvisor:controller",
            "fleetvisor:controller:x",
            "https://host/",
        ] {
            assert!(uri.parse::<Principal>().is_err(), "{uri}");
        }
        assert!(check_host_name(&"a".repeat(253)).is_ok());
        assert!(check_host_name(&"a".repeat(254)).is_err());
    }

    #[test]
    fn roles_are_ordered_by_what_they_may_do() {
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
    }

    proptest! {
        #[test]
        fn any_valid_host_name_comes_back_and_nothing_panics(name in "\\PC{0,40}") {
            let parsed = format!("fleetvisor:host:{name}").parse::<Principal>();
            prop_assert_eq!(parsed.is_ok(), check_host_name(&name).is_ok());
            if let Ok(principal) = parsed {
                prop_assert_eq!(principal, Principal::Host(name));
            }
        }
    }
}
