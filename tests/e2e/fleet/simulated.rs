//! Many hosts against one controller: real links, simulated processes. What takes how long is measured elsewhere
//! (`tests/bench-fleet`); here is what must be true.

use std::process::Command;
use std::time::Duration;

use fleetvisor_tests::{binary, run};

const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn fifty_hosts_are_restarted_once_each_and_survive_the_controllers_death() {
    let mut command = Command::new(binary("fleet-sim"));
    command.args(["--check", "--hosts", "50", "--processes", "20"]);
    run(&mut command, LIMIT).expect_code(0);
}
