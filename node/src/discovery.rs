//! How a command finds the node it talks to: every running node keeps a file of mode 0600 in the
//! user's state directory, with its address and token, and takes it away when it ends.
//!
//! ```text
//! $XDG_STATE_HOME/millrace/nodes/<name>-<pid>.json      else ~/.local/state/millrace/nodes/
//! ```
//!
//! A node that runs as a service keeps it in `$RUNTIME_DIRECTORY/nodes`, where the group of its user
//! may read it: commands look into `/run/millrace/nodes` too.
//!
//! A file whose process is gone is passed over and removed, so that a killed node leaves nothing
//! that a person must clean up.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

use crate::commands::error::{CommandError, exit};
use crate::commands::program::{program, quoted};

/// The variable that holds the token of a node given by its URL.
pub const TOKEN_VARIABLE: &str = "MILLRACE_TOKEN";

/// Where nodes of the package are found.
const SERVICES: &str = "/run/millrace/nodes";

/// More bytes than a node's file can have.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// What a running node says of itself.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFile {
    /// How commands address it.
    pub name: String,
    /// Its control API: `http://127.0.0.1:PORT`.
    pub url: String,
    /// Who knows it may do everything.
    pub token: String,
    /// Its process id.
    pub pid: u32,
    /// When that process started, in the kernel's ticks since boot: process ids come again.
    #[serde(default)]
    pub pid_started: u64,
    /// Absolute.
    pub data_dir: String,
    /// RFC 3339, UTC.
    pub started: String,
    /// The cluster that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}

impl std::fmt::Debug for NodeFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, url, pid, data_dir, .. } = self;
        write!(f, "NodeFile({name}, {url}, process {pid}, {data_dir})")
    }
}

impl NodeFile {
    /// The file of this very process.
    #[must_use]
    pub fn of_this_process(name: &str, url: String, token: String, data_dir: &Path) -> Self {
        let pid = std::process::id();
        let data_dir = data_dir.canonicalize().unwrap_or_else(|_| data_dir.to_owned());
        let now = jiff::Timestamp::from_millisecond(bus::Timestamp::now().0).unwrap_or_default();
        Self {
            name: name.to_owned(),
            url,
            token,
            pid,
            pid_started: started_at(pid).unwrap_or(0),
            data_dir: data_dir.to_string_lossy().into_owned(),
            started: format!("{now:.3}"),
            cluster: None,
        }
    }

    fn is_running(&self) -> bool {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        // Without the right to signal it, it runs all the same.
        let is_there = pid.is_some_and(|pid| {
            test_kill_process(pid).is_ok_and(|()| true)
                || test_kill_process(pid) == Err(rustix::io::Errno::PERM)
        });
        let is_same = match (self.pid_started, started_at(self.pid)) {
            (0, _) | (_, None) => true,
            (then, Some(now)) => then == now,
        };
        is_there && is_same
    }

    /// What the file is called, without its ending; another way to address the node.
    fn stem(&self) -> String {
        format!("{}-{}", self.name, self.pid)
    }
}

