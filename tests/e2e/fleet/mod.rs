//! A controller and hosts: what one command does to all of them.
//!
//! - [`access`]: who is refused.
//! - [`ansible`]: the collection with its modules and role.
//! - [`away`]: hosts that are not there, and come back.
//! - [`bundles`]: configuration that the fleet gives its hosts; [`bundle_rollouts`]: batch by batch.
//! - [`events`]: what is told of all that; [`tail`]: what programs write. [`followed`]: a command that goes on.
//! - [`half_open`]: links that are dead while nobody has said so.
//! - [`partition`]: all of that at random, under a stream of operations.
//! - [`identity`]: certificates and operators over time.
//! - [`restart`], [`status`]: the verbs and the views.
//! - [`drift`]: what somebody does on a host against what was asked.
//! - [`operations`]: rollouts, and operations that outlive whoever began them; [`store`]: what they are kept in.
//! - [`simulated`]: many hosts that have links and no processes.
//! - [`tokens`]: how a host joins. [`tour`]: README's tour. [`json`]: documents against their schemas.

mod access;
mod ansible;
mod away;
mod bundle_rollouts;
mod bundles;
mod drift;
mod events;
mod followed;
mod half_open;
mod identity;
mod json;
mod operations;
mod partition;
mod restart;
mod simulated;
mod status;
mod store;
mod tail;
mod tokens;
mod tour;
mod upgrade;

use std::collections::BTreeMap;
use std::future::Future;

use fleetvisor_proto::identity::Identity;
use fleetvisor_proto::tls::{self, DialError};
use fleetvisor_proto::xmlrpc::Value;
use fleetvisor_tests::{Fleet, FleetHost, Host};
use tonic::transport::Channel;

/// A host that serves: a group of two programs, and one of two processes beside it.
const WEB: &str = "\
[group:web]\nprograms=nginx,app\n\
[program:nginx]\ncommand=/bin/sleep 600\nstartsecs=0\n\
[program:app]\ncommand=/bin/sleep 600\nstartsecs=0\n\
[program:worker]\ncommand=/bin/sleep 600\nprocess_name=worker_%(process_num)02d\nnumprocs=2\nstartsecs=0\n";

/// A host with nothing called `web`.
const DB: &str = "[program:db]\ncommand=/bin/sleep 600\nstartsecs=0\n";

/// A fleet of two web hosts and a database, everything RUNNING.
struct Three {
    fleet: Fleet,
    web_01: FleetHost,
    web_02: FleetHost,
    db_01: FleetHost,
}

impl Three {
    #[track_caller]
    fn start() -> Three {
        let fleet = Fleet::new();
        let web_01 = web(&fleet, "web-01");
        let web_02 = web(&fleet, "web-02");
        let db_01 = fleet.join("db-01", "role=db,dc=us", DB);
        db_01.wait("db", "RUNNING");
        Three { fleet, web_01, web_02, db_01 }
    }
}

/// Joins a web host and waits until all of it runs.
#[track_caller]
fn web(fleet: &Fleet, name: &str) -> FleetHost {
    let host = fleet.join(name, "role=web,dc=eu", WEB);
    wait_web(&host);
    host
}

#[track_caller]
fn wait_web(host: &Host) {
    for name in ["web:nginx", "web:app", "worker:worker_00", "worker:worker_01"] {
        host.wait(name, "RUNNING");
    }
}

/// Pid of each process by its name in two parts; 0 for what doesn't run.
#[track_caller]
fn pids(host: &Host) -> BTreeMap<String, i64> {
    let all = host.call("supervisor.getAllProcessInfo", &[]).expect("it has no fault");
    let text = |info: &Value, key: &str| info.get(key).and_then(Value::as_str).unwrap().to_owned();
    all.as_array()
        .expect("a list")
        .iter()
        .map(|info| {
            let name = format!("{}:{}", text(info, "group"), text(info, "name"));
            (name, info.get("pid").and_then(Value::as_int).unwrap())
        })
        .collect()
}

/// Names of the processes whose pid is another one now.
fn changed(before: &BTreeMap<String, i64>, after: &BTreeMap<String, i64>) -> Vec<String> {
    after.iter().filter(|(name, pid)| before.get(*name) != Some(pid)).map(|(name, _)| name.clone()).collect()
}

/// A connection with this identity, as any program could make it.
async fn dial(fleet: &Fleet, identity: &Identity) -> Result<Channel, DialError> {
    let config = tls::client_config(identity).expect("the identity can be used");
    tls::dial(&format!("localhost:{}", fleet.port()), config).await
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}
