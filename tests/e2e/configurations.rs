//! Configurations of the kinds that people keep in front of their applications: the same file under our daemon
//! and under Supervisor, and the same session with each. What the client shows and the daemon logs must be equal.
//! No program here ends by itself: whether Supervisor sees it run before depends on time.

use std::thread;

use fleetvisor_tests::{Flavour, Host, HostConfig, normalise, wait_for};

/// `{dir}` stands for the directory in every text.
struct Configuration {
    /// `supervisord.conf`, all of it.
    main: &'static str,
    files: Vec<(&'static str, &'static str)>,
    /// The states in which every process comes to rest.
    settled: &'static [(&'static str, &'static str)],
    /// A file that changes while the daemon runs, and the states after an update.
    change: (&'static str, &'static str),
    updated: &'static [(&'static str, &'static str)],
}

impl Configuration {
    fn session(&self, daemon: Flavour) -> Vec<String> {
        let host = HostConfig::new("").flavour(daemon);
        let mut session = Session { host: host.prepare(), flavour: daemon, steps: Vec::new() };
        for (name, text) in self.files.iter().chain(&[("supervisord.conf", self.main)]) {
            session.write(name, text);
        }
        session.host.start();
        session.settle(self.settled);
        for command in ["status", "avail", "reread", "restart all"] {
            session.step(command);
        }
        session.settle(self.settled);
        session.step("status");
        session.write(self.change.0, self.change.1);
        for command in ["reread", "avail", "update"] {
            session.step(command);
        }
        session.settle(self.updated);
        for command in ["status", "stop all", "status", "start all", "stop all"] {
            session.step(command);
            if command == "start all" {
                session.settle(self.updated);
            }
        }
        assert!(session.host.stop().success());
        session.log();
        session.steps
    }

    #[track_caller]
    fn compare(&self) {
        let (ours, expected) = thread::scope(|scope| {
            let [ours, expected] = [Flavour::of_suite(), Flavour::Python]
                .map(|daemon| scope.spawn(move || self.session(daemon)));
            (ours.join().expect("our session ends"), expected.join().expect("Supervisor's session ends"))
        });
        for (ours, expected) in ours.iter().zip(&expected) {
            assert_eq!(ours, expected, "left: ours; right: Supervisor");
        }
        assert_eq!(ours.len(), expected.len());
    }
}

struct Session {
    host: Host,
    flavour: Flavour,
    steps: Vec<String>,
}

impl Session {
    fn write(&self, name: &str, text: &str) {
        let dir = self.host.dir().path().display().to_string();
        self.host.dir().write(name, text.replace("{dir}", &dir));
    }

    fn settle(&self, states: &[(&str, &str)]) {
        for (name, state) in states {
            self.host.wait(name, state);
        }
    }

    fn step(&mut self, command: &str) {
        let words: Vec<&str> = command.split(' ').collect();
        let ran = match self.flavour {
            Flavour::Ours => self.host.supervisorctl(&words),
            Flavour::Python => self.host.python_supervisorctl(&words),
        };
        let text = normalise(&ran.stdout, self.host.dir().path());
        let mut lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        // Processes that are told together answer in the order in which they happen to get there.
        if words[0] != "status" && words[0] != "avail" {
            lines.sort_unstable();
        }
        self.steps.push(format!("$ supervisorctl {command}\n{}\nexit {}", lines.join("\n"), ran.code()));
    }

    /// What the daemon wrote to its stdout: its log, and where programs write there, their output.
    fn log(&mut self) {
        let last = |text: &String| text.lines().any(|line| line.contains("received SIGTERM"));
        let text = wait_for("the daemon's last words", || {
            let text = self.host.dir().read("supervisord.out");
            if last(&text) { Ok(text) } else { Err(text) }
        });
        let text = normalise(&text, self.host.dir().path());
        // How long a stop takes is not compared.
        let told = text.lines().map(without_time).filter(|line| !line.contains("INFO waiting for "));
        let mut lines: Vec<&str> = told.collect();
        lines.sort_unstable();
        self.steps.push(format!("the log\n{}", lines.join("\n")));
    }
}

/// `2026-01-31 23:59:59,999 INFO ...` without the first two words.
fn without_time(line: &str) -> &str {
    let mut words = line.splitn(3, ' ');
    match (words.next(), words.next(), words.next()) {
        (Some(date), Some(time), Some(rest))
            if date.len() == 10 && time.len() == 12 && time.contains(',') =>
        {
            rest
        }
        _ => line,
    }
}

