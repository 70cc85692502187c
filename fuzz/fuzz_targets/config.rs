//! Whole configurations as the daemon and the client read them: a main file and, after NUL bytes, those it may
//! include. A second reading gives the same.
#![no_main]

use fleetvisor_fuzz::MemoryHost;
use fleetvisor_model::config::{load, load_ctl};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let host = MemoryHost::new(data.split(|byte| *byte == 0));
    match (load(host.main(), &host), load(host.main(), &host)) {
        (Ok(first), Ok(second)) => assert_eq!(first, second),
        (Err(first), Err(second)) => assert_eq!(first.to_string(), second.to_string()),
        (first, second) => panic!("read twice: {first:?}, {second:?}"),
    }
    let _ = load_ctl(host.main(), &host);
});
