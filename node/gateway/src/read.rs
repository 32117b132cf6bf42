//! Reading on from positions: a line per record for people and pipes, or a fetch that waits on
//! the bus, without polling, for the next record.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bus::{Bus, Fetched, Offset, RecordView, Start, Timestamp, TopicPartition};
use serde::Deserialize;
use tokio::time::Instant;

use crate::api::{API, Fetch, FetchedRecords, HeaderData, RecordData};
use crate::codes;
use crate::data::Data;
use crate::problem::Refusal;
use crate::routes::{App, QUESTION_BYTES_MAX, question};
use crate::topics::find;

/// Records of an answer, if nobody says how many.
const RECORDS: usize = 1_000;
/// The most that may be asked for.
const RECORDS_MAX: usize = 10_000;
/// Bytes of keys, values and headers of an answer, beyond which it ends.
const BYTES: usize = 4 << 20;
/// What one look into the bus takes.
const LOOK_BYTES: usize = 1 << 20;
/// The longest wait for a first record.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// How long records that are there may take. Offsets may have gaps up to the end, so that an end
/// ahead is no promise.
const PRESENT_MAX: Duration = Duration::from_secs(5);

/// The positions to go on from, beside lines that hold only records.
const NEXT: HeaderName = HeaderName::from_static("millrace-next");

/// The question of `GET /v1/topics/{t}/records`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Browse {
    partition: Option<i32>,
    from: Option<String>,
    limit: Option<usize>,
    #[serde(default)]
    wait_ms: u64,
}