/// The start of a process, field 22 of its stat. The name before it may hold anything.
fn started_at(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

/// A fresh token: `mr_`, an id, and 256 bits that nobody can guess.
///
/// # Errors
///
/// When the system has no random numbers to give.
pub fn new_token() -> io::Result<String> {
    use base64::Engine as _;
    use rand::TryRngCore as _;
    let mut random = [0_u8; 36];
    rand::rngs::OsRng.try_fill_bytes(&mut random).map_err(io::Error::other)?;
    let (id, secret) = random.split_at(4);
    let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let secret = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(secret);
    Ok(format!("mr_{id}_{secret}"))
}

/// The folder of the node files, whether it is there or not.
///
/// # Errors
///
/// When neither XDG_STATE_HOME nor HOME says where.
pub fn directory() -> Result<PathBuf, CommandError> {
    directory_from(|name| std::env::var_os(name).map(PathBuf::from))
}

/// The folder of this process, if it is a service that was given one.
fn service_directory() -> Option<PathBuf> {
    let given = PathBuf::from(std::env::var_os("RUNTIME_DIRECTORY")?);
    given.is_absolute().then(|| given.join("nodes"))
}

fn directory_from(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, CommandError> {
    // The specification says that a relative path is no path.
    let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    let Some(state) = state else {
        let message = "neither XDG_STATE_HOME nor HOME says where the state directory is";
        return Err(CommandError::new(exit::FAILED, "E0111", message).help("set HOME"));
    };
    Ok(state.join("millrace").join("nodes"))
}

/// A node file on disk; dropping this takes it away.
#[derive(Debug)]
pub struct Registered {
    path: PathBuf,
}

impl Registered {
    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // If it is gone already, that is what was wanted.
        drop(fs::remove_file(&self.path));
    }
}

/// Writes the file of a running node. Keep what comes back as long as the node runs.
///
/// # Errors
///
/// When the state directory or the file cannot be made.
pub fn register(file: &NodeFile) -> Result<Registered, CommandError> {
    match service_directory() {
        Some(directory) => register_in(&directory, file, true),
        None => register_in(&directory()?, file, false),
    }
}

/// With `shared` the group may read it.
fn register_in(
    directory: &Path,
    file: &NodeFile,
    shared: bool,
) -> Result<Registered, CommandError> {
    let made = if shared { make_shared(directory) } else { make_private(directory) };
    made.map_err(|error| CommandError::file("make", directory, &error))?;
    let path = directory.join(format!("{}.json", file.stem()));
    let fresh = directory.join(format!(".{}.new", file.stem()));
    let write = || -> io::Result<()> {
        // Of a process of that id that was killed in between.
        drop(fs::remove_file(&fresh));
        let mut out =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        out.write_all(&serde_json::to_vec_pretty(file)?)?;
        out.write_all(b"\n")?;
        if shared {
            // Whatever the umask says.
            out.set_permissions(fs::Permissions::from_mode(0o640))?;
        }
        fs::rename(&fresh, &path)
    };
    write().map_err(|error| CommandError::file("write", &path, &error))?;
    Ok(Registered { path })
}

/// Makes the folder and the one above it for this user alone, and so if they are there already.
fn make_private(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    for folder in [directory.parent(), Some(directory)].into_iter().flatten() {
        if fs::metadata(folder)?.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
        }
    }
    Ok(())
}

/// Makes the folder of a service, for its user and group.
fn make_shared(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).create(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o750))
}

/// Every running node of this user, and those that run as services if this user may know them, by
/// name.
///
/// # Errors
///
/// When the state directory is there but cannot be read.
pub fn running() -> Result<Vec<NodeFile>, CommandError> {
    let mut nodes = running_in(&directory()?)?;
    nodes.extend(running_in(Path::new(SERVICES)).unwrap_or_default());
    nodes.sort_by(|a, b| (&a.name, a.pid).cmp(&(&b.name, b.pid)));
    Ok(nodes)
}

fn running_in(directory: &Path) -> Result<Vec<NodeFile>, CommandError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(CommandError::file("look into", directory, &error)),
    };
    let mut nodes = Vec::new();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.extension().is_none_or(|end| end != "json") {
            continue;
        }
        // What is no node's file is left alone: somebody else may know what it is.
        let Some(file) = read(&path) else { continue };
        if file.is_running() {
            nodes.push(file);
        } else {
            drop(fs::remove_file(&path));
        }
    }
    nodes.sort_by(|a, b| (&a.name, a.pid).cmp(&(&b.name, b.pid)));
    Ok(nodes)
}

