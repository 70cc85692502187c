//! Payloads of frames between agent and keeper, in both directions: an error or a value, and a value survives
//! being sent on.
#![no_main]

use std::fmt::Debug;

use fleetvisor_keeper::frame::{HEADER, decode, encode};
use fleetvisor_keeper::{Event, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(request) = decode::<Request>(data) {
        survives(&request, decode(&encoded(&request)));
    }
    if let Ok(event) = decode::<Event>(data) {
        survives(&event, decode(&encoded(&event)));
    }
});

fn encoded(value: &impl serde::Serialize) -> Vec<u8> {
    let mut frame = encode(value, 0).expect("what fits into one frame fits into another");
    frame.split_off(HEADER)
}

fn survives<T: PartialEq + Debug, E: Debug>(value: &T, again: Result<T, E>) {
    assert_eq!(again.as_ref().ok(), Some(value), "{again:?}");
}
