//! Opening the servers' sockets, before anything runs. A unix socket appears under its name complete: owner,
//! mode and listener are right before anybody can connect. What is served on the sockets is not known here.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use fleetvisor_model::config::{Credentials, HttpAddress, HttpServer};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind as bind_socket, connect, listen, socket,
};
use nix::unistd::{Gid, Uid, User};
use serde::{Deserialize, Serialize};

use super::pages::Names;

const BACKLOG: i32 = 1024;

/// How often a stale socket is removed before somebody else must be making new ones.
const ATTEMPTS: usize = 5;

/// Supervisor's words, which its users search for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    #[error(
        "Another program is already listening on a port that one of our HTTP servers is configured to use.  \
         Shut this program down first before starting supervisord."
    )]
    InUse,
    #[error("Cannot open an HTTP server: socket.error reported errno.{0:?} ({code})", code = *.0 as i32)]
    System(Errno),
    #[error("Cannot open an HTTP server: socket.error reported {0}")]
    Address(String),
    #[error(
        "Not permitted to chown {path} to uid/gid ({uid}, {gid}); adjust \"sockchown\" value in config file or \
         on command line to values that the current user ({user}) can successfully chown"
    )]
    Chown { path: PathBuf, uid: i64, gid: i64, user: String },
    #[error("Cannot open an HTTP server: {0} exists and is not a socket")]
    NotASocket(PathBuf),
}

impl From<io::Error> for BindError {
    fn from(error: io::Error) -> BindError {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(errno) => errno.into(),
            None => BindError::Address(error.to_string()),
        }
    }
}

impl From<Errno> for BindError {
    fn from(errno: Errno) -> BindError {
        match errno {
            Errno::EADDRINUSE => BindError::InUse,
            Errno::ENAMETOOLONG => BindError::Address("AF_UNIX path too long".to_owned()),
            errno => BindError::System(errno),
        }
    }
}

/// A server that listens and is not answered yet.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(super) listener: Listener,
    pub(super) auth: Option<Credentials>,
    pub(super) names: Names,
}

impl Bound {
    /// The address at which everybody in the network is let in, if there is one.
    pub(crate) fn open_to_all(&self) -> Option<SocketAddr> {
        match &self.listener {
            Listener::Inet(listener) if self.auth.is_none() => {
                listener.local_addr().ok().filter(|address| !address.ip().is_loopback())
            }
            Listener::Inet(_) | Listener::Unix(..) => None,
        }
    }
}

#[derive(Debug)]
pub(super) enum Listener {
    Inet(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// A socket's name in the file system; removed with this, if it is still this socket's.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// The name is another process's to remove.
    pub(super) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// What a successor must know of a listening socket beside its server's configuration.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Listening {
    /// Path, device and inode of a unix socket's name.
    file: Option<(PathBuf, u64, u64)>,
}

impl Bound {
    /// The same socket, for a successor to take up.
    pub(crate) fn handover(&self) -> io::Result<(Listening, OwnedFd)> {
        let (file, socket) = match &self.listener {
            Listener::Inet(listener) => (None, listener.as_fd()),
            Listener::Unix(listener, file) => {
                (Some((file.path.clone(), file.device, file.inode)), listener.as_fd())
            }
        };
        Ok((Listening { file }, socket.try_clone_to_owned()?))
    }

