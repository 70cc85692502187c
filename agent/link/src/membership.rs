//! Being a member: the certificate first, then one link after the other for as long as the daemon runs, and in
//! between the waits that [`super::backoff`] chooses.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fleetvisor_model::config::{FleetSection, LogLevel};
use fleetvisor_proto::identity::{Identity, IdentityError};
use fleetvisor_proto::tls::{self, DialError, TlsError};
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::backoff::Itinerary;
use crate::bundles::KeptError;
use crate::command::Commands;
use crate::config::Given;
use crate::daemon::{Daemon, Gone, Watched};
use crate::events::Events;
use crate::journal::{Journal, JournalError};
use crate::wishes::{Wishes, WishesError};
use crate::{enforce, enrol, link, renew};

/// How soon a state_dir that cannot be read is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// What the tasks of one host share.
#[derive(Debug)]
pub(crate) struct Membership<D> {
    pub(crate) section: FleetSection,
    /// New in each process.
    pub(crate) boot_id: String,
    pub(crate) daemon: D,
    pub(crate) given: Given,
    pub(crate) wishes: Arc<tokio::sync::Mutex<Wishes>>,
    pub(crate) commands: Commands,
    pub(crate) events: Events,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Enrol(#[from] enrol::EnrolError),
    #[error("the controller answered: {}", .0.message())]
    Refused(#[from] Box<tonic::Status>),
    #[error("the controller ended the link: {reason}")]
    Farewell { reason: String, retry_after: Duration },
    #[error("the controller said nothing for {0:?}")]
    Silent(Duration),
    #[error("the link broke: {}", .0.message())]
    Broken(Box<tonic::Status>),
    #[error("the link was closed")]
    Closed,
    /// The certificate in state_dir does not count.
    #[error("{reason}; {remedy}")]
    NotAdmitted { reason: String, remedy: String },
    /// There is another certificate than before: link again.
    #[error("the host's certificate is another one now")]
    Changed,
    #[error(transparent)]
    Wishes(#[from] WishesError),
    #[error(transparent)]
    Bundles(#[from] KeptError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Gone(#[from] Gone),
}

impl LinkError {
    /// Whether the controller refuses the certificate, rather than what is asked with it.
    fn is_of_the_certificate(&self) -> bool {
        match self {
            LinkError::Dial(DialError::RefusedUs { .. }) => true,
            LinkError::Refused(status) | LinkError::Broken(status) => {
                matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated)
            }
            _ => false,
        }
    }
}

/// Keeps the link up for as long as the daemon runs. Needs a runtime with I/O and time.
pub async fn run<D: Daemon>(section: FleetSection, wishes: Wishes, daemon: D) {
    let itinerary = Itinerary::new(&section.controller);
    let commands = Commands::new(open_journal(&section, &daemon).await);
    let membership = Arc::new(Membership {
        boot_id: format!("{}-{}", process_id(), section.host),
        given: Given::load(&section.state_dir, &daemon),
        section,
        daemon,
        wishes: Arc::new(tokio::sync::Mutex::new(wishes)),
        commands,
        events: Events::default(),
    });
    if membership.section.enforce {
        let membership = Arc::clone(&membership);
        tokio::spawn(async move { enforce::enforce(&membership).await });
    }
    tokio::select! {
        () = membership.record_events() => {}
        () = membership.stay(itinerary) => {}
    }
}

/// Without it a command could be carried out twice, so there is no link before it can be read.
async fn open_journal<D: Daemon>(section: &FleetSection, daemon: &D) -> Journal {
    let mut said = false;
    loop {
        match Journal::open(&section.state_dir) {
            Ok(journal) => return journal,
            Err(error) => {
                if !said {
                    daemon.log(LogLevel::Critical, format!("fleet: no link to a controller: {error}"));
                    said = true;
                }
                sleep(AGAIN).await;
            }
        }
    }
}

impl<D: Daemon> Membership<D> {
    /// For as long as the daemon runs, linked or not.
    async fn record_events(&self) {
        let Ok(mut watched) = self.daemon.watch() else { return };
        while let Some(watched) = watched.recv().await {
            if let Watched::Happened(change) = watched {
                self.events.record(change);
            }
        }
    }

    /// One link after the other.
    async fn stay(self: &Arc<Membership<D>>, mut itinerary: Itinerary) {
        // The same reason again and again is said once for each controller.
        let mut said: HashMap<String, String> = HashMap::new();
        while let Some(address) = itinerary.address() {
            let (linked, error) = self.stay_linked(&address).await;
            if linked {
                itinerary.linked();
                said.clear();
            }
            let retry_after = match &error {
                LinkError::Gone(_) => return,
                LinkError::Farewell { retry_after, .. } => *retry_after,
                _ => Duration::ZERO,
            };
            let reason = error.to_string();
            if !matches!(error, LinkError::Changed) && said.get(&address) != Some(&reason) {
                let line = format!("fleet: no link to {address}: {reason}");
                self.daemon.log(LogLevel::Warn, line);
                said.insert(address, reason);
            }
            sleep(itinerary.lost(Instant::now(), retry_after)).await;
        }
    }

    /// Enrols if need be, links, and returns when there is no link any more: whether there was one, and why
    /// it is gone.
    async fn stay_linked(self: &Arc<Membership<D>>, address: &str) -> (bool, LinkError) {
        let mut linked = false;
        match self.link(address, &mut linked).await {
            Ok(never) => match never {},
            Err(error) => (linked, error),
        }
    }

    async fn link(
        self: &Arc<Membership<D>>,
        address: &str,
        linked: &mut bool,
    ) -> Result<Infallible, LinkError> {
        let identity = self.identity(address).await?;
        let (told, renew_in) = tokio::sync::watch::channel(None);
        let lost = match tls::dial(address, tls::client_config(&identity)?).await {
            Ok(channel) => tokio::select! {
                lost = link::serve(self, address, channel.clone(), linked, &told) => match lost {
                    Err(LinkError::Refused(status)) if renew::is_asked_for(&status) => {
                        renew::renew(self, &identity, channel).await.and_then(|_| {
                            let line = "fleet: the host's certificate had ended, and is renewed".to_owned();
                            self.daemon.log(LogLevel::Info, line);
                            Err(LinkError::Changed)
                        })
                    }
                    lost => lost,
                },
                () = renew::keep_fresh(self, &identity, channel.clone(), renew_in) => Err(LinkError::Closed),
            },
            Err(error) => Err(error.into()),
        };
        match lost {
            Err(error) if error.is_of_the_certificate() => self.enrol_anew(address, &error).await,
            lost => lost,
        }
    }

    /// After a refusal, with a token that was not used before.
    async fn enrol_anew(&self, address: &str, refusal: &LinkError) -> Result<Infallible, LinkError> {
        if enrol::anew(&self.section, address).await?.is_none() {
            let (reason, remedy) = (refusal.to_string(), enrol::remedy(&self.section));
            return Err(LinkError::NotAdmitted { reason, remedy });
        }
        let line = format!("fleet: enrolled anew with {address} as host {}", self.section.host);
        self.daemon.log(LogLevel::Info, line);
        Err(LinkError::Changed)
    }

    async fn identity(&self, address: &str) -> Result<Identity, LinkError> {
        if enrol::is_enrolled(&self.section) {
            return Ok(enrol::load(&self.section)?);
        }
        let identity = enrol::enrol(&self.section, address).await?;
        let line = format!("fleet: enrolled with {address} as host {}", self.section.host);
        self.daemon.log(LogLevel::Info, line);
        Ok(identity)
    }

    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        self.section.labels.clone()
    }
}

/// Unique to this process: a link of a daemon that has started over replaces its own earlier one.
fn process_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let random = getrandom::u64().unwrap_or_default();
        format!("{:x}-{:x}-{random:x}", since.as_micros(), std::process::id())
    })
}
