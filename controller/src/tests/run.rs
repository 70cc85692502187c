//! Start, stop and restart from the operator to the host and back.

use fleetvisor_proto::fleet::{
    CommandDone, HostDone, HostResult, HostState, Outcome, Progress, RunEvent, RunRequest, RunState, Scope,
    Target, Verb, run_event,
};

use super::*;

const WEB: [(&str, &str); 3] = [("web", "web_00"), ("web", "web_01"), ("db", "db")];

fn request(verb: Verb, group: &str) -> RunRequest {
    let target = Target { host: String::new(), group: group.to_owned(), process: String::new() };
    RunRequest { scope: None, targets: vec![target], verb: verb.into(), timeout_seconds: 20 }
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
        assert_eq!(self.next().await, None);
        (done.result(), done.reason)
    }
}

impl Agent {
    async fn answer(&self, command: &Command, outcome: Outcome) {
        for name in &command.processes {
            let progress = Progress {
                id: command.id.clone(),
                name: Some(name.clone()),
                outcome: outcome.into(),
                text: "restarted".to_owned(),
                status: None,
            };
            self.say(from_host::Message::Progress(progress)).await;
        }
        self.say(from_host::Message::CommandDone(CommandDone { id: command.id.clone() })).await;
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
                assert_eq!(
                    (step.host.as_str(), step.progress.unwrap().text.as_str()),
                    ("web-01", "restarted")
                );
                progress += 1;
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

    let restart = Followed::new(&served, request(Verb::Restart, "web")).await.only_done().await;
    assert_eq!(restart, (HostResult::Away, format!("away since {away}, not restarted")));
    let stop = Followed::new(&served, request(Verb::Stop, "web")).await.only_done().await;
    assert_eq!(stop, (HostResult::Pending, format!("away since {away}; will stop when it returns")));

    let (_agent, desired) = served.agent("web-01", &WEB).await;
    assert_eq!(desired.processes.len(), 2);
    assert!(desired.processes.iter().all(|process| process.run() == RunState::Stopped));
}

#[tokio::test]
async fn a_host_that_never_linked_is_named_where_all_is_meant() {
    let served = Served::new().await;
    served.host("new").await;
    let done = Followed::new(&served, request(Verb::Start, "*")).await.only_done().await;
    assert_eq!(done, (HostResult::Away, "enrolled, but never linked so far, not started".to_owned()));
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
async fn a_host_that_goes_away_meanwhile_has_failed_and_a_slow_one_runs_out_of_time() {
    let served = Served::new().await;
    let (mut agent, _) = served.agent("web-01", &WEB).await;
    let mut followed = Followed::new(&served, request(Verb::Restart, "web")).await;
    agent.hear_command().await;
    drop(agent);
    let (result, reason) = followed.only_done().await;
    assert_eq!(result, HostResult::Failed);
    assert_eq!(reason, "went away during the command; no answer for web:web_00, web:web_01");

    let (mut agent, _) = served.agent("web-01", &WEB).await;
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
    let all = served.controller.runs.clone();
    let ended = async {
        while all.available_permits() < 64 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, ended).await.unwrap();
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
