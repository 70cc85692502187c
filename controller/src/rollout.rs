//! Which hosts of an operation begin next. Pure: the operation's hosts in their batches and what is known of each
//! go in, a plan comes out; storing, sending and waiting is [`crate::operations`]'.
//!
//! Batches begin one after the other. Each must be good before the next: every host of it has done what was
//! asked, or is away. Who is away is not waited for, and begins when it returns, unless the operation has ended
//! by then. Failures beyond the limit end the rollout: nobody begins any more.
//!
//! ```text
//!   host:   Waiting --begin--> Begun --answer, time limit--> Good | Bad
//!   batch:  begins ----> all good or away ----> pause ----> the next begins
//!                          '-- too many bad --> Halt
//! ```

use std::fmt;
use std::time::Duration;

/// Number of hosts, absolute or a share of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    Count(u32),
    /// 0 to 100.
    Percent(u32),
}

/// How an operation goes through its hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Strategy {
    /// Hosts under way at once.
    pub(crate) parallel: Option<u32>,
    /// Hosts of a batch; all of them where there is none.
    pub(crate) batch: Option<Share>,
    /// Hosts of a batch of their own, before the others.
    pub(crate) canary: u32,
    /// Between a good batch and the next.
    pub(crate) pause: Duration,
    /// Bad hosts that are put up with. Where there is none, one batch is; a rollout in several puts up with none.
    pub(crate) max_failures: Option<Share>,
}

/// What is known of a host of the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has not begun.
    Waiting {
        online: bool,
    },
    /// It was told, and has not answered.
    Begun,
    Good,
    Bad,
    /// Bad before somebody resumed the operation: no longer counted.
    Forgiven,
}

/// What to do now. `batch` counts from 0 and is the first that is not good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// These hosts begin; none of them, while those of the batch that have begun are waited for.
    Begin { hosts: Vec<usize>, batch: usize },
    /// The batch before this one is good; this one begins in a while.
    Pause { left: Duration, batch: usize },
    /// Nobody begins any more. Those that have begun are still waited for.
    Halt { bad: usize, allowed: usize, batch: usize },
    /// Only hosts that are away are left.
    OnlyAway,
    /// Every host has ended.
    Finished,
}

impl Share {
    /// Of `total`, rounded down.
    fn of(self, total: usize) -> usize {
        match self {
            Share::Count(count) => usize::try_from(count).unwrap_or(usize::MAX),
            Share::Percent(percent) => total * usize::try_from(percent.min(100)).unwrap_or(100) / 100,
        }
    }
}

impl Strategy {
    /// Where each batch ends, for this many hosts.
    pub(crate) fn batches(&self, total: usize) -> Vec<usize> {
        let mut ends = Vec::new();
        let canary = usize::try_from(self.canary).unwrap_or(usize::MAX).min(total);
        if canary > 0 {
            ends.push(canary);
        }
        let size = self.batch.map_or(total, |share| share.of(total)).max(1);
        let mut end = canary;
        while end < total {
            end = end.saturating_add(size).min(total);
            ends.push(end);
        }
        ends
    }

    /// Whether somebody may be left out: everybody begins at once where not.
    pub(crate) fn is_gradual(&self, total: usize) -> bool {
        total > 0
            && (self.batches(total).len() > 1
                || self.parallel.is_some()
                || self.failures_allowed(total) < total)
    }

    /// Bad hosts that are put up with.
    pub(crate) fn failures_allowed(&self, total: usize) -> usize {
        match self.max_failures {
            Some(share) => share.of(total),
            None if self.batches(total).len() > 1 => 0,
            None => total,
        }
    }
}

/// `good_for`: how long the batch before the first one that is not good has been so.
pub(crate) fn next(strategy: &Strategy, hosts: &[Standing], good_for: Duration) -> Next {
    let ends = strategy.batches(hosts.len());
    let batch = first_open(&ends, hosts);
    let anybody_waits = hosts.iter().any(|host| matches!(host, Standing::Waiting { .. }));

    let bad = count(hosts, Standing::Bad);
    let allowed = strategy.failures_allowed(hosts.len());
    if bad > allowed && anybody_waits {
        return Next::Halt { bad, allowed, batch };
    }
    let Some(end) = ends.get(batch).copied() else {
        return if anybody_waits { Next::OnlyAway } else { Next::Finished };
    };
    let start = if batch == 0 { 0 } else { ends[batch - 1] };
    let has_begun = hosts[start..end].iter().any(|host| !matches!(host, Standing::Waiting { .. }));
    if batch > 0 && !has_begun && good_for < strategy.pause {
        return Next::Pause { left: strategy.pause - good_for, batch };
    }
    let most =
        strategy.parallel.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX).max(1));
    let room = most.saturating_sub(count(hosts, Standing::Begun));
    let may_begin = |at: &usize| hosts[*at] == Standing::Waiting { online: true };
    Next::Begin { hosts: (start..end).filter(may_begin).take(room).collect(), batch }
}

