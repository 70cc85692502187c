//! The keeper is killed with -9: alone, before and after an agent, and together with one.

use std::time::Duration;

use fleetvisor_proto::xmlrpc::Value;
use fleetvisor_tests::{Flavour, Host, HostConfig, agent_of, is_alive, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::workers::{Clients, answers, diaries_agree, host, states_are_true};
use super::{Dice, rounds};

fn no_keeper() -> bool {
    let python = Flavour::of_suite() == Flavour::Python;
    if python {
        println!("Supervisor has no keeper to kill: not looked at");
    }
    python
}

fn keeper_of(host: &Host) -> Option<i32> {
    host.dir().read("supervisord.pid").trim().parse().ok()
}

fn end(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// Kills the keeper; the pid of the one that takes its place.
fn kill_keeper(host: &mut Host) -> i32 {
    let keeper = wait_for("a keeper", || keeper_of(host).ok_or_else(|| "none".to_owned()));
    end(keeper, Signal::SIGKILL);
    if host.daemon().pid() == keeper {
        host.daemon().wait_exit();
    }
    wait_for("another keeper", || {
        keeper_of(host).filter(|pid| *pid != keeper).ok_or_else(|| "the same".to_owned())
    })
}

fn stop(host: &Host) {
    let keeper = keeper_of(host).unwrap();
    end(keeper, Signal::SIGTERM);
    wait_for("the daemon's end", || if is_alive(keeper) { Err("it still runs".to_owned()) } else { Ok(()) });
    assert_eq!(keeper_of(host), None, "the pidfile is gone with the daemon");
}

#[test]
fn nothing_is_lost_or_done_twice_when_the_keeper_is_killed_again_and_again() {
    if no_keeper() {
        return;
    }
    let mut host = host().start();
    let clients = Clients::come(&host.rpc);
    let (mut dice, rounds) = (Dice::new(), rounds(3));
    let mut agents = 0;
    for _ in 0..rounds {
        answers(&host);
        std::thread::sleep(Duration::from_millis(dice.below(700)));
        let keeper = kill_keeper(&mut host);
        if dice.below(3) == 0 {
            std::thread::sleep(Duration::from_millis(dice.below(50)));
            let agent = wait_for("an agent", || agent_of(keeper).ok_or_else(|| "none".to_owned()));
            end(agent, Signal::SIGKILL);
            agents += 1;
        }
    }
    answers(&host);
    let answered = clients.go();
    assert!(answered > rounds, "{answered} answers in {rounds} rounds");
    states_are_true(&host);
    assert_eq!(host.call("supervisor.getPID", &[]).unwrap().as_int(), keeper_of(&host).map(i64::from));
    stop(&host);
    let unknown = diaries_agree(&host);
    println!(
        "{rounds} keepers and {agents} agents killed, {answered} calls answered, {unknown} exits without a status"
    );
}

#[test]
fn an_exit_that_no_keeper_has_seen_is_said_to_be_unknown() {
    if no_keeper() {
        return;
    }
    let mut host = HostConfig::new(
        "[program:old]\ncommand={dir}/ends\nautorestart=false\ndirectory={dir}\n\
         [program:new]\ncommand=/bin/sh -c 'exit 7'\nstartsecs=0\nautostart=false\nautorestart=false\n",
    )
    .script("ends", "while [ ! -e end ]; do sleep 0.05; done; echo said; exit 3")
    .start();
    host.wait("old", "RUNNING");
    kill_keeper(&mut host);
    answers(&host);
    host.dir().write("end", "");
    let info = host.wait("old", "EXITED");
    let text = |key: &str| info.get(key).and_then(Value::as_str).unwrap().to_owned();
    assert_eq!(info.get("exitstatus").and_then(Value::as_int), Some(-1));
    assert_eq!(text("spawnerr"), "exit status unknown");
    assert!(text("description").ends_with(" (exit status unknown)"), "{info:?}");
    assert!(host.log().contains(" WARN exited: old (exit status unknown; not expected)\n"), "{}", host.log());
    // What a new keeper starts, it also waits for.
    host.call("supervisor.startProcess", &["new".into()]).unwrap();
    let info = host.wait("new", "EXITED");
    assert_eq!(info.get("exitstatus").and_then(Value::as_int), Some(7));
    stop(&host);
}

#[test]
fn programs_of_a_keeper_and_an_agent_that_die_together_run_on_alone() {
    if no_keeper() {
        return;
    }
    let mut host = HostConfig::new("[program:sleep]\ncommand=/bin/sleep 1000\n").start();
    host.wait("sleep", "RUNNING");
    let (sleep, keeper) = (host.pid("sleep"), keeper_of(&host).unwrap());
    let agent = agent_of(keeper).unwrap();
    // So that neither notices that the other has gone.
    end(keeper, Signal::SIGSTOP);
    end(agent, Signal::SIGKILL);
    end(keeper, Signal::SIGKILL);
    host.daemon().wait_exit();
    wait_for("the agent's end", || if is_alive(agent) { Err("it still runs".to_owned()) } else { Ok(()) });
    assert!(is_alive(sleep));
    // A daemon that is started then knows nothing of it.
    host.start();
    host.wait("sleep", "RUNNING");
    assert_ne!(host.pid("sleep"), sleep);
    end(sleep, Signal::SIGKILL);
}
