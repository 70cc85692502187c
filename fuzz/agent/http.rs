//! The agent's own files that read what HTTP clients send, with what must hold for any bytes. The agent is a program
//! and can't be linked; the modules are nested as they are there.

use fleetvisor_model::config::Credentials;

#[path = "../../agent/src/http/auth.rs"]
mod auth;
#[path = "../../agent/src/http/head.rs"]
mod head;
#[path = "pages.rs"]
pub mod pages;

/// `data` is the value of an `Authorization` header.
pub fn credentials(data: &[u8]) {
    let wanted = Credentials { username: "user".to_owned(), password: "se:cret".to_owned() };
    let hashed = Credentials {
        username: "user".to_owned(),
        password: "{SHA}82ab876d1387bfafe46cc1c8a2ef074eae50cb1d".to_owned(),
    };
    let (plain, hashed) = (auth::check(&wanted, Some(data)), auth::check(&hashed, Some(data)));
    assert!(plain != auth::Verdict::Welcome || hashed != auth::Verdict::Welcome);
    if let auth::Verdict::Unsupported(scheme) = plain {
        assert!(scheme.bytes().all(|byte| (b' '..0x7f).contains(&byte)), "{scheme:?}");
    }
}

/// `data` is an answer.
pub fn answer(data: &[u8]) {
    for drop_close in [false, true] {
        if let Some((head, length)) = head::rewrite(data, drop_close) {
            assert!(head.len() <= length && length <= data.len());
            assert!(head.ends_with(b"\r\n\r\n") || head.ends_with(b"\r\n"));
            assert!(data[..length].ends_with(b"\r\n\r\n"));
        }
    }
}