/// The first batch in which somebody present has not ended; as many as there are batches, if none has.
pub(crate) fn first_open(ends: &[usize], hosts: &[Standing]) -> usize {
    let is_open = |host: &Standing| matches!(host, Standing::Begun | Standing::Waiting { online: true });
    match hosts.iter().position(is_open) {
        Some(at) => ends.iter().take_while(|end| **end <= at).count(),
        None => ends.len(),
    }
}

fn count(hosts: &[Standing], standing: Standing) -> usize {
    hosts.iter().filter(|host| **host == standing).count()
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Share::Count(count) => write!(f, "{count}"),
            Share::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy as Generator, *};

    use super::Strategy;
    use super::*;

    const ONCE: Strategy =
        Strategy { parallel: None, batch: None, canary: 0, pause: Duration::ZERO, max_failures: None };
    const PRESENT: Standing = Standing::Waiting { online: true };
    const AWAY: Standing = Standing::Waiting { online: false };

    fn begun(strategy: &Strategy, hosts: &[Standing]) -> Vec<usize> {
        match next(strategy, hosts, Duration::MAX) {
            Next::Begin { hosts, .. } => hosts,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_a_strategy_everybody_who_is_there_begins_at_once() {
        assert_eq!(begun(&ONCE, &[PRESENT, AWAY, PRESENT]), [0, 2]);
        assert_eq!(next(&ONCE, &[Standing::Good, AWAY, Standing::Bad], Duration::ZERO), Next::OnlyAway);
        assert_eq!(next(&ONCE, &[Standing::Good, Standing::Bad], Duration::ZERO), Next::Finished);
        assert_eq!(next(&ONCE, &[], Duration::ZERO), Next::Finished);
    }

    #[test]
    fn batches_are_cut_after_the_canaries() {
        let strategy = Strategy { canary: 1, batch: Some(Share::Percent(25)), ..ONCE };
        assert_eq!(strategy.batches(20), [1, 6, 11, 16, 20]);
        assert_eq!(strategy.batches(2), [1, 2]);
        assert_eq!(Strategy { canary: 5, ..ONCE }.batches(3), [3]);
        assert_eq!(Strategy { batch: Some(Share::Count(0)), ..ONCE }.batches(2), [1, 2]);
        assert!(ONCE.batches(0).is_empty());
        assert!(strategy.is_gradual(2) && !strategy.is_gradual(0) && !ONCE.is_gradual(2));
        assert!(Strategy { max_failures: Some(Share::Count(0)), ..ONCE }.is_gradual(2));
    }

    #[test]
    fn a_canary_that_fails_is_the_only_one_touched() {
        let strategy = Strategy { canary: 1, ..ONCE };
        assert_eq!(begun(&strategy, &[PRESENT; 3]), [0]);
        let failed = [Standing::Bad, PRESENT, PRESENT];
        let halt = Next::Halt { bad: 1, allowed: 0, batch: 1 };
        assert_eq!(next(&strategy, &failed, Duration::MAX), halt);
        // Resumed in spite of it.
        assert_eq!(begun(&strategy, &[Standing::Forgiven, PRESENT, PRESENT]), [1, 2]);
    }

    #[test]
    fn the_next_batch_waits_for_the_pause() {
        let strategy = Strategy { batch: Some(Share::Count(1)), pause: Duration::from_secs(10), ..ONCE };
        let hosts = [Standing::Good, PRESENT];
        let left = Duration::from_secs(7);
        assert_eq!(next(&strategy, &hosts, Duration::from_secs(3)), Next::Pause { left, batch: 1 });
        let begin = Next::Begin { hosts: vec![1], batch: 1 };
        assert_eq!(next(&strategy, &hosts, Duration::from_secs(10)), begin);
    }

    #[test]
    fn who_returns_late_begins_before_the_batches_after_it() {
        let strategy = Strategy { batch: Some(Share::Count(1)), ..ONCE };
        assert_eq!(begun(&strategy, &[AWAY, PRESENT, PRESENT]), [1]);
        assert_eq!(begun(&strategy, &[PRESENT, Standing::Good, PRESENT]), [0]);
    }

    /// What the hosts of a simulated operation do.
    #[derive(Clone, Debug)]
    enum Step {
        Answer {
            host: usize,
            good: bool,
        },
        Leave(usize),
        Return(usize),
        /// Time passes.
        Wait,
        Resume,
    }

    fn steps() -> impl Generator<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0_usize..12, prop::bool::weighted(0.8)).prop_map(|(host, good)| Step::Answer { host, good }),
            1 => (0_usize..12).prop_map(Step::Leave),
            1 => (0_usize..12).prop_map(Step::Return),
            2 => Just(Step::Wait),
            1 => Just(Step::Resume),
        ];
        prop::collection::vec(step, 0..80)
    }

    fn share() -> impl Generator<Value = Option<Share>> {
        prop_oneof![
            Just(None),
            (0_u32..5).prop_map(|count| Some(Share::Count(count))),
            (0_u32..=100).prop_map(|percent| Some(Share::Percent(percent))),
        ]
    }

    fn strategies() -> impl Generator<Value = Strategy> {
        (prop::option::of(1_u32..5), share(), 0_u32..3, any::<bool>(), share()).prop_map(
            |(parallel, batch, canary, pause, max_failures)| {
                let pause = Duration::from_secs(u64::from(pause) * 10);
                Strategy { parallel, batch, canary, pause, max_failures }
            },
        )
    }

    /// Carries out what is planned, and checks that it may be.
    fn carry_out(
        strategy: &Strategy,
        hosts: &mut [Standing],
        good_for: Duration,
    ) -> Result<Next, TestCaseError> {
        let plan = next(strategy, hosts, good_for);
        if let Next::Begin { hosts: begin, .. } = &plan {
            let ends = strategy.batches(hosts.len());
            let bad = count(hosts, Standing::Bad);
            for at in begin {
                prop_assert!(bad <= strategy.failures_allowed(hosts.len()), "nobody begins beyond the limit");
                prop_assert_eq!(hosts[*at], PRESENT, "who begins is there and has not begun");
                let start = ends.iter().rev().find(|end| **end <= *at).copied().unwrap_or(0);
                let before = hosts[..start].iter();
                let open =
                    |host: &Standing| matches!(host, Standing::Begun | Standing::Waiting { online: true });
                prop_assert_eq!(
                    before.filter(|host| open(host)).count(),
                    0,
                    "a batch waits for those before it"
                );
            }
            for at in begin {
                hosts[*at] = Standing::Begun;
            }
            let most = strategy.parallel.map_or(hosts.len(), |most| usize::try_from(most).unwrap());
            if !begin.is_empty() {
                prop_assert!(count(hosts, Standing::Begun) <= most, "never more in parallel");
            }
            // What was planned and done leaves nothing more to do.
            let again = next(strategy, hosts, good_for);
            prop_assert!(!matches!(&again, Next::Begin { hosts, .. } if !hosts.is_empty()), "{again:?}");
        }
        Ok(plan)
    }

    proptest! {
        #[test]
        fn whatever_hosts_do_the_strategy_is_kept_and_the_end_is_reached(
            strategy in strategies(), total in 1_usize..12, steps in steps()
        ) {
            let mut hosts = vec![PRESENT; total];
            let mut good_for = Duration::ZERO;
            for step in steps {
                carry_out(&strategy, &mut hosts, good_for)?;
                match step {
                    Step::Answer { host, good } if hosts.get(host) == Some(&Standing::Begun) => {
                        hosts[host] = if good { Standing::Good } else { Standing::Bad };
                        good_for = Duration::ZERO;
                    }
                    Step::Leave(host) if hosts.get(host) == Some(&PRESENT) => hosts[host] = AWAY,
                    Step::Return(host) if hosts.get(host) == Some(&AWAY) => hosts[host] = PRESENT,
                    Step::Wait => good_for += Duration::from_secs(6),
                    Step::Resume => {
                        for host in hosts.iter_mut().filter(|host| **host == Standing::Bad) {
                            *host = Standing::Forgiven;
                        }
                    }
                    Step::Answer { .. } | Step::Leave(_) | Step::Return(_) => {}
                }
            }
            // From here on all goes well: it comes to an end, which is one.
            for _ in 0..4 * total + 4 {
                let plan = carry_out(&strategy, &mut hosts, Duration::MAX)?;
                for host in hosts.iter_mut().filter(|host| **host == Standing::Begun) {
                    *host = Standing::Good;
                }
                if !matches!(plan, Next::Begin { .. }) {
                    break;
                }
            }
            let end = next(&strategy, &hosts, Duration::MAX);
            let is_end = matches!(end, Next::Halt { .. } | Next::OnlyAway | Next::Finished);
            prop_assert!(is_end, "{:?} with {:?}", end, hosts);
            prop_assert_eq!(next(&strategy, &hosts, Duration::MAX), end);
        }
    }
}
