//! A log as an endless answer: its last bytes, then everything that is added, through rotation and truncation,
//! until the client leaves. Files are read off this thread; nothing happens while nobody follows.

use std::convert::Infallible;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::unfold;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::closing::Closing;
use super::inotify::{FileEvents, Watch};
use super::reply::Body;

/// What a follower sees of what was there before, in bytes.
const BEFORE: u64 = 1024;
const CHUNK: u64 = 64 << 10;
const TRUNCATED: &str = "==> File truncated <==\n";
/// Reads under way at once, of all followers.
const READERS: usize = 8;
/// Files are also looked at unasked, soon after something has happened and then ever less often: events do
/// not tell that a new file has taken a log's name, and some file systems have none.
const SOONEST: Duration = Duration::from_millis(10);
const LATEST: Duration = Duration::from_secs(1);
const LATEST_WITHOUT_EVENTS: Duration = Duration::from_millis(100);

/// Everybody who follows a log.
#[derive(Debug)]
pub(super) struct Followers {
    events: Option<Arc<FileEvents>>,
    places: Arc<Semaphore>,
    readers: Arc<Semaphore>,
    closing: Closing,
}

/// A log that can be followed, and when it was last written.
pub(super) struct Followed {
    pub(super) modified: std::time::SystemTime,
    pub(super) body: Body,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum FollowError {
    #[error("there is no log {0}")]
    NoFile(PathBuf),
    #[error("cannot read log {path}: {error}")]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("too many logs are being followed")]
    TooMany,
}

impl Followers {
    /// Needs a runtime to run in; all streams end when `closing` begins.
    pub(super) fn new(most: usize, closing: Closing) -> Followers {
        let events = FileEvents::new().ok().map(Arc::new);
        if let Some(events) = events.clone() {
            let mut closing = closing.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = events.run() => {}
                    () = closing.begun() => {}
                }
            });
        }
        let (places, readers) = (Arc::new(Semaphore::new(most)), Arc::new(Semaphore::new(READERS)));
        Followers { events, places, readers, closing }
    }

    pub(super) async fn follow(&self, path: PathBuf) -> Result<Followed, FollowError> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| FollowError::TooMany)?;
        let shown = path.clone();
        let opened = spawn_blocking(move || Log::open(path)).await.unwrap_or_else(|error| Err(error.into()));
        let (log, modified) = opened.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => FollowError::NoFile(shown),
            _ => FollowError::Unreadable { path: shown, error },
        })?;
        let follower = Follower {
            watch: watch_file(self.events.as_ref(), &log.file),
            log: Some(log),
            events: self.events.clone(),
            readers: Arc::clone(&self.readers),
            closing: self.closing.clone(),
            _place: place,
        };
        let frames = unfold(follower, |mut follower| async move {
            let bytes = follower.next().await?;
            Some((Ok::<_, Infallible>(Frame::data(bytes)), follower))
        });
        Ok(Followed { modified, body: StreamBody::new(frames).boxed_unsync() })
    }
}

fn watch_file(events: Option<&Arc<FileEvents>>, file: &File) -> Option<Watch> {
    events.and_then(|events| events.watch(file).ok())
}

#[derive(Debug)]
struct Follower {
    /// Away while it is being read.
    log: Option<Log>,
    watch: Option<Watch>,
    events: Option<Arc<FileEvents>>,
    readers: Arc<Semaphore>,
    closing: Closing,
    _place: OwnedSemaphorePermit,
}

impl Follower {
    /// What is added next; `None` when it is over.
    async fn next(&mut self) -> Option<Bytes> {
        let mut pause = SOONEST;
        let latest = if self.watch.is_some() { LATEST } else { LATEST_WITHOUT_EVENTS };
        loop {
            if self.closing.has_begun() {
                return None;
            }
            match self.read().await? {
                Read::Bytes(bytes) => return Some(bytes),
                Read::OtherFile => {
                    let file = self.log.as_ref().map(|log| &log.file)?;
                    self.watch = watch_file(self.events.as_ref(), file);
                    continue;
                }
                Read::Nothing => {}
            }
            tokio::select! {
                () = changed(self.watch.as_mut()) => pause = SOONEST,
                () = sleep(pause) => pause = (pause * 2).min(latest),
                () = self.closing.begun() => return None,
            }
        }
    }

    async fn read(&mut self) -> Option<Read> {
        let _permit = self.readers.acquire().await.ok()?;
        let mut log = self.log.take()?;
        let (log, read) = spawn_blocking(move || {
            let read = log.read();
            (log, read)
        })
        .await
        .ok()?;
        self.log = Some(log);
        read.ok()
    }
}

