//! What a commit carries: outputs, dead letters and messages to destinations, each with its origin,
//! put into one batch per topic and partition as they are gathered.

use std::collections::BTreeSet;
use std::sync::Arc;

use bus::{
    Append, BatchBuilder, Bus, Commit, Headers, HeadersBuilder, Offset, Position, PositionMove,
    RecordView, Timestamp, TopicPartition,
};
use frame::{FrameError, Output, OutputKey, Response};

use crate::dead_letter::{Cause, DEAD, DeadHead, ORIGIN, REPLAYED_TOPIC};
use crate::destination::{self, Ended, Ending, Envelopes, Kind, Told};
use crate::driver::ShardConfig;
use crate::park_topic::Parker;
use crate::trace;
use crate::tracer::Carried;
use crate::{
    DeadLetter, End, InvocationId, Kept, Park, RecordId, RecordRef, ShardDispatch, StopReason,
};

/// What an origin takes at most beyond the topic's and revision's names: seven separators, five
/// numbers of up to 20 digits, the header's name and lengths.
const ORIGIN_BYTES: usize = 7 + 5 * 20 + ORIGIN.len() + 8;
/// The failure of a record whose output its topic does not take.
pub(crate) const OUTPUT_TOO_LARGE: &str = "Millrace.OutputTooLarge";

/// What runtimes call a value that their function never saw: it cannot be decoded.
const UNDECODABLE: &str = "Millrace.Decode";
/// Or the event for it alone would be over the limit of events.
const EVENT_TOO_LARGE: &str = "MaximumPayloadSizeExceeded";

/// Why nothing can be taken from an answer.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// It is no answer.
    Broken(FrameError),
    /// The trigger's output topic is not there: no record's fault, and it may come back.
    TopicGone(StopReason),
}

/// Where outputs may go.
#[derive(Debug)]
pub(crate) struct Routes {
    default: Option<Arc<str>>,
    allowed: Vec<Arc<str>>,
    origin_bytes: usize,
}

impl Routes {
    pub(crate) fn new(config: &ShardConfig) -> Self {
        let names = config.partitions.iter().map(|it| it.topic.len()).max().unwrap_or(0);
        let traced = config.traces.as_ref().map_or(0, |_| trace::HEADER_BYTES);
        Self {
            default: config.output_topic.clone(),
            allowed: config.allow_produce.clone(),
            origin_bytes: ORIGIN_BYTES + names + 64 + traced,
        }
    }

    /// The records of an answer that did not end well, by ascending index: those that the
    /// function failed or left alone, and those with an output that is refused. `has_key` says of a
    /// record, by its index, whether it has a key that an output may keep.
    pub(crate) fn exceptions(
        &self,
        bus: &dyn Bus,
        answer: &[u8],
        id: InvocationId,
        records: usize,
        has_key: impl Fn(usize) -> bool,
    ) -> Result<Vec<(u32, End)>, Unusable> {
        let default = self.default.as_ref().and_then(|name| bus.topic(name));
        let is_gone = self.default.is_some() && default.is_none();
        let mut wants_gone = false;
        let mut refused: Vec<(u32, End)> = Vec::new();
        let answer = Response::parse_with(answer, id.0, records, |output| {
            wants_gone |= is_gone && output.topic.is_none();
            if wants_gone || refused.last().is_some_and(|(source, _)| *source == output.source) {
                return;
            }
            if let Err(end) = self.check(bus, default.as_ref(), output, &has_key) {
                refused.push((output.source, end));
            }
        });
        let answer = answer.map_err(Unusable::Broken)?;
        if let (Some(topic), true) = (&self.default, wants_gone) {
            let gone = bus::Error::UnknownTopic { topic: topic.to_string() };
            return Err(Unusable::TopicGone(StopReason::of(&gone)));
        }
        let mut exceptions = Vec::new();
        if !answer.all_ok() {
            for index in 0..records {
                match answer.end(index) {
                    frame::End::Ok => {}
                    frame::End::NotRun => exceptions.push((index as u32, End::NotRun)),
                    frame::End::Failed { code, message }
                        if [UNDECODABLE, EVENT_TOO_LARGE].contains(&code) =>
                    {
                        let (code, message) = (code.to_owned(), message.to_owned());
                        exceptions.push((index as u32, End::Undecodable { code, message }));
                    }
                    frame::End::Failed { code, message } => {
                        exceptions.push((index as u32, failed(code, message)));
                    }
                }
            }
        }
        if !refused.is_empty() {
            exceptions.extend(refused);
            exceptions.sort_by_key(|(index, _)| *index);
        }
        Ok(exceptions)
    }

