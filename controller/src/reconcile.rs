//! What to tell a host so that it comes to run what is desired of it. Pure: the wishes of the store and what
//! is known of the host go in, a plan comes out; reading the one and carrying out the other is
//! [`crate::link`]'s.
//!
//! A wish is for one process and has the revision of the store that wrote it. A host carries out the wishes
//! above the revision that it has observed, in order, and then has observed the highest of them. So every
//! message may be repeated and a lost one is made up for by the next link, which begins with all wishes:
//!
//! ```text
//!   new link -- Tell everything --> Wait -- observed --> Settled
//!                                    ^                      |
//!                                    '--- Tell the news <---'  a wish above what was told
//! ```

use std::fmt;

use fleetvisor_model::name::ProcessName;

pub(crate) use crate::records::Run;

/// That one process shall run, or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) name: ProcessName,
    pub(crate) run: Run,
    pub(crate) revision: u64,
}

/// All wishes for one host, at most one for a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Desired {
    wishes: Vec<Wish>,
}

/// What is known of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    /// Highest revision that was sent over the present link; `None` on a new one.
    pub(crate) told: Option<u64>,
    /// Highest revision that the host has carried out.
    pub(crate) carried_out: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Send these wishes: all there are if `complete`, else in addition to those sent before.
    Tell { complete: bool, revision: u64, wishes: Vec<Wish> },
    /// Everything has been sent; the host has yet to carry out what is above `carried_out`.
    Wait { carried_out: u64 },
    /// The host has carried out everything.
    Settled,
}

pub(crate) fn reconcile(desired: &Desired, observed: Observed) -> Plan {
    let revision = desired.revision();
    match observed.told {
        // Also without any wish: the host may remember some that are gone.
        None => Plan::Tell { complete: true, revision, wishes: desired.wishes.clone() },
        Some(told) if told < revision => {
            Plan::Tell { complete: false, revision, wishes: desired.above(told).cloned().collect() }
        }
        Some(_) if observed.carried_out < revision => Plan::Wait { carried_out: observed.carried_out },
        Some(_) => Plan::Settled,
    }
}

impl Desired {
    /// Sorts the wishes by revision, which is the order in which they are carried out.
    pub(crate) fn new(mut wishes: Vec<Wish>) -> Desired {
        wishes.sort_by(|a, b| a.revision.cmp(&b.revision).then_with(|| a.name.cmp(&b.name)));
        Desired { wishes }
    }

    /// The highest revision among the wishes, 0 without any.
    pub(crate) fn revision(&self) -> u64 {
        self.wishes.last().map_or(0, |wish| wish.revision)
    }

    /// The wishes above a revision.
    pub(crate) fn above(&self, revision: u64) -> impl Iterator<Item = &Wish> {
        self.wishes.iter().filter(move |wish| wish.revision > revision)
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let run = match self.run {
            Run::Started => "start",
            Run::Stopped => "stop",
        };
        write!(f, "{run} {} (revision {})", self.name.full(), self.revision)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn wish(process: &str, run: Run, revision: u64) -> Wish {
        Wish { name: ProcessName::new("g", process), run, revision }
    }

    #[test]
    fn a_new_link_begins_with_everything() {
        let desired = Desired::new(vec![wish("b", Run::Started, 7), wish("a", Run::Stopped, 3)]);
        let observed = Observed { told: None, carried_out: 7 };
        let wishes = vec![wish("a", Run::Stopped, 3), wish("b", Run::Started, 7)];
        assert_eq!(reconcile(&desired, observed), Plan::Tell { complete: true, revision: 7, wishes });
    }

    #[test]
    fn a_host_that_remembers_wishes_that_are_gone_is_told_so() {
        let plan = reconcile(&Desired::default(), Observed { told: None, carried_out: 9 });
        assert_eq!(plan, Plan::Tell { complete: true, revision: 0, wishes: Vec::new() });
    }

    #[test]
    fn news_are_told_alone_and_once() {
        let desired = Desired::new(vec![wish("a", Run::Stopped, 3), wish("b", Run::Started, 7)]);
        let plan = reconcile(&desired, Observed { told: Some(3), carried_out: 3 });
        let wishes = vec![wish("b", Run::Started, 7)];
        assert_eq!(plan, Plan::Tell { complete: false, revision: 7, wishes });
        let plan = reconcile(&desired, Observed { told: Some(7), carried_out: 3 });
        assert_eq!(plan, Plan::Wait { carried_out: 3 });
        assert_eq!(reconcile(&desired, Observed { told: Some(7), carried_out: 7 }), Plan::Settled);
    }

    /// A host as the protocol describes it.
    #[derive(Default)]
    struct Host {
        observed: u64,
        wishes: BTreeMap<ProcessName, Wish>,
        running: BTreeMap<ProcessName, Run>,
        carried_out: Vec<u64>,
    }

    impl Host {
        fn receive(&mut self, plan: Plan) {
            let Plan::Tell { complete, revision, wishes } = plan else { return };
            if complete {
                self.wishes.clear();
            }
            for wish in wishes {
                if wish.revision > self.observed {
                    self.running.insert(wish.name.clone(), wish.run);
                    self.carried_out.push(wish.revision);
                }
                self.wishes.insert(wish.name.clone(), wish);
            }
            self.observed = self.observed.max(revision);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wish(u8, bool),
        /// The controller looks; the message arrives, or the link breaks and it is lost.
        Look {
            arrives: bool,
        },
        /// The link ends.
        Break,
        /// The controller learns what the host has observed.
        Hear,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0_u8..4, any::<bool>()).prop_map(|(process, run)| Step::Wish(process, run)),
            any::<bool>().prop_map(|arrives| Step::Look { arrives }),
            Just(Step::Break),
            Just(Step::Hear),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn whatever_is_lost_a_link_that_holds_reaches_what_is_desired(steps in steps()) {
            let mut wishes: BTreeMap<ProcessName, Wish> = BTreeMap::new();
            let mut host = Host::default();
            let mut observed = Observed::default();
            let mut revision = 0;
            let look = |wishes: &BTreeMap<ProcessName, Wish>, observed: &mut Observed| {
                let plan = reconcile(&Desired::new(wishes.values().cloned().collect()), *observed);
                if let Plan::Tell { revision, .. } = &plan {
                    observed.told = Some(*revision);
                }
                plan
            };
            for step in steps {
                match step {
                    Step::Wish(process, run) => {
                        revision += 1;
                        let run = if run { Run::Started } else { Run::Stopped };
                        let wish = wish(&process.to_string(), run, revision);
                        wishes.insert(wish.name.clone(), wish);
                    }
                    Step::Look { arrives: true } => host.receive(look(&wishes, &mut observed)),
                    Step::Look { arrives: false } => {
                        look(&wishes, &mut observed);
                        observed.told = None;
                    }
                    Step::Break => observed.told = None,
                    Step::Hear => observed.carried_out = host.observed,
                }
            }
            // From here on the link holds. It takes at most two looks, and then nothing is left to do.
            host.receive(look(&wishes, &mut observed));
            host.receive(look(&wishes, &mut observed));
            observed.carried_out = host.observed;
            prop_assert_eq!(look(&wishes, &mut observed), Plan::Settled);
            for (name, wish) in &wishes {
                prop_assert_eq!(host.running.get(name), Some(&wish.run));
            }
            prop_assert_eq!(&host.wishes, &wishes);
            // Nothing was carried out twice, or after something newer.
            prop_assert!(host.carried_out.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
