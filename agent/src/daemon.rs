//! The life of the agent: start up, run, and either end or start over with the configuration as it is then.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use fleetvisor_keeper::Request;
use fleetvisor_link::Wishes;
use fleetvisor_model::config::{HttpServer, LogLevel, repr};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::sync::mpsc;

use crate::children::Children;
use crate::cli::{self, Exit, Invocation};
use crate::front::Front;
use crate::host::FileSystem;
use crate::inbox::{Handle, Message};
use crate::keeper_link::KeeperLink;
use crate::logs::{self, DaemonLog, Logs};
use crate::run::{Agent, End};
use crate::settings::Settings;
use crate::{fcgi, groups, http, say, startup};

/// `EX_SOFTWARE`: what was needed to go on is gone.
const LOST: u8 = 70;

pub(crate) fn run(descriptor: i32, args: &[OsString]) -> ExitCode {
    // Executed as /proc/self/exe, it would be listed as `exe`.
    let _ = std::fs::write("/proc/self/comm", "supervisord");
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
    let pid = match startup::greet(&mut keeper).await {
        Ok(pid) => pid,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "supervisord: {error}");
            return ExitCode::from(LOST);
        }
    };
    let invocation = match cli::parse(args, &FileSystem) {
        Ok(invocation) => invocation,
        Err(exit) => return leave(keeper, &exit).await,
    };
    let (messages, mut inbox) = mpsc::unbounded_channel();
    let mut daemon = Daemon { pid, invocation, messages, logs: None, next_serial: 0 };
    loop {
        let (end, given_back) = match daemon.live_once(keeper, &mut inbox).await {
            Ok(ended) => ended,
            Err((keeper, exit)) => {
                daemon.close_logs().await;
                return leave(keeper, &exit).await;
            }
        };
        keeper = given_back;
        match end {
            End::Restart => {}
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
    invocation: Invocation,
    messages: mpsc::UnboundedSender<Message>,
    /// From the first start on.
    logs: Option<Logs>,
    /// Of events: they are counted on when the daemon starts over.
    next_serial: u64,
}

impl Daemon {
    /// From reading the configuration to the end of every program. A start that fails gives the keeper back
    /// with what to say.
    async fn live_once(
        &mut self,
        mut keeper: KeeperLink,
        inbox: &mut mpsc::UnboundedReceiver<Message>,
    ) -> Result<(End, KeeperLink), (KeeperLink, Exit)> {
        let begun = self.begin(&mut keeper).await;
        let Begun { settings, handle, logs, servers, wishes, pidfile_written } = match begun {
            Ok(begun) => begun,
            Err(exit) => return Err((keeper, exit)),
        };
        let observed = wishes.as_ref().map(Wishes::all).unwrap_or_default();
        let fleet = settings.config.fleet.clone().zip(wishes);
        let front = match Front::start(servers, handle.clone(), logs.clone(), fleet) {
            Ok(front) => front,
            Err(error) => {
                let message = format!("cannot start a thread: {error}");
                return Err((keeper, settings.invocation.usage(&message)));
            }
        };
        let section = &settings.config.supervisord;
        let children = Children::new(keeper, logs.clone(), settings.surroundings());
        let agent = Agent::new(
            settings.config.groups.clone(),
            observed,
            children,
            logs.clone(),
            handle,
            section.childlogdir.clone(),
            self.next_serial,
        );
        let (end, children, next_serial) = agent.run(inbox).await;
        self.next_serial = next_serial;
        if let End::KeeperLost(error) = &end {
            abandon(&children.pids(), &logs, error);
        }
        front.stop().await;
        if pidfile_written {
            let _ = std::fs::remove_file(&section.pidfile);
        }
        Ok((end, children.into_keeper()))
    }

    async fn begin(&mut self, keeper: &mut KeeperLink) -> Result<Begun, Exit> {
        let settings = Settings::load(self.invocation.clone())?;
        let section = &settings.config.supervisord;
        let fail = |message: String| settings.invocation.usage(&message);
        let first = self.logs.is_none();
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
        if first {
            keeper.send(Request::Ready, Vec::new());
            if !section.nodaemon {
                startup::detach_stdio().map_err(|error| fail(format!("cannot detach: {error}")))?;
            }
        }
        let wishes = settings
            .config
            .fleet
            .as_ref()
            .map(|fleet| Wishes::load(&fleet.state_dir))
            .transpose()
            .map_err(|error| fail(error.to_string()))?;
        Ok(Begun { settings, handle, logs, servers, wishes, pidfile_written })
    }

    fn open_logs(&mut self, settings: &Settings, handle: &Handle) -> Result<Logs, String> {
        let section = &settings.config.supervisord;
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

/// What a start has brought about.
struct Begun {
    settings: Settings,
    handle: Handle,
    logs: Logs,
    servers: Vec<http::Bound>,
    wishes: Option<Wishes>,
    pidfile_written: bool,
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

/// Without a keeper nobody would learn how these programs end: they are asked to.
fn abandon(pids: &[i32], logs: &Logs, error: &fleetvisor_keeper::LinkError) {
    let line = format!("{error}: {} programs are told to end, and so does supervisord", pids.len());
    logs.line(LogLevel::Critical, line);
    for pid in pids {
        let _ = killpg(Pid::from_raw(*pid), Signal::SIGTERM);
    }
}
