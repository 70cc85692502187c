//! Calls of Supervisor's XML-RPC interface, over the unix socket or TCP.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fleetvisor_proto::fault::Fault;
use fleetvisor_proto::xmlrpc::{Limits, Value, parse_response, write_call};

use crate::http::{Address, Answer};

/// A server and what it wants to hear before it answers.
#[derive(Clone, Debug)]
pub struct Rpc {
    pub address: Address,
    /// User and password.
    pub auth: Option<(String, String)>,
}

impl Rpc {
    /// The result or the fault.
    ///
    /// # Errors
    /// In words, when there is no XML-RPC answer at all.
    pub fn call(&self, method: &str, params: &[Value]) -> Result<Result<Value, Fault>, String> {
        let answer = self.post(write_call(method, params).as_bytes())?;
        if answer.status != 200 {
            return Err(format!("{method}: {}", answer.head));
        }
        parse_response(&answer.body, &Limits::RESPONSE).map_err(|error| format!("{method}: {error}"))
    }

    /// Any body, as a call.
    pub fn post(&self, body: &[u8]) -> Result<Answer, String> {
        let auth = match &self.auth {
            Some((user, password)) => {
                format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:{password}")))
            }
            None => String::new(),
        };
        self.address.request("POST", "/RPC2", &format!("{auth}Content-Type: text/xml\r\n"), body)
    }
}
