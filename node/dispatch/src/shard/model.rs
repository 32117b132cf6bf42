//! Any seeded mix of failures, repeats, crashes and drains, in virtual time: SD-1 to SD-8 are
//! checked at every command, and in the end every record is settled exactly once.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroUsize};

use bus::{BatchBuilder, Headers, Offset};

use super::*;
use crate::CircuitPolicy;
use crate::command::{BatchLimits, End, Loaded, ParkLimits, Resumed, Wanted, WindowLimits};
use crate::retry::RetryPolicy;

const PARTITIONS: usize = 2;
const RECORDS: usize = 150;
const ATTEMPTS_MAX: u32 = 3;
/// Events with faults; then everything must come to rest.
const EVENTS: usize = 600;

/// (partition, offset).
type Place = (u32, i64);

/// What a record does to the function.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nature {
    Good,
    /// So many attempts fail.
    Fails(u32),
    /// Every batch that it is in crashes.
    Crashes,
    Undecodable,
    /// The filter keeps it from the function.
    Unwanted,
}

#[derive(Clone, Copy)]
struct Known {
    key: Option<u8>,
    nature: Nature,
    /// The newest attempt seen in this life of the shard, and whether it was charged.
    attempt: u32,
    charged: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Settled {
    Output(Place),
    Dead(Place),
    Filtered(Place),
}

impl Settled {
    const fn place(self) -> Place {
        match self {
            Self::Output(place) | Self::Dead(place) | Self::Filtered(place) => place,
        }
    }
}

/// An envelope, attempts and due time, or a tombstone.
type Parked = (Place, Option<(u32, Timestamp, u32)>);

struct Sent {
    id: CommitId,
    settled: Vec<Settled>,
    parks: Vec<Parked>,
    positions: Vec<(u32, Position)>,
}

struct Model {
    seed: u64,
    rng: u64,
    config: DispatchConfig,
    /// The function answers nonsense now and then.
    sloppy: bool,
    log: BTreeMap<Place, Known>,
    batches: Vec<Vec<RecordBatch>>,

    core: ShardDispatch,
    now: Instant,
    epoch: u64,
    fetched: Vec<usize>,
    running: Vec<(InvocationId, Vec<Place>)>,
    over: Vec<InvocationId>,
    gathering: Vec<Settled>,
    sent: Option<Sent>,
    parks: Vec<Parked>,
    loading: Option<Vec<Wanted>>,
    /// What the positions of the commits so far tell.
    told: BTreeSet<Place>,
    /// Alone in flight at every one of several crashes in a row.
    unlucky: BTreeSet<Place>,
    drained: bool,

    park_log: Vec<Parked>,
    durable: BTreeMap<Place, Settled>,
    positions: Vec<Option<Position>>,
    restarts: u32,
    trace: Vec<String>,
}

impl Model {
    fn new(seed: u64) -> Self {
        let rng = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let now = Instant::now();
        let config = DispatchConfig::default();
        let core = ShardDispatch::new(config.clone(), Epoch(0), &[], 0, now, Timestamp(0));
        let mut model = Self {
            seed,
            rng,
            config,
            sloppy: false,
            log: BTreeMap::new(),
            batches: Vec::new(),
            core,
            now,
            epoch: 0,
            fetched: Vec::new(),
            running: Vec::new(),
            over: Vec::new(),
            gathering: Vec::new(),
            sent: None,
            parks: Vec::new(),
            loading: None,
            told: BTreeSet::new(),
            unlucky: BTreeSet::new(),
            drained: false,
            park_log: Vec::new(),
            durable: BTreeMap::new(),
            positions: vec![None; PARTITIONS],
            restarts: 0,
            trace: Vec::new(),
        };
        model.config = model.draw_config();
        model.sloppy = model.draw(3) == 0;
        for partition in 0..PARTITIONS as u32 {
            let batches = model.draw_log(partition);
            model.batches.push(batches);
        }
        model.start();
        model
    }

    fn draw(&mut self, below: usize) -> usize {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        usize::try_from((self.rng >> 11) % below as u64).unwrap()
    }

