//! What the targets share: a host that exists in memory only, so that a configuration can name any file, user
//! and directory and nothing of the real machine is read.

mod host;

pub use host::MemoryHost;
