//! Output of programs: on disk, whole, in order, through rotation.

use fleetvisor_proto::xmlrpc::Value;
use fleetvisor_tests::{HostConfig, wait_for};

#[test]
fn stdout_and_stderr_have_files_of_their_own() {
    let host = HostConfig::new(
        "[program:p]\ncommand={dir}/p\nstartsecs=0\nstdout_logfile={dir}/p.log\nstderr_logfile={dir}/p.err\n",
    )
    .script("p", "echo to stdout; echo to stderr >&2; exec sleep 600")
    .start();
    assert_eq!(host.wait_file("p.log", "\n"), "to stdout\n");
    assert_eq!(host.wait_file("p.err", "\n"), "to stderr\n");
}

#[test]
fn redirect_stderr_keeps_the_order_in_one_file() {
    let host = HostConfig::new(
        "[program:p]\ncommand={dir}/p\nstartsecs=0\nredirect_stderr=true\nstdout_logfile={dir}/p.log\n",
    )
    .script("p", "for i in 1 2 3; do echo out $i; echo err $i >&2; done; echo complete; exec sleep 600")
    .start();
    assert_eq!(host.wait_file("p.log", "complete\n"), "out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\ncomplete\n");
}

#[test]
fn the_last_words_of_a_program_are_in_its_log() {
    let host = HostConfig::new(
        "[program:p]\ncommand={dir}/p\nstartsecs=0\nautorestart=false\nstdout_logfile={dir}/p.log\n",
    )
    .script("p", "seq 1 20000; echo last words; exit 0")
    .start();
    host.wait("p", "EXITED");
    let expected: String = (1..=20_000).map(|n| format!("{n}\n")).collect::<String>() + "last words\n";
    wait_for("the whole output", || {
        let log = host.dir().read("p.log");
        if log == expected { Ok(()) } else { Err(format!("{} bytes", log.len())) }
    });
}

#[test]
fn rotation_by_size_loses_and_doubles_nothing() {
    // More backups than are needed, so that every byte must still be there.
    let host = HostConfig::new(
        "[program:p]\ncommand={dir}/p\nstartsecs=0\nautorestart=false\nstdout_logfile={dir}/p.log\n\
         stdout_logfile_maxbytes=4KB\nstdout_logfile_backups=60\n",
    )
    .script("p", "i=0; while [ $i -lt 300 ]; do echo line $i of the output that is rotated; i=$((i+1)); done")
    .start();
    host.wait("p", "EXITED");
    let expected: String = (0..300).map(|n| format!("line {n} of the output that is rotated\n")).collect();
    let files = wait_for("the whole output", || {
        let mut files: Vec<String> = (1..=60)
            .rev()
            .map(|n| host.dir().read(&format!("p.log.{n}")))
            .filter(|file| !file.is_empty())
            .collect();
        files.push(host.dir().read("p.log"));
        let all = files.concat();
        if all == expected { Ok(files) } else { Err(format!("{} of {} bytes", all.len(), expected.len())) }
    });
    assert!(files.len() >= 2, "it has been rotated");
}

#[test]
fn only_so_many_backups_stay() {
    let host = HostConfig::new(
        "[program:p]\ncommand={dir}/p\nstartsecs=0\nautorestart=false\nstdout_logfile={dir}/p.log\n\
         stdout_logfile_maxbytes=1KB\nstdout_logfile_backups=2\n",
    )
    // Written in pieces that the daemon sees one by one, or there would be nothing to rotate.
    .script("p", "i=0; while [ $i -lt 40 ]; do echo line $i $(seq 1 50 | tr -d '\\n'); i=$((i+1)); done")
    .start();
    host.wait("p", "EXITED");
    wait_for("two backups", || {
        let all = host.dir().read("p.log.2") + &host.dir().read("p.log.1") + &host.dir().read("p.log");
        match !host.dir().read("p.log.2").is_empty() && all.contains("line 39 ") {
            true => Ok(()),
            false => Err(all),
        }
    });
    assert!(!host.path("p.log.3").exists());
}

#[test]
fn tail_reads_what_was_written() {
    let host = HostConfig::new("[program:p]\ncommand={dir}/p\nstartsecs=0\nstdout_logfile={dir}/p.log\n")
        .script("p", "echo hello; echo complete; exec sleep 600")
        .start();
    host.wait_file("p.log", "complete\n");
    let read = |method: &str, offset: i32, length: i32| {
        host.call(method, &["p".into(), offset.into(), length.into()]).unwrap()
    };
    assert_eq!(read("supervisor.readProcessStdoutLog", 0, 6), Value::from("hello\n"));
    assert_eq!(read("supervisor.readProcessStdoutLog", -9, 0), Value::from("complete\n"));
    let tail = read("supervisor.tailProcessStdoutLog", 0, 9);
    assert_eq!(tail, Value::Array(vec!["complete\n".into(), 15.into(), true.into()]));
}
