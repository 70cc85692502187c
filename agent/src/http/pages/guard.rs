//! Who may act by way of the pages. A browser sends requests, and the passwords it knows, on behalf of any site
//! that its user visits; so one acts only by a POST with the token that stands in our own page, and from there.
//! Other programs send only what they mean to: they act by Supervisor's plain links. Passwords are
//! [`super::super::auth`]'s business and have been checked before.

use hyper::Method;
use hyper::header::{
    ACCEPT_LANGUAGE, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, REFERER, USER_AGENT,
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

/// Whether an action is performed for who sent these. `given` is the token that came with it.
pub(super) fn may_act(token: &Token, method: &Method, headers: &HeaderMap, given: Option<&str>) -> bool {
    if !is_browser(headers) {
        return true;
    }
    *method == Method::POST && given.is_some_and(|given| token.is(given)) && is_from_here(headers)
}

/// Every browser says at least one of these, and no page can make it say none.
pub(super) fn is_browser(headers: &HeaderMap) -> bool {
    let telling = [ACCEPT_LANGUAGE, ORIGIN, REFERER, COOKIE, SEC_FETCH_SITE];
    let mut agents = headers.get_all(USER_AGENT).iter();
    telling.iter().any(|name| headers.contains_key(name))
        || agents.any(|agent| agent.as_bytes().windows(8).any(|part| part == b"Mozilla/"))
}

/// By what the browser says of where the request comes from; older ones say nothing.
fn is_from_here(headers: &HeaderMap) -> bool {
    // Known for sure, whatever proxies make of hosts.
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        return site == "same-origin";
    }
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let host = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    let is_here = |name| {
        let here = headers.get(name).map(HeaderValue::as_bytes);
        host.is_some_and(|host| here.is_some_and(|here| here.eq_ignore_ascii_case(host.as_bytes())))
    };
    is_here(HOST) || is_here(FORWARDED_HOST)
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
            (true, vec![("host", "inner"), ("origin", "https://x"), ("sec-fetch-site", "same-origin")]),
            (true, vec![("host", "inner"), ("origin", "https://x"), ("x-forwarded-host", "X")]),
        ] {
            assert_eq!(may_act(&token, &Method::POST, &headers(&lines), right), site, "{lines:?}");
        }
    }

    #[test]
    fn without_random_numbers_no_token_is_right() {
        let browser = headers(&[("cookie", "a")]);
        assert!(!may_act(&Token(None), &Method::POST, &browser, Some("")));
    }
}
