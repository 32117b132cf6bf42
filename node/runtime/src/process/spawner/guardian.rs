//! The guardian of one worker: starts it, waits for its end or for the node's word, kills what is
//! left of it, and says how it ended.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::io::IoSlice;
use std::net::TcpListener;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, kill, killpg, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, chdir, execve, getpid, pipe2, read, setsid, write};

use super::order::{Order, Report, Stage};
use super::serve::{clone, take_children};

/// What guardians stand on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ground {
    /// A process namespace of their own.
    Namespace,
    /// The same inside a user namespace, where this user and group alone are known.
    Own(Uid, Gid),
    /// None: they adopt what their workers leave behind.
    Plain,
}

impl Ground {
    /// Whether the guardian is the first process of a namespace.
    fn has_namespace(self) -> bool {
        self != Self::Plain
    }
}

/// Guards a worker to its end. `hidden` is a folder that the worker shall find empty. Never returns.
pub(super) fn guard(
    ground: Ground,
    hidden: Option<&Path>,
    mut order: Order,
    control: &OwnedFd,
    mut descriptors: Vec<OwnedFd>,
) -> ! {
    take_children();
    let signals = SigSet::from_iter([Signal::SIGCHLD, Signal::SIGTERM]);
    let prepared = prepare(ground, hidden, &order, &signals);
    let report = prepared.and_then(|signals| {
        if order.by_port {
            listen(&mut order, &mut descriptors).map_err(|error| (Stage::Prepare, error))?;
        }
        let worker = start(&order, &descriptors)?;
        // The pipes' ends are the worker's alone from here on.
        drop(descriptors);
        if ground.has_namespace() {
            join_all(&order.groups).map_err(|error| (Stage::Prepare, error))?;
        }
        Ok(watch(&signals, control, worker))
    });
    let report = report.unwrap_or_else(|(stage, error)| Report::Failed(stage, error as i32));
    kill_rest(ground);
    // Nobody listens when the node has gone.
    write(control, &report.encode()).ok();
    std::process::exit(0)
}

/// Makes this process what a guardian is; gives what its signals come from.
fn prepare(
    ground: Ground,
    hidden: Option<&Path>,
    order: &Order,
    signals: &SigSet,
) -> Result<SignalFd, (Stage, Errno)> {
    let failed = |error| (Stage::Prepare, error);
    let death = match ground {
        // The end of a namespace's first process is the end of all of it.
        Ground::Namespace | Ground::Own(..) => Signal::SIGKILL,
        Ground::Plain => Signal::SIGTERM,
    };
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(signals), None).map_err(failed)?;
    prctl::set_pdeathsig(death).map_err(failed)?;
    match ground {
        Ground::Plain => prctl::set_child_subreaper(true).map_err(failed)?,
        _ => own_mounts(ground, hidden).map_err(failed)?,
    }
    if ground == Ground::Plain {
        for group in &order.groups {
            // "0" is whoever writes it, in whatever namespace.
            let joined = fs::write(format!("{group}/cgroup.procs"), "0");
            joined.map_err(|error| failed(errno(&error)))?;
        }
    }
    // The socket for orders is not this process's.
    let null =
        open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).map_err(failed)?;
    nix::unistd::dup2_stdin(&null).map_err(failed)?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    SignalFd::with_flags(signals, flags).map_err(failed)
}

/// How often new processes are looked for until there are none.
const JOIN_ROUNDS_MAX: usize = 16;

/// Puts all of this namespace but its first process into control groups, while the worker starts:
/// to move a process waits 15 ms for every processor to have seen it, a quarter of what an
/// interpreter takes to start. What the worker takes in that time is not counted. One that forks
/// faster than it can be followed does not start.
fn join_all(groups: &[String]) -> Result<(), Errno> {
    if groups.is_empty() {
        return Ok(());
    }
    let mut joined = BTreeSet::new();
    for _round in 0..JOIN_ROUNDS_MAX {
        let entries = fs::read_dir("/proc").map_err(|error| errno(&error))?.flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let new: Vec<i32> = numbers.filter(|pid| *pid != 1 && !joined.contains(pid)).collect();
        if new.is_empty() {
            // Whatever starts from here on is the child of one that has joined.
            return Ok(());
        }
        for pid in new {
            joined.insert(pid);
            for group in groups {
                match fs::write(format!("{group}/cgroup.procs"), pid.to_string()) {
                    Err(error) if errno(&error) != Errno::ESRCH => return Err(errno(&error)),
                    _joined_or_gone => {}
                }
            }
        }
    }
    Err(Errno::EAGAIN)
}

