//! Who may act by way of the pages and of XML-RPC. A browser sends requests, and the passwords it knows, on behalf
//! of any site that its user visits; so one acts only by a POST with the token that stands in our own page, or by
//! a call, and from there. Where no password is asked for, "there" must be a name that is surely this server's: any
//! site can have its own name point here. Other programs send only what they mean to: they act by Supervisor's
//! plain links. Passwords are [`super::super::auth`]'s business and have been checked before.

use std::net::IpAddr;

use hyper::Method;
use hyper::header::{
    ACCEPT_LANGUAGE, CONTENT_TYPE, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, REFERER,
    USER_AGENT,
};
use subtle::ConstantTimeEq;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Proof that a request comes from a page of this server.
pub(in crate::http) struct Token(Option<String>);

impl Token {
    /// Where the kernel gives no random numbers, no token is the right one.
    pub(in crate::http) fn new() -> Token {
        let mut bytes = [0; 16];
        let filled = getrandom::fill(&mut bytes);
        Token(filled.ok().map(|()| bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// As pages carry it.
    pub(super) fn shown(&self) -> &str {
        self.0.as_deref().unwrap_or("")
    }

    fn is(&self, given: &str) -> bool {
        self.0.as_ref().is_some_and(|token| token.as_bytes().ct_eq(given.as_bytes()).into())
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// What a browser may call this server when it acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::http) enum Names {
    /// A password or the file system's permissions protect it.
    Any,
    /// Addresses, names of this machine for itself, and these.
    Own(Vec<String>),
}

impl Names {
    /// Whether the name that these came to is one of them. What is no browser is not asked.
    pub(in crate::http) fn include(&self, headers: &HeaderMap) -> bool {
        let Names::Own(own) = self else { return true };
        if !is_browser(headers) {
            return true;
        }
        let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()) else { return false };
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            Some(_) | None => host,
        };
        let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let name = name.to_ascii_lowercase();
        address.parse::<IpAddr>().is_ok()
            || name == "localhost"
            || name.ends_with(".localhost")
            || own.iter().any(|own| own.eq_ignore_ascii_case(&name))
    }
}

/// Whether XML-RPC is answered to who sent these.
pub(in crate::http) fn may_call(headers: &HeaderMap) -> bool {
    if !is_browser(headers) {
        return true;
    }
    // Of another type than these, nothing is sent to another site without asking it first, which ends in a no.
    let simple = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"];
    let content_type = headers.get(CONTENT_TYPE).map_or(Ok(""), HeaderValue::to_str).unwrap_or("");
    let kind = content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    let asks_first = !kind.is_empty() && !simple.contains(&kind.as_str());
    is_from_here(headers).unwrap_or(asks_first)
}

/// Whether an action is performed for who sent these. `given` is the token that came with it.
pub(super) fn may_act(token: &Token, method: &Method, headers: &HeaderMap, given: Option<&str>) -> bool {
    if !is_browser(headers) {
        return true;
    }
    // Older browsers say nothing of where they come from; the token tells too.
    let is_from_here = is_from_here(headers).unwrap_or(true);
    *method == Method::POST && given.is_some_and(|given| token.is(given)) && is_from_here
}

/// Every browser says at least one of these, and no page can make it say none.
pub(super) fn is_browser(headers: &HeaderMap) -> bool {
    let telling = [ACCEPT_LANGUAGE, ORIGIN, REFERER, COOKIE, SEC_FETCH_SITE];
    let mut agents = headers.get_all(USER_AGENT).iter();
    telling.iter().any(|name| headers.contains_key(name))
        || agents.any(|agent| agent.as_bytes().windows(8).any(|part| part == b"Mozilla/"))
}

/// By what the browser says of where the request comes from, if it says anything.
fn is_from_here(headers: &HeaderMap) -> Option<bool> {
    // Known for sure, whatever proxies make of hosts.
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        return Some(site == "same-origin");
    }
    let from = headers.get(ORIGIN).or_else(|| headers.get(REFERER))?;
    let from = from.to_str().ok().and_then(|from| from.split_once("://"));
    let host = from.and_then(|(_, rest)| rest.split('/').next());
    let is_here = |name| {
        let here = headers.get(name).map(HeaderValue::as_bytes);
        host.is_some_and(|host| here.is_some_and(|here| here.eq_ignore_ascii_case(host.as_bytes())))
    };
    Some(is_here(HOST) || is_here(FORWARDED_HOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn tools_act_by_links() {
        let token = Token::new();
        for tool in ["curl/8.0", "Python-urllib/3.11", "python-requests/2.31"] {
            let headers = headers(&[("host", "x"), ("user-agent", tool), ("accept", "*/*")]);
            assert!(may_act(&token, &Method::GET, &headers, None), "{tool}");
            assert!(may_act(&token, &Method::POST, &headers, None), "{tool}");
        }
    }

    #[test]
    fn a_browser_acts_by_a_post_with_the_token() {
        let token = Token::new();
        let right = token.shown().to_owned();
        let browser = headers(&[("host", "x:1"), ("user-agent", "Mozilla/5.0"), ("origin", "http://x:1")]);
        assert!(may_act(&token, &Method::POST, &browser, Some(&right)));
        assert!(!may_act(&token, &Method::GET, &browser, Some(&right)));
        assert!(!may_act(&token, &Method::POST, &browser, None));
        assert!(!may_act(&token, &Method::POST, &browser, Some("")));
        assert!(!may_act(&token, &Method::POST, &browser, Some(Token::new().shown())));
    }

    #[test]
    fn any_sign_of_a_browser_tells() {
        for name in ["accept-language", "origin", "referer", "cookie", "sec-fetch-site"] {
            let headers = headers(&[("host", "x"), ("user-agent", "curl/8.0"), (name, "")]);
            assert!(!may_act(&Token::new(), &Method::GET, &headers, None), "{name}");
        }
    }

    #[test]
    fn a_token_from_another_site_does_not_count() {
        let token = Token::new();
        let right = Some(token.shown());
        for (site, lines) in [
            (false, vec![("host", "x"), ("origin", "http://y")]),
            (false, vec![("host", "x"), ("origin", "null")]),
            (false, vec![("host", "x"), ("origin", "http://x"), ("sec-fetch-site", "cross-site")]),
            (false, vec![("host", "x"), ("origin", "http://x"), ("sec-fetch-site", "same-site")]),
            (false, vec![("host", "x"), ("referer", "http://y/x")]),
            (true, vec![("host", "x"), ("referer", "http://x/index.html")]),
            (true, vec![("host", "inner"), ("origin", "https://x"), ("sec-fetch-site", "same-origin")]),
            (true, vec![("host", "inner"), ("origin", "https://x"), ("x-forwarded-host", "X")]),
        ] {
            assert_eq!(may_act(&token, &Method::POST, &headers(&lines), right), site, "{lines:?}");
        }
    }

    #[test]
    fn xml_rpc_is_answered_to_programs_and_to_our_own_page() {
        for (answered, lines) in [
            (true, vec![("user-agent", "Python-xmlrpc/3.11"), ("content-type", "text/xml")]),
            (true, vec![("user-agent", "curl/8.0"), ("content-type", "application/x-www-form-urlencoded")]),
            (true, vec![("host", "x:1"), ("origin", "http://x:1"), ("content-type", "text/plain")]),
            (
                true,
                vec![("user-agent", "Mozilla/5.0 (a library)"), ("content-type", "text/xml; charset=utf-8")],
            ),
            (false, vec![("host", "x:1"), ("origin", "http://y"), ("content-type", "text/plain")]),
            (false, vec![("host", "x:1"), ("origin", "http://y"), ("content-type", "text/xml")]),
            (false, vec![("sec-fetch-site", "cross-site"), ("content-type", "text/plain")]),
            (false, vec![("sec-fetch-site", "none")]),
            (false, vec![("accept-language", ""), ("content-type", "Text/Plain;charset=UTF-8")]),
            (false, vec![("cookie", "a=b")]),
        ] {
            assert_eq!(may_call(&headers(&lines)), answered, "{lines:?}");
        }
    }

    #[test]
    fn a_foreign_name_that_points_here_is_not_ours() {
        let names = Names::Own(vec!["web-01".to_owned()]);
        let includes = |names: &Names, host| names.include(&headers(&[("host", host), ("cookie", "a")]));
        for host in ["127.0.0.1:9001", "[::1]:9001", "10.0.0.5", "localhost:1", "a.localhost", "WEB-01:9001"]
        {
            assert!(includes(&names, host), "{host}");
        }
        for host in ["evil.example:9001", "127.0.0.1.evil.example", "web-01.evil.example", "", ":9001"] {
            assert!(!includes(&names, host), "{host}");
        }
        assert!(includes(&Names::Any, "evil.example"));
        assert!(names.include(&headers(&[("host", "alias"), ("user-agent", "curl/8.0")])));
        assert!(!names.include(&headers(&[("cookie", "a")])));
    }

    #[test]
    fn without_random_numbers_no_token_is_right() {
        let browser = headers(&[("cookie", "a")]);
        assert!(!may_act(&Token(None), &Method::POST, &browser, Some("")));
    }
}
