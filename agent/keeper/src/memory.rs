//! Memory that was needed for a while goes back to the system.

/// Blocks from this size on have pages of their own, in bytes.
#[cfg(target_env = "gnu")]
const OWN_PAGES: libc::c_int = 128 << 10;

/// Large blocks that are freed (answers, snapshots, a configuration's text) are given back at once. The C library
/// would otherwise learn from the first of them to keep all that are no larger, for good.
pub fn give_back_freed_memory() {
    #[cfg(target_env = "gnu")]
    for parameter in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: it takes two numbers, and is called before there are other threads.
        unsafe { libc::mallopt(parameter, OWN_PAGES) };
    }
}
