//! One worker process as the node holds it: its pipes, its Runtime API, its end.

use std::io::{self, IoSliceMut};
use std::net::TcpListener as StdTcpListener;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::unix::pipe;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use super::api::{Api, serve_connection, serve_port};
use super::memory::{Group, resident_bytes};
use super::spawner::{Order, Report, Spawner, Stage, own};
use crate::logs::Output;

/// Read from a worker's output at a time, bytes.
const CHUNK: usize = 16 << 10;
/// The signal that ends what runs out of memory.
const KILL: i32 = nix::sys::signal::Signal::SIGKILL as i32;
/// How long a killed worker's guardian is waited for before its folder is taken away anyway.
const BURIAL_MAX: Duration = Duration::from_secs(5);

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It never ran.
    NotStarted(Stage, i32),
    Status(i32),
    Signal(i32),
    /// The kernel killed it for its memory.
    OutOfMemory,
    /// Its guardian is gone, and it with it.
    Unknown,
}

/// A worker. Dropping it kills the process and everything that it started.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) api: Api,
    pub(crate) out: Arc<Output>,
    exit: watch::Receiver<Option<Exit>>,
    guardian: Arc<OnceLock<u32>>,
    pipes: Arc<Pipes>,
    is_grouped: bool,
    /// Closed when the worker is dropped: whoever holds the other end kills the process.
    _alive: oneshot::Sender<()>,
    _tasks: JoinSet<()>,
}

/// What a worker is started with.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) order: Order,
    pub(crate) scratch: TempDir,
    pub(crate) group: Option<Group>,
    pub(crate) out: Output,
    /// Counts those that are not buried yet.
    pub(crate) living: Arc<()>,
}

/// The node's ends of stdout and stderr.
#[derive(Debug)]
struct Pipes {
    out: Pipe,
    error: Pipe,
}

#[derive(Debug)]
struct Pipe {
    receiver: pipe::Receiver,
    /// One reader at a time, so that lines come in order.
    turn: Mutex<()>,
    is_error: bool,
}

impl Worker {
    /// Has the process started. That it runs is known when it asks for its first event.
    pub(crate) fn start(spawner: &Spawner, mut setup: Setup) -> io::Result<Self> {
        let api = Api::new();
        let out = Arc::new(setup.out);
        let mut tasks = JoinSet::new();
        let (ours, control) = StdUnixStream::pair()?;
        let (stdout, stdout_end) = io::pipe()?;
        let (stderr, stderr_end) = io::pipe()?;
        let (stdout_end, stderr_end) = (OwnedFd::from(stdout_end), OwnedFd::from(stderr_end));
        let mut descriptors: Vec<BorrowedFd<'_>> =
            vec![control.as_fd(), stdout_end.as_fd(), stderr_end.as_fd()];
        // The API's connection where the worker has it from birth, else that of its listener.
        let (server, client) = StdUnixStream::pair()?;
        descriptors.push(client.as_fd());
        server.set_nonblocking(true)?;
        let server = UnixStream::from_std(server)?;
        if setup.order.by_port {
            tasks.spawn(serve_received(api.clone(), server));
        } else {
            tasks.spawn(serve_connection(api.clone(), server));
        }
        let group = setup.group;
        let is_grouped = group.is_some();
        setup.order.groups.extend(group.iter().flat_map(|group| group.folders()));
        if let Err(error) = spawner.spawn(&setup.order, &descriptors) {
            group.iter().for_each(Group::remove);
            return Err(error);
        }
        let pipe = |reader: io::PipeReader, is_error| -> io::Result<Pipe> {
            let receiver = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
            Ok(Pipe { receiver, turn: Mutex::default(), is_error })
        };
        let pipes = Arc::new(Pipes { out: pipe(stdout, false)?, error: pipe(stderr, true)? });
        for is_error in [false, true] {
            let (pipes, out) = (Arc::clone(&pipes), Arc::clone(&out));
            tasks.spawn(async move { pipes.of(is_error).follow(&out).await });
        }
        ours.set_nonblocking(true)?;
        let control = UnixStream::from_std(ours)?;
        let (ended, exit) = watch::channel(None);
        let (alive, dropped) = oneshot::channel();
        let guardian: Arc<OnceLock<u32>> = Arc::default();
        // Not one of the tasks: it buries the worker after it was dropped.
        drop(tokio::spawn(bury(Burial {
            control,
            dropped,
            ended,
            guardian: Arc::clone(&guardian),
            scratch: setup.scratch,
            living: setup.living,
            group,
        })));
        Ok(Self { api, out, exit, guardian, pipes, is_grouped, _alive: alive, _tasks: tasks })
    }

