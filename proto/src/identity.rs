//! An identity: a directory with `ca.crt`, `tls.crt` and `tls.key`, the same for the controller, a host and
//! an operator. Owns reading and writing it and the request that a certificate is signed from. Signing
//! is the controller's, trust is [`crate::tls`]'s.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use fleetvisor_model::time::Wall;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::fleet;
use crate::principal::{Principal, PrincipalError};
use crate::token::Fingerprint;

pub const CA_FILE: &str = "ca.crt";
pub const CHAIN_FILE: &str = "tls.crt";
pub const KEY_FILE: &str = "tls.key";

/// A certificate chain, its private key and the CA that both sides trust; all PEM, and known to parse.
#[derive(Clone)]
pub struct Identity {
    ca: String,
    chain: String,
    key: String,
}

/// What goes to the controller for a certificate, and the private key that stays.
pub struct SigningRequest {
    /// PKCS#10, DER.
    pub csr: Vec<u8>,
    /// PEM, PKCS#8.
    pub key: String,
}

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("{path} is not usable: {reason}")]
    Content { path: PathBuf, reason: String },
    #[error("the certificate received is not usable: {0}")]
    Received(String),
    #[error("cannot make a key or a signing request: {0}")]
    Request(#[from] rcgen::Error),
    #[error(transparent)]
    Principal(#[from] PrincipalError),
}

/// Names the part of an identity that is unusable, before it is known whether it came from a file.
struct Unusable {
    file: &'static str,
    reason: String,
}

impl Identity {
    /// An identity of PEM texts.
    pub fn new(ca: String, chain: String, key: String) -> Result<Identity, IdentityError> {
        let identity = Identity { ca, chain, key };
        identity
            .check()
            .map_err(|unusable| IdentityError::Received(format!("{}: {}", unusable.file, unusable.reason)))?;
        Ok(identity)
    }

    /// The identity that a certificate from the controller makes with the key that asked for it.
    pub fn received(certificate: fleet::Certificate, key: String) -> Result<Identity, IdentityError> {
        Identity::new(certificate.ca, certificate.chain, key)
    }

    /// Reads the three files of `dir`.
    pub fn load(dir: &Path) -> Result<Identity, IdentityError> {
        let read = |file: &str| {
            let path = dir.join(file);
            fs::read_to_string(&path).map_err(|source| IdentityError::Read { path, source })
        };
        let identity = Identity { ca: read(CA_FILE)?, chain: read(CHAIN_FILE)?, key: read(KEY_FILE)? };
        identity.check().map_err(|unusable| IdentityError::Content {
            path: dir.join(unusable.file),
            reason: unusable.reason,
        })?;
        Ok(identity)
    }

    /// Writes the three files to `dir`, which is made with mode 0700 if need be; the key has mode 0600. Each
    /// file is replaced as a whole and is on the disk when this returns. A renewal over the same key changes
    /// `tls.crt` alone, so a crash can leave no half of it.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        let mut builder = DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| IdentityError::Write { path: dir.to_owned(), source })?;
        for (file, text, mode) in
            [(CA_FILE, &self.ca, 0o644), (KEY_FILE, &self.key, 0o600), (CHAIN_FILE, &self.chain, 0o644)]
        {
            let path = dir.join(file);
            replace(&path, text.as_bytes(), mode).map_err(|source| IdentityError::Write { path, source })?;
        }
        sync_directory(dir).map_err(|source| IdentityError::Write { path: dir.to_owned(), source })
    }

    /// The CA's certificate, PEM.
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// SHA-256 of the CA's certificate: what a join token carries.
    pub fn ca_fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.ca_der())
    }

    pub fn principal(&self) -> Result<Principal, IdentityError> {
        Ok(Principal::from_der(&self.leaf())?)
    }

    /// When the certificate is to be renewed: at half of its life.
    pub fn renew_at(&self) -> Wall {
        let (from, until) = self.validity();
        Wall::from_secs(from.secs() + (until.secs() - from.secs()) / 2)
    }

    /// Begin and end of the certificate's life.
    pub fn validity(&self) -> (Wall, Wall) {
        validity(&self.leaf()).expect("checked when it was made")
    }

    /// A request (PKCS#10, DER) for a new certificate over the key there is.
    pub fn renewal_request(&self) -> Result<Vec<u8>, IdentityError> {
        Ok(request_over(&rcgen::KeyPair::from_pem(&self.key)?)?)
    }

    /// The PEM text of the private key, for keeping it across a renewal.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The CA's certificate, the one that is trusted.
    pub fn ca_der(&self) -> CertificateDer<'static> {
        certificates(&self.ca).ok().and_then(|mut all| all.pop()).expect("checked when it was made")
    }

    /// The chain as TLS presents it: leaf first, then the CA, so that whoever holds only the CA's fingerprint
    /// can check it.
    pub fn presented(&self) -> Vec<CertificateDer<'static>> {
        let mut chain = certificates(&self.chain).expect("checked when it was made");
        let ca = self.ca_der();
        if !chain.contains(&ca) {
            chain.push(ca);
        }
        chain
    }

    pub fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("checked when it was made")
    }

    fn leaf(&self) -> CertificateDer<'static> {
        certificates(&self.chain).expect("checked when it was made").swap_remove(0)
    }

    fn check(&self) -> Result<(), Unusable> {
        let unusable = |file, reason: String| Unusable { file, reason };
        let ca = certificates(&self.ca).map_err(|reason| unusable(CA_FILE, reason))?;
        if ca.len() != 1 {
            return Err(unusable(CA_FILE, format!("it holds {} certificates instead of one", ca.len())));
        }
        let chain = certificates(&self.chain).map_err(|reason| unusable(CHAIN_FILE, reason))?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())
            .map_err(|err| unusable(KEY_FILE, format!("it holds no private key ({err})")))?;
        let signing_key = crate::tls::provider()
            .key_provider
            .load_private_key(key)
            .map_err(|err| unusable(KEY_FILE, err.to_string()))?;
        rustls::sign::CertifiedKey::new(chain, signing_key)
            .keys_match()
            .map_err(|_| unusable(KEY_FILE, format!("it is not the key of {CHAIN_FILE}")))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("principal", &self.principal().ok()).finish_non_exhaustive()
    }
}

