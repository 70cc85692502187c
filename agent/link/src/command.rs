//! Carries out the commands of an operator, each at most once, and words what became of it in each process. A
//! command goes on whatever becomes of the link that brought it: a later link that brings it again hears what has
//! been told so far, and the rest.

use std::collections::HashMap;
use std::sync::Arc;

use fleetvisor_core::request::{self, Processes, Refusal};
use fleetvisor_model::config::LogLevel;
use fleetvisor_model::name::ProcessName;
use fleetvisor_model::signal::Signal;
use fleetvisor_proto::convert::process_name;
use fleetvisor_proto::fleet::{
    Command, CommandDone, FromHost, Outcome, ProcessResult, Progress, Verb, from_host,
};
use tokio::sync::{Mutex, mpsc};

use crate::daemon::Daemon;
use crate::journal::{Journal, JournalError, Known, Told};
use crate::membership::{LinkError, Membership};

const INTERRUPTED: &str = "the daemon ended while it carried this out";
/// Processes that are told of in one message at most.
const TOGETHER: usize = 256;

/// Commands of this host: those under way, and what is known of others.
#[derive(Debug)]
pub(crate) struct Commands(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    journal: Arc<std::sync::Mutex<Journal>>,
    running: HashMap<String, Running>,
}

/// A command under way: what was told of it, and to whom.
#[derive(Debug, Default)]
struct Running {
    told: Vec<ProcessResult>,
    links: Vec<mpsc::Sender<FromHost>>,
}

/// What is to be done about a command that came in.
#[derive(Debug)]
enum Verdict {
    Begin,
    /// It was told before; this is all there is, for now or for good.
    Repeat {
        told: Vec<ProcessResult>,
        done: Option<CommandDone>,
    },
}

impl Commands {
    pub(crate) fn new(journal: Journal) -> Commands {
        let journal = Arc::new(std::sync::Mutex::new(journal));
        Commands(Mutex::new(Inner { journal, running: HashMap::new() }))
    }

    pub(crate) async fn are_under_way(&self) -> bool {
        !self.0.lock().await.running.is_empty()
    }

    /// Decides, and writes down what is begun before it is acted on.
    async fn judge(
        &self,
        id: &str,
        recall: bool,
        link: &mpsc::Sender<FromHost>,
    ) -> Result<Verdict, JournalError> {
        let mut inner = self.0.lock().await;
        if let Some(running) = inner.running.get_mut(id) {
            running.links.push(link.clone());
            return Ok(Verdict::Repeat { told: running.told.clone(), done: None });
        }
        let known = lock(&inner.journal).known(id).cloned();
        let done = CommandDone { id: id.to_owned(), ..CommandDone::default() };
        let verdict = match known {
            Some(Known::Begun | Known::Upgrading) => {
                let done = CommandDone { error: INTERRUPTED.to_owned(), ..done };
                Verdict::Repeat { told: Vec::new(), done: Some(done) }
            }
            Some(Known::Done { results, error }) => {
                let told = results.into_iter().map(ProcessResult::from).collect();
                Verdict::Repeat { told, done: Some(CommandDone { error, ..done }) }
            }
            Some(Known::Recalled) => {
                Verdict::Repeat { told: Vec::new(), done: Some(CommandDone { never_begun: true, ..done }) }
            }
            None if recall => {
                inner.write(id, Known::Recalled).await?;
                Verdict::Repeat { told: Vec::new(), done: Some(CommandDone { never_begun: true, ..done }) }
            }
            None => {
                inner.write(id, Known::Begun).await?;
                let running = Running { told: Vec::new(), links: vec![link.clone()] };
                inner.running.insert(id.to_owned(), running);
                Verdict::Begin
            }
        };
        Ok(verdict)
    }

    /// A command after which another release of the daemon answers.
    async fn leave(&self, id: &str) -> Result<(), String> {
        let inner = self.0.lock().await;
        inner.write(id, Known::Upgrading).await.map_err(|error| error.to_string())
    }

    /// Whether a daemon before this one has left by this command, and its outcome is still to be found out.
    async fn has_led_here(&self, id: &str) -> bool {
        let inner = self.0.lock().await;
        let known = lock(&inner.journal).known(id) == Some(&Known::Upgrading);
        known && !inner.running.contains_key(id)
    }

