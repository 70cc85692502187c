//! A controller and the hosts that join it, on loopback, each as a process with a directory of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{Ran, run};
use crate::host::clean;
use crate::marked;
use crate::net::in_namespace;
use crate::wait::wait_for;
use crate::{Daemon, Host, HostConfig, LIMIT, Network, Proxy, WorkDir, binary, free_port};

/// A controller that has been initialised and runs.
#[derive(Debug)]
pub struct Fleet {
    controller: Option<Daemon>,
    port: u16,
    http: u16,
    dir: WorkDir,
    /// Where it runs, if not with everybody else, and its address there.
    network: Option<(String, String)>,
    /// Further options of `fleetvisor-controller run`.
    options: Vec<String>,
}

/// A host of a fleet, behind a cable of its own.
#[derive(Debug)]
pub struct FleetHost {
    pub host: Host,
    pub cable: Proxy,
}

impl std::ops::Deref for FleetHost {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

impl std::ops::DerefMut for FleetHost {
    fn deref_mut(&mut self) -> &mut Host {
        &mut self.host
    }
}

impl Fleet {
    /// # Panics
    /// When the controller does not come up.
    #[track_caller]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Fleet {
        Fleet::begin(None, "localhost", &[])
    }

    /// A controller that runs with further options.
    ///
    /// # Panics
    /// When the controller does not come up.
    #[track_caller]
    pub fn with(options: &[&str]) -> Fleet {
        Fleet::begin(None, "localhost", options)
    }

    /// A controller, and the commands for it, at the hub of a network.
    ///
    /// # Panics
    /// When the controller does not come up.
    #[track_caller]
    pub fn within(network: &Network) -> Fleet {
        Fleet::begin(Some((network.hub(), network.address().to_owned())), network.address(), &[])
    }

