//! The life of a simulated fleet, from joining to the controller's death and return. What must be true is
//! asserted on the way; times and sizes are taken only where they are asked for.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use fleetvisor_proto::fleet::fleet_client::FleetClient;
use fleetvisor_proto::fleet::{EventsRequest, HostState, ListHostsRequest};
use fleetvisor_proto::identity::Identity;
use tokio::sync::mpsc;
use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::figures::{Figures, seconds};
use crate::fleet::{ADDRESSES, Fleet};
use crate::host::GROUP;
use crate::server::{ControllerSettings, Server, Usage};
use crate::{Options, floor, free_port};

/// Anything takes longer than this only if it never comes about.
const PATIENCE: Duration = Duration::from_secs(300);
/// Where files are in memory.
const MEMORY: &str = "/dev/shm";
const IDLE: Duration = Duration::from_secs(20);
const RESTARTS: usize = 3;
const CHANGES: usize = 10_000;
/// A thousand a second.
const BETWEEN: Duration = Duration::from_millis(1);

pub(crate) async fn run(options: &Options, programs: PathBuf) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("fleet-sim-").tempdir()?;
    let controller = ControllerSettings {
        programs,
        dir: dir.path().join("controller"),
        port: free_port()?,
        http: free_port()?,
    };
    // Every host has a disk of its own, so what they keep does not go to the controller's.
    let hosts = match Path::new(MEMORY).is_dir() {
        true => tempfile::Builder::new().prefix("fleet-sim-").tempdir_in(MEMORY)?,
        false => tempfile::Builder::new().prefix("hosts-").tempdir_in(dir.path())?,
    };
    let result = Simulation::begin(options, controller, hosts.path()).await?.live(options).await;
    if result.is_err() {
        let log = std::fs::read_to_string(dir.path().join("controller.log")).unwrap_or_default();
        eprintln!("the controller's log:\n{log}");
    }
    result
}

struct Simulation {
    controller: ControllerSettings,
    server: Option<Server>,
    operator: FleetClient<Channel>,
    fleet: Fleet,
    processes: usize,
    memory_before_kib: u64,
    figures: Figures,
    /// Links that there must have been so far.
    links: u64,
}

impl Simulation {
    async fn begin(
        options: &Options,
        controller: ControllerSettings,
        dir: &Path,
    ) -> anyhow::Result<Simulation> {
        controller.init()?;
        let server = controller.start()?;
        let operator = controller.operator().await?;
        let processes = usize::try_from(options.processes)?;
        let fleet =
            Fleet::new(usize::try_from(options.hosts)?, processes, controller.port, dir, !options.verbose);
        let memory_before_kib = server.usage()?.memory_kib;
        Ok(Simulation {
            controller,
            server: Some(server),
            operator,
            fleet,
            processes,
            memory_before_kib,
            figures: Figures::default(),
            links: 0,
        })
    }

    async fn live(mut self, options: &Options) -> anyhow::Result<()> {
        eprintln!("{} hosts of {} processes join", self.fleet.len(), self.processes);
        let begin = Instant::now();
        self.fleet.enrol(&self.operator).await?;
        eprintln!("  all have joined after {}", seconds(begin.elapsed()));
        self.links = self.fleet.len() as u64;
        let floor = match options.check || options.no_floor {
            true => None,
            false => Some(self.floor().await?),
        };
        self.restart_controller().await?;
        self.storm(floor.as_ref()).await?;
        if !options.check {
            self.memory(floor.as_ref())?;
            self.idle().await?;
        }
        let times = if options.check || self.fleet.len() > 1000 { 1 } else { RESTARTS };
        self.restart_all(floor.as_ref(), times).await?;
        self.one_host().await?;
        self.changes(if options.check { 100 } else { CHANGES }).await?;
        self.death().await?;
        if !options.check {
            println!("{} hosts of {} processes\n\n{}", self.fleet.len(), self.processes, self.figures);
        }
        Ok(())
    }

