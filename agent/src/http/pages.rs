//! The web interface: what a browser finds. A path that is none of its own is `None`.

use hyper::{Method, Response};

use super::reply::{self, Body};

pub(super) fn page(method: &Method, path: &str) -> Option<Response<Body>> {
    if !matches!(*method, Method::GET | Method::POST) {
        return None;
    }
    match path.trim_start_matches('/') {
        // For those who only want to know whether somebody answers.
        "ok.html" => Some(reply::text("text/plain", "OK")),
        _ => None,
    }
}
