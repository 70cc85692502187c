//! The life of the agent: start up, run, and either end or start over with the configuration as it is then.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use fleetvisor_core::decisions::{Counters, Decisions};
use fleetvisor_keeper::{LinkError, Request};
use fleetvisor_link::Wishes;
use fleetvisor_model::config::{HttpServer, LogLevel, LogTarget, SupervisordSection, repr};
use fleetvisor_model::state::DaemonState;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::children::Children;
use crate::cli::{self, Exit, Invocation};
use crate::front::Front;
use crate::groups::Groups;
use crate::host::FileSystem;
use crate::inbox::{Handle, Message};
use crate::keeper_link::KeeperLink;
use crate::legacy::Legacy;
use crate::logs::{self, DaemonLog, Logs};
use crate::run::{Agent, End};
use crate::settings::Settings;
use crate::takeover::{self, Heritage, Left, Predecessor, Unfinished};
use crate::{fcgi, groups, http, say, startup, upgrade};

/// `EX_SOFTWARE`: what was needed to go on is gone.
const LOST: u8 = 70;
/// How often it is tried to begin another keeper.
const REVIVALS: usize = 5;
const BETWEEN_REVIVALS: Duration = Duration::from_millis(500);
/// Of an agent before it begins another keeper.
const LEAST_LIFE: Duration = Duration::from_millis(250);

pub(crate) fn run(descriptor: i32, args: &[OsString]) -> ExitCode {
    let attached = fleetvisor_keeper::KeeperLink::attach(descriptor).map_err(|error| error.to_string());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let lived = attached.and_then(|link| {
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(async {
            let keeper = KeeperLink::new(link).map_err(|error| error.to_string())?;
            Ok(live(keeper, args).await)
        })
    });
    lived.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "supervisord: cannot start the agent: {error}");
        ExitCode::from(LOST)
    })
}

async fn live(mut keeper: KeeperLink, args: &[OsString]) -> ExitCode {
    let cannot = |error: &dyn std::fmt::Display| {
        let _ = writeln!(std::io::stderr(), "supervisord: {error}");
        ExitCode::from(LOST)
    };
    let greeting = match startup::greet(&mut keeper).await {
        Ok(greeting) => greeting,
        Err(error) => return cannot(&error),
    };
    let (pid, first) = (greeting.keeper_pid, !greeting.ready);
    let mut heritage = None;
    let invocation = if first {
        match cli::parse(args, &FileSystem) {
            Ok(mut invocation) => {
                invocation.executable = upgrade::executable(&invocation.program);
                invocation
            }
            Err(exit) => return leave(keeper, &exit).await,
        }
    } else {
        match Heritage::of(greeting) {
            Ok(mut found) => {
                let invocation = &mut found.left.settings.invocation;
                if invocation.executable.as_os_str().is_empty() {
                    invocation.executable = upgrade::own_path();
                }
                let invocation = invocation.clone();
                heritage = Some(found);
                invocation
            }
            // What is not understood is not put in order: the programs go on, and the keeper says so.
            Err(error) => return cannot(&error),
        }
    };
    let (messages, mut inbox) = mpsc::unbounded_channel();
    let (args, began) = (args.to_vec(), Instant::now());
    let mut daemon =
        Daemon { pid, args, began, invocation, messages, first, logs: None, counters: Counters::default() };
    loop {
        let (end, given_back) = match daemon.live_once(keeper, &mut inbox, heritage.take()).await {
            Ok(ended) => ended,
            Err((keeper, exit)) => {
                daemon.close_logs().await;
                return leave(keeper, &exit).await;
            }
        };
        keeper = given_back;
        match end {
            End::Restart => {}
            End::Replaced => {
                // Whoever asked for it has been answered by now, and the log has every line.
                daemon.close_logs().await;
                return ExitCode::SUCCESS;
            }
            End::Shutdown => {
                daemon.close_logs().await;
                let exit = Exit { code: 0, stdout: String::new(), stderr: String::new() };
                return leave(keeper, &exit).await;
            }
            End::KeeperLost(_) => {
                daemon.close_logs().await;
                return ExitCode::from(LOST);
            }
        }
    }
}

