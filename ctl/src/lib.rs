//! The operator's clients. [`local`] is `supervisorctl`, for this host, and does `ctl`'s work there too;
//! [`cli`] is `ctl`'s command line, with one file per verb in `verb`; `fleet` reaches many hosts through the
//! controller.

pub mod cli;
mod fleet;
pub mod local;
mod table;
mod verb;