    /// How it ended, if it has.
    pub(crate) fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Waits for its end.
    pub(crate) async fn exited(&self) -> Exit {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or(Exit::Unknown),
            Err(_gone) => Exit::Unknown,
        }
    }

    /// The process that watches over it, once there is one.
    pub(crate) fn guardian(&self) -> Arc<OnceLock<u32>> {
        Arc::clone(&self.guardian)
    }

    /// What it and all that it started have in memory; `None` while nobody knows.
    pub(crate) fn resident_bytes(&self) -> Option<u64> {
        resident_bytes(*self.guardian.get()?)
    }

    /// Whether the kernel itself keeps its memory within the limit.
    pub(crate) fn is_grouped(&self) -> bool {
        self.is_grouped
    }

    /// Takes what it has written so far: what an invocation wrote is there when it has answered.
    pub(crate) fn take_output(&self) {
        self.pipes.out.take(&self.out);
        self.pipes.error.take(&self.out);
    }
}

impl Pipes {
    fn of(&self, is_error: bool) -> &Pipe {
        if is_error { &self.error } else { &self.out }
    }
}

impl Pipe {
    /// Reads to the end, which is when the last process that has the other end closes it.
    async fn follow(&self, out: &Output) {
        while self.receiver.readable().await.is_ok() {
            if !self.take(out) {
                return;
            }
        }
    }

    /// Reads what is there, at most what a pipe holds; false at the end.
    fn take(&self, out: &Output) -> bool {
        let _turn = self.turn.lock().expect("nothing panics while holding it");
        let mut chunk = [0; CHUNK];
        for _part in 0..8 {
            match self.receiver.try_read(&mut chunk) {
                Ok(0) => return false,
                Ok(length) => out.write(&chunk[..length], self.is_error),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_error) => return false,
            }
        }
        true
    }
}

/// Serves the API on the port that the guardian listens at, once it has sent the listener.
async fn serve_received(api: Api, socket: UnixStream) {
    let received = socket.async_io(Interest::READABLE, || receive_listener(socket.as_raw_fd()));
    match received.await.and_then(TcpListener::from_std) {
        Ok(listener) => serve_port(api, listener).await,
        // The guardian reports why it has none.
        Err(error) => tracing::debug!(%error, "no port for the Runtime API"),
    }
}

fn receive_listener(socket: RawFd) -> io::Result<StdTcpListener> {
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut byte = [0; 1];
    let mut slices = [IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket, &mut slices, Some(&mut space), flags)?;
    let sent = message.cmsgs()?.find_map(|it| match it {
        ControlMessageOwned::ScmRights(raw) => raw.first().copied(),
        _ => None,
    });
    let raw = sent.ok_or(io::ErrorKind::UnexpectedEof)?;
    let listener = StdTcpListener::from(own(raw));
    listener.set_nonblocking(true)?;
    Ok(listener)
}

struct Burial {
    control: UnixStream,
    dropped: oneshot::Receiver<()>,
    ended: watch::Sender<Option<Exit>>,
    guardian: Arc<OnceLock<u32>>,
    scratch: TempDir,
    living: Arc<()>,
    group: Option<Group>,
}

/// Follows a worker to its end, has it killed when it is dropped before, and clears up behind it.
async fn bury(mut burial: Burial) {
    let mut killed_at = None;
    loop {
        let mut bytes = [0; Report::BYTES];
        let patience = async {
            match killed_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let report = tokio::select! {
            read = burial.control.read_exact(&mut bytes) => {
                read.ok().and_then(|_| Report::decode(bytes))
            }
            _dropped = &mut burial.dropped, if killed_at.is_none() => {
                let raw = burial.control.as_raw_fd();
                // The guardian sees the end of the conversation, and still says how it ended.
                nix::sys::socket::shutdown(raw, nix::sys::socket::Shutdown::Write).ok();
                killed_at = Some(tokio::time::Instant::now() + BURIAL_MAX);
                continue;
            }
            () = patience => None,
        };
        let exit = match report {
            Some(Report::Guarded(pid)) => {
                burial.guardian.set(pid).ok();
                continue;
            }
            Some(Report::Failed(stage, error)) => Exit::NotStarted(stage, error),
            Some(Report::Exited(status)) => Exit::Status(status),
            // Asked before the group is taken away.
            Some(Report::Signaled(KILL))
                if burial.group.as_ref().is_some_and(|group| group.was_exceeded()) =>
            {
                Exit::OutOfMemory
            }
            Some(Report::Signaled(signal)) => Exit::Signal(signal),
            None => Exit::Unknown,
        };
        burial.ended.send_replace(Some(exit));
        break;
    }
    // The kernel closes the other end when the guardian is gone: nothing of the worker is left.
    let mut rest = [0; 1];
    let gone = burial.control.read(&mut rest);
    drop(tokio::time::timeout(BURIAL_MAX, gone).await);
    let (scratch, group) = (burial.scratch, burial.group);
    let cleared = tokio::task::spawn_blocking(move || {
        if let Some(group) = group {
            group.remove();
        }
        scratch.close()
    });
    if let Ok(Err(error)) = cleared.await {
        tracing::warn!(%error, "could not clear up behind a worker");
    }
    drop(burial.living);
}
