//! Operations from the operator to the host and back.

use fleetvisor_proto::fleet::{
    CommandDone, HostDone, HostResult, HostState, Operation, OperationRequest, OperationState, Outcome,
    ProcessResult, Progress, RunEvent, RunRequest, RunState, Scope, Strategy, Target, Verb, run_event,
};

use std::collections::BTreeMap;

use super::*;

const WEB: [(&str, &str); 3] = [("web", "web_00"), ("web", "web_01"), ("db", "db")];

fn request(verb: Verb, group: &str) -> RunRequest {
    let target = Target { host: String::new(), group: group.to_owned(), process: String::new() };
    RunRequest { targets: vec![target], verb: verb.into(), timeout_seconds: 20, ..RunRequest::default() }
}

/// An operation as its caller follows it.
struct Followed(Streaming<RunEvent>);

impl Followed {
    async fn new(served: &Served, request: RunRequest) -> Followed {
        let mut client = served.operator(Role::Operator).await;
        Followed(client.run(request).await.unwrap().into_inner())
    }

    async fn next(&mut self) -> Option<run_event::Event> {
        let event = timeout(PATIENCE, self.0.message()).await.expect("no event").unwrap();
        event.map(|event| event.event.unwrap())
    }

    async fn hosts(&mut self) -> Vec<String> {
        match self.next().await {
            Some(run_event::Event::Started(started)) => started.hosts,
            other => panic!("{other:?}"),
        }
    }

    /// The next end of a host, over what comes before it.
    async fn done(&mut self) -> HostDone {
        loop {
            match self.next().await {
                Some(run_event::Event::HostDone(done)) => return done,
                Some(_) => {}
                None => panic!("the operation has ended"),
            }
        }
    }

    /// One host's end, and then the operation's.
    async fn only_done(&mut self) -> (HostResult, String) {
        let done = self.done().await;
        self.end().await;
        (done.result(), done.reason)
    }

    /// The end of this host, over what comes before it.
    async fn done_of(&mut self, host: &str) -> (HostResult, String) {
        loop {
            let done = self.done().await;
            if done.host.as_ref().is_some_and(|done| done.name == host) {
                return (done.result(), done.reason);
            }
        }
    }

    /// The end of what is to be heard, with the state that was told last.
    async fn end(&mut self) -> Option<Operation> {
        let mut last = None;
        while let Some(event) = self.next().await {
            match event {
                run_event::Event::Operation(operation) => last = Some(operation),
                run_event::Event::HostDone(done) => panic!("{done:?}"),
                _ => {}
            }
        }
        last
    }
}

impl Served {
    async fn operations(&self) -> Vec<Operation> {
        let mut client = self.operator(Role::Viewer).await;
        client.list_operations(fleet::ListOperationsRequest::default()).await.unwrap().into_inner().operations
    }

