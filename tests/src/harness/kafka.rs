//! A real Apache Kafka for tests: fetched from Maven Central with `mvn`, formatted and started as
//! one small process that is broker and controller, stopped, killed, paused and started again.
//!
//! The jars lie in `target/kafka`; without Java or Maven there is no broker, and the promise says
//! so. The flags are for a quick start and little memory, unless figures are taken beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::network::Host;
use crate::harness::node::Node;
use crate::harness::{binaries, command, ports};
use crate::promise::{During, NotShown, broken};

/// Fetching may have to download 43 MB.
const FETCH_PATIENCE: Duration = Duration::from_secs(600);
/// What a Java program may take on a loaded machine.
const JAVA_PATIENCE: Duration = Duration::from_secs(120);
/// A broker that was killed takes 3 s to come back, and more under load.
const START_PATIENCE: Duration = Duration::from_secs(90);
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// The user that listeners with a password know.
pub const USER: &str = "millrace";
/// Its password.
pub const PASSWORD: &str = "a-password of the tests";
/// The password of the key store, which is thrown away with its folder.
const STORE_PASSWORD: &str = "of-the-tests";

/// The program: its jars, ready to run.
#[derive(Clone, Debug)]
pub struct Kafka {
    dir: PathBuf,
}

impl Kafka {
    /// Fetches what is not there yet.
    ///
    /// # Errors
    ///
    /// [`NotShown::Unchecked`] when Java or Maven is missing or the artifacts cannot be had.
    pub fn fetch() -> Result<Self, NotShown> {
        for tool in ["java", "mvn", "keytool"] {
            let mut asked = Command::new(tool);
            asked.arg(if tool == "keytool" { "-help" } else { "-version" });
            if command::run(&mut asked, JAVA_PATIENCE).is_err() {
                return Err(NotShown::Unchecked(format!("there is no `{tool}` on this machine")));
            }
        }
        let kafka = Self { dir: binaries::target().join("kafka") };
        let complete = kafka.dir.join("complete");
        let pom = binaries::root().join("tests/kafka/pom.xml");
        let wanted = fs::read_to_string(&pom).during("read the broker's pom")?;
        if fs::read_to_string(&complete).is_ok_and(|there| there == wanted) {
            return Ok(kafka);
        }
        drop(fs::remove_dir_all(&kafka.dir));
        fs::create_dir_all(&kafka.dir).during("make the broker's folder")?;
        let mut mvn = Command::new("mvn");
        mvn.args(["-q", "-B", "-f"]).arg(&pom).arg("dependency:copy-dependencies");
        mvn.arg(format!("-DoutputDirectory={}", kafka.libs().display()));
        let fetched = command::run(&mut mvn, FETCH_PATIENCE)?;
        if fetched.status != Some(0) {
            let said = fetched.all();
            return Err(NotShown::Unchecked(format!("Kafka's artifacts cannot be had: {said}")));
        }
        kafka.archive_classes()?;
        fs::write(&complete, wanted).during("note that the broker is complete")?;
        Ok(kafka)
    }

    fn libs(&self) -> PathBuf {
        self.dir.join("libs")
    }

    fn archive(&self) -> PathBuf {
        self.dir.join("broker.jsa")
    }

    /// Writes down the classes that a broker loads: each start is a second quicker.
    fn archive_classes(&self) -> Result<(), NotShown> {
        let dir = self.dir.join("first");
        let mut first = Broker::format(Host::HERE, self, &dir, Listeners::Plain)?;
        let flag = format!("-XX:ArchiveClassesAtExit={}", self.archive().display());
        first.start_with(&flag)?;
        first.stop()?;
        fs::remove_dir_all(&dir).during("remove the first broker")
    }

    /// A Java program with Kafka's classes.
    #[must_use]
    pub fn java(&self) -> Command {
        let mut java = Command::new("java");
        java.arg("-cp").arg(format!("{}/*", self.libs().display()));
        java
    }
}

