//! The fleet's certificate authority: making it, and signing what names the controller, a host or an
//! operator. Who may have a certificate is decided by [`crate::enrolment`] and [`crate::access`].

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fleetvisor_model::time::Wall;
use fleetvisor_proto::fleet;
use fleetvisor_proto::identity::{Identity, IdentityError};
use fleetvisor_proto::principal::{Principal, Role};
use fleetvisor_proto::token::Fingerprint;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::grant::Grant;

const DAY: Duration = Duration::from_secs(86_400);
const CA_LIFE: Duration = Duration::from_secs(86_400 * 3652);
pub(crate) const OPERATOR_LIFE: Duration = Duration::from_secs(86_400 * 365);
pub(crate) const HOST_LIFE: Duration = DAY;
/// How long before its making a certificate begins, for those whose clock is behind: they judge the CA's and the
/// controller's.
const BACKDATED: Duration = DAY;
/// The others are judged by the clock that made them, give or take that of another controller.
const BACKDATED_MAX: Duration = Duration::from_secs(300);
const CSR_MAX: usize = 16 * 1024;
/// Longest common name that X.509 knows.
const COMMON_NAME_MAX: usize = 64;

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// PEM.
    ca: String,
    fingerprint: Fingerprint,
    /// End of the CA's own certificate: nothing it signs is valid for longer.
    expires: Wall,
    host_life: Duration,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PkiError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("{path} is not usable: {reason}")]
    Content { path: PathBuf, reason: String },
    #[error("{name:?} can be no name in a certificate: {reason}")]
    Name { name: String, reason: String },
    #[error("the signing request is not usable: {0}")]
    Request(String),
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("cannot make a certificate: the system's random source failed: {0}")]
    Random(#[from] getrandom::Error),
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl Authority {
    /// A new authority (P-256, 10 years), kept nowhere until it is saved.
    pub(crate) fn create() -> Result<Authority, PkiError> {
        let key = new_key()?;
        let mut params = params(Grant::new()?, BACKDATED, CA_LIFE)?;
        let mut tag = [0; 4];
        getrandom::fill(&mut tag)?;
        common_name(&mut params, &format!("Fleetvisor CA {:08x}", u32::from_be_bytes(tag)));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        let fingerprint = Fingerprint::of(certificate.der());
        let expires = Wall::from_secs(params.not_after.unix_timestamp());
        let (ca, issuer) = (certificate.pem(), Issuer::new(params, key));
        Ok(Authority { ca, issuer, fingerprint, expires, host_life: HOST_LIFE })
    }

    /// Writes `ca.crt` and `ca.key` (mode 0600) to a new directory (mode 0700).
    pub(crate) fn save(&self, dir: &Path) -> Result<(), PkiError> {
        let write = |path: &Path, source| PkiError::Write { path: path.to_owned(), source };
        DirBuilder::new().mode(0o700).create(dir).map_err(|err| write(dir, err))?;
        for (file, text, mode) in
            [("ca.key", self.issuer.key().serialize_pem(), 0o600), ("ca.crt", self.ca.clone(), 0o644)]
        {
            let path = dir.join(file);
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&path)
                .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
                .map_err(|err| write(&path, err))?;
        }
        fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(|err| write(dir, err))
    }

    pub(crate) fn load(dir: &Path) -> Result<Authority, PkiError> {
        Authority::read(&dir.join("ca.crt"), &dir.join("ca.key"))
    }

    /// The authority of a certificate and its key, PEM. The certificate is what everybody trusts, whoever signed
    /// it: it must be one that may sign others, be valid now, and be the key's.
    pub(crate) fn read(certificate: &Path, key: &Path) -> Result<Authority, PkiError> {
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|source| PkiError::Read { path: path.to_owned(), source })
        };
        let content = |path: &Path, reason: String| PkiError::Content { path: path.to_owned(), reason };
        let of_certificate = |reason: String| content(certificate, reason);
        let der = CertificateDer::from_pem_slice(read(certificate)?.as_bytes())
            .map_err(|err| of_certificate(err.to_string()))?;
        let pair =
            KeyPair::from_pem(&read(key)?).map_err(|err| content(key, format!("no private key: {err}")))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der)
            .map_err(|_| of_certificate("it is not an X.509 certificate".to_owned()))?;
        if parsed.public_key().raw != pair.subject_public_key_info() {
            return Err(content(key, format!("it is not the key of {}", certificate.display())));
        }
        let may_sign = match parsed.key_usage() {
            Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
            Err(_) => false,
        };
        if !parsed.is_ca() || !may_sign {
            return Err(of_certificate("it is no CA's: it may not sign certificates".to_owned()));
        }
        let validity = parsed.validity();
        if !validity.is_valid() {
            let (from, until) = (validity.not_before, validity.not_after);
            return Err(of_certificate(format!("it is valid from {from} to {until}, and not now")));
        }
        let expires = Wall::from_secs(validity.not_after.timestamp());
        let issuer = Issuer::from_ca_cert_der(&der, pair).map_err(|err| of_certificate(err.to_string()))?;
        let ca = pem("CERTIFICATE", &der);
        Ok(Authority { issuer, fingerprint: Fingerprint::of(&der), ca, expires, host_life: HOST_LIFE })
    }

    /// From now on hosts get certificates of this life.
    pub(crate) fn with_host_life(self, host_life: Duration) -> Authority {
        Authority { host_life, ..self }
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The CA's certificate, PEM.
    pub(crate) fn ca(&self) -> &str {
        &self.ca
    }

    /// When the CA's own certificate ends, and with it the fleet.
    pub(crate) fn expires(&self) -> Wall {
        self.expires
    }

    /// The controller's own identity, for these DNS names and IP addresses; as long-lived as the CA.
    pub(crate) fn server(&self, names: &[String]) -> Result<Identity, PkiError> {
        let mut params = self.params(Grant::new()?, BACKDATED, CA_LIFE)?;
        for name in names {
            params.subject_alt_names.push(subject_name(name)?);
        }
        common_name(&mut params, "fleetvisor-controller");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.with_new_key(params, &Principal::Controller)
    }

    /// An operator's identity with a key made here.
    pub(crate) fn operator(&self, role: Role, name: &str, grant: Grant) -> Result<Identity, PkiError> {
        let key = new_key()?;
        let chain = self.sign_operator(role, name, grant, OPERATOR_LIFE, &key)?;
        Ok(Identity::new(self.ca.clone(), chain, key.serialize_pem())?)
    }

    /// An operator's certificate over the key of `csr`, as [`Authority::host`] takes it.
    pub(crate) fn operator_over(
        &self,
        role: Role,
        name: &str,
        grant: Grant,
        life: Duration,
        csr: &[u8],
    ) -> Result<fleet::Certificate, PkiError> {
        let request = request(csr)?;
        let chain = self.sign_operator(role, name, grant, life, &request.public_key)?;
        Ok(fleet::Certificate { chain, ca: self.ca.clone() })
    }

    fn sign_operator(
        &self,
        role: Role,
        name: &str,
        grant: Grant,
        life: Duration,
        key: &impl PublicKeyData,
    ) -> Result<String, PkiError> {
        let mut params = self.params(grant, backdated(life), life)?;
        common_name(&mut params, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, &Principal::Operator { role, name: name.to_owned() }, key)
    }

    /// A host's certificate over the key of `csr` (PKCS#10, DER), which must be signed by that key. Whatever else
    /// the request asks for is ignored.
    pub(crate) fn host(&self, name: &str, grant: Grant, csr: &[u8]) -> Result<fleet::Certificate, PkiError> {
        let request = request(csr)?;
        let mut params = self.params(grant, backdated(self.host_life), self.host_life)?;
        common_name(&mut params, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let chain = self.sign(params, &Principal::Host(name.to_owned()), &request.public_key)?;
        Ok(fleet::Certificate { chain, ca: self.ca.clone() })
    }

    /// A host's certificate of an hour that ended `ago`.
    #[cfg(test)]
    pub(crate) fn host_until_ago(
        &self,
        name: &str,
        grant: Grant,
        csr: &[u8],
        ago: Duration,
    ) -> Result<fleet::Certificate, PkiError> {
        let request = request(csr)?;
        let hour = Duration::from_secs(3600);
        let mut params = self.params(grant, hour + ago, Duration::ZERO)?;
        params.not_after -= ago;
        let chain = self.sign(params, &Principal::Host(name.to_owned()), &request.public_key)?;
        Ok(fleet::Certificate { chain, ca: self.ca.clone() })
    }

    /// Parameters of a certificate that does not outlive the CA's.
    fn params(
        &self,
        grant: Grant,
        backdated: Duration,
        life: Duration,
    ) -> Result<CertificateParams, PkiError> {
        let mut params = params(grant, backdated, life)?;
        let end = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(self.expires.secs().unsigned_abs());
        params.not_after = params.not_after.min(end);
        Ok(params)
    }

    fn with_new_key(&self, params: CertificateParams, principal: &Principal) -> Result<Identity, PkiError> {
        let key = new_key()?;
        let chain = self.sign(params, principal, &key)?;
        Ok(Identity::new(self.ca.clone(), chain, key.serialize_pem())?)
    }

    /// The certificate, then the CA's: what TLS presents.
    fn sign(
        &self,
        mut params: CertificateParams,
        principal: &Principal,
        key: &impl PublicKeyData,
    ) -> Result<String, PkiError> {
        params.subject_alt_names.push(SanType::URI(principal.uri().try_into()?));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        Ok(format!("{}{}", params.signed_by(key, &self.issuer)?.pem(), self.ca))
    }
}

fn new_key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
}

