//! Tests that are an agent's conversation with its keeper.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use fleetvisor_keeper::frame::{Exit, Identity, Prepare, PrepareStep, Spawn, SpawnStep, SpawnUser, Stdin};
use fleetvisor_keeper::{Event, Request};

use crate::Conversation;
use crate::agent::{Agent, NOBODY, kill, program, read_all, read_some, shell};

pub(crate) const ALL: &[Conversation] = &[
    ("exits_are_told_as_code_or_signal", exits_are_told_as_code_or_signal),
    ("stdin_stdout_and_stderr_are_pipes_to_the_agent", stdin_stdout_and_stderr_are_pipes_to_the_agent),
    ("redirected_stderr_goes_to_stdout", redirected_stderr_goes_to_stdout),
    ("a_passed_descriptor_becomes_stdin", a_passed_descriptor_becomes_stdin),
    ("exits_are_kept_until_released", exits_are_kept_until_released),
    ("a_term_right_after_spawn_is_never_lost", a_term_right_after_spawn_is_never_lost),
    ("a_signal_to_the_group_reaches_all_of_it", a_signal_to_the_group_reaches_all_of_it),
    ("what_a_child_cannot_do_it_says_in_supervisors_words", what_a_child_cannot_do_it_says),
    ("a_program_runs_as_its_user", a_program_runs_as_its_user),
    ("a_program_inherits_no_descriptor_and_no_signal_setting", a_program_inherits_nothing),
    ("directory_umask_and_environment_are_the_programs_own", directory_umask_and_environment),
    ("what_is_prepared_is_inherited", what_is_prepared_is_inherited),
    ("children_get_the_original_oom_score_back", children_get_the_original_oom_score_back),
    ("running_out_of_descriptors_fails_the_spawn_alone", running_out_of_descriptors_fails_the_spawn_alone),
    ("garbage_is_refused_and_the_next_request_works", garbage_is_refused_and_the_next_request_works),
    ("requests_that_break_a_rule_are_refused", requests_that_break_a_rule_are_refused),
    ("the_stash_comes_back_with_its_descriptors", the_stash_comes_back_with_its_descriptors),
    ("signals_to_the_keeper_are_relayed", signals_to_the_keeper_are_relayed),
    ("agents_of_earlier_releases_are_understood", agents_of_earlier_releases_are_understood),
    ("an_agent_that_does_not_read_misses_nothing", an_agent_that_does_not_read_misses_nothing),
    ("a_thousand_programs_start_at_the_cost_of_the_kernel", a_thousand_programs_start),
];

fn exits_are_told_as_code_or_signal(agent: &mut Agent) {
    let cases = [
        ("exit 0", Exit::Code(0)),
        ("exit 7", Exit::Code(7)),
        ("kill -KILL $$", Exit::Signal { signo: 9, core_dumped: false }),
        ("kill -40 $$", Exit::Signal { signo: 40, core_dumped: false }),
    ];
    let mut last_order = 0;
    for (id, (script, exit)) in cases.into_iter().enumerate() {
        let (exited, ..) = agent.complete(shell(id as u64, script));
        assert_eq!((exited.exit, exited.order), (exit, last_order + 1), "{script}");
        last_order = exited.order;
    }
}

fn stdin_stdout_and_stderr_are_pipes_to_the_agent(agent: &mut Agent) {
    let program = agent.spawn(shell(1, "read line; echo out $line; echo err $line >&2"));
    File::from(program.ends.stdin.unwrap()).write_all(b"hello\n").unwrap();
    assert_eq!(read_all(program.ends.stdout), "out hello\n");
    assert_eq!(read_all(program.ends.stderr.unwrap()), "err hello\n");
}

fn redirected_stderr_goes_to_stdout(agent: &mut Agent) {
    let program = agent.spawn(Spawn { redirect_stderr: true, ..shell(1, "echo a; echo b >&2; echo c") });
    assert!(program.ends.stderr.is_none());
    assert_eq!(read_all(program.ends.stdout), "a\nb\nc\n");
}

fn a_passed_descriptor_becomes_stdin(agent: &mut Agent) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let spawn = Spawn { stdin: Stdin::Passed, ..shell(1, "read line; echo got $line >&0") };
    agent.ask_with(Request::Spawn(Box::new(spawn)), vec![theirs.into()]);
    let program = agent.spawned(1);
    assert!(program.ends.stdin.is_none());
    ours.write_all(b"it\n").unwrap();
    let mut answer = String::new();
    // Ends only if the keeper has not kept the socket open.
    ours.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "got it\n");
}