    fn draw_config(&mut self) -> DispatchConfig {
        let mut count =
            |from: usize, to: usize| NonZeroUsize::new(from + self.draw(to - from + 1)).unwrap();
        let records = count(1, 20);
        let window = WindowLimits {
            records: count(4, 60),
            bytes: count(500, 5000),
            span: count(20, 200),
            output_bytes: count(1, 1000),
        };
        let invocations_max = count(1, 5);
        let bytes = count(20, 400).get();
        let park = ParkLimits {
            token_records: count(1, 6),
            records: count(2, 20),
            bytes: count(30, 1000).get() as u64,
            parked_max: count(3, 200).get(),
        };
        let park = (self.draw(4) != 0).then_some(park);
        let pauses = match self.draw(3) {
            0 => vec![Duration::from_millis(10), endings::LATE],
            _ => Vec::new(),
        };
        let order = [Order::Key, Order::Key, Order::Partition, Order::None][self.draw(4)];
        let circuit = CircuitPolicy {
            failures_percent: 1 + self.draw(60) as u32,
            attempts_min: NonZeroU32::new(1 + self.draw(12) as u32).unwrap(),
            window: Duration::from_millis(1 + self.draw(300) as u64),
            pause_min: Duration::from_millis(5),
            pause_max: Duration::from_millis(40),
        };
        let circuit = (self.draw(4) == 0).then_some(circuit);
        DispatchConfig {
            order,
            batch: BatchLimits {
                records,
                bytes,
                window: Duration::from_millis([0, 20][self.draw(2)]),
            },
            invocations_max,
            circuit,
            retry: RetryPolicy {
                attempts_max: NonZeroU32::new(ATTEMPTS_MAX).unwrap(),
                backoff_min: Duration::from_millis(10),
                backoff_max: Duration::from_millis(50),
                pauses,
                age_max: None,
                bisect: self.draw(4) != 0,
                no_retry: Vec::new(),
            },
            window,
            park,
        }
    }

    fn draw_log(&mut self, partition: u32) -> Vec<RecordBatch> {
        let troubled = self.draw(3) != 0;
        let filters = self.draw(2) != 0;
        let (mut batches, mut offset, mut left) = (Vec::new(), 0_i64, RECORDS);
        while 0 < left {
            let size = (1 + self.draw(25)).min(left);
            left -= size;
            let mut builder = BatchBuilder::default();
            for index in 0..size as i64 {
                let key = (self.draw(8) != 0).then(|| self.draw(12) as u8);
                let nature = match self.draw(40) {
                    7..=12 if filters => Nature::Unwanted,
                    0 if troubled => Nature::Crashes,
                    1 if troubled => Nature::Undecodable,
                    2..=6 if troubled => Nature::Fails(1 + self.draw(ATTEMPTS_MAX as usize) as u32),
                    _ => Nature::Good,
                };
                let known = Known { key, nature, attempt: 0, charged: false };
                self.log.insert((partition, offset + index), known);
                let key = key.map(|key| [key]);
                let key = key.as_ref().map(|key| &key[..]);
                builder.push(Timestamp(0), key, Some(b"0123456789"), Headers::default());
            }
            batches.push(builder.finish().unwrap().with_base(Offset(offset)));
            offset += size as i64 + [0, 0, 3][self.draw(3)];
        }
        batches
    }

    /// The order that a record is bound by.
    fn token(&self, place: Place) -> Option<(u32, u8)> {
        match self.config.order {
            Order::None => None,
            Order::Partition => Some((place.0, 0)),
            Order::Key => self.log[&place].key.map(|key| (place.0, key)),
        }
    }

    /// A new life of the shard, from what is durable.
    fn start(&mut self) {
        self.start_with(None);
    }

