//! How a command goes through the hosts of a fleet: the options that start, stop, restart, signal, update and upgrade
//! share, and [`Steps`], those of them that a push and a rollback of a bundle have too.

use std::time::Duration;

use clap::Args;
use fleetvisor_proto::fleet;

use crate::fleet::client::FleetError;

/// How it goes through the hosts of a fleet.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Rollout (in a fleet)")]
pub(crate) struct Rollout {
    #[command(flatten)]
    steps: Steps,
    /// When a host that is away is given up: 10m, 1d. Else 1h; starts and stops are remembered without end
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    expire: Option<Duration>,
    /// Print the batches, hosts and processes, and do nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// In which steps.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Rollout (in a fleet)")]
pub(crate) struct Steps {
    /// Hosts under way at once; all, if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    parallel: Option<u32>,
    /// Hosts of a batch, 5 or 25%; each batch must be good before the next begins
    #[arg(long, value_name = "N|P%", value_parser = share)]
    batch: Option<String>,
    /// Hosts of a first batch of their own
    #[arg(long, value_name = "N")]
    canary: Option<u32>,
    /// Time between a good batch and the next: 10s, 5m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pause: Option<Duration>,
    /// Failed hosts to put up with, 1 or 10%; with more the rollout stops. None in several batches, else all
    #[arg(long, value_name = "N|P%", value_parser = share)]
    max_failures: Option<String>,
    /// Wait for the results; this is so anyway
    #[arg(long, conflicts_with = "no_wait")]
    wait: bool,
    /// Print the operation's id and leave it alone
    #[arg(long)]
    pub(super) no_wait: bool,
}

impl Rollout {
    /// The first option that means nothing on this host.
    pub(super) fn given(&self) -> Option<&'static str> {
        let given = [("--expire", self.expire.is_some()), ("--dry-run", self.dry_run)];
        given.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag).or(self.steps.given())
    }

    pub(super) fn strategy(&self) -> Result<fleet::Strategy, FleetError> {
        self.steps.strategy()
    }

    pub(super) fn no_wait(&self) -> bool {
        self.steps.no_wait
    }

    /// Seconds, 0 for the controller's default.
    pub(super) fn expire_seconds(&self) -> u64 {
        self.expire.map_or(0, |expire| expire.as_secs().max(1))
    }
}

impl Steps {
    fn given(&self) -> Option<&'static str> {
        let given = [
            ("--parallel", self.parallel.is_some()),
            ("--batch", self.batch.is_some()),
            ("--canary", self.canary.is_some()),
            ("--pause", self.pause.is_some()),
            ("--max-failures", self.max_failures.is_some()),
            ("--wait", self.wait),
            ("--no-wait", self.no_wait),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }

    pub(super) fn strategy(&self) -> Result<fleet::Strategy, FleetError> {
        let pause = self.pause.unwrap_or_default().as_millis();
        Ok(fleet::Strategy {
            parallel: self.parallel.unwrap_or(0),
            batch: self.batch.clone().unwrap_or_default(),
            canary: self.canary.unwrap_or(0),
            pause_ms: u64::try_from(pause)
                .map_err(|_| FleetError::Usage("--pause is too long".to_owned()))?,
            max_failures: self.max_failures.clone().unwrap_or_default(),
        })
    }
}

fn share(text: &str) -> Result<String, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    let fits = |number: u32| !text.ends_with('%') || number <= 100;
    match number.parse() {
        Ok(number) if fits(number) => Ok(text.to_owned()),
        _ => Err("a number of hosts or a percentage: 5, 25%".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_numbers_or_percentages() {
        for good in ["0", "5", "25%", "100%"] {
            assert!(share(good).is_ok(), "{good}");
        }
        for bad in ["", "%", "101%", "-1", "1.5", "5 %"] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }
}
