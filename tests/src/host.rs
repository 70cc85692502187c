//! One host: a `supervisord`, ours or Python's, with a configuration and a directory of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use fleetvisor_proto::fault::Fault;
use fleetvisor_proto::xmlrpc::Value;
use nix::sys::signal::Signal;

use crate::command::{Ran, run};
use crate::http::Address;
use crate::marked;
use crate::net::in_namespace;
use crate::wait::wait_for;
use crate::{Daemon, LIMIT, Rpc, Terminal, WorkDir, binary, free_port, oracle};

/// Whose `supervisord` it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    Ours,
    Python,
}

impl Flavour {
    /// What a suite runs on: ours. `FLEETVISOR_TEST_FLAVOUR=python` checks the suites themselves, by what
    /// Supervisor does.
    pub fn of_suite() -> Flavour {
        match std::env::var("FLEETVISOR_TEST_FLAVOUR").as_deref() {
            Ok("python") => Flavour::Python,
            Ok(_) | Err(_) => Flavour::Ours,
        }
    }
}

/// What a host is started with. In every text `{dir}` stands for its directory.
#[derive(Debug)]
pub struct HostConfig {
    dir: WorkDir,
    flavour: Flavour,
    programs: String,
    supervisord: String,
    inet: Option<u16>,
    auth: Option<(String, String)>,
    namespace: Option<String>,
    installed: bool,
}

impl HostConfig {
    /// `programs`: sections to go below the usual ones.
    pub fn new(programs: &str) -> HostConfig {
        HostConfig {
            dir: WorkDir::new(),
            flavour: Flavour::of_suite(),
            programs: programs.to_owned(),
            supervisord: String::new(),
            inet: None,
            auth: None,
            namespace: None,
            installed: false,
        }
    }

    #[must_use]
    pub fn flavour(mut self, flavour: Flavour) -> HostConfig {
        self.flavour = flavour;
        self
    }

    /// Further lines of `[supervisord]`.
    #[must_use]
    pub fn supervisord(mut self, lines: &str) -> HostConfig {
        self.supervisord.push_str(lines);
        self
    }

    /// Listens on TCP too, and tells `supervisorctl` that address instead of the unix socket's.
    #[must_use]
    pub fn inet(mut self) -> HostConfig {
        self.inet = Some(free_port());
        self
    }

