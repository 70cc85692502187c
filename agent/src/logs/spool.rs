//! Where the bytes of a stream wait that this process has to look at. They are spliced from the pipe into a file
//! in memory that the keeper holds too, and a record in the same file says how far they have been dealt with and
//! in which state. Killed at any instant, a byte is in the pipe or here, and an agent that comes after does again
//! exactly what the record does not have yet.
//!
//!     0          slot        2 slot
//!     | record A | record B | every byte ever taken, in order; what is not needed any more is a hole |
//!
//! The two records take turns; the one with the higher number and a sum that is right counts, so a record that
//! was cut by a kill leaves the one before.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use fleetvisor_core::ansi::Stripper;
use fleetvisor_core::capture::Splitter;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, SpliceFFlags, fallocate, splice};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;
use nix::sys::uio::{pread, pwrite};
use nix::unistd::ftruncate;
use serde::{Deserialize, Serialize};

use super::file::End;
use super::tools::{CHUNK, Moved};

/// Length and sum of a record's payload, and its number.
const HEADER: usize = 16;
/// Room in a record for all but what is captured.
const ROOM: u64 = 4096;
/// So much that is not needed any more is kept until it is let go: a page is the least that can be.
const TRIM: u64 = 16 << 10;

/// How far a stream has been dealt with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Bytes of the stream, from its beginning.
    pub(super) done: u64,
    /// Where the output of what comes next is just being written. Nobody else writes there before it is done.
    pub(super) begun: Option<End>,
    pub(super) stripper: Stripper,
    pub(super) splitter: Splitter,
    pub(super) captured: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Spool {
    memory: OwnedFd,
    slot: u64,
    number: u64,
    /// Bytes taken from the pipe since its beginning.
    taken: u64,
    /// Bytes that have been let go.
    gone: u64,
    /// Bytes before what is done that are kept.
    keep: u64,
}

impl Spool {
    /// `captured` is the most that a record must have room for.
    pub(super) fn new(captured: usize, keep: u64) -> Result<Spool, Errno> {
        let memory = memfd_create("fleetvisor-log", MFdFlags::MFD_CLOEXEC)?;
        let slot = slot(captured);
        ftruncate(&memory, (2 * slot).try_into().map_err(|_| Errno::EFBIG)?)?;
        Ok(Spool { memory, slot, number: 0, taken: 0, gone: 0, keep })
    }

    /// An earlier agent's, with its last record.
    pub(super) fn adopt(memory: OwnedFd, captured: usize, keep: u64) -> Result<(Spool, Record), Errno> {
        let slot = slot(captured);
        let size = u64::try_from(fstat(&memory)?.st_size).unwrap_or(0);
        let mut spool =
            Spool { memory, slot, number: 0, taken: size.saturating_sub(2 * slot), gone: 0, keep };
        let records = [0, 1].into_iter().filter_map(|at| spool.read_record(at));
        let (number, record) = records.max_by_key(|(number, _)| *number).unwrap_or_default();
        spool.number = number;
        Ok((spool, record))
    }

    pub(super) fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// Takes up to `most` bytes from a pipe.
    pub(super) fn take(&mut self, pipe: BorrowedFd<'_>, most: usize) -> Result<Moved, Errno> {
        let mut at = self.place(self.taken)?;
        match splice(pipe, None, &self.memory, Some(&mut at), most, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Ok(0) => Ok(Moved::Ended),
            Ok(count) => {
                self.taken += count as u64;
                Ok(Moved::Bytes(count))
            }
            Err(Errno::EAGAIN) => Ok(Moved::Empty),
            Err(errno) => Err(errno),
        }
    }

    /// How many bytes were taken after the first `done`.
    pub(super) fn taken_after(&self, done: u64) -> usize {
        usize::try_from(self.taken.saturating_sub(done)).unwrap_or(usize::MAX)
    }

    /// What was taken from `from` on, as much as there is and `into` has room for.
    pub(super) fn read(&self, from: u64, into: &mut [u8]) -> Result<usize, Errno> {
        let wanted = self.taken_after(from).min(into.len());
        let mut got = 0;
        while got < wanted {
            match pread(&self.memory, &mut into[got..wanted], self.place(from + got as u64)?)? {
                0 => break,
                count => got += count,
            }
        }
        Ok(got)
    }

    /// What was taken from `from` on and is done, as far as it is kept.
    pub(super) fn kept(&self, from: u64, done: u64) -> Result<Vec<u8>, Errno> {
        let from = from.max(done.saturating_sub(self.keep));
        let mut bytes = vec![0; usize::try_from(done.saturating_sub(from)).unwrap_or(0)];
        let count = self.read(from, &mut bytes)?;
        bytes.truncate(count);
        Ok(bytes)
    }