    /// Writes down what an upgrade has come to.
    async fn arrive(&self, id: &str, outcome: Result<String, String>) -> Result<(), JournalError> {
        let (results, error) = match outcome {
            Ok(text) => (vec![Told { name: itself(), outcome: Outcome::Done.into(), text }], String::new()),
            Err(error) => (Vec::new(), error),
        };
        self.0.lock().await.write(id, Known::Done { results, error }).await
    }

    async fn tell(&self, id: &str, results: Vec<ProcessResult>) {
        let links = match self.0.lock().await.running.get_mut(id) {
            Some(running) => {
                running.told.extend(results.iter().cloned());
                running.links.clone()
            }
            None => return,
        };
        for link in links {
            say_results(&link, id, results.clone()).await;
        }
    }

    /// Writes down how it came out, and says that it is done.
    async fn finish(&self, id: &str, error: String) -> Result<(), JournalError> {
        let mut inner = self.0.lock().await;
        let Some(running) = inner.running.remove(id) else { return Ok(()) };
        let results = running.told.iter().filter_map(told).collect();
        let written = inner.write(id, Known::Done { results, error: error.clone() }).await;
        drop(inner);
        for link in running.links {
            let done = CommandDone { id: id.to_owned(), never_begun: false, error: error.clone() };
            say(&link, from_host::Message::CommandDone(done)).await;
        }
        written
    }
}

/// Tells what became of parts of one command.
struct Teller<'a> {
    commands: &'a Commands,
    id: &'a str,
}

impl Teller<'_> {
    async fn tell(&self, name: ProcessName, outcome: Outcome, text: String) {
        self.commands.tell(self.id, vec![result(&name, outcome, text)]).await;
    }
}

