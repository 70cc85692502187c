//! Tests that look at a daemon from outside: its exit status, its messages, its signals, what it leaves behind.

use std::fs;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use fleetvisor_keeper::frame::Exit;
use fleetvisor_keeper::{Event, LinkError, Request};

use crate::agent::{Agent, kill, program, shell};
use crate::{AS_DAEMON, Outside, daemon, finish, wait_for};

pub(crate) const ALL: &[Outside] = &[
    ("an_agent_that_is_killed_leaves_nothing_running", is_killed, leaves_nothing_running),
    ("an_agent_that_stops_leaves_nothing_running", stops_early, is_stopped_in_order),
    ("the_first_request_must_be_hello", is_impolite, |command| assert_eq!(code(&finish(command)), 0)),
    ("a_start_that_fails_passes_its_status_and_message_on", fails_to_start, status_and_message_pass),
    ("a_signal_while_starting_reaches_the_daemon", waits_for_interrupt, is_interrupted),
    ("a_daemon_lets_go_when_ready_and_lives_on", lives_on, lets_go),
    ("frames_that_cannot_be_followed_end_the_agent", sends_a_bad_length, says_that_it_cannot_follow),
    ("an_agent_that_only_hangs_up_is_waited_for", hangs_up, |command| assert_eq!(code(&finish(command)), 9)),
    ("messages_go_where_the_agent_wants_them", passes_a_message_file, messages_are_in_the_file),
    ("an_agent_that_left_something_is_succeeded", dies_twice, is_succeeded),
    ("an_agent_is_replaced_by_another_program_or_that_before_goes_on", is_replaced, programs_take_turns),
    ("a_keeper_becomes_another_program_and_keeps_its_children", renews_its_keeper, is_renewed),
    ("a_program_that_cannot_read_the_state_is_not_become", keeps_its_keeper, is_unfit),
    ("as_pid_1_orphans_are_reaped_and_told", waits_for_an_orphan, in_a_pid_namespace),
];

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::yield_now();
    }
}

fn end(status: i32) -> ! {
    std::process::exit(status)
}

/// Where a test's agent and its look from outside share files.
pub(crate) fn folder() -> PathBuf {
    std::env::var_os("KEEPER_TEST_DIR").map_or_else(
        || std::env::temp_dir().join(format!("keeper-test-{}", std::process::id())),
        PathBuf::from,
    )
}

fn shared(file: &str) -> PathBuf {
    fs::create_dir_all(folder()).unwrap();
    folder().join(file)
}

fn is_killed(agent: &mut Agent) {
    agent.hello();
    agent.ask(Request::Ready);
    for id in 0..3 {
        let program = agent.spawn(program(id, "/bin/sleep", &["sleep", "1000"]));
        println!("{}", program.pid);
    }
    let _ = kill(std::process::id() as i32, libc::SIGKILL);
}

fn leaves_nothing_running(command: Command) {
    let output = finish(command);
    assert_eq!(code(&output), 70);
    let message = stderr(&output);
    assert!(message.ends_with("was ended by signal 9; stopping its 3 programs\n"), "{message}");
    let pids = String::from_utf8(output.stdout).unwrap();
    assert_eq!(pids.lines().count(), 3);
    for pid in pids.lines() {
        assert_eq!(kill(pid.parse().unwrap(), 0), Err(nix::errno::Errno::ESRCH));
    }
}

fn stops_early(agent: &mut Agent) {
    agent.hello();
    let program = agent.spawn(program(1, "/bin/sleep", &["sleep", "1000"]));
    println!("{}", program.pid);
    agent.stop(5);
    end(0)
}

fn is_stopped_in_order(command: Command) {
    let output = finish(command);
    assert_eq!((code(&output), stderr(&output).as_str()), (5, ""));
    let pid = String::from_utf8(output.stdout).unwrap();
    assert_eq!(kill(pid.trim().parse().unwrap(), 0), Err(nix::errno::Errno::ESRCH));
}

fn is_impolite(agent: &mut Agent) {
    agent.ask(Request::Spawn(Box::new(shell(1, "exit 0"))));
    assert_eq!(agent.refused(), (None, "the first request must be Hello".to_owned()));
    agent.hello();
    agent.stop(0);
}

