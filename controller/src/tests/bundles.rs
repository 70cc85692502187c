//! Bundles between the operator, the controller and a host.

use fleetvisor_proto::fleet::bundles_client::BundlesClient;
use fleetvisor_proto::fleet::{Assignment, BundleFile, PushRequest, Scope};

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
