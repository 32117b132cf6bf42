//! The node's end of the spawner: starts it or connects to it, gives it orders, and has another if
//! it is gone.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use nix::errno::Errno;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, getsockopt, sendmsg, socketpair,
};

use super::listen::reach;
use super::order::{ORDER_BYTES_MAX, Order};

/// A running spawner. Dropping it ends what it does for this node, and with it every worker that is
/// still there.
#[derive(Debug)]
pub struct Spawner {
    way: Way,
    running: Mutex<Running>,
}

/// How another one is had.
#[derive(Debug)]
enum Way {
    /// As a child: the program, and the words that make it a spawner.
    Child(PathBuf, Vec<String>),
    /// It listens here.
    Socket(PathBuf),
}

#[derive(Debug)]
struct Running {
    socket: OwnedFd,
    /// `None` where somebody else started it.
    child: Option<Child>,
}

impl Spawner {
    /// Starts `program` with these words, which must lead to
    /// [`spawner_main`](super::spawner_main). A node calls it before it has a second thread.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn launch(program: &Path, words: &[&str]) -> io::Result<Self> {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Self::by(Way::Child(program.to_owned(), words))
    }

    /// Uses the spawner that listens at `path`, a process of its own.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn reach(path: &Path) -> io::Result<Self> {
        Self::by(Way::Socket(path.to_owned()))
    }

    fn by(way: Way) -> io::Result<Self> {
        let running = Mutex::new(way.start()?);
        Ok(Self { way, running })
    }

    /// Has a worker started. Whether that succeeds is said on the control socket, the first of
    /// `descriptors`.
    pub(crate) fn spawn(&self, order: &Order, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(order).expect("an order is plain data");
        if ORDER_BYTES_MAX < bytes.len() {
            let text = format!("its command and environment have {} bytes", bytes.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let mut running = self.running.lock().expect("nothing panics while holding it");
        match running.send(&bytes, descriptors) {
            Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => {
                tracing::warn!("the spawner was gone, another one is used");
                if let Some(child) = &mut running.child {
                    // The old one is no child that anybody waits for any more.
                    drop(child.kill().and_then(|()| child.wait()));
                }
                *running = self.way.start()?;
                running.send(&bytes, descriptors)?;
            }
            sent => sent?,
        }
        Ok(())
    }

    /// The spawner's process id, for tests that kill it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        let running = self.running.lock().expect("nothing panics while holding it");
        let peer = || getsockopt(&running.socket, PeerCredentials).map(|it| it.pid());
        match &running.child {
            Some(child) => child.id(),
            None => peer().unwrap_or_default().cast_unsigned(),
        }
    }
}

impl Way {
    fn start(&self) -> io::Result<Running> {
        let (program, words) = match self {
            Self::Child(program, words) => (program, words),
            Self::Socket(path) => {
                let socket = reach(path)?;
                return Ok(Running { socket, child: None });
            }
        };
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let child = Command::new(program)
            .args(words)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            // A Ctrl-C of the terminal is for the node, which then ends its workers.
            .process_group(0)
            .spawn()?;
        Ok(Running { socket: ours, child: Some(child) })
    }
}

impl Running {
    fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let raw: Vec<RawFd> = descriptors.iter().map(|it| it.as_raw_fd()).collect();
        let (slices, rights) = ([IoSlice::new(bytes)], [ControlMessage::ScmRights(&raw)]);
        let flags = MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(self.socket.as_raw_fd(), &slices, &rights, flags, None).map(drop)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its end of the conversation: the spawner leaves at once.
        nix::sys::socket::shutdown(self.socket.as_raw_fd(), nix::sys::socket::Shutdown::Both).ok();
        if let Some(child) = &mut self.child {
            drop(child.wait());
        }
    }
}
