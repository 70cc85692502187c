//! What a program finds when it starts: user, umask, directory, environment, descriptors.

use std::collections::BTreeMap;

use fleetvisor_proto::xmlrpc::Value;
use fleetvisor_tests::{Flavour, Host, HostConfig, ProcessStat, children_of, wait_for};

/// A program that tells what it sees, and stays.
const SHOW: &str = "id -un; pwd; umask; echo complete; exec sleep 600";

fn shown(host: &Host, name: &str) -> Vec<String> {
    let text = host.wait_file(&format!("{name}.log"), "complete\n");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn directory_and_umask_are_the_programs_own() {
    let host = HostConfig::new(
        "[program:default]\ncommand={dir}/show\nstartsecs=0\nstdout_logfile={dir}/default.log\n\
         [program:own]\ncommand={dir}/show\ndirectory={dir}/logs\numask=027\nstartsecs=0\n\
         stdout_logfile={dir}/own.log\n",
    )
    .script("show", SHOW)
    .start();
    let dir = host.dir().path().display().to_string();
    assert_eq!(shown(&host, "default")[1..3], [dir.clone(), "0022".to_owned()]);
    assert_eq!(shown(&host, "own")[1..3], [format!("{dir}/logs"), "0027".to_owned()]);
}

#[test]
fn user_decides_who_runs_it() {
    if !nix::unistd::geteuid().is_root() {
        println!("only root can run programs as somebody else");
        return;
    }
    let host = HostConfig::new(
        "[program:own]\ncommand={dir}/show\nuser=nobody\nstartsecs=0\nstdout_logfile={dir}/own.log\n",
    )
    .script("show", SHOW)
    .start();
    assert_eq!(shown(&host, "own")[0], "nobody");
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid("own"))).unwrap();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap();
    assert!(!groups.split_whitespace().any(|group| group == "0"), "root's groups are gone: {groups}");
}

#[test]
fn environment_is_the_daemons_with_the_programs_on_top() {
    let host = HostConfig::new(
        "[program:env]\ncommand={dir}/env\nstartsecs=0\nautorestart=false\nstdout_logfile={dir}/env.log\n\
         environment=A=\"of the program\",HOST=\"%(ENV_LANG)s\",PERCENT=\"100%%\"\n",
    )
    .script("env", "env; echo complete")
    .supervisord("environment=A=\"of the daemon\",B=\"of the daemon\"")
    .start();
    let text = host.wait_file("env.log", "complete\n");
    let seen: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    assert_eq!(seen["A"], "of the program");
    assert_eq!(seen["B"], "of the daemon");
    assert_eq!(seen["HOST"], "C.UTF-8");
    assert_eq!(seen["PERCENT"], "100%");
    assert_eq!(seen["SUPERVISOR_ENABLED"], "1");
    assert_eq!(seen["SUPERVISOR_PROCESS_NAME"], "env");
    assert_eq!(seen["SUPERVISOR_GROUP_NAME"], "env");
    assert_eq!(seen["SUPERVISOR_SERVER_URL"], format!("unix://{}", host.path("s.sock").display()));
}

#[test]
fn environment_path_finds_the_command() {
    let host = HostConfig::new(
        "[program:found]\ncommand=only-here\nenvironment=PATH=\"{dir}/bin:%(ENV_PATH)s\"\nstartsecs=0\n",
    )
    .script("bin/only-here", "exec sleep 600")
    .start();
    host.wait("found", "RUNNING");
}

#[test]
fn included_files_belong_to_the_configuration() {
    let host = HostConfig::new("[include]\nfiles=conf.d/*.conf\n")
        .file("conf.d/extra.conf", "[program:extra]\ncommand=%(here)s/show\nstartsecs=0\n")
        .script("conf.d/show", "exec sleep 600")
        .start();
    host.wait("extra", "RUNNING");
}

#[test]
fn a_program_leads_its_own_process_group_and_is_a_child_of_the_daemons_pid() {
    let mut host = Host::with("[program:p]\ncommand=/bin/sleep 600\nstartsecs=0\n");
    host.wait("p", "RUNNING");
    let (pid, daemon) = (host.pid("p"), host.daemon().pid());
    let stat = ProcessStat::of(pid).unwrap();
    assert_eq!((stat.group, stat.parent), (pid, daemon));
    assert!(children_of(daemon).contains(&pid));
    assert_eq!(host.call("supervisor.getPID", &[]).unwrap().as_int(), Some(i64::from(daemon)));
}

#[test]
fn a_program_inherits_three_descriptors_and_default_signals() {
    let host = Host::with("[program:p]\ncommand=/bin/sleep 600\nstartsecs=0\n");
    let pid = host.wait("p", "RUNNING").get("pid").and_then(Value::as_int).unwrap();
    wait_for("sleep to have replaced the child of the fork", || {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        if name == "sleep\n" { Ok(()) } else { Err(name) }
    });
    let mut descriptors: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    descriptors.sort();
    assert_eq!(descriptors, ["0", "1", "2"]);
    if Flavour::of_suite() == Flavour::Ours {
        // Python leaves SIGPIPE ignored in its children, and with it whatever they pipe to.
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        for key in ["SigBlk:", "SigIgn:"] {
            let mask = status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned();
            assert_eq!(u64::from_str_radix(&mask, 16), Ok(0), "{key} {mask}");
        }
    }
}
