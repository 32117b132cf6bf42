//! Plays the file of `[dev.feed]` into a topic, and remembers how far it is in the same write: a
//! row is appended once, whatever kills the node.
//!
//! The memory is a topic of its own, `<app>.feed`: each append of rows also appends one record
//! there, `round;row` of the next one. A call of append is atomic, so the two never disagree. On
//! Kafka it is not, so the rows go first, and a kill may repeat the last of them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bus::{Append, BatchBuilder, Headers, Offset, Retention, Timestamp, TopicPartition, TopicSpec};
use function::{Feed, Manifest};

use super::{Node, chain};
use crate::commands::error::{CommandError, exit};

/// How often rows are appended.
const TICK: Duration = Duration::from_millis(50);
/// A feed is held in memory.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// How far a feed is.
#[derive(Clone, Debug)]
pub struct FeedProgress {
    /// As in the manifest.
    pub file: String,
    /// Where it goes.
    pub topic: String,
    /// Rows a second.
    pub rate: u32,
    /// Rows of the file.
    pub rows: u64,
    /// The next row, from 0.
    pub next_row: u64,
    /// How often the file was played to its end.
    pub rounds: u64,
    /// Rows appended since the node started.
    pub appended: u64,
    /// `running`, `done`, or why it waits.
    pub state: String,
}

struct Row {
    key: Option<Vec<u8>>,
    value: Vec<u8>,
}

impl Node {
    /// Starts to play the manifest's feed, from where it was. Gives how far that is.
    ///
    /// # Errors
    ///
    /// When the file cannot be used.
    pub async fn start_feed(
        &self,
        dir: &Path,
        manifest: &Manifest,
    ) -> Result<Option<FeedProgress>, CommandError> {
        let Some(feed) = &manifest.feed else { return Ok(None) };
        let rows = read_rows(&dir.join(&feed.file), feed)?;
        let memory = format!("{}.feed", manifest.app);
        let failed = |error: bus::Error| {
            CommandError::new(exit::FAILED, "E0412", format!("cannot start the feed: {error}"))
        };
        let retention = Retention { bytes: Some(1 << 20), age: None };
        let spec = TopicSpec { retention, ..TopicSpec::new(memory.as_str(), 1) };
        self.inner.bus.create_topic(spec).await.map_err(failed)?;
        let memory = TopicPartition::new(memory.as_str(), 0);
        let (rounds, next_row) = self.remembered(&memory).await.map_err(failed)?;
        let progress = FeedProgress {
            file: feed.file.clone(),
            topic: feed.topic.clone(),
            rate: feed.rate,
            rows: rows.len() as u64,
            next_row: next_row.min(rows.len() as u64),
            rounds,
            appended: 0,
            state: "running".to_owned(),
        };
        let show = |it: &FeedProgress| {
            *self.inner.feed.lock().expect("nothing panics while holding it") = Some(it.clone());
        };
        show(&progress);
        let (node, feed, started) = (self.clone(), feed.clone(), progress.clone());
        drop(tokio::spawn(async move { node.play(rows, feed, memory, started).await }));
        Ok(Some(progress))
    }

    async fn remembered(&self, memory: &TopicPartition) -> Result<(u64, u64), bus::Error> {
        let end = self.inner.bus.watermarks(memory).await?.end;
        if end == Offset(0) {
            return Ok((0, 0));
        }
        let last = vec![(memory.clone(), Offset(end.0 - 1))];
        let mut reader = self.inner.bus.reader(last).await?;
        let fetched = reader.fetch(1).await?;
        let value = fetched.last().and_then(|it| {
            let batch = &it.batch;
            batch.get(batch.len() - 1).value.map(<[u8]>::to_vec)
        });
        let text = String::from_utf8(value.unwrap_or_default()).unwrap_or_default();
        let mut parts = text.split(';').map(|part| part.parse().unwrap_or(0));
        Ok((parts.next().unwrap_or(0), parts.next().unwrap_or(0)))
    }

