//! `run`: the controller at work, from reading its directory to the farewell.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use fleetvisor_model::time::Wall;
use fleetvisor_proto::identity::Identity;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{interval, timeout};

use crate::audit;
use crate::clock;
use crate::connection;
use crate::controller::Controller;
use crate::enrolment;
use crate::health;
use crate::layout::Layout;
use crate::logging;
use crate::operations;
use crate::pki::Authority;
use crate::registry::Registry;
use crate::server;
use crate::store::sled::SledStore;
use crate::store::{Claim, Store};

/// How long links may take to hear the farewell.
const FAREWELL: Duration = Duration::from_secs(2);
/// Hosts that may return in one second after the controller has stopped.
const RETURN_RATE: usize = 500;
const EXPIRY_WARNING_DAYS: i64 = 30;
const SWEEP: Duration = Duration::from_secs(3600);
const SWEEPER: &str = "sweeper";

/// Run the controller in the foreground until TERM or INT
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory that `init` made
    #[arg(long)]
    dir: PathBuf,

    /// Address for hosts and operators (gRPC over TLS)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7443")]
    listen: String,

    /// Address for HTTP; it serves /healthz: 200 `ok` while the store is usable, else 503
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7480")]
    http: String,

    /// How long a host's certificate lives; hosts renew theirs at half of it
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = certificate_life)]
    host_certificate_life: Duration,

    /// How long after its certificate has ended a host may still come back and renew it
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = humantime::parse_duration)]
    renewal_grace: Duration,

    /// What to log on stderr: error, warn, info, debug or trace, also by module (`info,h2=debug`)
    #[arg(long, value_name = "FILTER", env = "FLEETVISOR_LOG", default_value = "info")]
    log: String,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    logging::init(&args.log)?;
    raise_descriptors();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(serve(args));
    // Whoever is still connected has heard the farewell, or does not listen.
    runtime.shutdown_timeout(Duration::from_millis(500));
    result
}

async fn serve(args: &Args) -> anyhow::Result<()> {
    let layout = Layout::new(&args.dir);
    if let Some(missing) = layout.all().iter().find(|path| !path.exists()) {
        let dir = args.dir.display();
        bail!("{} is missing: make {dir} with `fleetvisor-controller init --dir {dir}`", missing.display());
    }
    let authority = Authority::load(&layout.ca())?.with_host_life(args.host_certificate_life);
    warn_of_end("the CA's certificate", authority.expires());
    let identity = Identity::load(&layout.server())?;
    warn_of_end("the controller's certificate", identity.validity().1);
    let store: Arc<dyn Store> = Arc::new(SledStore::open(&layout.store())?);
    let (base, records) = audit::read::listed(&*store).await?;
    match audit::read::verify(base, &records) {
        Ok(head) => {
            tracing::info!("the audit log is whole, with {} records, {} archived", head.seq, base.seq)
        }
        // What hosts run does not depend on it, and an operator has to be able to look.
        Err(error) => tracing::error!("{error}; `ctl audit verify` tells more"),
    }
    let listener = bind(&args.listen).await?;
    let http = bind(&args.http).await?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);

    let registry = Arc::new(Registry::new(clock::now()));
    registry.load(&*store).await?;
    let (stop, stopping) = watch::channel(None);
    let holder = format!("{} (pid {})", listener.local_addr()?, std::process::id());
    let controller = Controller::new(store.clone(), registry.clone(), authority, holder, stopping.clone());
    let controller = Arc::new(controller);
    controller.bundles.load(&*store).await?;
    controller.operators.load(&*store).await?;
    tracing::info!("{} hosts are enrolled", registry.all().len());

    tokio::spawn({
        let (registry, store) = (registry.clone(), store.clone());
        async move { registry.follow(store).await }
    });
    tokio::spawn({
        let (operators, store) = (controller.operators.clone(), store.clone());
        async move { operators.follow(store).await }
    });
    tokio::spawn(end_expired(registry.clone(), args.host_certificate_life / 24));
    let unfinished = operations::take_up(&controller).await?;
    if unfinished > 0 {
        tracing::info!("{unfinished} operations go on");
    }
    tokio::spawn(sweep(controller.clone()));
    tokio::spawn({
        let (controller, store, archive) = (controller.clone(), store.clone(), layout.audit());
        async move { audit::archive::keep_bounded(&controller.audit, store, archive).await }
    });
    tracing::info!("HTTP on {}", http.local_addr()?);
    tokio::spawn(health::serve(store, http));
    tracing::info!("hosts and operators on {}", listener.local_addr()?);
    let tls = connection::server_config(&identity, args.renewal_grace)?;
    let stopped = stopping.clone();
    let mut serving = tokio::spawn(server::serve(controller, listener, tls, async move {
        let mut stopped = stopped;
        // Also true once the sender is gone.
        let _ = stopped.wait_for(Option::is_some).await;
    }));

    tokio::select! {
        _ = terminate.recv() => tracing::info!("stopping: TERM received"),
        _ = interrupt.recv() => tracing::info!("stopping: INT received"),
        ended = &mut serving => {
            ended.context("the server ended")?.context("the server ended")?;
            bail!("the server ended");
        }
    }
    let online = registry.all().iter().filter(|host| host.is_online()).count();
    let spread = u32::try_from(online / RETURN_RATE).unwrap_or(u32::MAX) + 2;
    stop.send_replace(Some(spread));
    if timeout(FAREWELL, serving).await.is_err() {
        tracing::debug!("some connections have not ended by themselves");
    }
    tracing::info!("stopped");
    Ok(())
}