    /// The same; what is parked may be known from the life before.
    fn start_with(&mut self, legacy: Option<Legacy>) {
        self.epoch += 1;
        let starts: Vec<PartitionStart> = self
            .positions
            .iter()
            .zip(&self.batches)
            .map(|(it, batches)| PartitionStart {
                position: it.clone().unwrap_or_default(),
                fresh: it.is_none(),
                end: batches.last().map_or(Offset(0), |it| it.last_offset().next()),
            })
            .collect();
        let epoch = Epoch(self.epoch);
        let config = self.config.clone();
        self.core = ShardDispatch::new(config, epoch, &starts, self.seed, self.now, Timestamp(0));
        self.fetched = starts
            .iter()
            .zip(&self.batches)
            .map(|(start, batches)| {
                batches.partition_point(|it| it.last_offset() < start.position.next)
            })
            .collect();
        self.running.clear();
        self.over.clear();
        self.gathering.clear();
        self.parks.clear();
        self.sent = None;
        self.loading = None;
        self.drained = false;
        for known in self.log.values_mut() {
            (known.attempt, known.charged) = (0, false);
        }
        let parked = self.parked();
        self.told = self.durable.keys().chain(parked.keys()).copied().collect();
        let mut resumed = Vec::new();
        for (&place, &(at, attempts, due, ended)) in &parked {
            let (key, bytes) = (self.log[&place].key, 10);
            let at = Wanted { partition: place.0, offset: Offset(place.1), place: Offset(at) };
            let key = key.map(|key| vec![key]);
            resumed.push(Resumed { at, key, bytes, attempts, due, ended });
            let known = self.log.get_mut(&place).unwrap();
            (known.attempt, known.charged) = (attempts, 0 < attempts);
        }
        match legacy {
            Some(legacy) => {
                assert!(legacy.fits(&self.config, self.batches.len()), "seed {}", self.seed);
                assert_eq!(legacy.records(), resumed.len(), "seed {}: what is parked", self.seed);
                self.core.resume(legacy);
            }
            None => self.core.resume_parked(resumed, Vec::new()),
        }
        self.follow();
    }

    /// What is parked, durably: where its envelope lies, attempts, due time, ends of nodes.
    fn parked(&self) -> BTreeMap<Place, (i64, u32, Timestamp, u32)> {
        let mut parked = BTreeMap::new();
        for (at, (place, envelope)) in (0..).zip(&self.park_log) {
            match envelope {
                Some((attempts, due, ended)) => {
                    parked.insert(*place, (at, *attempts, *due, *ended));
                }
                None => drop(parked.remove(place)),
            }
        }
        parked
    }

    /// Reads parked records back, perhaps not all.
    fn load(&mut self, faults: bool) {
        let Some(wanted) = self.loading.take() else { return };
        let from = wanted[0].place.0 as usize;
        let mut there: BTreeSet<Place> = self.park_log[from..].iter().map(|it| it.0).collect();
        let most = if faults { 1 + self.draw(wanted.len()) } else { wanted.len() };
        let mut loaded = Vec::new();
        for it in wanted.iter().take(most) {
            let place = (it.partition, it.offset.0);
            assert!(there.remove(&place), "seed {}: PK-1, {place:?}", self.seed);
            let batches = &self.batches[it.partition as usize];
            let mut all = batches.iter().flat_map(RecordBatch::iter);
            let mut alone = BatchBuilder::default();
            alone.push_view(all.find(|record| record.offset == it.offset).unwrap());
            let batch = alone.finish().unwrap().with_base(it.offset);
            let (partition, failure) = (it.partition, Default::default());
            loaded.push(Loaded { partition, batch, failure });
        }
        self.core.on_loaded(self.now, loaded);
    }

    fn is_settled(&self, place: Place) -> bool {
        let sent = self.sent.iter().flat_map(|sent| &sent.settled);
        self.durable.contains_key(&place)
            || self.gathering.iter().chain(sent).any(|it| it.place() == place)
    }