    #[track_caller]
    fn begin(network: Option<(String, String)>, name: &str, options: &[&str]) -> Fleet {
        let mut fleet = Fleet {
            controller: None,
            port: free_port(),
            http: free_port(),
            dir: WorkDir::new(),
            network,
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        let dir = fleet.controller_dir().display().to_string();
        fleet.controller_command(&["init", "--dir", &dir, "--name", name]).expect_code(0);
        fleet.start_controller();
        fleet
    }

    fn program(&self, name: &str) -> Command {
        in_namespace(self.network.as_ref().map(|(hub, _)| hub.as_str()), &binary(name))
    }

    /// Where the controller listens for hosts and operators.
    pub fn address(&self) -> String {
        let host = self.network.as_ref().map_or("127.0.0.1", |(_, address)| address);
        format!("{host}:{}", self.port)
    }

    /// Port of the gRPC listener.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Port of the HTTP listener.
    pub fn http(&self) -> u16 {
        self.http
    }

    pub fn dir(&self) -> &WorkDir {
        &self.dir
    }

    pub fn controller_dir(&self) -> PathBuf {
        self.dir.path().join("controller")
    }

    /// The operator's identity that `init` made.
    pub fn admin(&self) -> PathBuf {
        self.controller_dir().join("admin")
    }

    /// Runs a line of a shell, as an operator would type it, in a folder of its own.
    ///
    /// # Panics
    /// When the folder can't be made.
    #[track_caller]
    pub fn shell(&self, folder: &Path, line: &str) -> Ran {
        std::fs::create_dir_all(folder).expect("an own directory");
        let mut command = Command::new("/bin/sh");
        clean(command.args(["-c", line]).current_dir(folder));
        let programs = binary("ctl").parent().map(Path::to_owned).unwrap_or_default();
        command
            .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display()))
            .env("FLEETVISOR_CONTROLLER", self.address())
            .env("FLEETVISOR_IDENTITY", self.admin())
            .env(marked::VARIABLE, self.dir.path());
        run(&mut command, LIMIT)
    }

    /// Runs `fleetvisor-controller` with these arguments to its end.
    #[track_caller]
    pub fn controller_command(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(binary("fleetvisor-controller"));
        clean(command.args(arguments));
        run(&mut command, LIMIT)
    }

    /// Starts the controller and waits until it answers an operator.
    #[track_caller]
    pub fn start_controller(&mut self) {
        let mut command = self.program("fleetvisor-controller");
        command
            .arg("run")
            .arg("--dir")
            .arg(self.controller_dir())
            .args(["--listen", &self.address()])
            .args(["--http", &format!("127.0.0.1:{}", self.http)])
            .args(&self.options);
        clean(&mut command);
        self.controller = None;
        self.controller = Some(Daemon::start("controller", &mut command, self.dir.path()));
        wait_for("the controller to answer", || {
            if let Some(status) = self.controller().exited() {
                panic!("the controller has ended ({status}):\n{}", self.dir.read("controller.out"));
            }
            let ran = self.ctl(&["host", "list"]);
            if ran.code() == 0 { Ok(()) } else { Err(ran.to_string()) }
        });
    }

    /// # Panics
    /// When it has not been started.
    pub fn controller(&mut self) -> &mut Daemon {
        self.controller.as_mut().expect("new() has started it")
    }

    /// The running controller, for who must kill it while others use this; it is started anew afterwards.
    ///
    /// # Panics
    /// When it has not been started.
    pub fn take_controller(&mut self) -> Daemon {
        self.controller.take().expect("new() has started it")
    }

    /// `ctl` as the administrator.
    #[track_caller]
    pub fn ctl(&self, arguments: &[&str]) -> Ran {
        self.ctl_as(&self.admin(), arguments)
    }

    /// `ctl` with another identity.
    #[track_caller]
    pub fn ctl_as(&self, identity: &Path, arguments: &[&str]) -> Ran {
        run(&mut self.ctl_command(identity, arguments), LIMIT)
    }

    /// `ctl`, to be started by the caller.
    pub fn ctl_command(&self, identity: &Path, arguments: &[&str]) -> Command {
        let mut command = self.program("ctl");
        clean(&mut command);
        command
            .env("FLEETVISOR_CONTROLLER", self.address())
            .env("FLEETVISOR_IDENTITY", identity)
            .args(arguments);
        command
    }

    /// A new join token; `arguments` go behind `ctl host token`.
    #[track_caller]
    pub fn token(&self, arguments: &[&str]) -> String {
        let mut line = vec!["host", "token"];
        line.extend(arguments);
        self.ctl(&line).expect_code(0).stdout.trim().to_owned()
    }

    /// The configuration of a host that would join with this token.
    pub fn host_config(
        &self,
        name: &str,
        labels: &str,
        token: &str,
        port: u16,
        programs: &str,
    ) -> HostConfig {
        self.host_config_at(name, labels, token, &format!("127.0.0.1:{port}"), programs)
    }

    /// The same for a controller at any address, or at several with commas.
    pub fn host_config_at(
        &self,
        name: &str,
        labels: &str,
        token: &str,
        controllers: &str,
        programs: &str,
    ) -> HostConfig {
        HostConfig::new(&format!(
            "[fleet]\ncontroller={controllers}\nhost={name}\nlabels={labels}\n\
             join_token_file=%(here)s/token\nstate_dir=%(here)s/fleet\n\n{programs}"
        ))
        .file("token", token)
    }

    /// Starts a host, and waits until the controller sees it online.
    #[track_caller]
    pub fn join(&self, name: &str, labels: &str, programs: &str) -> FleetHost {
        let token = self.token(&["--ttl", "1h", "--host", name]);
        let cable = Proxy::to(self.port);
        let host = self.host_config(name, labels, &token, cable.port(), programs).start();
        self.wait_host(name, "online");
        FleetHost { host, cable }
    }

    /// Waits until `ctl host list` has a line that begins with this name and says this state.
    #[track_caller]
    pub fn wait_host(&self, name: &str, state: &str) {
        wait_for(&format!("{name} to be {state}"), || {
            let ran = self.ctl(&["host", "list"]);
            let seen = ran.stdout.lines().any(|line| {
                let mut words = line.split_whitespace();
                words.next() == Some(name) && words.any(|word| word.eq_ignore_ascii_case(state))
            });
            if seen { Ok(()) } else { Err(ran.to_string()) }
        });
    }
}
