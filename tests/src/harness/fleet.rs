//! Several nodes of one cluster on one Kafka, formed as an operator does it: `init` and `serve` for
//! the first, a token and `join` for each other one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::demand;
use crate::harness::api::Api;
use crate::harness::network::Host;
use crate::harness::node::Node;
use crate::harness::{binaries, command, ports, wait};
use crate::promise::{During, NotShown, broken};

/// What a command or a start may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// One node of it, running or not.
#[derive(Debug)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Where the others reach it.
    address: String,
    /// Its data directory.
    pub data: PathBuf,
    state: PathBuf,
    log: PathBuf,
    brokers: String,
    /// Its node may make topics.
    makes_topics: bool,
    host: Host,
    /// What it runs.
    program: PathBuf,
    /// What its file says that it has.
    labels: Vec<String>,
    /// What its processes have in their environment beside what each has.
    environment: Vec<(String, String)>,
    up: Option<(Node, Option<Api>)>,
}

/// Who gives commands to a node.
#[derive(Clone, Debug)]
pub struct User {
    host: Host,
    state: PathBuf,
    program: PathBuf,
}

impl User {
    /// A command line.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.host.command(&self.program);
        command.args(words).env("XDG_STATE_HOME", &self.state).env("NO_COLOR", "1");
        command.env_remove("MILLRACE_NODE");
        command
    }
}

/// The nodes of a cluster.
#[derive(Debug)]
pub struct Fleet {
    /// In the order they joined.
    pub slots: Vec<Slot>,
    /// Whether its nodes make topics.
    make_topics: bool,
}

impl Fleet {
    /// Forms a cluster of so many nodes in `folder`, all of them up and voting.
    ///
    /// # Errors
    ///
    /// When a command fails, or the nodes do not come to vote.
    pub fn form(folder: &Path, brokers: &str, nodes: usize) -> Result<Self, NotShown> {
        Self::form_on(&vec![Host::HERE; nodes], folder, brokers)
    }

    /// The same, where nodes make the topics that they need.
    ///
    /// # Errors
    ///
    /// When a command fails, or the nodes do not come to vote.
    pub fn form_making_topics(
        folder: &Path,
        brokers: &str,
        nodes: usize,
    ) -> Result<Self, NotShown> {
        Self::formed(true, &vec![Host::HERE; nodes], folder, brokers)
    }

    /// The same as [`form`](Self::form), a node on each of these hosts.
    ///
    /// # Errors
    ///
    /// When a command fails, or the nodes do not come to vote.
    pub fn form_on(hosts: &[Host], folder: &Path, brokers: &str) -> Result<Self, NotShown> {
        Self::formed(false, hosts, folder, brokers)
    }

    fn formed(
        make_topics: bool,
        hosts: &[Host],
        folder: &Path,
        brokers: &str,
    ) -> Result<Self, NotShown> {
        let mut fleet = Self { slots: Vec::new(), make_topics };
        for host in hosts {
            fleet.add_on(*host, folder, brokers)?;
        }
        fleet.until_voters(hosts.len(), PATIENCE)?;
        Ok(fleet)
    }

    /// Waits until so many vote, as the first node says.
    ///
    /// # Errors
    ///
    /// When they do not in time.
    pub fn until_voters(&self, nodes: usize, within: Duration) -> Result<(), NotShown> {
        let voting = wait::until(within, || {
            let members = self.slots[0].members().ok()?;
            let voters = members.iter().filter(|it| it["role"] == "voter");
            (voters.count() == nodes).then_some(())
        });
        let told = || format!("not {nodes} voters: {:?}", self.slots[0].members());
        voting.ok_or_else(|| broken(told()))
    }

    /// Starts all nodes at once: alone, none of them could say what is its own.
    ///
    /// # Errors
    ///
    /// When one does not answer.
    pub fn start_all(&mut self) -> Result<(), NotShown> {
        let begun: Result<Vec<Node>, NotShown> = self.slots.iter().map(Slot::begin).collect();
        for (slot, node) in self.slots.iter_mut().zip(begun?) {
            slot.up = Some(slot.answering(node)?);
        }
        Ok(())
    }

    /// One more node: the first founds the cluster, the others join it.
    ///
    /// # Errors
    ///
    /// When a command fails, or the node does not start.
    pub fn add(&mut self, folder: &Path, brokers: &str) -> Result<(), NotShown> {
        self.add_on(Host::HERE, folder, brokers)
    }

    /// The same, as this build.
    ///
    /// # Errors
    ///
    /// When a command fails, or the node does not start.
    pub fn add_build(
        &mut self,
        folder: &Path,
        brokers: &str,
        program: &Path,
    ) -> Result<(), NotShown> {
        self.enter(Host::HERE, folder, brokers, program)
    }