/// Which doors a broker has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listeners {
    /// Plaintext only.
    Plain,
    /// Also TLS with SCRAM-SHA-512, with a certificate made for it.
    PlainAndScram,
    /// Also one with a password in the clear, which asks again every [`REAUTHENTICATION`].
    PlainAndPassword,
}

/// How long a connection with a password is good for until it has to show it again.
pub const REAUTHENTICATION: Duration = Duration::from_secs(4);

/// A broker, running or not; its records and ports stay.
#[derive(Debug)]
pub struct Broker {
    kafka: Kafka,
    dir: PathBuf,
    port: u16,
    second_port: u16,
    host: Host,
    process: Option<Node>,
    /// Compiled as in production, which takes a start longer.
    is_for_figures: bool,
}

impl Broker {
    /// Makes a broker in an empty folder and starts it.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn start(kafka: &Kafka, dir: &Path, listeners: Listeners) -> Result<Self, NotShown> {
        Self::start_on(Host::HERE, kafka, dir, listeners)
    }

    /// The same on a host of its own.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn start_on(
        host: Host,
        kafka: &Kafka,
        dir: &Path,
        listeners: Listeners,
    ) -> Result<Self, NotShown> {
        let mut broker = Self::format(host, kafka, dir, listeners)?;
        broker.start_again()?;
        Ok(broker)
    }

    /// As [`start`](Self::start), with the JVM's own defaults for what costs or saves time.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn start_for_figures(kafka: &Kafka, dir: &Path) -> Result<Self, NotShown> {
        let mut broker = Self::format(Host::HERE, kafka, dir, Listeners::Plain)?;
        broker.is_for_figures = true;
        broker.start_again()?;
        Ok(broker)
    }

    fn format(
        host: Host,
        kafka: &Kafka,
        dir: &Path,
        listeners: Listeners,
    ) -> Result<Self, NotShown> {
        fs::create_dir_all(dir).during("make a broker's folder")?;
        let [port, controller, second_port] = ports::free()?;
        let broker = Self {
            kafka: kafka.clone(),
            dir: dir.to_owned(),
            port,
            second_port,
            host,
            process: None,
            is_for_figures: false,
        };
        let has_scram = listeners == Listeners::PlainAndScram;
        let mut text = properties(&broker, controller, listeners);
        match listeners {
            Listeners::Plain => {}
            Listeners::PlainAndScram => {
                broker.make_certificate()?;
                text.push_str(&scram_properties(dir));
            }
            Listeners::PlainAndPassword => {
                broker.compile_doorkeeper()?;
                broker.permit(true)?;
                text.push_str(&password_properties(&broker.permitted()));
            }
        }
        fs::write(broker.properties(), text).during("write a broker's properties")?;
        let mut format = kafka.java();
        format.args(["kafka.tools.StorageTool", "format", "-t", "oXbhaMb_Q5eTAQVR7LlsLA", "-c"]);
        format.arg(broker.properties());
        if has_scram {
            let user = format!("[name={USER},password=\"{PASSWORD}\"]");
            format.arg("--add-scram").arg(format!("SCRAM-SHA-512={user}"));
        }
        let formatted = command::run(&mut format, JAVA_PATIENCE)?;
        if formatted.status != Some(0) {
            return Err(broken(format!("format the broker: {}", formatted.all())));
        }
        Ok(broker)
    }

    /// What asks for the password is a class of our own: it reads the list anew each time.
    fn compile_doorkeeper(&self) -> Result<(), NotShown> {
        let mut javac = Command::new("javac");
        javac.arg("-cp").arg(format!("{}/*", self.kafka.libs().display()));
        javac.arg("-d").arg(self.classes());
        javac.arg(binaries::root().join("tests/kafka/Doorkeeper.java"));
        let said = command::run(&mut javac, JAVA_PATIENCE)?;
        if said.status == Some(0) { Ok(()) } else { Err(broken(said.all())) }
    }

    fn classes(&self) -> PathBuf {
        self.dir.join("classes")
    }

    fn permitted(&self) -> PathBuf {
        self.dir.join("permitted")
    }

    /// Whether the user may enter with the password from now on.
    ///
    /// # Errors
    ///
    /// When the list cannot be written.
    pub fn permit(&self, is_permitted: bool) -> Result<(), NotShown> {
        let line = if is_permitted { format!("{USER} {PASSWORD}\n") } else { String::new() };
        fs::write(self.permitted(), line).during("write who may enter")
    }

    /// A key of its own, and its certificate as the clients' authority.
    fn make_certificate(&self) -> Result<(), NotShown> {
        let store = self.dir.join("broker.p12");
        let keytool = |arguments: &[&str]| -> Result<(), NotShown> {
            let mut tool = Command::new("keytool");
            tool.args(arguments).args(["-alias", "broker", "-storepass", STORE_PASSWORD]);
            tool.arg("-keystore").arg(&store);
            let said = command::run(&mut tool, JAVA_PATIENCE)?;
            if said.status == Some(0) { Ok(()) } else { Err(broken(said.all())) }
        };
        keytool(&[
            "-genkeypair",
            "-keyalg",
            "RSA",
            "-keysize",
            "2048",
            "-dname",
            "CN=localhost",
            "-ext",
            "SAN=DNS:localhost,IP:127.0.0.1",
            "-ext",
            "BC=ca:true",
            "-validity",
            "2",
            "-storetype",
            "PKCS12",
        ])?;
        let authority = self.authority();
        keytool(&["-exportcert", "-rfc", "-file", &authority.to_string_lossy()])
    }

    fn properties(&self) -> PathBuf {
        self.dir.join("server.properties")
    }

    /// Where the broker says what it does.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join("broker.log")
    }

    /// `host:port` without encryption.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", self.host.ip, self.port)
    }

    /// `host:port` with a password in the clear.
    #[must_use]
    pub fn password_address(&self) -> String {
        format!("127.0.0.1:{}", self.second_port)
    }

    /// `host:port` with TLS and SCRAM-SHA-512.
    #[must_use]
    pub fn scram_address(&self) -> String {
        format!("localhost:{}", self.second_port)
    }

    /// The first file of a partition's records.
    #[must_use]
    pub fn segment(&self, topic: &str, partition: i32) -> PathBuf {
        let folder = self.dir.join("log").join(format!("{topic}-{partition}"));
        folder.join("00000000000000000000.log")
    }

    /// The certificate that a client of the encrypted listener trusts.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.dir.join("authority.pem")
    }

    /// Starts it, with what it had when it ended.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn start_again(&mut self) -> Result<(), NotShown> {
        let flag = format!("-XX:SharedArchiveFile={}", self.kafka.archive().display());
        self.start_with(&flag)
    }

    fn start_with(&mut self, archive: &str) -> Result<(), NotShown> {
        let mut java = self.host.command("java");
        if self.is_for_figures {
            java.arg("-Xmx768m");
        } else {
            java.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]);
            java.arg(archive);
        }
        let log4j = binaries::root().join("tests/kafka/log4j2.properties");
        java.arg(format!("-Dlog4j2.configurationFile={}", log4j.display()));
        let (libs, classes) = (self.kafka.libs(), self.classes());
        let mut path = format!("{}/*", libs.display());
        if classes.is_dir() {
            // Behind the others, as the archive of classes wants it.
            path.push_str(&format!(":{}", classes.display()));
        }
        java.arg("-cp").arg(path).arg("kafka.Kafka").arg(self.properties());
        let mut process = Node::start(&mut java, &self.log())?;
        process.line("a started broker", START_PATIENCE, |line| {
            line.text.contains("Kafka Server started")
        })?;
        self.process = Some(process);
        Ok(())
    }

    fn running(&mut self) -> Result<&mut Node, NotShown> {
        self.process.as_mut().ok_or_else(|| broken("the broker does not run"))
    }

    /// Its process id.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn pid(&mut self) -> Result<u32, NotShown> {
        Ok(self.running()?.pid())
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    ///
    /// When it does not end in time.
    pub fn stop(&mut self) -> Result<(), NotShown> {
        let mut process = self.process.take().ok_or_else(|| broken("the broker does not run"))?;
        // A JVM that a signal ends has 128 and the signal's number as its status.
        process.stop(Signal::TERM, STOP_PATIENCE).map(drop)
    }

    /// SIGKILL, confirmed.
    ///
    /// # Errors
    ///
    /// When something else ended it.
    pub fn kill(&mut self) -> Result<(), NotShown> {
        let mut process = self.process.take().ok_or_else(|| broken("the broker does not run"))?;
        if process.kill()? { Ok(()) } else { Err(broken("the broker ended before it was killed")) }
    }

    /// SIGSTOP: it is there and does not answer.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn pause(&mut self) -> Result<(), NotShown> {
        self.running()?.signal(Signal::STOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn resume(&mut self) -> Result<(), NotShown> {
        self.running()?.signal(Signal::CONT)
    }
}