fn params(grant: Grant, backdated: Duration, life: Duration) -> Result<CertificateParams, PkiError> {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from_slice(&grant.serial()?));
    params.not_before = epoch + since_epoch.saturating_sub(backdated);
    params.not_after = epoch + (since_epoch + life);
    Ok(params)
}

/// A certificate of a short life begins hardly before its making, or half of it would be over already.
fn backdated(life: Duration) -> Duration {
    BACKDATED_MAX.min(life / 16)
}

/// A signing request of acceptable size, form, and key, signed by that key.
fn request(csr: &[u8]) -> Result<CertificateSigningRequestParams, PkiError> {
    if csr.len() > CSR_MAX {
        return Err(PkiError::Request(format!("it has more than {CSR_MAX} bytes")));
    }
    let request = CertificateSigningRequestParams::from_der(&csr.into())
        .map_err(|err| PkiError::Request(err.to_string()))?;
    let accepted = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];
    if !accepted.contains(&request.public_key.algorithm()) {
        return Err(PkiError::Request("its key is none of P-256, P-384, Ed25519".to_owned()));
    }
    Ok(request)
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// For people who look at the certificate; programs read the URI name.
fn common_name(params: &mut CertificateParams, name: &str) {
    let shown: String = name.chars().take(COMMON_NAME_MAX).collect();
    params.distinguished_name.push(DnType::CommonName, shown);
}

