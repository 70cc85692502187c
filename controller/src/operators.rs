//! Operators: who they are, with which role, limited to which hosts, and for how long. Owns their records: adding,
//! renewing, revoking; and the copy in memory that every call is judged by, kept by the store's watch and by
//! whoever changes a record, so that a change counts from the moment it is acknowledged.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use fleetvisor_model::selector::Selector;
use fleetvisor_model::time::Wall;
use fleetvisor_proto::fleet::{self, AddOperatorRequest, OperatorState, RenewOperatorRequest};
use fleetvisor_proto::identity::certificate_validity;
use fleetvisor_proto::principal::{Role, check_operator_name};
use tonic::Status;

use crate::access::Operator;
use crate::clock;
use crate::controller::Controller;
use crate::grant::Grant;
use crate::pki::{OPERATOR_LIFE, PkiError};
use crate::records::{self, OPERATORS, OperatorRecord, RecordError, Revoked};
use crate::status::Failure;
use crate::store::{Expect, Store, StoreError, Transaction};

const OPERATORS_MAX: usize = 10_000;
const LIFE_MAX: Duration = Duration::from_secs(86_400 * 3652);

/// The operators' records as of now.
#[derive(Debug, Default)]
pub(crate) struct Operators {
    known: RwLock<BTreeMap<String, Known>>,
}

