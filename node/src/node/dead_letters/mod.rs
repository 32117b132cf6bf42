//! Dead letters of a running node: by cause, edited, put back, purged. Which are done with is a
//! position on their topic, of a shard that the cluster's state gives to each such topic. Edits lie
//! in a topic beside it, `<topic>.edits`.

mod done;
mod job;
mod scan;

use std::collections::BTreeMap;
use std::sync::Arc;

use bus::{Append, BatchBuilder, Headers, Timestamp, TopicInfo, TopicPartition, TopicSpec};
use cluster::Command;
use dispatch::DeadHead;
use gateway::Data;
use gateway::api::{
    API, DeadLetterChoice, DeadLetterInfo, DeadLetterList, Redrive, RedriveState, RedriveStatus,
};
use tokio_util::sync::CancellationToken;

use super::Node;
use super::status::rfc3339;
use super::triggers::of_bus;
use crate::commands::error::{CommandError, exit};
use job::{Job, Progress};
use scan::{Choice, Letters};

/// What an edit's key takes beside its value.
const EDIT_BYTES: usize = 1 << 10;

/// The redrives of a node since it started, by topic: the last of each.
#[derive(Debug, Default)]
pub(super) struct Redrives(BTreeMap<String, (Progress, CancellationToken)>);

/// The pseudo trigger under which whoever puts back letters of a topic is known at the bus. A replay
/// has one already.
pub(super) fn redriver_name(topic: &str) -> String {
    if topic.contains('/') { topic.to_owned() } else { format!("dead-letters/{topic}") }
}

impl Node {
    pub(super) async fn list_dead_letters(
        &self,
        topic: &str,
        asked: &DeadLetterChoice,
    ) -> Result<DeadLetterList, CommandError> {
        let choice = choose(&asked.trigger, &asked.cause, &asked.since)?;
        let letters = self.letters(topic).await?;
        letters.list(&*self.inner.bus, &choice).await.map_err(|error| of_bus(&error))
    }

