//! A subscription as its reader sees it: one record after the other. What was given is behind the
//! resume token, what was not is asked for again after a cut.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use live::{Decoder, FRAME_MAX, Frame, Resume, Start};
use quinn::{ConnectionError, ReadError, RecvStream, VarInt};
use tokio::time::{Instant, sleep, timeout};

use crate::dial::{Dialled, dial, said};
use crate::{Client, Error, From, Timing};

pub use live::Header;

/// What one read takes from a stream at most.
const CHUNK: usize = 64 << 10;

/// A record of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The topic.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: u32,
    /// Where it lies in that.
    pub offset: i64,
    /// When it happened, by its producer: Unix ms.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// In order; names may repeat.
    pub headers: Vec<Header>,
}

/// A connection to a node that has let us in.
#[derive(Debug)]
struct Link {
    dialled: Dialled,
    stream: RecvStream,
    decoder: Decoder,
    address: String,
}

/// See [`Client::subscribe`]. Dropping it ends it.
#[derive(Debug)]
pub struct Subscription {
    client: Client,
    topics: Vec<Arc<str>>,
    /// Behind the last record that was given.
    at: Resume,
    link: Option<Link>,
    /// What came and was not given: records of one partition, by the topic's place in the list.
    waiting: VecDeque<(usize, Record)>,
    rounds: Rounds,
    reconnects: u64,
}

/// Which address is next, and how long to wait before.
#[derive(Clone, Copy, Debug, Default)]
struct Rounds {
    next: usize,
    /// Dials since the last that led to a node that let us in.
    failures: u32,
    /// Of those of this round, whether some may end better another time.
    is_hopeful: bool,
}

impl Rounds {
    /// A dial to one of `addresses` failed: whether it makes sense to go on, and after which pause.
    fn on_failure(
        &mut self,
        addresses: usize,
        is_retryable: bool,
        timing: &Timing,
        random: u32,
    ) -> Option<Duration> {
        self.next = (self.next + 1) % addresses;
        self.failures = self.failures.saturating_add(1);
        self.is_hopeful |= is_retryable;
        let count = u32::try_from(addresses).unwrap_or(u32::MAX);
        if !self.failures.is_multiple_of(count) {
            return Some(Duration::ZERO);
        }
        // Every address was asked: who is refused everywhere is refused.
        if !std::mem::take(&mut self.is_hopeful) {
            return None;
        }
        let doublings = (self.failures / count - 1).min(16);
        let whole = timing.pause_first.saturating_mul(1 << doublings).min(timing.pause_longest);
        // Between half and all of it, so that those who lost a node together do not come together.
        Some(whole / 2 + (whole / 2).mul_f64(f64::from(random) / f64::from(u32::MAX)))
    }

    const fn on_success(&mut self) {
        self.failures = 0;
        self.is_hopeful = false;
    }
}

impl Subscription {
    pub(crate) async fn begin(
        client: Client,
        topics: Vec<String>,
        from: From,
    ) -> Result<Self, Error> {
        let start = match from {
            From::Earliest => Start::Earliest,
            From::Latest => Start::Latest,
            From::Resume(resume) => Start::Resume(resume),
        };
        let until = Instant::now() + client.timing.patience;
        let mut rounds = Rounds::default();
        loop {
            let error = match open(&client, rounds.next, &topics, &start).await {
                Ok((link, at)) => {
                    rounds.on_success();
                    let topics = topics.iter().map(|it| it.as_str().into()).collect();
                    let (waiting, link) = (VecDeque::new(), Some(link));
                    return Ok(Self { client, topics, at, link, waiting, rounds, reconnects: 0 });
                }
                Err(error) => error,
            };
            let (count, timing) = (client.addresses.len(), client.timing);
            let pause = rounds.on_failure(count, error.is_retryable(), &timing, rand::random());
            match pause {
                Some(pause) if Instant::now() + pause < until => sleep(pause).await,
                _ => return Err(error),
            }
        }
    }

    /// The next record. Waits for one, and for a node to come back, as long as that takes. Cancel
    /// safe: a dropped call loses nothing.
    ///
    /// # Errors
    ///
    /// When every node refuses, or what comes cannot be understood: the subscription is over then.
    /// What was given is behind [`resume_token`](Self::resume_token) all the same.
    pub async fn next(&mut self) -> Result<Record, Error> {
        loop {
            if let Some((topic, record)) = self.waiting.pop_front() {
                self.at.advance(topic, record.partition, record.offset);
                return Ok(record);
            }
            let Some(link) = &mut self.link else {
                self.reconnect().await?;
                continue;
            };
            match link.frame().await {
                Ok(Frame::Records { topic, partition, records }) => {
                    let Some(name) = self.topics.get(topic).cloned() else {
                        return Err(link.not_understood("a topic that was not asked for"));
                    };
                    self.waiting.extend(records.into_iter().map(|it| {
                        let live::Record { offset, timestamp, key, value, headers } = it;
                        let topic_name = Arc::clone(&name);
                        let record = Record {
                            topic: topic_name,
                            partition,
                            offset,
                            timestamp,
                            key,
                            value,
                            headers,
                        };
                        (topic, record)
                    }));
                }
                Ok(Frame::Welcome(_) | Frame::Subscribe(_)) => {
                    return Err(link.not_understood("a frame that has no business here"));
                }
                Err(error @ Error::Protocol { .. }) => return Err(error),
                // Why is told when every address was asked.
                Err(_ended) => self.link = None,
            }
        }
    }

