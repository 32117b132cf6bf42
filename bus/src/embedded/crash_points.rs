//! The proof that the journal survives a power cut at any moment: a script of operations runs on
//! a simulated disk, and at many points of what the disk saw the power goes. What the bus finds
//! then must be what a plain model has after the operations that were acknowledged, or after
//! those and the whole of the group that was on its way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::crash_model::{Model, Trimmed};
use super::queue::{Op, Outcome};
use super::sim_disk::{Event, Replay, Rng, SimDisk, SyncKind};
use super::{Embedded, EmbeddedConfig};
use crate::{
    Append, BatchBuilder, Bus, Commit, Completions, Epoch, Error, HeadersBuilder, Offset, Position,
    PositionMove, RecordBatch, Retention, ShardId, Timestamp, TopicPartition, TopicSpec,
};

/// How many operations the script has.
const OPERATIONS: usize = 2000;

/// What a run of [`crash_points_journal`] saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Operations of the script.
    pub operations: u64,
    /// Writes and syncs the disk saw.
    pub disk_events: u64,
    /// Syncs by kind, in the order of [`SyncKind::ALL`].
    pub syncs: [u64; 4],
    /// Times the power went.
    pub crash_points: u64,
    /// Of those, with writes that were not synced.
    pub effective: u64,
    /// Of those, with a group on its way that was not acknowledged.
    pub in_flight: u64,
    /// Of those, where all of that group was there all the same.
    pub kept_whole: u64,
    /// Times the power went again while the bus recovered.
    pub crashes_in_recovery: u64,
}

/// A crash point after which the bus was not what the model allows.
#[derive(Debug, thiserror::Error)]
#[error("seed {seed}: crash at disk event {event}, image {image}: {reason}")]
pub struct Broken {
    /// Seed of the script, the points and the images.
    pub seed: u64,
    /// Where the power went.
    pub event: usize,
    /// Which image of that moment.
    pub image: u64,
    /// What was wrong.
    pub reason: String,
}

/// Runs the script and cuts the power at `points` moments. `drop_sync` is the index in
/// [`SyncKind::ALL`] of a kind of sync that the disk ignores: a run that must fail where the kind
/// [is needed](SyncKind::is_needed).
///
/// Makes its own runtime: not for calls from within one.
///
/// # Errors
///
/// The first crash point that the model does not allow.
///
/// # Panics
///
/// When the bus does not do as the model says even without a crash.
pub fn crash_points_journal(
    points: u32,
    seed: u64,
    drop_sync: Option<usize>,
) -> Result<Report, Broken> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime of one thread");
    runtime.block_on(async {
        let recorded = Recorded::run(seed).await;
        recorded.check(points, seed, drop_sync.map(|index| SyncKind::ALL[index])).await
    })
}

fn config() -> EmbeddedConfig {
    let mut config = EmbeddedConfig::new("/simulated");
    config.cache_bytes = 16 << 10;
    config.page_cache_bytes = 1 << 20;
    config.retention_every = Duration::from_hours(24);
    config.on_fatal = Arc::new(|_reason| {});
    config.space = Arc::new(|| None);
    config
}

fn open(disk: &SimDisk) -> Result<Arc<Embedded>, Error> {
    let disk = disk.clone();
    Embedded::open_on(config(), move || Box::new(disk.clone()), None)
}

/// One step of the script: operations that go to the writer together, or a new start.
#[derive(Debug)]
enum Step {
    Together(Vec<Op>),
    Reopen,
}

/// What the script did to the model and to the disk.
struct Recorded {
    start: Vec<u8>,
    events: Vec<Event>,
    steps: Vec<(Step, Trimmed)>,
    operations: u64,
}

impl Recorded {
    async fn run(seed: u64) -> Self {
        let disk = SimDisk::default();
        let mut bus = open(&disk).expect("an empty disk");
        let start = disk.record();
        let (mut script, mut model) = (Script::new(seed), Model::default());
        let (mut steps, mut operations) = (Vec::new(), 0);
        while operations < OPERATIONS {
            let step = script.step(&model);
            disk.note(Event::Asked(steps.len()));
            let mut trimmed = Trimmed::default();
            match &step {
                Step::Together(ops) => {
                    operations += ops.len();
                    let results = bus.ask_together(ops.clone()).await;
                    if ops.iter().any(|op| matches!(op, Op::Retain(_))) {
                        trimmed = starts(&bus).await;
                    }
                    for (op, result) in ops.iter().zip(results) {
                        let expected = model.apply(op, &trimmed);
                        compare(seed, op, &result, &expected);
                    }
                }
                Step::Reopen => {
                    operations += 1;
                    bus.close().await;
                    bus = open(&disk).expect("a disk without a crash");
                }
            }
            disk.note(Event::Answered(steps.len()));
            steps.push((step, trimmed));
        }
        assert_eq!(Model::of(&bus).await.expect("a disk without a crash"), model, "seed {seed}");
        let events = disk.take_events();
        bus.close().await;
        Self { start, events, steps, operations: operations as u64 }
    }