    /// User and password of its servers.
    #[must_use]
    pub fn auth(mut self, user: &str, password: &str) -> HostConfig {
        self.auth = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// Runs in a namespace of a [`crate::Network`].
    #[must_use]
    pub fn within(mut self, namespace: &str) -> HostConfig {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// A program in `{dir}`, for `/bin/sh`.
    #[must_use]
    pub fn script(self, name: &str, body: &str) -> HostConfig {
        self.dir.script(name, body);
        self
    }

    /// A file in `{dir}`.
    #[must_use]
    pub fn file(self, name: &str, content: &str) -> HostConfig {
        self.dir.write(name, content);
        self
    }

    /// Its programs are its own, in `{dir}/bin`, and can be replaced by [`Host::install`]: `genuine` and `other` are two
    /// builds of `supervisord`, the first of which is installed.
    pub fn installed(mut self) -> HostConfig {
        self.installed = true;
        std::fs::create_dir_all(self.dir.path().join("bin")).expect("an own directory");
        for name in ["genuine", "other"] {
            let copied = std::fs::copy(binary("supervisord"), self.dir.path().join("bin").join(name));
            copied.expect("room for a copy");
        }
        install(&self.dir, "genuine");
        self
    }

    /// Starts it, and waits until it answers.
    #[track_caller]
    pub fn start(self) -> Host {
        let mut host = self.prepare();
        host.start();
        host
    }

    /// Writes `supervisord.conf` and starts nothing.
    pub fn prepare(self) -> Host {
        std::fs::create_dir_all(self.dir.path().join("logs")).expect("an own directory");
        let address = match self.inet {
            Some(port) => Address::Inet(port),
            None => Address::Unix(self.dir.path().join("s.sock")),
        };
        let host = Host { daemon: None, rpc: Rpc { address, auth: self.auth.clone() }, config: self };
        host.write_config();
        host
    }

    fn text(&self) -> String {
        let auth = self
            .auth
            .as_ref()
            .map(|(user, password)| format!("username={user}\npassword={password}\n"))
            .unwrap_or_default();
        let (inet, url) = match self.inet {
            Some(port) => (
                format!("[inet_http_server]\nport=127.0.0.1:{port}\n{auth}"),
                format!("http://127.0.0.1:{port}"),
            ),
            None => (String::new(), "unix://{dir}/s.sock".to_owned()),
        };
        format!(
            "[unix_http_server]\nfile={{dir}}/s.sock\n{auth}\n\
             {inet}\n\
             [supervisord]\n\
             logfile={{dir}}/supervisord.log\n\
             pidfile={{dir}}/supervisord.pid\n\
             childlogdir={{dir}}/logs\n\
             {}\n\n\
             [rpcinterface:supervisor]\n\
             supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n\n\
             [supervisorctl]\nserverurl={url}\n{auth}\n\
             {}\n",
            self.supervisord, self.programs
        )
        .replace("{dir}", &self.dir.path().display().to_string())
    }
}

/// A host whose daemon can be started, ended and started again in the same directory.
#[derive(Debug)]
pub struct Host {
    // Before the directory: what is dropped first is ended first.
    daemon: Option<Daemon>,
    pub rpc: Rpc,
    config: HostConfig,
}

impl Host {
    /// With these programs, running and answering.
    #[track_caller]
    pub fn with(programs: &str) -> Host {
        HostConfig::new(programs).start()
    }

    pub fn dir(&self) -> &WorkDir {
        &self.config.dir
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().path().join(name)
    }

    /// The programs in `supervisord.conf`.
    pub fn programs(&self) -> String {
        self.config.programs.clone()
    }

    /// Replaces the programs in `supervisord.conf`; nobody is told.
    pub fn reconfigure(&mut self, programs: &str) {
        self.config.programs = programs.to_owned();
        self.write_config();
    }

    fn write_config(&self) {
        self.dir().write("supervisord.conf", self.config.text());
    }

    /// `supervisord` with these arguments, its environment cut down to what tests rely on.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let program = match self.config.flavour {
            Flavour::Ours if self.config.installed => self.path("bin/supervisord"),
            Flavour::Ours => binary("supervisord"),
            Flavour::Python => oracle::python_supervisord(),
        };
        let mut command = in_namespace(self.config.namespace.as_deref(), &program);
        command.args(arguments).current_dir(self.dir().path());
        clean(&mut command);
        command.env(marked::VARIABLE, self.dir().path());
        command
    }

    /// Puts a build of `{dir}/bin` in the place of the installed `supervisord`, as a package manager does.
    pub fn install(&self, build: &str) {
        install(self.dir(), build);
    }

    /// Starts the daemon without `-n`, so that it goes to the background.
    #[track_caller]
    pub fn daemonize(&self) -> Ran {
        let config = self.path("supervisord.conf").display().to_string();
        run(&mut self.command(&["-c", &config]), LIMIT)
    }

    /// Starts the daemon in the foreground and waits until it answers.
    ///
    /// # Panics
    /// When it ends instead.
    #[track_caller]
    pub fn start(&mut self) {
        self.launch();
        self.wait_answer();
    }

    /// Starts the daemon in the foreground and waits for nothing.
    pub fn launch(&mut self) {
        let config = self.path("supervisord.conf").display().to_string();
        let mut command = self.command(&["-n", "-c", &config]);
        // Or the end of the one before would be the end of this one too.
        self.daemon = None;
        self.daemon = Some(Daemon::start("supervisord", &mut command, self.dir().path()));
    }

    #[track_caller]
    pub fn wait_answer(&mut self) {
        wait_for("an answer of supervisord", || {
            if let Some(status) = self.daemon.as_mut().and_then(Daemon::exited) {
                panic!("supervisord has ended ({status}):\n{}", self.dir().read("supervisord.out"));
            }
            self.rpc.call("supervisor.getState", &[])
        })
        .expect("getState has no fault");
    }

