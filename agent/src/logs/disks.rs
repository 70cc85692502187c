//! Which disk a log is on, from the kernel's list of mounts and the log's path alone. Nothing here touches that
//! disk: on one that hangs (a network file system that is gone, a frozen one), a look at it would hang too.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::open::MOST_LINKS;

const LIST: &str = "/proc/self/mountinfo";

/// File systems that are memory or the kernel's own. Their files take what they get at once.
const IN_MEMORY: [&[u8]; 7] = [b"proc", b"sysfs", b"devtmpfs", b"devpts", b"tmpfs", b"ramfs", b"cgroup2"];

/// A mounted file system, by its device's numbers: the same for all places where it is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) major: u32,
    pub(super) minor: u32,
}

/// Where a log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Absolute, without `..`, and without those links that could be followed.
    pub(super) path: PathBuf,
    /// `None` where it is on no disk.
    pub(super) disk: Option<Disk>,
}

/// The mounts, read again when the kernel says that they have changed: there may be many, and a look at them comes with
/// each program that is spawned.
#[derive(Debug, Default)]
pub(super) struct MountTable {
    list: Option<File>,
    mounts: Arc<Mounts>,
}

#[derive(Debug, Default)]
pub(super) struct Mounts(Vec<Mount>);

#[derive(Debug)]
struct Mount {
    id: u32,
    /// `None` for what has no mount below it.
    parent: Option<u32>,
    point: PathBuf,
    disk: Option<Disk>,
}

impl MountTable {
    /// As they are at this moment. Without a `/proc` there is none, and then all is on no disk.
    pub(super) fn now(&mut self) -> Arc<Mounts> {
        let is_known = self.list.as_ref().is_some_and(|list| !has_changed(list));
        if !is_known {
            self.mounts = Arc::new(Mounts::parse(&self.read().unwrap_or_default()));
        }
        Arc::clone(&self.mounts)
    }

    fn read(&mut self) -> std::io::Result<Vec<u8>> {
        // What changes from its opening on is told.
        let mut list = match self.list.take() {
            Some(list) => list,
            None => File::open(LIST)?,
        };
        let mut text = Vec::new();
        list.rewind()?;
        list.read_to_end(&mut text)?;
        self.list = Some(list);
        Ok(text)
    }
}

/// Since the last call, or since it was opened.
fn has_changed(list: &File) -> bool {
    let mut watched = [PollFd::new(list.as_fd(), PollFlags::POLLPRI)];
    poll(&mut watched, PollTimeout::ZERO).map_or(true, |count| count > 0)
}

impl Mounts {
    /// Of a text as `proc_pid_mountinfo(5)` describes it. A line that is none is left out.
    pub(super) fn parse(text: &[u8]) -> Mounts {
        let mut mounts: Vec<_> = text.split(|byte| *byte == b'\n').filter_map(Mount::parse).collect();
        let ids: std::collections::HashSet<u32> = mounts.iter().map(|mount| mount.id).collect();
        for mount in &mut mounts {
            // One's own parent: the first of all mounts. One that is not listed: outside of this process's root.
            mount.parent = mount.parent.filter(|parent| *parent != mount.id && ids.contains(parent));
        }
        Mounts(mounts)
    }

    /// Where a path leads. Links are followed by `read_link` on the root file system only: if that hangs, so does
    /// everything else. A link on another disk stays as it is spelled. So a log that is reached through such a link is
    /// on the link's disk here, whatever it leads to.
    pub(super) fn place(&self, path: &Path, read_link: impl Fn(&Path) -> Option<PathBuf>) -> Place {
        let root = self.disk_of(Path::new("/"));
        let mut at = PathBuf::from("/");
        let mut left = reversed(path);
        let mut links = 0;
        while let Some(name) = left.pop() {
            if name == ".." {
                at.pop();
                continue;
            }
            at.push(name);
            if links < MOST_LINKS
                && self.disk_of(&at) == root
                && let Some(target) = read_link(&at)
            {
                links += 1;
                at.pop();
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                left.extend(reversed(&target));
            }
        }
        let disk = self.disk_of(&at);
        Place { path: at, disk }
    }

    /// As a path's look-up goes: from a mount to what is mounted on it first on the way. What lies beneath another mount
    /// is not met, however long its path is.
    fn disk_of(&self, path: &Path) -> Option<Disk> {
        let on_the_way: Vec<_> = self.0.iter().filter(|mount| path.starts_with(&mount.point)).collect();
        let mut at: Option<&Mount> = None;
        for _ in 0..on_the_way.len() {
            let parent = at.map(|mount| mount.id);
            // Of two on one place the later one.
            let next = on_the_way.iter().rev().filter(|mount| mount.parent == parent);
            match next.min_by_key(|mount| mount.point.as_os_str().len()) {
                Some(next) => at = Some(next),
                None => break,
            }
        }
        at?.disk
    }
}