    async fn check(
        &self,
        points: u32,
        seed: u64,
        ignored: Option<SyncKind>,
    ) -> Result<Report, Broken> {
        let mut report = self.report();
        let mut rng = Rng::new(seed ^ 0x0063_7261_7368);
        let mut replay = Replay::new(&self.events, self.start.clone(), ignored);
        let (mut answered, mut asked, mut seen) = (0, 0, 0);
        let mut before = Model::default();
        for at in self.points(points, &mut rng) {
            replay.advance(at);
            for event in &self.events[seen..at] {
                match event {
                    Event::Asked(step) => asked = step + 1,
                    Event::Answered(step) => {
                        answered = step + 1;
                        before = before.states(self.steps.get(*step)).pop().expect("there is one");
                    }
                    _ => {}
                }
            }
            seen = at;
            let states = before.states(self.steps[..asked].get(answered));
            report.crash_points += 1;
            report.effective += u64::from(replay.unsynced() != 0);
            let image = rng.next();
            let broken = |reason| Broken { seed, event: at, image, reason };
            let disk = SimDisk::with_image(replay.crash(&mut Rng::new(image)));
            let opened = disk.record();
            let found = recovered(&disk).await.map_err(broken)?;
            let is_after = allowed(&found, &states).map_err(broken)?;
            if states.last().is_some_and(|after| *after != before) {
                report.in_flight += 1;
                report.kept_whole += u64::from(is_after);
            }
            if rng.below(4) == 0 {
                let events = disk.take_events();
                let mut recovery = Replay::new(&events, opened, ignored);
                recovery.advance(rng.below(events.len() + 1));
                let again = SimDisk::with_image(recovery.crash(&mut Rng::new(image)));
                let found = recovered(&again).await.map_err(broken)?;
                allowed(&found, &states).map_err(broken)?;
                report.crashes_in_recovery += 1;
            }
        }
        Ok(report)
    }

    fn report(&self) -> Report {
        let mut report = Report { operations: self.operations, ..Report::default() };
        report.disk_events = self.events.len() as u64;
        for event in &self.events {
            if let Event::Sync(kind) = event {
                let index = SyncKind::ALL.iter().position(|it| it == kind);
                report.syncs[index.expect("every kind is in ALL")] += 1;
            }
        }
        report
    }

    /// Where the power goes: half of the points anywhere, half right before or after a sync, and
    /// up to a quarter before the first sync of a commit that changed the file's length.
    fn points(&self, points: u32, rng: &mut Rng) -> Vec<usize> {
        let is_sync = |at: &usize| matches!(self.events[*at], Event::Sync(_));
        let syncs: Vec<usize> = (0..self.events.len()).filter(is_sync).collect();
        let mut chosen = Vec::new();
        let mut resized = false;
        for (at, event) in self.events.iter().enumerate() {
            match event {
                Event::Length(_) => resized = true,
                Event::Sync(SyncKind::Pages) if std::mem::take(&mut resized) => chosen.push(at),
                _ => {}
            }
        }
        chosen.truncate(points as usize / 4);
        while chosen.len() < points as usize {
            chosen.push(if rng.below(2) == 0 {
                rng.below(self.events.len() + 1)
            } else {
                syncs[rng.below(syncs.len())] + rng.below(2)
            });
        }
        chosen.sort_unstable();
        chosen
    }
}

impl Model {
    /// This state, and those that `step` leads through: a group is one, what does not share a
    /// write is one each.
    fn states(&self, step: Option<&(Step, Trimmed)>) -> Vec<Self> {
        let mut states = vec![self.clone()];
        if let Some((Step::Together(ops), trimmed)) = step {
            let mut model = self.clone();
            for op in ops {
                // Refusals were compared when the script ran.
                drop(model.apply(op, trimmed));
                if !op.is_shared() {
                    states.push(model.clone());
                }
            }
            if states.last() != Some(&model) {
                states.push(model);
            }
        }
        states
    }
}

