//! Routes that list, make, describe and delete topics. A topic that a function reads or writes is
//! not deleted under it.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bus::{Bus, Retention, TopicInfo, TopicPartition, TopicSpec};

use crate::api::{API, CreateTopic, PartitionMarks, Topic, TopicList};
use crate::codes;
use crate::problem::Refusal;
use crate::routes::{App, QUESTION_BYTES_MAX, question};

/// As the manifest's limit.
const PARTITIONS_MAX: i32 = 4_096;
/// The largest limit of a record that a topic may have.
const RECORD_BYTES_MAX: u64 = 16 << 20;

pub(crate) async fn list(State(app): State<Arc<App>>) -> Result<Json<TopicList>, Refusal> {
    let mut topics = Vec::new();
    for info in app.bus.topics().await? {
        // Deleted between the two calls: then it is not there.
        if let Ok((topic, _marks)) = describe_one(&*app.bus, &info).await {
            topics.push(topic);
        }
    }
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Json(TopicList { api: API, topics }))
}

pub(crate) async fn create(State(app): State<Arc<App>>, body: Body) -> Result<Response, Refusal> {
    let asked: CreateTopic = question(body, QUESTION_BYTES_MAX).await?;
    if !(1..=PARTITIONS_MAX).contains(&asked.partitions) {
        let detail = format!("{} partitions: 1 to {PARTITIONS_MAX} are possible", asked.partitions);
        return Err(Refusal::bad(detail));
    }
    let record_bytes_max = asked.record_bytes_max.unwrap_or(1 << 20);
    if !(1..=RECORD_BYTES_MAX).contains(&record_bytes_max) {
        let detail =
            format!("record_bytes_max {record_bytes_max}: 1 to {RECORD_BYTES_MAX} are possible");
        return Err(Refusal::bad(detail));
    }
    let mut spec = TopicSpec::new(asked.name, asked.partitions);
    spec.retention = Retention {
        age: asked.retention_ms.map(Duration::from_millis),
        bytes: asked.retention_bytes,
    };
    spec.record_bytes_max = usize::try_from(record_bytes_max).expect("at most 16 MiB");
    let existed = app.bus.topic(&spec.name).is_some();
    let info = app.bus.create_topic(spec).await?;
    let topic = describe_whole(&app, &info).await?;
    let status = if existed { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(topic)).into_response())
}

pub(crate) async fn describe(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Json<Topic>, Refusal> {
    let info = find(&*app.bus, &name)?;
    Ok(Json(describe_whole(&app, &info).await?))
}

pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<StatusCode, Refusal> {
    find(&*app.bus, &name)?;
    let status = app.node.status();
    let user = status.functions.iter().find_map(|function| {
        let verb = match () {
            () if function.reads.contains(&name) => "reads",
            () if function.writes.contains(&name) => "writes",
            () => return None,
        };
        Some(format!("{}/{} {verb} {name}", function.app, function.name))
    });
    if let Some(user) = user {
        return Err(Refusal::new(StatusCode::CONFLICT, codes::TOPIC_IN_USE, user)
            .hint("take the topic out of the manifest first"));
    }
    app.bus.delete_topic(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The topic, or the refusal that says that there is none.
pub(crate) fn find(bus: &dyn Bus, name: &str) -> Result<TopicInfo, Refusal> {
    let unknown = || bus::Error::UnknownTopic { topic: name.to_owned() };
    bus.topic(name).ok_or_else(|| unknown().into())
}

async fn describe_whole(app: &App, info: &TopicInfo) -> Result<Topic, Refusal> {
    let (mut topic, marks) = describe_one(&*app.bus, info).await?;
    topic.watermarks = marks;
    let shards = app.node.shards();
    let readers = shards.iter().filter(|shard| shard.topic == topic.name);
    topic.readers = readers.map(|shard| shard.trigger.clone()).collect();
    topic.readers.sort();
    topic.readers.dedup();
    Ok(topic)
}

async fn describe_one(
    bus: &dyn Bus,
    info: &TopicInfo,
) -> Result<(Topic, Vec<PartitionMarks>), bus::Error> {
    let spec = &info.spec;
    let mut marks = Vec::new();
    for partition in 0..spec.partitions {
        let found = bus.watermarks(&TopicPartition::new(Arc::clone(&spec.name), partition)).await?;
        let (start, end, bytes) = (found.start.0, found.end.0, found.bytes);
        marks.push(PartitionMarks { partition, start, end, bytes });
    }
    let topic = Topic {
        api: API,
        name: spec.name.to_string(),
        partitions: spec.partitions,
        records: marks.iter().map(|it| it.end.abs_diff(it.start)).sum(),
        bytes: marks.iter().map(|it| it.bytes).sum(),
        retention_ms: spec.retention.age.map(|age| age.as_millis().try_into().unwrap_or(u64::MAX)),
        retention_bytes: spec.retention.bytes,
        record_bytes_max: spec.record_bytes_max as u64,
        watermarks: Vec::new(),
        readers: Vec::new(),
    };
    Ok((topic, marks))
}