#[test]
fn queue_workers_of_laravel() {
    let main = "\
; supervisord of the shop

[unix_http_server]
file = {dir}/s.sock        ; supervisorctl comes here
chmod = 0700

[supervisord]
logfile={dir}/supervisord.log
logfile_maxbytes=10MB
logfile_backups=3
pidfile={dir}/supervisord.pid
childlogdir={dir}/logs
minfds=256

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{dir}/s.sock

[include]
files = {dir}/conf.d/*.conf
";
    let workers = "\
[program:shop-worker]
process_name=%(program_name)s_%(process_num)02d
command=python3 -S {dir}/artisan.py queue:work redis --sleep=3 --tries=3 --queue=\"high,default\"
autostart=true
autorestart=true
stopasgroup=true
killasgroup=true
numprocs=3
redirect_stderr=true
stdout_logfile={dir}/worker.log
stopwaitsecs=3600
";
    let changed = "\
[program:shop-worker]
process_name=%(program_name)s_%(process_num)02d
command=python3 -S {dir}/artisan.py queue:work redis --sleep=1 --tries=5
autorestart=true
stopasgroup=true
numprocs=2
redirect_stderr=true
stdout_logfile={dir}/worker.log
";
    let scheduler = "\
[program:shop-schedule]
command=/bin/sh -c \"while true; do echo run; sleep 60 & wait; done\"
startsecs=0
user=root
stopasgroup=true
stdout_logfile=/dev/null
stderr_logfile=NONE
";
    let worker = "\
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print(sys.argv[1:], flush=True)
while True:
    signal.pause()
";
    Configuration {
        main,
        files: vec![
            ("conf.d/worker.conf", workers),
            ("conf.d/schedule.conf", scheduler),
            ("conf.d/ignored.conf.bak", "[program:old]\ncommand=/bin/false\n"),
            ("artisan.py", worker),
        ],
        settled: &[
            ("shop-worker:shop-worker_00", "RUNNING"),
            ("shop-worker:shop-worker_01", "RUNNING"),
            ("shop-worker:shop-worker_02", "RUNNING"),
            ("shop-schedule", "RUNNING"),
        ],
        change: ("conf.d/worker.conf", changed),
        updated: &[
            ("shop-worker:shop-worker_00", "RUNNING"),
            ("shop-worker:shop-worker_01", "RUNNING"),
            ("shop-schedule", "RUNNING"),
        ],
    }
    .compare();
}

#[test]
fn django_with_gunicorn_and_celery_in_groups() {
    let main = "\
[supervisord]
logfile = {dir}/supervisord.log
pidfile = %(here)s/supervisord.pid
childlogdir = {dir}/logs
environment = DJANGO_SETTINGS_MODULE=\"site.settings\",LC_ALL='C.UTF-8'

[unix_http_server]
file = %(here)s/s.sock

[supervisorctl]
serverurl = unix://%(here)s/s.sock
prompt = site

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[include]
files = sites/*.ini
        workers/*.ini
";
    let web = "\
[program:gunicorn]
command = /bin/sh -c 'echo $WORKERS $DJANGO_SETTINGS_MODULE at $HOME > {dir}/web.env; exec sleep 600'
directory = %(here)s
environment = PYTHONPATH=\"%(here)s/app:%(ENV_HOME)s/lib\",WORKERS=\"4\",SECRET_KEY=\"a,b=c%%d;e\",LANG=\"%(ENV_LANG)s\"
priority = 900
startsecs = 0
stopsignal = QUIT
stdout_logfile = {dir}/logs/gunicorn.log
stderr_logfile = {dir}/logs/gunicorn.err
";
    let celery = "\
[program:celery]
command = /bin/sleep 601
process_name = %(program_name)s@%(host_node_name)s
startsecs = 0
stopwaitsecs = 30
priority = 998

[program:celerybeat]
command = /bin/sleep 602
startsecs = 0
autostart = false
stdout_logfile_maxbytes = 1MB
priority = 999

[program:flower]
command = /no/such/bin/flower --port=5555
startretries = 0

[group:site]
programs = gunicorn,celerybeat
priority = 10

[group:jobs]
programs = flower
";
    let with_more = "\
[program:gunicorn]
command = /bin/sleep 603
directory = %(here)s
startsecs = 0

[program:gunicorn-admin]
command = /bin/sleep 604
startsecs = 0
";
    // The name of the machine is not one that a client could be told here.
    Configuration {
        main,
        files: vec![("sites/web.ini", web), ("workers/celery.ini", celery)],
        settled: &[("site:gunicorn", "RUNNING"), ("jobs:flower", "FATAL")],
        change: ("sites/web.ini", with_more),
        updated: &[("site:gunicorn", "RUNNING"), ("gunicorn-admin", "RUNNING"), ("jobs:flower", "FATAL")],
    }
    .compare();
}

#[test]
fn a_container_that_logs_to_its_stdout() {
    let main = "\
[supervisord]
nodaemon=true
user=root
logfile=/dev/null
logfile_maxbytes=0
pidfile={dir}/supervisord.pid
loglevel=info

[unix_http_server]
file={dir}/s.sock

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{dir}/s.sock

[program:nginx]
command=/bin/sh -c 'echo nginx is up; echo a warning >&2; exec sleep 600'
autorestart=true
startsecs=0
stdout_logfile=/dev/stdout
stdout_logfile_maxbytes=0
stderr_logfile=/dev/stderr
stderr_logfile_maxbytes=0

[program:php-fpm]
command=cat
autorestart=unexpected
startsecs=0
exitcodes=0,2
stdout_logfile=/dev/fd/1
stdout_logfile_maxbytes=0
redirect_stderr=true

[program:migrate]
command=/bin/sh -c 'echo migrated; exec sleep 600'
startsecs=0
autorestart=false
stdout_logfile=/dev/stdout
stdout_logfile_maxbytes=0
";
    let changed = "\
[supervisord]
nodaemon=true
user=root
logfile=/dev/null
logfile_maxbytes=0
pidfile={dir}/supervisord.pid

[unix_http_server]
file={dir}/s.sock

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{dir}/s.sock

[program:nginx]
command=sleep 600
startsecs=0
stopsignal=QUIT

[program:cron]
command=sleep 601
startsecs=0
";
    Configuration {
        main,
        files: vec![],
        settled: &[("nginx", "RUNNING"), ("php-fpm", "RUNNING"), ("migrate", "RUNNING")],
        change: ("supervisord.conf", changed),
        updated: &[("nginx", "RUNNING"), ("cron", "RUNNING")],
    }
    .compare();
}

#[test]
fn odd_spacing_comments_and_a_listener() {
    let main = "\
# an old file that many hands have edited
[unix_http_server]
file={dir}/s.sock   ; (the path to the socket file)
;chmod=0700\t\t; socket file mode

[supervisord]
logfile={dir}/supervisord.log ; main log
pidfile = {dir}/supervisord.pid;not a comment
childlogdir:{dir}/logs
nodaemon=false               ; (start in foreground if true)

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{dir}/s.sock ; 用 unix:// 连接
prompt=mysupervisor

; [program:theprogramname]
; command=/bin/false

[program:api] ; 程序名称
command = /bin/sh -c
          'umask 022;
          exec sleep 600'       ; on several lines
autostart=True        ; 在启动的时候也自动启动
autorestart   :   TRUE
Startsecs=5
startsecs =0
redirect_stderr= Yes
  
user=root
directory={dir}/ ; 程序的启动目录
environment=A=\"1;2\",
    B='two words',C=\"100%%\"

[program:spaced-name]  
command=/bin/sleep 600
startsecs=0

[eventlistener:watch]
command=python3 -S {dir}/watch.py
events=PROCESS_STATE_FATAL,PROCESS_STATE_EXITED
buffer_size=50
startsecs=0

[include]
files = {dir}/conf.d/*.conf {dir}/none/*.ini
";
    let watch = "\
import sys
while True:
    print('READY', flush=True)
    header = dict(word.split(':') for word in sys.stdin.readline().split())
    sys.stdin.read(int(header['len']))
    print('RESULT 2\\nOK', end='', flush=True)
";
    let once = "\
[program:once]
command=/bin/sleep 600
startsecs=0
autorestart=false
";
    let several = "\
[program:once]
command=/bin/sleep 600
startsecs=0
autorestart=unexpected
exitcodes=0, 3

[program:pipe]
command=cat
startsecs=0
numprocs=2
numprocs_start=5
process_name=%(program_name)s-%(process_num)d
";
    Configuration {
        main,
        files: vec![("watch.py", watch), ("conf.d/once.conf", once)],
        settled: &[("api", "RUNNING"), ("watch", "RUNNING"), ("once", "RUNNING")],
        change: ("conf.d/once.conf", several),
        updated: &[
            ("api", "RUNNING"),
            ("pipe:pipe-5", "RUNNING"),
            ("pipe:pipe-6", "RUNNING"),
            ("once", "RUNNING"),
        ],
    }
    .compare();
}
