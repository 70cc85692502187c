//! The agent is killed with -9 at random moments.

use std::time::Duration;

use fleetvisor_tests::{Flavour, agent_of, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::workers::{Clients, answers, diaries_agree, host, states_are_true};
use super::{Dice, rounds};

#[test]
fn nothing_is_lost_or_done_twice_when_the_agent_is_killed_again_and_again() {
    if Flavour::of_suite() == Flavour::Python {
        println!("Supervisor has no agent to kill: not looked at");
        return;
    }
    let mut host = host().start();
    let keeper = host.daemon().pid();
    let clients = Clients::come(&host.rpc);
    let (mut dice, rounds) = (Dice::new(), rounds(12));
    for _ in 0..rounds {
        answers(&host);
        std::thread::sleep(Duration::from_millis(dice.below(700)));
        // Also while it is just taking over from the one before.
        let agent = wait_for("an agent", || agent_of(keeper).ok_or_else(|| "none".to_owned()));
        kill(Pid::from_raw(agent), Signal::SIGKILL).unwrap();
    }
    answers(&host);
    let answered = clients.go();
    assert!(answered > rounds, "{answered} answers in {rounds} rounds");
    states_are_true(&host);
    assert!(host.stop().success());
    diaries_agree(&host);
    let successions =
        host.log().lines().filter(|line| line.contains(" has ended (terminated by SIGKILL); its ")).count();
    println!("{rounds} agents killed, {successions} successors, {answered} calls answered");
}
