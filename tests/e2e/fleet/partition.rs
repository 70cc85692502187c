//! Hosts in network namespaces; cables pulled and put in again, the controller and whole hosts killed, all at random,
//! under a stream of operations, pushes and rollbacks. Afterwards everything has converged: what was acknowledged is so,
//! nothing was done twice, and what nobody asked to touch was not touched.
//!
//! That nothing was done twice is counted for each life of a host: every start of a program is a line of its own in
//! `starts`, the host's journal says which operations it had begun by the end of that life, and there may be one start
//! for each that is new and one for the life itself.
//!
//! `tests/partition [SECONDS [SEED]]` is the long form. The seed decides what is done to whom; when it happens is also
//! the machine's doing, so a seed repeats the plan and not the run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fleetvisor_tests::{Fleet, Host, LIMIT, Network, Ran, run};
use serde_json::Value;

const HOSTS: usize = 4;
/// Processes that are started and stopped; each has a stream of operations of its own.
const WISHES: usize = 2;
/// Long enough for every host to find out that its link is dead, and to wait for its next attempt.
const SETTLED: Duration = Duration::from_secs(180);

/// Every start of a program leaves a line in `starts`, every life of the daemon one before them. Nobody ever asks for
/// `calm`.
const PROGRAMS: &str = "\
[program:wish]\ncommand=%(here)s/record %(process_num)d\nnumprocs=2\nprocess_name=wish_%(process_num)d\nstartsecs=0\n\
[program:again]\ncommand=%(here)s/record again\nstartsecs=1\n\
[program:calm]\ncommand=%(here)s/record calm\nstartsecs=0\n";
const RECORD: &str = "echo \"$*\" >> \"$(dirname \"$0\")/starts\"\nexec sleep 1000000\n";
/// What begins a life in `starts`.
const LIFE: &str = "a new life";

/// A bundle of which one program changes from content to content, and one never does.
fn bundle(content: u64) -> String {
    format!(
        "[program:moves]\ncommand=%(here)s/../../../record moves {content}\nstartsecs=0\n\
         [program:still]\ncommand=%(here)s/../../../record still\nstartsecs=0\n"
    )
}

/// SplitMix64: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn host(&mut self) -> usize {
        self.below(HOSTS as u64) as usize
    }

    fn millis(&mut self, from: u64, until: u64) -> Duration {
        Duration::from_millis(from + self.below(until - from))
    }
}

/// One host, and what is known of what was asked of it.
struct Member {
    name: String,
    host: Mutex<Host>,
    /// Operations that its journal had begun at the end of each life.
    lives: Mutex<Vec<BTreeSet<String>>>,
    /// What each wish may be by now: one after an acknowledged operation, both after one of unknown outcome.
    wishes: [Mutex<BTreeSet<&'static str>>; WISHES],
    /// Restarts that were acknowledged.
    restarts: AtomicUsize,
}

impl Member {
    /// Starts of a program in each life.
    fn starts(&self, of: &str) -> Vec<usize> {
        let starts = locked(&self.host).dir().read("starts");
        let mut lives = Vec::new();
        for line in starts.lines() {
            match lives.last_mut() {
                _ if line == LIFE => lives.push(0),
                Some(count) if line.split(' ').next() == Some(of) => *count += 1,
                Some(_) | None => {}
            }
        }
        lives
    }

    /// Operations that its journal has begun. None is in it twice.
    fn begun(&self, host: &Host) -> BTreeSet<String> {
        let mut begun = BTreeSet::new();
        for line in host.dir().read("fleet/commands.log").lines() {
            // The last line may have been cut off.
            let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
            if line["is"] == "recalled" {
                continue;
            }
            let is_new = begun.insert(line["id"].as_str().unwrap_or_default().to_owned());
            // What was begun before the last start is in it as done.
            assert!(is_new || line["is"] != "begun", "{} has begun an operation twice: {line}", self.name);
        }
        begun
    }

