//! `[inet_http_server]` and `[unix_http_server]`, each also with a name after a colon.

use super::error::ConfigError;
use super::expand::Names;
use super::path::normalize;
use super::python::strip;
use super::source::{Section, Source};
use super::types::{Credentials, HttpAddress, HttpServer};
use super::value::{inet_address, octal, user_and_group};

const UNIX_MODE: u32 = 0o700;

/// In the order they are opened: inet servers, then unix servers.
pub(super) fn servers(source: &Source<'_>) -> Result<Vec<HttpServer>, ConfigError> {
    let mut servers = Vec::new();
    for name in source.sections_with_prefix("inet_http_server") {
        servers.push(inet(&source.section(&name, &[]))?);
    }
    let here = Names::default().with("here", &source.here);
    for name in source.sections_with_prefix("unix_http_server") {
        servers.push(unix(&source.section(&name, &[]), &here)?);
    }
    Ok(servers)
}

fn inet(section: &Section<'_>) -> Result<HttpServer, ConfigError> {
    let auth = credentials(section)?;
    let Some((host, port)) = section.value("port", inet_address)? else {
        return Err(section.error("port", format!("section [{}] has no port value", section.name)));
    };
    Ok(HttpServer { section: section.name.to_owned(), address: HttpAddress::Inet { host, port }, auth })
}

fn unix(section: &Section<'_>, here: &Names) -> Result<HttpServer, ConfigError> {
    let host = section.source.host;
    let layers = [here];
    let file = section.source.section(section.name, &layers).text("file")?;
    let Some(file) = file else {
        return Err(section.error("file", format!("section [{}] has no file value", section.name)));
    };
    let file = normalize(strip(&file), host);
    let auth = credentials(section)?;
    let chown = section.value("chown", |value| {
        user_and_group(value, host).ok_or_else(|| format!("Invalid sockchown value {value}"))
    })?;
    let chmod =
        section.value("chmod", |value| octal(value).map_err(|_| format!("Invalid chmod value {value}")))?;
    let address = HttpAddress::Unix { file, chmod: chmod.unwrap_or(UNIX_MODE), chown };
    Ok(HttpServer { section: section.name.to_owned(), address, auth })
}

fn credentials(section: &Section<'_>) -> Result<Option<Credentials>, ConfigError> {
    match (section.text("username")?, section.text("password")?) {
        (None, None) => Ok(None),
        // Both empty, as templates leave them, is no protection in Supervisor either. A password that goes with
        // an empty name does protect here.
        (Some(username), Some(password)) if username.is_empty() && password.is_empty() => Ok(None),
        (Some(username), Some(password)) => Ok(Some(Credentials { username, password })),
        (username, _) => {
            let missing = if username.is_some() { "password" } else { "username" };
            let message = format!(
                "Section [{}] contains incomplete authentication: If a username or a password is specified, \
                 both the username and password must be specified",
                section.name
            );
            Err(section.error(missing, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::host::memory::Memory;
    use crate::config::load;
    use std::path::Path;

    fn servers(text: &str) -> Result<Vec<HttpServer>, ConfigError> {
        let host = Memory::new(&[("/s.conf", &format!("[supervisord]\n{text}"))]);
        load(Path::new("/s.conf"), &host).map(|config| config.servers)
    }

    #[test]
    fn inet_servers_come_first() {
        let text = "[unix_http_server]\nfile=~/s.sock\nchown=op\nchmod=0770\nusername=u\npassword=50%%\n\
                    [inet_http_server]\nport=*:9001\nusername=\npassword=\n";
        let servers = servers(text).unwrap();
        assert_eq!(servers[0].address, HttpAddress::Inet { host: String::new(), port: 9001 });
        assert_eq!(servers[0].auth, None);
        let file = "/home/op/s.sock".into();
        assert_eq!(servers[1].address, HttpAddress::Unix { file, chmod: 0o770, chown: Some((5, u32::MAX)) });
        assert_eq!(servers[1].auth.as_ref().map(|auth| auth.password.as_str()), Some("50%"));
    }

    #[test]
    fn half_a_login_is_refused() {
        let error = servers("[unix_http_server]\nfile=x\npassword=x\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "Section [unix_http_server] contains incomplete authentication: If a username or a password is \
             specified, both the username and password must be specified"
        );
        assert_eq!(error.option.as_deref(), Some("username"));
    }

    #[test]
    fn an_address_is_required() {
        let error = servers("[inet_http_server]\n").unwrap_err();
        assert_eq!(error.to_string(), "section [inet_http_server] has no port value");
        let error = servers("[unix_http_server:x]\n").unwrap_err();
        assert_eq!(error.to_string(), "section [unix_http_server:x] has no file value");
    }
}
