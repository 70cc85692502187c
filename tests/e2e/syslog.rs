//! Lines to the local syslog daemon, which is the test: it stands at `/dev/log` of a mount namespace in which the
//! daemon runs, so the machine's own is not touched. The same with Supervisor; the datagrams must be equal.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::thread;

use fleetvisor_tests::{Daemon, Flavour, HostConfig, LIMIT, normalise, wait_for};

/// `$1` is a directory; what comes after it is run with a `/dev` of its own.
const DEV: &str = r#"set -e
dir=$1; shift
mkdir "$dir/dev"
for device in null zero random urandom; do
    touch "$dir/dev/$device"
    mount --bind "/dev/$device" "$dir/dev/$device"
done
ln -s /proc/self/fd "$dir/dev/fd"
ln -s "$dir/log" "$dir/dev/log"
mount --rbind "$dir/dev" /dev
exec "$@"
"#;

const PROGRAMS: &str = "\
[program:target]
command=/bin/sh -c 'echo one; echo; printf \"two\\nthree\"; exec sleep 600'
stdout_logfile=syslog
stderr_logfile=NONE
startsecs=0

[program:both]
command=/bin/sh -c 'echo in the file too >&2; exec sleep 600'
stderr_logfile={dir}/both.err
stderr_syslog=true
startsecs=0
";

/// What the syslog daemon gets, each without its time.
fn datagrams(daemon: Flavour) -> Vec<String> {
    let config = HostConfig::new(PROGRAMS).flavour(daemon).supervisord("logfile=syslog\nuser=root\n");
    let host = config.prepare();
    let log = UnixDatagram::bind(host.path("log")).unwrap();
    log.set_read_timeout(Some(LIMIT)).unwrap();
    let config = host.path("supervisord.conf").display().to_string();
    let supervisord = host.command(&["-n", "-c", &config]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--user", "--map-root-user", "sh", "-c", DEV, "sh"]).arg(host.dir().path());
    command.arg(supervisord.get_program()).args(supervisord.get_args());
    let mut running = Daemon::start("supervisord", &mut command, host.dir().path());
    let mut datagrams = Vec::new();
    let mut buffer = [0; 4096];
    let mut receive = |last: &str| {
        while !datagrams.iter().any(|text: &String| text.contains(last)) {
            let count =
                log.recv(&mut buffer).unwrap_or_else(|error| panic!("{last}: {error}: {datagrams:?}"));
            let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
            datagrams.push(without_times(&normalise(&text, host.dir().path())));
        }
    };
    for said in ["target three", "in the file too", "success: target", "success: both"] {
        receive(said);
    }
    wait_for("the line in its file", || {
        let text = host.dir().read("both.err");
        if text == "in the file too\n" { Ok(()) } else { Err(text) }
    });
    running.signal(nix::sys::signal::Signal::SIGTERM);
    receive("stopped: target");
    receive("stopped: both");
    assert!(running.wait_exit().success());
    datagrams
        .retain(|text| !text.contains("INFO waiting for ") && !text.contains("INFO supervisord started"));
    datagrams.sort();
    datagrams
}

/// `<14>Jan 31 23:59:59 supervisord: 2026-01-31 23:59:59,999 INFO text` without its times. Supervisor ends its own
/// lines with a newline, which syslog daemons take away.
fn without_times(text: &str) -> String {
    let (head, text) = text.split_once(" supervisord: ").unwrap_or_else(|| panic!("{text:?}"));
    let (priority, time) = head.split_at(head.find('>').map_or(0, |at| at + 1));
    assert!(time.len() == "Jan 31 23:59:59".len(), "{head:?}");
    let text = text.trim_end_matches('\n');
    let is_time = |word: &str| word.starts_with("20") && word.len() == "2026-01-31".len();
    let said = match text.splitn(3, ' ').collect::<Vec<_>>()[..] {
        [date, _, said] if is_time(date) => said,
        _ => text,
    };
    format!("{priority} {said}")
}

#[test]
fn the_syslog_daemon_gets_what_it_gets_from_supervisor() {
    let possible = Command::new("unshare").args(["--mount", "--user", "--map-root-user", "true"]).output();
    if !possible.is_ok_and(|output| output.status.success()) {
        println!("this machine allows no mount namespace: not looked at");
        return;
    }
    let [ours, expected] = thread::scope(|scope| {
        [Flavour::of_suite(), Flavour::Python]
            .map(|daemon| scope.spawn(move || datagrams(daemon)))
            .map(|session| session.join().expect("the session ends"))
    });
    assert_eq!(ours, expected, "left: ours; right: Supervisor");
}
