//! A server of the simulation as a process of its own, so that what it costs can be told from what the hosts
//! cost: the controller, or the bare server that it is compared with.

use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use fleetvisor_proto::fleet::ListHostsRequest;
use fleetvisor_proto::fleet::fleet_client::FleetClient;
use fleetvisor_proto::identity::Identity;
use fleetvisor_proto::tls;
use tonic::transport::Channel;

use crate::fleet::ADDRESSES;

const UP: Duration = Duration::from_secs(60);
/// A thousand hosts with all their processes are answered in one message.
const MESSAGE_MAX: usize = 256 << 20;

#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    /// Resident and its own.
    pub(crate) memory_kib: u64,
}

/// The controller's program, directory and port.
#[derive(Clone, Debug)]
pub(crate) struct ControllerSettings {
    pub(crate) programs: PathBuf,
    pub(crate) dir: PathBuf,
    pub(crate) port: u16,
    pub(crate) http: u16,
}

impl ControllerSettings {
    pub(crate) fn init(&self) -> anyhow::Result<()> {
        let mut command = Command::new(self.programs.join("fleetvisor-controller"));
        command.arg("init").arg("--dir").arg(&self.dir);
        for address in ADDRESSES {
            command.args(["--name", address]);
        }
        let done = command.output().context("fleetvisor-controller cannot be started")?;
        if !done.status.success() {
            bail!("init: {}", String::from_utf8_lossy(&done.stderr));
        }
        Ok(())
    }

    /// Starts it; its log is `controller.log` in the directory above its own.
    pub(crate) fn start(&self) -> anyhow::Result<Server> {
        let log = self.dir.with_file_name("controller.log");
        let log = std::fs::File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(self.programs.join("fleetvisor-controller"));
        command
            .arg("run")
            .arg("--dir")
            .arg(&self.dir)
            .args(["--listen", &format!("0.0.0.0:{}", self.port)])
            .args(["--http", &format!("127.0.0.1:{}", self.http)])
            // A line for each link would be measured too.
            .args(["--log", "warn"])
            .stdin(Stdio::null())
            .stderr(log);
        Server::start(command)
    }

    pub(crate) fn admin(&self) -> PathBuf {
        self.dir.join("admin")
    }

    /// An operator, once the controller answers.
    pub(crate) async fn operator(&self) -> anyhow::Result<FleetClient<Channel>> {
        let identity = Identity::load(&self.admin())?;
        let end = tokio::time::Instant::now() + UP;
        loop {
            let answered = async {
                let address = format!("127.0.0.1:{}", self.port);
                let channel = tls::dial(&address, tls::client_config(&identity)?).await?;
                let mut client = FleetClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
                client.list_hosts(ListHostsRequest::default()).await?;
                anyhow::Ok(client)
            };
            match answered.await {
                Ok(client) => return Ok(client),
                Err(error) if tokio::time::Instant::now() > end => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

impl Server {
    pub(crate) fn start(mut command: Command) -> anyhow::Result<Server> {
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Server { child })
    }

    /// Both ends of its pipes; once.
    pub(crate) fn pipes(&mut self) -> anyhow::Result<(ChildStdin, ChildStdout)> {
        let stdin = self.child.stdin.take().context("no stdin")?;
        Ok((stdin, self.child.stdout.take().context("no stdout")?))
    }

    /// SIGKILL; it is gone when this returns.
    pub(crate) fn kill(self) {
        drop(self);
    }

    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        let pid = self.child.id();
        let proc = PathBuf::from(format!("/proc/{pid}"));
        Ok(Usage { cpu: cpu(&proc)?, memory_kib: memory_kib(&proc)? })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended by itself cannot be killed, and is waited for all the same.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// User and system time, from the file that counts it in hundredths of a second.
fn cpu(proc: &Path) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(proc.join("stat"))?;
    let after_name = stat.rsplit_once(')').context("no name in stat")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: u64 =
        fields.get(11..13).context("stat is short")?.iter().filter_map(|word| word.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}

fn memory_kib(proc: &Path) -> anyhow::Result<u64> {
    let rollup = std::fs::read_to_string(proc.join("smaps_rollup"))?;
    let line = rollup.lines().find(|line| line.starts_with("Pss:")).context("no Pss")?;
    line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).context("Pss is no number")
}