    /// # Panics
    /// When it has not been started.
    pub fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("the test has started it")
    }

    /// An orderly end: SIGTERM, and everything stopped.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.daemon().signal(Signal::SIGTERM);
        self.daemon().wait_exit()
    }

    /// A power cut: the daemon and all its programs are gone at once.
    pub fn kill(&mut self) {
        self.daemon().kill();
    }

    /// The daemon's own log.
    pub fn log(&self) -> String {
        self.dir().read("supervisord.log")
    }

    /// # Errors
    /// A fault.
    ///
    /// # Panics
    /// When the daemon doesn't answer.
    #[track_caller]
    pub fn call(&self, method: &str, params: &[Value]) -> Result<Value, Fault> {
        self.rpc.call(method, params).unwrap_or_else(|why| panic!("no answer: {why}"))
    }

    /// `getProcessInfo`. A name inside a group is `group:name`.
    ///
    /// # Panics
    /// When there is no such process.
    #[track_caller]
    pub fn info(&self, name: &str) -> Value {
        self.call("supervisor.getProcessInfo", &[name.into()])
            .unwrap_or_else(|fault| panic!("getProcessInfo of {name}: {fault:?}"))
    }

    /// `RUNNING`, `STOPPED`, ...
    #[track_caller]
    pub fn state(&self, name: &str) -> String {
        text(&self.info(name), "statename")
    }

    /// 0 while it doesn't run.
    #[track_caller]
    pub fn pid(&self, name: &str) -> i32 {
        number(&self.info(name), "pid")
    }

    /// Waits for a state, and gives the process information that showed it.
    #[track_caller]
    pub fn wait(&self, name: &str, state: &str) -> Value {
        wait_for(&format!("{name} to be {state}"), || {
            let info = self.rpc.call("supervisor.getProcessInfo", &[name.into()])?;
            let info = info.map_err(|fault| format!("{fault:?}"))?;
            match text(&info, "statename") == state {
                true => Ok(info),
                false => Err(format!("{info:?}")),
            }
        })
    }

    /// Waits until it runs with another pid, which is returned.
    #[track_caller]
    pub fn wait_new_pid(&self, name: &str, old: i32) -> i32 {
        wait_for(&format!("{name} to run with another pid than {old}"), || {
            let info = self.info(name);
            let pid = number(&info, "pid");
            match pid != 0 && pid != old && text(&info, "statename") == "RUNNING" {
                true => Ok(pid),
                false => Err(format!("{info:?}")),
            }
        })
    }

    /// Waits until a file of its directory contains this, and gives the whole content.
    #[track_caller]
    pub fn wait_file(&self, name: &str, part: &str) -> String {
        wait_for(&format!("{part:?} in {name}"), || {
            let content = self.dir().read(name);
            if content.contains(part) { Ok(content) } else { Err(content) }
        })
    }

    /// Our `supervisorctl`, with this host's configuration.
    #[track_caller]
    pub fn supervisorctl(&self, arguments: &[&str]) -> Ran {
        self.control(&binary("supervisorctl"), arguments)
    }

    /// Python's `supervisorctl`, with this host's configuration.
    #[track_caller]
    pub fn python_supervisorctl(&self, arguments: &[&str]) -> Ran {
        self.control(&oracle::python_supervisorctl(), arguments)
    }

    /// The `supervisorctl` of the suite's flavour.
    #[track_caller]
    pub fn supervisorctl_of_suite(&self, arguments: &[&str]) -> Ran {
        match Flavour::of_suite() {
            Flavour::Ours => self.supervisorctl(arguments),
            Flavour::Python => self.python_supervisorctl(arguments),
        }
    }

    #[track_caller]
    fn control(&self, program: &Path, arguments: &[&str]) -> Ran {
        run(&mut self.control_command(program, arguments), LIMIT)
    }

    fn control_command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.path("supervisord.conf")).args(arguments);
        clean(&mut command);
        command
    }

    /// A `supervisorctl` with this host's configuration, on a terminal.
    #[track_caller]
    pub fn supervisorctl_on_terminal(&self, flavour: Flavour, arguments: &[&str]) -> Terminal {
        let program = match flavour {
            Flavour::Ours => binary("supervisorctl"),
            Flavour::Python => oracle::python_supervisorctl(),
        };
        Terminal::start(&self.control_command(&program, arguments))
    }
}

fn install(dir: &WorkDir, build: &str) {
    let bin = dir.path().join("bin");
    let _ = std::fs::remove_file(bin.join("new"));
    std::fs::hard_link(bin.join(build), bin.join("new")).expect("the build is there");
    std::fs::rename(bin.join("new"), bin.join("supervisord")).expect("in the same directory");
}

impl Drop for Host {
    fn drop(&mut self) {
        // Reaches a daemon in the background too.
        marked::kill_all(self.dir().path());
    }
}

/// Nothing of the caller's environment decides how a test comes out.
pub(crate) fn clean(command: &mut Command) {
    command
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/nonexistent")
        .env("LANG", "C.UTF-8")
        .env("TZ", "UTC");
}

fn text(info: &Value, key: &str) -> String {
    info.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn number(info: &Value, key: &str) -> i32 {
    info.get(key).and_then(Value::as_int).and_then(|number| i32::try_from(number).ok()).unwrap_or_default()
}
