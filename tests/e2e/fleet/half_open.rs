//! Links over which nothing comes any more, while nobody has been told: both ends find out by themselves.

use std::time::{Duration, Instant};

use fleetvisor_tests::{Fleet, Network, wait_for};

use super::{pids, wait_web};

/// What is promised, and what a busy machine may add.
const NOTICED: Duration = Duration::from_secs(15 + 10);

/// A network, or `None` with the reason printed where there can be none.
fn network(name: &str) -> Option<Network> {
    match Network::new(name) {
        Ok(network) => Some(network),
        Err(why) => {
            println!("not tested: no network namespaces here: {why}");
            None
        }
    }
}

#[test]
fn a_pulled_cable_is_noticed_at_both_ends_and_touches_no_program() {
    let Some(mut network) = network("pulled") else { return };
    let namespace = network.host().expect("the hub has room");
    let fleet = Fleet::within(&network);
    let token = fleet.token(&["--ttl", "1h"]);
    let host = fleet
        .host_config_at("web-01", "role=web", &token, &fleet.address(), super::WEB)
        .within(&namespace)
        .start();
    fleet.wait_host("web-01", "online");
    wait_web(&host);
    let before = pids(&host);

    network.cut(0);
    let cut = Instant::now();
    fleet.wait_host("web-01", "away");
    assert!(cut.elapsed() < NOTICED, "the controller took {:?}", cut.elapsed());
    wait_for("the host to see that its link is gone", || {
        let log = host.log();
        if log.contains("fleet: no link to") { Ok(()) } else { Err(log) }
    });
    assert!(cut.elapsed() < NOTICED, "the host took {:?}", cut.elapsed());
    // What is asked for meanwhile is carried out once the cable is in again.
    fleet.ctl(&["--all-hosts", "stop", "web:app"]).expect_code(4);
    assert_eq!(pids(&host), before, "without a controller everything goes on");

    network.mend(0);
    host.wait("web:app", "STOPPED");
    fleet.wait_host("web-01", "online");
    let after = pids(&host);
    assert_eq!(super::changed(&before, &after), ["web:app"]);
}

#[test]
fn a_controller_that_hangs_is_left_for_the_next() {
    let first = Fleet::new();
    // The same authority, store and all, as a stand-by that takes over.
    let token = first.token(&["--ttl", "1h"]);
    let nobody = fleetvisor_tests::free_port();
    let controllers = format!("127.0.0.1:{nobody},127.0.0.1:{}", first.port());
    let host = first.host_config_at("web-01", "", &token, &controllers, super::WEB).start();
    first.wait_host("web-01", "online");
    wait_web(&host);
    let log = host.log();
    assert!(log.contains(&format!("fleet: no link to 127.0.0.1:{nobody}")), "{log}");
    assert!(log.contains(&format!("fleet: linked to 127.0.0.1:{}", first.port())), "{log}");
}