impl Inner {
    /// The disk may be slow, and the thread is everybody's.
    async fn write(&self, id: &str, is: Known) -> Result<(), JournalError> {
        let (journal, id) = (self.journal.clone(), id.to_owned());
        match tokio::task::spawn_blocking(move || lock(&journal).write(&id, is)).await {
            Ok(written) => written,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}

fn lock(journal: &std::sync::Mutex<Journal>) -> std::sync::MutexGuard<'_, Journal> {
    journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// In whose name the outcome of an upgrade is told.
fn itself() -> ProcessName {
    ProcessName::new("supervisord", "supervisord")
}

fn told(result: &ProcessResult) -> Option<Told> {
    let name = process_name(result.name.clone()).ok()?;
    Some(Told { name, outcome: result.outcome, text: result.text.clone() })
}

impl From<Told> for ProcessResult {
    fn from(Told { name, outcome, text }: Told) -> ProcessResult {
        ProcessResult { name: Some((&name).into()), outcome, text }
    }
}

fn result(name: &ProcessName, outcome: Outcome, text: String) -> ProcessResult {
    ProcessResult { name: Some(name.into()), outcome: outcome.into(), text }
}

/// Answers go to `link` as they come about; the end is always said.
pub(crate) async fn carry_out<D: Daemon>(
    membership: &Membership<D>,
    command: Command,
    link: &mpsc::Sender<FromHost>,
) -> Result<(), LinkError> {
    if membership.commands.has_led_here(&command.id).await {
        let outcome = membership.daemon.upgraded().await?;
        membership.commands.arrive(&command.id, outcome).await?;
    }
    match membership.commands.judge(&command.id, command.recall, link).await {
        Ok(Verdict::Begin) => {}
        Ok(Verdict::Repeat { told, done }) => {
            for some in told.chunks(TOGETHER) {
                say_results(link, &command.id, some.to_vec()).await;
            }
            if let Some(done) = done {
                say(link, from_host::Message::CommandDone(done)).await;
            }
            return Ok(());
        }
        // What cannot be written down could be done twice, so it is not done.
        Err(error) => {
            let done = CommandDone {
                id: command.id,
                never_begun: false,
                error: format!("nothing was done: {error}"),
            };
            say(link, from_host::Message::CommandDone(done)).await;
            return Err(error.into());
        }
    }
    let line = format!("fleet: {} asks to {} (operation {})", command.by, shown(&command), command.id);
    membership.daemon.log(LogLevel::Info, line);
    let error = match perform(membership, &command, link).await {
        Ok(()) => String::new(),
        Err(Failed::Refused(reason)) => reason,
        Err(Failed::Link(error)) => {
            membership.commands.finish(&command.id, error.to_string()).await?;
            return Err(error);
        }
    };
    Ok(membership.commands.finish(&command.id, error).await?)
}

/// Why a command as a whole came to nothing.
enum Failed {
    Refused(String),
    Link(LinkError),
}

impl<E: Into<LinkError>> From<E> for Failed {
    fn from(error: E) -> Failed {
        Failed::Link(error.into())
    }
}

async fn perform<D: Daemon>(
    membership: &Membership<D>,
    command: &Command,
    link: &mpsc::Sender<FromHost>,
) -> Result<(), Failed> {
    if let Some(desired) = &command.desired {
        membership.remember(desired.clone(), link).await?;
    }
    let teller = Teller { commands: &membership.commands, id: &command.id };
    let verb = match command.verb() {
        Verb::Unspecified | Verb::Apply => {
            return Err(Failed::Refused("this version does not know the verb".to_owned()));
        }
        Verb::Start => request::Verb::Start { wait: true },
        Verb::Stop => request::Verb::Stop { wait: true },
        Verb::Restart => request::Verb::Restart,
        Verb::Signal => {
            let refused = || Failed::Refused(format!("{} is no signal here", command.signal));
            request::Verb::Signal(Signal::from_name(&command.signal).ok_or_else(refused)?)
        }
        Verb::Update => {
            let (tell, mut told) = mpsc::unbounded_channel();
            let updating = membership.daemon.update_groups(command.groups.clone(), tell);
            let (updated, ()) = tokio::join!(updating, async {
                while let Some((name, outcome)) = told.recv().await {
                    match outcome {
                        Ok(text) => teller.tell(name, Outcome::Done, text).await,
                        Err(text) => teller.tell(name, Outcome::Failed, text).await,
                    }
                }
            });
            return updated?.map_err(Failed::Refused);
        }
        Verb::Upgrade => {
            let unchanged = membership.daemon.upgrade(membership.commands.leave(&command.id)).await?;
            teller.tell(itself(), Outcome::Unchanged, unchanged.map_err(Failed::Refused)?).await;
            return Ok(());
        }
    };
    let wished = command.desired.as_ref().map_or(0, |desired| desired.revision);
    let mut names = Vec::new();
    for name in command.processes.iter().filter_map(|name| process_name(Some(name.clone())).ok()) {
        // What was wished later is so already, or about to be.
        if wished > 0 && membership.wishes.lock().await.is_wished_later(&name, wished) {
            let text = "left alone: something else was asked for later".to_owned();
            teller.tell(name, Outcome::Unchanged, text).await;
        } else {
            names.push(name);
        }
    }
    let _asked = membership.events.asked(&names, &command.by);
    let mut outcomes = membership.daemon.verb(verb, Processes::Named(names))?;
    // What has come about together is told together.
    let mut some = Vec::new();
    while outcomes.recv_many(&mut some, TOGETHER).await > 0 {
        let results = some.drain(..).map(|(name, outcome)| {
            let (outcome, text) = worded(verb, outcome);
            result(&name, outcome, text)
        });
        membership.commands.tell(&command.id, results.collect()).await;
    }
    Ok(())
}

/// A link that is gone has nobody to hear it; what was asked has been done all the same.
pub(crate) async fn say(link: &mpsc::Sender<FromHost>, message: from_host::Message) {
    let _ = link.send(FromHost { message: Some(message) }).await;
}

async fn say_results(link: &mpsc::Sender<FromHost>, id: &str, results: Vec<ProcessResult>) {
    say(link, from_host::Message::Progress(Progress { id: id.to_owned(), results })).await;
}

/// `restart web:web_00 web:web_01`.
fn shown(command: &Command) -> String {
    let processes = command.processes.iter().filter_map(|name| process_name(Some(name.clone())).ok());
    let mut words = vec![command.verb().word().to_owned()];
    words.extend((!command.signal.is_empty()).then(|| command.signal.clone()));
    words.extend(processes.map(|name| name.to_string()));
    words.extend(command.groups.iter().cloned());
    words.join(" ")
}

/// As supervisorctl words it.
fn worded(verb: request::Verb, outcome: request::Outcome) -> (Outcome, String) {
    let done = match verb {
        request::Verb::Start { .. } => "started",
        request::Verb::Stop { .. } => "stopped",
        request::Verb::Restart => "restarted",
        request::Verb::Signal(_) => "signalled",
    };
    match outcome {
        Ok(()) => (Outcome::Done, done.to_owned()),
        Err(Refusal::AlreadyStarted) => (Outcome::Unchanged, "already started".to_owned()),
        Err(Refusal::NotRunning) if matches!(verb, request::Verb::Stop { .. }) => {
            (Outcome::Unchanged, "not running".to_owned())
        }
        Err(refusal) => (Outcome::Failed, refused(refusal)),
    }
}

/// `ERROR (no such process)`.
pub fn refused(refusal: Refusal) -> String {
    let reason = match &refusal {
        Refusal::AlreadyStarted => "already started",
        Refusal::NotRunning => "not running",
        Refusal::BadName => "no such process",
        Refusal::NoFile(_) => "no such file",
        Refusal::NotExecutable(_) => "file is not executable",
        Refusal::SpawnError => "spawn error",
        Refusal::AbnormalTermination => "abnormal termination",
        Refusal::AlreadyAdded => "process group already active",
        Refusal::StillRunning => "process group still has running processes",
        Refusal::ShutdownState => "the daemon is shutting down",
        Refusal::Failed(reason) => reason,
    };
    format!("ERROR ({reason})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(folder: &std::path::Path) -> Commands {
        Commands::new(Journal::open(folder).unwrap())
    }

    async fn judge(commands: &Commands, id: &str, recall: bool) -> Verdict {
        commands.judge(id, recall, &mpsc::channel(9).0).await.unwrap()
    }

    fn restarted() -> ProcessResult {
        result(&ProcessName::new("web", "web"), Outcome::Done, "restarted".to_owned())
    }

    #[tokio::test]
    async fn a_command_begins_once_and_a_repeat_hears_what_became_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let commands = commands(folder.path());
        assert!(matches!(judge(&commands, "a", false).await, Verdict::Begin));
        commands.tell("a", vec![restarted()]).await;
        let (link, mut heard) = mpsc::channel(9);
        match commands.judge("a", false, &link).await.unwrap() {
            Verdict::Repeat { told, done: None } => assert_eq!(told, [restarted()]),
            other => panic!("{other:?}"),
        }
        commands.finish("a", String::new()).await.unwrap();
        let last = heard.recv().await.unwrap().message;
        assert!(matches!(last, Some(from_host::Message::CommandDone(_))), "{last:?}");
        match judge(&commands, "a", false).await {
            Verdict::Repeat { told, done: Some(done) } => {
                assert_eq!((told, done.error.as_str()), (vec![restarted()], ""));
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_command_that_a_crash_interrupted_is_not_begun_again() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(judge(&commands(folder.path()), "a", false).await, Verdict::Begin));
        match judge(&commands(folder.path()), "a", false).await {
            Verdict::Repeat { done: Some(done), .. } => assert_eq!(done.error, INTERRUPTED),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn an_upgrade_is_answered_by_the_daemon_that_follows() {
        let folder = tempfile::tempdir().unwrap();
        let before = commands(folder.path());
        assert!(matches!(judge(&before, "a", false).await, Verdict::Begin));
        before.leave("a").await.unwrap();
        assert!(!before.has_led_here("a").await, "it has not left yet");
        let after = commands(folder.path());
        assert!(after.has_led_here("a").await);
        after.arrive("a", Ok("upgraded".to_owned())).await.unwrap();
        assert!(!after.has_led_here("a").await);
        match judge(&after, "a", false).await {
            Verdict::Repeat { told, done: Some(done) } => {
                assert_eq!((told[0].text.as_str(), done.error.as_str()), ("upgraded", ""));
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_command_that_was_recalled_never_begins() {
        let folder = tempfile::tempdir().unwrap();
        for recall in [true, false] {
            match judge(&commands(folder.path()), "a", recall).await {
                Verdict::Repeat { done: Some(done), .. } => assert!(done.never_begun),
                other => panic!("{other:?}"),
            }
        }
    }
}
