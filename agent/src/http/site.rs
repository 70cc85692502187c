//! What is found under which path, for whom: the order of checks is Supervisor's, so are the statuses.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use fleetvisor_model::config::Credentials;
use fleetvisor_model::name::ProcessName;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LAST_MODIFIED,
    TRANSFER_ENCODING, X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio::time::timeout;

use super::auth::{self, Verdict};
use super::follow::{FollowError, Followers};
use super::pages::{self, Names, Page, Token};
use super::reply::{self, Body};
use crate::rpc::{Api, Unanswerable};

const MOST_BODY_BYTES: usize = 16 << 20;
/// More than any form of a page holds.
const MOST_FORM_BYTES: usize = 64 << 10;
const BODY_TIME: Duration = Duration::from_secs(120);
/// What is taken from a request that is refused, so that its sender gets to read the refusal.
const MOST_UNWANTED_BYTES: usize = 64 << 10;
const UNWANTED_TIME: Duration = Duration::from_secs(2);

/// One server's content and who may have it.
#[derive(Debug)]
pub(super) struct Site {
    api: Api,
    auth: Option<Credentials>,
    followers: Arc<Followers>,
    token: Token,
    names: Names,
}

impl Site {
    pub(super) fn new(api: Api, auth: Option<Credentials>, names: Names, followers: Arc<Followers>) -> Site {
        Site { api, auth, followers, token: Token::new(), names }
    }

    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let mut response = match self.refusal(&parts) {
            None => self.route(&parts, body).await,
            Some(refusal) => refused(refusal, body).await,
        };
        // A client of HTTP/1.0 goes on only where it is told that it can.
        if parts.version == Version::HTTP_10
            && wants_keep_alive(&parts)
            && response.body().size_hint().exact().is_some()
        {
            response.headers_mut().entry(CONNECTION).or_insert(HeaderValue::from_static("Keep-Alive"));
        }
        response
    }

    /// What somebody hears who is not let in.
    fn refusal(&self, parts: &Parts) -> Option<Response<Body>> {
        let wanted = self.auth.as_ref()?;
        match auth::check(wanted, parts.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes)) {
            Verdict::Welcome => None,
            Verdict::Unknown => Some(reply::unauthorized()),
            Verdict::Unsupported(scheme) => {
                eprintln!("unknown/unsupported auth method: {scheme}");
                Some(reply::unauthorized())
            }
            Verdict::Malformed => {
                eprintln!("malformed authorization info");
                Some(reply::error(StatusCode::BAD_REQUEST))
            }
        }
    }

    async fn route(&self, parts: &Parts, body: Incoming) -> Response<Body> {
        let path = percent_encoding::percent_decode_str(parts.uri.path()).decode_utf8_lossy();
        if path.starts_with("/RPC2") {
            return match parts.method {
                Method::POST if !pages::may_call(&parts.headers) || !self.names.include(&parts.headers) => {
                    refused(reply::error(StatusCode::FORBIDDEN), body).await
                }
                Method::POST => self.rpc(parts, body).await,
                _ => refused(reply::error(StatusCode::BAD_REQUEST), body).await,
            };
        }
        if let Some(page) = Page::at(&parts.method, &path) {
            if parts.method == Method::POST && has_no_length(parts) {
                return reply::error(StatusCode::LENGTH_REQUIRED);
            }
            return match collect(body, MOST_FORM_BYTES).await {
                Ok(form) => page.answer(&self.api, &self.token, &self.names, parts, &form).await,
                Err(status) => reply::error(status),
            };
        }
        let followed = if let Some(target) = path.strip_prefix("/logtail") {
            self.logtail(&parts.method, target).await
        } else if path.starts_with("/mainlogtail") {
            self.mainlogtail(&parts.method).await
        } else if let Some(asset) = pages::asset(&parts.method, &path) {
            Ok(asset)
        } else {
            Err(match parts.method {
                Method::GET | Method::HEAD => StatusCode::NOT_FOUND,
                _ => StatusCode::BAD_REQUEST,
            })
        };
        match followed {
            Ok(response) => response,
            Err(status) => refused(reply::error(status), body).await,
        }
    }

    async fn rpc(&self, parts: &Parts, body: Incoming) -> Response<Body> {
        if has_no_length(parts) {
            return reply::error(StatusCode::LENGTH_REQUIRED);
        }
        if body.size_hint().lower() > MOST_BODY_BYTES as u64 {
            return refused(reply::error(StatusCode::PAYLOAD_TOO_LARGE), body).await;
        }
        let document = match collect(body, MOST_BODY_BYTES).await {
            Ok(document) => document,
            Err(status) => return reply::error(status),
        };
        match self.api.answer(&document).await {
            Ok(document) => reply::text("text/xml", document),
            Err(Unanswerable::Malformed) => reply::error(StatusCode::BAD_REQUEST),
            Err(Unanswerable::Unexpected) => reply::error(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    /// `/logtail/NAME` or `/logtail/NAME/CHANNEL`; `target` is what follows `/logtail`.
    async fn logtail(&self, method: &Method, target: &str) -> Result<Response<Body>, StatusCode> {
        if method != Method::GET {
            return Err(StatusCode::BAD_REQUEST);
        }
        let target = target.strip_prefix('/').ok_or(StatusCode::NOT_FOUND)?;
        let (name, channel) = target.split_once('/').unwrap_or((target, "stdout"));
        let (group, process) = name.split_once(':').unwrap_or((name, name));
        let status = self.api.handle.status(ProcessName::new(group, process)).await;
        let status = status.ok().flatten().ok_or(StatusCode::NOT_FOUND)?;
        let path = match channel {
            "stdout" => status.stdout_logfile,
            "stderr" => status.stderr_logfile,
            _ => return Err(StatusCode::NOT_FOUND),
        };
        let mut response = self.follow(path.into()).await?;
        // A proxy that gathers lines before it passes them on would defeat the purpose.
        let buffering = HeaderName::from_static("x-accel-buffering");
        response.headers_mut().insert(buffering, HeaderValue::from_static("no"));
        Ok(response)
    }

    async fn mainlogtail(&self, method: &Method) -> Result<Response<Body>, StatusCode> {
        if method != Method::GET {
            return Err(StatusCode::BAD_REQUEST);
        }
        match self.api.handle.facts().own_log() {
            Some(path) => self.follow(path).await,
            None => Err(StatusCode::NOT_FOUND),
        }
    }

    async fn follow(&self, path: PathBuf) -> Result<Response<Body>, StatusCode> {
        let followed = self.followers.follow(path).await.map_err(|error| match error {
            FollowError::NoFile(_) => StatusCode::NOT_FOUND,
            FollowError::Unreadable { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            FollowError::TooMany => StatusCode::SERVICE_UNAVAILABLE,
        })?;
        let mut response = Response::new(followed.body);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain;charset=utf-8"));
        // What programs write is never taken for a page.
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Some(modified) = http_date(followed.modified) {
            headers.insert(LAST_MODIFIED, modified);
        }
        Ok(response)
    }
}

fn http_date(time: SystemTime) -> Option<HeaderValue> {
    let time: DateTime<Utc> = time.into();
    HeaderValue::from_str(&time.format("%a, %d %b %Y %H:%M:%S GMT").to_string()).ok()
}

fn has_no_length(parts: &Parts) -> bool {
    !parts.headers.contains_key(CONTENT_LENGTH) && !parts.headers.contains_key(TRANSFER_ENCODING)
}

fn wants_keep_alive(parts: &Parts) -> bool {
    let connection = parts.headers.get(CONNECTION);
    connection.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"keep-alive"))
}

async fn collect(body: Incoming, most: usize) -> Result<Bytes, StatusCode> {
    match timeout(BODY_TIME, Limited::new(body, most).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Ok(Err(_)) => Err(StatusCode::BAD_REQUEST),
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
    }
}

async fn refused(refusal: Response<Body>, body: Incoming) -> Response<Body> {
    let _ = timeout(UNWANTED_TIME, Limited::new(body, MOST_UNWANTED_BYTES).collect()).await;
    refusal
}