    fn check(
        &self,
        bus: &dyn Bus,
        default: Option<&bus::TopicInfo>,
        output: &Output<'_>,
        has_key: impl Fn(usize) -> bool,
    ) -> Result<(), End> {
        let chosen;
        let info = match output.topic {
            None => default.ok_or_else(|| {
                failed(
                    "Millrace.OutputNoTopic",
                    "an output without a topic, and the trigger has no output.topic",
                )
            })?,
            Some(topic) => {
                let mine = self.default.as_deref() == Some(topic);
                if !mine && !self.allowed.iter().any(|allowed| &**allowed == topic) {
                    let message = format!("topic {topic} is not in allow.produce");
                    return Err(failed("Millrace.OutputTopic", &message));
                }
                chosen = bus
                    .topic(topic)
                    .ok_or_else(|| failed("Millrace.OutputTopic", &format!("no topic {topic}")))?;
                &chosen
            }
        };
        if let Some(partition) = output.partition
            && info.spec.partitions <= partition
        {
            let message = format!("topic {} has no partition {partition}", info.spec.name);
            return Err(failed("Millrace.OutputPartition", &message));
        }
        let has_key = || match output.key {
            OutputKey::Keep => has_key(output.source as usize),
            OutputKey::None => false,
            OutputKey::Bytes(_) => true,
        };
        if info.spec.cleanup == bus::Cleanup::Compact && !has_key() {
            let message =
                format!("an output without a key; {} is compacted by key", info.spec.name);
            return Err(failed("Millrace.OutputNoKey", &message));
        }
        let key = match output.key {
            OutputKey::Bytes(key) => key.len(),
            // The source's key: within the source topic's own limit, and counted at most once.
            OutputKey::Keep | OutputKey::None => 0,
        };
        let bytes = key
            + output.value.map_or(0, <[u8]>::len)
            + output.headers.as_bytes().len()
            + self.origin_bytes;
        if info.spec.record_bytes_max < bytes {
            let limit = info.spec.record_bytes_max;
            let message = format!("an output of {bytes} bytes; {} takes {limit}", info.spec.name);
            return Err(failed(OUTPUT_TOO_LARGE, &message));
        }
        Ok(())
    }
}

fn failed(code: &str, message: &str) -> End {
    End::Failed { code: code.to_owned(), message: message.to_owned() }
}

/// The commit in the making.
#[derive(Debug)]
pub(crate) struct Gathering {
    config: ShardConfig,
    /// `1;topic;partition;` by the shard's partition.
    prefixes: Vec<String>,
    topics: Vec<Topic>,
    parker: Option<Parker>,
    /// What destinations are told, and what of it waits for its commit.
    envelopes: Envelopes,
    told: Vec<Told>,
    headers: HeadersBuilder,
    origin: Vec<u8>,
    /// Where keyless outputs go: one partition per answer, in turn.
    turn: u32,
    outputs: u64,
    /// Messages that are durable: of successes, of failures.
    delivered: [u64; 2],
}

/// No partition of a topic has a builder until an output goes there: a shard writes to few of many.
#[derive(Debug)]
struct Topic {
    name: Arc<str>,
    /// By partition, one more than the place of its builder; 0 without one.
    places: Vec<u32>,
    builders: Vec<(i32, BatchBuilder)>,
    /// Records and bytes that the next batch is expected to have.
    expected: (usize, usize),
}

impl Topic {
    fn new(name: Arc<str>, partitions: usize) -> Self {
        Self { name, places: vec![0; partitions], builders: Vec::new(), expected: (0, 0) }
    }

    #[inline]
    fn builder(&mut self, partition: usize) -> &mut BatchBuilder {
        let place = &mut self.places[partition];
        if *place == 0 {
            let (records, bytes) = self.expected;
            let builder = BatchBuilder::with_capacity(records, bytes);
            self.builders.push((partition as i32, builder));
            *place = self.builders.len() as u32;
        }
        &mut self.builders[*place as usize - 1].1
    }

