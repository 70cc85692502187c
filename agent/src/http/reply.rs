//! What answers are made of: bodies, plain replies and error pages in the form of Supervisor's.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

pub(super) fn text(content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A page that names the status, for people.
pub(super) fn error(status: StatusCode) -> Response<Body> {
    let code = status.as_u16();
    let message = status.canonical_reason().unwrap_or("Error");
    let page = format!(
        "<html>\n<head><title>Error response</title></head>\n<body>\n<h1>Error response</h1>\n\
         <p>Error code {code}.</p>\n<p>Message: {message}.</p>\n</body>\n</html>\n"
    );
    let mut response = text("text/html", page);
    *response.status_mut() = status;
    response
}

pub(super) fn unauthorized() -> Response<Body> {
    let mut response = error(StatusCode::UNAUTHORIZED);
    let headers = response.headers_mut();
    headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"default\""));
    // Nothing more is taken from somebody unknown.
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
