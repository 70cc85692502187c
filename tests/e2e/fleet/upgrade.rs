//! `ctl upgrade` over a fleet: one host after the other, and no further than the first that fails.

use std::os::unix::fs::MetadataExt;

use fleetvisor_tests::{Fleet, FleetHost, Proxy, children_of, wait_for};

const APP: &str = "[program:app]\ncommand=/bin/sleep 600\nstartsecs=0\n";

/// Hosts `h-1`, `h-2`, ..., each with programs of its own to be replaced.
fn hosts(fleet: &Fleet, count: usize) -> Vec<FleetHost> {
    let join = |number: usize| {
        let name = format!("h-{number}");
        let token = fleet.token(&["--ttl", "1h", "--host", &name]);
        let cable = Proxy::to(fleet.port());
        let host = fleet.host_config(&name, "", &token, cable.port(), APP).installed().start();
        fleet.wait_host(&name, "online");
        host.wait("app", "RUNNING");
        FleetHost { host, cable }
    };
    (1..=count).map(join).collect()
}

/// Inode of the program that the host's agent runs.
fn running(host: &mut FleetHost) -> u64 {
    let keeper = host.daemon().pid();
    wait_for("an agent", || {
        let agent = children_of(keeper).into_iter().find(|pid| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).contains("--attached-to-keeper=")
        });
        let agent = agent.ok_or_else(|| "none".to_owned())?;
        std::fs::metadata(format!("/proc/{agent}/exe")).map(|it| it.ino()).map_err(|error| error.to_string())
    })
}

fn upgraded(hosts: &mut [FleetHost]) -> Vec<bool> {
    let inode = |path| std::fs::metadata(path).unwrap().ino();
    hosts.iter_mut().map(|host| running(host) == inode(host.path("bin/other"))).collect()
}

#[test]
fn hosts_are_upgraded_one_after_the_other_and_a_host_that_fails_ends_it() {
    let fleet = Fleet::new();
    let mut hosts = hosts(&fleet, 3);
    let pids: Vec<i32> = hosts.iter().map(|host| host.pid("app")).collect();

    hosts[0].install("other");
    hosts[1].dir().script("bin/broken", "echo no luck >&2; exit 1");
    hosts[1].install("broken");
    hosts[2].install("other");
    let ran = fleet.ctl(&["--all-hosts", "upgrade"]).expect_code(4);
    assert!(ran.stdout.contains("h-1:supervisord:supervisord: upgraded from 0.1.0 to 0.1.0\n"), "{ran}");
    assert!(
        ran.stdout.contains("h-2: ") && ran.stdout.contains("instead of proving itself: no luck\n"),
        "{ran}"
    );
    assert!(ran.stderr.contains("is stopped: ") && ran.stderr.contains("batch 2 of 3: 1 host\n"), "{ran}");
    assert!(!ran.stdout.contains("h-3:supervisord"), "{ran}");
    assert_eq!(upgraded(&mut hosts), [true, false, false]);

    hosts[1].install("other");
    let ran = fleet.ctl(&["--all-hosts", "upgrade"]).expect_code(0);
    assert!(ran.stdout.contains("h-1:supervisord:supervisord: 0.1.0 runs /"), "{ran}");
    for host in ["h-2", "h-3"] {
        assert!(
            ran.stdout.contains(&format!("{host}:supervisord:supervisord: upgraded from 0.1.0 to 0.1.0\n")),
            "{ran}"
        );
    }
    assert_eq!(upgraded(&mut hosts), [true, true, true]);
    assert_eq!(hosts.iter().map(|host| host.pid("app")).collect::<Vec<_>>(), pids);
    for host in ["h-1", "h-2", "h-3"] {
        fleet.wait_host(host, "online");
    }
}

#[test]
fn an_upgrade_is_planned_without_a_change_and_takes_no_names() {
    let fleet = Fleet::new();
    let mut hosts = hosts(&fleet, 1);
    hosts[0].install("other");
    let ran = fleet.ctl(&["--all-hosts", "upgrade", "--dry-run"]).expect_code(0);
    assert_eq!(ran.stdout, "batch 1 of 1: upgrade on 1 host\n  h-1\n");
    assert_eq!(upgraded(&mut hosts), [false]);
    fleet.ctl(&["--all-hosts", "upgrade", "app"]).expect_code(2);
    fleet.ctl(&["upgrade", "--batch", "1"]).expect_code(2);
    // Without a scope it is this host's alone, as supervisorctl's.
    let conf = hosts[0].path("supervisord.conf").display().to_string();
    let ran = fleet.ctl(&["-c", &conf, "upgrade"]).expect_code(0);
    assert!(ran.stdout.starts_with("upgraded from 0.1.0 (pid "), "{ran}");
    assert_eq!(upgraded(&mut hosts), [true]);
}