fn fails_to_start(_: &mut Agent) {
    eprintln!("Error: bad startsecs");
    end(2)
}

fn status_and_message_pass(command: Command) {
    let name = "a_start_that_fails_passes_its_status_and_message_on";
    for command in [command, daemon(AS_DAEMON, name)] {
        let output = finish(command);
        assert_eq!((code(&output), stderr(&output).as_str()), (2, "Error: bad startsecs\n"));
    }
}

fn waits_for_interrupt(agent: &mut Agent) {
    agent.hello();
    fs::write(shared("starting"), "").unwrap();
    agent.wait(|event| *event == Event::Relayed { signo: libc::SIGINT });
    end(3)
}

fn is_interrupted(command: Command) {
    let name = "a_signal_while_starting_reaches_the_daemon";
    for mut command in [command, daemon(AS_DAEMON, name)] {
        let starting = shared("starting");
        let _ = fs::remove_file(&starting);
        let child = command.env("KEEPER_TEST_DIR", starting.parent().unwrap()).spawn().unwrap();
        until("started", || starting.exists());
        kill(child.id() as i32, libc::SIGINT).unwrap();
        assert_eq!(code(&wait_for(child)), 3);
    }
}

fn lives_on(agent: &mut Agent) {
    agent.hello();
    // As the agent proper does: the launcher's caller waits for whoever holds its pipes.
    let null = fs::File::options().read(true).write(true).open("/dev/null").unwrap();
    nix::unistd::dup2_stdout(&null).unwrap();
    nix::unistd::dup2_stderr(&null).unwrap();
    let folder = shared("pid");
    agent.ask(Request::Ready);
    assert!(agent.hello().0);
    let program = agent.spawn(program(1, "/bin/sleep", &["sleep", "1000"]));
    fs::write(folder.with_extension("new"), format!("{} {}", agent.keeper, program.pid)).unwrap();
    fs::rename(folder.with_extension("new"), &folder).unwrap();
    agent.wait(|event| *event == Event::Relayed { signo: libc::SIGTERM });
    agent.stop(0);
    end(0)
}

fn lets_go(_: Command) {
    let pids = shared("pid");
    let _ = fs::remove_file(&pids);
    let mut command = daemon(AS_DAEMON, "a_daemon_lets_go_when_ready_and_lives_on");
    command.env("KEEPER_TEST_DIR", pids.parent().unwrap());
    // Comes back once the daemon has closed what it inherited.
    let output = finish(command);
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
    until("up", || pids.exists());
    let text = fs::read_to_string(&pids).unwrap();
    let pids: Vec<i32> = text.split(' ').map(|pid| pid.parse().unwrap()).collect();
    let sid = |pid: i32| nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid)));
    assert_eq!(sid(pids[0]).unwrap().as_raw(), pids[0]);
    assert_eq!(fs::read_link(format!("/proc/{}/fd/2", pids[0])).unwrap(), PathBuf::from("/dev/null"));
    kill(pids[0], libc::SIGTERM).unwrap();
    until("the program has gone", || kill(pids[1], 0).is_err());
    // A zombie where nobody waits for orphans.
    until("the keeper has gone", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pids[0])).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    });
}

fn sends_a_bad_length(agent: &mut Agent) {
    agent.hello();
    let mut socket = UnixStream::from(agent.link.as_fd().try_clone_to_owned().unwrap());
    socket.write_all(&[0xff; 40]).unwrap();
    loop {
        agent.wait(|_| false);
    }
}

fn says_that_it_cannot_follow(command: Command) {
    let output = finish(command);
    assert_eq!(code(&output), 70);
    let reason = "a frame of 4294967295 bytes is over the limit of 16777216\n";
    let said = stderr(&output);
    assert!(said.contains(&format!("the agent's frames cannot be followed, killing it: {reason}")), "{said}");
}

fn hangs_up(agent: &mut Agent) {
    agent.hello();
    agent.stop(9);
    let program = agent.spawn(shell(1, "exit 0"));
    agent.exited(program.id);
    nix::sys::socket::shutdown(
        std::os::fd::AsRawFd::as_raw_fd(&agent.link.as_fd()),
        nix::sys::socket::Shutdown::Both,
    )
    .unwrap();
    assert!(matches!(agent.link.receive(), Err(LinkError::Gone)));
    end(0)
}

