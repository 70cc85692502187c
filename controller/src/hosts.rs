//! What an operator does to a host as a member of the fleet: revoking, forgetting and labelling it. Letting hosts
//! in is [`crate::enrolment`]'s, what runs on them [`crate::operations`]'.

use std::collections::HashMap;

use fleetvisor_model::selector::Selector;
use fleetvisor_proto::fleet;
use fleetvisor_proto::principal::check_host_name;
use tonic::Status;

use crate::access::Operator;
use crate::clock;
use crate::controller::Controller;
use crate::records::{self, HostRecord, Revoked};
use crate::status::Failure;
use crate::store::{Expect, Store, StoreError, Transaction};

const LABELS_MAX: usize = 64;
const LABEL_BYTES_MAX: usize = 253;

/// From now on its certificates are void, whatever it has under way.
pub(crate) async fn revoke(
    controller: &Controller,
    by: &Operator,
    name: &str,
) -> Result<fleet::Host, Status> {
    let (key, mut record, revision) = read(&*controller.store, name).await?;
    if record.revoked.is_some() {
        return Err(Status::failed_precondition(format!("host {name} has been revoked already")));
    }
    record.revoked = Some(Revoked { at: clock::now().0, by: by.to_string() });
    record.grant = None;
    let transaction =
        Transaction::default().put_if(key, Expect::Revision(revision), records::encode(&record));
    let entry = by.does("host.revoke", name).host(name);
    let revision = controller.audit.commit(entry, transaction).await.map_err(changed)?;
    controller.registry.enrolled(name, record, revision);
    let reason = format!("host {name} has been revoked by {by}");
    controller.sessions.end(&format!("host {name}"), None, &reason);
    tracing::info!("{reason}");
    described(controller, name)
}

/// Deletes everything about a host. Its certificates are void, and its name is free.
pub(crate) async fn forget(
    controller: &Controller,
    by: &Operator,
    name: &str,
    force: bool,
) -> Result<(), Status> {
    let (key, _, revision) = read(&*controller.store, name).await?;
    if !force && controller.registry.known(name).is_some_and(|host| host.is_online()) {
        return Err(Status::failed_precondition(format!(
            "host {name} is online; --force forgets it all the same, and its agent is refused from then on"
        )));
    }
    let mut transaction = Transaction::default()
        .delete_if(key, Expect::Revision(revision))
        .delete_if(records::inventory_key(name), Expect::Anything);
    let wishes = controller.store.list(&records::desired_prefix(name)).await.map_err(Failure::from)?;
    for (key, _) in wishes.records {
        transaction = transaction.delete_if(key, Expect::Anything);
    }
    let entry = by.does("host.forget", name).host(name);
    let revision = controller.audit.commit(entry, transaction).await.map_err(changed)?;
    controller.registry.forgotten(name, revision);
    let reason = format!("host {name} is no longer enrolled; {by} has forgotten it");
    controller.sessions.end(&format!("host {name}"), None, &reason);
    tracing::info!("{reason}");
    Ok(())
}

/// Sets and removes labels. They go before those of the same key in the host's own configuration.
pub(crate) async fn label(
    controller: &Controller,
    by: &Operator,
    name: &str,
    set: HashMap<String, String>,
    remove: Vec<String>,
) -> Result<fleet::Host, Status> {
    let invalid = |reason: String| Err(Status::invalid_argument(reason));
    if set.is_empty() && remove.is_empty() {
        return invalid("no label to set (key=value) or to remove (key-)".to_owned());
    }
    let (key, mut record, revision) = read(&*controller.store, name).await?;
    let mut told = Vec::new();
    for label in remove {
        if record.labels.remove(&label).is_none() {
            return Err(Status::failed_precondition(format!(
                "no operator has set the label {label} of {name}; a host's own labels are in its configuration, and \
                 `ctl host label {name} {label}=...` goes before them"
            )));
        }
        told.push(format!("{label}-"));
    }
    for (label, value) in set {
        // What a selector could not name would be of no use.
        let terms = Selector::parse(&format!("{label}={value}"));
        let plain = !label.contains([',', '=', '!']) && !value.contains([',', '=']) && !value.is_empty();
        let short = label.len() <= LABEL_BYTES_MAX && value.len() <= LABEL_BYTES_MAX;
        if terms.is_err() || !plain || !short || label.trim() != label || value.trim() != value {
            return invalid(format!(
                "{label}={value} is no label: key=value of letters, digits, '.', '_', '-' and '/', each of \
                 {LABEL_BYTES_MAX} bytes at most"
            ));
        }
        told.push(format!("{label}={value}"));
        record.labels.insert(label, value);
    }
    if record.labels.len() > LABELS_MAX {
        return invalid(format!("more than {LABELS_MAX} labels"));
    }
    told.sort();
    let transaction =
        Transaction::default().put_if(key, Expect::Revision(revision), records::encode(&record));
    let entry = by.does("host.label", name).host(name).detail(told.join(" "));
    let revision = controller.audit.commit(entry, transaction).await.map_err(changed)?;
    controller.registry.enrolled(name, record, revision);
    // Its labels decide which bundles it gets.
    if let Some(host) = controller.registry.known(name) {
        host.told.touch();
        host.news.notify_one();
    }
    tracing::info!("{by} has labelled host {name}: {}", told.join(" "));
    described(controller, name)
}

async fn read(store: &dyn Store, name: &str) -> Result<(String, HostRecord, u64), Status> {
    check_host_name(name).map_err(|err| Status::invalid_argument(err.to_string()))?;
    let key = records::host_key(name);
    let stored = store.get(&key).await.map_err(Failure::from)?;
    let stored = stored.ok_or_else(|| Status::not_found(format!("there is no host {name}")))?;
    let record = records::decode(&key, &stored).map_err(Failure::from)?;
    Ok((key, record, stored.revision))
}

fn described(controller: &Controller, name: &str) -> Result<fleet::Host, Status> {
    let host = controller.registry.known(name);
    host.map(|host| host.describe()).ok_or_else(|| Status::not_found(format!("there is no host {name}")))
}

/// Somebody else changed the same record at the same moment.
fn changed(error: StoreError) -> Status {
    match error {
        StoreError::Conflict { .. } => {
            Status::aborted("somebody else has changed this host at the same moment; look, and try again")
        }
        other => Failure::from(other).into(),
    }
}
