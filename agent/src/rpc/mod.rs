//! The XML-RPC interface: Supervisor's methods on top of the loop's [`Handle`]. [`table`] lists every method;
//! [`call`] takes a document to the method it names and its result back to a document; the methods themselves
//! stand in [`daemon`], [`groups`], [`processes`], [`info`], [`logs`], [`system`] and [`upgrade`]. HTTP is not known
//! here.

mod args;
mod call;
mod daemon;
mod groups;
mod info;
mod logs;
mod processes;
mod read;
mod system;
mod table;
#[cfg(test)]
pub(crate) mod testing;
mod upgrade;

use crate::inbox::Handle;
use crate::logs::Logs;

pub(crate) use call::Unanswerable;

/// Everything that methods need.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) handle: Handle,
    pub(crate) logs: Logs,
}
