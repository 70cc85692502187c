//! What `/proc` says about a process.

use std::fs;

/// From `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessStat {
    /// `R`, `S`, `Z`, ...
    pub state: char,
    pub parent: i32,
    pub group: i32,
    pub session: i32,
}

impl ProcessStat {
    /// `None` when there is no such process.
    pub fn of(pid: i32) -> Option<ProcessStat> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in brackets may hold anything, brackets and spaces too.
        let (_, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        Some(ProcessStat {
            state: fields.next()?.chars().next()?,
            parent: fields.next()?.parse().ok()?,
            group: fields.next()?.parse().ok()?,
            session: fields.next()?.parse().ok()?,
        })
    }
}

/// Whether it exists and is no zombie.
pub fn is_alive(pid: i32) -> bool {
    ProcessStat::of(pid).is_some_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

/// How many descriptors it has open.
pub fn descriptors_of(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Pids of the living children.
pub fn children_of(pid: i32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|process| process.file_name().to_str()?.parse::<i32>().ok())
        .filter(|child| ProcessStat::of(*child).is_some_and(|stat| stat.parent == pid && stat.state != 'Z'))
        .collect()
}

/// The agent's pid; it is the child of the keeper that was told of its descriptor.
pub fn agent_of(keeper: i32) -> Option<i32> {
    children_of(keeper).into_iter().find(|pid| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains("--attached-to-keeper=")
    })
}

/// The most memory that it has had so far, in KiB.
pub fn peak_memory_of(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
