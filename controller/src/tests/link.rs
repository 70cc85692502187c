//! What a host and the controller say to each other over a link.

use fleetvisor_proto::fleet::{Delta, HostState, Observed, RunState, StatusRequest};

use super::*;
use crate::desired;
use crate::reconcile::Run;

const WEB: [(&str, &str); 2] = [("web", "web_00"), ("web", "web_01")];

/// Wishes that `web_00` is stopped.
async fn stop(store: &dyn Store, host: &str) -> Vec<crate::reconcile::Wish> {
    let transaction = desired::put(Transaction::default(), host, &[web_00()], Run::Stopped, "operator x");
    let revision = store.commit(transaction).await.unwrap();
    vec![crate::reconcile::Wish { name: web_00(), run: Run::Stopped, revision }]
}

fn web_00() -> ProcessName {
    ProcessName::new("web", "web_00")
}

#[tokio::test]
async fn a_linked_host_is_seen_with_what_it_reports() {
    let served = Served::new().await;
    let (agent, desired) = served.agent("web-01", &WEB).await;
    assert!(desired.complete && desired.processes.is_empty() && desired.revision == 0);
    let host = served.list().await.remove(0);
    assert_eq!((host.state(), host.running, host.total), (HostState::Online, 2, 2));
    assert_eq!((host.version.as_str(), host.labels["role"].as_str()), ("0.1.0", "web"));
    assert!(host.address.starts_with("127.0.0.1:"));

    let mut stopped = running("web", "web_00");
    stopped.state = ProcessState::Stopped.code();
    let delta = Delta { seq: 2, changed: vec![stopped, running("app", "app")], removed: Vec::new() };
    agent.say(from_host::Message::Delta(delta)).await;
    served.until("web-01", |host| (host.running, host.total) == (2, 3)).await;

    drop(agent);
    served.until("web-01", |host| host.state() == HostState::Away && host.total == 3).await;
}

#[tokio::test]
async fn a_gap_is_answered_by_a_request_for_all_and_what_came_with_it_is_not_believed() {
    let served = Served::new().await;
    let (mut agent, _) = served.agent("web-01", &WEB).await;
    let removed = vec![(&web_00()).into()];
    agent
        .say(from_host::Message::Delta(Delta { seq: 3, changed: Vec::new(), removed: removed.clone() }))
        .await;
    assert!(matches!(agent.hear().await, to_host::Message::ReportRequest(_)));
    agent.say(from_host::Message::Delta(Delta { seq: 4, changed: Vec::new(), removed })).await;
    agent.say(from_host::Message::Report(report(9, &[("web", "web_00"), ("a", "a"), ("b", "b")]))).await;
    served.until("web-01", |host| host.total == 3).await;
    let delta = Delta { seq: 10, changed: vec![running("c", "c")], removed: Vec::new() };
    agent.say(from_host::Message::Delta(delta)).await;
    served.until("web-01", |host| host.total == 4).await;
}

#[tokio::test]
async fn a_second_agent_of_the_same_name_is_refused_and_the_first_stays() {
    let served = Served::new().await;
    let (agent, _) = served.agent("web-01", &WEB).await;
    let identity = served.host("web-01").await;
    let mut second = Agent::connect(&served, &identity).await;
    second.say(hello("another boot", 0, &[])).await;
    let farewell = second.hear_farewell().await;
    let first = served.list().await.remove(0).address;
    assert!(farewell.reason.contains(&first), "{}", farewell.reason);
    assert_eq!(farewell.reason.matches("127.0.0.1:").count(), 2, "{}", farewell.reason);
    assert!(farewell.retry_after_seconds > 0);
    agent.say(from_host::Message::Report(report(2, &WEB[..1]))).await;
    served.until("web-01", |host| host.state() == HostState::Online && host.total == 1).await;
}

