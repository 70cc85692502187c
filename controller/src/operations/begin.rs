//! The beginning of an operation: what was asked as a record and a plan, stored by whoever asks, then carried out.

use std::net::SocketAddr;
use std::sync::Arc;

use fleetvisor_proto::fleet::{self, RunEvent, Target, Verb, run_event};
use tokio::sync::mpsc;

use super::caller::Caller;
use super::drive::Driver;
use super::record::{self, AppliedRecord, OperationRecord, PlannedHost, State, StrategyRecord};
use super::request::{self, Asked, EXPIRE_WISH};
use super::resolve::{self, Resolved};
use super::{BACKLOG, LIVE_MAX, RunError, take_on};
use crate::audit::{Entry, Outcome};
use crate::clock;
use crate::controller::Controller;
use crate::records;
use crate::registry::Host;
use crate::rollout::Strategy;
use crate::store::Transaction;

/// An operation that is not stored yet.
pub(crate) struct Prepared {
    id: String,
    record: OperationRecord,
    strategy: Strategy,
    planned: Vec<PlannedHost>,
    /// Targets that mean nothing.
    unmatched: Vec<Target>,
}

/// How a revision of a bundle goes through its hosts.
#[derive(Clone, Debug)]
pub(crate) struct How {
    strategy: Strategy,
    strategy_record: StrategyRecord,
    timeout: u32,
    revert: bool,
}

impl How {
    pub(crate) fn parse(
        strategy: Option<fleet::Strategy>,
        revert: bool,
        timeout_seconds: u32,
    ) -> Result<How, RunError> {
        let mut asked = strategy.unwrap_or_default();
        if revert && asked.max_failures.is_empty() {
            "0".clone_into(&mut asked.max_failures);
        }
        let (strategy, strategy_record) = request::strategy(asked)?;
        Ok(How { strategy, strategy_record, timeout: request::timeout(timeout_seconds)?, revert })
    }

    /// Whether so many hosts get it one after the other, or some of them perhaps not at all.
    pub(crate) fn is_gradual(&self, hosts: usize) -> bool {
        self.strategy.is_gradual(hosts)
    }

    /// Where each batch ends, for this many hosts.
    pub(crate) fn batches(&self, hosts: usize) -> Vec<usize> {
        self.strategy.batches(hosts)
    }
}

/// Starts the operation, which is stored when this returns. Its events arrive at the receiver, which ends when
/// there is nothing more to hear before hosts return.
pub(crate) async fn start(
    controller: &Arc<Controller>,
    request: fleet::RunRequest,
    by: String,
    from: SocketAddr,
) -> Result<mpsc::Receiver<RunEvent>, RunError> {
    let asked = Asked::parse(request)?;
    refuse_too_many(controller)?;
    let Resolved { hosts, unmatched } = resolve::resolve(&controller.registry, &asked);
    let made = clock::now().0;
    let expire = i64::try_from(asked.expire.as_micros()).unwrap_or(i64::MAX);
    let parts = |target: &Target| [target.host.clone(), target.group.clone(), target.process.clone()];
    let planned: Vec<PlannedHost> = hosts.into_iter().map(|(_, planned)| planned).collect();
    let record = OperationRecord {
        verb: asked.verb.word().to_owned(),
        signal: asked.signal.clone(),
        by: by.clone(),
        made,
        expires: made.saturating_add(expire),
        expires_as_asked: asked.expire_is_given,
        ended: None,
        state: State::Running,
        reason: String::new(),
        scope_hosts: asked.scope.hosts.clone(),
        scope_labels: asked.scope.labels.clone(),
        targets: asked.targets.iter().map(parts).collect(),
        strategy: asked.strategy_record.clone(),
        timeout_seconds: asked.timeout,
        applied: None,
        hosts: planned.len(),
        ok: 0,
        failed: 0,
    };
    let prepared = Prepared { id: new_id()?, record, strategy: asked.strategy, planned, unmatched };
    if !prepared.planned.is_empty() {
        let entry = Entry::new(&by, &prepared.record.audited(), &*prepared.id)
            .from(from)
            .hosts(prepared.planned.iter().map(|host| host.host.clone()))
            .detail(described(&asked))
            .outcome(Outcome::Started);
        controller.audit.commit(entry, prepared.put(Transaction::default())).await?;
    }
    Ok(prepared.begin(controller))
}

