//! The agent's end of its link, with a stream on it that need not be frames at all: events or an error, and no
//! waiting. The first byte says after how many bytes the stream is cut into two deliveries.
#![no_main]

use std::io::Write;
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;

use fleetvisor_keeper::{KeeperLink, LinkError};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((cut, stream)) = data.split_first() else { return };
    // What the socket takes without anybody reading.
    let stream = &stream[..stream.len().min(64 << 10)];
    let (first, second) = stream.split_at(stream.len().min(usize::from(*cut)));
    let (mut keeper, agent) = UnixStream::pair().expect("a pair of sockets");
    let mut link = KeeperLink::attach(agent.into_raw_fd()).expect("it is a socket");
    keeper.write_all(first).expect("the socket has room");
    let refused = receive(&mut link).is_err();
    keeper.write_all(second).expect("the socket has room");
    let refused = refused || receive(&mut link).is_err();
    drop(keeper);
    assert!(refused || matches!(receive(&mut link), Err(LinkError::Gone)));
});

/// Until there is nothing more to read.
fn receive(link: &mut KeeperLink) -> Result<(), LinkError> {
    while link.receive()?.is_some() {}
    Ok(())
}
