//! The node's end of the spawner: starts it, gives it orders, starts another if it is gone.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};

use super::order::{ORDER_BYTES_MAX, Order};

/// A running spawner. Dropping it ends it, and with it every worker that is still there.
#[derive(Debug)]
pub struct Spawner {
    program: PathBuf,
    /// The words that make the program a spawner.
    words: Vec<String>,
    running: Mutex<Running>,
}

#[derive(Debug)]
struct Running {
    socket: OwnedFd,
    child: Child,
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
        let program = program.to_owned();
        let running = Mutex::new(Running::start(&program, &words)?);
        Ok(Self { program, words, running })
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
                tracing::warn!("the spawner was gone, another one is started");
                // The old one is no child that anybody waits for any more.
                drop(running.child.kill().and_then(|()| running.child.wait()));
                *running = Running::start(&self.program, &self.words)?;
                running.send(&bytes, descriptors)?;
            }
            sent => sent?,
        }
        Ok(())
    }

    /// The spawner's process id, for tests that kill it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running.lock().expect("nothing panics while holding it").child.id()
    }
}

impl Running {
    fn start(program: &Path, words: &Vec<String>) -> io::Result<Self> {
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
        Ok(Self { socket: ours, child })
    }

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
        drop(self.child.wait());
    }
}