fn read(path: &Path) -> Option<NodeFile> {
    if fs::metadata(path).ok()?.len() > FILE_BYTES_MAX {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// The node that is meant: the only one, or the one of this name, start of a name, folder or URL.
///
/// # Errors
///
/// `E0502` if none runs, `E0504` if several do, `E0506` if none is meant, `E0507` if several are.
pub fn find(wanted: Option<&str>) -> Result<NodeFile, CommandError> {
    let token = std::env::var(TOKEN_VARIABLE).ok();
    let wanted = wanted.filter(|wanted| !wanted.is_empty());
    if let Some(url) = wanted.filter(|wanted| wanted.contains("://")) {
        // With a token of its own, no state directory is needed.
        return by_url(url, running().unwrap_or_default(), token);
    }
    choose(wanted, running()?)
}

/// The node to ask about the one that is meant, and the name of that one if only it is meant: a
/// node of a cluster, on this machine or another.
///
/// # Errors
///
/// As [`find`].
pub fn find_about(wanted: Option<&str>) -> Result<(NodeFile, Option<String>), CommandError> {
    let named = wanted.filter(|it| !it.is_empty() && !it.contains("://"));
    let Some(name) = named else { return Ok((find(wanted)?, None)) };
    match find(wanted) {
        Ok(node) => {
            let about = node.cluster.is_some().then(|| node.name.clone());
            Ok((node, about))
        }
        Err(error) if error.code == Some("E0506") => {
            let mut nodes = running()?;
            if !are_one_cluster(&nodes) {
                return Err(error);
            }
            Ok((nodes.remove(0), Some(name.to_owned())))
        }
        Err(error) => Err(error),
    }
}

fn are_one_cluster(nodes: &[NodeFile]) -> bool {
    let cluster = nodes.first().and_then(|it| it.cluster.as_ref());
    cluster.is_some() && nodes.iter().all(|it| it.cluster.as_ref() == cluster)
}

fn by_url(
    url: &str,
    nodes: Vec<NodeFile>,
    token: Option<String>,
) -> Result<NodeFile, CommandError> {
    let url = url.trim_end_matches('/');
    if !is_loopback(url) {
        let message = format!("`{url}` is not an http:// address of this machine");
        return Err(CommandError::new(exit::USAGE, "E0111", message)
            .help("the control API has no TLS: use a tunnel, ssh -L 8081:127.0.0.1:8081 HOST"));
    }
    let known = nodes.into_iter().find(|node| node.url == url);
    match (token.filter(|token| !token.is_empty()), known) {
        (Some(token), Some(known)) => Ok(NodeFile { token, ..known }),
        (None, Some(known)) => Ok(known),
        (Some(token), None) => Ok(NodeFile {
            name: url.to_owned(),
            url: url.to_owned(),
            token,
            pid: 0,
            pid_started: 0,
            data_dir: String::new(),
            started: String::new(),
            cluster: None,
        }),
        (None, None) => {
            let message = format!("no token for {url}: no node of this user has that address");
            Err(CommandError::new(exit::DENIED, "E0505", message)
                .help(format!("put the node's token into {TOKEN_VARIABLE}")))
        }
    }
}

/// Tokens go over plain HTTP, so only to this machine.
fn is_loopback(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return false };
    if rest.contains(['/', '@', '?', '#']) {
        return false;
    }
    let host = match rest.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => host,
        _ => rest,
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || address.parse().is_ok_and(|it: std::net::IpAddr| it.is_loopback())
}

fn choose(wanted: Option<&str>, mut nodes: Vec<NodeFile>) -> Result<NodeFile, CommandError> {
    if nodes.is_empty() {
        let message = match wanted {
            Some(wanted) => {
                format!("no node is running, so neither is `{}`", wanted.escape_debug())
            }
            None => "no node is running".to_owned(),
        };
        return Err(CommandError::new(exit::UNREACHABLE, "E0502", message)
            .help(format!("start one: {} dev DIR, where DIR holds a millrace.toml", program())));
    }
    let Some(wanted) = wanted else {
        // Nodes of one cluster answer alike.
        if nodes.len() == 1 || are_one_cluster(&nodes) {
            return Ok(nodes.remove(0));
        }
        let message = format!("{} nodes are running\n{}", nodes.len(), list(&nodes));
        return Err(CommandError::new(exit::USAGE, "E0504", message).help(which(&nodes)));
    };
    let matches = matching(wanted, &nodes);
    match matches.as_slice() {
        [one] => Ok((*one).clone()),
        [] => {
            let wanted = wanted.escape_debug();
            let message = format!("no running node is called `{wanted}`\n{}", list(&nodes));
            Err(CommandError::new(exit::NOT_FOUND, "E0506", message).help(which(&nodes)))
        }
        several => {
            let several: Vec<NodeFile> = several.iter().map(|node| (*node).clone()).collect();
            let wanted = wanted.escape_debug();
            let message = format!("`{wanted}` may be {} nodes\n{}", several.len(), list(&several));
            Err(CommandError::new(exit::USAGE, "E0507", message).help(which(&several)))
        }
    }
}

/// By name, by name and process, by folder, else by the start of a name.
fn matching<'n>(wanted: &str, nodes: &'n [NodeFile]) -> Vec<&'n NodeFile> {
    let folder = Path::new(wanted).canonicalize().ok().filter(|path| path.is_dir());
    let is_in = |node: &NodeFile, folder: &Path| {
        let data = Path::new(&node.data_dir);
        data == folder || data == folder.join(".millrace")
    };
    let ways: [&dyn Fn(&NodeFile) -> bool; 4] = [
        &|node| node.name == wanted,
        &|node| node.stem() == wanted || node.pid.to_string() == wanted,
        &|node| folder.as_ref().is_some_and(|folder| is_in(node, folder)),
        &|node| node.name.starts_with(wanted),
    ];
    for way in ways {
        let found: Vec<&NodeFile> = nodes.iter().filter(|node| way(node)).collect();
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}