/// Every host is a descriptor, and what a process is usually given is enough for a thousand.
pub(crate) fn raise_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most).map(|()| most));
    match raised {
        Ok(most) => {
            tracing::info!("up to {most} descriptors (the hard limit), a host or an operator needs one")
        }
        Err(err) => tracing::warn!("cannot raise the number of descriptors: {err}"),
    }
}

/// Nobody likes to learn of it on the day.
fn warn_of_end(whose: &str, end: Wall) {
    let left = end.secs().saturating_sub(clock::now().secs()) / 86_400;
    if left < EXPIRY_WARNING_DAYS {
        tracing::warn!("{whose} ends on {}, in {left} days", clock::utc(end));
    }
}

/// Ends the links of hosts that have not renewed their certificates in time.
async fn end_expired(registry: Arc<Registry>, pause: Duration) {
    loop {
        tokio::time::sleep(pause).await;
        let now = clock::now();
        for host in registry.all() {
            if host.outlives_its_certificate(now) {
                tracing::warn!("host {} has not renewed its certificate, which has ended", host.name);
                host.end_link("the host's certificate has ended and was not renewed");
            }
        }
    }
}

/// What `--host-certificate-life` takes.
fn certificate_life(text: &str) -> Result<Duration, String> {
    let life = humantime::parse_duration(text).map_err(|err| err.to_string())?;
    let days = 86_400 * 397;
    match life.as_secs() {
        ..5 => Err("at least 5 seconds, or hosts do nothing but renew".to_owned()),
        seconds if seconds > days => Err("at most 397 days".to_owned()),
        _ => Ok(life),
    }
}

async fn bind(address: &str) -> anyhow::Result<TcpListener> {
    let resolved: Vec<SocketAddr> = tokio::net::lookup_host(address)
        .await
        .with_context(|| format!("{address:?} is no address to listen on (127.0.0.1:7443)"))?
        .collect();
    TcpListener::bind(&*resolved).await.with_context(|| format!("cannot listen on {address}"))
}

/// Of all controllers that share the store, one sweeps at a time.
async fn sweep(controller: Arc<Controller>) {
    let (store, holder) = (&*controller.store, &controller.operations.holder);
    let mut hourly = interval(SWEEP);
    loop {
        hourly.tick().await;
        match store.claim(SWEEPER, holder, SWEEP).await {
            Ok(Claim::Held) => {}
            Ok(Claim::HeldBy(other)) => {
                tracing::debug!("{other} sweeps the store");
                continue;
            }
            Err(error) => {
                tracing::error!("cannot claim to sweep the store: {error}");
                continue;
            }
        }
        if let Err(error) = enrolment::sweep_tokens(store).await {
            tracing::error!("cannot delete expired join tokens: {error}");
        }
        if let Err(error) = operations::prune(&controller).await {
            tracing::error!("cannot delete the records of old operations: {error}");
        }
        if let Err(error) = store.release(SWEEPER, holder).await {
            tracing::debug!("cannot give the claim to sweep back: {error}");
        }
    }
}