impl Mount {
    fn parse(line: &[u8]) -> Option<Mount> {
        let mut fields = line.split(|byte| *byte == b' ');
        let id = number(fields.next()?)?;
        let parent = number(fields.next()?)?;
        let mut device = fields.next()?.splitn(2, |byte| *byte == b':');
        let disk = Disk { major: number(device.next()?)?, minor: number(device.next()?)? };
        let point = PathBuf::from(OsString::from_vec(unescaped(fields.nth(1)?)));
        // Behind the options come fields of which there may be any number, then a hyphen.
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        let disk = (!IN_MEMORY.contains(&kind)).then_some(disk);
        point.is_absolute().then_some(Mount { id, parent: Some(parent), point, disk })
    }
}

/// A path's names, the first one last.
fn reversed(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    names.collect()
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Blanks, tabs, line ends and backslashes stand there as three octal digits behind a backslash.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let escape = match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if *first == b'\\' => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        out.push(escape.unwrap_or(*first));
        rest = if escape.is_some() { &after[3..] } else { after };
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOUNTS: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
24 27 0:6 / /dev rw,relatime shared:2 master:1 - devtmpfs devtmpfs rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 27 8:1 / /var rw - xfs /dev/sda1 rw
31 30 0:44 / /var/log/far\\040away rw,relatime - nfs4 server:/x rw,hard
32 27 0:44 /inner /srv/logs rw,relatime - nfs4 server:/x rw,hard
40 27 8:2 / /a/b rw - ext4 /dev/sdb rw
41 27 8:3 / /a rw - ext4 /dev/sdc rw
50 27 0:50 / /over rw - tmpfs tmpfs rw
51 50 8:5 / /over rw - ext4 /dev/sde rw
";

    fn disk(major: u32, minor: u32) -> Option<Disk> {
        Some(Disk { major, minor })
    }

    fn place(path: &str, links: &[(&str, &str)]) -> Place {
        let read_link = |at: &Path| {
            let found = links.iter().find(|(link, _)| Path::new(link) == at);
            found.map(|(_, target)| PathBuf::from(target))
        };
        Mounts::parse(MOUNTS.as_bytes()).place(Path::new(path), read_link)
    }

    #[test]
    fn the_mount_that_a_look_up_ends_at_says_which_disk_it_is() {
        for (path, expected) in [
            ("/log", disk(254, 0)),
            ("/var/log/x", disk(8, 1)),
            ("/various/x", disk(254, 0)),
            ("/var/log/far away/x", disk(0, 44)),
            ("/var/log/far", disk(8, 1)),
            ("/srv/logs/deep/x", disk(0, 44)),
            ("/srv/../var/./log//x", disk(8, 1)),
            ("/../../x", disk(254, 0)),
            ("/dev/stdout", None),
            ("/proc/self/fd/1", None),
            // It lies beneath what was mounted on its parent.
            ("/a/b/x", disk(8, 3)),
            ("/over/x", disk(8, 5)),
        ] {
            assert_eq!(place(path, &[]).disk, expected, "{path}");
        }
    }

    #[test]
    fn links_are_followed_on_the_root_file_system_only() {
        let links = [
            ("/logs", "srv/logs"),
            ("/up", "/x/../var/log"),
            ("/file", "/dev/stdout"),
            ("/var/link", "/srv/logs"),
            ("/circle", "circle"),
        ];
        let found = |path| place(path, &links);
        assert_eq!(found("/logs/x"), Place { path: "/srv/logs/x".into(), disk: disk(0, 44) });
        assert_eq!(found("/up/x"), Place { path: "/var/log/x".into(), disk: disk(8, 1) });
        assert_eq!(found("/file").disk, None);
        assert_eq!(found("/var/link/x"), Place { path: "/var/link/x".into(), disk: disk(8, 1) });
        assert_eq!(found("/circle/x").disk, disk(254, 0));
    }

    #[test]
    fn the_mounts_of_this_machine_are_understood() {
        let mut table = MountTable::default();
        let mounts = table.now();
        assert!(!mounts.0.is_empty());
        // Something may be mounted between two looks, but not each time.
        assert!((0..100).any(|_| Arc::ptr_eq(&table.now(), &table.now())), "it is read each time");
        assert_eq!(mounts.disk_of(Path::new("/proc/self/stat")), None);
    }

    #[test]
    fn without_mounts_all_is_on_no_disk() {
        assert_eq!(Mounts::parse(b"").place(Path::new("x/y"), |_| None).disk, None);
    }

    proptest! {
        #[test]
        fn any_text_gives_an_answer(text in prop::collection::vec(any::<u8>(), 0..400), path in "[/.a-c]{0,12}") {
            Mounts::parse(&text).place(Path::new(&path), |_| None);
        }

        #[test]
        fn any_mounts_give_an_answer(
            lines in prop::collection::vec(
                ("[0-9]{1,2}", "[0-9]{1,2}", "[0-9:]{0,6}", "/[ab/\\\\0-7]{0,9}", "( -|) (ext4|proc|) ?"),
                0..20,
            ),
            path in "/[ab/.]{0,12}",
        ) {
            let line = |(id, parent, device, point, end): &(String, String, String, String, String)| {
                format!("{id} {parent} {device} / {point} rw{end}\n")
            };
            let text: String = lines.iter().map(line).collect();
            let mounts = Mounts::parse(text.as_bytes());
            mounts.place(Path::new(&path), |at| at.ends_with("b").then(|| PathBuf::from("../a/b")));
        }
    }
}
