//! The listeners of superlance do their job: programs that are too big, do not answer, crash or never start are
//! noticed by them as under Supervisor. They act once per TICK_5, so each test takes a few seconds.

use fleetvisor_tests::{Host, HostConfig, MailServer, free_port, python_program, wait_for};

/// A host with one listener of superlance, whose mail goes to the file `mail`.
fn host(listener: &str, arguments: &str, events: &str, programs: &str) -> HostConfig {
    let program = python_program(listener).display().to_string();
    HostConfig::new(&format!(
        "[eventlistener:{listener}]\ncommand={program} {arguments}\nevents={events}\n\
         stderr_logfile={{dir}}/listener.err\n{programs}"
    ))
    .script("sendmail", "cat >>$(dirname $0)/mail; echo >>$(dirname $0)/mail; echo END >>$(dirname $0)/mail")
}

/// The first mail, once it is there as a whole.
fn mail(host: &Host) -> String {
    let mails = host.wait_file("mail", "END\n");
    mails.split("END\n").next().unwrap_or_default().to_owned()
}

#[test]
fn memmon_restarts_what_is_too_big_and_nothing_else() {
    let host = host(
        "memmon",
        "-p big=1KB -p small=1GB -g g=1KB -s {dir}/sendmail -m ops@example.org -n watch",
        "TICK_5",
        "[program:big]\ncommand=/bin/cat\nstartsecs=0\n[program:small]\ncommand=/bin/cat\nstartsecs=0\n\
         [program:member]\ncommand=/bin/cat\nstartsecs=0\n[group:g]\nprograms=member\n",
    )
    .start();
    for name in ["big", "small", "g:member"] {
        host.wait(name, "RUNNING");
    }
    let (big, small, member) = (host.pid("big"), host.pid("small"), host.pid("g:member"));
    host.wait_new_pid("big", big);
    host.wait_new_pid("g:member", member);
    assert_eq!(host.pid("small"), small);
    let mail = mail(&host);
    assert!(mail.starts_with("To: ops@example.org\nSubject: memmon [watch]: process "), "{mail}");
    assert!(mail.contains("because it was consuming too much memory"), "{mail}");
    assert_eq!(host.state("memmon"), "RUNNING");
}

/// Answers 503 as long as the file `sick` is there; a start heals it.
const WEB: &str = "\
import http.server, os, sys
sick = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'sick')
if os.path.exists(sick):
    os.remove(sick)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if os.path.exists(sick) else 200)
        self.send_header('Content-Length', '0')
        self.end_headers()
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
";

#[test]
fn httpok_restarts_what_answers_wrongly() {
    let port = free_port();
    let python = python_program("python").display().to_string();
    let host = host(
        "httpok",
        &format!("-p web -s {{dir}}/sendmail -m ops@example.org http://127.0.0.1:{port}/"),
        "TICK_5",
        &format!("[program:web]\ncommand={python} {{dir}}/web.py {port}\n"),
    )
    .file("web.py", WEB)
    .start();
    host.wait("web", "RUNNING");
    let well = host.pid("web");
    host.dir().write("sick", "");
    host.wait_new_pid("web", well);
    let mail = mail(&host);
    assert!(mail.contains(&format!("httpok: http://127.0.0.1:{port}/: bad status returned")), "{mail}");
    assert!(mail.contains("web is in RUNNING state, restarting") && mail.contains("web restarted"), "{mail}");
    assert!(!host.path("sick").exists(), "the new one has healed it");
}

#[test]
fn crashmail_tells_of_an_unexpected_exit_and_of_no_other() {
    let host = host(
        "crashmail",
        "-p fails -p g:ends -o web-01 -s {dir}/sendmail -m ops@example.org",
        "PROCESS_STATE_EXITED",
        "[program:ends]\ncommand=/bin/true\nautostart=false\nstartsecs=0\nautorestart=false\n\
         [group:g]\nprograms=ends\n\
         [program:fails]\ncommand=/bin/false\nautostart=false\nstartsecs=0\nautorestart=false\n",
    )
    .start();
    host.wait("crashmail", "RUNNING");
    host.supervisorctl_of_suite(&["start", "g:ends"]).expect_code(0);
    host.wait("g:ends", "EXITED");
    host.supervisorctl_of_suite(&["start", "fails"]).expect_code(0);
    let mail = mail(&host);
    assert!(mail.starts_with("To: ops@example.org\nSubject: web-01: fails crashed at "), "{mail}");
    assert!(mail.contains("Process fails in group fails exited unexpectedly (pid "), "{mail}");
    assert!(mail.trim_end().ends_with("from state RUNNING"), "{mail}");
}

#[test]
fn fatalmailbatch_mails_what_could_not_be_started() {
    let server = MailServer::new();
    let host = host(
        "fatalmailbatch",
        &format!(
            "--toEmail=ops@example.org --fromEmail=web-01@example.org --smtpHost=127.0.0.1:{} \
             --tickEvent=TICK_5 --interval=0.05",
            server.port()
        ),
        "PROCESS_STATE,TICK_5",
        "[program:one]\ncommand=/bin/false\nstartretries=0\nautostart=false\n\
         [program:two]\ncommand=/bin/false\nstartretries=0\nautostart=false\n[group:g]\nprograms=two\n",
    )
    .start();
    host.wait("fatalmailbatch", "RUNNING");
    for name in ["one", "g:two"] {
        host.supervisorctl_of_suite(&["start", name]);
        host.wait(name, "FATAL");
    }
    // One mail or two: a tick may come between.
    let mails = wait_for("mail about both", || {
        let mails = server.mails().join("\n");
        let both = ["one:one", "g:two"].iter().all(|name| mails.contains(&format!("Process {name} failed")));
        if both { Ok(mails) } else { Err(format!("{mails:?}, {}", host.dir().read("listener.err"))) }
    });
    assert!(mails.contains("Subject: Fatal start alert from supervisord"), "{mails}");
    assert!(mails.contains("failed to start too many times"), "{mails}");
}
