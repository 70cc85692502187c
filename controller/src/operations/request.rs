//! What a caller asks for, once it is known to make sense: verb, hosts and processes, strategy, limits of time.

use std::time::Duration;

use fleetvisor_model::signal::Signal;
use fleetvisor_proto::fleet::{self, RunRequest, Verb};

use super::RunError;
use super::record::StrategyRecord;
use crate::rollout::{Share, Strategy};
use crate::select::Selection;

const TIMEOUT_DEFAULT: u32 = 300;
const TIMEOUT_MAX: u32 = 24 * 3600;
/// A restart that waits for a host longer than this would come as a surprise.
const EXPIRE_DEFAULT: Duration = Duration::from_secs(3600);
/// A start or a stop is remembered without end; this is how long its operation waits to see it done.
pub(super) const EXPIRE_WISH: Duration = Duration::from_secs(7 * 24 * 3600);
const EXPIRE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
const PAUSE_MAX: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) verb: Verb,
    /// Of a signal, without `SIG`.
    pub(crate) signal: String,
    pub(crate) scope: fleet::Scope,
    pub(crate) targets: Vec<fleet::Target>,
    pub(crate) selection: Selection,
    pub(crate) strategy: Strategy,
    pub(crate) strategy_record: StrategyRecord,
    pub(crate) timeout: u32,
    pub(crate) expire: Duration,
    pub(crate) expire_is_given: bool,
}

impl Asked {
    pub(crate) fn parse(request: RunRequest) -> Result<Asked, RunError> {
        let verb = request.verb();
        let signal = match verb {
            // A revision is applied by the change that makes it.
            Verb::Unspecified | Verb::Apply => return Err(RunError::NoVerb),
            Verb::Signal => {
                let signal =
                    signal(&request.signal).ok_or_else(|| RunError::Signal(request.signal.clone()))?;
                signal.name().trim_start_matches("SIG").to_owned()
            }
            Verb::Start | Verb::Stop | Verb::Restart | Verb::Update | Verb::Upgrade => String::new(),
        };
        if verb == Verb::Update {
            request.targets.iter().try_for_each(group_only)?;
        }
        let mut asked_strategy = request.strategy.unwrap_or_default();
        if verb == Verb::Upgrade {
            if let Some(target) = request.targets.first() {
                return Err(RunError::UpgradeTarget(target.to_string()));
            }
            carefully(&mut asked_strategy);
        }
        let timeout = timeout(request.timeout_seconds)?;
        let expire = match request.expire_seconds {
            0 if matches!(verb, Verb::Start | Verb::Stop) => EXPIRE_WISH,
            0 => EXPIRE_DEFAULT,
            seconds if seconds > EXPIRE_MAX.as_secs() => return Err(RunError::Expire(seconds)),
            seconds => Duration::from_secs(seconds),
        };
        let (strategy, strategy_record) = strategy(asked_strategy)?;
        let scope = request.scope.unwrap_or_default();
        Ok(Asked {
            verb,
            signal,
            selection: Selection::parse(Some(scope.clone()), request.targets.clone())?,
            scope,
            targets: request.targets,
            strategy,
            strategy_record,
            timeout,
            expire,
            expire_is_given: request.expire_seconds != 0,
        })
    }
}

/// 0 for the default.
pub(super) fn timeout(seconds: u32) -> Result<u32, RunError> {
    match seconds {
        0 => Ok(TIMEOUT_DEFAULT),
        seconds if seconds > TIMEOUT_MAX => Err(RunError::Timeout(seconds)),
        seconds => Ok(seconds),
    }
}

/// `HUP`, `SIGHUP` or `1`; not 0, which does nothing.
fn signal(text: &str) -> Option<Signal> {
    let upper = text.to_ascii_uppercase();
    let known = match text.parse() {
        Ok(number) => Some(Signal(number)),
        Err(_) => Signal::from_name(upper.strip_prefix("SIG").unwrap_or(&upper)),
    };
    known.filter(|signal| signal.0 != 0 && signal.is_valid())
}

/// An update is for groups by their names: what a host's configuration will have cannot be globbed here.
fn group_only(target: &fleet::Target) -> Result<(), RunError> {
    let all_of_it = matches!(target.process.as_str(), "" | "*") || target.process == target.group;
    let plain = target.group == "*" || !target.group.contains(['*', '?', '[']);
    if all_of_it && plain { Ok(()) } else { Err(RunError::UpdateTarget(target.to_string())) }
}

/// A release that is not good is to be found out on one host: one after the other, up to the first failure, where
/// nothing else is said.
fn carefully(strategy: &mut fleet::Strategy) {
    if strategy.batch.is_empty() && strategy.parallel == 0 {
        "1".clone_into(&mut strategy.batch);
    }
    if strategy.max_failures.is_empty() {
        "0".clone_into(&mut strategy.max_failures);
    }
}

pub(super) fn strategy(asked: fleet::Strategy) -> Result<(Strategy, StrategyRecord), RunError> {
    let pause = Duration::from_millis(asked.pause_ms);
    if pause > PAUSE_MAX {
        return Err(RunError::Pause(pause));
    }
    let strategy = Strategy {
        parallel: (asked.parallel > 0).then_some(asked.parallel),
        batch: share(&asked.batch)?,
        canary: asked.canary,
        pause,
        max_failures: share(&asked.max_failures)?,
    };
    if strategy.batch == Some(Share::Count(0)) {
        return Err(RunError::Share(asked.batch));
    }
    let record = StrategyRecord {
        parallel: asked.parallel,
        batch: asked.batch,
        canary: asked.canary,
        pause_ms: asked.pause_ms,
        max_failures: asked.max_failures,
    };
    Ok((strategy, record))
}

