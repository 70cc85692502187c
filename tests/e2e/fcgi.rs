//! FastCGI programs: one socket for all of a group, made and closed with its processes; a real one behind nginx.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use fleetvisor_proto::xmlrpc::Value;
use fleetvisor_tests::{Address, Host, HostConfig, LIMIT, free_port, run, wait_for, wait_until};

/// nginx that passes every request to the socket, with a script for what answers there. Its worker may be
/// anybody else but for `user`, and the directory is private.
const NGINX: &str = "daemon off;\nuser root;\npid {dir}/nginx.pid;\nerror_log {dir}/nginx.err;\nevents {}\nhttp {\n\
    access_log off;\nchunked_transfer_encoding off;\nclient_body_temp_path {dir}/t1;\n\
    proxy_temp_path {dir}/t2;\nfastcgi_temp_path {dir}/t3;\nuwsgi_temp_path {dir}/t4;\n\
    scgi_temp_path {dir}/t5;\nserver {\nlisten 127.0.0.1:{port};\nlocation / {\n\
    fastcgi_pass {pass};\nfastcgi_param SCRIPT_FILENAME {dir}/page;\nfastcgi_param REQUEST_METHOD $request_method;\n\
    fastcgi_param QUERY_STRING $query_string;\n}\n}\n}\n";

/// A host with nginx on the port, in front of the programs, and a page that says what it was asked.
fn behind_nginx(port: u16, pass: &str, programs: &str) -> Host {
    let host = HostConfig::new(&format!(
        "[program:nginx]\ncommand=nginx -e {{dir}}/nginx.err -c {{dir}}/nginx.conf\nstartsecs=0\n{programs}"
    ))
    .script("page", "printf 'Content-Type: text/plain\\r\\n\\r\\nasked %s by %s\\n' \"$QUERY_STRING\" $PPID");
    let mut host = host.prepare();
    let dir = host.dir().path().display().to_string();
    let conf = NGINX.replace("{pass}", pass).replace("{port}", &port.to_string());
    host.dir().write("nginx.conf", conf.replace("{dir}", &dir));
    host.start();
    host
}

/// Asks nginx until it answers with this status, and gives the body.
#[track_caller]
fn ask(port: u16, status: u16) -> String {
    wait_for(&format!("{status} from nginx"), || {
        let answer = Address::Inet(port).request("GET", "/?hello", "", b"")?;
        match answer.status == status {
            true => Ok(String::from_utf8_lossy(&answer.body).into_owned()),
            false => Err(format!("{answer:?}")),
        }
    })
}