    /// Takes over how many partitions the topic has now, unless outputs wait for it.
    fn look_again(&mut self, bus: &dyn Bus) {
        if !self.builders.is_empty() {
            return;
        }
        let partitions = bus.topic(&self.name).map(|info| info.spec.partitions);
        if let Some(partitions) = partitions.and_then(|it| usize::try_from(it).ok()) {
            self.places.resize(partitions, 0);
        }
    }

    /// The batches, in the order of their first records.
    fn finish(&mut self, appends: &mut Vec<Append>) {
        for (partition, mut builder) in self.builders.drain(..) {
            self.places[partition.cast_unsigned() as usize] = 0;
            let to = TopicPartition::new(Arc::clone(&self.name), partition);
            appends.extend(builder.finish().map(|batch| Append { to, batch }));
            self.expected = builder.expected();
        }
    }
}

impl Gathering {
    pub(crate) fn new(config: &ShardConfig) -> Self {
        let prefix = |it: &TopicPartition| format!("1;{};{};", it.topic, it.partition);
        Self {
            prefixes: config.partitions.iter().map(prefix).collect(),
            config: config.clone(),
            topics: Vec::new(),
            parker: None,
            envelopes: Envelopes::new(
                &config.function,
                &config.cluster,
                &config.destinations.brokers,
                config.output_topic.as_ref(),
            ),
            told: Vec::new(),
            headers: HeadersBuilder::default(),
            origin: Vec::new(),
            turn: 0,
            outputs: 0,
            delivered: [0; 2],
        }
    }

    /// With a park topic.
    pub(crate) fn with_parker(self, parker: Option<Parker>) -> Self {
        Self { parker, ..self }
    }

    /// Adds a record that waits in the park topic from then on.
    pub(crate) fn park(&mut self, core: &ShardDispatch, park: &Park) {
        let parker = self.parker.as_mut().expect("a shard parks where it has a topic for it");
        parker.park(park, core.record(park.record));
    }

    /// Adds that a parked record is settled.
    pub(crate) fn unpark(&mut self, core: &ShardDispatch, record: RecordId) {
        let parker = self.parker.as_mut().expect("a shard parks where it has a topic for it");
        parker.unpark(core.record(record));
    }

    pub(crate) const fn outputs_total(&self) -> u64 {
        self.outputs
    }

    /// Adds the outputs of the kept records of an answer.
    pub(crate) fn outputs(
        &mut self,
        bus: &dyn Bus,
        core: &ShardDispatch,
        answer: &Response<'_>,
        kept: &Kept,
        revision: &str,
        carried: Option<Carried<'_>>,
    ) {
        self.turn = self.turn.wrapping_add(1);
        self.topics.iter_mut().for_each(|topic| topic.look_again(bus));
        let (mut last, mut index) = (None, 0);
        for output in answer.outputs() {
            index = if last == Some(output.source) { index + 1 } else { 0 };
            last = Some(output.source);
            let source = output.source as usize;
            if !kept.keeps(source) {
                continue;
            }
            let record = core.record(kept.records[source]);
            self.output(bus, record, &output, (index, revision), carried);
        }
    }

    fn output(
        &mut self,
        bus: &dyn Bus,
        record: RecordRef<'_>,
        output: &Output<'_>,
        (index, revision): (u32, &str),
        carried: Option<Carried<'_>>,
    ) {
        let name = match output.topic {
            Some(name) => name,
            None => self.config.output_topic.as_deref().unwrap_or_default(),
        };
        let into = self.config.replay.as_ref().map(|it| Arc::clone(&it.into));
        let to = into.as_deref().unwrap_or(name);
        let Some(topic) = topic_of(&mut self.topics, bus, to) else { return };
        let key = match output.key {
            OutputKey::Keep => record.view.key,
            OutputKey::None => None,
            OutputKey::Bytes(key) => Some(key),
        };
        let partitions = self.topics[topic].places.len();
        let partition = match (output.partition, key) {
            (Some(partition), _) => partition.cast_unsigned() as usize % partitions,
            (None, Some(key)) => {
                let count = i32::try_from(partitions).unwrap_or(i32::MAX);
                bus::partition_for_key(key, count).cast_unsigned() as usize
            }
            (None, None) => self.turn as usize % partitions,
        };
        self.headers.clear();
        let own = output.headers;
        let own = Headers::parse(own.as_bytes(), own.len()).unwrap_or_default();
        match carried {
            None => self.headers.extend(own),
            Some(carried) => carried.write(own, record.view.headers, &mut self.headers),
        }
        if into.is_some() {
            self.headers.push(REPLAYED_TOPIC.as_bytes(), Some(name.as_bytes()));
        }
        self.write_origin(record, itoa::Buffer::new().format(index), revision, record.attempt);
        self.headers.push(ORIGIN.as_bytes(), Some(&self.origin));
        let headers = self.headers.headers();
        self.topics[topic].builder(partition).push(
            record.view.timestamp,
            key,
            output.value,
            headers,
        );
        self.outputs += 1;
    }

