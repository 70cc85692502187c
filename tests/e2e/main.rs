//! End to end: real daemons, real programs, real clients, on loopback. Each test has directories and ports of
//! its own, so all run at once. `FLEETVISOR_TEST_FLAVOUR=python` runs what concerns one host on Supervisor
//! itself instead, which checks the tests.
//!
//! - [`arrows`]: who may import whom.
//! - [`lifecycle`], [`options`], [`logs`], [`daemon`]: one host and its programs.
//! - [`configurations`]: whole files as people write them, the same session on ours and on Supervisor.
//! - [`events`]: event listeners and what they hear.
//! - [`syslog`]: lines to the machine's own log.
//! - [`log_loss`], [`log_trouble`]: nothing is lost, and what can't be written is counted.
//! - [`frozen_disk`]: a disk that hangs.
//! - [`fcgi`]: FastCGI programs, also behind nginx.
//! - [`supervisorctl`]: Supervisor's client on our daemon, our client on Supervisor's.
//! - [`http`]: other sites in a browser, slow clients.
//! - [`terminal`]: `supervisorctl` as a person uses it.
//! - [`ansible`]: Ansible's module, the same steps on both.
//! - [`superlance`], [`python_listeners`]: Supervisor's listeners that people install, and their own.
//! - [`http_answers`]: what one host's server says, its streams and limits, beside Supervisor's.
//! - [`status_page`]: the page of one host in a browser.
//! - [`manual`]: help, manual pages, completion.
//! - [`bad_input`]: what nobody should send.
//! - [`service`]: under systemd, and as pid 1.
//! - [`succession`]: agents that die or are replaced while programs go on.
//! - [`fleet`]: a controller with hosts.

#![allow(clippy::unwrap_used, reason = "all of it is tests")]

mod ansible;
mod arrows;
mod bad_input;
mod configurations;
mod daemon;
mod events;
mod fcgi;
mod fleet;
mod frozen_disk;
mod http;
mod http_answers;
mod lifecycle;
mod log_loss;
mod log_trouble;
mod logs;
mod manual;
mod options;
mod python_listeners;
mod service;
mod status_page;
mod succession;
mod superlance;
mod supervisorctl;
mod syslog;
mod terminal;
