//! A network of its own for nodes and what they reach: a namespace for each host, a bridge between
//! them, and cuts in one direction at a time. It ends with the processes that hold it. Needs root.
//!
//! ```text
//! node 0 ──┐
//! node 1 ──┼── bridge at the hub (10.77.0.1)
//! node 2 ──┘
//! ```
//!
//! What a host sends to another goes to the link address that it has noted for it. A cut notes one
//! that nobody has: every packet leaves and none arrives, as behind a switch that lost its way.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::harness::command;
use crate::promise::{During, NotShown, broken};

const PATIENCE: Duration = Duration::from_secs(10);
/// The link address that no host has.
const NOBODY: &str = "02:77:00:00:00:fe";

/// Where programs run, and how others reach them there.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Its address.
    pub ip: Ipv4Addr,
    /// The process that holds its namespace; `None` is this machine's own.
    holder: Option<u32>,
}

impl Host {
    /// This machine's loopback.
    pub const HERE: Self = Self { ip: Ipv4Addr::LOCALHOST, holder: None };

    /// A program that runs there.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let Some(holder) = self.holder else { return Command::new(program) };
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(holder.to_string()).arg("--net").arg("--").arg(program);
        command
    }

    /// Whether it is this machine's own loopback.
    #[must_use]
    pub const fn is_here(&self) -> bool {
        self.holder.is_none()
    }
}

/// A host of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where the bridge is.
    Hub,
    /// By its number, from 0.
    Node(usize),
}

/// The hosts.
#[derive(Debug)]
pub struct Network {
    hub: Namespace,
    nodes: Vec<Namespace>,
}

impl Network {
    /// Makes one of so many nodes.
    ///
    /// # Errors
    ///
    /// [`NotShown::Unchecked`] where this user may not, or without `ip`, `unshare` and `nsenter`.
    pub fn of(nodes: usize) -> Result<Self, NotShown> {
        let hub = Namespace::hold(1)?;
        hub.ip("link add name bridge type bridge")?;
        hub.ip(&format!("link set bridge address {}", hub.link))?;
        hub.ip(&format!("address add {}/24 dev bridge", hub.ip))?;
        hub.ip("link set bridge up")?;
        let mut network = Self { hub, nodes: Vec::new() };
        for node in 0..nodes {
            let number = u8::try_from(node).during("number a host")?;
            let held = Namespace::hold(11 + number)?;
            let (hub, pid) = (&network.hub, held.holder.id());
            hub.ip(&format!("link add port{node} type veth peer name eth0 netns {pid}"))?;
            hub.ip(&format!("link set port{node} master bridge up"))?;
            held.ip(&format!("link set eth0 address {}", held.link))?;
            held.ip(&format!("address add {}/24 dev eth0", held.ip))?;
            held.ip("link set eth0 up")?;
            network.nodes.push(held);
        }
        network.heal()?;
        Ok(network)
    }

    fn namespace(&self, place: Place) -> &Namespace {
        match place {
            Place::Hub => &self.hub,
            Place::Node(node) => &self.nodes[node],
        }
    }

    /// A host of it.
    #[must_use]
    pub fn host(&self, place: Place) -> Host {
        let held = self.namespace(place);
        Host { ip: held.ip, holder: Some(held.holder.id()) }
    }

    fn note(&self, from: Place, to: Place, link: &str) -> Result<(), NotShown> {
        let device = if from == Place::Hub { "bridge" } else { "eth0" };
        let ip = self.namespace(to).ip;
        let noted = format!("neigh replace {ip} lladdr {link} dev {device} nud permanent");
        self.namespace(from).ip(&noted)
    }

    /// Nothing of what `from` sends arrives at `to` any more.
    ///
    /// # Errors
    ///
    /// When `ip` fails.
    pub fn cut(&self, from: Place, to: Place) -> Result<(), NotShown> {
        self.note(from, to, NOBODY)
    }

    /// Everything arrives again.
    ///
    /// # Errors
    ///
    /// When `ip` fails.
    pub fn heal(&self) -> Result<(), NotShown> {
        let nodes = (0..self.nodes.len()).map(Place::Node);
        let places: Vec<Place> = std::iter::once(Place::Hub).chain(nodes).collect();
        for from in &places {
            for to in places.iter().filter(|to| *to != from) {
                self.note(*from, *to, &self.namespace(*to).link)?;
            }
        }
        Ok(())
    }

    /// Whether a packet of `from` that asks for an answer of `to` gets one.
    ///
    /// # Errors
    ///
    /// When the program that sends it cannot be run.
    pub fn answers(&self, from: Place, to: Place) -> Result<bool, NotShown> {
        const ASK: &str = "import socket, sys\n\
            s = socket.socket(); s.settimeout(1)\n\
            sys.exit(s.connect_ex((sys.argv[1], 1)) != 111)";
        // A host that is there refuses the connection: nobody listens on port 1.
        let mut asked = self.host(from).command("python3");
        asked.args(["-c", ASK]).arg(self.namespace(to).ip.to_string());
        Ok(command::run(&mut asked, PATIENCE)?.status == Some(0))
    }
}

/// A namespace, and the process that holds it.
#[derive(Debug)]
struct Namespace {
    holder: Child,
    ip: Ipv4Addr,
    link: String,
}

impl Namespace {
    fn hold(number: u8) -> Result<Self, NotShown> {
        let unchecked = |why: String| {
            NotShown::Unchecked(format!("a network of its own needs root, ip and unshare: {why}"))
        };
        let mut holder = Command::new("unshare");
        holder.args(["--net", "sh", "-c", "ip link set lo up && echo held && read -r line"]);
        holder.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut holder = holder.spawn().map_err(|error| unchecked(error.to_string()))?;
        let mut said = String::new();
        let stdout = holder.stdout.as_mut().ok_or_else(|| broken("no pipe"))?;
        BufReader::new(stdout).read_line(&mut said).during("make a namespace")?;
        let (ip, link) = (Ipv4Addr::new(10, 77, 0, number), format!("02:77:00:00:00:{number:02x}"));
        let held = Self { holder, ip, link };
        if said.trim() == "held" { Ok(held) } else { Err(unchecked("there is none".to_owned())) }
    }

    fn ip(&self, words: &str) -> Result<(), NotShown> {
        let host = Host { ip: self.ip, holder: Some(self.holder.id()) };
        let mut ip = host.command("ip");
        ip.args(words.split(' '));
        let said = command::run(&mut ip, PATIENCE)?;
        let is_done = said.status == Some(0);
        if is_done { Ok(()) } else { Err(broken(format!("ip {words}: {}", said.all()))) }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        command::end(&mut self.holder);
    }
}