fn exits_are_kept_until_released(agent: &mut Agent) {
    let ended = agent.spawn(shell(1, "echo kept; exit 3"));
    let lives = agent.spawn(program(2, "/bin/cat", &["cat"]));
    let exited = agent.exited(1);
    drop(ended);

    assert_eq!(agent.hello(), (false, 2, 0));
    let (event, mut descriptors) = agent.wait(|event| matches!(event, Event::Adopted { id: 1, .. }));
    assert!(matches!(event, Event::Adopted { exited: Some(found), .. } if found == exited));
    assert_eq!(read_all(descriptors.remove(1)), "kept\n");
    let (event, descriptors) = agent.wait(|event| matches!(event, Event::Adopted { id: 2, .. }));
    assert!(matches!(event, Event::Adopted { exited: None, pid, .. } if pid == lives.pid));
    assert_eq!(descriptors.len(), 4, "pipes and a pidfd");

    agent.ask(Request::Signal { id: 1, signo: libc::SIGTERM, to_group: true });
    let (event, _) = agent.wait(|event| matches!(event, Event::SignalFailed { .. }));
    assert_eq!(event, Event::SignalFailed { id: 1, errno: libc::ESRCH });
    agent.ask(Request::Spawn(Box::new(shell(1, "exit 0"))));
    assert_eq!(agent.refused(), (Some(1), "the id is in use".to_owned()));
    agent.ask(Request::Release { id: 2 });
    assert_eq!(agent.refused(), (Some(2), "the program has not exited".to_owned()));
    agent.ask(Request::Release { id: 1 });
    assert_eq!(agent.hello(), (false, 1, 0));
    agent.ask(Request::Signal { id: 1, signo: libc::SIGTERM, to_group: false });
    assert_eq!(agent.refused(), (Some(1), "no such program".to_owned()));
    let (exited, ..) = agent.complete(shell(1, "exit 4"));
    assert_eq!(exited.exit, Exit::Code(4));
}

fn a_term_right_after_spawn_is_never_lost(agent: &mut Agent) {
    for id in 0..200 {
        let spawn = Request::Spawn(Box::new(program(id, "/bin/sleep", &["sleep", "1000"])));
        agent.link.send(&spawn, Vec::new()).unwrap();
        agent.ask(Request::Signal { id, signo: libc::SIGTERM, to_group: id % 2 == 0 });
        let exited = agent.exited(id);
        assert_eq!(exited.exit, Exit::Signal { signo: libc::SIGTERM, core_dumped: false });
        agent.ask(Request::Release { id });
    }
}

fn a_signal_to_the_group_reaches_all_of_it(agent: &mut Agent) {
    let program = agent.spawn(shell(1, "sleep 1000 & echo started; wait"));
    assert_eq!(read_some(&program.ends.stdout), "started\n");
    agent.ask(Request::Signal { id: 1, signo: libc::SIGTERM, to_group: true });
    // The background program holds stdout open as long as it lives.
    assert_eq!(read_all(program.ends.stdout), "");
    agent.exited(1);
}

fn what_a_child_cannot_do_it_says(agent: &mut Agent) {
    let missing = || Some(b"/no/such/folder".to_vec());
    let impossible =
        || SpawnUser::Impossible { uid: 123, reason: "Can't drop privilege as nonroot user".into() };
    let cases = [
        (
            Spawn { user: impossible(), directory: missing(), ..shell(1, "exit 0") },
            "couldn't setuid to 123: Can't drop privilege as nonroot user",
        ),
        (
            Spawn { directory: missing(), ..program(2, "/no/such", &["x"]) },
            "couldn't chdir to /no/such/folder: ENOENT",
        ),
        (program(3, "/no/such/file", &["its-name", "-x"]), "couldn't exec its-name: ENOENT"),
        (program(4, "/etc", &["/etc"]), "couldn't exec /etc: EACCES"),
    ];
    for (spawn, message) in cases {
        let expected = format!("supervisor: {message}\nsupervisor: child process was not spawned\n");
        let (exited, stdout, stderr) = agent.complete(spawn.clone());
        assert_eq!((exited.exit, stdout.as_str(), stderr), (Exit::Code(127), "", expected.clone()));
        let (_, stdout, _) = agent.complete(Spawn { redirect_stderr: true, ..spawn });
        assert_eq!(stdout, expected);
    }
}

