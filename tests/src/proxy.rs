//! A network cable: carries TCP connections to a port until it is cut, and again once it is mended.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Its threads end with the test process.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    cable: Arc<Cable>,
}

#[derive(Debug, Default)]
struct Cable {
    cut: AtomicBool,
    /// Both ends of every connection carried so far.
    streams: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Carries connections to 127.0.0.1:`target`.
    ///
    /// # Panics
    /// When there is no port to listen on.
    pub fn to(target: u16) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let cable = Arc::new(Cable::default());
        let carrier = Arc::clone(&cable);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Dropping the client closes it: a refused connection, near enough.
                carrier.carry(client, target).ok();
            }
        });
        Proxy { port, cable }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends all connections, and every new one at once.
    pub fn cut(&self) {
        self.cable.cut.store(true, Ordering::SeqCst);
        for stream in self.cable.streams.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            stream.shutdown(Shutdown::Both).ok();
        }
    }

    pub fn mend(&self) {
        self.cable.cut.store(false, Ordering::SeqCst);
    }
}

impl Cable {
    fn carry(&self, client: TcpStream, target: u16) -> std::io::Result<()> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at with the list held, so that no connection slips in behind a cut.
        if self.cut.load(Ordering::SeqCst) {
            return Ok(());
        }
        let server = TcpStream::connect(("127.0.0.1", target))?;
        streams.extend([client.try_clone()?, server.try_clone()?]);
        let (from, to) = (client.try_clone()?, server.try_clone()?);
        thread::spawn(move || copy(from, to));
        thread::spawn(move || copy(server, client));
        Ok(())
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    to.shutdown(Shutdown::Write).ok();
}
