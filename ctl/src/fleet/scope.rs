//! What a fleet command means, from its flags and names: checked here, so that a slip is answered at once
//! and nothing is sent.

use fleetvisor_model::selector::{Selector, SelectorError};
use fleetvisor_model::target::{Target, TargetError};
use fleetvisor_proto::fleet;

use crate::cli;

/// Globs and names in one command.
const MAX: usize = 1000;

/// Hosts and processes of a command.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Meant {
    pub(crate) scope: fleet::Scope,
    /// Empty for every process.
    pub(crate) targets: Vec<Target>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScopeError {
    #[error("--all-hosts and --hosts exclude each other")]
    AllAndSome,
    #[error("--hosts {0:?}: {1}")]
    Hosts(String, TargetError),
    #[error("-l: {0}")]
    Labels(#[from] SelectorError),
    #[error("-l: an empty selector; use --all-hosts for every host")]
    NoLabels,
    #[error("{0}")]
    Target(#[from] TargetError),
    #[error("{0} names no host, other names do; put a host in front of it or use a scope flag")]
    NoHost(String),
    #[error("more than {MAX} names or globs")]
    TooMany,
}

/// Reads flags and names. Without a scope flag every name must say its host: `restart web-01:app: nginx`
/// must not restart nginx everywhere.
pub(crate) fn meant(scope: &cli::Scope, names: &[String]) -> Result<Meant, ScopeError> {
    if scope.all_hosts && !scope.hosts.is_empty() {
        return Err(ScopeError::AllAndSome);
    }
    if names.len() > MAX || scope.hosts.len() > MAX {
        return Err(ScopeError::TooMany);
    }
    for glob in &scope.hosts {
        let refused = |error| ScopeError::Hosts(glob.clone(), error);
        if glob.is_empty() {
            return Err(refused(TargetError::Empty));
        }
        Target::from_parts(glob, "", "").map_err(refused)?;
    }
    let labels = match &scope.selector {
        None => Selector::default(),
        Some(typed) => {
            let selector = Selector::parse(typed)?;
            // An unset shell variable must not mean the whole fleet.
            if selector.is_empty() {
                return Err(ScopeError::NoLabels);
            }
            selector
        }
    };
    let targets = names.iter().map(|name| Target::parse(name)).collect::<Result<Vec<_>, _>>()?;
    if !scope.is_given()
        && let Some((name, _)) = names.iter().zip(&targets).find(|(_, target)| target.host().is_none())
    {
        return Err(ScopeError::NoHost(name.clone()));
    }
    Ok(Meant { scope: fleet::Scope { hosts: scope.hosts.clone(), labels: labels.to_string() }, targets })
}

impl Meant {
    /// The targets as the protocol carries them.
    pub(crate) fn wire_targets(&self) -> Vec<fleet::Target> {
        let any = |glob: &str| if glob.is_empty() { "*" } else { glob }.to_owned();
        self.targets
            .iter()
            .map(|target| fleet::Target {
                host: target.host().unwrap_or_default().to_owned(),
                group: any(target.group()),
                process: target.process().to_owned(),
            })
            .collect()
    }
}

/// The line for a target that fits no process anywhere, in supervisorctl's words.
pub(crate) fn no_such(host: &str, group: &str, process: &str) -> String {
    let host = if host.is_empty() { String::new() } else { format!("{host}:") };
    match process {
        "" | "*" => format!("{host}{group}: ERROR (no such group)"),
        process if process == group && host.is_empty() => format!("{process}: ERROR (no such process)"),
        process => format!("{host}{group}:{process}: ERROR (no such process)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn all_hosts() -> cli::Scope {
        cli::Scope { all_hosts: true, ..cli::Scope::default() }
    }

    #[test]
    fn names_and_flags_become_what_the_protocol_carries() {
        let scope = cli::Scope {
            hosts: names("web-* db-01"),
            selector: Some("role=web, rack".to_owned()),
            ..cli::Scope::default()
        };
        let meant = meant(&scope, &names("web: all db-01:all nginx")).unwrap();
        assert_eq!(meant.scope.hosts, ["web-*", "db-01"]);
        assert_eq!(meant.scope.labels, "role=web,rack");
        let wire: Vec<_> = meant
            .wire_targets()
            .into_iter()
            .map(|target| (target.host, target.group, target.process))
            .collect();
        let triple =
            |host: &str, group: &str, process: &str| (host.to_owned(), group.to_owned(), process.to_owned());
        assert_eq!(
            wire,
            [
                triple("", "web", ""),
                triple("", "*", ""),
                triple("db-01", "*", ""),
                triple("", "nginx", "nginx")
            ]
        );
    }

    #[test]
    fn a_name_without_a_host_needs_a_scope() {
        let none = cli::Scope::default();
        assert_eq!(meant(&none, &names("web-01:app: nginx")), Err(ScopeError::NoHost("nginx".to_owned())));
        assert!(meant(&none, &names("web-01:app: web-02:all")).is_ok());
        assert!(meant(&all_hosts(), &names("web-01:app: nginx")).is_ok());
    }

    #[test]
    fn slips_are_refused_before_anything_is_sent() {
        let labels = |text: &str| cli::Scope { selector: Some(text.to_owned()), ..cli::Scope::default() };
        assert_eq!(meant(&labels(""), &[]), Err(ScopeError::NoLabels));
        assert!(meant(&labels("role="), &[]).is_ok());
        assert!(matches!(meant(&labels("=x"), &[]), Err(ScopeError::Labels(_))));
        let both = cli::Scope { hosts: names("a"), ..all_hosts() };
        assert_eq!(meant(&both, &[]), Err(ScopeError::AllAndSome));
        let empty = cli::Scope { hosts: vec![String::new()], ..cli::Scope::default() };
        assert!(matches!(meant(&empty, &[]), Err(ScopeError::Hosts(_, TargetError::Empty))));
        assert!(matches!(meant(&all_hosts(), &names("web-[:x")), Err(ScopeError::Target(_))));
    }

    #[test]
    fn targets_that_fit_nothing_are_named_as_supervisorctl_names_them() {
        assert_eq!(no_such("", "nginx", "nginx"), "nginx: ERROR (no such process)");
        assert_eq!(no_such("", "web", ""), "web: ERROR (no such group)");
        assert_eq!(no_such("web-01", "web", "web"), "web-01:web:web: ERROR (no such process)");
    }
}
