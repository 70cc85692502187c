//! What two programs of the project must agree on: the fleet's protocol ([`fleet`]), how an identity is
//! laid out and proven ([`identity`], [`principal`], [`tls`]), the join token ([`token`]), the audit log's chain
//! ([`audit`]), and XML-RPC ([`xmlrpc`], [`fault`]).

pub mod audit;
pub mod convert;
pub mod fault;
pub mod identity;
pub mod principal;
pub mod tls;
pub mod token;
pub mod xmlrpc;

#[cfg(test)]
mod testing;

/// Messages, clients and servers generated from `fleet.proto`.
#[allow(clippy::all, clippy::unwrap_used, unreachable_pub, missing_debug_implementations)]
pub mod fleet {
    tonic::include_proto!("fleetvisor.v1");
}

/// Path of every call of `fleet.proto`, from its descriptor: `/fleetvisor.v1.Fleet/ListHosts`.
pub const METHODS: &[&str] = include!(concat!(env!("OUT_DIR"), "/methods.rs"));

/// Version of the product, the same for all its programs.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
