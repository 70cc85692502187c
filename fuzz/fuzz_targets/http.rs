//! What the agent itself makes of a request: the `Authorization` header, the respelled head of an answer, the
//! query of a link, the body of a form, and whether who sent it may act.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../agent/http.rs"]
mod http;

fuzz_target!(|data: &[u8]| {
    http::credentials(data);
    http::answer(data);
    http::pages::request(data);
});
