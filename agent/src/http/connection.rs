//! One client's connection between its socket and hyper: in which phase it is, and how long it may stay in
//! each. A client that is slow, silent or gone costs its own connection, and that only until somebody else
//! needs the room.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::header::CONNECTION;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::closing::Closing;
use super::head;
use super::reply::Body;
use super::site::Site;

/// Clients keep connections between calls that are minutes apart; Supervisor lets them.
const IDLE: Duration = Duration::from_secs(30 * 60);
/// For all lines of a request before its body.
const HEAD: Duration = Duration::from_secs(30);
/// For a client that reads nothing of its answer, such as a pager that is left alone.
const STALLED: Duration = Duration::from_secs(30 * 60);
const MOST_HEAD_BYTES: usize = 32 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Between two requests, or before the first.
    Idle { since: Instant },
    /// A request has begun to arrive.
    Head { since: Instant },
    /// A request is being answered.
    Busy,
    /// The client does not take its answer.
    Stalled { since: Instant },
    /// Its room is needed.
    Dismissed,
}

impl Phase {
    fn deadline(self) -> Option<Instant> {
        match self {
            Phase::Idle { since } => Some(since + IDLE),
            Phase::Head { since } => Some(since + HEAD),
            Phase::Stalled { since } => Some(since + STALLED),
            Phase::Busy => None,
            Phase::Dismissed => Some(Instant::now()),
        }
    }
}

/// What socket, requests and server know of one connection in common.
#[derive(Debug)]
pub(super) struct Line {
    phase: watch::Sender<Phase>,
    /// The next bytes written begin with the head of an answer.
    head_due: AtomicBool,
    /// That head is not to say that the connection is closed: the client has asked for it.
    drop_close: AtomicBool,
}

impl Line {
    pub(super) fn new() -> Line {
        let (phase, _) = watch::channel(Phase::Idle { since: Instant::now() });
        Line { phase, head_due: AtomicBool::new(false), drop_close: AtomicBool::new(false) }
    }

    /// Since when nobody would miss this connection; `None` while it is of use.
    pub(super) fn quiet_since(&self) -> Option<Instant> {
        match *self.phase.borrow() {
            Phase::Idle { since } | Phase::Stalled { since } => Some(since),
            Phase::Head { .. } | Phase::Busy | Phase::Dismissed => None,
        }
    }

    pub(super) fn dismiss(&self) {
        self.phase.send_replace(Phase::Dismissed);
    }

    fn change(&self, next: impl FnOnce(Phase) -> Option<Phase>) -> bool {
        self.phase.send_if_modified(|phase| match next(*phase) {
            Some(next) => {
                *phase = next;
                true
            }
            None => false,
        })
    }

    /// Whether a request has begun with it.
    fn has_read(&self) -> bool {
        self.change(|phase| match phase {
            Phase::Idle { .. } => Some(Phase::Head { since: Instant::now() }),
            Phase::Head { .. } | Phase::Busy | Phase::Stalled { .. } | Phase::Dismissed => None,
        })
    }