    /// Carries out the commands, checking each.
    fn follow(&mut self) {
        while let Some(command) = self.core.poll_command() {
            let seed = self.seed;
            match command {
                Command::Invoke { id, .. } => self.invoked(id),
                Command::Gather { id, kept } => {
                    self.trace.push(format!("gather {}", id.0));
                    for (index, &record) in kept.records.iter().enumerate() {
                        if kept.keeps(index) {
                            let place = self.place(record);
                            assert!(!self.is_settled(place), "seed {seed}: {place:?} twice");
                            self.check_turn(place, &[]);
                            self.gathering.push(Settled::Output(place));
                        }
                    }
                }
                Command::DeadLetter(dead) => {
                    let place = self.place(dead.record);
                    self.trace.push(format!("dead {place:?} after {}", dead.attempts));
                    assert!(!self.is_settled(place), "seed {seed}: {place:?} twice");
                    let expected = match dead.code.as_str() {
                        "Decode" => 0..ATTEMPTS_MAX,
                        NODE_ENDED => ATTEMPTS_MAX..1 + self.restarts,
                        _ => ATTEMPTS_MAX..4,
                    };
                    if dead.code == NODE_ENDED {
                        self.unlucky.insert(place);
                    }
                    assert!(expected.contains(&dead.attempts), "seed {seed}: SD-3, {dead:?}");
                    self.gathering.push(Settled::Dead(place));
                }
                Command::Park(park) => {
                    let place = self.place(park.record);
                    self.trace.push(format!("park {place:?} after {}", park.attempts));
                    assert!(!self.is_settled(place), "seed {seed}: {place:?} is parked too late");
                    assert!(park.attempts < ATTEMPTS_MAX, "seed {seed}: SD-3, {park:?}");
                    self.parks.push((place, Some((park.attempts, park.due, park.ended))));
                }
                Command::Unpark(record) => {
                    let place = self.place(record);
                    self.trace.push(format!("unpark {place:?}"));
                    self.parks.push((place, None));
                }
                Command::Load(wanted) => {
                    self.trace.push(format!("load {wanted:?}"));
                    assert!(self.loading.is_none(), "seed {seed}: SD-6, two loads in flight");
                    assert!(!wanted.is_empty() && wanted.is_sorted_by_key(|it| it.place));
                    self.loading = Some(wanted);
                }
                Command::Commit { id, records, positions } => {
                    self.trace.push(format!("commit {} {positions:?}", id.0));
                    assert!(self.sent.is_none(), "seed {seed}: SD-6, two commits in flight");
                    let mut settled = std::mem::take(&mut self.gathering);
                    settled.extend(self.passed(&positions));
                    // Envelopes first, then tombstones, whatever came first.
                    let mut parks = std::mem::take(&mut self.parks);
                    parks.sort_by_key(|it| it.1.is_none());
                    let before = self.told.len();
                    self.told.extend(settled.iter().map(|it| it.place()));
                    let envelopes = parks.iter().filter(|it| it.1.is_some());
                    self.told.extend(envelopes.map(|it| it.0));
                    assert_eq!(self.told.len() - before, records as usize, "seed {seed}: SD-4");
                    self.sent = Some(Sent { id, settled, parks, positions });
                }
                Command::CommitAgain { id } => {
                    self.trace.push(format!("again {}", id.0));
                    assert_eq!(self.sent.as_ref().map(|it| it.id), Some(id), "seed {seed}: SD-4");
                }
                Command::Drained => {
                    assert!(self.running.is_empty() && self.sent.is_none(), "seed {seed}");
                    assert!(self.gathering.is_empty(), "seed {seed}");
                    self.drained = true;
                }
                Command::Stop(reason) => panic!("seed {seed}: {reason}"),
            }
        }
        self.check_limits();
    }

    /// Unwanted records that these positions are the first to settle.
    fn passed(&self, positions: &[(u32, Position)]) -> Vec<Settled> {
        let mut passed = Vec::new();
        for (partition, position) in positions {
            for (&place, known) in self.log.range((*partition, 0)..(partition + 1, 0)) {
                let is_new = known.nature == Nature::Unwanted && !self.durable.contains_key(&place);
                if is_new && is_told(position, place) {
                    passed.push(Settled::Filtered(place));
                }
            }
        }
        passed
    }

    fn place(&self, record: RecordId) -> Place {
        let record = self.core.record(record);
        (record.partition, record.view.offset.0)
    }

    /// SD-5: what comes before it in its order is settled, or ahead of it in its batch.
    fn check_turn(&self, place: Place, ahead: &[Place]) {
        let Some(token) = self.token(place) else { return };
        for (&earlier, _) in self.log.range((place.0, 0)..place) {
            let counts = self.token(earlier) == Some(token);
            assert!(
                !counts
                    || self.log[&earlier].nature == Nature::Unwanted
                    || ahead.contains(&earlier)
                    || self.is_settled(earlier),
                "seed {}: SD-5, {place:?} before {earlier:?}",
                self.seed
            );
        }
    }

