//! Which hosts and processes a caller means: a scope (host globs, a label selector) and targets (globs of
//! host, group, process). Owns parsing them with limits, and matching; what is done with the matches is the
//! caller's.

use std::collections::BTreeMap;

use fleetvisor_model::name::ProcessName;
use fleetvisor_model::selector::{Selector, SelectorError};
use fleetvisor_proto::fleet;
use glob::Pattern;

const PATTERN_MAX: usize = 512;
const PATTERNS_MAX: usize = 1000;

/// An empty one means everything.
#[derive(Debug)]
pub(crate) struct Selection {
    hosts: Vec<Pattern>,
    labels: Selector,
    targets: Vec<Target>,
}

#[derive(Debug)]
pub(crate) struct Target {
    typed: fleet::Target,
    /// `None` for any, in all three.
    host: Option<Pattern>,
    group: Option<Pattern>,
    process: Option<Pattern>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SelectionError {
    #[error("the pattern {pattern:?} is malformed: {reason}")]
    Pattern { pattern: String, reason: String },
    #[error("a pattern of {0} bytes is too long (the limit is {PATTERN_MAX})")]
    TooLong(usize),
    #[error("{0} patterns are too many (the limit is {PATTERNS_MAX})")]
    TooMany(usize),
    #[error(transparent)]
    Labels(#[from] SelectorError),
}

impl Selection {
    pub(crate) fn parse(
        scope: Option<fleet::Scope>,
        targets: Vec<fleet::Target>,
    ) -> Result<Selection, SelectionError> {
        let scope = scope.unwrap_or_default();
        for count in [scope.hosts.len(), targets.len()] {
            if count > PATTERNS_MAX {
                return Err(SelectionError::TooMany(count));
            }
        }
        Ok(Selection {
            hosts: scope.hosts.iter().map(|glob| pattern(glob)).collect::<Result<_, _>>()?,
            labels: Selector::parse(&scope.labels)?,
            targets: targets.into_iter().map(Target::parse).collect::<Result<_, _>>()?,
        })
    }

    /// Whether the scope includes a host.
    pub(crate) fn includes(&self, host: &str, labels: &BTreeMap<String, String>) -> bool {
        (self.hosts.is_empty() || self.hosts.iter().any(|pattern| pattern.matches(host)))
            && self.labels.matches(labels)
    }

    /// Whether any target means a process of a host in scope.
    pub(crate) fn wants(&self, host: &str, name: &ProcessName) -> bool {
        self.targets.is_empty() || self.targets.iter().any(|target| target.wants(host, name))
    }

    /// Whether a target means the host as such, whatever processes it has.
    pub(crate) fn wants_all_of(&self, host: &str) -> bool {
        let all =
            |target: &Target| target.host_matches(host) && target.group.is_none() && target.process.is_none();
        self.targets.is_empty() || self.targets.iter().any(all)
    }

    pub(crate) fn targets(&self) -> &[Target] {
        &self.targets
    }
}

impl Target {
    fn parse(typed: fleet::Target) -> Result<Target, SelectionError> {
        Ok(Target {
            host: any_or(&typed.host)?,
            group: any_or(&typed.group)?,
            process: any_or(&typed.process)?,
            typed,
        })
    }

    pub(crate) fn typed(&self) -> &fleet::Target {
        &self.typed
    }

    pub(crate) fn wants(&self, host: &str, name: &ProcessName) -> bool {
        self.host_matches(host)
            && self.group.as_ref().is_none_or(|pattern| pattern.matches(&name.group))
            && self.process.as_ref().is_none_or(|pattern| pattern.matches(&name.process))
    }

    pub(crate) fn host_matches(&self, host: &str) -> bool {
        self.host.as_ref().is_none_or(|pattern| pattern.matches(host))
    }
}

fn any_or(glob: &str) -> Result<Option<Pattern>, SelectionError> {
    match glob {
        "" | "*" => Ok(None),
        glob => pattern(glob).map(Some),
    }
}

fn pattern(glob: &str) -> Result<Pattern, SelectionError> {
    if glob.len() > PATTERN_MAX {
        return Err(SelectionError::TooLong(glob.len()));
    }
    Pattern::new(glob)
        .map_err(|err| SelectionError::Pattern { pattern: glob.to_owned(), reason: err.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(host: &str, group: &str, process: &str) -> fleet::Target {
        fleet::Target { host: host.to_owned(), group: group.to_owned(), process: process.to_owned() }
    }

    fn scope(hosts: &[&str], labels: &str) -> Option<fleet::Scope> {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        Some(fleet::Scope { hosts, labels: labels.to_owned() })
    }

    #[test]
    fn a_scope_needs_all_its_parts() {
        let labels = BTreeMap::from([("role".to_owned(), "web".to_owned())]);
        let includes = |hosts: &[&str], selector: &str| {
            Selection::parse(scope(hosts, selector), Vec::new()).unwrap().includes("web-01", &labels)
        };
        assert!(includes(&[], "") && includes(&["db-*", "web-*"], "") && includes(&["web-01"], "role=web"));
        assert!(!includes(&["db-*"], "role=web") && !includes(&["web-*"], "role=db"));
        assert!(Selection::parse(None, Vec::new()).unwrap().includes("web-01", &labels));
    }

    #[test]
    fn targets_mean_what_their_parts_say() {
        let name = ProcessName::new("app", "app_00");
        let wants = |parts: (&str, &str, &str)| {
            Selection::parse(None, vec![target(parts.0, parts.1, parts.2)]).unwrap().wants("web-01", &name)
        };
        for parts in [("", "app", ""), ("web-*", "a*", "app_0?"), ("web-01", "", ""), ("", "app", "app_00")] {
            assert!(wants(parts), "{parts:?}");
        }
        for parts in [("db-*", "app", ""), ("", "app_00", ""), ("", "app", "app_01"), ("WEB-01", "", "")] {
            assert!(!wants(parts), "{parts:?}");
        }
        assert!(Selection::parse(None, Vec::new()).unwrap().wants("web-01", &name));
    }

    #[test]
    fn only_a_target_without_groups_means_the_host_itself() {
        let all = |parts: (&str, &str, &str)| {
            Selection::parse(None, vec![target(parts.0, parts.1, parts.2)]).unwrap().wants_all_of("web-01")
        };
        assert!(all(("", "*", "")) && all(("web-*", "", "*")));
        assert!(!all(("", "web", "")) && !all(("db-*", "*", "*")));
    }

    #[test]
    fn malformed_and_excessive_patterns_are_refused() {
        let parse = |glob: &str| Selection::parse(scope(&[glob], ""), Vec::new()).map(drop);
        assert!(matches!(parse("[a"), Err(SelectionError::Pattern { .. })));
        assert!(matches!(parse(&"a".repeat(513)), Err(SelectionError::TooLong(513))));
        let many = vec![target("", "a", ""); 1001];
        assert!(matches!(Selection::parse(None, many), Err(SelectionError::TooMany(1001))));
    }
}
