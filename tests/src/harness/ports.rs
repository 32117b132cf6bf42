//! Ports for processes that are started again at the same address. They lie below those that the
//! kernel gives to whoever asks for any, so that nobody gets one while its process is down.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::promise::{NotShown, broken};

/// Linux gives those from 32,768 on to whoever asks for any (`ip_local_port_range`).
const FIRST: u32 = 20_000;
const COUNT: u32 = 12_000;

/// How many were tried in this process.
static TRIED: AtomicU32 = AtomicU32::new(0);

/// Ports in a row that nobody uses on loopback, neither of TCP nor of UDP; each time others.
///
/// # Errors
///
/// When there are none.
pub fn free<const N: usize>() -> Result<[u16; N], NotShown> {
    // Processes at the same time begin far from each other.
    let start = std::process::id().wrapping_mul(397);
    for _try in 0..COUNT {
        let tried = TRIED.fetch_add(N as u32, Ordering::Relaxed);
        let first = FIRST + start.wrapping_add(tried) % COUNT;
        let ports = std::array::from_fn(|at| first as u16 + at as u16);
        if ports.iter().all(|port| is_free(*port)) {
            return Ok(ports);
        }
    }
    Err(broken(format!("no {N} free ports in a row")))
}

fn is_free(port: u16) -> bool {
    let place = (Ipv4Addr::LOCALHOST, port);
    TcpListener::bind(place).is_ok() && UdpSocket::bind(place).is_ok()
}