    /// Kills it, and starts it again.
    fn restart_host(&self, after: Duration) {
        let mut host = locked(&self.host);
        host.kill();
        locked(&self.lives).push(self.begun(&host));
        thread::sleep(after);
        note_life(&host);
        host.start();
    }
}

/// Nobody else writes: its programs are dead, or not alive yet.
fn note_life(host: &Host) {
    let before = host.dir().read("starts");
    host.dir().write("starts", format!("{before}{LIFE}\n"));
}

/// What the bundle's content may be by now, and those of revisions that are known.
#[derive(Default)]
struct Contents {
    allowed: BTreeSet<u64>,
    of_revisions: BTreeMap<u64, u64>,
}

struct World {
    network: Network,
    fleet: RwLock<Fleet>,
    members: Vec<Member>,
    contents: Mutex<Contents>,
    /// Ids of all operations that are restarts; the controller forgets the oldest.
    restarts: Mutex<BTreeSet<String>>,
    pushes: AtomicUsize,
    over: AtomicBool,
    operations: AtomicUsize,
    acknowledged: AtomicUsize,
}

impl World {
    fn begin(network: Network, namespaces: &[String]) -> World {
        let fleet = Fleet::within(&network);
        let members: Vec<Member> = namespaces
            .iter()
            .enumerate()
            .map(|(number, namespace)| {
                let name = format!("host-{number}");
                let token = fleet.token(&["--ttl", "1h", "--host", &name]);
                let mut host = fleet
                    .host_config_at(&name, "", &token, &fleet.address(), PROGRAMS)
                    .within(namespace)
                    .script("record", RECORD)
                    .prepare();
                note_life(&host);
                host.start();
                fleet.wait_host(&name, "online");
                host.wait("again", "RUNNING");
                Member {
                    name,
                    host: Mutex::new(host),
                    lives: Mutex::default(),
                    wishes: std::array::from_fn(|_| Mutex::new(BTreeSet::from(["RUNNING"]))),
                    restarts: AtomicUsize::new(0),
                }
            })
            .collect();
        World {
            network,
            fleet: RwLock::new(fleet),
            members,
            contents: Mutex::default(),
            restarts: Mutex::default(),
            pushes: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            operations: AtomicUsize::new(0),
            acknowledged: AtomicUsize::new(0),
        }
    }

    fn ctl(&self, arguments: &[&str]) -> Ran {
        let mut command = {
            let fleet = self.fleet.read().unwrap_or_else(PoisonError::into_inner);
            fleet.ctl_command(&fleet.admin(), arguments)
        };
        self.operations.fetch_add(1, Ordering::Relaxed);
        run(&mut command, LIMIT * 3)
    }

