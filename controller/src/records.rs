//! What the store's records mean: their keys and their contents (JSON, to which fields are only added).
//! Who writes them, and when, is decided elsewhere.
//!
//! | key | record | written |
//! | --- | --- | --- |
//! | `host/<host>` | [`HostRecord`] | when the host enrols, is labelled or revoked |
//! | `operator/<name>` | [`OperatorRecord`] | when the operator is added, renewed or revoked |
//! | `inventory/<host>` | [`InventoryRecord`] | when its labels, version or set of processes change; when it goes or returns |
//! | `token/<id>` | [`TokenRecord`] | when the token is made; deleted when it is spent |
//! | `desired/<host>/<group>:<process>` | [`DesiredRecord`] | by every start and stop |
//! | `operation/<id>` | [`OperationRecord`] | when it is made, stops, is cancelled or resumed, ends |
//! | `operation-plan/<id>/<n>` | [`PlanPiece`] | when it is made |
//! | `operation-host/<id>/<host>` | [`MemberRecord`] | before the host is told, and when it has answered |
//! | `audit-base` | the place that the first of these follows | when earlier ones are archived |
//! | `audit/<number>` | [`crate::audit::Entry`], behind its hash | with every change that somebody made; never again |

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use fleetvisor_model::name::ProcessName;
use fleetvisor_model::time::Wall;
use fleetvisor_proto::token::SecretHash;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::grant::Grant;
use crate::operations::record::{MEMBERS, MemberRecord, OPERATIONS, OperationRecord, PLANS, PlanPiece};
use crate::store::Record;

pub(crate) const HOSTS: &str = "host/";
pub(crate) const OPERATORS: &str = "operator/";
pub(crate) const INVENTORY: &str = "inventory/";
pub(crate) const TOKENS: &str = "token/";
pub(crate) const DESIRED: &str = "desired/";

pub(crate) fn host_key(host: &str) -> String {
    format!("{HOSTS}{host}")
}

pub(crate) fn operator_key(name: &str) -> String {
    format!("{OPERATORS}{name}")
}

pub(crate) fn inventory_key(host: &str) -> String {
    format!("{INVENTORY}{host}")
}

pub(crate) fn token_key(id: &str) -> String {
    format!("{TOKENS}{id}")
}

/// Prefix of all that is desired of a host.
pub(crate) fn desired_prefix(host: &str) -> String {
    format!("{DESIRED}{host}/")
}

pub(crate) fn desired_key(host: &str, name: &ProcessName) -> String {
    format!("{DESIRED}{host}/{}", name.full())
}

/// A host that has enrolled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HostRecord {
    /// Microseconds since the Unix epoch; of the latest enrolment.
    pub(crate) enrolled: i64,
    /// What its certificates must carry; none once it is revoked.
    #[serde(default)]
    pub(crate) grant: Option<Grant>,
    #[serde(default)]
    pub(crate) revoked: Option<Revoked>,
    /// Those that operators gave it. They go before its own.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Revoked {
    /// Microseconds since the Unix epoch.
    pub(crate) at: i64,
    pub(crate) by: String,
}

/// Who may ask something of the controller, and what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OperatorRecord {
    /// `viewer`, `operator` or `admin`.
    pub(crate) role: String,
    /// Selector of the hosts that it is limited to; empty for the whole fleet.
    #[serde(default)]
    pub(crate) only: String,
    /// What its certificates must carry; none once it is revoked.
    pub(crate) grant: Option<Grant>,
    #[serde(default)]
    pub(crate) revoked: Option<Revoked>,
    /// When it was made, and when its latest certificate ends: microseconds since the Unix epoch.
    pub(crate) made: i64,
    pub(crate) expires: i64,
    /// Who made it.
    pub(crate) by: String,
}

/// What is known of a host while it is away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InventoryRecord {
    pub(crate) version: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) processes: Vec<ProcessName>,
    /// When its link ended, in microseconds since the Unix epoch; none while it is linked, or was when the
    /// controller ended.
    pub(crate) away_since: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TokenRecord {
    /// SHA-256 of the secret, base64.
    hash: String,
    /// Microseconds since the Unix epoch.
    expires: i64,
    /// The only host name that it may be used for.
    pub(crate) host: Option<String>,
    pub(crate) by: String,
}

impl TokenRecord {
    pub(crate) fn new(hash: SecretHash, expires: Wall, host: Option<String>, by: String) -> TokenRecord {
        TokenRecord { hash: STANDARD_NO_PAD.encode(hash.0), expires: expires.0, host, by }
    }

    pub(crate) fn hash(&self) -> Option<SecretHash> {
        let bytes = STANDARD_NO_PAD.decode(&self.hash).ok()?;
        Some(SecretHash(bytes.try_into().ok()?))
    }

    pub(crate) fn has_expired(&self, now: Wall) -> bool {
        now.0 >= self.expires
    }
}

/// The wish for one process; its revision is the record's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DesiredRecord {
    pub(crate) name: ProcessName,
    pub(crate) run: Run,
    pub(crate) by: String,
    /// Microseconds since the Unix epoch.
    pub(crate) at: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Run {
    Started,
    Stopped,
}

#[derive(Debug, thiserror::Error)]
#[error("the record {key} cannot be read: {source}")]
pub(crate) struct RecordError {
    key: String,
    source: serde_json::Error,
}

pub(crate) fn encode<T: Serialize + ?Sized>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).expect("records are plain data")
}

pub(crate) fn decode<T: DeserializeOwned>(key: &str, record: &Record) -> Result<T, RecordError> {
    serde_json::from_slice(&record.value).map_err(|source| RecordError { key: key.to_owned(), source })
}

/// Whether a record can be read as what its key says it is. Keys that nobody here knows may hold anything.
pub(crate) fn check(key: &str, record: &Record) -> Result<(), RecordError> {
    let kind = key.split('/').next().unwrap_or_default();
    match format!("{kind}/").as_str() {
        HOSTS => decode::<HostRecord>(key, record).map(drop),
        INVENTORY => decode::<InventoryRecord>(key, record).map(drop),
        TOKENS => decode::<TokenRecord>(key, record).map(drop),
        DESIRED => decode::<DesiredRecord>(key, record).map(drop),
        OPERATIONS => decode::<OperationRecord>(key, record).map(drop),
        PLANS => decode::<PlanPiece>(key, record).map(drop),
        MEMBERS => decode::<MemberRecord>(key, record).map(drop),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_keeps_only_the_hash_of_its_secret_and_its_end() {
        let record = TokenRecord::new(SecretHash([7; 32]), Wall(10), None, "operator admin".to_owned());
        let stored = Record { value: encode(&record).into(), revision: 1 };
        let read: TokenRecord = decode("token/x", &stored).unwrap();
        assert!(read.hash() == Some(SecretHash([7; 32])));
        assert!(!read.has_expired(Wall(9)) && read.has_expired(Wall(10)));
    }

    #[test]
    fn one_hosts_wishes_are_not_listed_with_another_of_a_similar_name() {
        let key = desired_key("web-1.a", &ProcessName::new("g", "p"));
        assert!(key.starts_with(&desired_prefix("web-1.a")));
        assert!(!key.starts_with(&desired_prefix("web-1")));
    }
}