    /// The storm begins at a controller that has seen nobody since it started.
    async fn restart_controller(&mut self) -> anyhow::Result<()> {
        self.kill_controller()?;
        self.server = Some(self.controller.start()?);
        self.operator = self.controller.operator().await?;
        self.memory_before_kib = self.usage()?.memory_kib;
        Ok(())
    }

    fn kill_controller(&mut self) -> anyhow::Result<()> {
        self.server.take().context("no controller runs")?.kill();
        Ok(())
    }

    fn usage(&self) -> anyhow::Result<Usage> {
        self.server.as_ref().context("no controller runs")?.usage()
    }

    /// Also programs that have ended run again after a second at most.
    async fn all_are_there(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let seen = self.look().await;
            match seen {
                Err(error) if Instant::now() < end => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    // Where everybody dials at once the operator's connection may be given up, too.
                    if error.is::<tonic::Status>() {
                        self.operator = self.controller.operator().await?;
                    }
                }
                seen => return seen,
            }
        }
    }

    async fn look(&mut self) -> anyhow::Result<()> {
        let hosts = self.operator.list_hosts(ListHostsRequest::default()).await?.into_inner().hosts;
        ensure!(hosts.len() == self.fleet.len(), "{} hosts are listed", hosts.len());
        for host in hosts {
            let complete = usize::try_from(host.total)? == self.processes && host.running == host.total;
            ensure!(host.state() == HostState::Online && complete, "not as it should be: {host:?}");
        }
        Ok(())
    }

    /// Every host dials at once.
    async fn storm(&mut self, floor: Option<&FloorFigures>) -> anyhow::Result<()> {
        let (begin, cpu) = (Instant::now(), self.usage()?.cpu);
        for number in 0..self.fleet.len() {
            self.fleet.link(number)?;
        }
        self.links += self.fleet.len() as u64;
        self.fleet.wait_links(self.links, PATIENCE).await?;
        let took = begin.elapsed();
        self.all_are_there().await?;
        let cpu = self.usage()?.cpu - cpu;
        let ours = format!("{} ({} of CPU)", seconds(took), seconds(cpu));
        let bare =
            floor.map(|floor| format!("{} ({} of CPU)", seconds(floor.storm), seconds(floor.storm_cpu)));
        self.figures.add("connect storm until all have reported", ours, bare, "1.5x of bare, 30 s");
        Ok(())
    }

    fn memory(&mut self, floor: Option<&FloorFigures>) -> anyhow::Result<()> {
        let memory = self.usage()?.memory_kib.saturating_sub(self.memory_before_kib);
        let each = format!("{:.1} KiB", memory as f64 / self.fleet.len() as f64);
        let bare = floor.map(|floor| format!("{:.1} KiB", floor.memory_kib as f64 / self.fleet.len() as f64));
        self.figures.add("controller's memory per host", each, bare, "100 KiB");
        Ok(())
    }

    async fn idle(&mut self) -> anyhow::Result<()> {
        let before = self.usage()?.cpu;
        tokio::time::sleep(IDLE).await;
        let used = self.usage()?.cpu - before;
        let share = 100.0 * used.as_secs_f64() / IDLE.as_secs_f64();
        self.figures.add(
            "idle, a heartbeat every 5 s",
            format!("{share:.1} % of a core"),
            None,
            "15 % of a core",
        );
        Ok(())
    }

    async fn ctl(&self, arguments: &[&str]) -> anyhow::Result<(i32, String)> {
        let mut command = Command::new(self.controller.programs.join("ctl"));
        command
            .args(arguments)
            .env("FLEETVISOR_CONTROLLER", format!("127.0.0.1:{}", self.controller.port))
            .env("FLEETVISOR_IDENTITY", self.controller.admin())
            .stdin(Stdio::null());
        let done = spawn_blocking(move || command.output()).await?.context("ctl cannot be started")?;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let code = done.status.code().context("ctl was killed")?;
        if code != 0 {
            eprintln!("ctl {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        }
        Ok((code, text))
    }

    async fn restart_all(&mut self, floor: Option<&FloorFigures>, times: usize) -> anyhow::Result<()> {
        let mut took = Vec::new();
        let before = self.usage()?.cpu;
        for _ in 0..times {
            let spawned: Vec<u64> = self.fleet.hosts().map(crate::host::SimulatedHost::spawned).collect();
            let begin = Instant::now();
            let (code, output) = self.ctl(&["--all-hosts", "restart", &format!("{GROUP}:")]).await?;
            took.push(begin.elapsed());
            ensure!(code == 0, "the restart of all has ended with {code}:\n{}", tail(&output));
            let lines = output.lines().filter(|line| line.ends_with(": restarted")).count();
            ensure!(
                lines == self.fleet.len() * self.processes,
                "{lines} processes say that they are restarted"
            );
            for (host, before) in self.fleet.hosts().zip(spawned) {
                let wanted = before + self.processes as u64;
                ensure!(host.spawned() == wanted, "{host:?} has restarted {} times", host.spawned() - before);
            }
        }
        took.sort();
        let cpu = (self.usage()?.cpu - before) / u32::try_from(times)?;
        let ours = format!("{} ({} of CPU)", seconds(took[took.len() / 2]), seconds(cpu));
        let aim = if self.fleet.len() > 1000 { "2x of bare" } else { "2x of bare, 200 ms" };
        let bare =
            floor.map(|floor| format!("{} ({} of CPU)", seconds(floor.restart), seconds(floor.restart_cpu)));
        self.figures.add("restart of all, from ctl to the last line", ours, bare, aim);
        Ok(())
    }

    /// A change for one host reaches that host, and is nothing to the others.
    async fn one_host(&mut self) -> anyhow::Result<()> {
        let before: Vec<u64> = self.fleet.hosts().map(crate::host::SimulatedHost::verbs).collect();
        let target = format!("{}:{GROUP}:p_00", self.fleet.name(1));
        let begin = Instant::now();
        for verb in ["stop", "start"] {
            let (code, output) = self.ctl(&[verb, &target]).await?;
            ensure!(code == 0, "{verb} of one process has ended with {code}: {output}");
        }
        let took = begin.elapsed() / 2;
        for (number, (host, before)) in self.fleet.hosts().zip(before).enumerate() {
            let wanted = before + if number == 1 { 2 } else { 0 };
            ensure!(host.verbs() == wanted, "{host:?} was asked {} times", host.verbs() - before);
        }
        self.figures.add("a change for one host, with ctl's start", seconds(took), None, "that host alone");
        Ok(())
    }

    /// Processes end all over the fleet, and somebody watches: from the end to the watcher.
    async fn changes(&mut self, count: usize) -> anyhow::Result<()> {
        let request =
            EventsRequest { follow: true, kinds: vec!["exited".to_owned()], ..EventsRequest::default() };
        let mut events = self.operator.events(request).await?.into_inner();
        let crash = |number: usize| {
            let host = number % self.fleet.len();
            let pid = self.fleet.host(host).crash((number / self.fleet.len()) % self.processes);
            ((self.fleet.name(host).to_owned(), pid), Instant::now())
        };
        let mut clock = tokio::time::interval(BETWEEN);
        let (mut open, mut took) = (HashMap::new(), Vec::new());
        let mut made = 0;
        while took.len() < count {
            tokio::select! {
                _ = clock.tick(), if made < count => {
                    open.extend([crash(made)]);
                    made += 1;
                }
                event = timeout(PATIENCE, events.message()) => {
                    let event = event.context("no event")??.context("the events have ended")?;
                    ensure!(event.kind == "exited", "not an end: {event:?}");
                    let process = event.process.context("an end without a process")?;
                    let began = open.remove(&(event.host, process.pid)).context("an end that was told twice")?;
                    took.push(began.elapsed());
                }
            }
        }
        took.sort();
        let (half, most) = (took[count / 2], took[count * 99 / 100]);
        self.all_are_there().await?;
        let ours = format!("{} (half within {})", seconds(most), seconds(half));
        self.figures.add("a change to who watches, 1,000 a second, p99", ours, None, "100 ms");
        Ok(())
    }

    /// The controller is killed, and comes back: so does everybody, and no process has noticed.
    async fn death(&mut self) -> anyhow::Result<()> {
        let spawned: Vec<u64> = self.fleet.hosts().map(crate::host::SimulatedHost::spawned).collect();
        let begin = Instant::now();
        self.kill_controller()?;
        self.server = Some(self.controller.start()?);
        self.links += self.fleet.len() as u64;
        self.fleet.wait_links(self.links, PATIENCE).await?;
        let took = begin.elapsed();
        self.operator = self.controller.operator().await?;
        self.all_are_there().await?;
        for (host, before) in self.fleet.hosts().zip(spawned) {
            ensure!(host.spawned() == before, "{host:?} has started programs anew");
        }
        let links = self.fleet.counters.links.load(Ordering::Relaxed);
        ensure!(links == self.links, "{} links more than hosts", links - self.links);
        self.figures.add("controller killed -9 until all are back", seconds(took), None, "30 s");
        self.fleet.cut_all().await;
        Ok(())
    }

    /// The same with the bare server.
    async fn floor(&self) -> anyhow::Result<FloorFigures> {
        let port = free_port()?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("floor")
            .args(["--port", &port.to_string()])
            .args(["--processes", &self.processes.to_string()])
            .arg("--identity")
            .arg(self.controller.dir.join("server"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut server = Server::start(command)?;
        let (mut stdin, stdout) = server.pipes()?;
        let mut lines = BufReader::new(stdout).lines();
        let identities: Vec<Identity> = (0..self.fleet.len())
            .map(|number| Identity::load(self.fleet.state_dir(number)))
            .collect::<Result<_, _>>()?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = server.usage()?;
        let begin = Instant::now();
        let (welcome, mut welcomed) = mpsc::unbounded_channel();
        let mut links = tokio::task::JoinSet::new();
        for (number, identity) in identities.into_iter().enumerate() {
            let address = format!("{}:{port}", ADDRESSES[number % ADDRESSES.len()]);
            links.spawn(floor::link(address, identity, self.processes, welcome.clone()));
        }
        for _ in 0..self.fleet.len() {
            tokio::select! {
                welcomed = welcomed.recv() => welcomed.context("no links")?,
                Some(ended) = links.join_next() => ended?.context("a link to the bare server")?,
            }
        }
        let storm = begin.elapsed();
        let after = server.usage()?;
        let mut took = Vec::new();
        for _ in 0..RESTARTS {
            took.push(block_in_place(|| ask(&mut stdin, &mut lines))?);
        }
        took.sort();
        let restart_cpu = (server.usage()?.cpu - after.cpu) / u32::try_from(RESTARTS)?;
        links.shutdown().await;
        server.kill();
        Ok(FloorFigures {
            storm,
            storm_cpu: after.cpu - before.cpu,
            memory_kib: after.memory_kib.saturating_sub(before.memory_kib),
            restart: took[took.len() / 2],
            restart_cpu,
        })
    }
}

#[derive(Debug)]
struct FloorFigures {
    storm: Duration,
    storm_cpu: Duration,
    memory_kib: u64,
    restart: Duration,
    restart_cpu: Duration,
}

fn ask(stdin: &mut ChildStdin, lines: &mut Lines<BufReader<ChildStdout>>) -> anyhow::Result<Duration> {
    stdin.write_all(b"restart\n")?;
    let line = lines.next().context("the bare server has ended")??;
    Ok(Duration::from_micros(line.trim().parse()?))
}

fn tail(output: &str) -> String {
    let lines: Vec<&str> = output.lines().filter(|line| !line.ends_with(": restarted")).collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