impl fmt::Debug for SigningRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningRequest").field("csr", &self.csr.len()).finish_non_exhaustive()
    }
}

/// A new P-256 key and a request over it. It names nobody: a certificate's name comes from the token or from
/// the certificate that is renewed.
pub fn signing_request() -> Result<SigningRequest, IdentityError> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    Ok(SigningRequest { csr: request_over(&key)?, key: key.serialize_pem() })
}

/// Begin and end of the life of the first certificate of a chain (PEM).
pub fn certificate_validity(chain: &str) -> Option<(Wall, Wall)> {
    validity(certificates(chain).ok()?.first()?)
}

fn validity(certificate: &[u8]) -> Option<(Wall, Wall)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let validity = certificate.validity();
    let at = |time: x509_parser::time::ASN1Time| Wall::from_secs(time.timestamp());
    Some((at(validity.not_before), at(validity.not_after)))
}

fn request_over(key: &rcgen::KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params.serialize_request(key)?.der().to_vec())
}

/// At least one certificate, each of which is X.509.
fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|err| format!("it is not PEM ({err})"))?;
    if all.is_empty() {
        return Err("it holds no certificate".to_owned());
    }
    for certificate in &all {
        X509Certificate::from_der(certificate).map_err(|_| "a certificate in it is damaged".to_owned())?;
    }
    Ok(all)
}

/// Replaces `path` in one step by a file of this content and mode, synced before it takes the name.
fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    match fs::remove_file(&new) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    // create_new: never through a link that somebody left under this name.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing::Authority;

    #[test]
    fn what_was_saved_is_loaded_with_strict_modes() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("a/b");
        let identity = Authority::new().host("web-01");
        identity.save(&dir).unwrap();
        identity.save(&dir).unwrap();
        let loaded = Identity::load(&dir).unwrap();
        assert_eq!(loaded.principal().unwrap(), Principal::Host("web-01".to_owned()));
        assert_eq!(loaded.ca_fingerprint(), identity.ca_fingerprint());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(mode(&dir.join(KEY_FILE)), 0o600);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 3);
    }

    #[test]
    fn errors_name_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let err = Identity::load(dir.path()).unwrap_err().to_string();
        assert!(err.contains("ca.crt") && err.contains("No such file"), "{err}");

        let authority = Authority::new();
        authority.host("a").save(dir.path()).unwrap();
        fs::write(dir.path().join(KEY_FILE), authority.host("b").key()).unwrap();
        let err = Identity::load(dir.path()).unwrap_err().to_string();
        assert!(err.contains("tls.key") && err.contains("not the key of tls.crt"), "{err}");

        fs::write(dir.path().join(CHAIN_FILE), "garbage").unwrap();
        let err = Identity::load(dir.path()).unwrap_err().to_string();
        assert!(err.contains("tls.crt") && err.contains("no certificate"), "{err}");
    }

    #[test]
    fn nothing_prints_a_key() {
        let identity = Authority::new().host("a");
        let request = signing_request().unwrap();
        assert!(!format!("{identity:?} {request:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_renewal_is_asked_for_over_the_same_key_at_half_of_the_life() {
        let identity = Authority::new().host("a");
        let csr = identity.renewal_request().unwrap();
        let parsed = rcgen::CertificateSigningRequestParams::from_der(&csr.into()).unwrap();
        let key = rcgen::KeyPair::from_pem(identity.key()).unwrap();
        assert_eq!(
            rcgen::PublicKeyData::der_bytes(&parsed.public_key),
            rcgen::PublicKeyData::der_bytes(&key)
        );
        let (from, until) = identity.validity();
        let half = identity.renew_at();
        assert_eq!(half.0 - from.0, until.0 - half.0);
    }
}
