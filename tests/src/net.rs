//! A network of its own: namespaces with a cable each to a bridge, all in namespaces, so that nothing of the
//! machine's network is touched. A cable can be pulled without anybody being told.

use std::path::Path;
use std::process::Command;

use crate::LIMIT;
use crate::command::run;

/// One bridge with a place of its own, and any number of hosts around it. Removed when it is dropped.
#[derive(Debug)]
pub struct Network {
    prefix: String,
    hosts: Vec<String>,
}

impl Network {
    /// # Errors
    /// Why there can be none here: namespaces may not be permitted, or `ip` is missing.
    pub fn new(name: &str) -> Result<Network, String> {
        let prefix = format!("fv{}-{name}", std::process::id());
        let network = Network { prefix, hosts: Vec::new() };
        let hub = network.hub();
        ip(&["netns", "add", &hub])?;
        for line in
            ["link set lo up", "link add br0 type bridge", "addr add 10.77.0.1/16 dev br0", "link set br0 up"]
        {
            within(&hub, line)?;
        }
        Ok(network)
    }

    /// The namespace of the bridge, where the controller is.
    pub fn hub(&self) -> String {
        format!("{}-hub", self.prefix)
    }

    /// The bridge's address, which every host can reach.
    pub fn address(&self) -> &'static str {
        "10.77.0.1"
    }

    /// A namespace with a cable to the bridge; gives its name.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn host(&mut self) -> Result<String, String> {
        let number = self.hosts.len() + 1;
        let (hub, host) = (self.hub(), format!("{}-{number}", self.prefix));
        ip(&["netns", "add", &host])?;
        self.hosts.push(host.clone());
        within(&hub, &format!("link add cable{number} type veth peer name eth0 netns {host}"))?;
        within(&hub, &format!("link set cable{number} master br0 up"))?;
        within(&host, &format!("addr add 10.77.1.{number}/16 dev eth0"))?;
        within(&host, "link set lo up")?;
        within(&host, "link set eth0 up")?;
        Ok(host)
    }

    /// Pulls the cable of host `number`, counted from 0: what is sent is lost, and nobody is told.
    ///
    /// # Panics
    /// When `ip` fails.
    pub fn cut(&self, number: usize) {
        within(&self.hub(), &format!("link set cable{} down", number + 1)).expect("the cable is there");
    }

    /// # Panics
    /// When `ip` fails.
    pub fn mend(&self, number: usize) {
        within(&self.hub(), &format!("link set cable{} up", number + 1)).expect("the cable is there");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in self.hosts.iter().chain([&self.hub()]) {
            // A namespace takes its cables with it.
            if let Err(why) = ip(&["netns", "del", name]) {
                eprintln!("a namespace is left behind: {why}");
            }
        }
    }
}

/// The command, run in a namespace. It keeps its pid: `ip` becomes the program.
pub(crate) fn in_namespace(namespace: Option<&str>, program: &Path) -> Command {
    match namespace {
        None => Command::new(program),
        Some(namespace) => {
            let mut command = Command::new("/sbin/ip");
            command.args(["netns", "exec", namespace]).arg(program);
            command
        }
    }
}

fn within(namespace: &str, line: &str) -> Result<(), String> {
    let mut arguments = vec!["-n", namespace];
    arguments.extend(line.split(' '));
    ip(&arguments)
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    if !Path::new("/sbin/ip").exists() {
        return Err("there is no /sbin/ip (the package iproute2)".to_owned());
    }
    let mut command = Command::new("/sbin/ip");
    let ran = run(command.args(arguments), LIMIT);
    if ran.code() == 0 { Ok(()) } else { Err(ran.to_string()) }
}
