//! The sockets of FastCGI programs. A group's processes share one: it is made when the first of them is spawned
//! and closed when the last has ended, and a unix socket's name stays, as with Supervisor. Before a group comes
//! to life its socket is made once to see whether it can be. What programs do with theirs is not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use fleetvisor_model::config::{FcgiAddress, FcgiSocket, Group, GroupKind, LogLevel};
use fleetvisor_model::name::ProcessName;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, UnixAddr, bind, listen, setsockopt, socket,
    sockopt::ReuseAddr,
};
use nix::unistd::{Gid, Uid};

use crate::logs::Logs;

#[derive(Debug, thiserror::Error)]
#[error("Could not create FastCGI socket {url}: {cause}")]
pub(crate) struct SocketError {
    url: String,
    cause: Cause,
}

/// In Supervisor's words, where it has some.
#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("[Errno {code}] {text}", code = *.0 as i32, text = .0.desc())]
    System(#[from] Errno),
    #[error("AF_UNIX path too long")]
    TooLong,
    #[error("[Errno -2] Name or service not known")]
    UnknownHost,
    #[error("it exists and is not a socket; it is left alone")]
    NotASocket,
    #[error("Could not change ownership of socket file: [Errno {code}] {text}: '{path}'", code = *.0 as i32, text = .0.desc(), path = .1)]
    Chown(Errno, String),
    #[error("Could not change permissions of socket file: {0}")]
    Chmod(std::io::Error),
}

/// Before a group's name, the stash's key of its socket.
pub(crate) const STASH: &str = "fcgi/";

/// Those that are open, by their group's name.
#[derive(Debug, Default)]
pub(crate) struct Sockets(BTreeMap<String, Shared>);

#[derive(Debug)]
struct Shared {
    url: String,
    listening: OwnedFd,
    /// Processes that have been given it and have not ended.
    holders: BTreeSet<String>,
}

impl Sockets {
    /// The group's socket as stdin for a process that is about to be spawned.
    pub(crate) fn hold(
        &mut self,
        name: &ProcessName,
        socket: &FcgiSocket,
        logs: &Logs,
    ) -> Result<OwnedFd, SocketError> {
        // What its last run held goes first: a group of one process gets a new socket each time.
        self.release(name, logs);
        if !self.0.contains_key(&name.group) {
            let url = socket.address.to_string();
            let listening = create(socket, logs)?;
            self.0.insert(name.group.clone(), Shared { url, listening, holders: BTreeSet::new() });
        }
        let shared = self.0.get_mut(&name.group);
        let given = shared.map_or(Err(Errno::EBADF.into()), |shared| {
            shared.holders.insert(name.process.clone());
            shared.listening.try_clone()
        });
        given.map_err(|error| failed(socket, Errno::from_raw(error.raw_os_error().unwrap_or(0))))
    }

    /// A socket of the agent before this one, and those that have it.
    pub(crate) fn take_up<'a>(
        &mut self,
        group: &str,
        config: &FcgiSocket,
        listening: OwnedFd,
        holders: impl Iterator<Item = &'a ProcessName>,
    ) {
        let holders = holders.map(|name| name.process.clone()).collect();
        let shared = Shared { url: config.address.to_string(), listening, holders };
        self.0.insert(group.to_owned(), shared);
    }

    /// The process has ended, or could not be spawned. Nothing where it holds no socket; whether it was the last.
    pub(crate) fn release(&mut self, name: &ProcessName, logs: &Logs) -> bool {
        let Some(shared) = self.0.get_mut(&name.group) else { return false };
        shared.holders.remove(&name.process);
        if shared.holders.is_empty()
            && let Some(shared) = self.0.remove(&name.group)
        {
            logs.line(LogLevel::Info, format!("Closing socket {}", shared.url));
            return true;
        }
        false
    }
}

/// Makes and closes the socket of every group that has one: what is wrong is said before anything starts.
pub(crate) fn try_out(groups: &[Group], logs: &Logs) -> Result<(), SocketError> {
    for group in groups {
        if let GroupKind::Fcgi(socket) = &group.kind {
            drop(create(socket, logs)?);
            logs.line(LogLevel::Info, format!("Closing socket {}", socket.address));
        }
    }
    Ok(())
}

fn create(socket: &FcgiSocket, logs: &Logs) -> Result<OwnedFd, SocketError> {
    logs.line(LogLevel::Info, format!("Creating socket {}", socket.address));
    make(socket).map_err(|cause| failed(socket, cause))
}

fn failed(socket: &FcgiSocket, cause: impl Into<Cause>) -> SocketError {
    SocketError { url: socket.address.to_string(), cause: cause.into() }
}

fn make(config: &FcgiSocket) -> Result<OwnedFd, Cause> {
    let listening = match &config.address {
        FcgiAddress::Tcp { port, address, .. } => {
            let address = SocketAddrV4::new(address.ok_or(Cause::UnknownHost)?, *port);
            let made = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            setsockopt(&made, ReuseAddr, &true)?;
            bind(made.as_raw_fd(), &SockaddrIn::from(address))?;
            made
        }
        FcgiAddress::Unix { path, owner, mode } => unix(path, *owner, *mode)?,
    };
    let backlog = config.backlog.map_or(Some(Backlog::MAXCONN), |backlog| {
        i32::try_from(backlog).ok().and_then(|backlog| Backlog::new(backlog).ok())
    });
    // One that is too large is as large as the system allows.
    listen(&listening, backlog.unwrap_or(Backlog::MAXALLOWABLE))?;
    Ok(listening)
}

