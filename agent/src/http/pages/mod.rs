//! The web interface: what a browser finds. [`status`] and [`tail`] are the pages, [`actions`] does what their
//! links and buttons ask for, [`guard`] decides who may ask, [`assets`] are the files they are shown with;
//! [`form`] reads what is asked and [`html`] writes what is answered. Who is let in at all is known elsewhere.

mod actions;
mod assets;
mod form;
mod guard;
mod html;
mod status;
mod tail;

use bytes::Bytes;
use fleetvisor_model::config::{Host as _, LogLevel};
use fleetvisor_proto::fault::{Fault, FaultCode};
use fleetvisor_proto::xmlrpc::{Limits, Value, parse_response, write_call};
use hyper::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, EXPIRES, HOST, HeaderName, HeaderValue, LOCATION, PRAGMA,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};

use super::reply::{self, Body};
use crate::host::FileSystem;
use crate::rpc::Api;
use form::Form;

pub(super) use guard::{Names, Token, may_call};

const HTML: &str = "text/html;charset=utf-8";

/// Nothing from elsewhere is shown, run or framed.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// A page that is made for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    Status,
    Tail,
    /// For those who only want to know whether somebody answers.
    Ok,
}

impl Page {
    /// `path` is decoded. `None` where no page is, or none for this method.
    pub(super) fn at(method: &Method, path: &str) -> Option<Page> {
        let page = match path.trim_start_matches('/') {
            "" | "index.html" => Page::Status,
            "tail.html" => Page::Tail,
            "ok.html" => Page::Ok,
            _ => return None,
        };
        let is_served = match *method {
            Method::GET | Method::POST => true,
            // To Supervisor the others are no files.
            Method::HEAD => page == Page::Tail,
            _ => false,
        };
        is_served.then_some(page)
    }

    /// `body` is what was posted, if anything was.
    pub(super) async fn answer(
        self,
        api: &Api,
        token: &Token,
        names: &Names,
        parts: &Parts,
        body: &[u8],
    ) -> Response<Body> {
        let form = Form::read(parts.uri.query().unwrap_or(""), body);
        match self {
            Page::Ok => reply::text("text/plain", "OK"),
            Page::Tail => html_page(StatusCode::OK, tail::render(api, &form).await),
            Page::Status => match form.get("action") {
                None => status_page(api, token, &form).await,
                Some(_) if !names.include(&parts.headers) => {
                    html_page(StatusCode::FORBIDDEN, actions::foreign_name(parts.headers.get(HOST)))
                }
                Some(action) => act(api, token, parts, &form, action).await,
            },
        }
    }
}

/// A file that pages are shown with.
pub(super) fn asset(method: &Method, path: &str) -> Option<Response<Body>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return None;
    }
    assets::find(path.trim_start_matches('/')).map(|asset| {
        let mut response = reply::text(asset.content_type, Bytes::from_static(asset.content));
        set(&mut response, CACHE_CONTROL, "no-cache");
        set(&mut response, X_CONTENT_TYPE_OPTIONS, "nosniff");
        response
    })
}

async fn status_page(api: &Api, token: &Token, form: &Form) -> Response<Body> {
    match api.handle.statuses().await {
        Ok(statuses) => {
            let (failures, host) = (api.logs.failures(), FileSystem.node_name());
            let page = status::render(&statuses, &failures, &host, form.get("message"), token.shown());
            html_page(StatusCode::OK, page)
        }
        Err(_) => reply::error(StatusCode::SERVICE_UNAVAILABLE),
    }
}

async fn act(api: &Api, token: &Token, parts: &Parts, form: &Form, action: &str) -> Response<Body> {
    let process = form.get("processname");
    let Some(action) = actions::Action::read(action, process) else {
        let line = format!("Web interface error: no such action {action:?}");
        api.logs.line(LogLevel::Error, line);
        return reply::error(StatusCode::INTERNAL_SERVER_ERROR);
    };
    if !action.is_harmless() && !guard::may_act(token, &parts.method, &parts.headers, form.get("token")) {
        return html_page(StatusCode::FORBIDDEN, action.confirmation(token.shown()));
    }
    let message = action.perform(api).await;
    if wants_plain_text(parts) {
        let mut response = reply::text("text/plain;charset=utf-8", message);
        set(&mut response, CACHE_CONTROL, "no-store");
        return response;
    }
    redirect(parts, &format!("/?message={}", html::quote(&message)))
}

/// The page's own script shows what came of an action by itself.
fn wants_plain_text(parts: &Parts) -> bool {
    parts.headers.get(ACCEPT).is_some_and(|accept| accept.as_bytes() == b"text/plain")
}

fn redirect(parts: &Parts, path: &str) -> Response<Body> {
    let by_person = guard::is_browser(&parts.headers);
    // Behind a proxy, only the browser knows under which scheme and path this page is found.
    let location = match parts.headers.get(HOST).and_then(|host| host.to_str().ok()) {
        Some(host) if !by_person => format!("http://{host}{path}"),
        Some(_) | None => format!(".{path}"),
    };
    let mut response =
        reply::error(if by_person { StatusCode::SEE_OTHER } else { StatusCode::MOVED_PERMANENTLY });
    never_cached(&mut response);
    // A host that came as a header, and quoted text, are always right for one.
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

fn html_page(status: StatusCode, page: String) -> Response<Body> {
    let mut response = reply::text(HTML, page);
    *response.status_mut() = status;
    never_cached(&mut response);
    set(&mut response, CONTENT_SECURITY_POLICY, POLICY);
    set(&mut response, REFERRER_POLICY, "same-origin");
    set(&mut response, X_CONTENT_TYPE_OPTIONS, "nosniff");
    response
}

fn never_cached(response: &mut Response<Body>) {
    set(response, CACHE_CONTROL, "no-cache");
    set(response, PRAGMA, "no-cache");
    set(response, EXPIRES, "Thu, 01 Jan 1970 00:00:00 GMT");
}

fn set(response: &mut Response<Body>, name: HeaderName, value: &'static str) {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
}

/// One method of the XML-RPC interface, so that pages and clients hear the same.
async fn call(api: &Api, method: &str, params: &[Value]) -> Result<Value, Fault> {
    let failed = || Fault::from(FaultCode::Failed);
    let answer = api.answer(write_call(method, params).as_bytes()).await.map_err(|_| failed())?;
    parse_response(answer.as_bytes(), &Limits::RESPONSE).map_err(|_| failed())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_supervisors_paths_and_methods() {
        assert_eq!(Page::at(&Method::GET, "/"), Some(Page::Status));
        assert_eq!(Page::at(&Method::POST, "//index.html"), Some(Page::Status));
        assert_eq!(Page::at(&Method::GET, "/tail.html"), Some(Page::Tail));
        assert_eq!(Page::at(&Method::HEAD, "/ok.html"), None);
        assert_eq!(Page::at(&Method::HEAD, "/tail.html"), Some(Page::Tail));
        assert_eq!(Page::at(&Method::PUT, "/tail.html"), None);
        assert_eq!(Page::at(&Method::GET, "/index.html/"), None);
    }

    #[test]
    fn assets_are_read_only() {
        let asset = |method| asset(method, "/stylesheets/supervisor.css").map(|found| found.status());
        assert_eq!(asset(&Method::HEAD), Some(StatusCode::OK));
        assert_eq!(asset(&Method::GET), Some(StatusCode::OK));
        assert_eq!(asset(&Method::POST), None);
    }
}