    fn is_in_head(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Head { .. })
    }

    fn has_written(&self, something: bool) {
        self.change(|phase| match (phase, something) {
            (Phase::Busy, false) => Some(Phase::Stalled { since: Instant::now() }),
            (Phase::Stalled { .. }, true) => Some(Phase::Busy),
            (Phase::Busy, true) | (Phase::Stalled { .. }, false) => None,
            (Phase::Idle { .. } | Phase::Head { .. } | Phase::Dismissed, _) => None,
        });
    }

    fn begins_answer(self: &Arc<Line>) -> Answering {
        self.change(|phase| (phase != Phase::Dismissed).then_some(Phase::Busy));
        Answering(Arc::clone(self))
    }

    async fn overdue(&self) {
        let mut phase = self.phase.subscribe();
        loop {
            let deadline = phase.borrow_and_update().deadline();
            tokio::select! {
                () = until(deadline) => return,
                // Cannot fail while this line exists.
                _ = phase.changed() => {}
            }
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// From the arrival of a request to the end of its answer.
#[derive(Debug)]
struct Answering(Arc<Line>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.change(|phase| match phase {
            Phase::Busy | Phase::Stalled { .. } => Some(Phase::Idle { since: Instant::now() }),
            Phase::Idle { .. } | Phase::Head { .. } | Phase::Dismissed => None,
        });
    }
}

/// Answers one client until it leaves, its time is up, or `closing` has begun and what it asked for before is
/// answered.
pub(super) async fn converse<S>(stream: S, line: Arc<Line>, site: Arc<Site>, mut closing: Closing)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let (line, site) = (Arc::clone(&line), Arc::clone(&site));
        async move {
            let answering = line.begins_answer();
            let asks_for_close = asks_for_close(&request);
            let response = site.answer(request).await;
            let says_close = response.headers().contains_key(CONNECTION);
            line.drop_close.store(asks_for_close && !says_close, Ordering::Relaxed);
            line.head_due.store(true, Ordering::Relaxed);
            Ok::<_, Infallible>(response.map(|body| Answer { body, _answering: answering }))
        }
    });
    let socket = Socket { stream, line: Arc::clone(&line), begun: Vec::new(), rewritten: BytesMut::new() };
    let mut http = http1::Builder::new();
    // hyper's own limit on the time for a head would also end idle connections: [`Phase`] has the limits.
    http.header_read_timeout(None::<Duration>).max_header_size(MOST_HEAD_BYTES).title_case_headers(true);
    let mut connection = pin!(http.serve_connection(TokioIo::new(socket), service));
    let mut overdue = pin!(line.overdue());
    let mut told = false;
    loop {
        tokio::select! {
            // Errors are the client's: nobody is left to tell.
            _ = connection.as_mut() => return,
            () = &mut overdue => return,
            () = closing.begun(), if !told => {
                told = true;
                if line.is_in_head() {
                    return;
                }
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

fn asks_for_close(request: &Request<Incoming>) -> bool {
    let connection = request.headers().get(CONNECTION);
    request.version() == Version::HTTP_11
        && connection.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
}

/// A body that keeps its connection busy until it has been taken.
struct Answer {
    body: Body,
    _answering: Answering,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A client's socket that tells its [`Line`] what goes through it.
#[derive(Debug)]
struct Socket<S> {
    stream: S,
    line: Arc<Line>,
    /// What the present request began with.
    begun: Vec<u8>,
    /// A head that hyper has written and the client has not got yet.
    rewritten: BytesMut,
}

impl<S: AsyncWrite + Unpin> Socket<S> {
    fn poll_rewritten(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.rewritten.is_empty() {
            let polled = Pin::new(&mut self.stream).poll_write(cx, &self.rewritten);
            self.line.has_written(polled.is_ready());
            match ready!(polled)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.rewritten.advance(count),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let read = &buffer.filled()[before..];
        if !read.is_empty() {
            if self.line.has_read() {
                self.begun.clear();
            }
            let room = head::MOST_LINE - self.begun.len();
            self.begun.extend_from_slice(&read[..read.len().min(room)]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_rewritten(cx))?;
        if self.line.head_due.swap(false, Ordering::Relaxed) {
            let drop_close = self.line.drop_close.load(Ordering::Relaxed);
            if let Some((head, length)) = head::rewrite(bytes, drop_close) {
                self.rewritten = head;
                // What does not go out now goes out with the next write or flush.
                return match self.poll_rewritten(cx) {
                    Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                    Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(length)),
                };
            }
        }
        if self.line.is_in_head() && head::is_bad_request(bytes) && !head::is_request(&self.begun) {
            // hyper's own answer. Like Supervisor's, ours to what is no request at all is to close.
            return Poll::Ready(Ok(bytes.len()));
        }
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.line.has_written(polled.is_ready());
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_rewritten(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_rewritten(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(line: &Line) -> Phase {
        *line.phase.borrow()
    }

    #[test]
    fn a_request_goes_through_its_phases() {
        let line = Arc::new(Line::new());
        assert!(line.quiet_since().is_some());
        line.has_read();
        assert!(matches!(phase(&line), Phase::Head { .. }));
        assert_eq!(line.quiet_since(), None);
        let answering = line.begins_answer();
        line.has_read();
        assert_eq!(phase(&line), Phase::Busy);
        line.has_written(false);
        assert!(matches!(phase(&line), Phase::Stalled { .. }));
        line.has_written(true);
        assert_eq!(phase(&line), Phase::Busy);
        drop(answering);
        assert!(matches!(phase(&line), Phase::Idle { .. }));
        line.has_written(false);
        assert!(matches!(phase(&line), Phase::Idle { .. }));
    }

    #[tokio::test]
    async fn whoever_is_dismissed_is_overdue_whatever_happens_then() {
        let line = Arc::new(Line::new());
        line.dismiss();
        let answering = line.begins_answer();
        line.has_read();
        drop(answering);
        line.overdue().await;
        assert_eq!(phase(&line), Phase::Dismissed);
    }
}