fn subject_name(name: &str) -> Result<SanType, PkiError> {
    if let Ok(address) = name.parse() {
        return Ok(SanType::IpAddress(address));
    }
    // Also checks that it is a name that a client could ask for.
    rustls_pki_types::DnsName::try_from(name)
        .map_err(|err| PkiError::Name { name: name.to_owned(), reason: err.to_string() })?;
    Ok(SanType::DnsName(name.try_into()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use fleetvisor_proto::identity::signing_request;

    use super::*;

    #[test]
    fn a_saved_authority_signs_as_before() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("ca");
        let made = Authority::create().unwrap();
        made.save(&dir).unwrap();
        let loaded = Authority::load(&dir).unwrap();
        assert_eq!(loaded.fingerprint(), made.fingerprint());
        let identity = loaded.operator(Role::Admin, "admin", Grant::new().unwrap()).unwrap();
        assert_eq!(identity.ca_fingerprint(), made.fingerprint());
        assert_eq!(
            identity.principal().unwrap(),
            Principal::Operator { role: Role::Admin, name: "admin".to_owned() }
        );
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join("ca.key"))), (0o700, 0o600));
        assert!(matches!(made.save(&dir), Err(PkiError::Write { .. })));
    }

    #[test]
    fn a_request_gives_its_key_and_nothing_else() {
        let authority = Authority::create().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut wish = CertificateParams::new(vec!["controller".to_owned()]).unwrap();
        wish.subject_alt_names.push(SanType::URI("fleetvisor:operator:admin:eve".try_into().unwrap()));
        wish.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let csr = wish.serialize_request(&key).unwrap();
        let certificate = authority.host("web-01", Grant::new().unwrap(), csr.der()).unwrap();
        let identity = Identity::received(certificate, key.serialize_pem()).unwrap();
        assert_eq!(identity.principal().unwrap(), Principal::Host("web-01".to_owned()));
        let leaf = identity.presented().swap_remove(0);
        let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
        let usage = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth && !leaf.is_ca());
        assert_eq!(leaf.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
        let (from, until) = identity.validity();
        assert_eq!(until.secs() - from.secs(), 86_400 + 300);
    }

    #[test]
    fn damaged_requests_are_refused() {
        let authority = Authority::create().unwrap();
        let mut csr = signing_request().unwrap().csr;
        let grant = Grant::new().unwrap();
        assert!(authority.host("a", grant, &csr).is_ok());
        *csr.last_mut().unwrap() ^= 1;
        for csr in [&csr[..], b"", b"garbage", &vec![0; CSR_MAX + 1]] {
            assert!(matches!(authority.host("a", grant, csr), Err(PkiError::Request(_))));
        }
    }

    #[test]
    fn names_that_nobody_could_dial_are_refused() {
        let authority = Authority::create().unwrap();
        let server = |name: &str| authority.server(&[name.to_owned()]);
        for name in ["localhost", "a.example.org", "10.0.0.1", "::1"] {
            assert!(server(name).is_ok(), "{name}");
        }
        for name in ["", "a b", "http://x", "a:7443"] {
            assert!(matches!(server(name), Err(PkiError::Name { .. })), "{name}");
        }
    }
}
