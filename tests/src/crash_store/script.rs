//! What the position store is asked to do, the same for the process that does it and for the model
//! that says what may be there afterwards.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use bus::{Completions, Epoch, Offset, Position, PositionKey, ShardId, TopicPartition};
use storage::SledPositions;

use crate::harness::rng::Rng;
use crate::promise::{During, NotShown, broken};

/// Where the script says how far it is, beside the store.
pub(super) const MARKS: &str = "marks";
/// Where the store is.
pub(super) const STORE: &str = "store";

/// Callers that may record at once. Each has shards of its own, so their order does not matter.
const CALLERS: u64 = 3;

/// One call of `record`: all of it, or nothing.
pub(super) type Call = Vec<(PositionKey, Position)>;

/// What is done next.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Calls by as many threads.
    Record(Vec<Call>),
    Clear,
    /// A new start: reads the old generation and writes the next one.
    Reopen,
}

/// Every row, by key.
pub(super) type Rows = BTreeMap<PositionKey, Position>;

/// A row stays where the new one would move it back.
pub(super) fn apply(rows: &mut Rows, call: &Call) {
    for (key, position) in call {
        let moves_back = rows
            .get(key)
            .is_some_and(|old| (position.epoch, position.next) < (old.epoch, old.next));
        if !moves_back {
            rows.insert(key.clone(), position.clone());
        }
    }
}

/// Steps of `operations` calls, clears and starts together.
pub(super) fn script(seed: u64, operations: u64) -> Vec<Step> {
    let mut rng = Rng::new(seed, 1);
    let (mut steps, mut left) = (Vec::new(), operations);
    let mut last: BTreeMap<PositionKey, (Epoch, Offset)> = BTreeMap::new();
    while 0 < left {
        let step = match rng.draw(40) {
            0 => Step::Reopen,
            1 if rng.draw(8) == 0 => Step::Clear,
            _ => {
                let callers = (1 + rng.draw(CALLERS)).min(left);
                let calls = (0..callers).map(|caller| call(&mut rng, caller, &mut last));
                Step::Record(calls.collect())
            }
        };
        left -= match &step {
            Step::Record(calls) => calls.len() as u64,
            Step::Clear | Step::Reopen => 1,
        };
        steps.push(step);
    }
    steps
}

fn call(rng: &mut Rng, caller: u64, last: &mut BTreeMap<PositionKey, (Epoch, Offset)>) -> Call {
    let moves = 1 + rng.draw(4);
    let mut next_move = || {
        let shard = ShardId(caller + CALLERS * rng.draw(4));
        let partition = TopicPartition::new("readings", rng.draw(4) as i32);
        let key = PositionKey { shard, partition };
        let (epoch, next) = last.entry(key.clone()).or_insert((Epoch(1), Offset(0)));
        let old = (*epoch, *next);
        epoch.0 += u64::from(rng.draw(50) == 0);
        next.0 += rng.draw(60) as i64;
        let (epoch, next) = (*epoch, *next);
        // A call that comes late, and must change nothing.
        let (epoch, next) =
            if rng.draw(10) == 0 { (old.0, Offset((old.1.0 - 5).max(0))) } else { (epoch, next) };
        let ranges = match rng.draw(100) {
            0..2 => 20_000 + rng.draw(15_000),
            2..40 => rng.draw(20),
            _ => 0,
        };
        let mut at = next.0 + 1;
        let ranges = (0..ranges).map(|_| {
            let start = at + rng.draw(9) as i64;
            at = start + 2 + rng.draw(9) as i64;
            (Offset(start), Offset(at - 1))
        });
        let completions = Completions::from_ranges(ranges.collect::<Vec<_>>());
        (key, Position { epoch, next, completions, suspects: None })
    };
    (0..moves).map(|_| next_move()).collect()
}

