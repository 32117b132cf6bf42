//! Histories that somebody asks for: each is read from its topic when it is first asked for, read on
//! at every question, and let go of when nobody asks any more. Nothing is held for who does not ask.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bus::{Bus, Offset, TopicPartition};
use bytes::Bytes;
use dispatch::history::Book;

/// How many are held.
const BOOKS_MAX: usize = 8;
/// How long one is held that nobody asks for.
const IDLE: Duration = Duration::from_secs(60);

type Shared = Arc<tokio::sync::Mutex<Book>>;

/// By topic and its id: one that is made again is another.
pub(in crate::node) type Books = BTreeMap<(String, u64), (Shared, Instant)>;

/// Lets `look` look into the history in this topic, as it is now.
pub(super) async fn with_book<T>(
    books: &Mutex<Books>,
    bus: &dyn Bus,
    topic: &str,
    look: impl FnOnce(&Book) -> T,
) -> Result<T, bus::Error> {
    let unknown = || bus::Error::UnknownTopic { topic: topic.to_owned() };
    let info = bus.topic(topic).ok_or_else(unknown)?;
    let shared = {
        let mut books = books.lock().expect("nothing panics while holding it");
        let now = Instant::now();
        let key = (topic.to_owned(), info.id);
        books.retain(|it, (_, used)| *it == key || now.duration_since(*used) < IDLE);
        while BOOKS_MAX <= books.len() && !books.contains_key(&key) {
            let oldest = books.iter().min_by_key(|(_, (_, used))| *used).map(|(it, _)| it.clone());
            oldest.and_then(|it| books.remove(&it));
        }
        let (book, used) = books.entry(key).or_insert_with(|| (Shared::default(), now));
        *used = now;
        Arc::clone(book)
    };
    let mut book = shared.lock().await;
    let place = TopicPartition::new(info.spec.name, 0);
    let marks = bus.watermarks(&place).await?;
    book.forget_before(marks.start);
    let from = book.next();
    let searched = search(bus, &place, (from, marks.end), usize::MAX, |record| {
        if let Some(value) = record.value {
            book.push(record.offset, Bytes::copy_from_slice(value));
        }
        true
    });
    searched.await?;
    Ok(look(&book))
}

/// Histories that nobody asked for of late are let go of.
pub(super) fn sweep(books: &Mutex<Books>) {
    let mut books = books.lock().expect("nothing panics while holding it");
    books.retain(|_, (_, used)| used.elapsed() < IDLE);
}

/// Reads records of a partition from an offset on, until `take` says that it has enough, the end, or
/// about `bytes_max` bytes; whether it came to an end of either of the first two kinds.
pub(super) async fn search(
    bus: &dyn Bus,
    place: &TopicPartition,
    (from, end): (Offset, Offset),
    bytes_max: usize,
    mut take: impl FnMut(bus::RecordView<'_>) -> bool,
) -> Result<bool, bus::Error> {
    const LOOK_BYTES: usize = 256 << 10;
    const PRESENT_MAX: Duration = Duration::from_secs(5);
    let marks = bus.watermarks(place).await?;
    let (mut next, end) = (from.max(marks.start), end.min(marks.end));
    if end <= next {
        return Ok(true);
    }
    let (mut reader, mut seen) = (bus.reader(vec![(place.clone(), next)]).await?, 0);
    while next < end {
        let Ok(fetched) = tokio::time::timeout(PRESENT_MAX, reader.fetch(LOOK_BYTES)).await else {
            // Nothing but a gap is left.
            return Ok(true);
        };
        for fetched in fetched? {
            for record in fetched.batch.iter() {
                if record.offset < next {
                    continue;
                }
                next = record.offset.next();
                if end < next || !take(record) {
                    return Ok(true);
                }
            }
            seen += fetched.batch.as_bytes().len();
        }
        if bytes_max < seen {
            return Ok(false);
        }
    }
    Ok(true)
}
