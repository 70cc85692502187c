//! What a fleet's command line names: processes, and hosts in front of them. Pure matching; a local
//! command line is not read here, `supervisorctl`'s own rules hold for that one.

use glob::Pattern;

use crate::name::ProcessName;

/// Bytes in one part of a target.
const MAX_PART: usize = 255;

/// Processes of some hosts; any part is a glob.
///
/// | typed | host | group | process |
/// | --- | --- | --- | --- |
/// | `all` | any | any | any |
/// | `web` | any | `web` | `web` |
/// | `web:web_00` | any | `web` | `web_00` |
/// | `web:`, `web:*` | any | `web` | any |
/// | `web-01:all` | `web-01` | any | any |
/// | `web-01:web:web_00` | `web-01` | `web` | `web_00` |
/// | `web-01:web:` | `web-01` | `web` | any |
///
/// One part names the process whose group and own name are both it, the one that Supervisor displays so.
/// A name that equals a part matches it even where the glob does not (`a[1]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    host: Part,
    group: Part,
    process: Part,
}

/// Empty for any.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    text: String,
    pattern: Pattern,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("an empty target")]
    Empty,
    #[error("{0}: the host is missing in front of the first colon")]
    NoHost(String),
    #[error("{0}: the group is missing")]
    NoGroup(String),
    #[error("{0}: more than host:group:process")]
    TooManyParts(String),
    #[error("{0}...: a part of a target has at most {MAX_PART} bytes")]
    TooLong(String),
    #[error("{part}: not a glob: {reason} at character {position}")]
    Glob { part: String, reason: &'static str, position: usize },
}

impl Target {
    /// Reads what was typed, in the table above.
    pub fn parse(typed: &str) -> Result<Target, TargetError> {
        if typed.is_empty() {
            return Err(TargetError::Empty);
        }
        let parts: Vec<&str> = typed.splitn(4, ':').collect();
        let every = |process| if process == "*" { "" } else { process };
        match parts.as_slice() {
            ["all"] => Target::from_parts("", "", ""),
            [name] => Target::from_parts("", name, name),
            ["", _] => Err(TargetError::NoGroup(typed.to_owned())),
            [host, "all"] => Target::from_parts(host, "", ""),
            [group, process] => Target::from_parts("", group, every(process)),
            ["", _, _] => Err(TargetError::NoHost(typed.to_owned())),
            [_, "", _] => Err(TargetError::NoGroup(typed.to_owned())),
            [host, group, process] => Target::from_parts(host, group, every(process)),
            _ => Err(TargetError::TooManyParts(typed.to_owned())),
        }
    }

    /// From globs as the fleet's protocol carries them; an empty one stands for any.
    pub fn from_parts(host: &str, group: &str, process: &str) -> Result<Target, TargetError> {
        Ok(Target { host: Part::new(host)?, group: Part::new(group)?, process: Part::new(process)? })
    }

    /// The host's glob; `None` for any host.
    pub fn host(&self) -> Option<&str> {
        Some(self.host.text.as_str()).filter(|host| !host.is_empty())
    }

    /// The group's glob, empty for any.
    pub fn group(&self) -> &str {
        &self.group.text
    }

    /// The process's glob, empty for any.
    pub fn process(&self) -> &str {
        &self.process.text
    }

    pub fn matches_host(&self, host: &str) -> bool {
        self.host.matches(host)
    }

    pub fn matches_process(&self, name: &ProcessName) -> bool {
        self.group.matches(&name.group) && self.process.matches(&name.process)
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Target { host, group, process } = self;
        let any = |part: &Part| if part.text.is_empty() { "*".to_owned() } else { part.text.clone() };
        match (host.text.as_str(), group.text.as_str(), process.text.as_str()) {
            ("", "", "") => f.write_str("all"),
            (host, "", "") => write!(f, "{host}:all"),
            ("", group, process) if group == process => f.write_str(group),
            ("", _, process) => write!(f, "{}:{process}", any(group)),
            (host, _, process) => write!(f, "{host}:{}:{process}", any(group)),
        }
    }
}

