//! The harness of the end-to-end suites: real daemons in directories of their own, on ports of their own,
//! ended with everything they started. It knows how to run and watch the products; what they should do is
//! the suites' business (`e2e/`).
//!
//! [`Host`] is one `supervisord` (ours or Python's) and its configuration, [`Fleet`] a controller with
//! hosts. Both stand on [`Daemon`] (a child that cannot outlive its test), [`WorkDir`] (a directory that is
//! kept, and whose logs are printed, when the test fails) and [`wait_until`]. [`Ran`] is a command that came
//! to its end within its time limit.

mod binaries;
mod browser;
mod command;
mod daemon;
mod fleet;
mod host;
mod http;
mod marked;
mod net;
mod normal;
mod oracle;
mod port;
mod process;
mod proxy;
mod rpc;
pub mod schema;
mod smtp;
mod terminal;
mod wait;
mod workdir;

pub use binaries::binary;
pub use browser::{Browser, Screen};
pub use command::{Ran, run};
pub use daemon::Daemon;
pub use fleet::{Fleet, FleetHost};
pub use host::{Flavour, Host, HostConfig};
pub use http::{Address, Answer, Conversation};
pub use net::Network;
pub use normal::normalise;
pub use oracle::{python_program, python_supervisorctl, python_supervisord};
pub use port::free_port;
pub use process::{ProcessStat, agent_of, children_of, descriptors_of, is_alive, peak_memory_of};
pub use proxy::Proxy;
pub use rpc::Rpc;
pub use smtp::MailServer;
pub use terminal::{CTRL_C, CTRL_D, Terminal, UP};
pub use wait::{LIMIT, wait_for, wait_until};
pub use workdir::WorkDir;
