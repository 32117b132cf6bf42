//! What happened to a record, and what an invocation was: told from the triggers' histories, from the
//! shards that run, and from the topics themselves, where outputs say where they come from.

mod library;
mod origin;
mod settings;
mod tail;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{Offset, ShardId, Start, Timestamp, TopicPartition};
use dispatch::history::{Account, Attempt, Ending, Found, Kept, Spans};
use dispatch::{InvocationName, ShardHandle, Standing};
use gateway::api::{
    API, AttemptInfo, FailedRecord, InvocationError, InvocationInfo, OriginStep, OutputPlace,
    RecordAccount, RecordState, TriggerAccount,
};

use self::library::{search, sweep, with_book};
use self::origin::{Made, Origin};
use super::status::rfc3339;
use super::triggers::of_bus;
use super::{Node, topics};
use crate::commands::error::{CommandError, exit};

pub(super) use self::library::Books;
pub use self::settings::History;
pub(in crate::node) use self::settings::duration;

/// How far back an origin is followed.
const STEPS_MAX: usize = 64;
/// How often it is looked which histories are not asked for.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// What is read in search of the outputs of a commit whose place was not told.
const SEARCH_BYTES: usize = 64 << 20;

/// A shard as these answers need it.
struct Reads {
    shard: ShardId,
    trigger: String,
    handle: Option<Arc<ShardHandle>>,
}

impl Node {
    /// Lets go of histories that nobody asks for any more, until the node ends.
    pub(super) async fn watch_books(self) {
        loop {
            tokio::select! {
                () = self.inner.shutdown.cancelled() => return,
                () = tokio::time::sleep(SWEEP_EVERY) => sweep(&self.inner.books),
            }
        }
    }

    /// Every shard that reads a partition, by its trigger.
    fn readers(&self, place: &TopicPartition) -> Vec<Reads> {
        let mut readers: Vec<Reads> = self.state(|state| {
            let shards = state.shards().iter();
            let mine = shards.filter(|(_, it)| {
                *it.topic == *place.topic && it.partition.cast_signed() == place.partition
            });
            mine.map(|(shard, it)| Reads {
                shard: *shard,
                trigger: it.trigger.clone(),
                handle: self.handle_of(*shard),
            })
            .collect()
        });
        readers.sort_by(|a, b| a.trigger.cmp(&b.trigger));
        readers
    }

    async fn account_of(
        &self,
        trigger: &str,
        place: &TopicPartition,
        offset: Offset,
    ) -> Result<Option<(Account, Option<i64>)>, CommandError> {
        let Some(topic) = topics::history_of(&self.inner, trigger) else { return Ok(None) };
        let look = |book: &dispatch::history::Book| {
            (book.record(&place.topic, place.partition, offset), book.oldest())
        };
        let found = with_book(&self.inner.books, &*self.inner.bus, &topic, look).await;
        found.map(Some).map_err(|error| of_bus(&error))
    }

