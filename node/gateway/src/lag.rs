//! How far shards are behind: the bus's committed positions against the ends of its partitions.
//! What is not known is said to be unknown, and is never counted as zero.

use std::collections::{BTreeMap, HashMap};

use bus::{Bus, Position, PositionKey, ShardId, TopicPartition};

use crate::api::{API, Lag, PartitionLag, ShardStatus, TriggerLag};

impl Lag {
    /// Of all triggers of a function, `app/name`; `None` = unknown, or no such function.
    #[must_use]
    pub fn of_function(&self, function: &str) -> Option<u64> {
        let mut triggers = self.triggers.iter().filter(|trigger| trigger.function == function);
        let first = triggers.next()?.lag?;
        triggers.try_fold(first, |sum, trigger| Some(sum + trigger.lag?))
    }
}

/// The lag of these shards.
///
/// # Errors
///
/// When the bus cannot be asked.
pub(crate) async fn compute(bus: &dyn Bus, shards: &[ShardStatus]) -> Result<Lag, bus::Error> {
    let committed: HashMap<PositionKey, Position> = bus.positions().await?.into_iter().collect();
    let mut triggers: BTreeMap<&str, TriggerLag> = BTreeMap::new();
    let mut is_away = false;
    for shard in shards {
        let partition = TopicPartition::new(shard.topic.as_str(), shard.partition);
        let asked = if is_away { Err(bus::Error::Busy) } else { bus.watermarks(&partition).await };
        let marks = match asked {
            Ok(marks) => Some(marks),
            // The brokers do not answer: what the node itself knows is still worth showing.
            Err(error) if error.is_retryable() => {
                is_away = true;
                None
            }
            // Deleted meanwhile: nothing is known of it.
            Err(bus::Error::UnknownTopic { .. } | bus::Error::UnknownPartition(_)) => None,
            Err(error) => return Err(error),
        };
        let key = PositionKey { shard: ShardId(shard.shard), partition };
        let position = committed.get(&key);
        let next = position.map(|position| position.next.0).or(shard.next);
        let (start, end) = marks.map_or((0, 0), |marks| (marks.start.0, marks.end.0));
        let behind = |next: i64| marks.map(|_known| u64::try_from(end - next).unwrap_or(0));
        let trigger = triggers.entry(&shard.trigger).or_insert_with(|| TriggerLag {
            trigger: shard.trigger.clone(),
            function: shard.function.clone(),
            ..TriggerLag::default()
        });
        trigger.partitions.push(PartitionLag {
            topic: shard.topic.clone(),
            partition: shard.partition,
            shard: shard.shard,
            node: None,
            epoch: shard.epoch,
            state: shard.state,
            start,
            end,
            next,
            ahead: position.map_or(0, |position| position.completions.span()),
            lag: next.and_then(behind),
        });
    }
    let mut triggers: Vec<TriggerLag> = triggers.into_values().collect();
    for trigger in &mut triggers {
        trigger.partitions.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        trigger.lag = sum(trigger.partitions.iter().map(|partition| partition.lag));
    }
    let total = sum(triggers.iter().map(|trigger| trigger.lag));
    Ok(Lag { api: API, total, triggers, unheard: Vec::new() })
}

/// `None` as soon as one is unknown.
fn sum(parts: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    parts.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_is_not_zero() {
        assert_eq!(sum([Some(1), Some(2)].into_iter()), Some(3));
        assert_eq!(sum([Some(1), None].into_iter()), None);
        let trigger = |function: &str, lag| TriggerLag {
            function: function.to_owned(),
            lag,
            ..TriggerLag::default()
        };
        let triggers = vec![trigger("a/f", Some(4)), trigger("a/f", Some(1)), trigger("a/g", None)];
        let lag = Lag { triggers, ..Lag::default() };
        assert_eq!(lag.of_function("a/f"), Some(5));
        assert_eq!(lag.of_function("a/g"), None);
        assert_eq!(lag.of_function("a/h"), None);
    }
}
