//! Real keepers with real programs. This program is three things: the runner, the keeper (`--as-keeper`) and the
//! agent that the keeper starts. Most tests are the agent's side of a conversation, and pass if the agent gets to
//! its end; others also look at the daemon from outside.
//!
//! Words without a dash on the command line choose the tests whose names contain one of them.

#![allow(clippy::unwrap_used, reason = "a test program, which clippy only knows by the standard harness")]

mod agent;
mod conversations;
mod outside;

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use fleetvisor_keeper::{ATTACH_OPTION, CHECK_OPTION, Launch, RESUME_OPTION};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use agent::Agent;

/// A test that is the agent's side alone.
type Conversation = (&'static str, fn(&mut Agent));
/// A test that looks from outside, and what the agent of its name does meanwhile.
type Outside = (&'static str, fn(&mut Agent), fn(Command));

const AS_KEEPER: &str = "--as-keeper";
const AS_DAEMON: &str = "--as-daemon";
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    let first = args.get(1).and_then(|arg| arg.to_str()).unwrap_or_default().to_owned();
    if let Some(descriptor) = first.strip_prefix(ATTACH_OPTION) {
        let test = args[2].to_str().unwrap();
        act(test, Agent::attach(descriptor.parse().unwrap()));
        return ExitCode::SUCCESS;
    }
    if let Some(state) = first.strip_prefix(CHECK_OPTION) {
        let fails = std::env::var_os("KEEPER_TEST_UNFIT").is_some();
        let status = if fails { 3 } else { fleetvisor_keeper::check(state.parse().unwrap()) };
        return ExitCode::from(status as u8);
    }
    if let Some(state) = first.strip_prefix(RESUME_OPTION) {
        let state = state.parse().unwrap();
        args.remove(1);
        return ExitCode::from(fleetvisor_keeper::resume(state, args) as u8);
    }
    if first == AS_KEEPER || first == AS_DAEMON {
        args.remove(1);
        let agent_program = "/proc/self/exe".into();
        let status =
            fleetvisor_keeper::run(Launch { daemonize: first == AS_DAEMON, agent_program, agent_args: args });
        return ExitCode::from(status as u8);
    }
    run_tests(&args[1..])
}

/// The agent of a test.
fn act(test: &str, mut agent: Agent) {
    if let Some((_, body)) = conversations::ALL.iter().find(|(name, _)| *name == test) {
        agent.hello();
        body(&mut agent);
        agent.stop(0);
    } else {
        let (_, body, _) = outside::ALL.iter().find(|(name, ..)| *name == test).unwrap();
        body(&mut agent);
    }
}

fn run_tests(args: &[OsString]) -> ExitCode {
    let words: Vec<_> =
        args.iter().filter_map(|arg| arg.to_str()).filter(|arg| !arg.starts_with('-')).collect();
    let chosen = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));
    // What a careless parent leaves open is not to reach any program.
    let leak = std::fs::File::open("/dev/null").unwrap();
    fcntl(leak.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).unwrap();

    let (mut passed, mut failed) = (0, Vec::new());
    let conversations = conversations::ALL.iter().map(|(name, _)| (*name, complete as fn(Command)));
    for (name, look) in conversations.chain(outside::ALL.iter().map(|(name, _, look)| (*name, *look))) {
        if !chosen(name) {
            continue;
        }
        let began = Instant::now();
        let good = std::panic::catch_unwind(|| look(daemon(AS_KEEPER, name))).is_ok();
        println!(
            "{name} ... {} ({:.2} s)",
            if good { "ok" } else { "FAILED" },
            began.elapsed().as_secs_f32()
        );
        if good { passed += 1 } else { failed.push(name) }
    }
    let _ = std::fs::remove_dir_all(outside::folder());
    println!("\n{passed} passed, {} failed {failed:?}", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn daemon(mode: &str, test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([mode, test]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a conversation must look like from outside: nothing.
fn complete(command: Command) {
    let output = finish(command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}: {stderr}", output.status);
    assert_eq!(stderr, "");
}

fn finish(mut command: Command) -> Output {
    wait_for(command.spawn().unwrap())
}

fn wait_for(child: std::process::Child) -> Output {
    let pid = child.id() as i32;
    let (done, is_done) = std::sync::mpsc::channel();
    let watch = std::thread::spawn(move || {
        if is_done.recv_timeout(LIMIT).is_err() {
            // SAFETY: takes numbers. The child is not waited for before this thread has ended.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    });
    let output = child.wait_with_output().unwrap();
    let _ = done.send(());
    watch.join().unwrap();
    output
}