/// What the bus makes of a disk.
async fn recovered(disk: &SimDisk) -> Result<Model, String> {
    let bus = open(disk).map_err(|error| error.to_string())?;
    let found = Model::of(&bus).await.map_err(|error| error.to_string());
    bus.close().await;
    found
}

/// Whether the state is the first, what was acknowledged (`false`), or one of those after it
/// (`true`). Retention is a write per partition, so of it any part may be there.
fn allowed(found: &Model, states: &[Model]) -> Result<bool, String> {
    if *found == states[0] {
        return Ok(false);
    }
    if states[1..].contains(found) || states.windows(2).any(|it| found.is_between(&it[0], &it[1])) {
        return Ok(true);
    }
    let differences: Vec<String> = states.iter().map(|state| found.difference(state)).collect();
    Err(format!("found, against each state that may be: {}", differences.join("; ")))
}

/// Where every partition starts.
async fn starts(bus: &Embedded) -> Trimmed {
    let mut trimmed = BTreeMap::new();
    for topic in bus.topics().await.expect("topics are in memory") {
        for partition in 0..topic.spec.partitions {
            let place = TopicPartition::new(Arc::clone(&topic.spec.name), partition);
            let marks = bus.watermarks(&place).await.expect("the topic was listed");
            trimmed.insert(place, marks.start.0);
        }
    }
    Trimmed(trimmed)
}

fn compare(seed: u64, op: &Op, found: &Result<Outcome, Error>, expected: &Result<Outcome, Error>) {
    let same = match (found, expected) {
        (Ok(found), Ok(expected)) => found == expected,
        (Err(found), Err(expected)) => {
            std::mem::discriminant(found) == std::mem::discriminant(expected)
        }
        _ => false,
    };
    assert!(same, "seed {seed}: {op:?} gave {found:?}, the model {expected:?}");
}

/// Makes up the operations.
struct Script {
    rng: Rng,
    /// Stamps and numbers records: no two are alike.
    counter: i64,
    epochs: BTreeMap<u64, u64>,
}

const TOPICS: usize = 4;
const SHARDS: usize = 6;