/// Carries the script out in `root`, and marks there when a step starts, when each of its calls
/// has been acknowledged, and when it has ended.
///
/// # Errors
///
/// When the store does not do as it is told.
pub fn carry_out(seed: u64, operations: u64, root: &Path) -> Result<(), NotShown> {
    let marks = File::options().create(true).append(true).open(root.join(MARKS));
    let marks = marks.during("open the marks")?;
    let mark = |text: String| (&marks).write_all(text.as_bytes()).during("mark");
    let mut store = Some(open(&root.join(STORE))?);
    for (number, step) in script(seed, operations).iter().enumerate() {
        mark(format!("start {number}\n"))?;
        match step {
            Step::Record(calls) => {
                let store = store.as_ref().ok_or_else(|| broken("no store"))?;
                std::thread::scope(|scope| {
                    let record = |(index, call): (usize, &Call)| {
                        store.record(call).during("record")?;
                        mark(format!("call {index}\n"))
                    };
                    let threads: Vec<_> = calls
                        .iter()
                        .enumerate()
                        .map(|it| scope.spawn(move || record(it)))
                        .collect();
                    threads.into_iter().try_for_each(|it| {
                        it.join().unwrap_or_else(|_| Err(broken("a caller panicked")))
                    })
                })?;
            }
            Step::Clear => store.as_ref().map_or(Ok(()), |it| it.clear()).during("clear")?,
            Step::Reopen => {
                drop(store.take());
                store = Some(open(&root.join(STORE))?);
            }
        }
        mark("end\n".to_owned())?;
    }
    Ok(())
}

fn open(dir: &Path) -> Result<SledPositions, NotShown> {
    let opened = SledPositions::open(dir).during("open the store")?;
    match opened.damage {
        None => Ok(opened.store),
        Some(damage) => Err(broken(format!("the store was damaged: {damage}"))),
    }
}

/// What may be in the store, as the marks tell it.
#[derive(Debug)]
pub(super) struct Model {
    steps: Vec<Step>,
    rows: Rows,
    /// The step that was started and has not ended, with the calls of it that were acknowledged.
    running: Option<(usize, Vec<usize>)>,
}

impl Model {
    pub(super) fn new(seed: u64, operations: u64) -> Self {
        Self { steps: script(seed, operations), rows: Rows::new(), running: None }
    }

    pub(super) const fn is_in_step(&self) -> bool {
        self.running.is_some()
    }

    /// Takes one mark.
    pub(super) fn on_mark(&mut self, mark: &str) -> Result<(), NotShown> {
        let (what, number) = mark.split_once(' ').unwrap_or((mark, "0"));
        let number: usize = number.parse().during("read a mark")?;
        match what {
            "start" => self.running = Some((number, Vec::new())),
            "call" => self.running.iter_mut().for_each(|(_, calls)| calls.push(number)),
            "end" => {
                let (step, _) = self.running.take().ok_or_else(|| broken("nothing to end"))?;
                match &self.steps[step] {
                    Step::Record(calls) => calls.iter().for_each(|it| apply(&mut self.rows, it)),
                    Step::Clear => self.rows.clear(),
                    Step::Reopen => {}
                }
            }
            _ => return Err(broken(format!("a mark {mark:?}"))),
        }
        Ok(())
    }

    /// Every state that a power cut may leave now: what was acknowledged, and of what was not any
    /// call as a whole.
    pub(super) fn allowed(&self) -> Vec<Rows> {
        let Some((step, acknowledged)) = &self.running else { return vec![self.rows.clone()] };
        match &self.steps[*step] {
            Step::Reopen => vec![self.rows.clone()],
            Step::Clear => vec![self.rows.clone(), Rows::new()],
            Step::Record(calls) => {
                let subsets = 0..1_usize << calls.len();
                let holds = |set: &usize| acknowledged.iter().all(|it| set & (1 << it) != 0);
                let state = |set: usize| {
                    let mut rows = self.rows.clone();
                    let there = calls.iter().enumerate().filter(|(it, _)| set & (1 << it) != 0);
                    there.for_each(|(_, call)| apply(&mut rows, call));
                    rows
                };
                subsets.filter(holds).map(state).collect()
            }
        }
    }
}