fn passes_a_message_file(agent: &mut Agent) {
    agent.hello();
    let file = fs::File::options().append(true).create(true).open(shared("log")).unwrap();
    agent.ask_with(Request::Ready, vec![file.into()]);
    end(1)
}

fn messages_are_in_the_file(mut command: Command) {
    let log = shared("log");
    let _ = fs::remove_file(&log);
    command.env("KEEPER_TEST_DIR", log.parent().unwrap());
    let output = finish(command);
    assert_eq!((code(&output), stderr(&output).as_str()), (70, ""));
    let text = fs::read_to_string(log).unwrap();
    assert!(text.ends_with("exited with status 1; stopping its 0 programs\n"), "{text}");
}

/// The first agent dies with a signal unheard and a request just sent, the second one ends it.
fn dies_twice(agent: &mut Agent) {
    let (ready, adopted, stashed) = agent.hello();
    if !ready {
        agent.ask(Request::Ready);
        agent.ask(Request::Stash { key: "state".into(), bytes: b"mine".to_vec() });
        agent.spawn(program(7, "/bin/sleep", &["sleep", "1000"]));
        agent.ask(Request::Signal { id: 7, signo: libc::SIGCONT, to_group: false });
        kill(agent.keeper, libc::SIGHUP).unwrap();
        agent.wait(|event| *event == Event::Relayed { signo: libc::SIGHUP });
        // Taken by the keeper although its sender is dead by then.
        agent.link.send(&Request::Spawn(Box::new(shell(8, "exit 4"))), Vec::new()).unwrap();
        agent.link.flush().unwrap();
        let _ = kill(std::process::id() as i32, libc::SIGKILL);
    }
    assert_eq!((adopted, stashed), (2, 1));
    agent.wait(|event| matches!(event, Event::Succeeded { exit: Exit::Signal { signo: 9, .. }, .. }));
    agent.wait(|event| *event == Event::Signalled { id: 7, count: 1 });
    agent.wait(|event| matches!(event, Event::Stashed { bytes, .. } if bytes == b"mine"));
    agent.wait(|event| *event == Event::Relayed { signo: libc::SIGHUP });
    agent.ask(Request::Heard { signo: libc::SIGHUP });
    let (event, _) = agent.wait(|event| matches!(event, Event::Adopted { id: 8, .. }));
    if matches!(event, Event::Adopted { exited: None, .. }) {
        agent.exited(8);
    }
    agent.stop(6);
    end(0)
}

fn is_succeeded(command: Command) {
    let output = finish(command);
    assert_eq!((code(&output), stderr(&output).as_str()), (6, ""));
}

/// The first agent gives way to a copy of its program, that to one which never comes up, and so to itself again.
fn is_replaced(agent: &mut Agent) {
    let (ready, adopted, _) = agent.hello();
    let (copy, second) = (shared("copy"), shared("second"));
    agent.ask(Request::Ready);
    if !ready {
        agent.ask(Request::Stash { key: "state".into(), bytes: Vec::new() });
        agent.spawn(program(7, "/bin/sleep", &["sleep", "1000"]));
        fs::copy("/proc/self/exe", &copy).unwrap();
        agent.ask_with(Request::Replace, vec![fs::File::open(&copy).unwrap().into()]);
        end(0);
    }
    assert_eq!((adopted, fs::read_link("/proc/self/exe").unwrap()), (1, copy));
    let expected = if second.exists() { Exit::Code(1) } else { Exit::Code(0) };
    agent.wait(|event| matches!(event, Event::Succeeded { exit, .. } if *exit == expected));
    if !second.exists() {
        fs::write(second, "").unwrap();
        // It must have lived for a moment, or it is not what to come back to.
        std::thread::sleep(Duration::from_millis(500));
        agent.ask(Request::Replace);
        let reason = "0 descriptors came, 0 were announced, 1 to 1 belong".to_owned();
        assert_eq!(agent.refused(), (None, reason));
        agent.ask_with(Request::Replace, vec![fs::File::open("/bin/false").unwrap().into()]);
        end(0);
    }
    agent.stop(6);
    end(0)
}