#[tokio::test]
async fn the_same_agent_that_dials_again_replaces_its_own_link() {
    let served = Served::new().await;
    let (mut agent, _) = served.agent("web-01", &WEB).await;
    let (_second, _) = served.agent("web-01", &WEB[..1]).await;
    assert!(agent.hear_farewell().await.reason.contains("linked again"));
    let host = served.list().await.remove(0);
    assert_eq!((host.state(), host.total), (HostState::Online, 1));
}

#[tokio::test]
async fn a_link_that_does_not_begin_with_a_good_hello_is_ended() {
    let served = Served::new().await;
    let identity = served.host("web-01").await;
    let bad_name = hello("boot", 0, &[("web", "a/b")]);
    let messages = [from_host::Message::Report(report(1, &[])), bad_name];
    for (message, reason) in messages.into_iter().zip(["first message", "a/b"]) {
        let mut agent = Agent::connect(&served, &identity).await;
        agent.say(message).await;
        let farewell = agent.hear_farewell().await;
        assert!(farewell.reason.contains(reason), "{}", farewell.reason);
    }
    assert_eq!(served.list().await[0].state(), HostState::NeverSeen);
}

#[tokio::test]
async fn a_silent_link_is_dropped_after_three_heartbeats() {
    let served = Served::new().await;
    let (mut agent, _) = served.agent("web-01", &WEB).await;
    let began = tokio::time::Instant::now();
    assert!(agent.hear_farewell().await.reason.contains("14 seconds"));
    let waited = began.elapsed();
    assert!(waited.as_secs() >= 13, "{waited:?}");
    served.until("web-01", |host| host.state() == HostState::Away).await;
}

#[tokio::test]
async fn a_host_that_returns_is_told_all_that_is_desired() {
    let served = Served::new().await;
    let identity = served.host("web-01").await;
    let store = &*served.controller.store;
    let wish = stop(store, "web-01").await;
    let (agent, desired) = served.agent("web-01", &WEB).await;
    assert!(desired.complete);
    assert_eq!(desired.revision, wish[0].revision);
    assert_eq!(desired.processes[0].run(), RunState::Stopped);
    let revision = desired.revision;
    agent.say(from_host::Message::Observed(Observed { revision })).await;
    served.until("web-01", |host| host.observed_revision == revision).await;
    drop((agent, identity));
}

#[tokio::test]
async fn what_is_desired_reaches_a_linked_host_even_if_no_command_carried_it() {
    let served = Served::new().await;
    let (mut agent, _) = served.agent("web-01", &WEB).await;
    let store = &*served.controller.store;
    let wish = stop(store, "web-01").await;
    served.controller.registry.host("web-01").set_desired(wish[0].revision);
    let desired = agent.hear_desired().await;
    assert!(!desired.complete);
    assert_eq!((desired.revision, desired.processes.len()), (wish[0].revision, 1));
}

#[tokio::test]
async fn a_change_for_one_host_is_nothing_to_the_others() {
    let served = Served::new().await;
    let (mut web, _) = served.agent("web-01", &WEB).await;
    let (mut db, _) = served.agent("db-01", &WEB).await;
    let store = &*served.controller.store;
    for host in ["web-01", "web-01", "db-01"] {
        let wish = stop(store, host).await;
        served.controller.registry.host(host).set_desired(wish[0].revision);
    }
    let last = served.list().await.iter().map(|host| host.desired_revision).max().unwrap();
    // Its own wish is the first thing that the other one hears.
    assert_eq!(db.hear_desired().await.revision, last);
    assert!(web.hear_desired().await.revision < last);
}

#[tokio::test]
async fn a_host_that_dials_again_and_again_is_told_to_wait() {
    let served = Served::new().await;
    let identity = served.host("web-01").await;
    let mut waits = Vec::new();
    // On a slow machine the bucket fills meanwhile.
    for _ in 0..200 {
        let mut agent = Agent::connect(&served, &identity).await;
        agent.say(hello("boot", 0, &WEB)).await;
        if let to_host::Message::Farewell(farewell) = agent.hear().await {
            assert!(farewell.reason.contains("too often"), "{}", farewell.reason);
            waits.push(farewell.retry_after_seconds);
            break;
        }
    }
    assert!(matches!(waits[..], [5..=6]), "{waits:?}");
    // The others are not concerned.
    served.agent("web-02", &WEB).await;
}