    pub(super) async fn show_dead_letter(
        &self,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> Result<DeadLetterInfo, CommandError> {
        let letters = self.letters(topic).await?;
        let place = TopicPartition::new(topic, partition);
        let marks = self.inner.bus.watermarks(&place).await.map_err(|error| of_bus(&error))?;
        let edited = letters.edits.get(&(partition, offset)).cloned();
        let done = letters.done(partition, marks).contains(offset);
        let mut found = None;
        if (marks.start.0..marks.end.0).contains(&offset) {
            let read = scan::read(&*self.inner.bus, &place, offset, offset + 1, |record| {
                found = Some(info_of(&place, record, done));
            });
            read.await.map_err(|error| of_bus(&error))?;
        }
        let mut info = found.ok_or_else(|| {
            let message = format!("there is no record {place}@{offset}");
            CommandError::new(exit::NOT_FOUND, "E0406", message)
        })??;
        info.edited = edited.map(|it| Data::from(&it[..]));
        Ok(info)
    }

    pub(super) async fn edit(
        &self,
        topic: &str,
        partition: i32,
        offset: i64,
        value: &[u8],
    ) -> Result<DeadLetterInfo, CommandError> {
        let info = self.show_dead_letter(topic, partition, offset).await?;
        if info.done {
            let message = format!("{topic}[{partition}]@{offset} was put back or purged already");
            return Err(CommandError::new(exit::CONFLICT, "E0543", message));
        }
        self.check_fits(&info, value)?;
        // A redrive that runs has read the edits there were.
        let _one = self.inner.redriving.lock().await;
        self.check_none_runs(topic)?;
        let letters = self.inner.bus.topic(topic).ok_or_else(|| unknown(topic))?;
        let name = self.edits_topic(&letters).await?;
        let key = scan::edit_key(&letters, partition, offset);
        let mut batch = BatchBuilder::default();
        batch.push(Timestamp::now(), Some(key.as_bytes()), Some(value), Headers::default());
        let batch = batch.finish().expect("a record was pushed");
        let to = TopicPartition::new(name, 0);
        let appended = self.inner.bus.append(vec![Append { to, batch }]).await;
        appended.map_err(|error| of_bus(&error))?;
        tracing::info!(topic, partition, offset, "a dead letter was edited");
        self.show_dead_letter(topic, partition, offset).await
    }

    /// Whether the record with this value has room in the topic that it goes back to.
    fn check_fits(&self, info: &DeadLetterInfo, value: &[u8]) -> Result<(), CommandError> {
        let source = self.inner.bus.topic(&info.topic).ok_or_else(|| unknown(&info.topic))?;
        let part = |data: &Option<Data>| data.as_ref().map_or(0, |it| it.as_bytes().len());
        let headers = info.record.headers.iter();
        // Each has two lengths.
        let headers = headers.map(|it| it.name.as_bytes().len() + part(&it.value) + 8);
        let bytes = part(&info.record.key) + headers.sum::<usize>() + value.len();
        let limit_bytes = source.spec.record_bytes_max;
        if limit_bytes < bytes {
            let partition = TopicPartition::new(&*info.topic, info.partition);
            return Err(of_bus(&bus::Error::TooLarge { partition, bytes, limit_bytes }));
        }
        Ok(())
    }

    /// The topic of a topic's edits; made when there is none.
    async fn edits_topic(&self, letters: &TopicInfo) -> Result<String, CommandError> {
        let name = scan::edits_topic(&letters.spec.name);
        if self.inner.bus.topic(&name).is_some() {
            return Ok(name);
        }
        if self.inner.kafka.as_ref().is_some_and(|kafka| kafka.create_topics != Some(true)) {
            let message = format!("there is no topic {name} on Kafka, where edits are kept");
            return Err(CommandError::new(exit::NOT_FOUND, "E0404", message)
                .help("make it with one partition, without a limit of age"));
        }
        let mut spec = TopicSpec::new(name.as_str(), 1);
        spec.record_bytes_max = letters.spec.record_bytes_max.saturating_add(EDIT_BYTES);
        self.inner.bus.create_topic(spec).await.map_err(|error| of_bus(&error))?;
        Ok(name)
    }

    /// Begins to put back or purge, or says what that would do.
    pub(super) async fn begin_redrive(
        &self,
        topic: &str,
        asked: &Redrive,
        purge: bool,
    ) -> Result<RedriveStatus, CommandError> {
        let choice = choose(&asked.trigger, &asked.cause, &asked.since)?;
        let limit = asked.limit.unwrap_or(u64::MAX);
        drop(self.changing().await?);
        // No edit comes between what is read here and the start.
        let _one = self.inner.redriving.lock().await;
        if !asked.dry_run {
            self.check_none_runs(topic)?;
        }
        let letters = self.letters(topic).await?;
        let counted = letters.count(&*self.inner.bus, &choice, limit).await;
        let counted = counted.map_err(|error| of_bus(&error))?;
        let status = RedriveStatus {
            api: API,
            topic: topic.to_owned(),
            node: None,
            purge,
            state: RedriveState::Preview,
            matched: counted.matched,
            done: 0,
            edited: if asked.dry_run { counted.edited } else { 0 },
            overtaking: if purge { 0 } else { counted.overtaking },
            to: if purge { Vec::new() } else { counted.to.into_iter().collect() },
            started: rfc3339(Timestamp::now()),
            error: None,
        };
        if let Some(gone) = status.to.iter().find(|it| self.inner.bus.topic(it).is_none()) {
            return Err(unknown(gone).help("make it again, or purge what came from it"));
        }
        if asked.dry_run {
            return Ok(status);
        }
        self.append(Command::Redrive { topic: topic.to_owned() }).await?;
        let redriver = self.state(|state| state.redrivers()[topic]);
        self.inner.groups.learn(redriver.shard, &redriver_name(topic));
        let status = RedriveStatus { state: RedriveState::Running, ..status };
        let progress = Progress::new(status.clone());
        let cancel = self.inner.shutdown.child_token();
        let job = Job {
            bus: Arc::clone(&self.inner.bus),
            shard: redriver.shard,
            epoch: redriver.epoch,
            letters,
            choice,
            purge,
            limit,
            rate: asked.rate,
            progress: progress.clone(),
            cancel: cancel.clone(),
            pace: None,
        };
        let mut redrives = self.inner.redrives.lock().expect("nothing panics while holding it");
        redrives.0.insert(topic.to_owned(), (progress, cancel));
        drop(redrives);
        tracing::info!(topic, purge, matched = status.matched, "dead letters are put back");
        drop(tokio::spawn(job.run()));
        Ok(status)
    }

    pub(super) fn redrive_of(&self, topic: &str) -> Option<RedriveStatus> {
        let redrives = self.inner.redrives.lock().expect("nothing panics while holding it");
        redrives.0.get(topic).map(|(progress, _)| progress.now())
    }

    pub(super) fn end_redrive(&self, topic: &str) {
        let redrives = self.inner.redrives.lock().expect("nothing panics while holding it");
        if let Some((_, cancel)) = redrives.0.get(topic) {
            cancel.cancel();
        }
    }

    fn check_none_runs(&self, topic: &str) -> Result<(), CommandError> {
        let runs = self.redrive_of(topic).is_some_and(|status| !job::is_over(&status));
        if !runs {
            return Ok(());
        }
        let message = format!("dead letters of {topic} are being put back or purged");
        Err(CommandError::new(exit::CONFLICT, "E0540", message)
            .help("wait for it, or stop it: `millrace dead-letter redrive NAME --stop`"))
    }

    async fn letters(&self, topic: &str) -> Result<Letters, CommandError> {
        let info = self.inner.bus.topic(topic).ok_or_else(|| unknown(topic))?;
        let redriver = self.state(|state| state.redrivers().get(topic).map(|it| it.shard));
        if let Some(shard) = redriver {
            self.inner.groups.learn(shard, &redriver_name(topic));
        }
        let looked = Letters::look(&*self.inner.bus, info, redriver).await;
        looked.map_err(|error| of_bus(&error))
    }
}

fn unknown(topic: &str) -> CommandError {
    of_bus(&bus::Error::UnknownTopic { topic: topic.to_owned() })
}

fn choose(
    trigger: &Option<String>,
    cause: &Option<String>,
    since: &Option<String>,
) -> Result<Choice, CommandError> {
    let time = |text: &String| {
        let time = text.parse::<jiff::Timestamp>().map_err(|_wrong| {
            let message = format!("`{}` is no time", text.escape_debug());
            CommandError::new(exit::USAGE, "E0513", message).help("such as 2013-01-02T03:04:05Z")
        })?;
        Ok::<_, CommandError>(Timestamp(time.as_millisecond()))
    };
    let since = since.as_ref().map(time).transpose()?;
    Ok(Choice { trigger: trigger.clone(), cause: cause.clone(), since })
}

fn info_of(
    place: &TopicPartition,
    record: bus::RecordView<'_>,
    done: bool,
) -> Result<DeadLetterInfo, CommandError> {
    let Some((head, own)) = DeadHead::read(record.headers) else {
        let message = format!("{place}@{} is no dead letter", record.offset);
        return Err(CommandError::new(exit::CONFLICT, "E0541", message));
    };
    let own = bus::RecordView { timestamp: head.timestamp, headers: own.headers(), ..record };
    Ok(DeadLetterInfo {
        api: API,
        done,
        record: gateway::record_data(place, own),
        edited: None,
        cause: head.cause.to_owned(),
        attempts: head.attempts,
        topic: head.topic.to_owned(),
        partition: head.partition,
        offset: head.offset,
        trigger: head.trigger.to_owned(),
        function: head.function.to_owned(),
        revision: head.revision.to_owned(),
        invocation: head.invocation.map(str::to_owned),
        error_type: head.error_type.to_owned(),
        error_message: head.error_message.to_owned(),
        at: rfc3339(head.at),
    })
}