    /// Whether successes have a destination.
    pub(crate) const fn tells_successes(&self) -> bool {
        self.config.destinations.on_success.is_some()
    }

    /// Adds the messages about the kept records of an answer.
    pub(crate) fn successes(
        &mut self,
        bus: &dyn Bus,
        core: &ShardDispatch,
        answer: &Response<'_>,
        kept: &Kept,
        (revision, invocation): (&str, &str),
        carried: Option<Carried<'_>>,
    ) {
        let outputs: Vec<Output<'_>> = answer.outputs().collect();
        let mut rest = outputs.as_slice();
        for (index, &record) in kept.records.iter().enumerate() {
            let before = rest.partition_point(|it| (it.source as usize) < index);
            rest = &rest[before..];
            let mine = rest.partition_point(|it| it.source as usize == index);
            if kept.keeps(index) {
                let (record, ending) = (core.record(record), Ending::Success(&rest[..mine]));
                let attempts = record.attempt;
                self.tell(bus, record, (attempts, revision, Some(invocation)), ending, carried);
            }
        }
    }

    /// Adds a message about a record that has its end, if its kind of end has a destination.
    fn tell(
        &mut self,
        bus: &dyn Bus,
        record: RecordRef<'_>,
        (attempts, revision, invocation): (u32, &str, Option<&str>),
        ending: Ending<'_>,
        carried: Option<Carried<'_>>,
    ) {
        let kind = ending.kind();
        let Some(name) = self.config.destinations.of(kind).map(Arc::clone) else { return };
        let topic = self.owed_topic(bus, &name);
        let mut headers = HeadersBuilder::default();
        if let Some(carried) = carried {
            carried.write(Headers::default(), record.view.headers, &mut headers);
        }
        self.write_origin(record, kind.index(), revision, attempts);
        headers.push(ORIGIN.as_bytes(), Some(&self.origin));
        let key = record.view.key;
        let beside = key.map_or(0, <[u8]>::len) + headers.headers().as_bytes().len();
        let limit = bus.topic(&name).map_or(usize::MAX, |info| info.spec.record_bytes_max);
        let place = &self.config.partitions[record.partition as usize];
        let place = (&*place.topic, place.partition);
        let at = Timestamp::now();
        let ended = Ended { record, place, attempts, invocation, revision, ending, at };
        self.told.push(Told {
            topic,
            partition: record.partition,
            offset: record.view.offset,
            timestamp: record.view.timestamp,
            key: key.map(<[u8]>::to_vec),
            value: self.envelopes.write(&ended, limit.saturating_sub(beside)),
            headers,
        });
    }

    /// The place of a topic that what is for it waits for: where it is gone the commit is refused, and
    /// the shard says so.
    fn owed_topic(&mut self, bus: &dyn Bus, name: &Arc<str>) -> usize {
        topic_of(&mut self.topics, bus, name).unwrap_or_else(|| {
            self.topics.push(Topic::new(Arc::clone(name), 1));
            self.topics.len() - 1
        })
    }

    /// Where a record goes that keeps its key.
    fn partition_for(&self, topic: usize, key: Option<&[u8]>) -> usize {
        let partitions = self.topics[topic].places.len();
        key.map_or(self.turn as usize % partitions, |key| {
            let count = i32::try_from(partitions).unwrap_or(i32::MAX);
            bus::partition_for_key(key, count).cast_unsigned() as usize
        })
    }

