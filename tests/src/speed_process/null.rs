//! The least that a Runtime API can be: it gives every `next` the same event at once and takes
//! every answer, one write each. What a client reaches here is the client's own.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use crate::promise::{During, NotShown};

/// Gives no event by itself: [`NullServer::give`] says how many.
#[derive(Debug)]
pub(super) struct NullServer {
    /// Where it listens.
    pub(super) address: SocketAddr,
    left: Arc<(Mutex<u64>, Condvar)>,
}

impl NullServer {
    /// Listens; `event` is its headers beyond those of HTTP, and its body.
    pub(super) fn start(headers: &str, body: &str) -> Result<Self, NotShown> {
        let listener = TcpListener::bind("127.0.0.1:0").during("listen")?;
        let address = listener.local_addr().during("listen")?;
        let left: Arc<(Mutex<u64>, Condvar)> = Arc::default();
        let event = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             {headers}\r\n{body}",
            body.len()
        );
        let given = Arc::clone(&left);
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let (given, event) = (Arc::clone(&given), event.clone());
                // A client that hangs up ends its thread.
                std::thread::spawn(move || drop(serve(connection, &given, event.as_bytes())));
            }
        });
        Ok(Self { address, left })
    }

    /// Hands out so many events more.
    pub(super) fn give(&self, events: u64) {
        if let Ok(mut left) = self.left.0.lock() {
            *left += events;
        }
        self.left.1.notify_all();
    }
}

fn serve(
    mut connection: TcpStream,
    left: &(Mutex<u64>, Condvar),
    event: &[u8],
) -> std::io::Result<()> {
    const TAKEN: &[u8] = b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\n\
        Content-Length: 16\r\n\r\n{\"status\":\"OK\"}\n";
    connection.set_nodelay(true)?;
    let (mut chunk, mut read) = (vec![0; 64 << 10], Vec::new());
    loop {
        while let Some(length) = request(&read) {
            let is_next = read.starts_with(b"GET");
            read.drain(..length);
            if is_next {
                let Ok(guard) = left.0.lock() else { return Ok(()) };
                let Ok(mut guard) = left.1.wait_while(guard, |it| *it == 0) else { return Ok(()) };
                *guard -= 1;
                drop(guard);
            }
            connection.write_all(if is_next { event } else { TAKEN })?;
        }
        match connection.read(&mut chunk)? {
            0 => return Ok(()),
            length => read.extend_from_slice(&chunk[..length]),
        }
    }
}

/// How long the request at the beginning is, once all of it is there.
fn request(read: &[u8]) -> Option<usize> {
    let find = |text: &[u8]| read.windows(text.len()).position(|it| it == text);
    let end = find(b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&read[..end]).to_lowercase();
    if head.contains("transfer-encoding: chunked") {
        return read[end..].windows(5).position(|it| it == b"0\r\n\r\n").map(|at| end + at + 5);
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let whole = end + length.and_then(|it| it.trim().parse::<usize>().ok()).unwrap_or(0);
    (whole <= read.len()).then_some(whole)
}