    /// Starts and stops one process of any host, again and again.
    fn wish(&self, number: usize, dice: &mut Dice) {
        while !self.over.load(Ordering::Relaxed) {
            let member = &self.members[dice.host()];
            let (verb, state) = [("stop", "STOPPED"), ("start", "RUNNING")][dice.below(2) as usize];
            // Before it is asked for: from now on both are possible.
            locked(&member.wishes[number]).insert(state);
            let target = format!("{}:wish:wish_{number}", member.name);
            let ran = self.ctl(&["--timeout", "20s", verb, &target]);
            let acknowledged = ran.code() == 0 || (ran.code() == 4 && ran.stdout.contains("when it returns"));
            if acknowledged {
                *locked(&member.wishes[number]) = BTreeSet::from([state]);
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            thread::sleep(dice.millis(10, 300));
        }
    }

    /// Restarts one process of any host, again and again.
    fn restart(&self, dice: &mut Dice) {
        while !self.over.load(Ordering::Relaxed) {
            let member = &self.members[dice.host()];
            let ran = self.ctl(&["--timeout", "20s", "restart", &format!("{}:again:again", member.name)]);
            if ran.stdout.lines().any(|line| line.ends_with(": restarted")) {
                member.restarts.fetch_add(1, Ordering::SeqCst);
            }
            self.note_restarts("100");
            thread::sleep(dice.millis(10, 500));
        }
    }

    /// Pushes contents to all hosts and rolls back to earlier ones, at once or batch by batch, again and again.
    fn push(&self, dice: &mut Dice) {
        let mut next = 1;
        while !self.over.load(Ordering::Relaxed) {
            let known: Vec<(u64, u64)> =
                locked(&self.contents).of_revisions.iter().map(|(revision, it)| (*revision, *it)).collect();
            let back = known.get(dice.below(known.len().max(1) as u64 * 3) as usize).copied();
            let steps: &[&str] = match dice.below(4) {
                0 => &["--batch", "1"],
                1 => &["--canary", "1", "--revert"],
                _ => &[],
            };
            let how = [&["--timeout", "20s", "-o", "json"], steps].concat();
            match back {
                Some((revision, content)) => {
                    let revision = revision.to_string();
                    self.change(&[&["config", "rollback", "b", &revision], &how[..]].concat(), content);
                }
                None => {
                    self.push_content(next, &how);
                    next += 1;
                }
            }
            thread::sleep(dice.millis(10, 1000));
        }
    }

    fn push_content(&self, content: u64, how: &[&str]) {
        let path = {
            let fleet = self.fleet.read().unwrap_or_else(PoisonError::into_inner);
            fleet.dir().write("b.conf", bundle(content)).display().to_string()
        };
        self.change(&[&["config", "push", "b", &path, "--all-hosts"], how].concat(), content);
    }

    /// One change of the bundle, to this content. What everybody got at once, or has got by the end, is acknowledged.
    fn change(&self, command: &[&str], content: u64) {
        locked(&self.contents).allowed.insert(content);
        let ran = self.ctl(command);
        let Ok(told) = serde_json::from_str::<Value>(&ran.stdout) else { return };
        if told["changed"] != true {
            return;
        }
        self.pushes.fetch_add(1, Ordering::Relaxed);
        let mut contents = locked(&self.contents);
        contents.of_revisions.insert(told["revision"].as_u64().unwrap_or_default(), content);
        let is_at_once = told["batches"].as_array().is_some_and(|batches| batches.len() == 1);
        if is_at_once || told["state"] == "finished" {
            contents.allowed = BTreeSet::from([content]);
        }
    }

    /// What goes wrong, until the time is up.
    fn trouble(&self, dice: &mut Dice, time: Duration) {
        let end = Instant::now() + time;
        let mut cut = [false; HOSTS];
        while Instant::now() < end {
            thread::sleep(dice.millis(100, 1500));
            let number = dice.host();
            match dice.below(10) {
                0..=3 if !cut[number] => {
                    self.network.cut(number);
                    cut[number] = true;
                }
                0..=6 => {
                    self.network.mend(number);
                    cut[number] = false;
                }
                7 => {
                    self.fleet.write().unwrap_or_else(PoisonError::into_inner).controller().kill_alone();
                    thread::sleep(dice.millis(0, 3000));
                    self.fleet.write().unwrap_or_else(PoisonError::into_inner).start_controller();
                }
                _ => {
                    self.members[number].restart_host(dice.millis(0, 3000));
                }
            }
        }
        for number in 0..HOSTS {
            self.network.mend(number);
        }
    }

    /// Everybody is back, is as it was asked to be, and the controller knows it.
    fn converged(&self) -> Result<(), String> {
        let list = self.ctl(&["host", "list"]);
        let online = list.stdout.lines().filter(|line| line.contains("online")).count();
        if online != HOSTS {
            return Err(list.to_string());
        }
        let status = self.ctl(&["--all-hosts", "status"]);
        let operations = self.operations("0");
        if let Some(open) = operations.iter().find(|it| it["state"] == "running" || it["state"] == "waiting")
        {
            return Err(open.to_string());
        }
        self.bundle_converged()?;
        for member in &self.members {
            let host = locked(&member.host);
            for (number, allowed) in member.wishes.iter().enumerate() {
                let state = host.state(&format!("wish:wish_{number}"));
                if !locked(allowed).contains(state.as_str()) {
                    return Err(format!("{}:wish_{number} is {state}, not {allowed:?}", member.name));
                }
                let name = format!("{}:wish:wish_{number} ", member.name);
                let shown = status.stdout.lines().find(|line| line.starts_with(&name));
                if !shown.is_some_and(|line| line.contains(&state)) {
                    return Err(format!("{name}is {state}, and shown as {shown:?}"));
                }
            }
            for name in ["again", "calm", "still", "moves"] {
                if host.state(name) != "RUNNING" {
                    return Err(format!("{}:{name} is {}", member.name, host.state(name)));
                }
            }
        }
        Ok(())
    }

    /// Every host has the revision that it should have, and runs a content that was acknowledged.
    fn bundle_converged(&self) -> Result<(), String> {
        let shown = self.ctl(&["config", "show", "b", "-o", "json"]);
        let shown: Value = serde_json::from_str(&shown.stdout).map_err(|_| shown.to_string())?;
        let hosts = shown["hosts"].as_array().cloned().unwrap_or_default();
        let is_there =
            |host: &&Value| host["desired"] == host["revision"] && host["failed_revision"].is_null();
        if hosts.iter().filter(is_there).count() != HOSTS {
            return Err(shown["hosts"].to_string());
        }
        let contents = locked(&self.contents);
        for member in &self.members {
            let host = locked(&member.host);
            let starts = host.dir().read("starts");
            let last = starts.lines().filter_map(|line| line.strip_prefix("moves ")).next_back();
            let content = last.and_then(|content| content.parse().ok());
            let revision = hosts.iter().find(|host| host["host"] == *member.name);
            let revision = revision.and_then(|host| host["revision"].as_u64()).unwrap_or_default();
            let of_revision = contents.of_revisions.get(&revision);
            if !content.is_some_and(|it| contents.allowed.contains(&it))
                || of_revision.is_some_and(|it| Some(*it) != content)
            {
                let allowed = &contents.allowed;
                return Err(format!(
                    "{} runs {content:?} at revision {revision}, not {allowed:?}",
                    member.name
                ));
            }
        }
        Ok(())
    }

    /// The latest operations that the controller knows; none where it does not answer.
    fn operations(&self, limit: &str) -> Vec<Value> {
        let listed = self.ctl(&["op", "list", "-n", limit, "-o", "json"]);
        let listed: Value = serde_json::from_str(&listed.stdout).unwrap_or_default();
        listed["operations"].as_array().cloned().unwrap_or_default()
    }

    fn note_restarts(&self, limit: &str) -> Vec<Value> {
        let mut latest = self.operations(limit);
        latest.retain(|operation| operation["verb"] == "restart");
        let ids = latest.iter().filter_map(|operation| operation["id"].as_str().map(str::to_owned));
        locked(&self.restarts).extend(ids);
        latest
    }

    fn check_counts(&self) {
        let restarts: usize = self.members.iter().map(|member| member.restarts.load(Ordering::SeqCst)).sum();
        assert!(restarts > 0, "nothing was restarted, so nothing was tested");
        let kept = self.note_restarts("0");
        let known_restarts = locked(&self.restarts).clone();
        for member in &self.members {
            let mut lives = locked(&member.lives).clone();
            lives.push(member.begun(&locked(&member.host)));
            let again = member.starts("again");
            assert_eq!(again.len(), lives.len(), "{}", member.name);
            let (mut before, mut begun) = (BTreeSet::new(), 0);
            for (life, (starts, known)) in again.iter().zip(&lives).enumerate() {
                let new = known.difference(&before).filter(|id| known_restarts.contains(*id)).count();
                assert!(
                    *starts <= 1 + new,
                    "{}: {starts} starts in life {life}, with {new} restarts that are new",
                    member.name
                );
                begun += new;
                before = known.clone();
            }
            let done = member.restarts.load(Ordering::SeqCst);
            let starts: usize = again.iter().sum();
            println!("{}: {} lives, {begun} restarts begun, {starts} starts", member.name, lives.len());
            assert!(begun >= done, "of {done} acknowledged restarts {} has begun {begun}", member.name);
            assert!(starts >= done, "a restart that was acknowledged was not done on {}", member.name);
            // What the controller says became of it is what the host knows of it, whatever its caller has heard.
            let target = format!("{}:again:again", member.name);
            for operation in kept.iter().filter(|operation| operation["targets"][0] == *target) {
                let has_begun = operation["id"].as_str().is_some_and(|id| before.contains(id));
                let done = operation["state"] == "finished" && operation["ok"] == 1;
                assert!(has_begun || !done, "{} has not begun {operation}", member.name);
            }
            for name in ["calm", "still"] {
                let starts = member.starts(name);
                assert!(
                    starts.iter().all(|starts| *starts <= 1),
                    "{} was restarted on {}: {starts:?}",
                    name,
                    member.name
                );
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

#[test]
fn whatever_breaks_every_host_converges_and_nothing_is_done_twice() {
    let time = Duration::from_secs(number("FLEETVISOR_PARTITION_SECONDS").unwrap_or(15));
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seed = number("FLEETVISOR_PARTITION_SEED").unwrap_or_else(now);
    println!("FLEETVISOR_PARTITION_SECONDS={} FLEETVISOR_PARTITION_SEED={seed}", time.as_secs());
    let network = Network::new("parted").and_then(|mut network| {
        let namespaces: Vec<String> = (0..HOSTS).map(|_| network.host()).collect::<Result<_, _>>()?;
        Ok((network, namespaces))
    });
    let (network, namespaces) = match network {
        Ok(network) => network,
        Err(why) => return println!("not tested: no network namespaces here: {why}"),
    };
    let world = World::begin(network, &namespaces);
    world.push_content(0, &["-o", "json"]);
    thread::scope(|scope| {
        for wish in 0..WISHES {
            let world = &world;
            scope.spawn(move || world.wish(wish, &mut Dice(seed + 1 + wish as u64)));
        }
        scope.spawn(|| world.restart(&mut Dice(seed + 100)));
        scope.spawn(|| world.push(&mut Dice(seed + 200)));
        world.trouble(&mut Dice(seed), time);
        world.over.store(true, Ordering::Relaxed);
    });
    let (operations, acknowledged) = (&world.operations, world.acknowledged.load(Ordering::Relaxed));
    let pushes = world.pushes.load(Ordering::Relaxed);
    let commands = operations.load(Ordering::Relaxed);
    println!("{commands} commands, {acknowledged} wishes and {pushes} revisions acknowledged");
    assert!(acknowledged > 0 && pushes > 1, "nothing was acknowledged, so nothing was tested");

    let end = Instant::now() + SETTLED;
    while let Err(why) = world.converged() {
        assert!(Instant::now() < end, "not converged after {SETTLED:?}: {why}");
        thread::sleep(Duration::from_millis(200));
    }
    world.check_counts();
    world.ctl(&["audit", "verify"]).expect_code(0);
}
