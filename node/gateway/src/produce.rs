//! `POST /v1/topics/{t}/records`: JSON records, or raw batches as the journal keeps them. One
//! call is one append: all of it is durable when it is answered, or none of it is there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use bus::{
    Append, Appended, BatchBuilder, HeadersBuilder, Offset, RecordBatch, Timestamp, TopicInfo,
    TopicPartition, partition_for_key,
};
use bytes::{Buf as _, Bytes};
use serde::Deserialize;

use crate::api::{API, Landed, LandedBatch, Produce, ProduceRecord, Produced, RECORDS_MEDIA_TYPE};
use crate::codes;
use crate::problem::Refusal;
use crate::routes::{App, body};
use crate::topics::find;

/// Where raw batches go, unless they say so themselves.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct To {
    partition: Option<i32>,
}

pub(crate) async fn produce(
    State(app): State<Arc<App>>,
    Path(topic): Path<String>,
    to: Result<Query<To>, QueryRejection>,
    headers: HeaderMap,
    content: Body,
) -> Result<Json<Produced>, Refusal> {
    let Query(to) = to.map_err(|error| Refusal::bad(error.body_text()))?;
    let info = find(&*app.bus, &topic)?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok()).unwrap_or("");
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let content = body(content, app.body_bytes_max).await?;
    match essence.as_str() {
        RECORDS_MEDIA_TYPE => raw(&app, &info, to.partition, content).await,
        "application/json" | "" => {
            let asked: Produce = serde_json::from_slice(&content)
                .map_err(|error| Refusal::bad(format!("the body: {error}")))?;
            json(&app, &info, to.partition, &asked.records).await
        }
        other => Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            codes::BAD_REQUEST,
            format!("the content type {}", other.escape_default()),
        )
        .hint(format!("send application/json or {RECORDS_MEDIA_TYPE}"))),
    }
}

async fn json(
    app: &App,
    info: &TopicInfo,
    to: Option<i32>,
    records: &[ProduceRecord],
) -> Result<Json<Produced>, Refusal> {
    if records.is_empty() {
        return Err(Refusal::bad("no records"));
    }
    let sorted = sort(app, info, to, records)?;
    let mut appends = Vec::with_capacity(sorted.len());
    let mut places = Vec::with_capacity(sorted.len());
    for (partition, (mut builder, indexes)) in sorted {
        let batch = builder.finish().expect("a partition is listed with its first record");
        appends.push(Append { to: partition_of(info, partition)?, batch });
        places.push((partition, indexes));
    }
    let appended = app.bus.append(appends).await?;
    let mut landed = vec![Landed::default(); records.len()];
    let mut batches = Vec::with_capacity(places.len());
    for ((partition, indexes), Appended { base }) in places.into_iter().zip(appended) {
        let count = u32::try_from(indexes.len()).unwrap_or(u32::MAX);
        batches.push(LandedBatch { partition, base: base.0, records: count });
        for (offset, index) in (base.0..).zip(indexes) {
            landed[index] = Landed { partition, offset };
        }
    }
    Ok(Json(Produced { api: API, records: landed, batches }))
}

/// Records by partition, each with its place in the request.
type Sorted = BTreeMap<i32, (BatchBuilder, Vec<usize>)>;

fn sort(
    app: &App,
    info: &TopicInfo,
    to: Option<i32>,
    records: &[ProduceRecord],
) -> Result<Sorted, Refusal> {
    let partitions = info.spec.partitions;
    let turn = app.keyless.fetch_add(1, Ordering::Relaxed) % partitions.unsigned_abs();
    let keyless = i32::try_from(turn).expect("below the number of partitions");
    let now = Timestamp::now();
    let mut headers = HeadersBuilder::default();
    let mut sorted = Sorted::new();
    for (index, record) in records.iter().enumerate() {
        let key = record.key.as_ref().map(|key| key.as_bytes());
        let by_key = || key.map_or(keyless, |key| partition_for_key(key, partitions));
        let partition = record.partition.or(to).unwrap_or_else(by_key);
        headers.clear();
        for header in &record.headers {
            let value = header.value.as_ref().map(|value| value.as_bytes());
            headers.push(header.name.as_bytes(), value);
        }
        let value = record.value.as_ref().map(|value| value.as_bytes());
        let timestamp = record.timestamp_ms.map_or(now, Timestamp);
        let (builder, indexes) = sorted.entry(partition).or_default();
        builder.push(timestamp, key, value, headers.headers());
        indexes.push(index);
    }
    Ok(sorted)
}

async fn raw(
    app: &App,
    info: &TopicInfo,
    to: Option<i32>,
    content: Bytes,
) -> Result<Json<Produced>, Refusal> {
    let batches = match to {
        Some(partition) => vec![(partition, content)],
        None => split(content)?,
    };
    let mut appends = Vec::with_capacity(batches.len());
    let mut landed = Vec::with_capacity(batches.len());
    for (index, (partition, bytes)) in batches.into_iter().enumerate() {
        let batch = RecordBatch::decode(bytes, Offset(0))
            .map_err(|reason| bad_batch(format!("batch {index}: {reason}")))?;
        if !batch.is_whole() || batch.first_offset() != Offset(0) {
            return Err(bad_batch(format!("batch {index}: its offsets do not count from 0")));
        }
        let records = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        landed.push(LandedBatch { partition, base: 0, records });
        appends.push(Append { to: partition_of(info, partition)?, batch });
    }
    let appended = app.bus.append(appends).await?;
    for (batch, Appended { base }) in landed.iter_mut().zip(appended) {
        batch.base = base.0;
    }
    Ok(Json(Produced { api: API, records: Vec::new(), batches: landed }))
}

/// `[i32 partition][u32 length][batch]`, little endian, one after the other.
fn split(mut content: Bytes) -> Result<Vec<(i32, Bytes)>, Refusal> {
    let mut batches = Vec::new();
    while content.has_remaining() {
        if content.remaining() < 8 {
            return Err(Refusal::bad("a batch without its partition and length"));
        }
        let (partition, length) = (content.get_i32_le(), content.get_u32_le() as usize);
        if content.remaining() < length {
            return Err(Refusal::bad("a batch that ends beyond the body"));
        }
        batches.push((partition, content.split_to(length)));
    }
    if batches.is_empty() {
        return Err(Refusal::bad("no batches"));
    }
    Ok(batches)
}

fn partition_of(info: &TopicInfo, partition: i32) -> Result<TopicPartition, Refusal> {
    let place = TopicPartition::new(Arc::clone(&info.spec.name), partition);
    if (0..info.spec.partitions).contains(&partition) {
        return Ok(place);
    }
    Err(bus::Error::UnknownPartition(place).into())
}

fn bad_batch(detail: String) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, codes::BAD_BATCH, detail)
}
