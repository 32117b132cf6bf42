//! What a function made of a synchronous invocation: its answer, and the outputs that it gave to
//! topics by name, checked against the manifest's grants and put into batches.

use std::collections::BTreeMap;
use std::sync::Arc;

use bus::{Append, BatchBuilder, Bus, Cleanup, HeadersBuilder, Timestamp, TopicPartition};
use bytes::Bytes;
use frame::{End, Output, OutputKey, Response};
use gateway::VALUE_BYTES_MAX;
use runtime::FailureKind;

use super::wire::Outcome;

/// What has to be durable before the answer is told.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) value: Option<Bytes>,
    pub(super) appends: Vec<Append>,
}

/// Reads the response to the one record of an invocation.
pub(super) fn read(
    bus: &dyn Bus,
    allowed: &[String],
    frame: &Bytes,
    batch_id: u64,
) -> Result<Made, Outcome> {
    let broken = FailureKind::BrokenAnswer.code();
    let response = Response::parse(frame, batch_id, 1).map_err(|error| failed(broken, error.0))?;
    match response.end(0) {
        End::Ok => {}
        End::NotRun => return Err(failed(broken, "the record was left alone")),
        End::Failed { code, message } => return Err(failed(code, message)),
    }
    let mut value = None;
    let mut batches: BTreeMap<(Arc<str>, i32), BatchBuilder> = BTreeMap::new();
    for output in response.outputs() {
        let Some(topic) = output.topic else {
            if value.is_some() {
                let message = "a synchronous call has one answer: name the topics of other outputs";
                return Err(failed("Millrace.ManyAnswers", message));
            }
            value = Some(answer(frame, &output)?);
            continue;
        };
        let (name, partition) = place(bus, allowed, topic, &output)?;
        let key = key_of(&output);
        let mut headers = HeadersBuilder::default();
        // Where a record came from only a node says.
        let own = output.headers.iter().filter(|(name, _)| *name != dispatch::ORIGIN.as_bytes());
        own.for_each(|(name, value)| headers.push(name, value));
        let builder = batches.entry((name, partition)).or_default();
        builder.push(Timestamp::now(), key, output.value, headers.headers());
    }
    let append = |((topic, partition), mut batch): ((Arc<str>, i32), BatchBuilder)| {
        let to = TopicPartition::new(topic, partition);
        batch.finish().map(|batch| Append { to, batch })
    };
    Ok(Made { value, appends: batches.into_iter().filter_map(append).collect() })
}

fn answer(frame: &Bytes, output: &Output<'_>) -> Result<Bytes, Outcome> {
    let value = output.value.unwrap_or_default();
    if VALUE_BYTES_MAX < value.len() {
        let message = format!("an answer of {} bytes, {VALUE_BYTES_MAX} may be", value.len());
        return Err(failed("Millrace.AnswerTooLarge", &message));
    }
    Ok(frame.slice_ref(value))
}

/// Where an output goes, if it may go there.
fn place(
    bus: &dyn Bus,
    allowed: &[String],
    topic: &str,
    output: &Output<'_>,
) -> Result<(Arc<str>, i32), Outcome> {
    if !allowed.iter().any(|it| it == topic) {
        let message = format!("topic {topic} is not in allow.produce");
        return Err(failed("Millrace.OutputTopic", &message));
    }
    let unknown = || failed("Millrace.OutputTopic", &format!("no topic {topic}"));
    let spec = bus.topic(topic).ok_or_else(unknown)?.spec;
    let key = key_of(output);
    if spec.cleanup == Cleanup::Compact && key.is_none() {
        let message = format!("an output without a key; {topic} is compacted by key");
        return Err(failed("Millrace.OutputNoKey", &message));
    }
    let bytes = key.map_or(0, <[u8]>::len)
        + output.value.map_or(0, <[u8]>::len)
        + output.headers.as_bytes().len();
    if spec.record_bytes_max < bytes {
        let limit = spec.record_bytes_max;
        let message = format!("an output of {bytes} bytes; {topic} takes {limit}");
        return Err(failed("Millrace.OutputTooLarge", &message));
    }
    let by_key = || match key {
        Some(key) => bus::partition_for_key(key, spec.partitions),
        None => rand::random_range(0..spec.partitions.max(1)),
    };
    let partition = output.partition.unwrap_or_else(by_key);
    if !(0..spec.partitions).contains(&partition) {
        let message = format!("topic {topic} has no partition {partition}");
        return Err(failed("Millrace.OutputPartition", &message));
    }
    Ok((spec.name, partition))
}

/// A call has no key that an output could keep.
const fn key_of<'a>(output: &Output<'a>) -> Option<&'a [u8]> {
    match output.key {
        OutputKey::Bytes(key) => Some(key),
        OutputKey::Keep | OutputKey::None => None,
    }
}

fn failed(code: &str, message: &str) -> Outcome {
    let timed_out = code == FailureKind::Timeout.code();
    Outcome::Failed { code: code.to_owned(), message: message.to_owned(), timed_out }
}