#[tokio::test]
async fn a_host_that_says_too_much_is_still_heard_and_delays_nobody() {
    let served = Served::new().await;
    let (chatty, _) = served.agent("web-01", &WEB).await;
    let (quiet, _) = served.agent("web-02", &WEB).await;
    let flood = tokio::spawn(async move {
        for seq in 2.. {
            let delta = Delta { seq, changed: vec![running("web", "web_00"); 100], removed: Vec::new() };
            if chatty
                .outgoing
                .send(FromHost { message: Some(from_host::Message::Delta(delta)) })
                .await
                .is_err()
            {
                return;
            }
        }
    });
    for total in [1, 2] {
        quiet.say(from_host::Message::Report(report(9 + total as u64, &WEB[..total]))).await;
        served.until("web-02", |host| host.total as usize == total).await;
    }
    assert!(served.list().await.iter().all(|host| host.state() == HostState::Online));
    flood.abort();
}

#[tokio::test]
async fn clocks_that_differ_change_nothing() {
    let served = Served::new().await;
    let identity = served.host("web-01").await;
    let mut agent = Agent::connect(&served, &identity).await;
    let before = crate::clock::now();
    for (seq, clock) in [(1, 0), (2, i64::MAX), (3, i64::MIN)] {
        let mut status = running("web", "web_00");
        (status.start, status.stop) = (clock, clock);
        let report = Report { seq, processes: vec![status] };
        match seq {
            1 => {
                let hello = Hello { boot_id: "boot".to_owned(), report: Some(report), ..Hello::default() };
                agent.say(from_host::Message::Hello(hello)).await;
                assert!(matches!(agent.hear().await, to_host::Message::Welcome(_)));
            }
            _ => agent.say(from_host::Message::Report(report)).await,
        }
        let registry = &served.controller.registry;
        let shown =
            || registry.host("web-01").processes().pop().map(|process| (process.start, process.uptime_ms));
        served.until("web-01", |_| shown().is_some_and(|(start, _)| start == clock)).await;
        // Time counts from when the report was heard.
        assert!(shown().is_some_and(|(_, uptime)| (1_000..60_000).contains(&uptime)), "{:?}", shown());
        let host = served.list().await.remove(0);
        assert!(host.since >= before.0 && host.since <= crate::clock::now().0);
        assert!(host.report_age_ms < 60_000, "{host:?}");
    }
}

#[tokio::test]
async fn a_new_controller_knows_the_names_and_says_that_it_knows_no_more() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let first = Served::on(store.clone()).await;
    let (agent, _) = first.agent("web-01", &WEB).await;
    let until_stored = async {
        while store.get(&records::inventory_key("web-01")).await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, until_stored).await.unwrap();
    first.stop.send_replace(Some(2));
    drop(agent);

    let second = Served::on(store).await;
    let mut client = second.operator(Role::Viewer).await;
    let mut statuses = client.status(StatusRequest::default()).await.unwrap().into_inner();
    let status = statuses.message().await.unwrap().unwrap();
    assert_eq!(status.host.as_ref().unwrap().state(), HostState::Away);
    assert_eq!(status.processes.len(), 2);
    assert!(status.processes.iter().all(|process| process.process_state() == ProcessState::Unknown));
}

#[tokio::test]
async fn a_controller_that_stops_says_farewell() {
    let served = Served::new().await;
    let (mut agent, _) = served.agent("web-01", &WEB).await;
    served.stop.send_replace(Some(3));
    let farewell = agent.hear_farewell().await;
    assert!(farewell.reason.contains("stopping"));
    assert!((1..=3).contains(&farewell.retry_after_seconds));
}
