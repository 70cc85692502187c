//! A whole configuration, typed. Field names keep the spelling of Supervisor's options; units and defaults
//! are Supervisor's. Two equal values mean that `reread` finds no change.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::bundle::BundleFault;
use crate::name::ProcessName;
use crate::signal::Signal;

/// Everything one `supervisord.conf` with its included files says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    pub supervisord: SupervisordSection,
    /// In the order they are opened: inet servers, then unix servers.
    pub servers: Vec<HttpServer>,
    /// Sorted by priority, then name, as they are started.
    pub groups: Vec<Group>,
    pub rpcinterfaces: Vec<RpcInterface>,
    pub fleet: Option<FleetSection>,
    /// Which groups come from bundles of the fleet, and from which.
    pub bundled: BTreeMap<String, String>,
    /// Bundles that are left out, and why.
    pub bundle_faults: Vec<BundleFault>,
    /// What the daemon logs once it can: `Included extra file ...` and such.
    pub infos: Vec<String>,
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupervisordSection {
    /// Any integer, as written: one that is already met asks for nothing.
    pub minfds: i64,
    pub minprocs: i64,
    pub directory: Option<PathBuf>,
    pub user: Option<String>,
    pub umask: u32,
    pub logfile: LogTarget,
    /// Bytes; 0 or less never rotates.
    pub logfile_maxbytes: i64,
    /// 0 or less keeps no backup.
    pub logfile_backups: i64,
    pub loglevel: LogLevel,
    pub pidfile: PathBuf,
    pub identifier: String,
    pub nodaemon: bool,
    pub silent: bool,
    pub childlogdir: PathBuf,
    pub nocleanup: bool,
    pub strip_ansi: bool,
    /// Added to the daemon's own environment and so to every program's.
    pub environment: BTreeMap<String, String>,
}

/// Supervisor's levels, most to least severe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LogLevel {
    Critical,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
    Blather,
}

/// Where a log goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LogTarget {
    /// `NONE`, and a stderr that is redirected to stdout.
    None,
    /// `AUTO`: a file in childlogdir whose name is chosen at start.
    Auto,
    Syslog,
    /// A regular file, or a device or pipe such as `/dev/stdout`, which is never rotated.
    File(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpServer {
    /// Section it came from, for messages (`inet_http_server`).
    pub section: String,
    pub address: HttpAddress,
    pub auth: Option<Credentials>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HttpAddress {
    /// Host as written, empty for every interface (`*:9001`, `9001`).
    Inet { host: String, port: u16 },
    Unix {
        file: PathBuf,
        /// Default 0o700.
        chmod: u32,
        /// uid and gid as `chown(2)` takes them (`u32::MAX` leaves one as it is); `None` keeps the daemon's.
        chown: Option<(u32, u32)>,
    },
}

/// `password` may be `{SHA}` and 40 hex digits.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// `[rpcinterface:x]`: the name after the colon, its factory, and the keys left over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RpcInterface {
    pub name: String,
    pub factory: String,
    pub options: BTreeMap<String, String>,
}

/// What starts, stops and is reread as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub name: String,
    pub priority: i64,
    pub kind: GroupKind,
    /// In the order of the file: the programs as `[group:x]` lists them, each one's processes by name.
    /// They start by priority, then name.
    pub processes: Vec<Process>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupKind {
    /// `[program:x]` or `[group:x]`.
    Programs,
    /// `[eventlistener:x]`.
    Listeners {
        buffer_size: usize,
        /// Event type names, upper case, checked, sorted, each once: their order means nothing.
        events: Vec<String>,
        result_handler: ResultHandler,
    },
    /// `[fcgi-program:x]` outside a `[group]`.
    Fcgi(FcgiSocket),
}

/// What reads a listener's RESULT; Python's import paths that we provide natively.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResultHandler {
    /// `supervisor.dispatchers:default_handler`
    Default,
    /// `supervisor_stdout:event_handler`
    SupervisorStdout,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FcgiSocket {
    pub address: FcgiAddress,
    pub backlog: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FcgiAddress {
    /// `address` is what the host's name stood for when the configuration was read.
    Tcp { host: String, port: u16, address: Option<Ipv4Addr> },
    /// `owner` as `chown(2)` takes it: `u32::MAX` leaves uid or gid as it is.
    Unix { path: PathBuf, owner: Option<(u32, u32)>, mode: u32 },
}

/// The socket's URL, as Supervisor's log has it.
impl fmt::Display for FcgiAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FcgiAddress::Tcp { host, port, .. } => write!(f, "tcp://{host}:{port}"),
            FcgiAddress::Unix { path, .. } => write!(f, "unix://{}", path.display()),
        }
    }
}

/// One process: a `[program:x]` with numprocs=3 gives three of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub name: ProcessName,
    /// Expanded, not yet split: that it can't be split is a spawn error, not a config error.
    pub command: String,
    pub directory: Option<PathBuf>,
    pub umask: Option<u32>,
    pub priority: i64,
    pub autostart: bool,
    pub autorestart: Autorestart,
    /// Seconds.
    pub startsecs: i64,
    pub startretries: i64,
    pub uid: Option<u32>,
    pub stdout: OutputLog,
    pub stderr: OutputLog,
    pub redirect_stderr: bool,
    pub stopsignal: Signal,
    /// Seconds.
    pub stopwaitsecs: i64,
    pub stopasgroup: bool,
    pub killasgroup: bool,
    pub exitcodes: Vec<i32>,
    /// `[supervisord] environment` with the program's own on top.
    pub environment: BTreeMap<String, String>,
    pub serverurl: Option<String>,
    /// `[fcgi-program:x]`: takes the group's socket as stdin where it is a group of its own.
    pub fcgi: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputLog {
    pub logfile: LogTarget,
    /// Bytes; 0 or less never rotates. Signed, because Supervisor accepts `-1KB` and reports it as such.
    pub logfile_maxbytes: i64,
    /// 0 or less keeps no backup.
    pub logfile_backups: i64,
    /// Bytes; 0 means no capture mode.
    pub capture_maxbytes: i64,
    pub events_enabled: bool,
    pub syslog: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Autorestart {
    Never,
    Unexpected,
    Always,
}

/// `[fleet]`: how this host joins a controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetSection {
    /// `host:port`, tried in turn.
    pub controller: Vec<String>,
    /// What the host is called: ASCII letters, digits, `.`, `_`, `-`.
    pub host: String,
    pub labels: BTreeMap<String, String>,
    pub join_token_file: Option<PathBuf>,
    pub state_dir: PathBuf,
    /// `reconcile = enforce`: what is stopped or started here against the fleet's wish is put right again.
    pub enforce: bool,
}