    /// From now on this counts.
    pub(super) fn record(&mut self, record: &Record) -> Result<(), Errno> {
        self.number += 1;
        let mut bytes = vec![0; HEADER];
        bytes = postcard::to_extend(record, bytes).map_err(|_| Errno::EINVAL)?;
        if bytes.len() as u64 > self.slot {
            return Err(Errno::EFBIG);
        }
        let (header, payload) = bytes.split_at_mut(HEADER);
        header[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        header[8..].copy_from_slice(&self.number.to_le_bytes());
        header[4..8].copy_from_slice(&sum(self.number, payload).to_le_bytes());
        let at = (self.number % 2) * self.slot;
        match pwrite(&self.memory, &bytes, at.try_into().map_err(|_| Errno::EFBIG)?)? {
            count if count == bytes.len() => Ok(()),
            _ => Err(Errno::ENOSPC),
        }
    }

    fn read_record(&self, at: u64) -> Option<(u64, Record)> {
        let place = i64::try_from(at * self.slot).ok()?;
        let mut header = [0; HEADER];
        (pread(&self.memory, &mut header, place) == Ok(HEADER)).then_some(())?;
        let length = u32::from_le_bytes(header[..4].try_into().ok()?);
        let expected = u32::from_le_bytes(header[4..8].try_into().ok()?);
        let number = u64::from_le_bytes(header[8..].try_into().ok()?);
        (number > 0 && u64::from(length) + HEADER as u64 <= self.slot).then_some(())?;
        let mut payload = vec![0; usize::try_from(length).ok()?];
        let count = pread(&self.memory, &mut payload, place + HEADER as i64).ok()?;
        (count == payload.len() && sum(number, &payload) == expected).then_some(())?;
        Some((number, postcard::from_bytes(&payload).ok()?))
    }

    /// Lets go of what is done and not to be kept, in whole pages and not too often.
    pub(super) fn trim(&mut self, done: u64) {
        let upto = done.saturating_sub(self.keep) / 4096 * 4096;
        if upto < self.gone + TRIM {
            return;
        }
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let (Ok(from), Ok(length)) = (self.place(self.gone), i64::try_from(upto - self.gone)) else { return };
        // Where it fails the memory stays in use, and more of it is asked for the next time.
        if fallocate(&self.memory, flags, from, length).is_ok() {
            self.gone = upto;
        }
    }

    fn place(&self, position: u64) -> Result<i64, Errno> {
        i64::try_from(2 * self.slot + position).map_err(|_| Errno::EFBIG)
    }
}

/// In whole pages. More than asked for can be captured, by a chunk.
fn slot(captured: usize) -> u64 {
    ROOM + ((captured as u64).saturating_add(CHUNK as u64)).div_ceil(4096).saturating_mul(4096)
}

fn sum(number: u64, payload: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&number.to_le_bytes());
    sum.update(payload);
    sum.finalize()
}

#[cfg(test)]
mod tests {
    use nix::fcntl::OFlag;
    use nix::unistd::{pipe2, write};
    use proptest::prelude::*;

    use super::*;

    fn again(spool: &Spool, captured: usize) -> (Spool, Record) {
        Spool::adopt(spool.memory().try_clone_to_owned().unwrap(), captured, spool.keep).unwrap()
    }

    fn record(done: u64) -> Record {
        Record { done, captured: vec![7; done as usize % 50], ..Record::default() }
    }

    #[test]
    fn a_successor_finds_every_byte_and_the_last_record() {
        let (ours, theirs) = pipe2(OFlag::O_NONBLOCK).unwrap();
        let mut spool = Spool::new(100, 0).unwrap();
        assert_eq!(again(&spool, 100).1, Record::default());
        for round in 0..5u64 {
            write(&theirs, b"0123456789").unwrap();
            assert_eq!(spool.take(ours.as_fd(), 6), Ok(Moved::Bytes(6)));
            let (successor, last) = again(&spool, 100);
            assert_eq!((successor.taken, last.done), (round * 6 + 6, round * 6));
            spool.record(&record(round * 6 + 6)).unwrap();
            assert_eq!(again(&spool, 100).1, record(round * 6 + 6));
        }
        let mut bytes = [0; 40];
        assert_eq!(spool.read(12, &mut bytes), Ok(18));
        assert_eq!(&bytes[..18], b"234567890123456789");
    }

    #[test]
    fn a_record_that_was_cut_leaves_the_one_before() {
        let mut spool = Spool::new(0, 0).unwrap();
        spool.record(&record(1)).unwrap();
        spool.record(&record(2)).unwrap();
        pwrite(&spool.memory, &[9], HEADER as i64).unwrap();
        assert_eq!(again(&spool, 0).1, record(1));
    }

    #[test]
    fn what_is_done_needs_no_memory() {
        let (ours, theirs) = pipe2(OFlag::O_NONBLOCK).unwrap();
        let mut spool = Spool::new(0, 4096).unwrap();
        for _ in 0..64 {
            write(&theirs, &[b'x'; 32 << 10]).unwrap();
            spool.take(ours.as_fd(), CHUNK).unwrap();
            spool.trim(spool.taken);
        }
        let pages = fstat(&spool.memory).unwrap().st_blocks * 512;
        assert!(pages < 64 << 10, "{pages}");
        let end = spool.taken;
        assert_eq!(spool.kept(0, end).unwrap(), [b'x'; 4096]);
    }

    proptest! {
        #[test]
        fn any_memory_is_adopted_or_begun_anew(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let spool = Spool::new(0, 0).unwrap();
            pwrite(&spool.memory, &bytes, 0).unwrap();
            let (successor, _) = again(&spool, 0);
            prop_assert_eq!(successor.taken, 0);
        }
    }
}