    fn add_on(&mut self, host: Host, folder: &Path, brokers: &str) -> Result<(), NotShown> {
        self.enter(host, folder, brokers, &binaries::millrace())
    }

    fn enter(
        &mut self,
        host: Host,
        folder: &Path,
        brokers: &str,
        program: &Path,
    ) -> Result<(), NotShown> {
        let name = format!("edge-{}", self.slots.len() + 1);
        let mut slot = Slot::new(host, folder, &name, brokers)?;
        slot.makes_topics = self.make_topics;
        slot.become_build(program);
        match self.slots.first() {
            None => slot.init()?,
            Some(first) => slot.join(first)?,
        }
        slot.start()?;
        self.slots.push(slot);
        Ok(())
    }

    /// What the cluster is called: groups on Kafka have it in their names.
    ///
    /// # Errors
    ///
    /// When its first node does not say.
    pub fn name(&self) -> Result<String, NotShown> {
        let said = self.slots[0].list()?;
        let name = said["cluster"].as_str().map(str::to_owned);
        name.ok_or_else(|| broken(format!("no cluster in {said}")))
    }

    /// Which node leads, as the first one that is up and knows says.
    pub fn leader(&self) -> Option<usize> {
        let members = self.up().find_map(|slot| slot.members().ok())?;
        let leader = members.iter().find(|it| it["leads"] == true)?;
        self.slots.iter().position(|slot| leader["name"] == slot.name.as_str())
    }

    /// The nodes that run.
    pub fn up(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| slot.up.is_some())
    }
}

impl Slot {
    fn new(host: Host, folder: &Path, name: &str, brokers: &str) -> Result<Self, NotShown> {
        let dir = folder.join(name);
        std::fs::create_dir_all(&dir).during("make a node's folder")?;
        Ok(Self {
            name: name.to_owned(),
            address: format!("{}:{}", host.ip, ports::free::<1>()?[0]),
            data: dir.join("data"),
            state: dir.join("state"),
            log: dir.join("node.log"),
            brokers: brokers.to_owned(),
            makes_topics: false,
            host,
            program: binaries::millrace(),
            labels: Vec::new(),
            environment: Vec::new(),
            up: None,
        })
    }

    /// Where the others reach it.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// All that its node wrote, whichever process of it.
    ///
    /// # Errors
    ///
    /// When it wrote nothing.
    pub fn log(&self) -> Result<String, NotShown> {
        std::fs::read_to_string(&self.log).during("read a node's log")
    }

    /// A command line of this node's user.
    fn command(&self, words: &[&str]) -> Command {
        self.user().command(words)
    }

    /// Who gives commands to this node, whether or not it runs.
    #[must_use]
    pub fn user(&self) -> User {
        User { host: self.host, state: self.state.clone(), program: self.program.clone() }
    }

    /// From its next start on, and in its commands, it is this build.
    pub fn become_build(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    /// From its next start on its process has this in its environment, or not.
    pub fn set_environment(&mut self, name: &str, value: Option<&str>) {
        self.environment.retain(|(it, _)| it != name);
        self.environment.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }

    /// From its next start on its file says that it has these labels; it has one where it makes topics.
    pub fn set_labels(&mut self, labels: &[&str]) {
        self.labels = labels.iter().map(|it| (*it).to_owned()).collect();
    }

    /// Another node beside this one, on the same Kafka, that does not belong to a cluster yet.
    ///
    /// # Errors
    ///
    /// When no folder can be made for it.
    pub fn replaced(&self, name: &str) -> Result<Self, NotShown> {
        let folder = self.folder().parent().unwrap_or_else(|| self.folder());
        Self::new(self.host, folder, name, &self.brokers)
    }

    /// Runs a command of this node's user to its end; what it printed.
    ///
    /// # Errors
    ///
    /// When it fails.
    pub fn run(&self, words: &[&str]) -> Result<String, NotShown> {
        let said = command::run(&mut self.command(words), PATIENCE)?;
        demand!(said.status == Some(0), "millrace {words:?} on {}: {}", self.name, said.all());
        Ok(said.stdout)
    }

    fn data(&self) -> String {
        self.data.display().to_string()
    }

    fn init(&self) -> Result<(), NotShown> {
        let data = self.data();
        let words = ["init", "--data", &data, "--name", &self.name, "--cluster", "fleet"];
        self.run(&[&words[..], &["--peers-listen", &self.address]].concat()).map(drop)
    }

    fn join(&self, through: &Self) -> Result<(), NotShown> {
        let said = through.run(&["node", "token", "-o", "json"])?;
        let said: Value = serde_json::from_str(&said).during("read the token")?;
        let token = said["token"].as_str().ok_or_else(|| broken("`node token` printed none"))?;
        self.join_with(token, through)
    }

    /// Joins with a token that was made before.
    ///
    /// # Errors
    ///
    /// When it is not let in.
    pub fn join_with(&self, token: &str, through: &Self) -> Result<(), NotShown> {
        let (data, peer) = (self.data(), through.address.as_str());
        let words = ["join", token, "--peer", peer, "--data", &data, "--name", &self.name];
        self.run(&[&words[..], &["--peers-listen", &self.address]].concat()).map(drop)
    }

    /// Starts its node and waits until it answers.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn start(&mut self) -> Result<(), NotShown> {
        self.up = Some(self.answering(self.begin()?)?);
        Ok(())
    }