fn properties(broker: &Broker, controller: u16, doors: Listeners) -> String {
    let Broker { dir, port, second_port, host: Host { ip, .. }, .. } = broker;
    let mut listeners = format!("PLAINTEXT://{ip}:{port}");
    let mut advertised = listeners.clone();
    let second = match doors {
        Listeners::Plain => None,
        Listeners::PlainAndScram => Some(("SASL_SSL", "localhost")),
        Listeners::PlainAndPassword => Some(("SASL_PLAINTEXT", "127.0.0.1")),
    };
    if let Some((protocol, host)) = second {
        listeners.push_str(&format!(",{protocol}://127.0.0.1:{second_port}"));
        advertised.push_str(&format!(",{protocol}://{host}:{second_port}"));
    }
    format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners={listeners},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners={advertised}\n\
         controller.listener.names=CONTROLLER\n\
         inter.broker.listener.name=PLAINTEXT\n\
         listener.security.protocol.map=\
         CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,\
         SASL_PLAINTEXT:SASL_PLAINTEXT\n\
         log.dirs={}\n\
         offsets.topic.replication.factor=1\n\
         offsets.topic.num.partitions=4\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         transaction.state.log.num.partitions=4\n\
         share.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\n\
         auto.create.topics.enable=false\n\
         log.cleaner.dedupe.buffer.size=4194304\n\
         log.cleaner.threads=1\n\
         num.io.threads=2\n\
         num.network.threads=2\n\
         background.threads=2\n\
         broker.session.timeout.ms=2000\n\
         broker.heartbeat.interval.ms=500\n",
        dir.join("log").display()
    )
}

fn scram_properties(dir: &Path) -> String {
    format!(
        "sasl.enabled.mechanisms=SCRAM-SHA-512\n\
         listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=\
         org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
         ssl.keystore.type=PKCS12\n\
         ssl.keystore.location={}\n\
         ssl.keystore.password={STORE_PASSWORD}\n\
         ssl.key.password={STORE_PASSWORD}\n",
        dir.join("broker.p12").display()
    )
}

fn password_properties(permitted: &Path) -> String {
    let prefix = "listener.name.sasl_plaintext.plain";
    format!(
        "sasl.enabled.mechanisms=PLAIN\n\
         {prefix}.sasl.jaas.config=\
         org.apache.kafka.common.security.plain.PlainLoginModule required list=\"{}\";\n\
         {prefix}.sasl.server.callback.handler.class=Doorkeeper\n\
         {prefix}.connections.max.reauth.ms={}\n",
        permitted.display(),
        REAUTHENTICATION.as_millis()
    )
}
