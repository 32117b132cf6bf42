//! The broker as the bench sees it: topics made and deleted, how far they reach, records of theirs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};

use super::service;
use crate::Failed;

/// How long the broker may take for a question, while it is busy with what is measured.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to the broker.
pub(crate) struct Broker {
    pub(crate) address: String,
    pid: Option<u32>,
    consumer: BaseConsumer,
    admin: AdminClient<DefaultClientContext>,
}

/// Values by the offset of the record that they came from.
pub(crate) type Sample = BTreeMap<i64, Vec<u8>>;

impl Broker {
    /// Connects. Without the broker's process id its CPU is not known.
    pub(crate) fn connect(address: &str, pid: Option<u32>) -> Result<Self, Failed> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", address)
            .set("group.id", "millrace-bench-watch")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error");
        let (consumer, admin) = (config.create()?, config.create()?);
        Ok(Self { address: address.to_owned(), pid, consumer, admin })
    }

    /// CPU time of the broker's process so far; zero when it is not known.
    pub(crate) fn cpu(&self) -> Result<Duration, Failed> {
        self.pid.map_or(Ok(Duration::ZERO), service::cpu)
    }

    /// Makes topics, and waits until the broker leads their partitions.
    pub(crate) async fn make(&self, names: &[String], partitions: i32) -> Result<(), Failed> {
        let topics: Vec<NewTopic<'_>> = names
            .iter()
            .map(|name| {
                NewTopic::new(name, partitions, TopicReplication::Fixed(1))
                    .set("retention.ms", "-1")
                    .set("retention.bytes", "-1")
                    // What was deleted must not fill the disk for a minute.
                    .set("file.delete.delay.ms", "1000")
            })
            .collect();
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        for made in self.admin.create_topics(&topics, &options).await? {
            made.map_err(|(name, code)| format!("make topic {name}: {code}"))?;
        }
        for name in names {
            let until = Instant::now() + PATIENCE;
            while !self.is_led(name, partitions)? {
                if until <= Instant::now() {
                    return Err(format!("topic {name} does not appear").into());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// Whether all partitions of a topic can be asked; the client looks anew.
    fn is_led(&self, name: &str, partitions: i32) -> Result<bool, Failed> {
        let metadata = self.consumer.fetch_metadata(Some(name), PATIENCE)?;
        let topic = metadata.topics().first().ok_or("an answer about no topic")?;
        let led = topic.partitions().iter().filter(|it| it.error().is_none()).count();
        Ok(i32::try_from(led) == Ok(partitions) && self.reach(name, partitions).is_ok())
    }

    pub(crate) async fn delete(&self, name: &str) -> Result<(), Failed> {
        let deleted = self.admin.delete_topics(&[name], &AdminOptions::new()).await?;
        for one in deleted {
            one.map_err(|(name, code)| format!("delete topic {name}: {code}"))?;
        }
        Ok(())
    }

    /// How many records a topic got that loses none: the sum of its partitions' ends, in one
    /// request.
    pub(crate) fn reach(&self, topic: &str, partitions: i32) -> Result<u64, Failed> {
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            // As a time, this offset asks for the end.
            list.add_partition_offset(topic, partition, Offset::End)?;
        }
        let ends = self.consumer.offsets_for_times(list, PATIENCE)?;
        let mut sum = 0;
        for one in ends.elements() {
            one.error()?;
            match one.offset() {
                Offset::Offset(end) => sum += end.unsigned_abs(),
                other => return Err(format!("the end of {topic} is {other:?}").into()),
            }
        }
        Ok(sum)
    }

    /// The first outputs of a topic's first partition. Each must have the header of a node, and
    /// come from the first partition of its source.
    pub(crate) fn sample(&self, topic: &str, count: usize) -> Result<Sample, Failed> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, 0, Offset::Offset(0))?;
        self.consumer.assign(&list)?;
        let mut sample = Sample::new();
        while sample.len() < count {
            let message = self.consumer.poll(PATIENCE).ok_or("no outputs to look at")??;
            let headers = message.headers().ok_or("an output without a header")?;
            let origin = headers.get_as::<str>(0)?;
            if headers.count() != 1 || origin.key != dispatch::ORIGIN {
                return Err("an output with other headers than a node's".into());
            }
            let origin = origin.value.unwrap_or_default();
            let parts: Vec<&str> = origin.split(';').collect();
            let ["1", "in", "0", offset, "0", revision, "1", _epoch] = parts[..] else {
                return Err(format!("an output with an odd origin: {origin}").into());
            };
            if revision.len() != 12 {
                return Err(format!("a revision as long as nobody's: {origin}").into());
            }
            sample.insert(offset.parse()?, message.payload().unwrap_or_default().to_vec());
        }
        self.consumer.unassign()?;
        Ok(sample)
    }
}
