//! XML-RPC documents, as a client's call and as a server's answer. What was understood can be written, and what
//! was written means the same. The limits are those of strangers.
#![no_main]

use fleetvisor_proto::fault::Fault;
use fleetvisor_proto::xmlrpc::{
    Limits, Value, parse_call, parse_response, write_call, write_fault, write_response,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(call) = parse_call(data, &Limits::REQUEST) {
        let written = write_call(&call.method, &call.params);
        match parse_call(written.as_bytes(), &Limits::REQUEST) {
            _ if !is_xml(&written) => {}
            Ok(again) => assert_eq!(write_call(&again.method, &again.params), lines(&written)),
            Err(error) => panic!("{call:?} was written as {written:?}: {error}"),
        }
    }
    let Ok(answer) = parse_response(data, &Limits::REQUEST) else { return };
    let written = write(&answer);
    match parse_response(written.as_bytes(), &Limits::REQUEST) {
        _ if !is_xml(&written) => {}
        Ok(again) => assert_eq!(write(&again), lines(&written)),
        Err(error) => panic!("{answer:?} was written as {written:?}: {error}"),
    }
});

fn write(answer: &Result<Value, Fault>) -> String {
    match answer {
        Ok(value) => write_response(value),
        Err(fault) => write_fault(fault),
    }
}

/// Base64 brings any byte into a string, and Python's writer, which ours follows, writes it as it is.
fn is_xml(written: &str) -> bool {
    !written.chars().any(|c| matches!(c, '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\u{fffe}' | '\u{ffff}'))
}

/// Ends of lines as a reader of XML takes them: Python's writer, which ours follows, does not protect a `\r`.
fn lines(written: &str) -> String {
    written.replace("\r\n", "\n").replace('\r', "\n")
}