/// A `/proc` that shows this namespace, nothing in the folder that is hidden, and mounts that
/// nobody else sees.
pub(super) fn own_mounts(ground: Ground, hidden: Option<&Path>) -> Result<(), Errno> {
    let none: Option<&str> = None;
    if let Ground::Own(user, group) = ground {
        let map = |file: &str, text: &str| {
            fs::write(format!("/proc/self/{file}"), text).map_err(|error| errno(&error))
        };
        // Without it the kernel lets nobody but root map a group.
        map("setgroups", "deny")?;
        map("uid_map", &format!("{user} {user} 1"))?;
        map("gid_map", &format!("{group} {group} 1"))?;
    }
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, none)?;
    if let Some(folder) = hidden {
        let flags = flags | MsFlags::MS_RDONLY;
        mount(Some("tmpfs"), folder, Some("tmpfs"), flags, Some("size=4k,mode=000"))?;
    }
    Ok(())
}

/// Listens for the worker's client of the Runtime API and sends the listener to the node, over the
/// last of the descriptors.
fn listen(order: &mut Order, descriptors: &mut Vec<OwnedFd>) -> Result<(), Errno> {
    let to_node = descriptors.pop().ok_or(Errno::EPROTO)?;
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| errno(&error))?;
    let address = listener.local_addr().map_err(|error| errno(&error))?;
    order.env.push(("AWS_LAMBDA_RUNTIME_API".to_owned(), address.to_string()));
    let (raw, byte) = ([listener.as_raw_fd()], [IoSlice::new(&[1])]);
    let rights = [ControlMessage::ScmRights(&raw)];
    sendmsg::<()>(to_node.as_raw_fd(), &byte, &rights, MsgFlags::MSG_NOSIGNAL, None).map(drop)
}

/// Forks the worker, and waits until its executable runs.
fn start(order: &Order, descriptors: &[OwnedFd]) -> Result<Pid, (Stage, Errno)> {
    let prepare = |error| (Stage::Prepare, error);
    let command = strings(order.command.iter().cloned()).map_err(prepare)?;
    let env = order.env.iter().map(|(name, value)| format!("{name}={value}"));
    let env = strings(env).map_err(prepare)?;
    let (said, say) = pipe2(OFlag::O_CLOEXEC).map_err(prepare)?;
    let guardian = getpid();
    let child = clone(Ground::Plain).map_err(|error| (Stage::Fork, error))?;
    let Some(child) = child else {
        let (stage, error) = become_worker(guardian, order, descriptors, &say, &command, &env);
        let report = Report::Failed(stage, error as i32);
        write(&say, &report.encode()).ok();
        std::process::exit(127)
    };
    drop(say);
    let mut bytes = [0; Report::BYTES];
    let length = loop {
        match read(&said, &mut bytes) {
            Err(Errno::EINTR) => {}
            length => break length.map_err(prepare)?,
        }
    };
    match Report::decode(bytes) {
        // The pipe closed with the call that replaced the process.
        _ if length == 0 => Ok(child),
        Some(Report::Failed(stage, error)) => Err((stage, Errno::from_raw(error))),
        _ => Err((Stage::Prepare, Errno::EPROTO)),
    }
}

/// Turns this process into the worker. Returns only if that fails.
fn become_worker(
    guardian: Pid,
    order: &Order,
    descriptors: &[OwnedFd],
    say: &OwnedFd,
    command: &[CString],
    env: &[CString],
) -> (Stage, Errno) {
    let ready = || -> Result<(), Errno> {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        if nix::unistd::getppid() != guardian {
            return Err(Errno::ESRCH);
        }
        setsid()?;
        // Who started the node may have allowed less.
        let (_, allowed) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let files = order.files_max.min(allowed);
        setrlimit(Resource::RLIMIT_NOFILE, files, files)?;
        setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
        prctl::set_no_new_privs()?;
        nix::sys::stat::umask(Mode::from_bits_truncate(0o077));
        place(descriptors)?;
        reset_signals()
    };
    if let Err(error) = ready() {
        return (Stage::Prepare, error);
    }
    if let Err(error) = chdir(order.dir.as_str()) {
        return (Stage::Dir, error);
    }
    debug_assert!(3 < say.as_raw_fd(), "it was opened after those of the order");
    let Err(error) = execve(&command[0], command, env);
    (Stage::Exec, error)
}