#[derive(Debug)]
struct Known {
    /// `None` once it is deleted.
    record: Option<OperatorRecord>,
    revision: u64,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum OperatorsError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl Operators {
    pub(crate) async fn load(&self, store: &dyn Store) -> Result<u64, OperatorsError> {
        let listing = store.list(OPERATORS).await?;
        for (key, record) in &listing.records {
            self.set(key, Some(records::decode(key, record)?), record.revision);
        }
        Ok(listing.revision)
    }

    /// Follows the records for as long as the store lives.
    pub(crate) async fn follow(&self, store: Arc<dyn Store>) {
        loop {
            let watched = match self.load(&*store).await {
                Ok(revision) => store.watch(OPERATORS, revision).map_err(OperatorsError::from),
                Err(error) => Err(error),
            };
            match watched {
                Ok(mut watch) => {
                    while let Some(change) = watch.next().await {
                        let record = change.record.map(|record| records::decode(&change.key, &record));
                        match record.transpose() {
                            Ok(record) => self.set(&change.key, record, change.revision),
                            Err(error) => tracing::error!("{error}; this operator stays as it was"),
                        }
                    }
                }
                Err(OperatorsError::Store(StoreError::Closed)) => return,
                Err(error) => tracing::error!("cannot read who the operators are: {error}"),
            }
            // Fell behind, or the store was opened anew: once more from the beginning, without haste.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Role and limits of the holder of a certificate with this grant; else why it is refused.
    pub(crate) fn admit(&self, name: &str, grant: Option<Grant>) -> Result<(Role, Selector), String> {
        let known = self.known.read().expect("nothing panics while it holds the operators");
        let record = known.get(name).and_then(|known| known.record.as_ref());
        let Some(record) = record else { return Err(format!("there is no operator {name}")) };
        if let Some(revoked) = &record.revoked {
            return Err(format!("operator {name} has been revoked by {}", revoked.by));
        }
        if grant.is_none() || grant != record.grant {
            return Err(format!("this certificate of operator {name} is not one that counts"));
        }
        let role = record.role.parse::<Role>()?;
        let only = Selector::parse(&record.only).map_err(|err| err.to_string())?;
        Ok((role, only))
    }

    fn set(&self, key: &str, record: Option<OperatorRecord>, revision: u64) {
        let name = key.strip_prefix(OPERATORS).unwrap_or(key);
        let mut known = self.known.write().expect("nothing panics while it holds the operators");
        if known.get(name).is_none_or(|known| known.revision < revision) {
            known.insert(name.to_owned(), Known { record, revision });
        }
    }
}

/// The record of a new operator.
pub(crate) fn record(role: Role, only: &Selector, grant: Grant, expires: Wall, by: String) -> OperatorRecord {
    OperatorRecord {
        role: role.to_string(),
        only: only.to_string(),
        grant: Some(grant),
        revoked: None,
        made: clock::now().0,
        expires: expires.0,
        by,
    }
}

/// Makes an operator; a name that was revoked may be used again, its old certificates stay void.
pub(crate) async fn add(
    controller: &Controller,
    by: &Operator,
    request: AddOperatorRequest,
) -> Result<fleet::Certificate, Status> {
    let name = request.name;
    check_operator_name(&name).map_err(|err| Status::invalid_argument(err.to_string()))?;
    let role: Role = request.role.parse().map_err(Status::invalid_argument)?;
    let only = Selector::parse(&request.only).map_err(|err| Status::invalid_argument(err.to_string()))?;
    if role == Role::Admin && !only.is_empty() {
        let reason =
            "an admin can make operators of every kind, so limiting one to some hosts limits nothing";
        return Err(Status::invalid_argument(reason));
    }
    let life = life(request.ttl_seconds)?;
    let key = records::operator_key(&name);
    let (stored, old) = read(&*controller.store, &key).await?;
    if old.as_ref().is_some_and(|old| old.revoked.is_none()) {
        return Err(Status::already_exists(format!(
            "there is an operator {name}: renew it with `ctl operator renew {name}`, or revoke it first"
        )));
    }
    if old.is_none()
        && controller.store.list(OPERATORS).await.map_err(Failure::from)?.records.len() >= OPERATORS_MAX
    {
        return Err(Status::resource_exhausted(format!(
            "there are {OPERATORS_MAX} operators, which is the limit"
        )));
    }
    let grant = Grant::new().map_err(Failure::from)?;
    let certificate = sign(controller, role, &name, grant, life, &request.csr)?;
    let record = record(role, &only, grant, ends(&certificate), by.to_string());
    let limits = if only.is_empty() { String::new() } else { format!(", only {only}") };
    let entry = by
        .does("operator.add", format!("operator {name}"))
        .detail(format!("role {role}{limits}, until {}", clock::utc(Wall(record.expires))));
    let transaction = Transaction::default().put_if(key.clone(), stored, records::encode(&record));
    let revision = controller.audit.commit(entry, transaction).await.map_err(changed)?;
    controller.operators.set(&key, Some(record), revision);
    tracing::info!("{by} has added operator {name} with the role {role}{limits}");
    Ok(certificate)
}

/// A new certificate: for oneself, or, by an admin, for anybody. What was given before stays valid until its end.
pub(crate) async fn renew(
    controller: &Controller,
    by: &Operator,
    request: RenewOperatorRequest,
) -> Result<fleet::Certificate, Status> {
    let name = if request.name.is_empty() { by.name.clone() } else { request.name };
    check_operator_name(&name).map_err(|err| Status::invalid_argument(err.to_string()))?;
    if name != by.name && by.role < Role::Admin {
        return Err(Status::permission_denied(format!("{by} may renew its own certificate alone")));
    }
    let life = life(request.ttl_seconds)?;
    let key = records::operator_key(&name);
    let (stored, record) = read(&*controller.store, &key).await?;
    let mut record = record.ok_or_else(|| unknown(&name))?;
    let Some(grant) = record.grant.filter(|_| record.revoked.is_none()) else {
        return Err(Status::failed_precondition(format!(
            "operator {name} has been revoked; `ctl operator add {name}` makes it anew"
        )));
    };
    let role: Role = record.role.parse().map_err(Status::internal)?;
    let certificate = sign(controller, role, &name, grant, life, &request.csr)?;
    record.expires = record.expires.max(ends(&certificate).0);
    let until = clock::utc(ends(&certificate));
    let entry = by.does("operator.renew", format!("operator {name}")).detail(format!("until {until}"));
    let transaction = Transaction::default().put_if(key.clone(), stored, records::encode(&record));
    let revision = controller.audit.commit(entry, transaction).await.map_err(changed)?;
    controller.operators.set(&key, Some(record), revision);
    tracing::info!("{by} has renewed the certificate of operator {name} until {until}");
    Ok(certificate)
}

/// From now on the operator is refused, whatever it has under way.
pub(crate) async fn revoke(controller: &Controller, by: &Operator, name: &str) -> Result<(), Status> {
    check_operator_name(name).map_err(|err| Status::invalid_argument(err.to_string()))?;
    let key = records::operator_key(name);
    let (stored, record) = read(&*controller.store, &key).await?;
    let mut record = record.ok_or_else(|| unknown(name))?;
    if record.revoked.is_some() {
        return Err(Status::failed_precondition(format!("operator {name} has been revoked already")));
    }
    if record.role == Role::Admin.to_string() && !another_admin(&*controller.store, name).await? {
        return Err(Status::failed_precondition(format!(
            "operator {name} is the last admin; add another one first: `ctl operator add NAME --role admin --out DIR`"
        )));
    }
    record.revoked = Some(Revoked { at: clock::now().0, by: by.to_string() });
    record.grant = None;
    let transaction = Transaction::default().put_if(key.clone(), stored, records::encode(&record));
    let entry = by.does("operator.revoke", format!("operator {name}"));
    let revision = controller.audit.commit(entry, transaction).await.map_err(changed)?;
    controller.operators.set(&key, Some(record), revision);
    let reason = format!("operator {name} has been revoked by {by}");
    controller.sessions.end(&format!("operator {name}"), None, &reason);
    tracing::info!("{reason}");
    Ok(())
}

pub(crate) async fn list(store: &dyn Store) -> Result<Vec<fleet::Operator>, Status> {
    let mut operators = Vec::new();
    let now = clock::now();
    for (key, record) in store.list(OPERATORS).await.map_err(Failure::from)?.records {
        let operator: OperatorRecord = records::decode(&key, &record).map_err(Failure::from)?;
        let state = match &operator.revoked {
            Some(_) => OperatorState::Revoked,
            None if now.0 >= operator.expires => OperatorState::Expired,
            None => OperatorState::Active,
        };
        operators.push(fleet::Operator {
            name: key.trim_start_matches(OPERATORS).to_owned(),
            role: operator.role,
            only: operator.only,
            state: state.into(),
            made: operator.made,
            by: operator.by,
            expires: operator.expires,
            revoked: operator.revoked.map_or(0, |revoked| revoked.at),
        });
    }
    Ok(operators)
}

/// Whether an admin other than `name` could do something at this moment.
async fn another_admin(store: &dyn Store, name: &str) -> Result<bool, Status> {
    let all = list(store).await?;
    let admin = Role::Admin.to_string();
    Ok(all
        .iter()
        .any(|other| other.name != name && other.role == admin && other.state() == OperatorState::Active))
}

async fn read(store: &dyn Store, key: &str) -> Result<(Expect, Option<OperatorRecord>), Status> {
    match store.get(key).await.map_err(Failure::from)? {
        None => Ok((Expect::Absent, None)),
        Some(stored) => {
            let record = records::decode(key, &stored).map_err(Failure::from)?;
            Ok((Expect::Revision(stored.revision), Some(record)))
        }
    }
}

fn sign(
    controller: &Controller,
    role: Role,
    name: &str,
    grant: Grant,
    life: Duration,
    csr: &[u8],
) -> Result<fleet::Certificate, Status> {
    controller.authority.operator_over(role, name, grant, life, csr).map_err(|err| match err {
        PkiError::Request(_) => Status::invalid_argument(err.to_string()),
        other => Failure::from(other).into(),
    })
}

fn ends(certificate: &fleet::Certificate) -> Wall {
    certificate_validity(&certificate.chain).map_or(Wall(0), |(_, until)| until)
}

fn life(seconds: u64) -> Result<Duration, Status> {
    match seconds {
        0 => Ok(OPERATOR_LIFE),
        seconds if seconds > LIFE_MAX.as_secs() => {
            Err(Status::invalid_argument("a certificate lives 10 years at most"))
        }
        seconds => Ok(Duration::from_secs(seconds)),
    }
}

fn unknown(name: &str) -> Status {
    Status::not_found(format!("there is no operator {name}; `ctl operator list` shows who there is"))
}

/// Somebody else changed the same record at the same moment.
fn changed(error: StoreError) -> Status {
    match error {
        StoreError::Conflict { .. } => {
            Status::aborted("somebody else has changed this operator at the same moment; look, and try again")
        }
        other => Failure::from(other).into(),
    }
}
