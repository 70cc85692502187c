//! What a change of a bundle comes to on one host, as `update` carries it out: groups that are added, changed or
//! removed. Pure.

use std::collections::BTreeMap;

use fleetvisor_model::config::{Bundled, Group};
use fleetvisor_proto::fleet::HostPlan;

/// `None` where nothing changes.
pub(super) fn plan(host: &str, old: Option<&Bundled>, new: Option<&Bundled>) -> Option<HostPlan> {
    let groups = |read: Option<&Bundled>| -> BTreeMap<String, Group> {
        let groups = read.map(|read| read.groups.clone()).unwrap_or_default();
        groups.into_iter().map(|group| (group.name.clone(), group)).collect()
    };
    let (old, new) = (groups(old), groups(new));
    let mut plan = HostPlan { host: host.to_owned(), ..HostPlan::default() };
    for (name, group) in &new {
        match old.get(name) {
            None => plan.start.extend(started(group)),
            Some(before) if before != group => {
                let was = |name: &String| before.processes.iter().any(|old| &old.name.to_string() == name);
                let (again, added): (Vec<String>, Vec<String>) = started(group).partition(was);
                plan.restart.extend(again);
                plan.start.extend(added);
                let is = |name: &String| group.processes.iter().any(|new| &new.name.to_string() == name);
                plan.stop.extend(all(before).filter(|name| !is(name)));
            }
            Some(_) => {}
        }
    }
    for group in old.values().filter(|group| !new.contains_key(&group.name)) {
        plan.stop.extend(all(group));
    }
    (!plan.start.is_empty() || !plan.stop.is_empty() || !plan.restart.is_empty()).then_some(plan)
}

fn all(group: &Group) -> impl Iterator<Item = String> {
    group.processes.iter().map(|process| process.name.to_string())
}

/// Those that come to life with their group.
fn started(group: &Group) -> impl Iterator<Item = String> {
    group.processes.iter().filter(|process| process.autostart).map(|process| process.name.to_string())
}

#[cfg(test)]
mod tests {
    use fleetvisor_proto::fleet::{BundleContent, BundleFile};

    use super::super::check::Reader;
    use super::*;

    fn read(text: &str) -> Bundled {
        let file = BundleFile { name: "a.conf".to_owned(), text: text.as_bytes().to_vec() };
        Reader::new("b", &BundleContent { files: vec![file] }).anywhere().unwrap().clone()
    }

    #[test]
    fn a_plan_says_what_starts_stops_and_restarts_and_leaves_out_the_rest() {
        let old = read(
            "[program:same]\ncommand=x\n[program:changed]\ncommand=x\n[program:gone]\ncommand=x\n\
             [program:pool]\ncommand=x\nnumprocs=2\nprocess_name=p%(process_num)d\n",
        );
        let new = read(
            "[program:same]\ncommand=x\n[program:changed]\ncommand=y\n[program:new]\ncommand=x\n\
             [program:idle]\ncommand=x\nautostart=false\n\
             [program:pool]\ncommand=x\nnumprocs=1\nprocess_name=p%(process_num)d\nstartsecs=2\n",
        );
        let plan = plan("h", Some(&old), Some(&new)).unwrap();
        assert_eq!(plan.start, ["new"]);
        assert_eq!(plan.restart, ["changed", "pool:p0"]);
        assert_eq!(plan.stop, ["pool:p1", "gone"]);
        assert_eq!(super::plan("h", Some(&old), Some(&old)), None);
        assert_eq!(super::plan("h", Some(&old), None).unwrap().stop.len(), 5);
    }
}