fn list(nodes: &[NodeFile]) -> String {
    let width = nodes.iter().map(|node| node.stem().len()).max().unwrap_or(0);
    let lines = nodes
        .iter()
        .map(|node| format!("   {:width$}  {}  {}", node.stem(), node.url, node.data_dir));
    lines.collect::<Vec<_>>().join("\n")
}

/// How to say which: by name where that is enough.
fn which(nodes: &[NodeFile]) -> String {
    let Some(first) = nodes.first() else { return String::new() };
    let is_unique = nodes.iter().filter(|node| node.name == first.name).count() == 1;
    let name = if is_unique { first.name.clone() } else { first.stem() };
    let name = quoted(&name);
    format!("say which: --node {name}, or set MILLRACE_NODE={name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, pid: u32, data_dir: &str) -> NodeFile {
        NodeFile {
            name: name.to_owned(),
            url: format!("http://127.0.0.1:{pid}"),
            token: "secret".to_owned(),
            pid,
            pid_started: 0,
            cluster: None,
            data_dir: data_dir.to_owned(),
            started: String::new(),
        }
    }

    fn found(wanted: Option<&str>, nodes: &[NodeFile]) -> Result<u32, (u8, &'static str)> {
        choose(wanted, nodes.to_vec())
            .map(|node| node.pid)
            .map_err(|error| (error.exit, error.code.unwrap()))
    }

    #[test]
    fn a_node_is_meant_by_name_start_process_or_folder() {
        let dir = tempfile::tempdir().unwrap();
        let app = dir.path().canonicalize().unwrap();
        let data = app.join(".millrace");
        fs::create_dir(&data).unwrap();
        let nodes = [
            node("greenhouse", 1_001, "/a"),
            node("green", 1_002, data.to_str().unwrap()),
            node("weather", 1_003, "/c"),
            node("weather", 1_004, "/d"),
        ];
        assert_eq!(found(Some("greenhouse"), &nodes), Ok(1_001));
        assert_eq!(found(Some("green"), &nodes), Ok(1_002), "a whole name before a start");
        assert_eq!(found(Some("greenh"), &nodes), Ok(1_001));
        assert_eq!(found(Some("1004"), &nodes), Ok(1_004));
        assert_eq!(found(Some("weather-1003"), &nodes), Ok(1_003));
        assert_eq!(found(Some(app.to_str().unwrap()), &nodes), Ok(1_002));
        assert_eq!(found(Some(data.to_str().unwrap()), &nodes), Ok(1_002));
        assert_eq!(found(Some("weather"), &nodes), Err((exit::USAGE, "E0507")));
        assert_eq!(found(Some("x"), &nodes), Err((exit::NOT_FOUND, "E0506")));
        assert_eq!(found(None, &nodes), Err((exit::USAGE, "E0504")));
        assert_eq!(found(None, &nodes[..1]), Ok(1_001));
        assert_eq!(found(None, &[]), Err((exit::UNREACHABLE, "E0502")));
        assert_eq!(found(Some("x"), &[]), Err((exit::UNREACHABLE, "E0502")));
    }

    #[test]
    fn several_nodes_are_listed_without_their_tokens() {
        let nodes = vec![node("a", 1, "/x"), node("a", 2, "/y")];
        let error = choose(None, nodes).unwrap_err();
        let text = error.render(false);
        assert!(text.contains("a-1  http://127.0.0.1:1  /x"), "{text}");
        assert!(text.contains("--node a-1"), "{text}");
        assert!(!text.contains("secret"), "{text}");
        assert!(!format!("{:?}", node("a", 1, "/x")).contains("secret"));
    }

    #[test]
    fn a_url_takes_its_token_from_the_variable_or_the_node() {
        let nodes = vec![node("a", 1_001, "/x")];
        let own = by_url("http://127.0.0.1:1001/", nodes.clone(), None).unwrap();
        assert_eq!((own.token.as_str(), own.pid), ("secret", 1_001));
        let given = by_url("http://localhost:9", nodes.clone(), Some("t".into())).unwrap();
        assert_eq!((given.token.as_str(), given.pid), ("t", 0));
        let error = by_url("http://localhost:9", nodes.clone(), None).unwrap_err();
        assert_eq!((error.exit, error.code), (exit::DENIED, Some("E0505")));
        for far in [
            "http://example.com",
            "https://127.0.0.1:1",
            "http://127.0.0.1.example.com",
            "http://localhost@example.com",
            "http://example.com/127.0.0.1",
        ] {
            assert!(by_url(far, nodes.clone(), Some("t".into())).is_err(), "{far}");
        }
    }

    #[test]
    fn a_node_file_is_private_from_its_first_byte_and_gone_with_its_node() {
        let dir = tempfile::tempdir().unwrap();
        let nodes = dir.path().join("millrace/nodes");
        let this =
            NodeFile::of_this_process("a", "http://127.0.0.1:1".into(), "t".into(), dir.path());
        let registered = register_in(&nodes, &this, false).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(registered.path()), 0o600);
        assert_eq!((mode(&nodes), mode(nodes.parent().unwrap())), (0o700, 0o700));
        assert_eq!(running_in(&nodes).unwrap().as_slice(), std::slice::from_ref(&this));
        fs::set_permissions(&nodes, fs::Permissions::from_mode(0o755)).unwrap();
        let again = register_in(&nodes, &this, false).unwrap();
        assert_eq!(mode(&nodes), 0o700, "a folder that others can read is closed");
        drop(registered);
        assert_eq!(running_in(&nodes).unwrap(), []);
        drop(again);
        assert_eq!(fs::read_dir(&nodes).unwrap().count(), 0);
    }

    #[test]
    fn a_killed_node_leaves_nothing_to_clean_up() {
        let dir = tempfile::tempdir().unwrap();
        let this =
            NodeFile::of_this_process("a", "http://127.0.0.1:1".into(), "t".into(), dir.path());
        assert!(this.pid_started > 0 && this.is_running());
        // The process id came again, for another process.
        let other = NodeFile { pid_started: this.pid_started + 1, ..this.clone() };
        std::mem::forget(register_in(dir.path(), &other, false).unwrap());
        // No process can have this id.
        let gone = NodeFile { pid: u32::try_from(i32::MAX).unwrap(), name: "b".into(), ..this };
        std::mem::forget(register_in(dir.path(), &gone, false).unwrap());
        fs::write(dir.path().join("notes.json"), "[1]").unwrap();
        assert_eq!(running_in(dir.path()).unwrap(), []);
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(left, ["notes.json"], "what is no node's file stays");
    }

    #[test]
    fn the_state_directory_is_the_users() {
        let from = |xdg: Option<&'static str>, home: Option<&'static str>| {
            directory_from(move |name| match name {
                "XDG_STATE_HOME" => xdg.map(PathBuf::from),
                _ => home.map(PathBuf::from),
            })
        };
        let is =
            |found: Result<PathBuf, CommandError>, path: &str| found.unwrap() == Path::new(path);
        assert!(is(from(Some("/s"), Some("/h")), "/s/millrace/nodes"));
        assert!(is(from(Some("relative"), Some("/h")), "/h/.local/state/millrace/nodes"));
        assert!(is(from(None, Some("/h")), "/h/.local/state/millrace/nodes"));
        assert!(from(None, None).is_err());
    }

    #[test]
    fn tokens_differ_and_are_long() {
        let (one, other) = (new_token().unwrap(), new_token().unwrap());
        assert_ne!(one, other);
        assert!(one.starts_with("mr_") && one.len() == 3 + 8 + 1 + 43, "{one}");
    }
}