/// Puts stdout, stderr and the API's socket, if there is one, where a worker has them. All other
/// descriptors close themselves when the executable runs.
fn place(descriptors: &[OwnedFd]) -> Result<(), Errno> {
    // Out of the way first: one of them may lie where another belongs.
    let mut moved = Vec::with_capacity(descriptors.len());
    for descriptor in descriptors {
        moved.push(fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(16))?);
    }
    for (target, source) in (1..).zip(moved) {
        place_at(source, target)?;
    }
    Ok(())
}

#[expect(unsafe_code, reason = "places a descriptor at a number")]
fn place_at(source: i32, target: i32) -> Result<(), Errno> {
    // SAFETY: both numbers are this process's own; it has one thread and is about to be replaced,
    // nothing here uses what `target` was before.
    Errno::result(unsafe { libc::dup2(source, target) }).map(drop)
}

/// A worker begins with no signal blocked and none ignored: this process's parents ignored some.
#[expect(unsafe_code, reason = "sets a signal's disposition")]
fn reset_signals() -> Result<(), Errno> {
    for it in [Signal::SIGPIPE, Signal::SIGCHLD] {
        // SAFETY: no handler runs, so that none can run at a bad time.
        unsafe { nix::sys::signal::signal(it, SigHandler::SigDfl) }?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// Waits for the worker's end, or until the node wants it.
fn watch(signals: &SignalFd, control: &OwnedFd, worker: Pid) -> Report {
    loop {
        let mut waiting = [
            PollFd::new(control.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut waiting, PollTimeout::NONE).ok();
        let happened = |at: usize| waiting[at].any().unwrap_or(false);
        let mut over = happened(0);
        while let Ok(Some(signal)) = signals.read_signal() {
            over |= signal.ssi_signo == Signal::SIGTERM as u32;
        }
        if over {
            // Its whole session first, so that nothing of it can react to its end.
            killpg(worker, Signal::SIGKILL).ok();
            kill(worker, Signal::SIGKILL).ok();
        }
        let flags = if over { WaitPidFlag::empty() } else { WaitPidFlag::WNOHANG };
        loop {
            // Adopted processes end here too.
            let any = if over { worker } else { Pid::from_raw(-1) };
            match waitpid(any, Some(flags)) {
                Ok(WaitStatus::Exited(pid, status)) if pid == worker => {
                    killpg(worker, Signal::SIGKILL).ok();
                    return Report::Exited(status);
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == worker => {
                    killpg(worker, Signal::SIGKILL).ok();
                    return Report::Signaled(signal as i32);
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                Ok(_) | Err(_) => {}
            }
        }
    }
}

/// Kills everything that the worker has left behind, until nothing is left.
fn kill_rest(ground: Ground) {
    loop {
        let rest: Vec<Pid> = match ground {
            // All of the namespace but its first process.
            Ground::Namespace | Ground::Own(..) => vec![Pid::from_raw(-1)],
            Ground::Plain => children(),
        };
        for pid in rest {
            kill(pid, Signal::SIGKILL).ok();
        }
        if waitpid(Pid::from_raw(-1), None) == Err(Errno::ECHILD) {
            return;
        }
    }
}

/// The children of this process: a killed one's own children become them in turn.
fn children() -> Vec<Pid> {
    let me = getpid();
    let text = fs::read_to_string(format!("/proc/{me}/task/{me}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|it| it.parse().ok()).map(Pid::from_raw).collect()
}

fn strings(texts: impl Iterator<Item = String>) -> Result<Vec<CString>, Errno> {
    texts.map(|text| CString::new(text).map_err(|_nul| Errno::EINVAL)).collect()
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
