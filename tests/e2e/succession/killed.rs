//! The agent is killed with -9 at random moments.

use std::time::Duration;

use fleetvisor_tests::{Flavour, HostConfig, agent_of, is_alive, wait_for};
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
    assert_eq!(diaries_agree(&host), 0, "every exit is known");
    let successions =
        host.log().lines().filter(|line| line.contains(" has ended (terminated by SIGKILL); its ")).count();
    println!("{rounds} agents killed, {successions} successors, {answered} calls answered");
}

#[test]
fn agents_that_keep_dying_are_started_ever_later_and_programs_stay_up() {
    if Flavour::of_suite() == Flavour::Python {
        println!("Supervisor has no agent to kill: not looked at");
        return;
    }
    let mut host = HostConfig::new("[program:sleep]\ncommand=/bin/sleep 1000\n").start();
    host.wait("sleep", "RUNNING");
    let (keeper, program) = (host.daemon().pid(), host.pid("sleep"));
    // As a panic, a bug and the kernel's want of memory end it.
    let mut signals = [Signal::SIGABRT, Signal::SIGSEGV, Signal::SIGKILL].into_iter().cycle();
    let (mut last, mut signal, mut dead) = (0, None, 0);
    wait_for("the keeper to say that it waits", || {
        // Not before it has logged how the one before it has ended.
        let told = host.log().matches(" has ended (terminated by ").count();
        if let Some(agent) = agent_of(keeper).filter(|agent| *agent == last || told >= dead) {
            if agent != last {
                (last, signal, dead) = (agent, signals.next(), dead + 1);
            }
            // Again and again: Rust's own handler takes a first SIGSEGV that comes from outside for none.
            let _ = kill(Pid::from_raw(agent), signal);
        }
        let said = host.dir().read("supervisord.out");
        let waits =
            said.contains("as others did before it; the next one starts in 200 ms, and 1 programs go on");
        if waits { Ok(()) } else { Err(said) }
    });
    answers(&host);
    assert_eq!((host.pid("sleep"), is_alive(program)), (program, true));
    let log = host.log();
    for how in ["SIGABRT", "SIGSEGV", "SIGKILL"] {
        assert!(log.contains(&format!(" has ended (terminated by {how}")), "{how}: {log}");
    }
    assert!(log.contains(" CRIT the keeper: the agent (pid "), "{log}");
    assert!(host.stop().success());
}

#[test]
fn callers_who_are_cut_off_are_told_to_ask_again_and_what_they_asked_for_goes_on() {
    if Flavour::of_suite() == Flavour::Python {
        println!("Supervisor has no agent to kill: not looked at");
        return;
    }
    let mut host =
        HostConfig::new("[program:slow]\ncommand=/bin/sleep 1000\nautostart=false\nstartsecs=60\n").start();
    let keeper = host.daemon().pid();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| host.supervisorctl(&["start", "slow"]));
        host.wait("slow", "STARTING");
        let agent = wait_for("an agent", || agent_of(keeper).ok_or_else(|| "none".to_owned()));
        kill(Pid::from_raw(agent), Signal::SIGKILL).unwrap();
        waiting.join().unwrap().expect_code(1).expect_stdout("look at the status, and ask again");
    });
    answers(&host);
    assert_eq!(host.state("slow"), "STARTING");
    assert!(host.stop().success());
}
