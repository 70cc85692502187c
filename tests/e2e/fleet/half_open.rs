//! Links over which nothing comes any more, while nobody has been told: both ends find out by themselves.

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use fleetvisor_tests::{Fleet, Network, Proxy, free_port, wait_for, wait_until};
use nix::sys::signal::Signal;

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
fn a_controller_that_hangs_is_left_for_another_way_to_it() {
    let mut fleet = Fleet::new();
    let token = fleet.token(&["--ttl", "1h"]);
    let (nobody, cable) = (free_port(), Proxy::to(fleet.port()));
    let controllers = format!("127.0.0.1:{nobody},127.0.0.1:{},{}", cable.port(), fleet.address());
    let host = fleet.host_config_at("web-01", "", &token, &controllers, super::WEB).start();
    fleet.wait_host("web-01", "online");
    wait_web(&host);
    let before = pids(&host);
    // The log comes behind what it tells of.
    let log = host.wait_file("supervisord.log", &format!("fleet: linked to 127.0.0.1:{}", cable.port()));
    assert!(log.contains(&format!("fleet: no link to 127.0.0.1:{nobody}")), "{log}");

    cable.cut();
    host.wait_file("supervisord.log", &format!("fleet: linked to {} ", fleet.address()));
    // It hangs: connections stand, and nothing comes over them.
    let linked = |log: &str| log.matches("fleet: linked to").count();
    let links = linked(&host.log());
    fleet.controller().signal(Signal::SIGSTOP);
    let hung = Instant::now();
    wait_for("the host to see that the controller hangs", || {
        let log = host.log();
        let lost = format!("fleet: no link to {}", fleet.address());
        if log.contains(&lost) { Ok(()) } else { Err(log) }
    });
    assert!(hung.elapsed() < NOTICED, "the host took {:?}", hung.elapsed());
    fleet.controller().signal(Signal::SIGCONT);
    wait_until("the host links again", || linked(&host.log()) > links);
    fleet.wait_host("web-01", "online");
    assert_eq!(pids(&host), before);
}

#[test]
fn a_controller_without_descriptors_waits_for_some_and_goes_on() {
    let mut fleet = Fleet::new();
    let pid = fleet.controller().pid();
    let limit = fleetvisor_tests::descriptors_of(pid) + 20;
    let done = Command::new("prlimit").arg(format!("--pid={pid}")).arg(format!("--nofile={limit}")).status();
    assert!(done.is_ok_and(|status| status.success()), "prlimit is there (the package util-linux)");
    // Strangers that say nothing: some of them are taken, and hold what there is until their time is up.
    let strangers: Vec<TcpStream> =
        (0..40).map(|_| TcpStream::connect(("127.0.0.1", fleet.port())).expect("the port is open")).collect();
    wait_until("all descriptors are used", || fleetvisor_tests::descriptors_of(pid) >= limit);
    let log = || fleet.dir().read("controller.out");
    wait_until("it is said", || log().contains("cannot accept a connection"));
    // An attempt every quarter of a second, and not one after the other.
    let attempts = log().matches("cannot accept a connection").count();
    assert!(attempts < 100, "{attempts} attempts");
    wait_for("an operator to get through", || {
        let ran = fleet.ctl(&["host", "list"]);
        if ran.code() == 0 { Ok(()) } else { Err(ran.to_string()) }
    });
    drop(strangers);
}
