//! What every call to the controller works on. It only holds the parts together.

use std::sync::Arc;

use tokio::sync::watch;

use crate::audit::Audit;
use crate::bundles::Bundles;
use crate::clock;
use crate::enrolment::Attempts;
use crate::events::Events;
use crate::operations::Operations;
use crate::operators::Operators;
use crate::pki::Authority;
use crate::refusals::Refusals;
use crate::registry::Registry;
use crate::sessions::Sessions;
use crate::store::Store;
use crate::tail::Tails;

pub(crate) struct Controller {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) audit: Audit,
    pub(crate) events: Arc<Events>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) bundles: Bundles,
    pub(crate) authority: Authority,
    pub(crate) operators: Arc<Operators>,
    /// Connections of hosts and operators.
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) refusals: Refusals,
    /// Failed attempts to enrol.
    pub(crate) attempts: Attempts,
    pub(crate) operations: Operations,
    /// Who reads logs.
    pub(crate) tails: Tails,
    /// Once the controller stops: over how many seconds hosts may spread their return.
    pub(crate) stopping: watch::Receiver<Option<u32>>,
}

impl Controller {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        registry: Arc<Registry>,
        authority: Authority,
        holder: String,
        stopping: watch::Receiver<Option<u32>>,
    ) -> Controller {
        let operations = Operations::new(holder);
        // The clock does where there is no random source: it is another one at the next start.
        let mark = getrandom::u64().unwrap_or_else(|_| clock::now().0.unsigned_abs());
        Controller {
            audit: Audit::new(store.clone()),
            store,
            events: Arc::new(Events::new(mark)),
            registry,
            bundles: Bundles::default(),
            authority,
            operators: Arc::default(),
            sessions: Arc::default(),
            refusals: Refusals::default(),
            attempts: Attempts::default(),
            operations,
            tails: Tails::default(),
            stopping,
        }
    }
}
