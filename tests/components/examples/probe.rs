//! Looks at what an instance is given, and leans on it: each value asks for one thing.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use millrace_guest::{Failure, Level, Outputs, Record};

millrace_guest::handler!(probe);

/// Shows whether an instance was there before.
static CALLS: AtomicU32 = AtomicU32::new(0);
static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn probe(record: &Record<'_>, out: &mut Outputs<'_>) -> Result<(), Failure> {
    let said = match record.value().unwrap_or_default() {
        b"count" => CALLS.fetch_add(1, Ordering::Relaxed).to_string(),
        b"holes" => holes(),
        b"recurse" => recurse(record.offset().unsigned_abs()).to_string(),
        b"calls" => {
            (0..1_000_000).for_each(|_| millrace_guest::log(Level::Info, "one of a million"));
            "called".to_owned()
        }
        b"noise" => {
            (0..20_000).for_each(|line| println!("line {line} of far too many"));
            "printed".to_owned()
        }
        b"sleep" => {
            std::thread::sleep(std::time::Duration::from_secs(60));
            "slept".to_owned()
        }
        b"hoard" => {
            let denied = Vec::<u8>::new().try_reserve_exact(256 << 20).is_err();
            format!("denied {denied}")
        }
        b"trap" => panic!("a line\nand \u{1b}[31manother"),
        b"exit" => std::process::exit(3),
        b"reach" => reach(),
        other => String::from_utf8_lossy(other).into_owned(),
    };
    out.push(said.as_bytes());
    Ok(())
}

/// Leaves free places of every size between taken ones, so that the answer is put into one.
fn holes() -> String {
    let mut all: Vec<Vec<u8>> = (4..400).map(|words| vec![7; words * 8]).collect();
    let mut keep = false;
    all.retain(|_| {
        keep = !keep;
        keep
    });
    KEPT.lock().expect("one thread").append(&mut all);
    "holes".to_owned()
}

#[expect(unconditional_recursion, reason = "the stack's end is what it looks for")]
fn recurse(depth: u64) -> u64 {
    let mut frame = [depth; 64];
    std::hint::black_box(&mut frame);
    frame[1].wrapping_add(recurse(depth + 1)) ^ frame[2]
}

/// Tries everything that a function is not given.
fn reach() -> String {
    let file = std::fs::read("/etc/passwd").is_ok() || std::fs::write("left", "behind").is_ok();
    let folder = std::fs::read_dir("/").is_ok() || std::fs::read_dir(".").is_ok();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 80));
    let socket = std::net::TcpStream::connect(address).is_ok()
        || std::net::UdpSocket::bind("127.0.0.1:0").is_ok()
        || std::net::TcpListener::bind("127.0.0.1:0").is_ok();
    let name = std::net::ToSocketAddrs::to_socket_addrs("localhost:80").is_ok();
    let stdin = std::io::Read::read(&mut std::io::stdin(), &mut [0]).is_ok_and(|it| it != 0);
    let (args, vars) = (std::env::args().count(), std::env::vars().count());
    let clock = std::time::SystemTime::now() > std::time::UNIX_EPOCH;
    format!(
        "file {file} folder {folder} socket {socket} name {name} stdin {stdin} args {args} \
         vars {vars} clock {clock}"
    )
}