    async fn until_none_is_under_way(&self) {
        let ended = async {
            while self.controller.operations.under_way() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(PATIENCE, ended).await.is_err() {
            panic!("{:?}", self.operations().await);
        }
    }

    /// The only operation, once it is in this state.
    async fn until_operation(&self, state: OperationState) -> Operation {
        let reached = async {
            loop {
                let operation = self.operations().await.remove(0);
                if operation.state() == state {
                    return operation;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, reached).await.expect("the state")
    }
}

impl Agent {
    async fn answer(&self, command: &Command, outcome: Outcome) {
        let result = |name: &fleet::ProcessName| ProcessResult {
            name: Some(name.clone()),
            outcome: outcome.into(),
            text: "restarted".to_owned(),
        };
        let results = command.processes.iter().map(result).collect();
        self.say(from_host::Message::Progress(Progress { id: command.id.clone(), results })).await;
        let done = CommandDone { id: command.id.clone(), ..CommandDone::default() };
        self.say(from_host::Message::CommandDone(done)).await;
    }
}

#[tokio::test]
async fn a_restart_reaches_every_host_and_comes_back_process_by_process() {
    let served = Served::new().await;
    let (mut one, _) = served.agent("web-01", &WEB).await;
    let (mut two, _) = served.agent("web-02", &WEB[..2]).await;
    let (_other, _) = served.agent("db-01", &WEB[2..]).await;
    let mut followed = Followed::new(&served, request(Verb::Restart, "web")).await;
    assert_eq!(followed.hosts().await, ["web-01", "web-02"]);

    let command = one.hear_command().await;
    assert_eq!((command.verb(), command.by.as_str()), (Verb::Restart, "operator a-operator"));
    assert!(command.desired.is_none());
    assert!(command.processes.iter().all(|name| name.group == "web") && command.processes.len() == 2);
    one.answer(&command, Outcome::Done).await;
    // The other host has not even begun.
    let mut progress = 0;
    let done = loop {
        match followed.next().await.unwrap() {
            run_event::Event::Progress(step) => {
                assert_eq!(step.host, "web-01");
                assert!(step.results.iter().all(|result| result.text == "restarted"));
                progress += step.results.len();
            }
            run_event::Event::HostDone(done) => break done,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((done.result(), progress), (HostResult::Ok, 2));
    let command = two.hear_command().await;
    two.answer(&command, Outcome::Unchanged).await;
    assert_eq!(followed.only_done().await, (HostResult::Ok, String::new()));
}

#[tokio::test]
async fn a_stop_is_stored_before_it_is_sent() {
    let served = Served::new().await;
    let (mut agent, _) = served.agent("web-01", &WEB).await;
    let mut followed = Followed::new(&served, request(Verb::Stop, "web")).await;
    let command = agent.hear_command().await;
    let stored = served.controller.store.list(&records::desired_prefix("web-01")).await.unwrap().records;
    assert_eq!(stored.len(), 2);
    let desired = command.desired.clone().unwrap();
    assert!(!desired.complete && desired.revision == stored[0].1.revision);
    assert!(desired.processes.iter().all(|process| process.run() == RunState::Stopped));
    agent.answer(&command, Outcome::Done).await;
    assert_eq!(followed.only_done().await.0, HostResult::Ok);

    // A restart undoes it, and only where there is something to undo.
    let mut followed = Followed::new(&served, request(Verb::Restart, "*")).await;
    let command = agent.hear_command().await;
    assert_eq!(command.processes.len(), 3);
    let desired = command.desired.clone().unwrap();
    assert_eq!(desired.processes.len(), 2);
    assert!(desired.processes.iter().all(|process| process.run() == RunState::Started));
    agent.answer(&command, Outcome::Done).await;
    assert_eq!(followed.only_done().await.0, HostResult::Ok);
}

#[tokio::test]
async fn a_host_that_is_away_is_named_and_catches_up_with_what_is_remembered() {
    let served = Served::new().await;
    let (agent, _) = served.agent("web-01", &WEB).await;
    drop(agent);
    served.until("web-01", |host| host.state() == HostState::Away).await;
    let away = since(&served.list().await[0]);

    let (result, reason) = Followed::new(&served, request(Verb::Restart, "web")).await.only_done().await;
    assert_eq!(result, HostResult::Pending);
    let expected = format!("away since {away}; will restart if it returns before ");
    assert!(reason.starts_with(&expected), "{reason}");
    let (result, reason) = Followed::new(&served, request(Verb::Stop, "db")).await.only_done().await;
    assert_eq!(
        (result, reason),
        (HostResult::Pending, format!("away since {away}; will stop when it returns"))
    );

    let (mut agent, desired) = served.agent("web-01", &WEB).await;
    assert_eq!(desired.processes.len(), 1);
    assert!(desired.processes.iter().all(|process| process.run() == RunState::Stopped));
    let mut verbs = Vec::new();
    for _ in 0..2 {
        let command = agent.hear_command().await;
        verbs.push((command.verb(), command.processes.len()));
        agent.answer(&command, Outcome::Done).await;
    }
    verbs.sort_by_key(|(verb, _)| i32::from(*verb));
    assert_eq!(verbs, [(Verb::Stop, 1), (Verb::Restart, 2)]);
    served.until_none_is_under_way().await;
    for operation in served.operations().await {
        assert_eq!((operation.state(), operation.ok), (OperationState::Finished, 1), "{operation:?}");
    }
}

#[tokio::test]
async fn a_host_that_never_linked_is_named_where_all_is_meant() {
    let served = Served::new().await;
    served.host("new").await;
    let done = Followed::new(&served, request(Verb::Start, "*")).await.only_done().await;
    assert_eq!(done, (HostResult::Away, "enrolled, but never linked so far, not started".to_owned()));
}

#[tokio::test]
async fn nobody_waits_for_a_host_that_is_revoked() {
    let served = Served::new().await;
    let (away, _) = served.agent("web-01", &WEB).await;
    drop(away);
    served.until("web-01", |host| host.state() == HostState::Away).await;
    let (mut agent, _) = served.agent("web-02", &WEB).await;
    let mut followed = Followed::new(&served, request(Verb::Restart, "web")).await;
    agent.hear_command().await;
    let mut admin = served.operator(Role::Admin).await;
    for host in ["web-01", "web-02"] {
        admin.revoke_host(fleet::HostRequest { host: host.to_owned() }).await.unwrap();
    }
    let mut results = BTreeMap::new();
    for _ in 0..2 {
        let done = followed.done().await;
        assert_eq!(done.result(), HostResult::Refused);
        results.insert(done.host.unwrap().name, done.reason);
    }
    assert_eq!(results["web-01"], "revoked, and refused until it enrols anew; not restarted");
    assert_eq!(results["web-02"], "revoked during the command; what became of it is not known");
    assert_eq!(followed.end().await.map(|operation| operation.state()), Some(OperationState::Finished));

    // Nothing is remembered for it either.
    let (result, _) = Followed::new(&served, request(Verb::Stop, "web")).await.done_of("web-01").await;
    assert_eq!(result, HostResult::Refused);
    let wishes = served.controller.store.list(&records::desired_prefix("web-01")).await.unwrap();
    assert!(wishes.records.is_empty());
}

#[tokio::test]
async fn failures_and_missing_answers_are_the_hosts_result() {
    let served = Served::new().await;
    let (mut agent, _) = served.agent("web-01", &WEB).await;
    let mut followed = Followed::new(&served, request(Verb::Restart, "web")).await;
    let command = agent.hear_command().await;
    agent.answer(&command, Outcome::Failed).await;
    assert_eq!(followed.only_done().await, (HostResult::Failed, "2 of 2 failed".to_owned()));

    let mut followed = Followed::new(&served, request(Verb::Restart, "web")).await;
    let mut command = agent.hear_command().await;
    command.processes.pop();
    agent.answer(&command, Outcome::Done).await;
    let reason = "no answer for web:web_01".to_owned();
    assert_eq!(followed.only_done().await, (HostResult::Failed, reason));

    // Answers that nobody asked for are not passed on.
    let mut followed = Followed::new(&served, request(Verb::Restart, "db")).await;
    let mut command = agent.hear_command().await;
    command.processes.push(fleet::ProcessName { group: "x".to_owned(), process: "y".to_owned() });
    agent.answer(&command, Outcome::Done).await;
    assert_eq!(followed.only_done().await, (HostResult::Ok, String::new()));
}

#[tokio::test]
async fn a_host_that_goes_away_meanwhile_is_asked_again_and_a_slow_one_runs_out_of_time() {
    let served = Served::new().await;
    let (mut agent, _) = served.agent("web-01", &WEB).await;
    let mut followed = Followed::new(&served, request(Verb::Restart, "web")).await;
    let first = agent.hear_command().await;
    drop(agent);
    let (result, reason) = followed.only_done().await;
    assert_eq!(result, HostResult::Pending);
    assert!(reason.starts_with("went away during the command"), "{reason}");
    // It is asked again under the same id, and tells what it did.
    let (mut agent, _) = served.agent("web-01", &WEB).await;
    let again = agent.hear_command().await;
    assert_eq!((&again.id, again.recall), (&first.id, false));
    agent.answer(&again, Outcome::Done).await;
    served.until_none_is_under_way().await;

    let slow = RunRequest { timeout_seconds: 1, ..request(Verb::Restart, "web") };
    let mut followed = Followed::new(&served, slow).await;
    agent.hear_command().await;
    let (result, reason) = followed.only_done().await;
    assert_eq!(result, HostResult::TimedOut);
    assert_eq!(reason, "no answer for web:web_00, web:web_01 within 1 s");
}

#[tokio::test]
async fn it_goes_on_when_its_caller_is_gone() {
    let served = Served::new().await;
    let (mut agent, _) = served.agent("web-01", &WEB).await;
    let followed = Followed::new(&served, request(Verb::Stop, "web")).await;
    drop(followed);
    let command = agent.hear_command().await;
    assert_eq!(command.processes.len(), 2);
    agent.answer(&command, Outcome::Done).await;
    served.until_none_is_under_way().await;
}

#[tokio::test]
async fn a_target_that_means_nothing_is_told() {
    let served = Served::new().await;
    let (_agent, _) = served.agent("web-01", &WEB).await;
    let mut followed = Followed::new(&served, request(Verb::Stop, "nope")).await;
    assert!(followed.hosts().await.is_empty());
    match followed.next().await {
        Some(run_event::Event::Unmatched(target)) => assert_eq!(target.to_string(), "nope:*"),
        other => panic!("{other:?}"),
    }
    assert_eq!(followed.next().await, None);
    assert!(served.operations().await.is_empty(), "nothing is recorded where nothing is meant");
    let scoped = RunRequest {
        scope: Some(Scope { hosts: Vec::new(), labels: "role!=web".to_owned() }),
        ..request(Verb::Stop, "web")
    };
    assert!(Followed::new(&served, scoped).await.hosts().await.is_empty());
}

#[tokio::test]
async fn wishes_reach_a_host_in_the_order_of_their_revisions() {
    let served = Served::new().await;
    let (mut agent, _) = served.agent("web-01", &WEB).await;
    let client = served.operator(Role::Operator).await;
    for n in 0..40 {
        let (mut client, verb) = (client.clone(), if n % 2 == 0 { Verb::Stop } else { Verb::Start });
        tokio::spawn(async move { client.run(request(verb, "web")).await.map(drop) });
    }
    let mut last = 0;
    for _ in 0..40 {
        let command = agent.hear_command().await;
        let revision = command.desired.as_ref().unwrap().revision;
        assert!(revision > last, "{revision} after {last}");
        last = revision;
    }
    let host = served.list().await.remove(0);
    assert_eq!(host.desired_revision, last);
}

fn canary(verb: Verb) -> RunRequest {
    let strategy = Strategy { canary: 1, ..Strategy::default() };
    RunRequest { strategy: Some(strategy), ..request(verb, "web") }
}

#[tokio::test]
async fn a_canary_that_fails_stops_the_rollout_until_it_is_resumed() {
    let served = Served::new().await;
    let (mut one, _) = served.agent("web-01", &WEB).await;
    let (mut two, _) = served.agent("web-02", &WEB).await;
    let mut followed = Followed::new(&served, canary(Verb::Stop)).await;
    let command = one.hear_command().await;
    one.answer(&command, Outcome::Failed).await;
    let mut results = BTreeMap::new();
    let mut state = None;
    while let Some(event) = followed.next().await {
        match event {
            run_event::Event::HostDone(done) => {
                results.insert(done.host.clone().unwrap().name, done.result());
            }
            run_event::Event::Operation(operation) => state = Some(operation),
            _ => {}
        }
    }
    let expected = [("web-01", HostResult::Failed), ("web-02", HostResult::NotBegun)];
    assert_eq!(results, expected.map(|(host, result)| (host.to_owned(), result)).into());
    let state = state.unwrap();
    assert_eq!(state.state(), OperationState::Stopped);
    assert!(state.reason.contains("1 failed (web-01)"), "{}", state.reason);
    let wished = served.controller.store.list(&records::desired_prefix("web-02")).await.unwrap().records;
    assert!(wished.is_empty(), "what has not begun is not wished either");

    let mut client = served.operator(Role::Operator).await;
    let request = || OperationRequest { id: state.id[..8].to_owned() };
    let resumed = client.resume_operation(request()).await.unwrap().into_inner();
    assert_eq!(resumed.state(), OperationState::Running);
    let command = two.hear_command().await;
    assert_eq!(command.id, state.id);
    two.answer(&command, Outcome::Done).await;
    let finished = served.until_operation(OperationState::Finished).await;
    assert_eq!((finished.ok, finished.failed), (1, 1));
    assert!(client.resume_operation(request()).await.is_err());
}

#[tokio::test]
async fn a_cancelled_operation_touches_nobody_else_and_takes_back_what_nobody_heard() {
    let served = Served::new().await;
    let (mut one, _) = served.agent("web-01", &WEB).await;
    let (two, _) = served.agent("web-02", &WEB).await;
    drop(two);
    served.until("web-02", |host| host.state() == HostState::Away).await;
    let _followed = Followed::new(&served, request(Verb::Stop, "web")).await;
    let command = one.hear_command().await;
    let wished = async || {
        served.controller.store.list(&records::desired_prefix("web-02")).await.unwrap().records.len()
    };
    assert_eq!(wished().await, 2);
    let mut client = served.operator(Role::Operator).await;
    let cancelled = client.cancel_operation(OperationRequest { id: command.id.clone() }).await.unwrap();
    assert_eq!(cancelled.into_inner().state(), OperationState::Cancelled);
    assert_eq!(wished().await, 0);
    one.answer(&command, Outcome::Done).await;
    served.until_none_is_under_way().await;
    let (_two, desired) = served.agent("web-02", &WEB).await;
    assert!(desired.processes.is_empty());
}

#[tokio::test]
async fn the_next_controller_goes_on_where_the_last_one_was_killed() {
    let store = Arc::new(MemoryStore::default());
    let first = Served::on(store.clone()).await;
    let (mut one, _) = first.agent("web-01", &WEB).await;
    let (_two, _) = first.agent("web-02", &WEB).await;
    let _followed = Followed::new(&first, canary(Verb::Restart)).await;
    let begun = one.hear_command().await;
    // Nothing that the first one does from here on can matter.
    first.controller.operations.abandon();

    let second = Served::on(store).await;
    let (mut one, _) = second.agent("web-01", &WEB).await;
    let (mut two, _) = second.agent("web-02", &WEB).await;
    let again = one.hear_command().await;
    assert_eq!(again.id, begun.id);
    one.answer(&again, Outcome::Done).await;
    let command = two.hear_command().await;
    assert_eq!(command.id, begun.id);
    two.answer(&command, Outcome::Done).await;
    let finished = second.until_operation(OperationState::Finished).await;
    assert_eq!(finished.ok, 2);
}

#[tokio::test]
async fn who_does_not_return_in_time_does_not_begin() {
    let served = Served::new().await;
    let (agent, _) = served.agent("web-01", &WEB).await;
    drop(agent);
    served.until("web-01", |host| host.state() == HostState::Away).await;
    for verb in [Verb::Restart, Verb::Stop] {
        Followed::new(&served, RunRequest { expire_seconds: 1, ..request(verb, "web") }).await;
    }
    served.until_none_is_under_way().await;
    let (_agent, desired) = served.agent("web-01", &WEB).await;
    assert!(desired.processes.is_empty(), "the stop was withdrawn");
    for operation in served.operations().await {
        let mut client = served.operator(Role::Viewer).await;
        let request = OperationRequest { id: operation.id };
        let mut parts = client.show_operation(request).await.unwrap().into_inner();
        let mut results = Vec::new();
        while let Some(part) = parts.message().await.unwrap() {
            if let Some(fleet::operation_part::Part::Host(host)) = part.part {
                results.push(host.result());
            }
        }
        assert_eq!(results, [HostResult::Expired]);
    }
}