fn a_program_runs_as_its_user(agent: &mut Agent) {
    let user = Identity { groups: vec![65534, 12], ..NOBODY };
    let spawn = Spawn { user: SpawnUser::Become(user), ..shell(1, "id -u; id -g; id -G") };
    let (_, stdout, stderr) = agent.complete(spawn);
    if nix::unistd::getuid().is_root() {
        assert_eq!((stdout.as_str(), stderr.as_str()), ("65534\n65534\n65534 12\n", ""));
    } else {
        assert!(stderr.starts_with("supervisor: couldn't setuid to 65534: Could not set groups"), "{stderr}");
    }
}

fn a_program_inherits_nothing(agent: &mut Agent) {
    // The fourth is the folder that is being listed.
    let (_, stdout, _) = agent.complete(program(1, "/bin/ls", &["ls", "/proc/self/fd"]));
    assert_eq!(stdout, "0\n1\n2\n3\n");
    let arguments = &["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"];
    let (_, stdout, _) = agent.complete(program(1, "/bin/grep", arguments));
    let masks: Vec<_> = stdout.split_whitespace().collect();
    let none = "0000000000000000";
    assert_eq!(masks, ["SigBlk:", none, "SigIgn:", none]);
    let (_, stdout, _) = agent.complete(shell(1, "cut -d' ' -f1,5 /proc/$$/stat"));
    let numbers: Vec<_> = stdout.split_whitespace().collect();
    assert_eq!(numbers[0], numbers[1]);
}

fn directory_umask_and_environment(agent: &mut Agent) {
    let spawn = Spawn {
        directory: Some(b"/usr".to_vec()),
        umask: Some(0o027),
        env: vec![b"A=b c".to_vec(), b"X=\xff".to_vec()],
        ..shell(1, "/bin/pwd; umask; /usr/bin/env | /usr/bin/od -An -c | /usr/bin/tr -d ' \\n'")
    };
    let (_, stdout, stderr) = agent.complete(spawn);
    assert_eq!(stderr, "");
    assert!(stdout.starts_with("/usr\n0027\n"), "{stdout}");
    assert!(stdout.contains("A=bc\\n") && stdout.contains("X=377\\n"), "{stdout}");
}

