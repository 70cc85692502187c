//! Frames and their descriptors over a non-blocking unix stream socket, for both sides of the link. Neither
//! reader nor writer ever waits; what a frame means is not known here.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::write;

use crate::frame::{FrameError, HEADER, MAX_DESCRIPTORS, MAX_PAYLOAD};

const CHUNK: usize = 64 << 10;
/// In 8-byte words, for alignment: room for a header and `MAX_DESCRIPTORS`.
const CONTROL: usize = MAX_DESCRIPTORS / 2 + 8;

#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) payload: Vec<u8>,
    /// Fewer than announced where this process had no room for more, or where the sender lied.
    pub(crate) descriptors: Vec<OwnedFd>,
    pub(crate) announced: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    Some,
    Blocked,
    Closed,
}

#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    buffer: Vec<u8>,
    /// Where the next frame begins in `buffer`.
    start: usize,
    /// Of each message that carried descriptors. The kernel keeps messages with descriptors apart, and a frame's
    /// come with its first byte, so these are in the order of the frames that announce some.
    passed: VecDeque<Vec<OwnedFd>>,
}

impl FrameReader {
    /// Reads once from the socket.
    pub(crate) fn fill(&mut self, socket: BorrowedFd<'_>) -> Result<Filled, Errno> {
        self.buffer.drain(..mem::take(&mut self.start));
        let length = self.buffer.len();
        self.buffer.resize(length + CHUNK, 0);
        let received = receive(socket, &mut self.buffer[length..]);
        self.buffer.truncate(length + received.as_ref().map_or(0, |(count, _)| *count));
        match received {
            Ok((0, _)) => Ok(Filled::Closed),
            Ok((_, descriptors)) => {
                self.passed.extend(descriptors);
                Ok(Filled::Some)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Filled::Blocked),
            Err(errno) => Err(errno),
        }
    }

    /// All that was read has been taken.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.buffer.len() == self.start && self.passed.is_empty()
    }

    /// The next whole frame of what was read. After an error the stream can't be trusted any more.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        let unread = &self.buffer[self.start..];
        let Some((&[a, b, c, d, count], rest)) = unread.split_first_chunk::<HEADER>() else {
            let stray = unread.is_empty() && !self.passed.is_empty();
            return if stray { Err(FrameError::StrayDescriptors) } else { Ok(None) };
        };
        let (length, announced) = (u32::from_le_bytes([a, b, c, d]) as usize, usize::from(count));
        if length > MAX_PAYLOAD {
            return Err(FrameError::TooLong(length));
        }
        if announced > MAX_DESCRIPTORS {
            return Err(FrameError::TooManyDescriptors(announced));
        }
        let Some(payload) = rest.get(..length).map(<[u8]>::to_vec) else { return Ok(None) };
        self.start += HEADER + length;
        let descriptors =
            if announced > 0 { self.passed.pop_front().unwrap_or_default() } else { Vec::new() };
        if self.start == self.buffer.len() {
            self.start = 0;
            self.buffer.clear();
            self.buffer.shrink_to(CHUNK);
        }
        Ok(Some(Frame { payload, descriptors, announced }))
    }
}

/// How far a flush came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing is left to send.
    All,
    /// The socket is full: go on once it is writable.
    Blocked,
    /// This user has too many descriptors under way between processes: the socket is writable, but it takes some
    /// milliseconds until somebody has read theirs.
    Throttled,
}

/// Opens something once a frame has been sent, or given up: a byte goes into a pipe. Where the process is killed
/// before, the other end sees that the pipe is closed.
#[derive(Debug)]
pub(crate) struct Gate(pub(crate) OwnedFd);

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = write(&self.0, &[0]);
    }
}

#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    descriptors: Vec<Arc<OwnedFd>>,
    _gate: Option<Gate>,
}

#[derive(Debug, Default)]
pub(crate) struct FrameWriter {
    queue: VecDeque<Outgoing>,
}

impl FrameWriter {
    pub(crate) fn push(&mut self, bytes: Vec<u8>, descriptors: Vec<Arc<OwnedFd>>) {
        self.push_before(bytes, descriptors, None);
    }

    /// The gate opens when the frame is out of this process.
    pub(crate) fn push_before(&mut self, bytes: Vec<u8>, descriptors: Vec<Arc<OwnedFd>>, gate: Option<Gate>) {
        self.queue.push_back(Outgoing { bytes, sent: 0, descriptors, _gate: gate });
    }

    /// Frames that are not sent completely.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn flush(&mut self, socket: BorrowedFd<'_>) -> Result<Flushed, Errno> {
        while let Some(front) = self.queue.front_mut() {
            match send(socket, &front.bytes[front.sent..], &front.descriptors) {
                Ok(count) => {
                    front.sent += count;
                    // Under way with the frame's first byte, they must not be sent with a second part.
                    front.descriptors.clear();
                    if front.sent == front.bytes.len() {
                        self.queue.pop_front();
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(Flushed::Blocked),
                Err(Errno::ETOOMANYREFS | Errno::ENOBUFS | Errno::ENOMEM) => return Ok(Flushed::Throttled),
                Err(errno) => return Err(errno),
            }
        }
        Ok(Flushed::All)
    }
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[Arc<OwnedFd>]) -> Result<usize, Errno> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let numbers: Vec<RawFd> = descriptors.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control = if numbers.is_empty() { &[][..] } else { &rights };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None)
}