    async fn play(self, rows: Vec<Row>, feed: Feed, memory: TopicPartition, at: FeedProgress) {
        let mut at = at;
        let bus = &self.inner.bus;
        let started_at = Instant::now();
        let mut ticks = tokio::time::interval(TICK);
        let count = rows.len() as u64;
        let mut turn = 0_usize;
        loop {
            tokio::select! {
                () = self.inner.shutdown.cancelled() => return,
                _tick = ticks.tick() => {}
            }
            let Some(info) = bus.topic(&feed.topic) else { return };
            let due = (started_at.elapsed().as_secs_f64() * f64::from(feed.rate)) as u64;
            let mut builders: Vec<BatchBuilder> = Vec::new();
            builders.resize_with(info.spec.partitions as usize, BatchBuilder::default);
            let mut next = at.clone();
            while next.appended < due && (next.next_row < count || (feed.repeat && 0 < count)) {
                if next.next_row == count {
                    (next.next_row, next.rounds) = (0, next.rounds + 1);
                }
                let row = &rows[next.next_row as usize];
                let partition = match &row.key {
                    Some(key) => bus::partition_for_key(key, info.spec.partitions) as usize,
                    None => turn % builders.len(),
                };
                turn = turn.wrapping_add(1);
                let (key, value) = (row.key.as_deref(), Some(&row.value[..]));
                builders[partition].push(Timestamp::now(), key, value, Headers::default());
                next.next_row += 1;
                next.appended += 1;
            }
            if next.appended == at.appended {
                if !feed.repeat && at.next_row == count {
                    at.state = "done".to_owned();
                    self.show_feed(&at);
                    return;
                }
                continue;
            }
            let appends: Vec<Append> = (0..)
                .zip(&mut builders)
                .filter_map(|(partition, builder)| {
                    let to = TopicPartition::new(&*feed.topic, partition);
                    builder.finish().map(|batch| Append { to, batch })
                })
                .collect();
            let mut note = BatchBuilder::default();
            let text = format!("{};{}", next.rounds, next.next_row);
            note.push(Timestamp::now(), None, Some(text.as_bytes()), Headers::default());
            let note = note.finish().map(|batch| Append { to: memory.clone(), batch });
            match self.append_noted(appends, note).await {
                Ok(_) => {
                    at = next;
                    at.state = "running".to_owned();
                }
                Err(bus::Error::Closed) => return,
                Err(error) => at.state = format!("waiting: {}", chain(&error)),
            }
            self.show_feed(&at);
        }
    }

    /// Appends rows and the note of them: as one on the node's own bus, one after the other on
    /// Kafka, where a kill in between repeats rows and loses none.
    async fn append_noted(
        &self,
        mut rows: Vec<Append>,
        note: Option<Append>,
    ) -> Result<(), bus::Error> {
        let bus = &self.inner.bus;
        if self.inner.kafka.is_some() {
            bus.append(rows).await?;
            rows = Vec::new();
        }
        rows.extend(note);
        bus.append(rows).await.map(drop)
    }

    fn show_feed(&self, progress: &FeedProgress) {
        let mut feed = self.inner.feed.lock().expect("nothing panics while holding it");
        *feed = Some(progress.clone());
    }
}

fn read_rows(path: &PathBuf, feed: &Feed) -> Result<Vec<Row>, CommandError> {
    let failed = |error: std::io::Error| CommandError::file("read", path, &error);
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if FILE_BYTES_MAX < bytes {
        let most = function::format_bytes(FILE_BYTES_MAX);
        let message = format!("{} is larger than {most}", path.display());
        return Err(CommandError::new(exit::FAILED, "E0110", message));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    if path.extension().is_some_and(|it| it.eq_ignore_ascii_case("csv")) {
        return csv_rows(&text, feed, path);
    }
    let key_of = |line: &str| {
        let field = feed.key.as_ref()?;
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        match value.get(field)? {
            serde_json::Value::String(text) => Some(text.clone().into_bytes()),
            serde_json::Value::Null => None,
            other => Some(other.to_string().into_bytes()),
        }
    };
    let lines = text.lines().filter(|line| !line.is_empty());
    Ok(lines.map(|line| Row { key: key_of(line), value: line.as_bytes().to_vec() }).collect())
}

/// Each row as a JSON object by the header's names: numbers as numbers, nothing and `NA` as null.
fn csv_rows(text: &str, feed: &Feed, path: &Path) -> Result<Vec<Row>, CommandError> {
    let failed = |error: csv::Error| {
        let message = format!("cannot read {}: {error}", path.display());
        CommandError::new(exit::FAILED, "E0110", message)
    };
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let names = reader.headers().map_err(failed)?.clone();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(failed)?;
        let mut object = serde_json::Map::new();
        let mut key = None;
        for (name, cell) in names.iter().zip(&record) {
            if feed.key.as_deref() == Some(name) && !cell.is_empty() {
                key = Some(cell.as_bytes().to_vec());
            }
            let value = match cell {
                "" | "NA" => serde_json::Value::Null,
                cell => match serde_json::from_str::<serde_json::Number>(cell) {
                    Ok(number) => serde_json::Value::Number(number),
                    Err(_) => serde_json::Value::String(cell.to_owned()),
                },
            };
            object.insert(name.to_owned(), value);
        }
        let value = serde_json::Value::Object(object).to_string().into_bytes();
        rows.push(Row { key, value });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_becomes_an_object_with_numbers_and_nulls() {
        let feed = Feed {
            file: "x.csv".into(),
            topic: "t".into(),
            key: Some("origin".into()),
            rate: 1,
            repeat: false,
        };
        let text = "time,origin,temp,note\n2013-01-30,EWR,42.8,NA\n,\"a, b\",x,1e3\n";
        let rows = csv_rows(text, &feed, Path::new("x.csv")).unwrap();
        assert_eq!(rows[0].key.as_deref(), Some(&b"EWR"[..]));
        let first: serde_json::Value = serde_json::from_slice(&rows[0].value).unwrap();
        let expected = serde_json::json!({
            "time": "2013-01-30", "origin": "EWR", "temp": 42.8, "note": null
        });
        assert_eq!(first, expected);
        let second: serde_json::Value = serde_json::from_slice(&rows[1].value).unwrap();
        assert_eq!(second["note"], serde_json::json!(1e3));
        assert_eq!(rows[1].key.as_deref(), Some(&b"a, b"[..]));
    }
}