    fn invoked(&mut self, id: InvocationId) {
        let seed = self.seed;
        let records: Vec<RecordId> = self.core.records(id).to_vec();
        let places: Vec<Place> = records.iter().map(|it| self.place(*it)).collect();
        self.trace.push(format!("invoke {} {places:?}", id.0));
        assert!(!places.is_empty() && places.len() <= self.config.batch.records.get());
        assert!(!self.drained, "seed {seed}: after the drain");
        for (index, (&place, &record)) in places.iter().zip(&records).enumerate() {
            assert!(!self.is_settled(place), "seed {seed}: OT-4, {place:?}");
            let unwanted = self.log[&place].nature == Nature::Unwanted;
            assert!(!unwanted, "seed {seed}: SD-8, {place:?} runs");
            for (other, running) in &self.running {
                assert!(!running.contains(&place), "seed {seed}: SD-1, also in {other:?}");
                let token = self.token(place);
                let shares = token.is_some() && running.iter().any(|it| self.token(*it) == token);
                assert!(!shares, "seed {seed}: SD-5, {token:?} also in {other:?}");
            }
            self.check_turn(place, &places[..index]);
            let attempt = self.core.record(record).attempt;
            let known = self.log.get_mut(&place).unwrap();
            let last = known.attempt.max(1);
            // SD-3 and SD-7: one more only after a failure that is charged to it.
            assert!(
                attempt == last || (attempt == last + 1 && known.charged),
                "seed {seed}: attempt {attempt} of {place:?} after {last}"
            );
            assert!(attempt <= ATTEMPTS_MAX, "seed {seed}: SD-3");
            (known.attempt, known.charged) = (attempt, false);
        }
        self.running.push((id, places));
        assert!(self.running.len() <= self.core.width(), "seed {seed}: SD-6, width");
    }

    fn check_limits(&self) {
        let (seed, window) = (self.seed, self.config.window);
        assert!(self.running.len() <= self.config.invocations_max.get(), "seed {seed}: SD-6");
        let (batch, park) = (self.config.batch.records.get(), self.config.park);
        let read_back = park.map_or(0, |park| park.records.get() + batch);
        let most = window.records.get() + read_back;
        assert!(self.core.open_records() <= most, "seed {seed}: SD-6");
        assert_eq!(self.core.running_invocations(), self.running.len(), "seed {seed}");
        let counters = self.core.counters();
        assert_eq!(
            counters.admitted + counters.resumed - counters.settled,
            self.core.owed_records() as u64 + self.core.filtered_records(),
            "seed {seed}: SD-1"
        );
    }

    fn fetch(&mut self) -> bool {
        let partition = self.draw(PARTITIONS);
        let Some(batch) = self.batches[partition].get(self.fetched[partition]) else {
            return false;
        };
        if !self.core.wants_records() {
            return false;
        }
        self.fetched[partition] += 1;
        let batch = batch.clone();
        let is_unwanted = |view: &bus::RecordView<'_>| {
            self.log[&(partition as u32, view.offset.0)].nature == Nature::Unwanted
        };
        let unwanted = Unwanted::of(&batch, is_unwanted);
        self.core.on_filtered(self.now, partition as u32, batch, unwanted);
        true
    }

    /// Ends a running invocation as its records demand.
    fn end(&mut self, faults: bool) {
        let at = self.draw(self.running.len());
        let (id, places) = self.running.swap_remove(at);
        self.over.push(id);
        if faults && self.draw(10) == 0 {
            let outcome = Outcome::Failed {
                blame: Blame::Nobody,
                code: "NoCapacity".into(),
                message: String::new(),
            };
            self.core.on_outcome(self.now, id, outcome);
            return;
        }
        let alone = places.len() == 1 || !self.config.retry.bisect;
        if places.iter().any(|it| self.log[it].nature == Nature::Crashes) {
            for place in places.iter().filter(|_| alone) {
                self.log.get_mut(place).unwrap().charged = true;
            }
            let outcome = Outcome::Failed {
                blame: Blame::Batch,
                code: "Crash".into(),
                message: String::new(),
            };
            self.core.on_outcome(self.now, id, outcome);
            return;
        }
        let exceptions = self.answer(&places, faults, alone);
        let output_bytes = 10 * places.len();
        self.core.on_outcome(self.now, id, Outcome::Ended { exceptions, output_bytes });
    }

