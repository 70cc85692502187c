//! Hosts in network namespaces; cables pulled and put in again, the controller and whole hosts killed, all at random,
//! under a stream of operations. Afterwards everything has converged: what was acknowledged is so, nothing was done
//! twice, and what nobody asked to touch was not touched.
//!
//! `tests/partition [SECONDS [SEED]]` is the long form. The seed decides what is done to whom; when it happens is also
//! the machine's doing, so a seed repeats the plan and not the run.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fleetvisor_tests::{Fleet, Host, LIMIT, Network, Ran, run};

const HOSTS: usize = 4;
/// Processes that are started and stopped; each has a stream of operations of its own.
const WISHES: usize = 2;
/// Long enough for every host to find out that its link is dead, and to wait for its next attempt.
const SETTLED: Duration = Duration::from_secs(180);

/// Every start of a program leaves a line in `starts`. Nobody ever asks for `calm`.
const PROGRAMS: &str = "\
[program:wish]\ncommand=%(here)s/record %(process_num)d\nnumprocs=2\nprocess_name=wish_%(process_num)d\nstartsecs=0\n\
[program:again]\ncommand=%(here)s/record again\nstartsecs=1\n\
[program:calm]\ncommand=%(here)s/record calm\nstartsecs=0\n";
const RECORD: &str = "echo \"$1\" >> \"$(dirname \"$0\")/starts\"\nexec sleep 1000000\n";

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
    boots: AtomicUsize,
    /// What each wish may be by now: one after an acknowledged operation, both after one of unknown outcome.
    wishes: [Mutex<BTreeSet<&'static str>>; WISHES],
    restarts: AtomicUsize,
    /// Restarts of which nobody knows whether they were done, or will be.
    unknown: AtomicUsize,
}

impl Member {
    fn starts(&self, of: &str) -> usize {
        locked(&self.host).dir().read("starts").lines().filter(|line| *line == of).count()
    }
}

struct World {
    network: Network,
    fleet: RwLock<Fleet>,
    members: Vec<Member>,
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
                let host = fleet
                    .host_config_at(&name, "", &token, &fleet.address(), PROGRAMS)
                    .within(namespace)
                    .script("record", RECORD)
                    .start();
                fleet.wait_host(&name, "online");
                host.wait("again", "RUNNING");
                Member {
                    name,
                    host: Mutex::new(host),
                    boots: AtomicUsize::new(1),
                    wishes: std::array::from_fn(|_| Mutex::new(BTreeSet::from(["RUNNING"]))),
                    restarts: AtomicUsize::new(0),
                    unknown: AtomicUsize::new(0),
                }
            })
            .collect();
        World {
            network,
            fleet: RwLock::new(fleet),
            members,
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
            let (boots, unknown) =
                (member.boots.load(Ordering::SeqCst), member.unknown.load(Ordering::SeqCst));
            let before = member.starts("again");
            let ran = self.ctl(&["--timeout", "20s", "restart", &format!("{}:again:again", member.name)]);
            let done = ran.stdout.lines().any(|line| line.ends_with(": restarted"));
            let refused = ran.stdout.contains("not restarted");
            if done {
                member.restarts.fetch_add(1, Ordering::SeqCst);
            } else if !refused {
                member.unknown.fetch_add(1, Ordering::SeqCst);
            }
            let after = member.starts("again");
            if done && unknown == 0 && boots == member.boots.load(Ordering::SeqCst) {
                assert_eq!(after, before + 1, "one restart is one start on {}: {ran}", member.name);
            }
            thread::sleep(dice.millis(10, 500));
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
                    let member = &self.members[number];
                    locked(&member.host).kill();
                    thread::sleep(dice.millis(0, 3000));
                    member.boots.fetch_add(1, Ordering::SeqCst);
                    locked(&member.host).start();
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
            for name in ["again", "calm"] {
                if host.state(name) != "RUNNING" {
                    return Err(format!("{}:{name} is {}", member.name, host.state(name)));
                }
            }
        }
        Ok(())
    }

    fn check_counts(&self) {
        let restarts: usize = self.members.iter().map(|member| member.restarts.load(Ordering::SeqCst)).sum();
        assert!(restarts > 0, "nothing was restarted, so nothing was tested");
        for member in &self.members {
            let count = |of: &AtomicUsize| of.load(Ordering::SeqCst);
            let (boots, done, unknown) =
                (count(&member.boots), count(&member.restarts), count(&member.unknown));
            let starts = member.starts("again");
            println!(
                "{}: {boots} boots, {done} restarts and {unknown} of unknown outcome, {starts} starts",
                member.name
            );
            assert!(starts >= done, "a restart that was acknowledged was not done on {}", member.name);
            assert!(starts <= boots + done + unknown, "something was restarted twice on {}", member.name);
            let calm = member.starts("calm");
            assert!(calm <= boots, "{} started calm {calm} times in {boots} boots", member.name);
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
    thread::scope(|scope| {
        for wish in 0..WISHES {
            let world = &world;
            scope.spawn(move || world.wish(wish, &mut Dice(seed + 1 + wish as u64)));
        }
        scope.spawn(|| world.restart(&mut Dice(seed + 100)));
        world.trouble(&mut Dice(seed), time);
        world.over.store(true, Ordering::Relaxed);
    });
    let (operations, acknowledged) = (&world.operations, world.acknowledged.load(Ordering::Relaxed));
    println!("{} commands, {acknowledged} wishes acknowledged", operations.load(Ordering::Relaxed));
    assert!(acknowledged > 0, "nothing was acknowledged, so nothing was tested");

    let end = Instant::now() + SETTLED;
    while let Err(why) = world.converged() {
        assert!(Instant::now() < end, "not converged after {SETTLED:?}: {why}");
        thread::sleep(Duration::from_millis(200));
    }
    world.check_counts();
    world.ctl(&["audit", "verify"]).expect_code(0);
}