    pub(crate) fn take_up(server: &HttpServer, Listening { file }: Listening, socket: OwnedFd) -> Bound {
        let listener = match file {
            None => Listener::Inet(socket.into()),
            Some((path, device, inode)) => Listener::Unix(socket.into(), SocketFile { path, device, inode }),
        };
        Bound { listener, auth: server.auth.clone(), names: names(server) }
    }
}

/// Opens every server, or none.
pub(crate) fn bind(servers: &[HttpServer]) -> Result<Vec<Bound>, BindError> {
    let open = |server: &HttpServer| {
        let listener = match &server.address {
            HttpAddress::Inet { host, port } => Listener::Inet(inet(host, *port)?),
            HttpAddress::Unix { file, chmod, chown } => unix(file, *chmod, *chown)?,
        };
        Ok(Bound { listener, auth: server.auth.clone(), names: names(server) })
    };
    servers.iter().map(open).collect()
}

fn names(server: &HttpServer) -> Names {
    match (&server.address, &server.auth) {
        (HttpAddress::Inet { host, .. }, None) => {
            let node = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
            Names::Own(
                [Some(host.clone()), node].into_iter().flatten().filter(|name| !name.is_empty()).collect(),
            )
        }
        (HttpAddress::Inet { .. } | HttpAddress::Unix { .. }, _) => Names::Any,
    }
}

fn inet(host: &str, port: u16) -> Result<TcpListener, BindError> {
    let host = if host.is_empty() { "0.0.0.0" } else { host };
    let mut addresses: Vec<_> = (host, port)
        .to_socket_addrs()
        .map_err(|error| BindError::Address(format!("{host}: {error}")))?
        .collect();
    // A name means its IPv4 address where it has one, as it does to Supervisor.
    addresses.sort_by_key(|address| !address.is_ipv4());
    let address = addresses.first().ok_or_else(|| BindError::Address(format!("{host}: no address")))?;
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn unix(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> Result<Listener, BindError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let _ = std::fs::remove_file(&beside);
    let listening = listen_at(&beside, path, mode, owner);
    let linked = listening.and_then(|listener| {
        let found = std::fs::symlink_metadata(&beside)?;
        link(&beside, path)?;
        let file = SocketFile { path: path.to_owned(), device: found.dev(), inode: found.ino() };
        Ok(Listener::Unix(listener, file))
    });
    let _ = std::fs::remove_file(&beside);
    linked
}

/// A listener at `beside`, as the one at `path` is to be. Until `listen` is called nobody can connect, so the
/// mode that the umask leaves does no harm.
fn listen_at(
    beside: &Path,
    path: &Path,
    mode: u32,
    owner: Option<(u32, u32)>,
) -> Result<UnixListener, BindError> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    bind_socket(socket.as_raw_fd(), &UnixAddr::new(beside)?)?;
    if let Some(owner) = owner {
        chown(beside, path, owner)?;
    }
    std::fs::set_permissions(beside, std::fs::Permissions::from_mode(mode))?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(UnixListener::from(socket))
}

fn chown(beside: &Path, path: &Path, (uid, gid): (u32, u32)) -> Result<(), BindError> {
    let kept = |id: u32| (id != u32::MAX).then_some(id);
    let changed = nix::unistd::chown(beside, kept(uid).map(Uid::from_raw), kept(gid).map(Gid::from_raw));
    match changed {
        Err(Errno::EPERM) => {
            let shown = |id: u32| kept(id).map_or(-1, i64::from);
            let current = Uid::effective();
            let user = User::from_uid(current).ok().flatten().map(|user| user.name);
            Err(BindError::Chown {
                path: path.to_owned(),
                uid: shown(uid),
                gid: shown(gid),
                user: user.unwrap_or_else(|| current.to_string()),
            })
        }
        changed => Ok(changed?),
    }
}

/// Gives a listening socket its name. A link fails where a rename would take another daemon's name away.
fn link(beside: &Path, path: &Path) -> Result<(), BindError> {
    for _ in 0..ATTEMPTS {
        match std::fs::hard_link(beside, path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(BindError::NotASocket(path.to_owned()));
            }
            Ok(_) | Err(_) => {}
        }
        if is_alive(path)? {
            return Err(BindError::InUse);
        }
        eprintln!("Unlinking stale socket {}", path.display());
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
    }
    Err(BindError::InUse)
}

/// Whether somebody listens there. One who may not be asked counts as alive.
fn is_alive(path: &Path) -> Result<bool, BindError> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(socket.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(false),
        Ok(()) | Err(_) => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn server(file: &Path, chmod: u32) -> HttpServer {
        let address = HttpAddress::Unix { file: file.to_owned(), chmod, chown: None };
        HttpServer { section: "unix_http_server".to_owned(), address, auth: None }
    }

    fn names(folder: &Path) -> Vec<std::ffi::OsString> {
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn a_socket_has_its_mode_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let bound = bind(&[server(&path, 0o640)]).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(names(folder.path()), ["s.sock"]);
        UnixStream::connect(&path).unwrap();
        drop(bound);
        assert_eq!(names(folder.path()).len(), 0);
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        drop(UnixListener::bind(&path).unwrap());
        let bound = bind(&[server(&path, 0o700)]).unwrap();
        let error = bind(&[server(&path, 0o700)]).unwrap_err();
        assert!(error.to_string().starts_with("Another program is already listening on a port"), "{error}");
        UnixStream::connect(&path).unwrap();
        drop(bound);
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(bind(&[server(&path, 0o700)]), Err(BindError::NotASocket(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
        assert_eq!(names(folder.path()), ["notes.txt"]);
    }

    #[test]
    fn a_name_that_somebody_else_has_taken_since_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let bound = bind(&[server(&path, 0o700)]).unwrap();
        std::fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        drop(bound);
        UnixStream::connect(&path).unwrap();
        drop(other);
    }

    #[test]
    fn a_port_is_open_to_all_where_it_is_reached_from_elsewhere_without_a_password() {
        let open = |host: &str, auth: Option<Credentials>| {
            let address = HttpAddress::Inet { host: host.to_owned(), port: 0 };
            let server = HttpServer { section: "inet_http_server".to_owned(), address, auth };
            bind(&[server]).unwrap()[0].open_to_all().is_some()
        };
        let password = Credentials { username: "user".to_owned(), password: "secret".to_owned() };
        assert!(open("", None));
        assert!(!open("", Some(password)));
        assert!(!open("127.0.0.1", None));
        assert!(!open("localhost", None));
    }

    #[test]
    fn errors_have_supervisors_words() {
        let error = bind(&[server(Path::new("/nonexistent/s.sock"), 0o700)]).unwrap_err();
        assert_eq!(error.to_string(), "Cannot open an HTTP server: socket.error reported errno.ENOENT (2)");
        let long = PathBuf::from(format!("/tmp/{}", "x".repeat(200)));
        let error = bind(&[server(&long, 0o700)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Cannot open an HTTP server: socket.error reported AF_UNIX path too long"
        );
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let address = HttpAddress::Inet { host: "127.0.0.1".to_owned(), port };
        let server = HttpServer { section: "inet_http_server".to_owned(), address, auth: None };
        assert!(matches!(bind(&[server]), Err(BindError::InUse)));
    }
}