/// Tells the keeper the daemon's exit status, then ends with it.
async fn leave(mut keeper: KeeperLink, exit: &Exit) -> ExitCode {
    keeper.send(Request::Stop { status: i32::from(exit.code) }, Vec::new());
    // A keeper that is gone needs no status.
    let _ = keeper.flush().await;
    say(exit)
}

struct Daemon {
    pid: i32,
    /// Its own arguments, as they were when the daemon was started.
    args: Vec<OsString>,
    began: Instant,
    invocation: Invocation,
    messages: mpsc::UnboundedSender<Message>,
    /// Nothing has been prepared yet, by whichever agent.
    first: bool,
    logs: Option<Logs>,
    counters: Counters,
}

impl Daemon {
    /// From reading the configuration, or from where another agent has left off, to the end of every program. A
    /// start that fails gives the keeper back with what to say.
    async fn live_once(
        &mut self,
        mut keeper: KeeperLink,
        inbox: &mut mpsc::UnboundedReceiver<Message>,
        heritage: Option<Heritage>,
    ) -> Result<(End, KeeperLink), (KeeperLink, Exit)> {
        let begun = match heritage {
            Some(heritage) => self.take_up(heritage, &mut keeper),
            None => self.begin(&mut keeper).await,
        };
        let mut begun = match begun {
            Ok(begun) => begun,
            Err(exit) => return Err((keeper, exit)),
        };
        let logs = begun.logs.clone();
        let mut children = Children::new(keeper, logs.clone(), begun.legacy.settings.surroundings());
        let front = match begun.front(&mut children) {
            Ok(front) => front,
            Err(error) => {
                let message = format!("cannot start a thread: {error}");
                return Err((children.into_keeper(), self.invocation.usage(&message)));
            }
        };
        let Begun { legacy, handle, decisions, groups, next_ticket, unfinished, .. } = begun;
        let section = &legacy.settings.config.supervisord;
        let (pidfile, background) = (section.pidfile.clone(), !section.nodaemon);
        let pidfile_written = legacy.pidfile_written;
        let mut agent = Agent::new(decisions, groups, next_ticket, legacy, children, logs.clone(), handle);
        agent.keep();
        agent.children.ready();
        if std::mem::take(&mut self.first)
            && background
            && let Err(error) = startup::detach_stdio()
        {
            logs.line(LogLevel::Error, format!("cannot let go of the terminal: {error}"));
        }
        if let Some((unfinished, finished)) = unfinished {
            agent.take_over(unfinished, finished);
        }
        let (end, mut children, counters) = agent.run(inbox).await;
        self.counters = counters;
        if let End::KeeperLost(error) = &end {
            self.leave_to_another_keeper(&mut children, error, &logs).await;
            abandon(&children.pids(), &logs, error);
        }
        if let End::Replaced = end
            && let Err(error) = children.keeper().flush().await
        {
            self.leave_to_another_keeper(&mut children, &error, &logs).await;
        }
        let keeper = children.into_keeper();
        if let End::Replaced = end {
            // Who waits for an answer is told to ask the next agent.
            inbox.close();
            while inbox.try_recv().is_ok() {}
            front.hand_over().await;
            return Ok((end, keeper));
        }
        front.stop().await;
        if pidfile_written {
            let _ = std::fs::remove_file(&pidfile);
        }
        Ok((end, keeper))
    }