    pub(super) async fn record_account(
        &self,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> Result<RecordAccount, CommandError> {
        let bus = &*self.inner.bus;
        let (place, at) = (TopicPartition::new(topic, partition), Offset(offset));
        let marks = bus.watermarks(&place).await.map_err(|error| of_bus(&error))?;
        if offset < 0 || marks.end <= at {
            let message = format!(
                "there is no record {place}@{offset} yet: the partition ends at {}",
                marks.end
            );
            return Err(CommandError::new(exit::NOT_FOUND, "E0406", message));
        }
        let (timestamp, origin) = self.look_at(&place, at).await?;
        let mut account = RecordAccount {
            api: API,
            topic: topic.to_owned(),
            partition,
            offset,
            timestamp: timestamp.map(rfc3339),
            ..RecordAccount::default()
        };
        let mut next = origin;
        while let Some(origin) = next.take().filter(|_| account.origin.len() < STEPS_MAX) {
            let (place, offset) = (origin.place.clone(), origin.offset);
            account.origin.push(self.step(&origin).await?);
            if bus.topic(&place.topic).is_some() {
                next = self.look_at(&place, offset).await?.1;
            }
        }
        for reads in self.readers(&place) {
            account.triggers.push(self.at_trigger(reads, &place, at, timestamp).await?);
        }
        Ok(account)
    }

    /// A record's timestamp and origin, where it is still there.
    async fn look_at(
        &self,
        place: &TopicPartition,
        offset: Offset,
    ) -> Result<(Option<Timestamp>, Option<Origin>), CommandError> {
        let mut found = (None, None);
        let bounds = (offset, offset.next());
        let searched = search(&*self.inner.bus, place, bounds, SEARCH_BYTES, |record| {
            if record.offset == offset {
                found = (Some(record.timestamp), Origin::of(record.headers));
            }
            false
        });
        searched.await.map_err(|error| of_bus(&error))?;
        Ok(found)
    }

    /// Who made an output, from the history of those who read its source.
    async fn step(&self, origin: &Origin) -> Result<OriginStep, CommandError> {
        let mut step = OriginStep {
            topic: origin.place.topic.to_string(),
            partition: origin.place.partition,
            offset: origin.offset.0,
            index: origin.made.index(),
            destination: origin.made.destination().map(str::to_owned),
            revision: origin.revision.clone(),
            attempt: origin.attempt,
            ..OriginStep::default()
        };
        for reads in self.readers(&origin.place) {
            let told = self.account_of(&reads.trigger, &origin.place, origin.offset).await?;
            let attempts = told.map(|(account, _)| account.attempts).unwrap_or_default();
            // A dead letter was given up after the last attempt of its assignment.
            let is_it = |it: &&Attempt| {
                it.invocation.epoch.0 == origin.epoch
                    && if origin.made.is_of_success() {
                        let made = (&it.revision, it.number);
                        it.is_kept && made == (&origin.revision, origin.attempt)
                    } else {
                        it.failure.is_some()
                    }
            };
            if let Some(found) = attempts.iter().rev().find(is_it) {
                step.trigger = Some(reads.trigger);
                step.invocation = Some(found.invocation.to_string());
                break;
            }
        }
        Ok(step)
    }

    async fn at_trigger(
        &self,
        reads: Reads,
        place: &TopicPartition,
        offset: Offset,
        timestamp: Option<Timestamp>,
    ) -> Result<TriggerAccount, CommandError> {
        // First what is, then what was: what is settled in between is in the history by then.
        let standing = match &reads.handle {
            Some(handle) => handle.standing(place.clone(), offset).await,
            None => None,
        };
        let told = self.account_of(&reads.trigger, place, offset).await?;
        let is_on = told.is_some();
        let (account, oldest) = told.unwrap_or_default();
        let mut it = TriggerAccount { trigger: reads.trigger.clone(), ..TriggerAccount::default() };
        it.history = account.attempts.iter().map(attempt_info).collect();
        // An attempt that did not come to the record is none of it.
        let mut ran = account.attempts.iter().filter(|it| it.is_kept || it.failure.is_some());
        if let Some(last) = ran.next_back() {
            it.invocation = Some(last.invocation.to_string());
            it.revision = Some(last.revision.clone());
            it.attempts = last.number;
            it.at = Some(rfc3339(Timestamp(last.at)));
        }
        if let Some((name, message)) =
            account.attempts.iter().rev().find_map(|it| it.failure.clone())
        {
            (it.error_type, it.error_message) = (Some(name), Some(message));
        }
        match standing {
            Some(Standing::Running { id, attempt }) => {
                it.state = RecordState::InFlight;
                it.attempts = attempt;
                let epoch = self.state(|state| state.shards().get(&reads.shard).map(|it| it.epoch));
                let name =
                    epoch.map(|epoch| InvocationName { shard: reads.shard, epoch, number: id });
                it.invocation = name.map(|name| name.to_string());
                it.at = None;
            }
            Some(Standing::Retrying { attempts, due_at, failure }) => {
                it.state = RecordState::Retrying;
                it.attempts = attempts;
                it.next_try_at = due_at.map(wall);
                if let Some((name, message)) = failure {
                    (it.error_type, it.error_message) = (Some(name), Some(message));
                }
            }
            Some(Standing::Held { attempts }) => {
                it.state = RecordState::Held;
                it.attempts = attempts;
            }
            Some(Standing::Parked { attempts, due_at }) => {
                it.state = RecordState::Parked;
                it.attempts = attempts;
                it.next_try_at = due_at.map(wall);
                if let Some(Ending::Parked { at, .. }) = account.ending {
                    it.at = Some(rfc3339(Timestamp(at)));
                }
            }
            Some(Standing::Queued | Standing::NotRead) => it.state = RecordState::Waiting,
            Some(Standing::Settled) | None => {
                let is_settled =
                    standing.is_some() || self.is_settled(&reads, place, offset).await?;
                match account.ending {
                    Some(ending) if is_settled => {
                        self.ended(&mut it, ending, place, offset, timestamp).await?;
                    }
                    _ if !is_settled => {
                        it.state = RecordState::Waiting;
                        it.note = Some("the trigger does not run".to_owned());
                    }
                    _ => it.note = Some(unknown_because(is_on, oldest)),
                }
            }
        }
        Ok(it)
    }

    async fn is_settled(
        &self,
        reads: &Reads,
        place: &TopicPartition,
        offset: Offset,
    ) -> Result<bool, CommandError> {
        let positions = self.inner.bus.positions().await.map_err(|error| of_bus(&error))?;
        let mine =
            positions.iter().find(|(key, _)| key.shard == reads.shard && key.partition == *place);
        Ok(mine.is_some_and(|(_, it)| offset < it.next || it.completions.contains(offset)))
    }

    /// Fills in how a record ended, and where its outputs lie.
    async fn ended(
        &self,
        it: &mut TriggerAccount,
        ending: Ending,
        place: &TopicPartition,
        offset: Offset,
        timestamp: Option<Timestamp>,
    ) -> Result<(), CommandError> {
        let set_at = |it: &mut TriggerAccount, at| it.at = Some(rfc3339(Timestamp(at)));
        match ending {
            Ending::Succeeded { at, appends } => {
                it.state = RecordState::Succeeded;
                // What failed before is in its history.
                (it.error_type, it.error_message) = (None, None);
                set_at(it, at);
                let (outputs, all) =
                    self.outputs(&appends, place, offset, timestamp, false).await?;
                it.outputs = outputs;
                if !all {
                    it.note = Some(
                        "not all of its outputs were found: they expired, or lie too far \
                                    from where they were looked for"
                            .to_owned(),
                    );
                }
            }
            Ending::Filtered { at } => {
                it.state = RecordState::Filtered;
                set_at(it, at);
            }
            Ending::Parked { at, attempts, due, .. } => {
                it.state = RecordState::Parked;
                it.attempts = attempts;
                it.next_try_at = Some(rfc3339(Timestamp(due)));
                set_at(it, at);
            }
            Ending::DeadLettered { at, attempts, invocation, cause, error, appends } => {
                it.state = RecordState::DeadLettered;
                it.attempts = attempts;
                it.cause = Some(cause);
                if let Some(invocation) = invocation {
                    it.invocation = Some(invocation.to_string());
                }
                (it.error_type, it.error_message) = (Some(error.0), Some(error.1));
                set_at(it, at);
                let (found, _) = self.outputs(&appends, place, offset, timestamp, true).await?;
                it.dead_letter = found.into_iter().next();
                if it.dead_letter.is_none() {
                    it.note = Some("its dead letter was not found: it expired".to_owned());
                }
            }
        }
        Ok(())
    }

    /// Where the outputs of a record lie, or its dead letter, among the batches of a commit; and whether
    /// all of those could be looked through.
    async fn outputs(
        &self,
        appends: &[Found],
        place: &TopicPartition,
        offset: Offset,
        timestamp: Option<Timestamp>,
        is_dead: bool,
    ) -> Result<(Vec<OutputPlace>, bool), CommandError> {
        let bus = &*self.inner.bus;
        let (mut outputs, mut all) = (Vec::new(), true);
        for Found { batch, base } in appends {
            let to = TopicPartition::new(&*batch.topic, batch.partition);
            if bus.topic(&to.topic).is_none_or(|info| info.spec.partitions <= to.partition) {
                all = false;
                continue;
            }
            let marks = bus.watermarks(&to).await.map_err(|error| of_bus(&error))?;
            let bounds = match (base, timestamp) {
                (Some(base), _) => (*base, Offset(base.0 + i64::from(batch.count))),
                // An output has the timestamp of its record.
                (None, Some(timestamp)) => {
                    let from = bus.offset_for(&to, Start::At(timestamp)).await;
                    (from.map_err(|error| of_bus(&error))?, marks.end)
                }
                (None, None) => (marks.start, marks.end),
            };
            all &= marks.start <= bounds.0;
            let (mut found, told_where) = (Vec::new(), base.is_some());
            let searched = search(bus, &to, bounds, SEARCH_BYTES, |record| {
                let is_it = Origin::of(record.headers).filter(|origin| {
                    let is_wanted = match origin.made {
                        Made::Output(_) => !is_dead,
                        Made::DeadLetter => is_dead,
                        Made::OnSuccess | Made::OnFailure => false,
                    };
                    (&origin.place, origin.offset) == (place, offset) && is_wanted
                });
                if let Some(origin) = is_it {
                    found.push(OutputPlace {
                        topic: batch.topic.clone(),
                        partition: batch.partition,
                        offset: record.offset.0,
                        index: origin.made.index(),
                    });
                    return true;
                }
                // Outputs of one record lie side by side.
                told_where || found.is_empty()
            });
            all &= searched.await.map_err(|error| of_bus(&error))?;
            outputs.append(&mut found);
        }
        outputs.sort_by_key(|it| it.index);
        Ok((outputs, all))
    }

    pub(super) async fn invocation_info(&self, id: &str) -> Result<InvocationInfo, CommandError> {
        let name: InvocationName = id
            .parse()
            .map_err(|wanted: &str| CommandError::new(exit::USAGE, "E0531", wanted.to_owned()))?;
        let unknown = |why: String| {
            let message = format!("nothing is known of invocation {name}: {why}");
            CommandError::new(exit::NOT_FOUND, "E0531", message)
        };
        let trigger =
            self.state(|state| state.shards().get(&name.shard).map(|it| it.trigger.clone()));
        let trigger =
            trigger.ok_or_else(|| unknown(format!("there is no shard {}", name.shard)))?;
        let topic = topics::history_of(&self.inner, &trigger)
            .ok_or_else(|| unknown(unknown_because(false, None)))?;
        let look = |book: &dispatch::history::Book| (book.invocation(name), book.oldest());
        let (found, oldest) = with_book(&self.inner.books, &*self.inner.bus, &topic, look)
            .await
            .map_err(|error| of_bus(&error))?;
        let invoked =
            found.ok_or_else(|| unknown(format!("{}, or it still runs", began(oldest))))?;
        let run = invoked.run;
        let place = |index: u32| {
            let place = invoked.places.get(index as usize);
            place.map_or_else(String::new, |(topic, number)| format!("{topic}[{number}]"))
        };
        let count = |spans: &[(u32, Spans)]| spans.iter().map(|(_, it)| it.count()).sum::<u64>();
        let records = count(&run.records);
        let kept = match &run.kept {
            Kept::Nothing => 0,
            Kept::All => records,
            Kept::Some(kept) => count(kept),
        };
        let attempt = |partition: u32, offset: i64| {
            let other = run.attempts.iter().find(|it| (it.0, it.1) == (partition, offset));
            other.map_or(1, |it| it.2)
        };
        let outcome = match (kept == records, kept) {
            (true, _) => "ok",
            (false, 0) => "failed",
            (false, _) => "partial",
        };
        let ranges = run.records.iter().flat_map(|(index, spans)| {
            spans.runs().map(|(first, last)| range(&place(*index), first, last)).collect::<Vec<_>>()
        });
        let appended = invoked.appends.iter().filter(|_| 0 < kept).map(|Found { batch, base }| {
            let to = format!("{}[{}]", batch.topic, batch.partition);
            match base {
                Some(base) => range(&to, base.0, base.0 + i64::from(batch.count) - 1),
                None => to,
            }
        });
        Ok(InvocationInfo {
            api: API,
            invocation: name.to_string(),
            trigger,
            revision: run.revision.clone(),
            at: rfc3339(Timestamp(run.at)),
            run_us: run.run_us,
            start_us: run.start_us,
            outcome: outcome.to_owned(),
            records,
            ranges: ranges.collect(),
            kept,
            failed: run
                .failed
                .iter()
                .map(|it| FailedRecord {
                    record: format!("{}@{}", place(it.partition), it.offset),
                    attempt: attempt(it.partition, it.offset),
                    error_type: run
                        .errors
                        .get(it.error as usize)
                        .map_or_else(String::new, |(name, _)| name.clone()),
                })
                .collect(),
            errors: run
                .errors
                .iter()
                .cloned()
                .map(|(error_type, error_message)| InvocationError { error_type, error_message })
                .collect(),
            appended: appended.collect(),
        })
    }
}

/// A moment of this process by the wall clock.
fn wall(due: Instant) -> String {
    let wait = due.saturating_duration_since(Instant::now());
    let wait = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
    rfc3339(Timestamp(Timestamp::now().0.saturating_add(wait)))
}

fn range(place: &str, first: i64, last: i64) -> String {
    if first == last { format!("{place}@{first}") } else { format!("{place}@{first}..{last}") }
}

fn began(oldest: Option<i64>) -> String {
    match oldest {
        Some(oldest) => format!("the history begins at {}", rfc3339(Timestamp(oldest))),
        None => "the history is empty".to_owned(),
    }
}

fn unknown_because(is_on: bool, oldest: Option<i64>) -> String {
    match is_on {
        true => format!("settled, and no history tells how: {}", began(oldest)),
        false => {
            "the node keeps no history of this trigger: `history.max-bytes` is 0, or its topic \
                  is not there"
                .to_owned()
        }
    }
}

fn attempt_info(it: &Attempt) -> AttemptInfo {
    let (error_type, error_message) = it.failure.clone().unzip();
    AttemptInfo {
        number: it.number,
        invocation: it.invocation.to_string(),
        revision: it.revision.clone(),
        at: rfc3339(Timestamp(it.at)),
        records: it.records,
        run_us: it.run_us,
        ok: it.is_kept,
        error_type,
        error_message,
    }
}
