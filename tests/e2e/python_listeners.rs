//! Listeners that import the library of Supervisor (`supervisor.childutils`), which stays installed beside our
//! daemon, and listeners that end the daemon they run under.

use fleetvisor_tests::{HostConfig, LIMIT, free_port, is_alive, python_program, run};
use nix::sys::signal::Signal;

const CAT: &str = "[program:cat]\ncommand=/bin/cat\nstartsecs=0\n";

/// The listener of README: it says what has ended, and starts it again by XML-RPC.
const README_LISTENER: &str = "\
import os, sys
from supervisor import childutils

rpc = childutils.getRPCInterface(os.environ)
while True:
    headers, payload = childutils.listener.wait()
    event, _ = childutils.eventdata(payload + '\\n')
    sys.stderr.write('{groupname}:{processname} has ended (pid {pid})\\n'.format(**event))
    sys.stderr.flush()
    rpc.supervisor.startProcess('{groupname}:{processname}'.format(**event))
    childutils.listener.ok()
";

#[test]
fn a_listener_of_supervisors_library_hears_and_acts() {
    let python = python_program("python").display().to_string();
    let host = HostConfig::new(&format!(
        "[eventlistener:again]\ncommand={python} {{dir}}/again.py\nevents=PROCESS_STATE_EXITED\n\
         stderr_logfile={{dir}}/again.err\n\
         environment=SUPERVISOR_USERNAME=user,SUPERVISOR_PASSWORD=secret\n\
         [program:cat]\ncommand=/bin/cat\nstartsecs=0\nautorestart=false\n"
    ))
    .file("again.py", README_LISTENER)
    .auth("user", "secret")
    .start();
    host.wait("again", "RUNNING");
    host.wait("cat", "RUNNING");
    let pid = host.pid("cat");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    host.wait_file("again.err", &format!("cat:cat has ended (pid {pid})\n"));
    host.wait_new_pid("cat", pid);
}

#[test]
fn supervisor_checks_restarts_what_has_no_open_port() {
    let check = python_program("supervisor_tcp_check").display().to_string();
    let host = HostConfig::new(&format!(
        "[eventlistener:check]\ncommand={check} -n deaf_check -g deaf -p {} -t 1 -r 0\nevents=TICK_5\n\
         stderr_logfile={{dir}}/check.err\n[program:deaf]\ncommand=/bin/cat\nstartsecs=0\n",
        free_port()
    ))
    .start();
    host.wait("deaf", "RUNNING");
    let pid = host.pid("deaf");
    host.wait_new_pid("deaf", pid);
    host.wait_file("check.err", "Stopped process deaf\n");
    assert_eq!(host.state("check"), "RUNNING");
}

#[test]
fn supervisord_dependent_startup_starts_programs_in_the_order_of_their_needs() {
    let python = python_program("python").display().to_string();
    let depends = |name: &str, on: &str| {
        format!(
            "[program:{name}]\ncommand=/bin/cat\nautostart=false\nstartsecs=1\ndependent_startup=true\n{on}\n"
        )
    };
    let host = HostConfig::new(&format!(
        "[eventlistener:order]\ncommand={python} -m supervisord_dependent_startup -c {{dir}}/supervisord.conf\n\
         autorestart=unexpected\nstartretries=0\nexitcodes=0,3\nevents=PROCESS_STATE\n\
         stderr_logfile={{dir}}/order.err\n{}{}{}",
        depends("app", "dependent_startup_wait_for=database:running cache:running"),
        depends("cache", "dependent_startup_wait_for=database:running"),
        depends("database", ""),
    ))
    .start();
    let start = |name: &str| {
        let info = host.wait(name, "RUNNING");
        let log = host.log();
        assert!(info.get("start").is_some());
        log.find(&format!("spawned: '{name}'")).unwrap_or_else(|| panic!("{name} in {log}"))
    };
    let (app, cache, database) = (start("app"), start("cache"), start("database"));
    assert!(database < cache && cache < app, "{}", host.log());
}

/// A listener that ends the daemon as soon as it hears of anything.
fn ends_everything(listener: &str, log: &str) {
    let mut host = HostConfig::new(&format!(
        "{CAT}[program:tree]\ncommand=/bin/sh -c 'sleep 600 & wait'\nstartsecs=0\nstopasgroup=true\nkillasgroup=true\n\
         [program:trigger]\ncommand=/bin/true\nautostart=false\nstartsecs=0\nautorestart=false\n{listener}"
    ))
    .start();
    for name in ["cat", "tree", "end"] {
        host.wait(name, "RUNNING");
    }
    let programs = ["cat", "tree", "end"].map(|name| host.pid(name));
    host.supervisorctl_of_suite(&["start", "trigger"]);
    assert_eq!(host.daemon().wait_exit().code(), Some(0), "{}", host.log());
    assert!(host.log().contains(log), "{}", host.log());
    for pid in programs {
        assert!(!is_alive(pid), "pid {pid} outlives the daemon: {}", host.log());
    }
    assert!(!host.path("s.sock").exists() && !host.path("supervisord.pid").exists());
}

#[test]
fn a_python_listener_that_terminates_its_parent_ends_everything() {
    let python = python_program("python").display().to_string();
    let code = "import os, signal; from supervisor import childutils as c; c.listener.wait(); \
                os.kill(os.getppid(), signal.SIGTERM); c.listener.ok(); c.listener.wait()";
    ends_everything(
        &format!(
            "[eventlistener:end]\ncommand={python} -c \"{code}\"\nevents=PROCESS_STATE_EXITED,PROCESS_STATE_FATAL\n"
        ),
        "received SIGTERM indicating exit request",
    );
}

#[test]
fn a_shell_listener_that_quits_its_parent_ends_everything() {
    let listener = "[eventlistener:end]\n\
        command=/bin/sh -c 'printf \"READY\\n\"; while read -r line; do kill -QUIT $PPID; done'\n\
        events=PROCESS_STATE_EXITED\n";
    ends_everything(listener, "received SIGQUIT indicating exit request");
}

#[test]
fn without_a_daemon_the_listeners_say_what_they_need() {
    let mut command = std::process::Command::new(python_program("crashmail"));
    let ran = run(command.env_remove("SUPERVISOR_SERVER_URL").args(["-a", "-m", "x@example.org"]), LIMIT);
    ran.expect_stderr("must be run as a supervisor event listener");
}