/// What carries a revision of a bundle to these hosts, those that are there first; `before` is the one that was settled.
pub(crate) fn apply(
    bundle: &str,
    (before, revision): (u64, u64),
    scope: fleet::Scope,
    how: &How,
    hosts: &[Arc<Host>],
    by: &str,
) -> Result<Prepared, RunError> {
    let mut hosts: Vec<&Arc<Host>> = hosts.iter().collect();
    hosts.sort_by_cached_key(|host| (!host.is_online(), host.name.clone()));
    let planned = |host: &Arc<Host>| PlannedHost {
        host: host.name.clone(),
        processes: Arc::new([]),
        groups: Vec::new(),
    };
    let made = clock::now().0;
    let expire = i64::try_from(EXPIRE_WISH.as_micros()).unwrap_or(i64::MAX);
    let record = OperationRecord {
        verb: Verb::Apply.word().to_owned(),
        signal: String::new(),
        by: by.to_owned(),
        made,
        expires: made.saturating_add(expire),
        expires_as_asked: false,
        ended: None,
        state: State::Running,
        reason: String::new(),
        scope_hosts: scope.hosts,
        scope_labels: scope.labels,
        targets: Vec::new(),
        strategy: how.strategy_record.clone(),
        timeout_seconds: how.timeout,
        applied: Some(AppliedRecord {
            bundle: bundle.to_owned(),
            revision,
            before,
            revert: how.revert,
            reverted_by: None,
            superseded: false,
        }),
        hosts: hosts.len(),
        ok: 0,
        failed: 0,
    };
    let planned = hosts.into_iter().map(planned).collect();
    Ok(Prepared { id: new_id()?, record, strategy: how.strategy, planned, unmatched: Vec::new() })
}

impl Prepared {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Its hosts, in the order of their turns.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &str> {
        self.planned.iter().map(|planned| planned.host.as_str())
    }

    /// Adds its records to a transaction.
    pub(crate) fn put(&self, transaction: Transaction) -> Transaction {
        let transaction = transaction.put(record::operation_key(&self.id), records::encode(&self.record));
        let pieces = record::plan_pieces(&self.id, &self.planned).into_iter();
        pieces.fold(transaction, |transaction, (key, piece)| transaction.put(key, piece))
    }

    /// Carries it out. It is stored, unless it is for no host.
    pub(crate) fn begin(self, controller: &Arc<Controller>) -> mpsc::Receiver<RunEvent> {
        let Prepared { id, record, strategy, planned, unmatched } = self;
        tracing::info!("{} asks to {} on {} hosts (operation {id})", record.by, record.verb, planned.len());
        let backlog = BACKLOG + planned.iter().map(|host| host.processes.len() + 2).sum::<usize>() * 2;
        let (caller, receiver) = Caller::new(backlog);
        let driver = Driver::new(controller.clone(), id, record, strategy, planned);
        for mut event in driver.replay() {
            if let run_event::Event::Started(started) = &mut event {
                started.unmatched = unmatched.clone();
            }
            caller.tell(event);
        }
        for target in unmatched {
            caller.tell(run_event::Event::Unmatched(target));
        }
        if !driver.is_empty() {
            take_on(controller, driver.heard_by(caller));
        }
        receiver
    }
}

/// Of what somebody asks for anew; what follows from an operation is no further one.
pub(crate) fn refuse_too_many(controller: &Controller) -> Result<(), RunError> {
    if controller.operations.under_way() >= LIVE_MAX { Err(RunError::TooMany) } else { Ok(()) }
}

/// What the audit log says of it: `restart web:* --batch 25%`.
fn described(asked: &Asked) -> String {
    let mut words = vec![asked.verb.word().to_owned()];
    if asked.verb == Verb::Signal {
        words.push(asked.signal.clone());
    }
    words.extend(asked.targets.iter().map(ToString::to_string));
    let strategy = &asked.strategy_record;
    let mut option = |name: &str, value: String, given: bool| {
        if given {
            words.push(format!("--{name} {value}"));
        }
    };
    option("parallel", strategy.parallel.to_string(), strategy.parallel > 0);
    option("canary", strategy.canary.to_string(), strategy.canary > 0);
    option("batch", strategy.batch.clone(), !strategy.batch.is_empty());
    option("pause", format!("{}ms", strategy.pause_ms), strategy.pause_ms > 0);
    option("max-failures", strategy.max_failures.clone(), !strategy.max_failures.is_empty());
    words.join(" ")
}

/// 128 random bits: no two operations share an id, so a host can tell a repeated one.
fn new_id() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}")))
}
