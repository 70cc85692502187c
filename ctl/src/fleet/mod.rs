//! The fleet, through its controller: where it is and who asks ([`settings`]), the call ([`client`]), what a
//! command means ([`scope`]), and how answers become lines and an exit status ([`progress`], [`plan`],
//! [`operations`], [`statuses`], [`drift`], [`hosts`], [`tail`]), pure and without a network.

pub(crate) mod client;
pub(crate) mod drift;
pub(crate) mod exit;
pub(crate) mod hosts;
pub(crate) mod operations;
pub(crate) mod plan;
pub(crate) mod print;
pub(crate) mod progress;
pub(crate) mod scope;
pub(crate) mod settings;
pub(crate) mod statuses;
pub(crate) mod tail;
pub(crate) mod when;