    fn answer(&mut self, places: &[Place], faults: bool, alone: bool) -> Vec<(u32, End)> {
        let mut skip = BTreeSet::new();
        let mut exceptions = Vec::new();
        for (index, place) in (0..).zip(places) {
            let token = self.token(*place);
            let sloppy = self.sloppy && faults;
            if sloppy && self.draw(12) == 0 || token.is_some_and(|it| skip.contains(&it)) {
                exceptions.push((index, End::NotRun));
                continue;
            }
            let skips = !sloppy || self.draw(2) == 0;
            let known = self.log.get_mut(place).unwrap();
            let (code, message) = ("Fails".to_owned(), String::new());
            let end = match known.nature {
                Nature::Good | Nature::Crashes | Nature::Unwanted => continue,
                Nature::Fails(attempts) if attempts < known.attempt => continue,
                Nature::Fails(_) => End::Failed { code, message },
                Nature::Undecodable => End::Undecodable { code: "Decode".into(), message },
            };
            known.charged = true;
            exceptions.push((index, end));
            if skips && let Some(token) = token {
                skip.insert(token);
            }
        }
        // An answer in which nothing counts as run is a broken one.
        if alone && exceptions.iter().any(|(_, end)| *end == End::NotRun) {
            for place in places {
                self.log.get_mut(place).unwrap().charged = true;
            }
        }
        exceptions
    }

    fn commit(&mut self, faults: bool) {
        let Some(sent) = &self.sent else { return };
        let id = sent.id;
        if faults && self.draw(4) == 0 {
            let full = CommitFailure::Retryable { code: "Full".into(), message: String::new() };
            self.core.on_commit_failed(self.now, id, full);
            return;
        }
        let parked_at = self.park_log.len() as i64;
        self.make_durable();
        self.core.on_committed(self.now, id, Some(Offset(parked_at)));
    }

    /// The bus has the commit, whether or not the shard learns of it.
    fn make_durable(&mut self) {
        let Some(sent) = self.sent.take() else { return };
        let seed = self.seed;
        for settled in sent.settled {
            let before = self.durable.insert(settled.place(), settled);
            assert_eq!(before, None, "seed {seed}: settled twice");
        }
        self.park_log.extend(sent.parks);
        let parked = self.parked();
        for place in parked.keys() {
            assert!(!self.durable.contains_key(place), "seed {seed}: {place:?} has no tombstone");
        }
        for (partition, position) in sent.positions {
            let stored = &mut self.positions[partition as usize];
            let before = stored.as_ref().map_or(Offset(0), |it| it.next);
            assert!(before <= position.next, "seed {seed}: OT-1");
            assert_eq!(position.epoch, Epoch(self.epoch), "seed {seed}");
            for (&place, _) in self.log.range((partition, 0)..(partition + 1, 0)) {
                let told = is_told(&position, place);
                let is = self.durable.contains_key(&place) || parked.contains_key(&place);
                assert_eq!(told, is, "seed {seed}: SD-4, {place:?} in {position:?}");
            }
            *stored = Some(position);
        }
    }

    fn wait(&mut self) -> bool {
        let Some(next) = self.core.next_timeout() else { return false };
        self.now = self.now.max(next);
        self.core.on_timeout(self.now);
        true
    }

    /// One thing that happens.
    fn event(&mut self, faults: bool) {
        if self.core.wants_turn().is_some() {
            self.core.on_turn(self.now);
            self.follow();
        }
        if self.draw(3) == 0 {
            self.load(faults);
            self.follow();
        }
        match self.draw(100) {
            0..=29 => drop(self.fetch()),
            30..=59 if !self.running.is_empty() => self.end(faults),
            60..=79 => self.commit(faults),
            80..=89 => drop(self.wait()),
            90..=95 => {
                // Late, early and doubled news changes nothing.
                self.now += Duration::from_millis(1);
                let id = self.over.last().copied().unwrap_or(InvocationId(1 << 40));
                self.core.on_outcome(self.now, id, Outcome::ok(7));
                self.core.on_committed(self.now, CommitId(1 << 40), None);
                self.core.on_timeout(self.now);
            }
            96 if faults => {
                // A crash, before or after the commit in flight reached the disk.
                if self.draw(2) == 0 {
                    self.make_durable();
                }
                self.restarts += 1;
                self.start();
            }
            97 if faults => self.drain(),
            98 => {
                let most = self.config.invocations_max.get();
                let width = NonZeroUsize::new(1 + self.draw(most)).unwrap();
                self.core.on_width(self.now, width);
            }
            _ => {}
        }
        self.follow();
    }