impl Part {
    fn new(text: &str) -> Result<Part, TargetError> {
        if text.len() > MAX_PART {
            return Err(TargetError::TooLong(text.chars().take(40).collect()));
        }
        let pattern = Pattern::new(text).map_err(|error| TargetError::Glob {
            part: text.to_owned(),
            reason: error.msg,
            position: error.pos + 1,
        })?;
        Ok(Part { text: text.to_owned(), pattern })
    }

    fn matches(&self, name: &str) -> bool {
        self.text.is_empty() || self.text == name || self.pattern.matches(name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(typed: &str, host: &str, group: &str, process: &str) -> bool {
        let target = Target::parse(typed).unwrap();
        target.matches_host(host) && target.matches_process(&ProcessName::new(group, process))
    }

    #[test]
    fn each_form_means_what_the_table_says() {
        for (typed, host, group, process) in [
            ("all", None, "", ""),
            ("web", None, "web", "web"),
            ("web:web_00", None, "web", "web_00"),
            ("web:", None, "web", ""),
            ("web:*", None, "web", ""),
            ("web-01:all", Some("web-01"), "", ""),
            ("web-01:web:web_00", Some("web-01"), "web", "web_00"),
            ("web-01:web:", Some("web-01"), "web", ""),
            ("web-01:web:*", Some("web-01"), "web", ""),
            ("*:all", Some("*"), "", ""),
        ] {
            let target = Target::parse(typed).unwrap();
            assert_eq!((target.host(), target.group(), target.process()), (host, group, process), "{typed}");
        }
    }

    #[test]
    fn one_part_is_the_process_that_is_displayed_so() {
        assert!(matches("nginx", "db-01", "nginx", "nginx"));
        assert!(!matches("nginx", "db-01", "nginx", "nginx_00"));
        assert!(!matches("nginx", "db-01", "web", "nginx"));
    }

    #[test]
    fn any_part_may_be_a_glob() {
        assert!(matches("web-*:app:*", "web-01", "app", "app_00"));
        assert!(!matches("web-*:app:*", "db-01", "app", "app_00"));
        assert!(matches("web-0[12]:w?b:web_*", "web-02", "web", "web_07"));
        assert!(matches("a[1]:", "any", "a[1]", "x"));
    }

    #[test]
    fn what_is_no_target_is_named_with_its_fault() {
        for (typed, message) in [
            ("", "an empty target"),
            (":web", ":web: the group is missing"),
            ("web-01::x", "web-01::x: the group is missing"),
            ("::", "::: the host is missing in front of the first colon"),
            ("a:b:c:d", "a:b:c:d: more than host:group:process"),
            ("web-[:a:b", "web-[: not a glob: invalid range pattern at character 5"),
        ] {
            assert_eq!(Target::parse(typed).unwrap_err().to_string(), message);
        }
        assert!(matches!(Target::parse(&"x".repeat(256)), Err(TargetError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn a_full_name_finds_exactly_its_process(
            host in "[a-z0-9-]{1,8}", group in "[a-z_]{1,8}", process in "[a-z_0-9]{1,8}", other in "[a-z_0-9]{1,8}",
        ) {
            let typed = format!("{host}:{group}:{process}");
            prop_assert!(matches(&typed, &host, &group, &process));
            prop_assert_eq!(matches(&typed, &host, &group, &other), other == process);
            prop_assert_eq!(matches(&typed, &other, &group, &process), other == host);
        }

        #[test]
        fn what_is_displayed_is_read_back(typed in "[a-z*?\\[\\]:]{1,12}") {
            if let Ok(target) = Target::parse(&typed) {
                prop_assert_eq!(Target::parse(&target.to_string()), Ok(target));
            }
        }

        #[test]
        fn no_text_makes_it_panic(typed in ".{0,40}", name in ".{0,10}") {
            if let Ok(target) = Target::parse(&typed) {
                target.matches_process(&ProcessName::new(name.clone(), name));
            }
        }
    }
}