    async fn begin(&mut self, keeper: &mut KeeperLink) -> Result<Begun, Exit> {
        let settings = Settings::load(self.invocation.clone())?;
        let section = &settings.config.supervisord;
        let fail = |message: String| settings.invocation.usage(&message);
        let first = self.first;
        let mut remarks = startup::remarks_of(&settings);
        startup::prepare(&settings, keeper, first, &mut remarks).await?;
        let handle = Handle::new(self.messages.clone(), settings.facts(self.pid));
        let logs = self.open_logs(&settings, &handle).map_err(fail)?;
        if first {
            let version = fleetvisor_proto::VERSION;
            let line =
                format!("fleetvisor {version}, in the place of Supervisor {}", cli::SUPERVISOR_VERSION);
            logs.line(LogLevel::Trace, line);
        }
        remarks.log(&logs);
        if !section.nocleanup {
            for remark in groups::clear_auto_logs(&section.childlogdir, &section.identifier) {
                logs.line(LogLevel::Warn, remark);
            }
        }
        fcgi::try_out(&settings.config.groups, &logs).map_err(|error| Exit {
            code: 1,
            stdout: String::new(),
            stderr: format!("Error: {error}\n"),
        })?;
        let servers = http::bind(&settings.config.servers).map_err(|error| fail(error.to_string()))?;
        remark_on_servers(&settings.config.servers, &settings, &logs);
        for address in servers.iter().filter_map(http::Bound::open_to_all) {
            let line = format!(
                "Everybody who can reach {address} controls every program here: give [inet_http_server] a username \
                 and a password, or let it listen on 127.0.0.1 only"
            );
            logs.line(LogLevel::Critical, line);
        }
        if first && !section.nodaemon {
            logs.line(LogLevel::Info, "daemonizing the supervisord process");
            if let Some(directory) = &section.directory {
                let shown = repr(&directory.to_string_lossy());
                logs.line(LogLevel::Info, format!("set current directory: {shown}"));
            }
        }
        let pidfile_written = startup::write_pidfile(&section.pidfile, self.pid, &logs);
        let wishes = load_wishes(&settings).map_err(|error| fail(error.to_string()))?;
        let observed = wishes.as_ref().map(Wishes::all).unwrap_or_default();
        let identifier = section.identifier.clone();
        let decisions = Decisions::new(observed, identifier, self.counters);
        Ok(Begun {
            handle,
            logs,
            servers,
            wishes,
            decisions,
            groups: Groups::new(settings.config.groups.clone()),
            next_ticket: 0,
            legacy: Legacy::new(settings, pidfile_written, 0),
            unfinished: None,
        })
    }

    /// From what another agent has left. Nothing that is wrong here may end the programs.
    fn take_up(&mut self, heritage: Heritage, keeper: &mut KeeperLink) -> Result<Begun, Exit> {
        let lines = heritage.unwritten();
        let Heritage { left, journal, servers, programs, predecessor, said, stash } = heritage;
        let Left { settings, pidfile_written, replay, groups, next_ticket, lines: written, upgrade } = left;
        let handle = Handle::new(self.messages.clone(), settings.facts(self.pid));
        handle.set_state(replay.decisions.supervisor().state());
        let logs = match self.open_logs(&settings, &handle) {
            Ok(logs) => logs,
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "supervisord: {error}; going on without it");
                let mut silent = settings.config.supervisord.clone();
                silent.logfile = LogTarget::None;
                self.open_logs_of(&silent, &handle).map_err(|error| settings.invocation.usage(&error))?
            }
        };
        for line in said {
            logs.line(LogLevel::Critical, format!("the keeper: {line}"));
        }
        if let Err(errno) = startup::raise_files(0, keeper) {
            logs.line(LogLevel::Error, format!("cannot have more open files: {}", errno.desc()));
        }
        if let (Predecessor::LostItsKeeper { keeper_pid, .. }, true) = (predecessor, pidfile_written) {
            startup::rewrite_pidfile(&settings.config.supervisord.pidfile, keeper_pid, &logs);
        }
        let wishes = load_wishes(&settings).unwrap_or_else(|error| {
            logs.line(LogLevel::Critical, format!("fleet: this host stays without a controller: {error}"));
            None
        });
        let unfinished = Unfinished::new(&replay, programs, stash, lines, predecessor);
        let decisions = replay.decisions;
        Ok(Begun {
            handle,
            logs,
            servers,
            wishes,
            groups,
            next_ticket,
            legacy: Legacy::take_up(settings, pidfile_written, upgrade, journal, decisions.lines(), written),
            decisions,
            unfinished: Some((unfinished, replay.finished)),
        })
    }

    /// Begins another keeper and ends this process as one that is killed: whatever is under way is for the successor to
    /// finish. Comes back where there is none.
    async fn leave_to_another_keeper(&self, children: &mut Children, error: &LinkError, logs: &Logs) {
        if !matches!(error, LinkError::Gone) {
            return;
        }
        let count = children.pids().len();
        let line = format!("{error}: beginning another one, with the {count} programs that run");
        logs.line(LogLevel::Critical, line);
        logs.written().await;
        // One that dies as soon as it is up is not begun as fast as it can.
        tokio::time::sleep_until(self.began + LEAST_LIFE).await;
        for _ in 0..REVIVALS {
            match children.keeper().revive(&self.args) {
                Ok(()) => std::process::exit(0),
                Err(error) => logs.line(LogLevel::Critical, error.to_string()),
            }
            tokio::time::sleep(BETWEEN_REVIVALS).await;
        }
    }

    fn open_logs(&mut self, settings: &Settings, handle: &Handle) -> Result<Logs, String> {
        self.open_logs_of(&settings.config.supervisord, handle)
    }

    fn open_logs_of(&mut self, section: &SupervisordSection, handle: &Handle) -> Result<Logs, String> {
        let cannot = |error: std::io::Error| format!("cannot open the daemon's log: {error}");
        let daemon = DaemonLog::open(section).map_err(cannot)?;
        match &mut self.logs {
            Some(logs) => logs.replace_daemon(daemon),
            None => {
                let started = logs::start(daemon, section.strip_ansi, handle.clone()).map_err(cannot)?;
                self.logs = Some(started);
            }
        }
        self.logs.clone().ok_or_else(|| "the daemon's log is closed".to_owned())
    }

    async fn close_logs(&mut self) {
        if let Some(logs) = self.logs.take() {
            logs.close().await;
        }
    }
}