fn programs_take_turns(mut command: Command) {
    command.env("KEEPER_TEST_DIR", folder());
    let output = finish(command);
    assert_eq!(code(&output), 6, "{}", stderr(&output));
    let said = stderr(&output);
    let end = "exited with status 1, as others of its program did; the program before it goes on\n";
    assert!(said.starts_with("supervisord: the agent (pid ") && said.ends_with(end), "{said}");
}

fn begins_programs(agent: &mut Agent) {
    assert_eq!(agent.hello(), (false, 0, 0));
    agent.ask(Request::Ready);
    agent.ask(Request::Stash { key: "state".into(), bytes: b"mine".to_vec() });
    agent.spawn(shell(1, "read line; echo $line; exit 5"));
    agent.complete(shell(2, "exit 0"));
    let ended = agent.spawn(shell(3, "exit 6"));
    agent.exited(ended.id);
}

fn renewed(agent: &mut Agent) -> Option<String> {
    agent.ask(Request::Renew);
    match agent.wait(|event| matches!(event, Event::Renewed { .. })) {
        (Event::Renewed { error }, _) => error,
        other => panic!("{other:?}"),
    }
}

fn renews_its_keeper(agent: &mut Agent) {
    begins_programs(agent);
    for _ in 0..3 {
        assert_eq!(renewed(agent), None);
        let command = fs::read(format!("/proc/{}/cmdline", agent.keeper)).unwrap();
        assert!(String::from_utf8_lossy(&command).contains("--keeper-state="));
    }
    // What comes meanwhile is carried out before or after.
    agent.ask(Request::Renew);
    agent.spawn(shell(4, "exit 7"));
    agent.wait(|event| *event == Event::Renewed { error: None });
    assert_eq!(agent.exited(4).exit, Exit::Code(7));
    assert_eq!(agent.hello(), (true, 3, 1));
    let (event, _) = agent.wait(|event| matches!(event, Event::Adopted { id: 3, .. }));
    assert!(matches!(event, Event::Adopted { exited: Some(exited), .. } if exited.exit == Exit::Code(6)));
    let (_, descriptors) = agent.wait(|event| matches!(event, Event::Adopted { id: 1, .. }));
    let [stdin, stdout, ..] = &descriptors[..] else { panic!("{descriptors:?}") };
    nix::unistd::write(stdin, b"hello\n").unwrap();
    assert_eq!(crate::agent::read_some(stdout), "hello\n");
    assert_eq!(agent.exited(1).exit, Exit::Code(5), "still a child of the keeper");
    kill(agent.keeper, libc::SIGUSR2).unwrap();
    agent.wait(|event| *event == Event::Relayed { signo: libc::SIGUSR2 });
    agent.stop(4);
    end(0)
}

fn is_renewed(command: Command) {
    let output = finish(command);
    assert_eq!((code(&output), stderr(&output).as_str()), (4, ""));
}

fn keeps_its_keeper(agent: &mut Agent) {
    begins_programs(agent);
    let error = renewed(agent).unwrap();
    assert_eq!(error, "it does not understand this one's state (Code(3))");
    agent.ask(Request::Signal { id: 1, signo: libc::SIGKILL, to_group: true });
    assert!(matches!(agent.exited(1).exit, Exit::Signal { signo: 9, .. }));
    agent.stop(4);
    end(0)
}

fn is_unfit(mut command: Command) {
    command.env("KEEPER_TEST_UNFIT", "1");
    let output = finish(command);
    assert_eq!((code(&output), stderr(&output).as_str()), (4, ""));
}

fn waits_for_an_orphan(agent: &mut Agent) {
    agent.hello();
    agent.spawn(shell(1, "(sleep 0.1; exit 9) & exit 0"));
    agent.wait(|event| matches!(event, Event::Reaped { exit: Exit::Code(9), .. }));
    agent.stop(0);
    end(0)
}

fn in_a_pid_namespace(command: Command) {
    let mut inside = Command::new("unshare");
    inside.args(["--pid", "--fork", "--user", "--map-root-user"]);
    let possible = inside.arg("true").output().is_ok_and(|output| output.status.success());
    if !possible {
        println!("  (this machine allows no pid namespace: not looked at)");
        return;
    }
    let mut inside = Command::new("unshare");
    inside.args(["--pid", "--fork", "--user", "--map-root-user"]);
    inside.arg(command.get_program()).args(command.get_args());
    let output = inside.output().unwrap();
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
}
