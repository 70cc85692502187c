//! The pages' part, with what must hold for any request.

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Uri};

#[path = "../../agent/src/http/pages/form.rs"]
mod form;
#[path = "../../agent/src/http/pages/guard.rs"]
mod guard;
#[path = "../../agent/src/http/pages/html.rs"]
mod html;

use form::Form;
use guard::{Names, Token};

/// `data` is a request's target, lines of headers, an empty line and a body.
pub fn request(data: &[u8]) {
    let (head, body) = match data.windows(2).position(|two| two == b"\n\n") {
        Some(at) => (&data[..at], &data[at + 2..]),
        None => (data, &[][..]),
    };
    let mut lines = head.split(|byte| *byte == b'\n');
    let target = lines.next().unwrap_or_default();
    let query = Uri::try_from(target).ok().and_then(|uri| uri.query().map(str::to_owned)).unwrap_or_default();
    let mut headers = HeaderMap::new();
    for line in lines.take(20) {
        let Some(at) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..at]);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(line[at + 1..].trim_ascii())) {
            headers.append(name, value);
        }
    }
    let form = Form::read(&query, body);
    assert_eq!(form.get(""), None);
    for name in ["token", "processname", "action", "limit", "message"] {
        let Some(value) = form.get(name) else { continue };
        let again = format!("{name}={}", html::quote(value));
        assert_eq!(Form::read(&again, b"").get(name), Some(value));
        assert_eq!(Form::read("", again.as_bytes()).get(name), Some(value));
        assert!(!html::Escaped(value).to_string().contains(['<', '>', '"', '\'']));
    }
    guards(&headers, &form);
}

fn guards(headers: &HeaderMap, form: &Form) {
    let token = Token::new();
    let may_act = |method: &Method, given: Option<&str>| guard::may_act(&token, method, headers, given);
    let from_browser = guard::is_browser(headers);
    for method in [Method::GET, Method::POST] {
        assert_eq!(may_act(&method, form.get("token")), !from_browser, "nobody guesses a token");
    }
    assert!(!may_act(&Method::GET, Some(token.shown())) || !from_browser);
    let cross = headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin");
    assert!(!cross || !may_act(&Method::POST, Some(token.shown())));
    assert!(!cross || !guard::may_call(headers));
    assert!(guard::may_call(headers) || from_browser);
    assert!(Names::Any.include(headers));
    let own = Names::Own(vec!["web-01".to_owned()]);
    assert!(own.include(headers) || from_browser);
}
