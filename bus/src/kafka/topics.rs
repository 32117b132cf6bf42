//! The topics in use, as they were last seen: their ids, partitions and limits. Nobody reports
//! that a topic was deleted, made again or got more partitions, so all in use are looked at every
//! few seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, OwnedResourceSpecifier, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka_ffi::{Described, Description};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::health::{Context, Health};
use crate::{Cleanup, Error, Retention, TopicInfo, TopicPartition, TopicSpec};

/// What a batch of one record takes beyond key, value and headers: 61 bytes of a batch's head, at
/// most 36 of lengths and deltas, the rest in reserve.
const BATCH_HEAD_BYTES: usize = 128;
/// Names asked for and not found that are kept for the next look.
const WANTED_MAX: usize = 1_000;
/// What is asked of a cluster in one request.
const NAMES_A_REQUEST: usize = 200;
/// Topics that one request makes. With their partitions it has to be done within the time that a
/// request has.
const TOPICS_A_REQUEST: usize = 50;
/// How long a change that the controller acknowledged may take to be seen by a broker.
const PROPAGATION: Duration = Duration::from_secs(30);

const ALIVE: u8 = 0;
const GONE: u8 = 1;
const REPLACED: u8 = 2;

/// One topic, from when it was first seen until it is gone.
#[derive(Debug)]
pub(super) struct Topic {
    info: Mutex<TopicInfo>,
    fate: AtomicU8,
}

impl Topic {
    pub(super) fn info(&self) -> TopicInfo {
        self.info.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn id(&self) -> u64 {
        self.info.lock().unwrap_or_else(PoisonError::into_inner).id
    }

    pub(super) fn record_bytes_max(&self) -> usize {
        self.info.lock().unwrap_or_else(PoisonError::into_inner).spec.record_bytes_max
    }

    pub(super) fn cleanup(&self) -> Cleanup {
        self.info.lock().unwrap_or_else(PoisonError::into_inner).spec.cleanup
    }

    /// # Errors
    ///
    /// When it is not there any more.
    pub(super) fn check(&self) -> Result<(), Error> {
        let topic = || self.info().spec.name.to_string();
        match self.fate.load(Ordering::Acquire) {
            GONE => Err(Error::UnknownTopic { topic: topic() }),
            REPLACED => Err(Error::TopicReplaced { topic: topic() }),
            _ => Ok(()),
        }
    }

    fn end(&self, fate: u8) {
        self.fate.store(fate, Ordering::Release);
    }
}

/// The largest batch that a topic of this record limit takes.
pub(super) fn batch_bytes_max(record_bytes_max: usize) -> usize {
    record_bytes_max.saturating_add(BATCH_HEAD_BYTES)
}

/// How large a segment is of a partition that may keep `bytes`: brokers let go of whole segments, and
/// never of the newest. Four of them, but none that a few of its batches fill; `None` where that is
/// the brokers' own size or more.
fn segment_bytes(bytes: u64, batch_bytes_max: usize) -> Option<u64> {
    const DEFAULT: u64 = 1 << 30;
    let segment = (bytes / 4).max(4 * batch_bytes_max as u64);
    (segment < DEFAULT).then_some(segment)
}

/// How the brokers are told of a topic.
fn settings(spec: &TopicSpec) -> Vec<(&'static str, String)> {
    let age = spec.retention.age.map(|age| age.as_millis().to_string());
    let bytes = spec.retention.bytes.map(|bytes| bytes.to_string());
    let batch = batch_bytes_max(spec.record_bytes_max);
    let segment = spec.retention.bytes.and_then(|bytes| segment_bytes(bytes, batch));
    let no_bound = || "-1".to_owned();
    let mut settings = vec![
        ("retention.ms", age.unwrap_or_else(no_bound)),
        ("retention.bytes", bytes.unwrap_or_else(no_bound)),
        ("max.message.bytes", batch.to_string()),
    ];
    settings.extend(segment.map(|segment| ("segment.bytes", segment.to_string())));
    if spec.cleanup == Cleanup::Compact {
        // Mostly small: a segment is closed after an hour, so that it can be compacted, and a fresh
        // partition does not cost the broker two index files of 10 MB.
        let compacted = [
            ("cleanup.policy", "compact"),
            ("segment.ms", "3600000"),
            ("segment.index.bytes", "65536"),
        ];
        settings.extend(compacted.map(|(key, value)| (key, value.to_owned())));
    }
    settings
}

fn new_topic<'a>(spec: &'a TopicSpec, settings: &'a [(&str, String)]) -> NewTopic<'a> {
    // -1: the brokers' own default.
    let topic = NewTopic::new(&spec.name, spec.partitions, TopicReplication::Fixed(-1));
    settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value))
}