    /// Its node once it is ready. From outside of a network of its own it cannot be asked.
    fn answering(&self, mut node: Node) -> Result<(Node, Option<Api>), NotShown> {
        if self.host.is_here() {
            let api = Api::of(&self.state, &mut node, PATIENCE)?;
            return Ok((node, Some(api)));
        }
        node.line("a node that is ready", PATIENCE, |line| line.text.contains("is ready"))?;
        Ok((node, None))
    }

    /// Starts its node and waits for nothing: it may never be ready.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start_unheard(&mut self) -> Result<(), NotShown> {
        self.up = Some((self.begin()?, None));
        Ok(())
    }

    /// Starts its node, which is to end by itself: with which status, and what it said.
    ///
    /// # Errors
    ///
    /// When it goes on.
    pub fn start_in_vain(&self, within: Duration) -> Result<(i32, String), NotShown> {
        let mut node = self.begin()?;
        let status = node.exited(within)?;
        Ok((status, node.text()))
    }

    fn begin(&self) -> Result<Node, NotShown> {
        if self.makes_topics {
            let text = format!(
                "[node]\nlabels = {:?}\n\n[kafka]\nbrokers = \"{}\"\ncreate-topics = true\n",
                self.labels, self.brokers
            );
            std::fs::write(self.file(), text).during("write a node's file")?;
        }
        Node::start(&mut self.serving(), &self.log)
    }

    fn file(&self) -> PathBuf {
        self.folder().join("node.toml")
    }

    /// The command that its node is.
    #[must_use]
    pub fn serving(&self) -> Command {
        let data = self.data();
        let mut serve = self.command(&["serve", "--data", &data]);
        if self.makes_topics {
            serve.arg("--config").arg(self.file());
        } else {
            serve.args(["--kafka", &self.brokers]);
        }
        // What it starts is known by this folder.
        serve.current_dir(self.folder()).envs(self.environment.iter().cloned());
        serve
    }

    /// Whatever runs in this folder is of the node.
    pub fn folder(&self) -> &Path {
        self.data.parent().unwrap_or(&self.data)
    }

    /// The process that runs.
    ///
    /// # Errors
    ///
    /// When none does.
    pub fn node(&mut self) -> Result<&mut Node, NotShown> {
        let name = &self.name;
        self.up.as_mut().map(|up| &mut up.0).ok_or_else(|| broken(format!("{name} is not up")))
    }

    /// Its control API.
    ///
    /// # Errors
    ///
    /// When it is not up, or in a network of its own.
    pub fn api(&self) -> Result<&Api, NotShown> {
        let api = self.up.as_ref().and_then(|up| up.1.as_ref());
        api.ok_or_else(|| broken(format!("{} is not up", self.name)))
    }

    /// SIGKILL, confirmed.
    ///
    /// # Errors
    ///
    /// When it was gone before.
    pub fn kill(&mut self) -> Result<(), NotShown> {
        let (was_killed, tail) = (self.node()?.kill()?, self.node()?.tail());
        demand!(was_killed, "{} was gone before SIGKILL: {tail}", self.name);
        self.up = None;
        Ok(())
    }

    /// Ends the node by a signal, as systemd does, and demands that it drains.
    ///
    /// # Errors
    ///
    /// When it does not end in time, or with another status than 0.
    pub fn stop(&mut self, signal: Signal, within: Duration) -> Result<Duration, NotShown> {
        let name = self.name.clone();
        let node = self.node()?;
        let (status, took) = node.stop(signal, within)?;
        demand!(status == 0, "{name} ended with status {status}: {}", node.tail());
        self.up = None;
        Ok(took)
    }

    /// The members as `millrace node list -o json` has them.
    ///
    /// # Errors
    ///
    /// When the command fails or prints something else.
    pub fn members(&self) -> Result<Vec<Value>, NotShown> {
        let said = self.list()?;
        let members = said["members"].as_array().cloned();
        members.ok_or_else(|| broken(format!("no members in {said}")))
    }

    fn list(&self) -> Result<Value, NotShown> {
        let said = self.run(&["node", "list", "-o", "json"])?;
        serde_json::from_str(&said).during("read what `node list` printed")
    }
}
