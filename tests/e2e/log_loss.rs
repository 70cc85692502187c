//! Sixteen programs write a hundred megabytes, their logs are rotated, others are reopened and cleared meanwhile:
//! every byte is there once and in order.

use std::fmt::Write as _;

use fleetvisor_tests::{Host, HostConfig, wait_for};
use nix::sys::signal::Signal;

const WRITERS: usize = 16;
/// Those from here on share one file.
const SHARING: usize = 12;
/// Of a hundred bytes each.
const LINES: usize = 62_500;
/// More than are needed, so that every byte must still be there.
const BACKUPS: usize = 60;

fn line(writer: usize, number: usize) -> String {
    format!("writer {writer:02} line {number:08} {}\n", "-".repeat(75))
}

/// A log with all its backups, the oldest first.
fn whole(host: &Host, log: &str) -> String {
    let backups = (1..=BACKUPS).rev().map(|number| host.dir().read(&format!("{log}.{number}")));
    backups.collect::<String>() + &host.dir().read(log)
}

#[test]
fn a_hundred_megabytes_of_sixteen_writers_are_there_once_and_in_order() {
    let mut programs = String::from(
        "[program:noise]\ncommand={dir}/noise\nstartsecs=0\nstdout_logfile={dir}/noise.log\n\
         stdout_logfile_maxbytes=20KB\n",
    );
    for writer in 0..WRITERS {
        let log = if writer < SHARING { format!("w{writer}.log") } else { "shared.log".to_owned() };
        let _ = write!(
            programs,
            "[program:w{writer}]\n\
             command=/usr/bin/seq -f \"writer {writer:02} line %%08.0f {}\" 1 {LINES}\n\
             autostart=false\nautorestart=false\nstartsecs=0\nstdout_logfile={{dir}}/{log}\n\
             stdout_logfile_maxbytes=1MB\nstdout_logfile_backups={BACKUPS}\n",
            "-".repeat(75)
        );
    }
    let mut host = HostConfig::new(&programs)
        .script("noise", "i=0; while :; do echo noise $i; i=$((i+1)); sleep 0.002; done")
        .start();
    for writer in 0..WRITERS {
        host.call("supervisor.startProcess", &[format!("w{writer}").as_str().into(), false.into()]).unwrap();
    }
    for writer in 0..WRITERS {
        let name = format!("w{writer}");
        wait_for(&format!("{name} to be done"), || {
            host.daemon().signal(Signal::SIGUSR2);
            host.call("supervisor.clearProcessLogs", &["noise".into()])
                .map_err(|fault| format!("{fault:?}"))?;
            match host.state(&name).as_str() {
                "EXITED" => Ok(()),
                state => Err(state.to_owned()),
            }
        });
    }
    for writer in 0..SHARING {
        let found = whole(&host, &format!("w{writer}.log"));
        let expected: String = (1..=LINES).map(|number| line(writer, number)).collect();
        assert_eq!(found.len(), expected.len(), "bytes of writer {writer}");
        assert!(found == expected, "what writer {writer} wrote is out of order");
        assert!(host.path(&format!("w{writer}.log.3")).exists(), "it has been rotated");
    }
    let mut next = [1; WRITERS];
    for found in whole(&host, "shared.log").split_inclusive('\n') {
        let writer: usize = found.get(7..9).and_then(|digits| digits.parse().ok()).unwrap_or(usize::MAX);
        assert!((SHARING..WRITERS).contains(&writer), "a line of nobody: {found:?}");
        assert_eq!(found, line(writer, next[writer]));
        next[writer] += 1;
    }
    assert_eq!(next[SHARING..], [LINES + 1; WRITERS - SHARING]);
}
