//! The spawner as a process of its own, `millrace spawner`: nodes of its user come over a socket
//! with a name, and each is served by a fork that ends with its connection.

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect, getsockopt,
    listen, socket,
};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, dup2_stdin, geteuid, getpid, getppid};

use super::guardian::Ground;
use super::serve::{clone, own, reap_by_itself, serve};

/// Nodes that may wait to be served; one is what there is.
const WAITING_MAX: i32 = 16;

/// A socket at which nodes ask for workers.
#[derive(Debug)]
pub struct SpawnerListener {
    socket: OwnedFd,
    path: PathBuf,
}

impl SpawnerListener {
    /// Listens at `path`, for processes of this user alone. A socket that nobody listens at any more
    /// is replaced.
    ///
    /// # Errors
    ///
    /// The system's; `AddrInUse` where another spawner listens, or the file is no socket.
    pub fn bind(path: &Path) -> io::Result<Self> {
        clear(path)?;
        let socket = sequenced()?;
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixAddr::new(path).and_then(|address| bind(socket.as_raw_fd(), &address));
        umask(before);
        bound?;
        listen(&socket, Backlog::new(WAITING_MAX)?)?;
        let path = path.canonicalize()?;
        Ok(Self { socket, path })
    }

    /// Serves nodes until the process is ended. It must have no second thread.
    ///
    /// # Errors
    ///
    /// When it cannot take connections any more.
    pub fn serve(&self) -> io::Result<()> {
        reap_by_itself();
        loop {
            match accept4(self.socket.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
                Ok(raw) => self.welcome(own(raw)),
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Gives a node a fork of this process: what it has started ends with the connection, because
    /// the fork then ends and its guardians hear of that.
    fn welcome(&self, node: OwnedFd) {
        let user = geteuid().as_raw();
        let peer = match getsockopt(&node, PeerCredentials) {
            Ok(peer) if peer.uid() == user => peer,
            Ok(peer) => {
                let (pid, uid) = (peer.pid(), peer.uid());
                return say(4, &format!("process {pid} of user {uid} is no node of user {user}"));
            }
            Err(error) => return say(4, &format!("cannot tell who asks: {error}")),
        };
        let parent = getpid();
        match clone(Ground::Plain) {
            Ok(None) => std::process::exit(self.attend(parent, node)),
            Ok(Some(_)) => say(6, &format!("the node of process {} is here", peer.pid())),
            Err(error) => say(3, &format!("cannot serve process {}: {error}", peer.pid())),
        }
    }

    /// What the fork does. Gives its exit status.
    fn attend(&self, parent: Pid, node: OwnedFd) -> i32 {
        let ready = prctl::set_pdeathsig(Signal::SIGKILL).and_then(|()| dup2_stdin(&node));
        if ready.is_err() || getppid() != parent {
            return 1;
        }
        drop(node);
        serve(self.path.parent());
        0
    }
}

/// Connects to the spawner that listens at `path`.
pub(super) fn reach(path: &Path) -> io::Result<OwnedFd> {
    let socket = sequenced()?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}

fn sequenced() -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
}

/// Takes a socket away whose listener is gone.
fn clear(path: &Path) -> io::Result<()> {
    let there = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        there => there?,
    };
    let is_stale = there.file_type().is_socket()
        && reach(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if is_stale { fs::remove_file(path) } else { Err(io::ErrorKind::AddrInUse.into()) }
}

/// A line for the system's journal, or whoever reads standard error, with its severity in front.
fn say(severity: u8, text: &str) {
    // Nobody else could be told.
    drop(writeln!(io::stderr(), "<{severity}>{text}"));
}
