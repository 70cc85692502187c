//! XML-RPC as Supervisor speaks it, both directions: [`Value`], documents read ([`parse_call`],
//! [`parse_response`]) within [`Limits`], and documents written byte for byte as Python's `xmlrpc.client`
//! writes them. Neither HTTP nor the meaning of any method is known here.

mod element;
mod read;
mod scalar;
mod value;
mod write;

pub use read::{Call, Limits, XmlRpcError, parse_call, parse_response};
pub use value::Value;
pub use write::{write_call, write_fault, write_response};