    /// Dials until a node lets us in behind what was given.
    async fn reconnect(&mut self) -> Result<(), Error> {
        let topics: Vec<String> = self.topics.iter().map(ToString::to_string).collect();
        loop {
            let start = Start::Resume(self.at.clone());
            let error = match open(&self.client, self.rounds.next, &topics, &start).await {
                Ok((link, at)) => {
                    // Partitions that are new since, too.
                    self.at = at;
                    self.link = Some(link);
                    self.rounds.on_success();
                    self.reconnects += 1;
                    return Ok(());
                }
                Err(error) => error,
            };
            let (count, timing) = (self.client.addresses.len(), self.client.timing);
            let is_retryable = error.is_retryable();
            match self.rounds.on_failure(count, is_retryable, &timing, rand::random()) {
                Some(pause) => sleep(pause).await,
                None => return Err(error),
            }
        }
    }

    /// Where to go on: behind every record that [`next`](Self::next) gave, and none else. Its text
    /// is for a file or a database; a subscription goes on there with [`From::Resume`].
    #[must_use]
    pub const fn resume_token(&self) -> &Resume {
        &self.at
    }

    /// Records that have come and were not given yet: without any, `next` waits for the node.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How often it was cut off and found a node again.
    #[must_use]
    pub const fn reconnects(&self) -> u64 {
        self.reconnects
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.dialled.connection.close(VarInt::from_u32(0), b"");
    }
}

/// Dials one address and asks to be let in.
async fn open(
    client: &Client,
    address: usize,
    topics: &[String],
    start: &Start,
) -> Result<(Link, Resume), Error> {
    let address = client.addresses[address].clone();
    let late = Error::Unreachable { address: address.clone(), why: "no answer in time".to_owned() };
    let opened = async {
        let dialled = dial(&address, *client.token.ca(), &client.timing).await?;
        let lost = |error: &ConnectionError| ended(error, &address);
        let stream = dialled.connection.open_bi().await;
        let (mut send, stream) = stream.map_err(|error| lost(&error))?;
        let asked = live::subscribe(&client.token, topics, start);
        // Who refuses closes the connection, and says why when it is read.
        send.write_all(&asked).await.ok();
        send.finish().ok();
        let decoder = Decoder::new(FRAME_MAX);
        let mut link = Link { dialled, stream, decoder, address: address.clone() };
        match link.frame().await? {
            Frame::Welcome(at) if at.topics.iter().map(|it| &it.name).eq(topics) => Ok((link, at)),
            _ => Err(link.not_understood("no welcome, or one of other topics")),
        }
    };
    timeout(client.timing.dial, opened).await.unwrap_or(Err(late))
}

impl Link {
    /// The next frame. Cancel safe: what came of it is kept.
    async fn frame(&mut self) -> Result<Frame, Error> {
        loop {
            match self.decoder.poll_frame() {
                Ok(Some(frame)) => return Ok(frame),
                Ok(None) => {}
                Err(error) => return Err(self.not_understood(&error.to_string())),
            }
            match self.stream.read_chunk(CHUNK, true).await {
                Ok(Some(chunk)) => self.decoder.on_bytes(&chunk.bytes),
                Err(ReadError::ConnectionLost(error)) => return Err(ended(&error, &self.address)),
                // A node ends the connection, never the stream alone; it does so at once.
                Ok(None) | Err(_) => {
                    let error = self.dialled.connection.closed().await;
                    return Err(ended(&error, &self.address));
                }
            }
        }
    }

    fn not_understood(&self, why: &str) -> Error {
        Error::Protocol { address: self.address.clone(), why: why.to_owned() }
    }
}

/// Why a connection ended: what the node said, or that it is gone.
fn ended(error: &ConnectionError, address: &str) -> Error {
    match said(error) {
        Some((reason, said)) => Error::Refused { reason, said },
        None => Error::Unreachable { address: address.to_owned(), why: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use live::Reason;

    use super::*;

    fn timing() -> Timing {
        Timing {
            pause_first: Duration::from_millis(100),
            pause_longest: Duration::from_millis(300),
            ..Timing::default()
        }
    }

    #[test]
    fn every_address_is_asked_before_a_pause_which_doubles() {
        let mut rounds = Rounds::default();
        let mut fail = |random| rounds.on_failure(2, true, &timing(), random);
        let mut pauses = Vec::new();
        for _ in 0..4 {
            assert_eq!(fail(0), Some(Duration::ZERO));
            pauses.extend(fail(0).map(|it| it.as_millis()));
        }
        assert_eq!(pauses, [50, 100, 150, 150]);
        assert_eq!(fail(0), Some(Duration::ZERO));
        assert_eq!(fail(u32::MAX), Some(Duration::from_millis(300)));
        rounds.on_success();
        assert_eq!(rounds.on_failure(1, true, &timing(), 0), Some(Duration::from_millis(50)));
    }

    #[test]
    fn who_is_refused_everywhere_is_refused_and_one_hope_is_enough_to_go_on() {
        let mut rounds = Rounds::default();
        assert!(rounds.on_failure(2, false, &timing(), 0).is_some());
        assert!(rounds.on_failure(2, true, &timing(), 0).is_some());
        assert!(rounds.on_failure(2, false, &timing(), 0).is_some(), "the next may take us");
        assert!(rounds.on_failure(2, false, &timing(), 0).is_none());
    }

    #[test]
    fn a_reason_that_no_retry_mends_is_final() {
        let refused = |reason| Error::Refused { reason, said: String::new() };
        assert!(refused(Reason::Closing).is_retryable());
        assert!(!refused(Reason::RevokedToken).is_retryable());
        assert!(!refused(Reason::RecordsGone).is_retryable());
    }
}
