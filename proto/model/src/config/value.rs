//! What the text of an option means, with Supervisor's words for what it can't mean. Errors are the message
//! alone; whoever asked knows the place.

use super::host::Host;
use super::path::existing_dirpath;
use super::python::{int, octal as octal_digits, repr, strip};
use super::types::{Autorestart, LogLevel};
use crate::signal::Signal;

pub fn integer(value: &str) -> Result<i64, String> {
    int(value)
}

pub(super) fn boolean(value: &str) -> Result<bool, String> {
    truth(&value.to_lowercase()).ok_or_else(|| format!("not a valid boolean value: {}", repr(value)))
}

fn truth(lower: &str) -> Option<bool> {
    match lower {
        "yes" | "true" | "on" | "1" => Some(true),
        "no" | "false" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// `50MB`, `1kb`, `2 GB` or a plain number of bytes.
pub fn byte_size(value: &str) -> Result<i64, String> {
    let lower = value.to_lowercase();
    for (suffix, unit) in [("kb", 1i64 << 10), ("mb", 1 << 20), ("gb", 1 << 30)] {
        if let Some(number) = lower.strip_suffix(suffix) {
            return int(number)?.checked_mul(unit).ok_or_else(|| format!("{value} is out of range"));
        }
    }
    int(&lower)
}

/// Permission bits; what does not fit in them is cut off, as the system calls do.
pub fn octal(value: &str) -> Result<u32, String> {
    let bits = octal_digits(value).ok_or_else(|| format!("{value} can not be converted to an octal type"))?;
    Ok((bits & 0o7777) as u32)
}

pub fn logging_level(value: &str) -> Result<LogLevel, String> {
    match value.to_lowercase().as_str() {
        "critical" => Ok(LogLevel::Critical),
        "error" => Ok(LogLevel::Error),
        "warn" => Ok(LogLevel::Warn),
        "info" => Ok(LogLevel::Info),
        "debug" => Ok(LogLevel::Debug),
        "trace" => Ok(LogLevel::Trace),
        "blather" => Ok(LogLevel::Blather),
        _ => Err(format!("bad logging level name {}", repr(value))),
    }
}

pub(super) fn signal(value: &str) -> Result<Signal, String> {
    let Ok(number) = int(value) else {
        let upper = strip(value).to_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        return Signal::from_name(name)
            .ok_or_else(|| format!("value {} is not a valid signal name", repr(value)));
    };
    let signal = i32::try_from(number).map(Signal).ok().filter(|signal| signal.is_valid());
    signal.ok_or_else(|| format!("value {} is not a valid signal number", repr(value)))
}

pub(super) fn exitcodes(value: &str) -> Result<Vec<i32>, String> {
    if value.is_empty() {
        return Ok(Vec::new());
    }
    let code = |part: &str| int(part).ok().filter(|code| (0..=255).contains(code)).map(|code| code as i32);
    let codes: Option<Vec<i32>> = value.split(',').map(code).collect();
    codes.ok_or_else(|| format!("not a valid list of exit codes: {}", repr(value)))
}

pub(super) fn autorestart(value: &str) -> Result<Autorestart, String> {
    let lower = value.to_lowercase();
    match truth(&lower) {
        Some(true) => Ok(Autorestart::Always),
        Some(false) => Ok(Autorestart::Never),
        None if lower == "unexpected" => Ok(Autorestart::Unexpected),
        None => Err(format!("invalid 'autorestart' value {}", repr(&lower))),
    }
}

/// Parts between commas, stripped; none of an empty text.
pub(super) fn list(value: &str) -> Vec<&str> {
    if value.is_empty() { Vec::new() } else { value.split(',').map(strip).collect() }
}

/// Refuses what breaks the event protocol and the web page's links.
pub(super) fn process_or_group_name(value: &str) -> Result<String, String> {
    let name = strip(value);
    match [' ', ':', '/'].into_iter().find(|c| name.contains(*c)) {
        None => Ok(name.to_owned()),
        Some(c) => Err(format!("Invalid name: {} because of character: '{c}'", repr(value))),
    }
}

/// Where a program's output goes, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LogfileName {
    None,
    Auto,
    Syslog,
    Path(String),
}

pub(super) fn logfile_name(value: &str, host: &dyn Host) -> Result<LogfileName, String> {
    match value.to_lowercase().as_str() {
        "none" | "off" => Ok(LogfileName::None),
        "auto" => Ok(LogfileName::Auto),
        "syslog" => Ok(LogfileName::Syslog),
        _ => existing_dirpath(value, host).map(LogfileName::Path),
    }
}

fn port_number(value: &str) -> Result<u16, String> {
    let port = int(value)?;
    if port < 1 {
        return Err(format!("{port} is below lower bound (1)"));
    }
    u16::try_from(port).map_err(|_| format!("{port} is above upper bound (65535)"))
}

/// `host:port`, `*:port` or `port`; the host is empty for every interface.
pub(super) fn inet_address(value: &str) -> Result<(String, u16), String> {
    match value.rsplit_once(':') {
        None => {
            let port =
                port_number(value).map_err(|_| format!("not a valid port number: {} ", repr(value)))?;
            Ok((String::new(), port))
        }
        Some((_, "")) => Err("no port number specified in ''".to_owned()),
        Some((host, port)) => {
            let port = port_number(port)?;
            let host = host.to_lowercase();
            Ok((if host == "*" { String::new() } else { host }, port))
        }
    }
}

/// `tcp://host:port` of an fcgi socket; `None` if it has another form.
pub(super) fn tcp_url(value: &str) -> Option<Result<(String, u16), String>> {
    let (host, port) = value.strip_prefix("tcp://")?.split_once(':')?;
    let host_is_plain = !host.is_empty() && !host.contains(super::python::is_space);
    let port_is_plain = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    (host_is_plain && port_is_plain).then(|| Ok((host.to_lowercase(), port_number(port)?)))
}

/// A user's name or number to the number. The user must exist.
pub fn name_to_uid(value: &str, host: &dyn Host) -> Result<u32, String> {
    match int(value) {
        Ok(number) => {
            let uid = u32::try_from(number).ok().filter(|uid| host.user_by_uid(*uid).is_some());
            uid.ok_or_else(|| format!("Invalid user id {value}"))
        }
        Err(_) => {
            let user = host.user_by_name(value);
            user.map(|user| user.uid).ok_or_else(|| format!("Invalid user name {value}"))
        }
    }
}

/// `user` or `user:group`, by name or number, as `chown(2)` takes them.
pub(super) fn user_and_group(value: &str, host: &dyn Host) -> Option<(u32, u32)> {
    let (user, group) = match value.split_once(':') {
        None => (value, None),
        Some((user, group)) => (user, Some(group)),
    };
    let uid = name_to_uid(user, host).ok()?;
    let gid = match group {
        None => u32::MAX,
        Some(group) => match int(group) {
            Ok(number) => u32::try_from(number).ok().filter(|gid| host.gid_exists(*gid))?,
            Err(_) => host.gid_by_name(group)?,
        },
    };
    Some((uid, gid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn byte_sizes_have_a_suffix_or_none() {
        for (text, bytes) in
            [("0", 0), ("1kb", 1024), ("1 KB", 1024), ("2Mb", 2 << 20), ("1gB", 1 << 30), ("-1KB", -1024)]
        {
            assert_eq!(byte_size(text), Ok(bytes), "{text}");
        }
        assert_eq!(byte_size("10TB").unwrap_err(), "invalid literal for int() with base 10: '10tb'");
        assert_eq!(byte_size("KB").unwrap_err(), "invalid literal for int() with base 10: ''");
        assert!(byte_size("9223372036854775807GB").is_err());
    }

    #[test]
    fn signals_go_by_name_or_number() {
        assert_eq!(signal("sigusr1"), Ok(Signal(10)));
        assert_eq!(signal(" hup "), Ok(Signal(1)));
        assert_eq!(signal("0"), Ok(Signal(0)));
        assert_eq!(signal("RTMIN"), Ok(Signal(34)));
        assert_eq!(signal("FOO").unwrap_err(), "value 'FOO' is not a valid signal name");
        assert_eq!(signal("99").unwrap_err(), "value '99' is not a valid signal number");
        assert_eq!(signal("33").unwrap_err(), "value '33' is not a valid signal number");
    }

    #[test]
    fn lists_of_exit_codes_are_bytes() {
        assert_eq!(exitcodes("0, 2,17"), Ok(vec![0, 2, 17]));
        assert_eq!(exitcodes(""), Ok(vec![]));
        for text in ["0,x", "256", "-1", "1,"] {
            assert_eq!(exitcodes(text).unwrap_err(), format!("not a valid list of exit codes: '{text}'"));
        }
    }

    #[test]
    fn addresses_name_an_interface_or_all() {
        assert_eq!(inet_address("*:9001"), Ok((String::new(), 9001)));
        assert_eq!(inet_address("9001"), Ok((String::new(), 9001)));
        assert_eq!(inet_address("LocalHost:1"), Ok(("localhost".into(), 1)));
        assert_eq!(inet_address("70000").unwrap_err(), "not a valid port number: '70000' ");
        assert_eq!(inet_address("a:70000").unwrap_err(), "70000 is above upper bound (65535)");
        assert_eq!(inet_address("a:0").unwrap_err(), "0 is below lower bound (1)");
        assert_eq!(inet_address("a:").unwrap_err(), "no port number specified in ''");
    }

    #[test]
    fn names_must_not_break_protocols() {
        assert_eq!(process_or_group_name(" padded ").as_deref(), Ok("padded"));
        assert_eq!(
            process_or_group_name("a:b").unwrap_err(),
            "Invalid name: 'a:b' because of character: ':'"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_a_value_or_refused(text in "\\PC{0,12}|[-+0-9_kmgbKMGB:,. ]{0,12}") {
            let _ = (integer(&text), boolean(&text), byte_size(&text), octal(&text), signal(&text));
            let _ = (exitcodes(&text), autorestart(&text), inet_address(&text), tcp_url(&text));
            let _ = (list(&text), process_or_group_name(&text), logging_level(&text));
        }
    }
}