async fn changed(watch: Option<&mut Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// One log, read from where the last read ended.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    at: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Read {
    Bytes(Bytes),
    Nothing,
    /// Another file has the log's name now.
    OtherFile,
}

impl Log {
    fn open(path: PathBuf) -> io::Result<(Log, std::time::SystemTime)> {
        let file = open(&path)?;
        let found = file.metadata()?;
        let at = found.len().saturating_sub(BEFORE);
        Ok((Log { path, file, at }, found.modified()?))
    }

    fn read(&mut self) -> io::Result<Read> {
        // Asked first: what the old file holds once another has its name is all it will ever hold.
        let named = std::fs::metadata(&self.path).ok();
        let found = self.file.metadata()?;
        let size = found.len();
        if size < self.at {
            self.at = 0;
            return Ok(Read::Bytes(Bytes::from_static(TRUNCATED.as_bytes())));
        }
        if size > self.at {
            let wanted = (size - self.at).min(CHUNK);
            let mut bytes = vec![0; usize::try_from(wanted).unwrap_or(0)];
            let count = self.file.read_at(&mut bytes, self.at)?;
            bytes.truncate(count);
            self.at += count as u64;
            if count > 0 {
                return Ok(Read::Bytes(bytes.into()));
            }
        }
        match named {
            Some(named) if identity(&named) != identity(&found) => {
                self.file = open(&self.path)?;
                self.at = 0;
                Ok(Read::OtherFile)
            }
            Some(_) | None => Ok(Read::Nothing),
        }
    }
}

/// A log may be named like a pipe, which must not be waited for.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn bytes(text: &str) -> Read {
        Read::Bytes(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn append(path: &Path, text: &str) {
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn a_log_begins_with_its_last_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.log");
        append(&path, &format!("early{}", "x".repeat(1024)));
        let (mut log, _) = Log::open(path.clone()).unwrap();
        assert_eq!(log.read().unwrap(), bytes(&"x".repeat(1024)));
        assert_eq!(log.read().unwrap(), Read::Nothing);
        append(&path, "more");
        assert_eq!(log.read().unwrap(), bytes("more"));
    }

    #[test]
    fn the_end_of_a_rotated_log_comes_before_its_successor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.log");
        append(&path, "one ");
        let (mut log, _) = Log::open(path.clone()).unwrap();
        assert_eq!(log.read().unwrap(), bytes("one "));
        append(&path, "two ");
        std::fs::rename(&path, folder.path().join("p.log.1")).unwrap();
        append(&path, "three");
        assert_eq!(log.read().unwrap(), bytes("two "));
        assert_eq!(log.read().unwrap(), Read::OtherFile);
        assert_eq!(log.read().unwrap(), bytes("three"));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(log.read().unwrap(), Read::Nothing);
    }

    #[test]
    fn truncation_is_remarked_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.log");
        append(&path, "a long line");
        let (mut log, _) = Log::open(path.clone()).unwrap();
        assert_eq!(log.read().unwrap(), bytes("a long line"));
        std::fs::write(&path, "new").unwrap();
        assert_eq!(log.read().unwrap(), bytes(TRUNCATED));
        assert_eq!(log.read().unwrap(), bytes("new"));
    }

    #[tokio::test]
    async fn followers_hear_what_is_added_until_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.log");
        append(&path, "before\n");
        let (close, closing) = Closing::new();
        let followers = Followers::new(1, closing);
        let mut body = followers.follow(path.clone()).await.unwrap().body;
        assert!(matches!(followers.follow(path.clone()).await, Err(FollowError::TooMany)));
        assert_eq!(next(&mut body).await.unwrap(), "before\n");
        for text in ["one\n", "two\n"] {
            append(&path, text);
            assert_eq!(next(&mut body).await.unwrap(), text);
        }
        std::fs::rename(&path, folder.path().join("p.log.1")).unwrap();
        append(&path, "three\n");
        assert_eq!(next(&mut body).await.unwrap(), "three\n");
        append(&path, "four\n");
        assert_eq!(next(&mut body).await.unwrap(), "four\n");
        close.send_replace(true);
        assert_eq!(next(&mut body).await, None);
        drop(body);
        assert!(matches!(followers.follow(folder.path().join("no")).await, Err(FollowError::NoFile(_))));
    }

    async fn next(body: &mut Body) -> Option<Bytes> {
        Some(body.frame().await?.unwrap().into_data().unwrap())
    }
}
