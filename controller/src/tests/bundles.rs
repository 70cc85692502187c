//! Bundles between the operator, the controller and a host.

use fleetvisor_proto::fleet::bundles_client::BundlesClient;
use fleetvisor_proto::fleet::{
    Assignment, BundleFile, BundleState, ConfigState, HistoryRequest, OperationState, PushRequest, Scope,
    Strategy, bundle_event, run_event,
};

use super::*;

/// Names of the bundles, once there are any others than `before`.
async fn told(agent: &mut Agent, before: &[&str]) -> Assignment {
    loop {
        let assignment = agent.hear_assignment().await;
        let names: Vec<&str> = assignment.bundles.iter().map(|bundle| bundle.name.as_str()).collect();
        if names != before {
            return assignment;
        }
    }
}

#[tokio::test]
async fn a_host_is_told_what_is_for_its_labels_whoever_gave_them() {
    let served = Served::new().await;
    let (mut agent, _) = served.agent("web-01", &[]).await;
    let admin = served.operator_identity(Role::Admin, "").await;
    let mut bundles = BundlesClient::new(served.dial(&admin).await);
    for (name, labels) in [("db", "role=db"), ("web", "role=web")] {
        let request = PushRequest {
            name: name.to_owned(),
            files: vec![BundleFile {
                name: "a.conf".to_owned(),
                text: format!("[program:{name}]\ncommand=x\n").into_bytes(),
            }],
            scope: Some(Scope { hosts: Vec::new(), labels: labels.to_owned() }),
            ..PushRequest::default()
        };
        bundles.push(request).await.unwrap();
    }
    let assignment = told(&mut agent, &[]).await;
    assert_eq!((assignment.bundles[0].name.as_str(), assignment.bundles[0].revision), ("web", 1));
    assert_eq!((assignment.bundles.len(), assignment.labels["role"].as_str()), (1, "web"));

    // An operator's label goes before its own.
    let key = records::host_key("web-01");
    let stored = served.controller.store.get(&key).await.unwrap().unwrap();
    let mut record: HostRecord = records::decode(&key, &stored).unwrap();
    record.labels.insert("role".to_owned(), "db".to_owned());
    let transaction = Transaction::default().put(key, records::encode(&record));
    let revision = served.controller.store.commit(transaction).await.unwrap();
    served.controller.registry.enrolled("web-01", record, revision);
    let assignment = told(&mut agent, &["web"]).await;
    assert_eq!((assignment.bundles.len(), assignment.bundles[0].name.as_str()), (1, "db"));
    assert_eq!(assignment.labels["role"], "db");
}

impl Agent {
    /// Waits until it is told a revision of the bundle, and says how that went; empty for well.
    async fn apply(&mut self, revision: u64, failure: &str) {
        loop {
            let assignment = self.hear_assignment().await;
            let Some(told) = assignment.bundles.iter().find(|bundle| bundle.revision == revision) else {
                continue;
            };
            let state = BundleState {
                name: told.name.clone(),
                revision: if failure.is_empty() { revision } else { revision - 1 },
                failed_revision: if failure.is_empty() { 0 } else { revision },
                reason: failure.to_owned(),
                starting: false,
            };
            let state = ConfigState { seq: assignment.seq, bundles: vec![state] };
            return self.say(from_host::Message::ConfigState(state)).await;
        }
    }
}

/// Pushes a content to every host, and gives the operation's last state.
async fn push(served: &Served, content: &str, strategy: Option<Strategy>) -> fleet::Operation {
    let admin = served.operator_identity(Role::Admin, "").await;
    let mut bundles = BundlesClient::new(served.dial(&admin).await);
    let text = format!("[program:x]\ncommand={content}\n").into_bytes();
    let request = PushRequest {
        name: "web".to_owned(),
        files: vec![BundleFile { name: "a.conf".to_owned(), text }],
        scope: Some(Scope::default()),
        strategy,
        ..PushRequest::default()
    };
    let mut events = bundles.push(request).await.unwrap().into_inner();
    let mut last = None;
    while let Some(event) = timeout(PATIENCE, events.message()).await.expect("no event").unwrap() {
        if let Some(bundle_event::Event::Run(run)) = event.event
            && let Some(run_event::Event::Operation(operation)) = run.event
        {
            last = Some(operation);
        }
    }
    last.expect("a state")
}

#[tokio::test]
async fn what_has_failed_is_put_back_though_the_controller_is_killed_in_between() {
    let store = Arc::new(MemoryStore::default());
    let served = Served::on(store.clone()).await;
    let (mut a, _) = served.agent("a", &[]).await;
    let (mut b, _) = served.agent("b", &[]).await;
    let (first, (), ()) = tokio::join!(push(&served, "one", None), a.apply(1, ""), b.apply(1, ""));
    assert_eq!(first.state(), OperationState::Finished);
    let canary = Some(Strategy { canary: 1, ..Strategy::default() });
    let (second, ()) = tokio::join!(push(&served, "two", canary), a.apply(2, "no such user"));
    assert_eq!((second.state(), second.failed), (OperationState::Stopped, 1), "{second:?}");

    // As if it had been asked to put it back, and the controller had been killed before it did.
    let key = crate::operations::record::operation_key(&second.id);
    let stored = store.get(&key).await.unwrap().unwrap();
    let mut record: crate::operations::record::OperationRecord = records::decode(&key, &stored).unwrap();
    record.applied.as_mut().unwrap().revert = true;
    store.commit(Transaction::default().put(key, records::encode(&record))).await.unwrap();
    let served = Served::on(store).await;
    let (mut a, _) = served.agent("a", &[]).await;
    let (mut b, _) = served.agent("b", &[]).await;
    tokio::join!(a.apply(3, ""), b.apply(3, ""));
    let mut client = served.operator(Role::Viewer).await;
    let ended = async {
        loop {
            let listed = client.list_operations(fleet::ListOperationsRequest::default()).await.unwrap();
            let mut operations = listed.into_inner().operations;
            if let (Some(last), Some(second)) = (operations.pop(), operations.pop())
                && last.state() == OperationState::Finished
            {
                assert_eq!((last.bundle_revision, last.ok), (3, 2), "{last:?}");
                return assert_eq!((second.reverted_by, second.superseded), (last.id, true));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, ended).await.expect("the end");
    let admin = served.operator_identity(Role::Admin, "").await;
    let mut bundles = BundlesClient::new(served.dial(&admin).await);
    let history = bundles.history(HistoryRequest { name: "web".to_owned() }).await.unwrap().into_inner();
    let told: Vec<(u64, u64)> = history.revisions.iter().map(|it| (it.revision, it.rollback_of)).collect();
    assert_eq!(told, [(3, 1), (2, 0), (1, 0)], "once");
}