fn what_is_prepared_is_inherited(agent: &mut Agent) {
    let (soft, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    let prepare = Prepare {
        directory: Some(b"/tmp".to_vec()),
        umask: Some(0o077),
        minfds: Some(soft.min(100)),
        ..Prepare::default()
    };
    agent.ask(Request::Prepare(prepare));
    agent.wait(|event| *event == Event::Prepared);
    let (_, stdout, _) = agent.complete(shell(1, "pwd; umask; ulimit -n"));
    assert_eq!(stdout, format!("/tmp\n0077\n{soft}\n"));

    agent.ask(Request::Prepare(Prepare { directory: Some(b"/no/such".to_vec()), ..Prepare::default() }));
    let (event, _) = agent.wait(|event| matches!(event, Event::PrepareFailed { .. }));
    assert_eq!(event, Event::PrepareFailed { step: PrepareStep::Directory, errno: libc::ENOENT });

    lower_keepers_files(agent, 40, 60);
    agent.ask(Request::Prepare(Prepare { minfds: Some(50), ..Prepare::default() }));
    agent.wait(|event| *event == Event::Prepared);
    assert_eq!(agent.complete(shell(2, "ulimit -n; ulimit -Hn")).1, "50\n60\n");
    agent.ask(Request::Prepare(Prepare { minfds: Some(70), ..Prepare::default() }));
    // Over the hard limit: a matter of privilege, which not even every root has.
    let answer = agent.wait(|event| matches!(event, Event::Prepared | Event::PrepareFailed { .. })).0;
    if answer == Event::Prepared {
        assert_eq!(agent.complete(shell(2, "ulimit -n; ulimit -Hn")).1, "70\n70\n");
    } else {
        assert_eq!(answer, Event::PrepareFailed { step: PrepareStep::Files, errno: libc::EPERM });
    }
}

fn children_get_the_original_oom_score_back(agent: &mut Agent) {
    let score = |pid: i32| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    // The first score is whoever's that has started the tests; the keeper and the agent lower it where they may.
    let own = score(agent.runner());
    let may = score(agent.keeper) != own;
    println!("  (this machine {} a lower score)", if may { "allows" } else { "does not allow" });
    if may {
        let scores = (score(agent.keeper), score(std::process::id() as i32));
        assert_eq!(scores, ("-1000\n".to_owned(), "-900\n".to_owned()));
    }
    let read = || program(1, "/bin/cat", &["cat", "/proc/self/oom_score_adj"]);
    assert_eq!(agent.complete(read()).1, own);
    if !nix::unistd::getuid().is_root() {
        return;
    }
    let protected = score(agent.keeper);
    agent.ask(Request::Prepare(Prepare { user: Some(NOBODY), ..Prepare::default() }));
    agent.wait(|event| *event == Event::Prepared);
    assert_eq!(agent.complete(shell(1, "id -u")).1, "65534\n");
    assert_eq!(agent.complete(read()).1, own);
    assert_eq!(score(agent.keeper), protected);
}

fn running_out_of_descriptors_fails_the_spawn_alone(agent: &mut Agent) {
    let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    let open = fs::read_dir(format!("/proc/{}/fd", agent.keeper)).unwrap().count() as u64;
    lower_keepers_files(agent, open + 1, hard);
    for id in 0..50 {
        agent.ask(Request::Spawn(Box::new(shell(id, "exit 0"))));
        let (event, _) = agent.wait(|event| matches!(event, Event::SpawnFailed { .. }));
        assert_eq!(event, Event::SpawnFailed { id, step: SpawnStep::Pipes, errno: libc::EMFILE });
    }
    lower_keepers_files(agent, soft, hard);
    assert_eq!(agent.complete(shell(1, "exit 5")).0.exit, Exit::Code(5));
}

fn lower_keepers_files(agent: &Agent, soft: u64, hard: u64) {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` outlives the call, and nothing is asked to be written.
    let result =
        unsafe { libc::prlimit(agent.keeper, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
    assert_eq!(result, 0);
}

fn garbage_is_refused_and_the_next_request_works(agent: &mut Agent) {
    for payload in [&b""[..], b"\xff\xff\xff\xff", b"\x05extra", &[7; 100_000]] {
        let mut frame = (payload.len() as u32).to_le_bytes().to_vec();
        frame.push(0);
        frame.extend(payload);
        let mut socket = UnixStream::from(agent.link.as_fd().try_clone_to_owned().unwrap());
        socket.set_nonblocking(false).unwrap();
        socket.write_all(&frame).unwrap();
        socket.set_nonblocking(true).unwrap();
        let (_, reason) = agent.refused();
        assert!(reason.starts_with("cannot decode a frame of "), "{reason}");
        assert_eq!(agent.complete(shell(1, "echo works")).1, "works\n");
    }
}

fn requests_that_break_a_rule_are_refused(agent: &mut Agent) {
    let null = || OwnedFd::from(File::open("/dev/null").unwrap());
    agent.ask_with(Request::Release { id: 1 }, vec![null()]);
    assert_eq!(agent.refused().1, "1 descriptors came, 1 were announced, 0 to 0 belong");
    agent.ask_with(Request::Ready, vec![null(), null()]);
    assert_eq!(agent.refused().1, "2 descriptors came, 2 were announced, 0 to 1 belong");
    agent.ask_with(Request::Spawn(Box::new(shell(8, "exit 0"))), vec![null()]);
    assert_eq!(agent.refused(), (Some(8), "1 descriptors came, 1 were announced, 0 to 0 belong".to_owned()));
    agent.ask(Request::Spawn(Box::new(Spawn { stdin: Stdin::Passed, ..shell(8, "exit 0") })));
    assert_eq!(agent.refused(), (Some(8), "0 descriptors came, 0 were announced, 1 to 1 belong".to_owned()));
    agent.ask(Request::Spawn(Box::new(program(8, "/bin/\0true", &["true"]))));
    assert_eq!(agent.refused().0, Some(8));
    agent.ask(Request::Release { id: 99 });
    assert_eq!(agent.refused(), (Some(99), "no such program".to_owned()));
    agent.ask(Request::Hello { versions: vec![0, 200] });
    assert_eq!(agent.refused().1, "speaks versions [3, 2, 1] of the frames, none of the agent's");
    agent.spawn(program(8, "/bin/cat", &["cat"]));
    agent.ask(Request::Signal { id: 8, signo: 1000, to_group: false });
    let (event, _) = agent.wait(|event| matches!(event, Event::SignalFailed { .. }));
    assert_eq!(event, Event::SignalFailed { id: 8, errno: libc::EINVAL });
}

fn the_stash_comes_back_with_its_descriptors(agent: &mut Agent) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let stash = |key: &str, bytes: Vec<u8>| Request::Stash { key: key.into(), bytes };
    agent.ask(stash("state", vec![1; 1 << 20]));
    agent.ask(stash("state", vec![2; 2 << 20]));
    agent.ask_with(stash("listener", Vec::new()), vec![theirs.into()]);
    agent.ask(stash("short-lived", Vec::new()));
    agent.ask(Request::Unstash { key: "short-lived".into() });
    agent.ask(stash(&"k".repeat(256), Vec::new()));
    assert_eq!(agent.refused().1, "a stash key of 256 bytes is over the limit of 255");
    assert_eq!(agent.hello(), (false, 0, 2));
    let (event, descriptors) = agent.wait(|event| matches!(event, Event::Stashed { .. }));
    assert_eq!((event, descriptors.len()), (Event::Stashed { key: "listener".into(), bytes: vec![] }, 1));
    UnixStream::from(descriptors.into_iter().next().unwrap()).write_all(b"x").unwrap();
    (&ours).read_exact(&mut [0]).unwrap();
    let (event, _) = agent.wait(|event| matches!(event, Event::Stashed { .. }));
    assert_eq!(event, Event::Stashed { key: "state".into(), bytes: vec![2; 2 << 20] });
}

fn signals_to_the_keeper_are_relayed(agent: &mut Agent) {
    for signo in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGUSR2] {
        kill(agent.keeper, signo).unwrap();
        agent.wait(|event| *event == Event::Relayed { signo });
        // Sent to a whole process group or service, they are the keeper's to tell of.
        kill(std::process::id() as i32, signo).unwrap();
    }
}

fn agents_of_earlier_releases_are_understood(agent: &mut Agent) {
    for (id, spoken) in [(1, 1), (2, 2)] {
        // Also of versions that are yet to come.
        agent.ask(Request::Hello { versions: vec![900, spoken] });
        agent.wait(|event| matches!(event, Event::Hello { version, .. } if *version == spoken));
        agent.spawn(program(id, "/bin/sleep", &["sleep", "1000"]));
        agent.ask(Request::Signal { id, signo: libc::SIGTERM, to_group: false });
        assert_eq!(agent.exited(id).exit, Exit::Signal { signo: libc::SIGTERM, core_dumped: false });
        agent.ask(Request::Release { id });
        kill(agent.keeper, libc::SIGHUP).unwrap();
        agent.wait(|event| *event == Event::Relayed { signo: libc::SIGHUP });
        // Nothing else has come.
        assert!(agent.early().is_empty(), "{:?}", agent.early());
    }
    agent.ask(Request::Hello { versions: vec![900] });
    let reason = "speaks versions [3, 2, 1] of the frames, none of the agent's".to_owned();
    assert_eq!(agent.refused(), (None, reason));
}

fn an_agent_that_does_not_read_misses_nothing(agent: &mut Agent) {
    const COUNT: u64 = 400;
    for id in 0..COUNT {
        agent.ask(Request::Spawn(Box::new(Spawn { redirect_stderr: true, ..shell(id, "exit 6") })));
    }
    // More than the socket holds has been queued by now, and the keeper goes on.
    for _ in 0..1000 {
        kill(agent.keeper, libc::SIGUSR2).unwrap();
    }
    for id in 0..COUNT {
        agent.spawned(id);
        assert_eq!(agent.exited(id).exit, Exit::Code(6));
        agent.ask(Request::Release { id });
    }
    agent.wait(|event| *event == Event::Relayed { signo: libc::SIGUSR2 });
    assert_eq!(agent.hello().1, 0);
}

fn a_thousand_programs_start(agent: &mut Agent) {
    let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    let count = if hard > 4000 { 1000 } else { 100 };
    lower_keepers_files(agent, hard, hard);
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let began = Instant::now();
    for id in 0..count {
        agent.link.send(&Request::Spawn(Box::new(program(id, "/bin/true", &["true"]))), Vec::new()).unwrap();
    }
    agent.ask(Request::Ready);
    let programs: Vec<_> = (0..count).map(|id| agent.spawned(id)).collect();
    let spawned = began.elapsed();
    for program in programs {
        assert!(program.ends.stdout.as_raw_fd() > 2);
        assert_eq!(agent.exited(program.id).exit, Exit::Code(0));
    }
    let each = |time: std::time::Duration| time.as_micros() / u128::from(count);
    let (spawned, exited) = (each(spawned), each(began.elapsed()));
    println!(
        "  {count} programs: {spawned} us each until all are spawned, {exited} us each until all have exited"
    );
}