/// The bytes and, if the message carried any, the descriptors that this process had room for. (nix gives none of
/// them where there was not room for all, and leaves those open.)
fn receive(socket: BorrowedFd<'_>, into: &mut [u8]) -> Result<(usize, Option<Vec<OwnedFd>>), Errno> {
    let mut control = [0u64; CONTROL];
    let mut part = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: a msghdr is numbers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = mem::size_of_val(&control) as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: `message` points to `into` and `control`, with their lengths, and both outlive the call.
    let count = Errno::result(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) })?;
    let mut descriptors = Vec::new();
    // SAFETY: the kernel has filled `control` with whole headers and their data, which these macros walk within
    // msg_controllen; each number of an SCM_RIGHTS is a descriptor that is now this process's and nobody's yet.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while let Some(found) = header.as_ref() {
            if (found.cmsg_level, found.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                let length: usize = found.cmsg_len as _;
                let bytes = length - libc::CMSG_LEN(0) as usize;
                for index in 0..bytes / mem::size_of::<RawFd>() {
                    descriptors.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    let truncated = message.msg_flags & libc::MSG_CTRUNC != 0;
    Ok((count as usize, (truncated || !descriptors.is_empty()).then_some(descriptors)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Request, decode, encode};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    fn pair() -> (UnixStream, UnixStream) {
        UnixStream::pair().unwrap()
    }

    fn null() -> Arc<OwnedFd> {
        Arc::new(std::fs::File::open("/dev/null").unwrap().into())
    }

    fn read_all(reader: &mut FrameReader, socket: &UnixStream) -> Result<Vec<Frame>, FrameError> {
        let mut frames = Vec::new();
        loop {
            while let Some(frame) = reader.next()? {
                frames.push(frame);
            }
            if reader.fill(socket.as_fd()).unwrap() != Filled::Some {
                return Ok(frames);
            }
        }
    }

    #[test]
    fn descriptors_arrive_with_the_frame_they_were_sent_with() {
        let (ours, theirs) = pair();
        let mut writer = FrameWriter::default();
        for count in [0, 2, 0, 0, 1, 3, 0] {
            let frame = encode(&Request::Release { id: count as u64 }, count).unwrap();
            writer.push(frame, (0..count).map(|_| null()).collect());
        }
        assert_eq!(writer.flush(ours.as_fd()), Ok(Flushed::All));
        let frames = read_all(&mut FrameReader::default(), &theirs).unwrap();
        assert_eq!(frames.len(), 7);
        for frame in frames {
            let id = frame.descriptors.len() as u64;
            assert_eq!(decode::<Request>(&frame.payload), Ok(Request::Release { id }));
        }
    }

    #[test]
    fn a_frame_larger_than_the_socket_goes_in_parts_and_without_waiting() {
        let (ours, theirs) = pair();
        let request = Request::Stash { key: "k".into(), bytes: vec![7; 3 << 20] };
        let mut writer = FrameWriter::default();
        writer.push(encode(&request, 1).unwrap(), vec![null()]);
        assert_eq!(writer.flush(ours.as_fd()), Ok(Flushed::Blocked));
        let (mut reader, mut frames) = (FrameReader::default(), Vec::new());
        while frames.is_empty() {
            frames = read_all(&mut reader, &theirs).unwrap();
            writer.flush(ours.as_fd()).unwrap();
        }
        assert_eq!(frames[0].descriptors.len(), 1);
        assert_eq!(decode::<Request>(&frames[0].payload), Ok(request));
    }

    #[test]
    fn descriptors_of_no_frame_are_an_error() {
        let (ours, theirs) = pair();
        let mut writer = FrameWriter::default();
        writer.push(encode(&Request::Ready, 0).unwrap(), vec![null()]);
        writer.flush(ours.as_fd()).unwrap();
        let error = read_all(&mut FrameReader::default(), &theirs).unwrap_err();
        assert_eq!(error, FrameError::StrayDescriptors);
    }

    #[test]
    fn a_length_over_the_limit_is_an_error_before_its_bytes_are_read() {
        let mut reader = FrameReader::default();
        reader.buffer.extend([0xff, 0xff, 0xff, 0x7f, 0]);
        assert_eq!(reader.next().unwrap_err(), FrameError::TooLong(0x7fff_ffff));
    }

    proptest! {
        #[test]
        fn any_bytes_are_frames_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut reader = FrameReader { buffer: bytes.clone(), ..FrameReader::default() };
            let mut taken = 0;
            while let Ok(Some(frame)) = reader.next() {
                taken += HEADER + frame.payload.len();
            }
            prop_assert!(taken <= bytes.len());
        }
    }
}