pub(crate) async fn browse(
    State(app): State<Arc<App>>,
    Path(topic): Path<String>,
    asked: Result<Query<Browse>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(asked) = asked.map_err(|error| Refusal::bad(error.body_text()))?;
    let fetch = Fetch {
        positions: BTreeMap::new(),
        from: asked.from,
        partition: asked.partition,
        max: asked.limit,
        wait_ms: asked.wait_ms,
    };
    let fetched = read(&app, &topic, fetch).await?;
    let mut lines = Vec::new();
    for record in &fetched.records {
        serde_json::to_writer(&mut lines, record)
            .map_err(|error| Refusal::broken(codes::INTERNAL, &error))?;
        lines.push(b'\n');
    }
    let mut response = ([(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response();
    let next = serde_json::to_string(&fetched.next).ok();
    if let Some(next) = next.and_then(|next| HeaderValue::from_str(&next).ok()) {
        response.headers_mut().insert(NEXT, next);
    }
    Ok(response)
}

/// `POST /v1/topics/{t}:fetch`: the router knows no suffixes.
pub(crate) async fn fetch(
    State(app): State<Arc<App>>,
    Path(segment): Path<String>,
    body: Body,
) -> Result<Json<FetchedRecords>, Refusal> {
    let Some(topic) = segment.strip_suffix(":fetch") else {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        let detail = format!("POST is for {segment}:fetch and {segment}/records");
        return Err(Refusal::new(status, codes::NO_ROUTE, detail));
    };
    let fetch: Fetch = question(body, QUESTION_BYTES_MAX).await?;
    Ok(Json(read(&app, topic, fetch).await?))
}

async fn read(app: &App, topic: &str, asked: Fetch) -> Result<FetchedRecords, Refusal> {
    let info = find(&*app.bus, topic)?;
    let max = asked.max.unwrap_or(RECORDS);
    if !(1..=RECORDS_MAX).contains(&max) {
        return Err(Refusal::bad(format!("{max} records: 1 to {RECORDS_MAX} are possible")));
    }
    let wait = Duration::from_millis(asked.wait_ms).min(WAIT_MAX);
    let mut places = BTreeMap::new();
    let partitions = match (asked.positions.is_empty(), asked.partition) {
        (false, _) => asked.positions.keys().copied().collect(),
        (true, Some(partition)) => vec![partition],
        (true, None) => (0..info.spec.partitions).collect(),
    };
    for partition in partitions {
        places.insert(partition, TopicPartition::new(Arc::clone(&info.spec.name), partition));
    }
    let mut reading = Reading { max, ..Reading::default() };
    let from = Begin::parse(asked.from.as_deref().unwrap_or("earliest"))?;
    for (partition, place) in &places {
        let explicit = asked.positions.get(partition).copied();
        reading.start(&*app.bus, place, explicit, from).await?;
    }
    reading.run(app, &places, wait).await?;
    reading.finish(&*app.bus, &places).await
}

/// A place in partitions, as people say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// At this offset.
    Offset(i64),
    /// At an end, or at a time.
    Start(Start),
}

impl Begin {
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        match text {
            "earliest" => Ok(Self::Start(Start::Earliest)),
            "latest" => Ok(Self::Start(Start::Latest)),
            text => {
                if let Ok(offset) = text.parse::<i64>() {
                    return Ok(Self::Offset(offset));
                }
                let time = text.parse::<jiff::Timestamp>().map_err(|_neither| {
                    let text: String = text.chars().take(40).collect();
                    Refusal::bad(format!("{text:?} is no place in a topic")).hint(
                        "it takes earliest, latest, an offset, or a time such as 2013-01-02T03:04:05Z",
                    )
                })?;
                Ok(Self::Start(Start::At(Timestamp(time.as_millisecond()))))
            }
        }
    }
}

/// An answer as it is gathered.
#[derive(Debug, Default)]
struct Reading {
    max: usize,
    bytes: usize,
    records: Vec<RecordData>,
    next: BTreeMap<i32, i64>,
    /// The ends when the answer began.
    ends: BTreeMap<i32, i64>,
    expired: BTreeMap<i32, u64>,
}

impl Reading {
    /// Finds where a partition starts. What expired is counted, what is not there yet is refused.
    async fn start(
        &mut self,
        bus: &dyn Bus,
        place: &TopicPartition,
        explicit: Option<i64>,
        from: Begin,
    ) -> Result<(), Refusal> {
        let marks = bus.watermarks(place).await?;
        let (start, end) = (marks.start.0, marks.end.0);
        let next = match (explicit, from) {
            (Some(offset), _) if offset < 0 || end < offset => {
                return Err(bus::Error::OffsetOutOfRange {
                    partition: place.clone(),
                    offset: Offset(offset),
                    start: marks.start,
                    end: marks.end,
                }
                .into());
            }
            (Some(offset), _) => {
                if offset < start {
                    self.expired.insert(place.partition, start.abs_diff(offset));
                }
                offset.max(start)
            }
            (None, Begin::Offset(offset)) => offset.clamp(start, end),
            (None, Begin::Start(wanted)) => bus.offset_for(place, wanted).await?.0.max(start),
        };
        self.next.insert(place.partition, next);
        self.ends.insert(place.partition, end);
        Ok(())
    }

    /// Reads what is there, and waits for a first record if there is nothing.
    async fn run(
        &mut self,
        app: &App,
        places: &BTreeMap<i32, TopicPartition>,
        wait: Duration,
    ) -> Result<(), Refusal> {
        if !self.is_behind() && wait.is_zero() {
            return Ok(());
        }
        let assigned =
            places.iter().map(|(partition, place)| (place.clone(), Offset(self.next[partition])));
        let mut reader = app.bus.reader(assigned.collect()).await?;
        let waits_until = Instant::now() + wait;
        let present_until = Instant::now() + PRESENT_MAX;
        while !self.is_full() && (self.records.is_empty() || self.is_behind()) {
            let until = if self.is_behind() { present_until.max(waits_until) } else { waits_until };
            let fetched = tokio::select! {
                biased;
                fetched = reader.fetch(LOOK_BYTES) => fetched?,
                () = app.stopping.cancelled() => return Err(bus::Error::Closed.into()),
                () = tokio::time::sleep_until(until) => return Ok(()),
            };
            for fetched in &fetched {
                self.take(fetched);
            }
        }
        Ok(())
    }

    fn take(&mut self, fetched: &Fetched) {
        for record in fetched.batch.iter() {
            if self.is_full() {
                return;
            }
            self.bytes += record.key.map_or(0, <[u8]>::len)
                + record.value.map_or(0, <[u8]>::len)
                + record.headers.as_bytes().len();
            self.next.insert(fetched.partition.partition, record.offset.next().0);
            self.records.push(record_data(&fetched.partition, record));
        }
    }

    fn is_full(&self) -> bool {
        self.max <= self.records.len() || BYTES <= self.bytes
    }

    fn is_behind(&self) -> bool {
        self.next.iter().any(|(partition, next)| *next < self.ends[partition])
    }

    async fn finish(
        self,
        bus: &dyn Bus,
        places: &BTreeMap<i32, TopicPartition>,
    ) -> Result<FetchedRecords, Refusal> {
        let mut at_end = true;
        for (partition, next) in &self.next {
            at_end &= bus.watermarks(&places[partition]).await?.end.0 <= *next;
        }
        let Self { records, next, expired, .. } = self;
        Ok(FetchedRecords { api: API, records, next, expired, at_end })
    }
}

/// A record as the control API gives it.
#[must_use]
pub fn record_data(place: &TopicPartition, record: RecordView<'_>) -> RecordData {
    let time = jiff::Timestamp::from_millisecond(record.timestamp.0).ok();
    RecordData {
        topic: place.topic.to_string(),
        partition: place.partition,
        offset: record.offset.0,
        timestamp: time.map(|time| format!("{time:.3}")),
        timestamp_ms: record.timestamp.0,
        key: record.key.map(Data::from),
        value: record.value.map(Data::from),
        headers: record
            .headers
            .iter()
            .map(|(name, value)| HeaderData { name: name.into(), value: value.map(Data::from) })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_a_word_an_offset_or_a_time() {
        assert!(matches!(Begin::parse("earliest"), Ok(Begin::Start(Start::Earliest))));
        assert!(matches!(Begin::parse("latest"), Ok(Begin::Start(Start::Latest))));
        assert!(matches!(Begin::parse("17"), Ok(Begin::Offset(17))));
        let time = Begin::parse("1970-01-01T00:00:01.5Z");
        assert!(matches!(time, Ok(Begin::Start(Start::At(Timestamp(1_500))))), "{time:?}");
        let zoned = Begin::parse("1970-01-01T01:00:00+01:00");
        assert!(matches!(zoned, Ok(Begin::Start(Start::At(Timestamp(0))))), "{zoned:?}");
        for bad in ["", "newest", "2013-01-01", "1.5", "99999999999999999999"] {
            assert!(Begin::parse(bad).is_err(), "{bad}");
        }
    }
}