/// What a start, or a takeover, has brought about.
struct Begun {
    legacy: Legacy,
    handle: Handle,
    logs: Logs,
    servers: Vec<http::Bound>,
    wishes: Option<Wishes>,
    decisions: Decisions,
    groups: Groups,
    next_ticket: u64,
    /// Of another agent, with how the daemon was to end if it had come to that.
    unfinished: Option<(Unfinished, Option<DaemonState>)>,
}

impl Begun {
    /// Starts serving, and keeps the sockets for a successor.
    fn front(&mut self, children: &mut Children) -> std::io::Result<Front> {
        let servers = std::mem::take(&mut self.servers);
        let sockets: Vec<_> = servers.iter().map(http::Bound::handover).collect::<Result<_, _>>()?;
        let (listening, sockets): (Vec<_>, Vec<_>) = sockets.into_iter().unzip();
        children.stash(takeover::SERVERS, serde_json::to_vec(&listening)?, sockets);
        let fleet = self.legacy.settings.config.fleet.clone().zip(self.wishes.take());
        Front::start(servers, self.handle.clone(), self.logs.clone(), fleet)
    }
}

fn load_wishes(settings: &Settings) -> Result<Option<Wishes>, fleetvisor_link::WishesError> {
    settings.config.fleet.as_ref().map(|fleet| Wishes::load(&fleet.state_dir)).transpose()
}

fn remark_on_servers(servers: &[HttpServer], settings: &Settings, logs: &Logs) {
    for server in servers {
        for interface in &settings.config.rpcinterfaces {
            logs.line(LogLevel::Info, format!("RPC interface '{}' initialized", interface.name));
        }
        if server.auth.is_none() {
            let section = &server.section;
            let line = format!("Server '{section}' running without any HTTP authentication checking");
            logs.line(LogLevel::Critical, line);
        }
    }
}

/// Without a keeper nobody would supervise these programs: they are told to end.
fn abandon(pids: &[i32], logs: &Logs, error: &LinkError) {
    let line = format!("{error}: {} programs are told to end, and so does supervisord", pids.len());
    logs.line(LogLevel::Critical, line);
    for pid in pids {
        let _ = killpg(Pid::from_raw(*pid), Signal::SIGTERM);
    }
}
