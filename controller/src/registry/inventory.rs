//! Storing what must be known of a host that is away, so that globs find its processes: labels, version, the
//! names of its processes, since when it is away. Written only when one of these changed.

use std::sync::Arc;

use super::Host;
use crate::records;
use crate::store::{Store, Transaction};

/// Stores the inventory if it changed. A failure is logged and made up for at the next change: it costs
/// knowledge of an absent host, and nothing that was acknowledged.
pub(crate) async fn store(store: &dyn Store, host: &Arc<Host>) {
    let Some(inventory) = host.unstored_inventory() else { return };
    let key = records::inventory_key(&host.name);
    match store.commit(Transaction::default().put(key, records::encode(&inventory))).await {
        Ok(_) => host.set_stored(inventory),
        Err(error) => tracing::error!("host {}: cannot store its inventory: {error}", host.name),
    }
}
