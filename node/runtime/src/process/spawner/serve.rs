//! The spawner's process: takes orders until its socket closes, and makes a guardian for each.

use std::io::IoSliceMut;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::{Pid, getegid, geteuid, write};

use super::guardian::{Ground, guard, own_mounts};
use super::order::{ORDER_BYTES_MAX, Order, Report, Stage};

/// An order's descriptors at most: control, stdout, stderr, API.
const DESCRIPTORS_MAX: usize = 4;

/// Serves as a spawner on the socket that is this process's stdin, until the node closes it.
#[must_use]
pub fn spawner_main() -> ExitCode {
    serve(None)
}

/// The same, with a folder that workers shall find empty.
pub(super) fn serve(hidden: Option<&Path>) -> ExitCode {
    // What the node's own parent left open is no worker's business; 2 stays for messages.
    close_from(3);
    reap_by_itself();
    let ground = probe(hidden);
    let mut bytes = vec![0; ORDER_BYTES_MAX];
    loop {
        match receive(&mut bytes) {
            Ok(None) => return ExitCode::SUCCESS,
            Ok(Some((order, descriptors))) => start(ground, hidden, order, descriptors),
            Err(Errno::EINTR) => {}
            Err(_broken) => return ExitCode::FAILURE,
        }
    }
}

/// The next order; `None` when the node has gone.
fn receive(bytes: &mut [u8]) -> Result<Option<(Order, Vec<OwnedFd>)>, Errno> {
    let mut space = nix::cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    let mut slices = [IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(0, &mut slices, Some(&mut space), flags)?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            descriptors.extend(raw.into_iter().map(own));
        }
    }
    let length = message.bytes;
    if length == 0 {
        return Ok(None);
    }
    // The node is the only one who can write here; what it cannot have written ends the spawner.
    let order = serde_json::from_slice(&bytes[..length]).map_err(|_error| Errno::EPROTO)?;
    Ok(Some((order, descriptors)))
}

/// Makes a guardian, and tells the node its process id.
fn start(ground: Ground, hidden: Option<&Path>, order: Order, mut descriptors: Vec<OwnedFd>) {
    if descriptors.is_empty() {
        return;
    }
    let control = descriptors.remove(0);
    let report = match clone(ground) {
        Ok(None) => guard(ground, hidden, order, &control, descriptors),
        Ok(Some(guardian)) => Report::Guarded(guardian.as_raw().cast_unsigned()),
        Err(error) => Report::Failed(Stage::Fork, error as i32),
    };
    // A node that does not listen any more has closed the socket, and the guardian sees that.
    write(&control, &report.encode()).ok();
}

/// Forks, into a process and mount namespace where that is possible. `None` is the child.
#[expect(unsafe_code, reason = "makes a process")]
pub(super) fn clone(ground: Ground) -> Result<Option<Pid>, Errno> {
    let flags = match ground {
        Ground::Namespace => libc::CLONE_NEWPID | libc::CLONE_NEWNS,
        Ground::Own(..) => libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNS,
        Ground::Plain => 0,
    };
    let arguments = [libc::c_long::from(flags | libc::SIGCHLD), 0, 0, 0, 0];
    let [flags, stack, parent, child, tls] = arguments;
    // SAFETY: without CLONE_VM and with a null stack this is a fork: the child goes on on a copy of
    // everything. This process has one thread, so that no lock is held by a thread that the child
    // lacks, and all of the standard library may be used in it. glibc's own fork cannot be asked
    // for namespaces, and to unshare them before would bind all later children to the first.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, stack, parent, child, tls) };
    let pid = Errno::result(pid)?;
    Ok((pid != 0).then(|| Pid::from_raw(pid as libc::pid_t)))
}

/// Which namespaces guardians can have here: tried once, with a guardian that has no worker.
fn probe(hidden: Option<&Path>) -> Ground {
    let (user, group) = (geteuid(), getegid());
    let mut grounds = vec![Ground::Namespace];
    // Root in a user namespace would have all its capabilities there again once it runs a program.
    if !user.is_root() {
        grounds.push(Ground::Own(user, group));
    }
    take_children();
    let works = |ground: &Ground| match clone(*ground) {
        Ok(None) => {
            let works = own_mounts(*ground, hidden).is_ok();
            std::process::exit(i32::from(!works));
        }
        Ok(Some(child)) => matches!(
            nix::sys::wait::waitpid(child, None),
            Ok(nix::sys::wait::WaitStatus::Exited(_, 0))
        ),
        Err(_not_permitted) => false,
    };
    let ground = grounds.into_iter().find(works).unwrap_or(Ground::Plain);
    reap_by_itself();
    ground
}

/// Lets the kernel bury children that nobody waits for.
#[expect(unsafe_code, reason = "sets a signal's disposition")]
pub(super) fn reap_by_itself() {
    // SAFETY: no handler runs, so that none can run at a bad time.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.ok();
}

/// Undoes [`reap_by_itself`]: children wait to be asked for their status.
#[expect(unsafe_code, reason = "sets a signal's disposition")]
pub(super) fn take_children() {
    // SAFETY: no handler runs, so that none can run at a bad time.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }.ok();
}

#[expect(unsafe_code, reason = "takes a descriptor that came as a number")]
pub(crate) fn own(raw: RawFd) -> OwnedFd {
    // SAFETY: callers have just got the number from the kernel, in a control message or as a
    // connection: the descriptor was made for this process and nobody else knows of it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

/// Closes every descriptor from this number on.
#[expect(unsafe_code, reason = "closes descriptors by number")]
fn close_from(first: u32) {
    // SAFETY: the first thing that the process does: nothing of its own is open yet.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    debug_assert_eq!(closed, 0, "there since Linux 5.9");
}
