//! A mail server that takes everything and keeps it.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Listens on loopback until the test process ends.
#[derive(Debug)]
pub struct MailServer {
    port: u16,
    mails: Arc<Mutex<Vec<String>>>,
}

impl MailServer {
    /// # Panics
    /// When nothing can be listened on.
    #[allow(clippy::new_without_default)]
    pub fn new() -> MailServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let port = listener.local_addr().expect("it is bound").port();
        let mails = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&mails);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let kept = Arc::clone(&kept);
                thread::spawn(move || receive(&client, &kept));
            }
        });
        MailServer { port, mails }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What came so far, with headers, in order.
    pub fn mails(&self) -> Vec<String> {
        self.mails.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One client's conversation; any mistake of it ends it.
fn receive(mut client: &TcpStream, kept: &Mutex<Vec<String>>) -> Option<()> {
    let mut lines = BufReader::new(client).lines();
    client.write_all(b"220 test\r\n").ok()?;
    loop {
        let line = lines.next()?.ok()?.to_ascii_uppercase();
        let answer = match line.split_whitespace().next()? {
            "DATA" => {
                client.write_all(b"354 go on\r\n").ok()?;
                let mail: Vec<String> =
                    lines.by_ref().map_while(Result::ok).take_while(|line| line != ".").collect();
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(mail.join("\n"));
                "250 kept"
            }
            "QUIT" => {
                client.write_all(b"221 bye\r\n").ok()?;
                return Some(());
            }
            _ => "250 fine",
        };
        client.write_all(format!("{answer}\r\n").as_bytes()).ok()?;
    }
}
