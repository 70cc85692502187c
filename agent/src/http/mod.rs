//! The HTTP servers. [`bind`](bind()) opens the sockets before the daemon begins; [`serve`](serve()) answers
//! on them until it is told to stop. Between a client and the loop stand, in this order: [`connection`] (how
//! long a client may take), [`head`] (the spelling of headers), [`auth`], [`site`] (what is found under which
//! path), and behind that XML-RPC ([`crate::rpc`]), [`pages`] and logs that are followed ([`follow`]).

mod auth;
mod bind;
mod closing;
mod connection;
mod follow;
mod head;
mod inotify;
mod pages;
mod reply;
#[cfg(test)]
mod sequences;
mod serve;
mod site;

pub(crate) use bind::{Bound, Listening, bind};
pub(crate) use serve::{Parting, serve};
