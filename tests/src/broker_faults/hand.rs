//! The independent client: Kafka's own for Java, as a process that is told what to do line by line
//! (`tests/kafka/Hand.java`). It makes the faults that a topic can have, the load, and the last read.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::harness::kafka::Kafka;
use crate::harness::{binaries, command};
use crate::promise::{During, NotShown, broken};

/// What a command may take on a loaded machine: some wait for a broker that has just started.
const PATIENCE: Duration = Duration::from_secs(60);

/// Start and end of a partition.
pub(super) type Ends = (i64, i64);

#[derive(Debug)]
pub(super) struct Hand {
    child: Child,
    input: ChildStdin,
    answers: Receiver<String>,
    dir: PathBuf,
}

impl Hand {
    /// Starts it; files that it writes go into `dir`.
    pub(super) fn start(kafka: &Kafka, brokers: &str, dir: &Path) -> Result<Self, NotShown> {
        std::fs::create_dir_all(dir).during("make the client's folder")?;
        let mut java = kafka.java();
        java.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        let log4j = binaries::root().join("tests/kafka/log4j2.properties");
        java.arg(format!("-Dlog4j2.configurationFile={}", log4j.display()));
        java.arg(binaries::root().join("tests/kafka/Hand.java")).arg(brokers);
        let log = std::fs::File::create(dir.join("hand.log")).during("make the client's log")?;
        java.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::from(log));
        let mut child = java.spawn().during("start the Java client")?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = (input, output) else {
            return Err(broken("the Java client has no pipes"));
        };
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // Nobody asks any more when the other end is gone.
                drop(sender.send(line));
            }
        });
        let hand = Self { child, input, answers, dir: dir.to_owned() };
        hand.answer("start")?;
        Ok(hand)
    }

    fn answer(&self, asked: &str) -> Result<Vec<String>, NotShown> {
        let (until, mut lines) = (Instant::now() + PATIENCE, Vec::new());
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.answers.recv_timeout(left) {
                Ok(line) if line == "ok" => return Ok(lines),
                Ok(line) if line.starts_with("failed ") => {
                    return Err(broken(format!("the Java client: {asked}: {line}")));
                }
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(broken(format!("the Java client: {asked}: no answer")));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(broken(format!("the Java client ended at {asked}")));
                }
            }
        }
    }

    fn ask(&mut self, words: &[&str]) -> Result<Vec<String>, NotShown> {
        let line = words.join("\t");
        writeln!(self.input, "{line}").during("tell the Java client")?;
        self.answer(&line.replace('\t', " "))
    }

    fn number(&mut self, words: &[&str]) -> Result<i64, NotShown> {
        let said = self.ask(words)?;
        let number = said.first().and_then(|line| line.parse().ok());
        number.ok_or_else(|| broken(format!("the Java client: {words:?}: {said:?}")))
    }

    /// Makes a topic whose records have the broker's time; `settings` as `key=value`, with commas.
    pub(super) fn create(
        &mut self,
        topic: &str,
        partitions: usize,
        settings: &str,
    ) -> Result<(), NotShown> {
        self.ask(&["create", topic, &partitions.to_string(), settings]).map(drop)
    }

    /// Deletes a topic; returns when the broker does not know it any more.
    pub(super) fn delete(&mut self, topic: &str) -> Result<(), NotShown> {
        self.ask(&["delete", topic]).map(drop)
    }

    /// Adds partitions, so that there are so many.
    pub(super) fn grow(&mut self, topic: &str, partitions: usize) -> Result<(), NotShown> {
        self.ask(&["grow", topic, &partitions.to_string()]).map(drop)
    }

    /// Deletes all records of a partition there are now; its start then.
    pub(super) fn cut(&mut self, topic: &str, partition: usize) -> Result<i64, NotShown> {
        self.number(&["cut", topic, &partition.to_string()])
    }

    /// Changes a setting of a topic, and reads it back.
    pub(super) fn set(&mut self, topic: &str, key: &str, value: &str) -> Result<(), NotShown> {
        self.ask(&["set", topic, key, value])?;
        let now = self.ask(&["setting", topic, key])?;
        if now == [value] { Ok(()) } else { Err(broken(format!("{topic} has {key} {now:?}"))) }
    }

    /// Starts and ends of a topic's partitions.
    pub(super) fn ends(&mut self, topic: &str) -> Result<Vec<Ends>, NotShown> {
        let said = self.ask(&["ends", topic])?;
        let ends = said.iter().map(|line| {
            let mut parts = line.split('\t').skip(2);
            Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
        });
        let ends: Option<Vec<Ends>> = ends.collect();
        ends.ok_or_else(|| broken(format!("the Java client says of {topic}: {said:?}")))
    }

    /// What a group has committed in a partition.
    pub(super) fn committed(
        &mut self,
        group: &str,
        topic: &str,
        partition: usize,
    ) -> Result<Option<i64>, NotShown> {
        let prefix = format!("{topic}\t{partition}\t");
        let said = self.ask(&["committed", group])?;
        Ok(said.iter().find_map(|line| line.strip_prefix(&prefix)?.parse().ok()))
    }

    /// Sends records of these sizes in one go; returns when they are acknowledged.
    pub(super) fn send(
        &mut self,
        topic: &str,
        partition: usize,
        name: &str,
        sizes: &[usize],
    ) -> Result<(), NotShown> {
        let sizes: Vec<String> = sizes.iter().map(ToString::to_string).collect();
        self.ask(&["send", topic, &partition.to_string(), name, &sizes.join(",")]).map(drop)
    }

    /// Starts a load of so many records a second over these partitions.
    pub(super) fn load(
        &mut self,
        topic: &str,
        partitions: usize,
        rate: u32,
        name: &str,
    ) -> Result<(), NotShown> {
        self.ask(&["load", topic, &partitions.to_string(), &rate.to_string(), name]).map(drop)
    }

    /// Ends a load; how many of its records were not acknowledged within `seconds`.
    pub(super) fn unload(&mut self, topic: &str, seconds: u32) -> Result<i64, NotShown> {
        let file = self.dir.join(format!("{topic}.acknowledged"));
        self.number(&["unload", topic, &file.to_string_lossy(), &seconds.to_string()])
    }

    /// All records of a topic there are now, in a file with a line for each.
    pub(super) fn read(&mut self, topic: &str) -> Result<PathBuf, NotShown> {
        let file = self.dir.join(format!("{topic}.records"));
        self.ask(&["read", topic, &file.to_string_lossy()])?;
        Ok(file)
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        command::end(&mut self.child);
    }
}