impl Script {
    fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed), counter: 0, epochs: BTreeMap::new() }
    }

    fn step(&mut self, model: &Model) -> Step {
        if model.topics.is_empty() {
            return Step::Together(vec![Op::CreateTopic(self.spec())]);
        }
        match self.rng.below(100) {
            0..4 => Step::Together(vec![Op::CreateTopic(self.spec())]),
            // What the topic left is removed before anything else, not in some idle moment: the
            // same seed gives the same disk events.
            4 => Step::Together(vec![
                Op::DeleteTopic(self.topic_name()),
                Op::Retain(Timestamp(self.counter)),
            ]),
            5..9 => Step::Together(vec![Op::Retain(Timestamp(self.counter))]),
            9..11 => Step::Together(vec![Op::Forget(ShardId(self.rng.below(SHARDS) as u64))]),
            11..13 => Step::Reopen,
            _ => {
                // The model runs ahead of the bus within the group.
                let mut model = model.clone();
                let count = 1 + self.rng.below(5);
                let ops = (0..count).map(|_| {
                    let op = self.shared_op(&model);
                    drop(model.apply(&op, &Trimmed::default()));
                    op
                });
                Step::Together(ops.collect())
            }
        }
    }

    fn shared_op(&mut self, model: &Model) -> Op {
        match self.rng.below(20) {
            0..2 => {
                let (shard, epoch) = self.assignment();
                Op::Recover(shard, epoch)
            }
            2..11 => Op::Append(self.appends(model, 1)),
            _ => {
                let (shard, epoch) = self.assignment();
                let appends = self.appends(model, 0);
                let positions = self.positions(model);
                Op::Commit(Commit { shard, epoch, appends, settles: Vec::new(), positions })
            }
        }
    }

    /// Mostly the newest epoch, now and then the next, rarely one that is over.
    fn assignment(&mut self) -> (ShardId, Epoch) {
        let shard = self.rng.below(SHARDS) as u64;
        let epoch = self.epochs.entry(shard).or_insert(1);
        match self.rng.below(12) {
            0 => *epoch += 1,
            1 => return (ShardId(shard), Epoch(*epoch - 1)),
            _ => {}
        }
        (ShardId(shard), Epoch(*epoch))
    }

    fn topic_name(&mut self) -> String {
        format!("topic-{}", self.rng.below(TOPICS))
    }

    fn spec(&mut self) -> TopicSpec {
        let number = self.rng.below(TOPICS);
        let mut spec = TopicSpec::new(format!("topic-{number}"), 1 + number as i32);
        spec.retention = match number {
            0 => Retention { age: Some(Duration::from_millis(300)), bytes: None },
            1 => Retention { age: None, bytes: Some(30_000) },
            2 => Retention { age: Some(Duration::from_millis(900)), bytes: Some(60_000) },
            _ => Retention { age: None, bytes: Some(200_000) },
        };
        spec
    }

    /// A partition that exists, or rarely one that does not.
    fn place(&mut self, model: &Model) -> TopicPartition {
        if self.rng.below(40) == 0 {
            return TopicPartition::new("nowhere", 0);
        }
        let index = self.rng.below(model.topics.len());
        let (name, topic) = model.topics.iter().nth(index).expect("the index is below their count");
        let partition = self.rng.below(topic.partitions.len()) as i32;
        TopicPartition::new(Arc::clone(name), partition)
    }

    fn appends(&mut self, model: &Model, least: usize) -> Vec<Append> {
        let count = least + self.rng.below(3);
        (0..count).map(|_| Append { to: self.place(model), batch: self.batch() }).collect()
    }

    fn batch(&mut self) -> RecordBatch {
        let records = 1 + self.rng.below(6);
        let bytes = match self.rng.below(12) {
            0 => 9000,
            1 => 2000,
            _ => 8 + self.rng.below(120),
        };
        let (mut builder, mut headers) = (BatchBuilder::default(), HeadersBuilder::default());
        for _record in 0..records {
            self.counter += 1;
            let mut value = self.counter.to_le_bytes().to_vec();
            value.resize(bytes, self.counter as u8);
            headers.clear();
            headers.push(b"n", Some(&self.counter.to_be_bytes()));
            let key = (self.counter % 3 != 0).then_some(&value[..2]);
            let value = (self.counter % 17 != 0).then_some(&value[..]);
            builder.push(Timestamp(self.counter), key, value, headers.headers());
        }
        builder.finish().expect("there is a record")
    }

    /// Positions at or behind those of any shard, now and then beyond the end.
    fn positions(&mut self, model: &Model) -> Vec<PositionMove> {
        let count = 1 + self.rng.below(2);
        let mut positions: BTreeMap<TopicPartition, Position> = BTreeMap::new();
        for _move in 0..count {
            let place = self.place(model);
            let end = model.end(&place).unwrap_or(0);
            let next = match self.rng.below(15) {
                0 => end + 1,
                _ => end - (self.rng.below(8) as i64).min(end),
            };
            let settled = (next + 1 < end).then_some((Offset(next + 1), Offset(end)));
            let position = Position {
                epoch: Epoch(0),
                next: Offset(next),
                completions: Completions::from_ranges(settled),
                suspects: None,
            };
            positions.insert(place, position);
        }
        let moves = positions.into_iter();
        moves.map(|(partition, position)| PositionMove { partition, position }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crash_point_recovers_to_what_the_model_allows() {
        let report = crash_points_journal(150, 1, None).unwrap();
        assert_eq!(report.crash_points, 150);
        assert!(75 < report.effective && 10 < report.in_flight, "{report:?}");
        assert!(0 < report.kept_whole && report.kept_whole < report.in_flight, "{report:?}");
    }

    #[test]
    fn without_the_sync_before_the_switch_a_crash_breaks_the_journal() {
        crash_points_journal(400, 1, Some(0)).unwrap_err();
    }

    #[test]
    fn without_the_sync_after_the_switch_a_crash_loses_what_was_acknowledged() {
        crash_points_journal(400, 1, Some(1)).unwrap_err();
    }

    /// Why: see [`SyncKind::is_needed`]. When a new redb needs them, this says so.
    #[test]
    fn the_syncs_of_lengths_and_of_the_open_mark_are_a_second_belt() {
        for kind in [2, 3] {
            assert!(!SyncKind::ALL[kind].is_needed());
            crash_points_journal(200, 1, Some(kind)).unwrap();
        }
    }
}