/// Takes the place of a socket of that name, whoever made it: one's own earlier ones stay in the file system.
fn unix(path: &Path, owner: Option<(u32, u32)>, mode: u32) -> Result<OwnedFd, Cause> {
    let address = UnixAddr::new(path).map_err(|_| Cause::TooLong)?;
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => nix::unistd::unlink(path)?,
        Ok(_) => return Err(Cause::NotASocket),
        Err(_) => {}
    }
    let made = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(made.as_raw_fd(), &address)?;
    own(path, owner, mode).inspect_err(|_| {
        let _ = nix::unistd::unlink(path);
    })?;
    Ok(made)
}

fn own(path: &Path, owner: Option<(u32, u32)>, mode: u32) -> Result<(), Cause> {
    if let Some((uid, gid)) = owner {
        let kept = |id: u32| (id != u32::MAX).then_some(id);
        nix::unistd::chown(path, kept(uid).map(Uid::from_raw), kept(gid).map(Gid::from_raw))
            .map_err(|errno| Cause::Chown(errno, path.display().to_string()))?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(Cause::Chmod)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use nix::sys::socket::getsockname;

    use super::*;

    fn at(path: &Path, mode: u32) -> FcgiSocket {
        FcgiSocket { address: FcgiAddress::Unix { path: path.to_owned(), owner: None, mode }, backlog: None }
    }

    fn tcp(address: Option<std::net::Ipv4Addr>, port: u16) -> FcgiSocket {
        let address = FcgiAddress::Tcp { host: "a.example".to_owned(), port, address };
        FcgiSocket { address, backlog: Some(65_535) }
    }

    fn error(config: &FcgiSocket) -> String {
        failed(config, make(config).unwrap_err()).to_string()
    }

    /// Of the socket itself, not of its name.
    fn inode(socket: &OwnedFd) -> u64 {
        nix::sys::stat::fstat(socket).unwrap().st_ino
    }

    /// Sockets, and names of two processes that share one.
    fn pair() -> (Sockets, ProcessName, ProcessName) {
        (Sockets::default(), ProcessName::new("f", "a"), ProcessName::new("f", "b"))
    }

    #[test]
    fn processes_of_a_group_share_one_socket_until_the_last_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.sock");
        let (socket, logs) = (at(&path, 0o660), Logs::nowhere());
        let (mut sockets, a, b) = pair();
        let first = sockets.hold(&a, &socket, &logs).unwrap();
        let second = sockets.hold(&b, &socket, &logs).unwrap();
        assert_eq!(inode(&first), inode(&second));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        drop((first, second));
        sockets.release(&a, &logs);
        UnixStream::connect(&path).unwrap();
        sockets.release(&b, &logs);
        assert!(UnixStream::connect(&path).is_err());
        // Its name stays, and is taken anew.
        let _third = sockets.hold(&b, &socket, &logs).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_process_that_is_spawned_again_keeps_the_socket_only_where_another_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.sock");
        let (socket, logs) = (at(&path, 0o700), Logs::nowhere());
        let (mut sockets, a, b) = pair();
        let first = sockets.hold(&a, &socket, &logs).unwrap();
        let _second = sockets.hold(&b, &socket, &logs).unwrap();
        assert_eq!(inode(&sockets.hold(&a, &socket, &logs).unwrap()), inode(&first));
        sockets.release(&b, &logs);
        assert_ne!(inode(&sockets.hold(&a, &socket, &logs).unwrap()), inode(&first));
    }

    #[test]
    fn an_old_socket_is_replaced_and_another_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.sock");
        let _old = UnixListener::bind(&path).unwrap();
        make(&at(&path, 0o700)).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "mine").unwrap();
        let expected = "it exists and is not a socket; it is left alone";
        assert!(error(&at(&path, 0o700)).ends_with(expected));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn a_tcp_socket_listens_where_the_name_stood_for() {
        let made = make(&tcp(Some([127, 0, 0, 1].into()), 0)).unwrap();
        let address: SockaddrIn = getsockname(made.as_raw_fd()).unwrap();
        std::net::TcpStream::connect(SocketAddrV4::from(address)).unwrap();
        let taken = tcp(Some([127, 0, 0, 1].into()), SocketAddrV4::from(address).port());
        let expected = "[Errno 98] Address already in use";
        assert!(error(&taken).ends_with(expected), "{}", error(&taken));
    }

    #[test]
    fn errors_have_supervisors_words() {
        assert_eq!(
            error(&at(Path::new("/nonexistent/f.sock"), 0o700)),
            "Could not create FastCGI socket unix:///nonexistent/f.sock: [Errno 2] No such file or directory"
        );
        assert_eq!(
            error(&tcp(None, 9000)),
            "Could not create FastCGI socket tcp://a.example:9000: [Errno -2] Name or service not known"
        );
        let long = std::path::PathBuf::from(format!("/tmp/{}", "x".repeat(200)));
        assert!(error(&at(&long, 0o700)).ends_with(": AF_UNIX path too long"));
    }
}
