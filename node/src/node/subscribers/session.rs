//! One subscription: reads partitions that are assigned to it and to nobody, in no group, and sends
//! frames as fast as they are taken. A subscriber that is slow keeps its own reader waiting.

use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, Error, Offset, Reader, RecordBatch, Start as From, TopicPartition};
use exchange::{Ended, Gone, Outlet};
use live::{Reason, RecordsWriter, Resume, Start, Subscribe, TopicPlace};
use tokio::time::{MissedTickBehavior, interval};

use super::begin::{check_resume, go_on};

/// What one look into the bus takes, and a frame has unless a record is larger.
const FRAME_BYTES: usize = 256 << 10;
/// How often topics are looked at for new partitions.
const LOOK: Duration = Duration::from_secs(2);

/// See the [module documentation](self).
pub(super) struct Session<'a> {
    bus: &'a dyn Bus,
    /// Where it is: what the subscriber has been sent is behind it.
    at: Resume,
    reader: Box<dyn Reader>,
}

impl<'a> Session<'a> {
    /// Finds where to begin.
    pub(super) async fn open(
        bus: &'a dyn Bus,
        cluster: &str,
        asked: &Subscribe,
    ) -> Result<Self, Ended> {
        let mut topics = Vec::new();
        for name in &asked.topics {
            topics.push((name.clone(), topic_of(bus, name).await?));
        }
        if let Start::Resume(resume) = &asked.start {
            let ids: Vec<(String, u64)> =
                topics.iter().map(|(name, (id, _))| (name.clone(), *id)).collect();
            check_resume(resume, cluster, &ids)?;
        }
        let mut at = Resume { cluster: cluster.to_owned(), topics: Vec::new() };
        for (index, (name, (id, partitions))) in topics.into_iter().enumerate() {
            let mut place = TopicPlace { name, id, positions: [].into() };
            for partition in 0..partitions {
                let next = match &asked.start {
                    Start::Resume(resume) => {
                        let marks = bus.watermarks(&partition_of(&place.name, partition)).await;
                        go_on(&resume.topics[index], partition, marks.map_err(of_bus)?)?
                    }
                    Start::Earliest => first_of(bus, &place.name, partition).await?,
                    Start::Latest => {
                        let of = partition_of(&place.name, partition);
                        bus.offset_for(&of, From::Latest).await.map_err(of_bus)?.0
                    }
                };
                place.positions.insert(partition, next);
            }
            at.topics.push(place);
        }
        let reader = reader_of(bus, &at).await?;
        Ok(Self { bus, at, reader })
    }

    /// Sends what there is and what comes, until something ends it.
    pub(super) async fn run(mut self, outlet: &mut Outlet) -> Result<Ended, Gone> {
        outlet.send(&live::welcome(&self.at), 0).await?;
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                fetched = self.reader.fetch(FRAME_BYTES) => match fetched {
                    Ok(fetched) => {
                        for fetched in fetched {
                            self.send(&fetched.partition, &fetched.batch, outlet).await?;
                        }
                    }
                    Err(error) => return Ok(of_bus(error)),
                },
                _look = looks.tick() => {
                    if let Err(ended) = self.look().await {
                        return Ok(ended);
                    }
                }
            }
        }
    }

    async fn send(
        &mut self,
        of: &TopicPartition,
        batch: &RecordBatch,
        outlet: &mut Outlet,
    ) -> Result<(), Gone> {
        let topic = self.at.topics.iter().position(|it| it.name == *of.topic);
        let topic = topic.expect("the reader was given these topics and no others");
        let index = u16::try_from(topic).expect("a request has few topics");
        let partition = u32::try_from(of.partition).expect("partitions are numbered from zero");
        let mut frame = RecordsWriter::new(index, partition);
        for record in batch.iter() {
            let room = FRAME_BYTES.saturating_sub(frame.size());
            if 0 < frame.count() && room < record.payload_bytes() {
                let count = u64::from(frame.count());
                outlet.send(&frame.finish(), count).await?;
                frame = RecordsWriter::new(index, partition);
            }
            let headers: Vec<_> = record.headers.iter().collect();
            let place = (record.offset.0, record.timestamp.0);
            frame.push(place, record.key, record.value, headers.into_iter());
        }
        let count = u64::from(frame.count());
        outlet.send(&frame.finish(), count).await?;
        self.at.advance(topic, partition, batch.last_offset().0);
        Ok(())
    }

    /// Partitions that a topic has gained are read from their start on.
    async fn look(&mut self) -> Result<(), Ended> {
        let (bus, mut has_grown) = (self.bus, false);
        for place in &mut self.at.topics {
            // One that is not known at the moment is the reader's to tell of.
            let Some(info) = bus.topic(&place.name) else { continue };
            if info.id != place.id {
                let said = format!("topic {} was deleted and made again", place.name);
                return Err(Ended::new(Reason::ForeignResume, said));
            }
            let partitions = u32::try_from(info.spec.partitions).unwrap_or(0);
            for partition in 0..partitions {
                if !place.positions.contains_key(&partition) {
                    let first = first_of(bus, &place.name, partition).await?;
                    place.positions.insert(partition, first);
                    has_grown = true;
                }
            }
        }
        if has_grown {
            self.reader = reader_of(bus, &self.at).await?;
        }
        Ok(())
    }
}

fn partition_of(topic: &str, partition: u32) -> TopicPartition {
    TopicPartition::new(topic, i32::try_from(partition).unwrap_or(i32::MAX))
}

/// A topic's id, and how many partitions it has.
async fn topic_of(bus: &dyn Bus, name: &str) -> Result<(u64, u32), Ended> {
    if bus.topic(name).is_none() {
        // Kafka's are in memory once somebody has asked for them.
        bus.watermarks(&partition_of(name, 0)).await.map_err(of_bus)?;
    }
    let unknown = || of_bus(Error::UnknownTopic { topic: name.to_owned() });
    let info = bus.topic(name).ok_or_else(unknown)?;
    Ok((info.id, u32::try_from(info.spec.partitions).unwrap_or(0)))
}

async fn first_of(bus: &dyn Bus, topic: &str, partition: u32) -> Result<i64, Ended> {
    let marks = bus.watermarks(&partition_of(topic, partition)).await;
    Ok(marks.map_err(of_bus)?.start.0)
}

async fn reader_of(bus: &dyn Bus, at: &Resume) -> Result<Box<dyn Reader>, Ended> {
    let mut assigned = Vec::new();
    for topic in &at.topics {
        let name: Arc<str> = topic.name.as_str().into();
        for (partition, next) in &topic.positions {
            let partition = i32::try_from(*partition).unwrap_or(i32::MAX);
            assigned.push((TopicPartition::new(Arc::clone(&name), partition), Offset(*next)));
        }
    }
    bus.reader(assigned).await.map_err(of_bus)
}

fn of_bus(error: Error) -> Ended {
    let reason = match &error {
        Error::UnknownTopic { .. } | Error::UnknownPartition(_) | Error::TopicName { .. } => {
            Reason::UnknownTopic
        }
        Error::TopicReplaced { .. } | Error::TopicRecreated { .. } => Reason::ForeignResume,
        Error::OffsetOutOfRange { offset, end, .. } if end < offset => Reason::BeyondEnd,
        Error::OffsetOutOfRange { .. } => Reason::RecordsGone,
        Error::Closed => Reason::Closing,
        _ => Reason::Unavailable,
    };
    Ended::new(reason, super::super::chain(&error))
}