impl StrategyRecord {
    pub(crate) fn strategy(&self) -> Result<Strategy, RunError> {
        strategy(fleet::Strategy {
            parallel: self.parallel,
            batch: self.batch.clone(),
            canary: self.canary,
            pause_ms: self.pause_ms,
            max_failures: self.max_failures.clone(),
        })
        .map(|(strategy, _)| strategy)
    }
}

/// `5` or `25%`; none where nothing is said.
fn share(text: &str) -> Result<Option<Share>, RunError> {
    let wrong = || RunError::Share(text.to_owned());
    if text.is_empty() {
        return Ok(None);
    }
    let share = match text.strip_suffix('%') {
        Some(percent) => Share::Percent(percent.parse().ok().filter(|n| *n <= 100).ok_or_else(wrong)?),
        None => Share::Count(text.parse().map_err(|_| wrong())?),
    };
    Ok(Some(share))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(change: impl FnOnce(&mut RunRequest)) -> Result<Asked, RunError> {
        let mut request = RunRequest { verb: Verb::Restart.into(), ..RunRequest::default() };
        change(&mut request);
        Asked::parse(request)
    }

    fn with(strategy: fleet::Strategy) -> Result<Strategy, RunError> {
        parse(|request| request.strategy = Some(strategy)).map(|asked| asked.strategy)
    }

    #[test]
    fn shares_are_numbers_or_percentages() {
        let batch =
            |text: &str| with(fleet::Strategy { batch: text.to_owned(), ..fleet::Strategy::default() });
        assert_eq!(batch("5").unwrap().batch, Some(Share::Count(5)));
        assert_eq!(batch("25%").unwrap().batch, Some(Share::Percent(25)));
        assert_eq!(batch("").unwrap().batch, None);
        for wrong in ["0", "101%", "-1", "5 %", "%", "x", "4294967296"] {
            assert!(matches!(batch(wrong), Err(RunError::Share(_))), "{wrong}");
        }
        let none = fleet::Strategy { max_failures: "0".to_owned(), ..fleet::Strategy::default() };
        assert_eq!(with(none).unwrap().max_failures, Some(Share::Count(0)));
    }

    #[test]
    fn a_wish_waits_longer_for_its_host_than_a_restart() {
        let expire = |verb: Verb, seconds| {
            parse(|request| {
                request.verb = verb.into();
                request.expire_seconds = seconds;
            })
        };
        assert_eq!(expire(Verb::Restart, 0).unwrap().expire, EXPIRE_DEFAULT);
        assert_eq!(expire(Verb::Stop, 0).unwrap().expire, EXPIRE_WISH);
        assert_eq!(expire(Verb::Stop, 60).unwrap().expire, Duration::from_secs(60));
        assert!(matches!(expire(Verb::Stop, u64::MAX), Err(RunError::Expire(_))));
    }

    #[test]
    fn signals_are_known_by_their_names_and_numbers() {
        let signal = |name: &str| {
            parse(|request| {
                request.verb = Verb::Signal.into();
                request.signal = name.to_owned();
            })
        };
        for name in ["HUP", "SIGHUP", "hup", "1"] {
            assert_eq!(signal(name).unwrap().signal, "HUP", "{name}");
        }
        assert!(matches!(signal("NOPE"), Err(RunError::Signal(_))));
    }

    #[test]
    fn an_upgrade_goes_host_by_host_up_to_the_first_failure_unless_told_otherwise() {
        let upgrade = |asked: fleet::Strategy| {
            let upgrade = |request: &mut RunRequest| {
                request.verb = Verb::Upgrade.into();
                request.strategy = Some(asked);
            };
            parse(upgrade).unwrap().strategy
        };
        let careful = upgrade(fleet::Strategy::default());
        let one_by_one = (careful.batch, careful.max_failures);
        assert_eq!(one_by_one, (Some(Share::Count(1)), Some(Share::Count(0))));
        let bold =
            upgrade(fleet::Strategy { parallel: 5, max_failures: "10%".to_owned(), ..Default::default() });
        assert_eq!((bold.batch, bold.max_failures), (None, Some(Share::Percent(10))));
        let with_target = parse(|request| {
            request.verb = Verb::Upgrade.into();
            request.targets = vec![fleet::Target { group: "web".to_owned(), ..Default::default() }];
        });
        assert!(matches!(with_target, Err(RunError::UpgradeTarget(_))));
    }

    #[test]
    fn an_update_takes_groups_by_name() {
        let update = |group: &str, process: &str| {
            parse(|request| {
                request.verb = Verb::Update.into();
                let target = fleet::Target {
                    host: String::new(),
                    group: group.to_owned(),
                    process: process.to_owned(),
                };
                request.targets = vec![target];
            })
        };
        assert!(update("web", "").is_ok() && update("*", "").is_ok() && update("web", "web").is_ok());
        for (group, process) in [("w*", ""), ("web", "web_00")] {
            assert!(matches!(update(group, process), Err(RunError::UpdateTarget(_))));
        }
    }
}