    /// Adds a record that is given up: as it was, with why.
    pub(crate) fn dead_letter(
        &mut self,
        bus: &dyn Bus,
        core: &ShardDispatch,
        letter: &DeadLetter,
        (revision, invocation): (&str, Option<&str>),
    ) {
        let record = core.record(letter.record);
        let cause = self.cause(letter);
        let ending = Ending::Failure(cause, &letter.code);
        self.tell(bus, record, (letter.attempts, revision, invocation), ending, None);
        let name = Arc::clone(&self.config.dead_letter);
        let topic = self.owed_topic(bus, &name);
        let partition = self.partition_for(topic, record.view.key);
        self.headers.clear();
        self.headers.extend(record.view.headers);
        self.write_origin(record, DEAD, revision, letter.attempts);
        self.headers.push(ORIGIN.as_bytes(), Some(&self.origin));
        let place = &self.config.partitions[record.partition as usize];
        let head = DeadHead {
            cause: cause.as_str(),
            attempts: letter.attempts,
            topic: &place.topic,
            partition: place.partition,
            offset: record.view.offset.0,
            timestamp: record.view.timestamp,
            trigger: &self.config.trigger,
            function: &self.config.function,
            revision,
            invocation,
            error_type: &letter.code,
            error_message: &letter.message,
            at: Timestamp::now(),
        };
        head.write(&mut self.headers);
        let headers = self.headers.headers();
        self.topics[topic].builder(partition).push(
            record.view.timestamp,
            record.view.key,
            record.view.value,
            headers,
        );
    }

    pub(crate) fn cause(&self, letter: &DeadLetter) -> Cause {
        match letter.code.as_str() {
            UNDECODABLE => Cause::Undecodable,
            EVENT_TOO_LARGE => Cause::EventTooLarge,
            _ if self.config.dispatch.retry.attempts_max.get() <= letter.attempts => {
                Cause::AttemptsExhausted
            }
            OUTPUT_TOO_LARGE => Cause::OutputRefused,
            code if self.config.dispatch.retry.is_final(code) => Cause::NotRetried,
            _ => Cause::TooOld,
        }
    }

    /// All that was gathered, with these positions. What comes next belongs to the next commit.
    pub(crate) fn commit(&mut self, positions: Vec<(u32, Position)>) -> Commit {
        let mut appends = Vec::new();
        self.finish_told();
        self.topics.iter_mut().for_each(|topic| topic.finish(&mut appends));
        let parker = self.parker.as_mut();
        let settles = parker.map_or_else(Vec::new, |parker| parker.finish(&mut appends));
        let positions = positions
            .into_iter()
            .map(|(index, position)| PositionMove {
                partition: self.config.partitions[index as usize].clone(),
                position,
            })
            .collect();
        Commit { shard: self.config.shard, epoch: self.config.epoch, appends, settles, positions }
    }

    /// Puts the messages of this commit behind what their topics get besides.
    fn finish_told(&mut self) {
        if self.told.is_empty() {
            return;
        }
        let mut told = std::mem::take(&mut self.told);
        destination::in_order(&mut told);
        for it in told {
            let partition = self.partition_for(it.topic, it.key.as_deref());
            let builder = self.topics[it.topic].builder(partition);
            builder.push(it.timestamp, it.key.as_deref(), Some(&it.value), it.headers.headers());
        }
    }

    /// A commit of this is durable.
    pub(crate) fn committed(&mut self, sent: &[Append]) {
        let destinations = &self.config.destinations;
        let is_told = |topic: &Arc<str>| {
            [Kind::Success, Kind::Failure].into_iter().any(|it| destinations.of(it) == Some(topic))
        };
        for record in sent.iter().filter(|it| is_told(&it.to.topic)).flat_map(|it| it.batch.iter())
        {
            match self.source_of(&record).and_then(|(_, index)| Kind::of_index(index)) {
                Some(Kind::Success) => self.delivered[0] += 1,
                Some(Kind::Failure) => self.delivered[1] += 1,
                None => {}
            }
        }
    }

    /// How many messages are durable: of successes, of failures.
    pub(crate) const fn delivered_total(&self) -> [u64; 2] {
        self.delivered
    }

    /// The commit with short messages in place of those to `to` that are over a limit; `None` without
    /// such messages.
    pub(crate) fn shortened(
        &self,
        commit: &Commit,
        to: &TopicPartition,
        limit_bytes: usize,
    ) -> Option<Commit> {
        let mut commit = commit.clone();
        let mut is_changed = false;
        for append in commit.appends.iter_mut().filter(|append| append.to == *to) {
            let mut builder = BatchBuilder::default();
            for record in append.batch.iter() {
                let kind = self.source_of(&record).and_then(|(_, index)| Kind::of_index(index));
                let kind = kind.filter(|_| limit_bytes < record.payload_bytes());
                let short = kind.zip(record.value);
                let short = short.and_then(|(kind, value)| destination::shortened(value, kind));
                is_changed |= short.is_some();
                builder
                    .push_view(RecordView { value: short.as_deref().or(record.value), ..record });
            }
            append.batch = builder.finish().unwrap_or_else(|| append.batch.clone());
        }
        is_changed.then_some(commit)
    }