/// All topics that were seen.
pub(super) struct Topics {
    pub(super) admin: Arc<AdminClient<Context>>,
    health: Arc<Health>,
    timeout: Duration,
    known: Mutex<BTreeMap<Arc<str>, Arc<Topic>>>,
    /// Held for a look: an answer from before a change never overtakes one from after it.
    order: tokio::sync::Mutex<()>,
    /// Names that were asked for in vain since the last look.
    wanted: Mutex<BTreeSet<String>>,
    /// Notified when a topic ends, or somebody wants one looked at.
    pub(super) changed: Notify,
    pub(super) look: Notify,
}

impl std::fmt::Debug for Topics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topics").field("known", &self.known().len()).finish_non_exhaustive()
    }
}

impl Topics {
    pub(super) fn new(
        admin: Arc<AdminClient<Context>>,
        health: Arc<Health>,
        timeout: Duration,
    ) -> Self {
        let (changed, look) = (Notify::new(), Notify::new());
        let (known, wanted, order) = (Mutex::default(), Mutex::default(), Default::default());
        Self { admin, health, timeout, known, order, wanted, changed, look }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<Topic>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wanted(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ids of all topics that are known.
    pub(super) fn ids(&self) -> BTreeSet<(Arc<str>, u64)> {
        self.known().iter().map(|(name, topic)| (Arc::clone(name), topic.id())).collect()
    }

    /// The topic of this name, from memory. One that is not known is looked for soon.
    pub(super) fn get(&self, name: &str) -> Option<Arc<Topic>> {
        let found = self.known().get(name).cloned();
        if found.is_none() {
            let mut wanted = self.wanted();
            if wanted.len() < WANTED_MAX && wanted.insert(name.to_owned()) {
                self.look.notify_one();
            }
        }
        found
    }

    /// The topic of a partition; asks the brokers when it is not known.
    pub(super) async fn find(&self, place: &TopicPartition) -> Result<Arc<Topic>, Error> {
        let known = |it: &Self| it.known().get(&place.topic).cloned();
        let has = |topic: &Topic| {
            (0..topic.info().spec.partitions).contains(&place.partition) && topic.check().is_ok()
        };
        if let Some(topic) = known(self).filter(|topic| has(topic)) {
            return Ok(topic);
        }
        self.refresh(&[&place.topic]).await?;
        let unknown = || Error::UnknownTopic { topic: place.topic.to_string() };
        let topic = known(self).ok_or_else(unknown)?;
        if has(&topic) { Ok(topic) } else { Err(Error::UnknownPartition(place.clone())) }
    }

    /// Looks at all of these, and at those that are known; every topic there is then.
    pub(super) async fn refresh_all(
        &self,
        listed: BTreeSet<String>,
    ) -> Result<Vec<TopicInfo>, Error> {
        let mut names = listed;
        names.extend(self.known().keys().map(ToString::to_string));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.refresh(&names).await?;
        Ok(self.known().values().map(|topic| topic.info()).collect())
    }

    /// Looks at the topics that are known, and at those that were asked for in vain.
    pub(super) async fn refresh_known(&self) -> Result<(), Error> {
        let mut names = std::mem::take(&mut *self.wanted());
        names.extend(self.known().keys().map(ToString::to_string));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.refresh(&names).await
    }

    /// Looks at topics by name.
    pub(super) async fn refresh(&self, names: &[&str]) -> Result<(), Error> {
        let _order = self.order.lock().await;
        let mut fresh = Vec::new();
        for Described { name, found } in self.describe(names).await? {
            match found {
                Ok(description) => {
                    if !self.is_same(&name, &description) {
                        fresh.push((name, description));
                    }
                }
                Err(error) if error.code == Code::UnknownTopicOrPartition => {
                    self.end(&name, GONE);
                }
                Err(error) if error.code == Code::InvalidTopic => {}
                Err(error) => {
                    return Err(self.health.admin_error("describe a topic", error));
                }
            }
        }
        self.take_in(fresh).await
    }

    /// Waits on one thread for all that is asked, however many requests that is: threads that wait
    /// stay for a while.
    async fn describe(&self, names: &[&str]) -> Result<Vec<Described>, Error> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let (admin, timeout) = (Arc::clone(&self.admin), self.timeout);
        let described = blocking(move || {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let mut described = Vec::with_capacity(names.len());
            for names in names.chunks(NAMES_A_REQUEST) {
                let some = rdkafka_ffi::describe_topics(admin.inner(), names, timeout)?;
                described.extend(some);
            }
            Ok::<_, rdkafka_ffi::AdminError>(described)
        });
        let described = described.await?;
        let described =
            described.map_err(|error| self.health.admin_error("describe topics", error))?;
        self.health.answered();
        Ok(described)
    }

    /// Whether this topic is known already; its partitions are what they are now.
    fn is_same(&self, name: &str, description: &Description) -> bool {
        let Some(topic) = self.known().get(name).cloned() else { return false };
        let mut info = topic.info.lock().unwrap_or_else(PoisonError::into_inner);
        if info.id != id_of(description) {
            return false;
        }
        let partitions = partitions_of(description);
        if info.spec.partitions != partitions {
            let before = info.spec.partitions;
            tracing::info!(topic = name, before, partitions, "the topic has other partitions");
            info.spec.partitions = partitions;
        }
        true
    }

    async fn take_in(&self, fresh: Vec<(String, Description)>) -> Result<(), Error> {
        if fresh.is_empty() {
            return Ok(());
        }
        let mut limits = BTreeMap::new();
        for some in fresh.chunks(NAMES_A_REQUEST) {
            limits.extend(self.configs(some.iter().map(|(name, _)| name.as_str())).await?);
        }
        for (name, description) in fresh {
            let spec = limits.remove(&name).unwrap_or_else(|| TopicSpec::new(name.as_str(), 1));
            let spec = TopicSpec { partitions: partitions_of(&description), ..spec };
            let info = TopicInfo { spec, id: id_of(&description) };
            let topic = Topic { info: Mutex::new(info), fate: AtomicU8::new(ALIVE) };
            let before = self.known().insert(name.as_str().into(), Arc::new(topic));
            if let Some(before) = before {
                tracing::error!(topic = name, "the topic was deleted and made again");
                before.end(REPLACED);
                self.changed.notify_waiters();
            }
        }
        Ok(())
    }

    fn end(&self, name: &str, fate: u8) {
        if let Some(topic) = self.known().remove(name) {
            tracing::warn!(topic = name, "the topic is gone");
            topic.end(fate);
            self.changed.notify_waiters();
        }
    }

    /// Looks at what topics take now, and how long they keep it.
    pub(super) async fn look_at_limits(&self) -> Result<(), Error> {
        let _order = self.order.lock().await;
        let known: Vec<(Arc<str>, Arc<Topic>)> = self
            .known()
            .iter()
            .map(|(name, topic)| (Arc::clone(name), Arc::clone(topic)))
            .collect();
        for topics in known.chunks(NAMES_A_REQUEST) {
            let mut limits = self.configs(topics.iter().map(|(name, _)| &**name)).await?;
            for (name, topic) in topics {
                let Some(now) = limits.remove(&**name) else { continue };
                let mut info = topic.info.lock().unwrap_or_else(PoisonError::into_inner);
                let (before, bytes) = (info.spec.record_bytes_max, now.record_bytes_max);
                if before != bytes {
                    tracing::info!(topic = &**name, before, bytes, "the topic has another limit");
                }
                info.spec.record_bytes_max = bytes;
                info.spec.retention = now.retention;
                info.spec.cleanup = now.cleanup;
            }
        }
        Ok(())
    }

    /// Limits and retention by name.
    async fn configs<'a>(
        &self,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<BTreeMap<String, TopicSpec>, Error> {
        let topics: Vec<_> = names.map(ResourceSpecifier::Topic).collect();
        let options = AdminOptions::new().request_timeout(Some(self.timeout));
        let found = self.admin.describe_configs(&topics, &options).await;
        let found =
            found.map_err(|error| self.health.client_error("read a topic's settings", &error))?;
        let mut specs = BTreeMap::new();
        for one in found {
            match one {
                Ok(resource) => {
                    if let OwnedResourceSpecifier::Topic(name) = &resource.specifier {
                        specs.extend(spec_of(name, &resource).map(|spec| (name.clone(), spec)));
                    }
                }
                // Gone meanwhile; the next look says so.
                Err(Code::UnknownTopicOrPartition) => {}
                Err(code) => {
                    let reason = code.to_string();
                    return Err(self.health.error("read a topic's settings", code, reason));
                }
            }
        }
        Ok(specs)
    }

    /// Makes those of these topics that are missing, and waits until the brokers know them. One
    /// request makes many: the brokers take some 100 ms for it, whether it is for one or fifty.
    pub(super) async fn make(&self, specs: &[TopicSpec]) -> Result<(), (Arc<str>, Error)> {
        let Some(first) = specs.first() else { return Ok(()) };
        let of_first = |error| (Arc::clone(&first.name), error);
        let names: Vec<&str> = specs.iter().map(|spec| &*spec.name).collect();
        self.refresh(&names).await.map_err(of_first)?;
        let missing: Vec<&TopicSpec> = {
            let known = self.known();
            specs.iter().filter(|spec| !known.contains_key(&spec.name)).collect()
        };
        for specs in missing.chunks(TOPICS_A_REQUEST) {
            self.create(specs).await?;
        }
        let names: Vec<&str> = missing.iter().map(|spec| &*spec.name).collect();
        if names.is_empty() { Ok(()) } else { self.wait_for(&names, true).await.map_err(of_first) }
    }

    async fn create(&self, specs: &[&TopicSpec]) -> Result<(), (Arc<str>, Error)> {
        let settings: Vec<Vec<(&str, String)>> = specs.iter().map(|spec| settings(spec)).collect();
        let described = specs.iter().zip(&settings);
        let topics: Vec<NewTopic<'_>> = described.map(|(spec, it)| new_topic(spec, it)).collect();
        let options = AdminOptions::new()
            .request_timeout(Some(self.timeout))
            .operation_timeout(Some(self.timeout));
        let action = "make a topic";
        let mut made = self.admin.create_topics(&topics, &options).await;
        if let Err(KafkaError::AdminOp(Code::DestroyBroker)) = &made {
            // It waited at a connection that the client has given up. If it was carried out all
            // the same, the topics are there.
            made = self.admin.create_topics(&topics, &options).await;
        }
        let of_first = |error| (Arc::clone(&specs[0].name), error);
        let made = made.map_err(|error| of_first(self.health.client_error(action, &error)))?;
        for one in made {
            match one {
                // Somebody else was quicker.
                Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
                Err((name, code)) => {
                    let error = self.health.error(action, code, code.to_string());
                    return Err((name.into(), error));
                }
            }
        }
        Ok(())
    }

    /// Deletes a topic, and waits until the brokers do not know it any more.
    pub(super) async fn delete(&self, name: &str) -> Result<(), Error> {
        let options = AdminOptions::new()
            .request_timeout(Some(self.timeout))
            .operation_timeout(Some(self.timeout));
        let action = "delete a topic";
        let deleted = self.admin.delete_topics(&[name], &options).await;
        let deleted = deleted.map_err(|error| self.health.client_error(action, &error))?;
        for one in deleted {
            match one {
                Ok(_) => {}
                Err((_, Code::UnknownTopicOrPartition)) => {
                    self.end(name, GONE);
                    return Err(Error::UnknownTopic { topic: name.to_owned() });
                }
                Err((_, code)) => return Err(self.health.error(action, code, code.to_string())),
            }
        }
        self.end(name, GONE);
        self.wait_for(&[name], false).await
    }

    async fn wait_for(&self, names: &[&str], is_there: bool) -> Result<(), Error> {
        let until = Instant::now() + PROPAGATION;
        let mut left = names.to_vec();
        loop {
            self.refresh(&left).await?;
            left.retain(|name| self.known().contains_key(*name) != is_there);
            let Some(name) = left.first() else { return Ok(()) };
            if until <= Instant::now() {
                let reason = format!("topic {name} did not appear or go within {PROPAGATION:?}");
                return Err(Error::Unreachable { action: "make or delete a topic", reason });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn id_of(description: &Description) -> u64 {
    folded(description.id)
}

/// The halves of a topic's id are random; what they have in common is nothing.
pub(super) const fn folded(id: u128) -> u64 {
    ((id >> 64) ^ id) as u64
}

fn partitions_of(description: &Description) -> i32 {
    i32::try_from(description.partitions).unwrap_or(i32::MAX)
}

/// What the settings of a topic say; `None` when it has none: it is gone, and not every broker says
/// so.
fn spec_of(name: &str, resource: &ConfigResource) -> Option<TopicSpec> {
    let number = |key: &str| -> Option<i64> { resource.get(key)?.value.as_ref()?.parse().ok() };
    let bound = |key: &str| number(key).and_then(|it| u64::try_from(it).ok());
    let batch = usize::try_from(bound("max.message.bytes")?).ok()?;
    let record = batch.saturating_sub(BATCH_HEAD_BYTES).max(1);
    let age = bound("retention.ms").map(Duration::from_millis);
    let retention = Retention { age, bytes: bound("retention.bytes") };
    let policy = resource.get("cleanup.policy").and_then(|it| it.value.as_deref());
    let is_compacted = policy.is_some_and(|it| it.split(',').any(|it| it.trim() == "compact"));
    let cleanup = if is_compacted { Cleanup::Compact } else { Cleanup::Delete };
    Some(TopicSpec { retention, cleanup, record_bytes_max: record, ..TopicSpec::new(name, 1) })
}

/// Runs a call of librdkafka that waits for a broker.
pub(super) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(call).await.map_err(|_cancelled| Error::Closed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_may_keep_little_has_small_segments_that_hold_its_batches() {
        let batch = batch_bytes_max(1 << 20);
        assert_eq!(segment_bytes(64 << 20, batch), Some(16 << 20));
        assert_eq!(segment_bytes(1 << 20, batch), Some(4 * batch as u64));
        assert_eq!(segment_bytes(8 << 30, batch), None);
    }
}