/// The socket that both have, once they are what they are to be. fcgiwrap moves it away from stdin.
#[track_caller]
fn shared_socket(one: i32, other: i32) -> String {
    let sockets = |pid: i32| -> BTreeSet<String> {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let links = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        links.map(|link| link.display().to_string()).filter(|link| link.starts_with("socket:")).collect()
    };
    wait_for("a socket that both have", || {
        let (one, other) = (sockets(one), sockets(other));
        one.intersection(&other).next().cloned().ok_or_else(|| format!("{one:?} {other:?}"))
    })
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_fastcgi_program_answers_behind_nginx_for_as_long_as_it_runs() {
    let port = free_port();
    let host = behind_nginx(
        port,
        "unix:{dir}/f.sock",
        "[fcgi-program:wrap]\ncommand=fcgiwrap\nsocket=unix://{dir}/f.sock\nsocket_mode=0600\nsocket_backlog=64\n\
         numprocs=2\nprocess_name=%(program_name)s_%(process_num)d\nstartsecs=0\n",
    );
    host.wait("wrap:wrap_1", "RUNNING");
    assert!(ask(port, 200).starts_with("asked hello by "));
    let pids = [host.pid("wrap:wrap_0"), host.pid("wrap:wrap_1")];
    let socket = shared_socket(pids[0], pids[1]);
    assert_eq!(mode(&host.path("f.sock")), 0o600);

    // With one of the two gone the other one answers, on the same socket.
    host.call("supervisor.stopProcess", &["wrap:wrap_0".into()]).unwrap();
    assert_eq!(ask(port, 200), format!("asked hello by {}\n", pids[1]));
    host.call("supervisor.startProcess", &["wrap:wrap_0".into()]).unwrap();
    assert_eq!(shared_socket(host.pid("wrap:wrap_0"), pids[1]), socket);

    host.call("supervisor.stopProcessGroup", &["wrap".into()]).unwrap();
    ask(port, 502);
    host.call("supervisor.startProcessGroup", &["wrap".into()]).unwrap();
    ask(port, 200);
}

#[test]
fn a_fastcgi_program_on_tcp_answers_again_after_a_crash() {
    let (port, socket) = (free_port(), free_port());
    let host = behind_nginx(
        port,
        &format!("127.0.0.1:{socket}"),
        &format!("[fcgi-program:wrap]\ncommand=fcgiwrap\nsocket=tcp://localhost:{socket}\nstartsecs=0\n"),
    );
    let pid = host.wait("wrap", "RUNNING").get("pid").and_then(Value::as_int).unwrap();
    assert_eq!(ask(port, 200), format!("asked hello by {pid}\n"));
    host.call("supervisor.signalProcess", &["wrap".into(), "KILL".into()]).unwrap();
    let new = host.wait_new_pid("wrap", i32::try_from(pid).unwrap());
    assert_eq!(ask(port, 200), format!("asked hello by {new}\n"));
}

#[test]
fn the_log_says_when_the_socket_is_made_and_closed() {
    let mut host = Host::with(
        "[fcgi-program:f]\ncommand=/bin/sleep 600\nsocket=unix://{dir}/%(program_name)s.sock\nstartsecs=0\n",
    );
    host.wait("f", "RUNNING");
    host.stop();
    let url = format!("socket unix://{}", host.path("f.sock").display());
    let log = host.log();
    let told: Vec<&str> = log
        .lines()
        .filter(|line| line.contains(&url) || line.contains("'f'") || line.contains("stopped: f"))
        .filter_map(|line| line.split_whitespace().nth(3))
        .collect();
    assert_eq!(told, ["Creating", "Closing", "Creating", "spawned:", "stopped:", "Closing"]);
    assert!(host.path("f.sock").exists());
}

#[test]
fn inside_a_group_its_stdin_is_a_pipe() {
    let host = Host::with(
        "[fcgi-program:f]\ncommand=/bin/cat\nsocket=unix://{dir}/f.sock\nstartsecs=0\nstdout_logfile={dir}/f.log\n\
         [group:g]\nprograms=f\n\
         [fcgi-program:own]\ncommand=/bin/sleep 600\nsocket=unix://{dir}/own.sock\nstartsecs=0\n",
    );
    host.wait("g:f", "RUNNING");
    host.wait("own", "RUNNING");
    host.call("supervisor.sendProcessStdin", &["g:f".into(), "hello\n".into()]).unwrap();
    host.wait_file("f.log", "hello\n");
    assert!(!host.path("f.sock").exists());
    let fault = host.call("supervisor.sendProcessStdin", &["own".into(), "x".into()]).unwrap_err();
    assert_eq!((fault.code, fault.text.as_str()), (20, "NO_FILE: own"));
}

#[test]
fn a_socket_that_can_not_be_made_ends_the_start() {
    let host = HostConfig::new("[fcgi-program:f]\ncommand=/bin/sleep 600\nsocket=unix://{dir}/no/f.sock\n")
        .prepare();
    let config = host.path("supervisord.conf").display().to_string();
    for arguments in [&["-n", "-c", &config][..], &["-c", &config]] {
        let ran = run(&mut host.command(arguments), LIMIT);
        let expected = format!(
            "Could not create FastCGI socket unix://{}/no/f.sock: [Errno 2] No such file or directory\n",
            host.dir().path().display()
        );
        assert_eq!(ran.status.code(), Some(1), "{ran:?}");
        assert!(ran.stderr.ends_with(&expected), "{ran:?}");
    }
}

#[test]
fn a_socket_that_can_not_be_made_later_is_an_error_and_the_rest_runs_on() {
    let program = "[program:p]\ncommand=/bin/sleep 600\nstartsecs=0\n";
    let fcgi = "[fcgi-program:f]\ncommand=/bin/sleep 600\nsocket=unix://{dir}/d/f.sock\nstartsecs=0\nstartretries=0\n";
    let mut host = Host::with(program);
    let pid = host.wait("p", "RUNNING").get("pid").and_then(Value::as_int).unwrap();
    host.reconfigure(&format!("{program}{fcgi}"));
    host.call("supervisor.reloadConfig", &[]).unwrap();
    let why = format!(
        "Could not create FastCGI socket unix://{}/d/f.sock: [Errno 2] No such file or directory",
        host.dir().path().display()
    );
    let fault = host.call("supervisor.addProcessGroup", &["f".into()]).unwrap_err();
    assert_eq!((fault.code, fault.text), (30, format!("FAILED: {why}")));

    std::fs::create_dir(host.path("d")).unwrap();
    host.call("supervisor.addProcessGroup", &["f".into()]).unwrap();
    host.wait("f", "RUNNING");
    UnixStream::connect(host.path("d/f.sock")).unwrap();
    std::fs::remove_dir_all(host.path("d")).unwrap();
    host.call("supervisor.stopProcess", &["f".into()]).unwrap();
    assert_eq!(host.call("supervisor.startProcess", &["f".into()]).unwrap_err().code, 50);
    let info = host.wait("f", "FATAL");
    assert_eq!(info.get("spawnerr").and_then(Value::as_str), Some(why.as_str()));

    std::fs::create_dir(host.path("d")).unwrap();
    host.call("supervisor.startProcess", &["f".into()]).unwrap();
    wait_until("the socket to answer", || UnixStream::connect(host.path("d/f.sock")).is_ok());
    assert_eq!(i64::from(host.pid("p")), pid);
}