    /// The sources of a commit's outputs to `to` that are over a limit: index of the partition,
    /// offset. A dead letter has no other form that it could be kept in, and is left out; so is a
    /// message, which has a short one.
    pub(crate) fn over_limit(
        &self,
        commit: &Commit,
        to: &TopicPartition,
        limit_bytes: usize,
    ) -> BTreeSet<(u32, Offset)> {
        let there = commit.appends.iter().filter(|append| append.to == *to);
        let records = there.flat_map(|append| append.batch.iter());
        let over = records.filter(|record| limit_bytes < record.payload_bytes());
        let sources = over.filter_map(|record| self.source_of(&record));
        let is_output = |index: &str| index != DEAD && Kind::of_index(index).is_none();
        sources.filter(|(_, index)| is_output(index)).map(|(source, _)| source).collect()
    }

    /// Where a record of a commit comes from, by its origin, and which of that it is.
    fn source_of<'a>(&self, output: &RecordView<'a>) -> Option<((u32, Offset), &'a str)> {
        let origin = output.headers.iter().find(|(name, _)| *name == ORIGIN.as_bytes())?.1?;
        let origin = std::str::from_utf8(origin).ok()?;
        (0..).zip(&self.prefixes).find_map(|(partition, prefix)| {
            let mut rest = origin.strip_prefix(prefix)?.split(';');
            let offset = rest.next()?.parse().ok()?;
            Some(((partition, Offset(offset)), rest.next()?))
        })
    }

    /// The commit with dead letters in place of all outputs of their records, and of what was told of
    /// their success.
    pub(crate) fn replace(
        &self,
        bus: &dyn Bus,
        core: &ShardDispatch,
        commit: &Commit,
        sources: &BTreeSet<(u32, Offset)>,
        letters: &[(DeadLetter, Option<String>)],
        revision: &str,
    ) -> Commit {
        let mut appends = Vec::with_capacity(commit.appends.len());
        for Append { to, batch } in &commit.appends {
            let mut builder = BatchBuilder::default();
            for record in batch.iter() {
                let is_replaced = self
                    .source_of(&record)
                    .is_some_and(|(source, index)| index != DEAD && sources.contains(&source));
                if !is_replaced {
                    builder.push_view(record);
                }
            }
            let batch = builder.finish();
            appends.extend(batch.map(|batch| Append { to: to.clone(), batch }));
        }
        let mut instead = Self::new(&self.config);
        for (letter, invocation) in letters {
            instead.dead_letter(bus, core, letter, (revision, invocation.as_deref()));
        }
        appends.extend(instead.commit(Vec::new()).appends);
        Commit { appends, ..commit.clone() }
    }

    fn write_origin(&mut self, record: RecordRef<'_>, index: &str, revision: &str, attempt: u32) {
        let mut number = itoa::Buffer::new();
        let origin = &mut self.origin;
        origin.clear();
        origin.extend_from_slice(self.prefixes[record.partition as usize].as_bytes());
        origin.extend_from_slice(number.format(record.view.offset.0).as_bytes());
        for part in [index, revision] {
            origin.push(b';');
            origin.extend_from_slice(part.as_bytes());
        }
        origin.push(b';');
        origin.extend_from_slice(number.format(attempt).as_bytes());
        origin.push(b';');
        origin.extend_from_slice(number.format(self.config.epoch.0).as_bytes());
    }
}

/// The place of a topic, made when it is first needed.
fn topic_of(topics: &mut Vec<Topic>, bus: &dyn Bus, name: &str) -> Option<usize> {
    if let Some(found) = topics.iter().position(|topic| &*topic.name == name) {
        return Some(found);
    }
    let info = bus.topic(name)?;
    let count = usize::try_from(info.spec.partitions).ok()?;
    topics.push(Topic::new(info.spec.name, count));
    Some(topics.len() - 1)
}
