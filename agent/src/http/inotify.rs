//! Hearing of changes to files: one inotify instance for all who follow a log. What has changed is for the
//! listener to find out.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

#[derive(Debug)]
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[derive(Debug)]
pub(super) struct FileEvents {
    inotify: AsyncFd<Descriptor>,
    watched: Mutex<HashMap<WatchDescriptor, Watched>>,
}

#[derive(Debug)]
struct Watched {
    /// The kernel gives two watches of one file the same descriptor.
    users: usize,
    changed: watch::Sender<()>,
}

/// Hears of one file until it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    events: Arc<FileEvents>,
    descriptor: WatchDescriptor,
    changed: watch::Receiver<()>,
}

impl FileEvents {
    /// Fails where the user has too many instances already. Needs a runtime to run in.
    pub(super) fn new() -> io::Result<FileEvents> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for descriptors that their object does not own"
        )]
        let inotify = AsyncFd::new(Descriptor(inotify))?;
        Ok(FileEvents { inotify, watched: Mutex::default() })
    }

    /// Passes events on, for as long as it is polled.
    pub(super) async fn run(&self) {
        while let Ok(mut ready) = self.inotify.readable().await {
            let read = ready.try_io(|inotify| Ok(inotify.get_ref().0.read_events()?));
            let Ok(events) = read else { continue };
            let Ok(events) = events else { return };
            let watched = self.watched();
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    watched.values().for_each(|watched| watched.changed.send_modify(|()| {}));
                } else if let Some(watched) = watched.get(&event.wd) {
                    watched.changed.send_modify(|()| {});
                }
            }
        }
    }

    /// Watches this very file, whatever its name is by now.
    pub(super) fn watch(self: &Arc<FileEvents>, file: &File) -> io::Result<Watch> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mask = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_ATTRIB;
        let mut watched = self.watched();
        let descriptor = self.inotify.get_ref().0.add_watch(path.as_str(), mask)?;
        let entry =
            watched.entry(descriptor).or_insert_with(|| Watched { users: 0, changed: watch::channel(()).0 });
        entry.users += 1;
        let changed = entry.changed.subscribe();
        Ok(Watch { events: Arc::clone(self), descriptor, changed })
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<WatchDescriptor, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Returns when something has happened to the file since this was last asked.
    pub(super) async fn changed(&mut self) {
        if self.changed.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.events.watched();
        let Some(entry) = watched.get_mut(&self.descriptor) else { return };
        entry.users -= 1;
        if entry.users == 0 {
            watched.remove(&self.descriptor);
            // The kernel has removed it already where the file is gone.
            let _ = self.events.inotify.get_ref().0.rm_watch(self.descriptor);
        }
    }
}
