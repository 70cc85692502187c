//! Where a server listens, read from a `serverurl` as Python's `urlparse` and Supervisor's transport read
//! one.

use std::path::PathBuf;

use super::failure::Failure;
use super::repr::repr;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Unix(PathBuf),
    Tcp { host: String, port: u16 },
}

impl Endpoint {
    /// `unix:///path` or `http://host[:port]`; a path behind the port is ignored.
    pub(super) fn parse(url: &str) -> Result<Endpoint, Failure> {
        if let Some(path) = url.strip_prefix("unix://") {
            return Ok(Endpoint::Unix(PathBuf::from(path)));
        }
        let Some(rest) = url.strip_prefix("http://") else {
            return Err(Failure::Unusable(format!("Unknown protocol for serverurl {url}")));
        };
        let netloc = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
        let address = netloc.rsplit_once('@').map_or(netloc, |(_, address)| address);
        let (host, port) = match address.strip_prefix('[') {
            Some(bracketed) => match bracketed.split_once(']') {
                Some((host, port)) => (host, port.strip_prefix(':')),
                None => return Err(Failure::Unusable("Invalid IPv6 URL".to_owned())),
            },
            None => match address.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (address, None),
            },
        };
        let port = match port {
            None | Some("") => 80,
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                port.parse().map_err(|_| Failure::Unusable("Port out of range 0-65535".to_owned()))?
            }
            Some(port) => {
                return Err(Failure::Unusable(format!(
                    "Port could not be cast to integer value as {}",
                    repr(port)
                )));
            }
        };
        let host = if host.is_empty() { "localhost".to_owned() } else { host.to_ascii_lowercase() };
        Ok(Endpoint::Tcp { host, port })
    }

    /// For the `Host` header.
    pub(super) fn authority(&self) -> String {
        match self {
            Endpoint::Unix(_) => "localhost".to_owned(),
            Endpoint::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Endpoint::Tcp { host, port } => format!("{host}:{port}"),
        }
    }
}

/// Whether Supervisor takes this for a URL at all: a scheme, and something behind it.
pub(super) fn is_url(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once(':') else {
        return false;
    };
    let mut letters = scheme.chars();
    let scheme = letters.next().is_some_and(|first| first.is_ascii_alphabetic())
        && letters.all(|char| char.is_ascii_alphanumeric() || matches!(char, '+' | '-' | '.'));
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    scheme && !matches!(rest.chars().next(), None | Some('?' | '#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn server_urls_name_a_socket_or_a_port() {
        for (url, endpoint) in [
            ("unix:///run/s.sock", Endpoint::Unix(PathBuf::from("/run/s.sock"))),
            ("http://localhost:9001", tcp("localhost", 9001)),
            ("http://Example.org/RPC2", tcp("example.org", 80)),
            ("http://:9001", tcp("localhost", 9001)),
            ("http://u:p@10.0.0.1:1?x", tcp("10.0.0.1", 1)),
            ("http://[::1]:9001", tcp("::1", 9001)),
        ] {
            assert_eq!(Endpoint::parse(url).unwrap(), endpoint, "{url}");
        }
        assert_eq!(tcp("::1", 9001).authority(), "[::1]:9001");
    }

    #[test]
    fn unusable_urls_are_refused_in_pythons_words() {
        for (url, message) in [
            ("ftp://example.org", "Unknown protocol for serverurl ftp://example.org"),
            ("http://a:x", "Port could not be cast to integer value as 'x'"),
            ("http://a:70000", "Port out of range 0-65535"),
            ("http://[::1", "Invalid IPv6 URL"),
        ] {
            assert_eq!(Endpoint::parse(url).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_url_needs_a_scheme_and_a_place() {
        for url in ["http://a", "unix:///x", "ftp://example.org", "localhost:9001"] {
            assert!(is_url(url), "{url}");
        }
        for url in ["nonsense", "x://", "", "//a", "1http://a", "/run/s.sock"] {
            assert!(!is_url(url), "{url}");
        }
    }
}