    fn drain(&mut self) {
        self.core.on_drain(self.now);
        self.follow();
        for _step in 0..100 {
            if self.drained {
                break;
            }
            if self.running.is_empty() {
                self.commit(false);
            } else {
                self.end(false);
            }
            self.follow();
            if self.sent.is_some() && self.wait() {
                self.follow();
            }
        }
        assert!(self.drained, "seed {}: the drain ends", self.seed);
        assert_eq!(self.core.running_records(), 0);
        self.restarts += 1;
        let legacy = self.core.legacy().expect("it has ended in order");
        if self.draw(2) == 0 {
            return self.start();
        }
        let crossed = serde_json::from_slice(&serde_json::to_vec(&legacy).unwrap()).unwrap();
        assert_eq!(legacy, crossed);
        self.trace.push(format!("hand over {}", crossed.records()));
        self.start_with(Some(crossed));
    }

    fn play(mut self) -> (u32, Vec<String>) {
        for _event in 0..EVENTS {
            self.event(true);
        }
        let mut events = 0;
        while self.durable.len() < self.log.len() || self.sent.is_some() {
            self.event(false);
            self.wait();
            self.follow();
            events += 1;
            assert!(
                events < 20_000,
                "seed {}: {} of {} settled: {:?}, {} running, due {:?}",
                self.seed,
                self.durable.len(),
                self.log.len(),
                self.core.state(),
                self.running.len(),
                self.core.next_timeout(),
            );
        }
        self.check_end();
        (self.restarts, self.trace)
    }

    /// Every record has the end that it deserves, and nothing is left in memory.
    fn check_end(&self) {
        let seed = self.seed;
        for (place, known) in &self.log {
            let is_dead = matches!(self.durable[place], Settled::Dead(_));
            let is_filtered = matches!(self.durable[place], Settled::Filtered(_));
            let unwanted = known.nature == Nature::Unwanted;
            assert_eq!(is_filtered, unwanted, "seed {seed}: SD-8, {place:?}");
            let may_die = self.sloppy || !self.config.retry.bisect;
            match known.nature {
                Nature::Crashes | Nature::Undecodable | Nature::Fails(ATTEMPTS_MAX) => {
                    assert!(is_dead, "seed {seed}: {place:?}");
                }
                _ => {
                    let may_die = may_die || self.unlucky.contains(place);
                    assert!(!is_dead || may_die, "seed {seed}: {place:?}");
                }
            }
        }
        assert_eq!(self.parked(), BTreeMap::new(), "seed {seed}: what is settled is unparked");
        assert_eq!(self.core.parked_records(), 0, "seed {seed}: SD-1");
        assert_eq!(self.core.owed_records(), 0, "seed {seed}: SD-1");
        assert_eq!(self.core.open_records(), 0, "seed {seed}: SD-1");
        assert_eq!(self.core.records.bytes(), 0, "seed {seed}");
        assert_eq!(self.core.strands.ready_records(), 0, "seed {seed}");
        assert_eq!(self.core.strands.ready_bytes(), 0, "seed {seed}");
        assert!(self.core.holds.claims.is_empty(), "seed {seed}");
        assert!(self.running.is_empty() && self.core.next_timeout().is_none(), "seed {seed}");
    }
}

fn is_told(position: &Position, place: Place) -> bool {
    let offset = Offset(place.1);
    offset < position.next || position.completions.contains(offset)
}

#[test]
fn any_seeded_life_of_a_shard_settles_each_record_once() {
    let (mut restarts, mut parked, mut loaded, mut handed) = (0, 0, 0, 0);
    for seed in 1..=200 {
        let (times, trace) = Model::new(seed).play();
        restarts += times;
        parked += trace.iter().filter(|it| it.starts_with("park")).count();
        loaded += trace.iter().filter(|it| it.starts_with("load")).count();
        let hands = trace.iter().filter(|it| it.starts_with("hand over"));
        handed += hands.filter(|it| !it.ends_with(" 0")).count();
    }
    assert!(500 < restarts, "the faults did happen: {restarts}");
    assert!(2_000 < parked && 1_000 < loaded, "{parked} parked, {loaded} read back");
    assert!(20 < handed, "what was parked was handed over: {handed} times");
}

#[test]
fn the_same_seed_gives_the_same_commands() {
    for seed in 1..=20 {
        assert_eq!(Model::new(seed).play(), Model::new(seed).play(), "seed {seed}");
    }
}
