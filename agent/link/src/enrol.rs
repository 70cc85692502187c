//! Becoming a member: the join token is traded for a certificate, once; from then on the certificate in
//! `state_dir` is the host's identity. When a controller refuses that one, a token that has not been used here is
//! traded for another: an operator lets a host in again by giving it a new token, and touches nothing else.

use std::path::PathBuf;

use fleetvisor_model::config::FleetSection;
use fleetvisor_proto::fleet::EnrolRequest;
use fleetvisor_proto::fleet::enrolment_client::EnrolmentClient;
use fleetvisor_proto::identity::{CHAIN_FILE, Identity, IdentityError, signing_request};
use fleetvisor_proto::principal::Principal;
use fleetvisor_proto::tls::{self, DialError, TlsError};
use fleetvisor_proto::token::{JoinToken, TokenError};

/// In state_dir: the id, which is no secret, of the token that the certificate was had for.
const USED_FILE: &str = "token.used";

#[derive(Debug, thiserror::Error)]
pub(crate) enum EnrolError {
    #[error("no certificate in {state_dir} and no join_token_file in [fleet] to get one with")]
    NoToken { state_dir: PathBuf },
    #[error("cannot read join_token_file {path}: {source}")]
    TokenFile { path: PathBuf, source: std::io::Error },
    #[error("join_token_file {path}: {source}")]
    Token { path: PathBuf, source: TokenError },
    #[error(
        "the certificate in {state_dir} is {found}'s, but [fleet] says host = {wanted}; \
         remove the folder to enrol anew"
    )]
    OtherHost { state_dir: PathBuf, found: String, wanted: String },
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the controller refused to enrol this host: {}", .0.message())]
    Refused(Box<tonic::Status>),
}

pub(crate) fn is_enrolled(section: &FleetSection) -> bool {
    section.state_dir.join(CHAIN_FILE).exists()
}

pub(crate) fn load(section: &FleetSection) -> Result<Identity, EnrolError> {
    let identity = Identity::load(&section.state_dir)?;
    check(section, identity)
}

/// Enrols with the token in join_token_file if this host has not used that one before; `None` where it has, or
/// where there is none.
pub(crate) async fn anew(section: &FleetSection, address: &str) -> Result<Option<Identity>, EnrolError> {
    let Some(path) = &section.join_token_file else { return Ok(None) };
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(EnrolError::TokenFile { path: path.clone(), source }),
        Ok(text) => {
            let Ok(token) = text.trim().parse::<JoinToken>() else { return Ok(None) };
            let used = std::fs::read_to_string(section.state_dir.join(USED_FILE)).unwrap_or_default();
            if used.trim() == token.id_text() {
                return Ok(None);
            }
        }
    }
    enrol(section, address).await.map(Some)
}

/// What to do about a certificate that is refused.
pub(crate) fn remedy(section: &FleetSection) -> String {
    let host = &section.host;
    let file = match &section.join_token_file {
        Some(path) => format!("put it into {}", path.display()),
        None => "name the file that it is in as join_token_file in [fleet]".to_owned(),
    };
    format!("to let it in again, make a token with `ctl host token --host {host}` and {file}")
}

pub(crate) async fn enrol(section: &FleetSection, address: &str) -> Result<Identity, EnrolError> {
    let path = section
        .join_token_file
        .clone()
        .ok_or_else(|| EnrolError::NoToken { state_dir: section.state_dir.clone() })?;
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(EnrolError::TokenFile { path, source }),
    };
    let token: JoinToken =
        text.trim().parse().map_err(|source| EnrolError::Token { path: path.clone(), source })?;
    let request = signing_request()?;
    let channel = tls::dial(address, tls::enrolment_config(token.ca)?).await?;
    let message = EnrolRequest { token: token.reveal(), host: section.host.clone(), csr: request.csr };
    let answer = EnrolmentClient::new(channel).enrol(message).await;
    let certificate = answer.map_err(|status| EnrolError::Refused(Box::new(status)))?.into_inner();
    let identity = check(section, Identity::received(certificate, request.key)?)?;
    identity.save(&section.state_dir)?;
    // Without it, the same token would be tried once more at a refusal, and refused.
    let _ = std::fs::write(section.state_dir.join(USED_FILE), token.id_text());
    Ok(identity)
}

fn check(section: &FleetSection, identity: Identity) -> Result<Identity, EnrolError> {
    let found = identity.principal()?;
    if found == Principal::Host(section.host.clone()) {
        return Ok(identity);
    }
    Err(EnrolError::OtherHost {
        state_dir: section.state_dir.clone(),
        found: found.uri(),
        wanted: section.host.clone(),
    })
}
