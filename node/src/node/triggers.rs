//! What an operator does to triggers. A pause is part of the replicated state, so that it outlives
//! the process. A seek moves committed positions under an epoch of its own: what the assignment
//! before left on its way to the bus is fenced when it arrives.

use std::collections::BTreeMap;

use bus::{
    Bus, Commit, Completions, Epoch, Offset, Position, PositionKey, PositionMove, ShardId,
    TopicPartition, Watermarks,
};
use cluster::{Command, Placing};
use gateway::api::{
    API, HeldUp, Seek, ShardState, Sought, SoughtPartition, TriggerInfo, TriggerList,
};
use gateway::{Begin, NodeView as _};

use super::converge::take;
use super::deploy::{failed, refused};
use super::restore::as_kept;
use super::status::rfc3339;
use super::{DRAIN_PATIENCE, Node, chain};
use crate::commands::error::{CommandError, exit};

/// A partition of a trigger that is to be moved.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) shard: ShardId,
    pub(super) place: TopicPartition,
    pub(super) to: Offset,
    marks: Watermarks,
}

/// What a seek makes of a position.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Landed {
    next: Offset,
    completions: Completions,
    skipped: u64,
    repeated: u64,
}

impl Node {
    pub(super) fn trigger_list(&self) -> TriggerList {
        let (held_up, mut shards) = (self.held_up(), BTreeMap::<String, Vec<ShardState>>::new());
        for shard in self.shards() {
            shards.entry(shard.trigger).or_default().push(shard.state);
        }
        let (mut triggers, me) = (Vec::new(), self.inner.cluster.me());
        self.state(|state| {
            let is_elsewhere = |id: &str| {
                let mut mine = state.shards().values().filter(|it| it.trigger == id);
                mine.any(|it| it.owner.is_some_and(|owner| owner != me))
            };
            for (app, it) in state.apps() {
                for (id, trigger) in &it.triggers {
                    let spec = it.functions.get(&trigger.function).map(as_kept);
                    let spec = spec.and_then(Result::ok).and_then(|(spec, _)| {
                        let name = id.rsplit('/').next().unwrap_or_default();
                        spec.triggers.into_iter().find(|it| it.name.as_str() == name)
                    });
                    let states = shards.get(id).map_or(&[][..], Vec::as_slice);
                    let mine = held_up.iter().filter(|it: &&HeldUp| it.trigger == *id);
                    triggers.push(TriggerInfo {
                        trigger: id.clone(),
                        function: format!("{app}/{}", trigger.function),
                        topics: trigger.topics.keys().cloned().collect(),
                        output: spec.as_ref().and_then(|it| it.output_topic.clone()),
                        on_success: spec.as_ref().and_then(|it| it.on_success.clone()),
                        on_failure: spec.as_ref().and_then(|it| it.on_failure.clone()),
                        dead_letter: spec.map(|it| it.dead_letter),
                        partitions: trigger.topics.values().sum(),
                        // What is on other nodes alone they know better.
                        state: match states {
                            [] if is_elsewhere(id) => ShardState::Running,
                            states => worst(states),
                        },
                        paused_since: state.paused().get(id).copied().map(rfc3339),
                        held_up: mine.cloned().collect(),
                        lag: None,
                    });
                }
            }
        });
        TriggerList { api: API, triggers, unheard: Vec::new() }
    }

    pub(super) async fn pause(&self, id: &str, paused: bool) -> Result<TriggerInfo, CommandError> {
        let _one = self.changing().await?;
        let trigger = id.to_owned();
        let command = match paused {
            true => Command::Pause { trigger, at: bus::Timestamp::now() },
            false => Command::Resume { trigger },
        };
        self.append(command).await?;
        self.converge(&mut *self.inner.apps.lock().await).await;
        tracing::info!(trigger = id, "{}", if paused { "paused" } else { "resumed" });
        let found = self.trigger_list().triggers.into_iter().find(|it| it.trigger == id);
        found.ok_or_else(|| unknown(id))
    }

    pub(super) async fn seek_trigger(
        &self,
        id: &str,
        to: Begin,
        asked: &Seek,
    ) -> Result<Sought, CommandError> {
        let _one = self.changing().await?;
        let targets = self.targets(id, to, asked).await?;
        self.check_own(id, &targets)?;
        if asked.dry_run {
            let committed = self.inner.bus.positions().await.map_err(|error| of_bus(&error))?;
            let committed: BTreeMap<PositionKey, Position> = committed.into_iter().collect();
            let partitions = targets.iter().map(|target| {
                let partition = target.place.clone();
                let from = committed.get(&PositionKey { shard: target.shard, partition });
                sought(target, from).1
            });
            return Ok(summed(id, true, partitions.collect()));
        }
        // Nobody starts them again meanwhile.
        let mut apps = self.inner.apps.lock().await;
        let ran = targets.iter().filter_map(|target| take(&mut apps, target.shard));
        let drains: Vec<_> = ran.map(|it| it.drain(DRAIN_PATIENCE)).collect();
        futures::future::join_all(drains).await;
        let outcome = self.move_positions(&targets).await;
        self.converge(&mut apps).await;
        drop(apps);
        let sought = summed(id, false, outcome?);
        let (skipped, repeated) = (sought.skipped, sought.repeated);
        tracing::info!(trigger = id, to = asked.to, skipped, repeated, "sought");
        Ok(sought)
    }

    /// The partitions that are meant, and where each is to go on.
    pub(super) async fn targets(
        &self,
        id: &str,
        to: Begin,
        asked: &Seek,
    ) -> Result<Vec<Target>, CommandError> {
        let me = self.inner.cluster.me();
        let is_meant = |it: &cluster::Shard| {
            asked.topic.as_ref().is_none_or(|topic| it.topic == *topic)
                && asked.partition.is_none_or(|partition| it.partition.cast_signed() == partition)
                && (!asked.own || it.owner == Some(me))
        };
        let mine: Vec<(ShardId, cluster::Shard)> = self.state(|state| {
            let mine = state.shards().iter().filter(|(_, it)| it.trigger == id);
            mine.map(|(shard, it)| (*shard, it.clone())).collect()
        });
        if mine.is_empty() {
            return Err(unknown(id));
        }
        let mut meant: Vec<_> = mine.into_iter().filter(|(_, it)| is_meant(it)).collect();
        if meant.is_empty() {
            let message = format!("{id} reads no such partition");
            return Err(CommandError::new(exit::NOT_FOUND, "E0405", message)
                .help("`millrace lag -p` lists those that it reads"));
        }
        meant.sort_by(|a, b| (&a.1.topic, a.1.partition).cmp(&(&b.1.topic, b.1.partition)));
        let mut targets = Vec::with_capacity(meant.len());
        for (shard, it) in meant {
            let place = TopicPartition::new(it.topic.as_str(), it.partition.cast_signed());
            let bus = &self.inner.bus;
            let marks = bus.watermarks(&place).await.map_err(|error| of_bus(&error))?;
            let to = match to {
                Begin::Offset(offset) if (marks.start.0..=marks.end.0).contains(&offset) => {
                    Offset(offset)
                }
                Begin::Offset(offset) => {
                    let (offset, partition) = (Offset(offset), place);
                    let (start, end) = (marks.start, marks.end);
                    let error = bus::Error::OffsetOutOfRange { partition, offset, start, end };
                    return Err(of_bus(&error));
                }
                Begin::Start(start) => {
                    let found = bus.offset_for(&place, start).await;
                    found.map_err(|error| of_bus(&error))?.max(marks.start)
                }
            };
            targets.push(Target { shard, place, to, marks });
        }
        Ok(targets)
    }

    async fn move_positions(
        &self,
        targets: &[Target],
    ) -> Result<Vec<SoughtPartition>, CommandError> {
        let (state, to) = (self.inner.cluster.state(), self.inner.cluster.me());
        let moves = targets.iter().map(|it| {
            let ends = state.shards().get(&it.shard).map_or(Epoch(0), |shard| shard.epoch);
            Placing { shard: it.shard, ends, to }
        });
        self.append(Command::Assign { moves: moves.collect() }).await?;
        if let Some(shard) = targets.first().and_then(|it| state.shards().get(&it.shard)) {
            // Somebody may have got one meanwhile.
            self.check_own(&shard.trigger, targets)?;
        }
        let mut moved = Vec::with_capacity(targets.len());
        for target in targets {
            let epoch = self.state(|state| Some(state.shards().get(&target.shard)?.epoch));
            let epoch = epoch.unwrap_or_default();
            let one = move_position(&*self.inner.bus, target, epoch).await;
            moved.push(one.map_err(|error| {
                let error = of_bus(&error);
                let message = format!(
                    "{}; {} of {} partitions were moved",
                    error.message,
                    moved.len(),
                    targets.len()
                );
                CommandError { message, ..error }
            })?);
        }
        Ok(moved)
    }

    /// Whether all of them are this node's to move.
    fn check_own(&self, id: &str, targets: &[Target]) -> Result<(), CommandError> {
        let (state, me) = (self.inner.cluster.state(), self.inner.cluster.me());
        let owner = |target: &Target| state.shards().get(&target.shard)?.owner;
        let foreign = targets.iter().find_map(|it| Some((it, owner(it).filter(|of| *of != me)?)));
        let Some((target, owner)) = foreign else { return Ok(()) };
        let name = self.member_name(owner);
        let message = format!("{id} reads {} on {name}, not here", target.place);
        Err(CommandError::new(exit::CONFLICT, "E0576", message).help(format!(
            "ask {name} for that partition: `--partition {}`",
            target.place.partition
        )))
    }
}

/// Fences whoever had the shard, and moves its position.
async fn move_position(
    bus: &dyn Bus,
    target: &Target,
    epoch: Epoch,
) -> Result<SoughtPartition, bus::Error> {
    let Target { shard, place, .. } = target;
    let recovered = match bus.recover(*shard, epoch).await {
        // The position is one of a topic that is gone: that is what the seek decides.
        Err(bus::Error::TopicRecreated { .. }) => {
            bus.forget_shard(*shard).await?;
            bus.recover(*shard, epoch).await?
        }
        recovered => recovered?,
    };
    let from = recovered.positions.iter().find(|(it, _)| it == place).map(|(_, it)| it);
    let (Landed { next, completions, .. }, sought) = sought(target, from);
    let position = Position { epoch, next, completions, suspects: None };
    let positions = vec![PositionMove { partition: place.clone(), position }];
    let (appends, settles) = (Vec::new(), Vec::new());
    bus.commit(Commit { shard: *shard, epoch, appends, settles, positions }).await?;
    Ok(sought)
}

fn sought(target: &Target, from: Option<&Position>) -> (Landed, SoughtPartition) {
    let Target { place, to, marks, .. } = target;
    let landed = land(from, *to, *marks);
    let sought = SoughtPartition {
        topic: place.topic.to_string(),
        partition: place.partition,
        start: marks.start.0,
        end: marks.end.0,
        from: from.map(|it| it.next.0),
        to: landed.next.0,
        skipped: landed.skipped,
        repeated: landed.repeated,
    };
    (landed, sought)
}

/// Forward, what was settled beyond the new place stays so. Backward, all of it runs again: that
/// is what a seek back is for.
fn land(from: Option<&Position>, to: Offset, marks: Watermarks) -> Landed {
    let none = Completions::default();
    let (next, done) = from.map_or((to, &none), |it| (it.next, &it.completions));
    // What expired or was deleted is neither skipped nor repeated by this.
    let there = |start: Offset, end: Offset| {
        u64::try_from(end.min(marks.end).0 - start.max(marks.start).0).unwrap_or(0)
    };
    let settled = |start: Offset, end: Offset| -> u64 {
        let ranges = done.ranges().iter();
        ranges.map(|(a, b)| there((*a).max(start), (*b).min(end))).sum()
    };
    if to < next {
        let repeated = there(to, next) + settled(next, marks.end);
        return Landed { next: to, completions: none, skipped: 0, repeated };
    }
    let skipped = there(next, to) - settled(next, to);
    let last = done.ranges().iter().find(|(a, b)| *a <= to && to < *b).map_or(to, |range| range.1);
    let beyond = done.ranges().iter().copied().filter(|(a, b)| last < *a && *b <= marks.end);
    let completions = Completions::from_ranges(beyond);
    Landed { next: last, completions, skipped, repeated: 0 }
}

/// The function of a trigger's id.
pub(super) fn owner(id: &str) -> (&str, &str) {
    let (app, rest) = id.split_once('/').unwrap_or((id, ""));
    (app, rest.split_once('/').map_or(rest, |(function, _)| function))
}

fn worst(states: &[ShardState]) -> ShardState {
    use ShardState::{Draining, Paused, Running, Starting, Stopped, Waiting};
    let order = [Stopped, Waiting, Starting, Draining, Paused, Running];
    order.into_iter().find(|it| states.contains(it)).unwrap_or(Stopped)
}

fn summed(id: &str, dry_run: bool, partitions: Vec<SoughtPartition>) -> Sought {
    let sum = |of: fn(&SoughtPartition) -> u64| partitions.iter().map(of).sum();
    let (skipped, repeated) = (sum(|it| it.skipped), sum(|it| it.repeated));
    Sought { api: API, trigger: id.to_owned(), dry_run, partitions, skipped, repeated }
}

fn unknown(id: &str) -> CommandError {
    refused(&cluster::Refused::UnknownTrigger(id.to_owned()).into())
}

/// What the bus says to an operator.
pub(super) fn of_bus(error: &bus::Error) -> CommandError {
    use bus::Error as E;
    let (exit, code) = match error {
        E::UnknownTopic { .. } => (exit::NOT_FOUND, "E0404"),
        E::UnknownPartition(_) => (exit::NOT_FOUND, "E0405"),
        E::OffsetOutOfRange { .. } | E::Position { .. } => (exit::USAGE, "E0406"),
        E::TooLarge { .. } => (exit::USAGE, "E0407"),
        E::Fenced { .. } => (exit::CONFLICT, "E0409"),
        E::DiskFull { .. } => (exit::FAILED, "E0401"),
        E::Unreachable { .. } => (exit::UNREACHABLE, "E0415"),
        E::Authentication { .. } => (exit::UNREACHABLE, "E0416"),
        E::TopicRecreated { .. } | E::TopicReplaced { .. } => (exit::CONFLICT, "E0417"),
        E::Closed => (exit::UNREACHABLE, "E0512"),
        _ => return failed(error),
    };
    CommandError::new(exit, code, chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(start: i64, end: i64) -> Watermarks {
        Watermarks { start: Offset(start), end: Offset(end), bytes: 0 }
    }

    fn at(next: i64, done: &[(i64, i64)]) -> Position {
        let done = done.iter().map(|(start, end)| (Offset(*start), Offset(*end)));
        let completions = Completions::from_ranges(done);
        Position { epoch: Epoch(1), next: Offset(next), completions, suspects: None }
    }

    fn landed(from: Option<&Position>, to: i64) -> (i64, Vec<(i64, i64)>, u64, u64) {
        let it = land(from, Offset(to), marks(10, 100));
        let done = it.completions.ranges().iter().map(|(start, end)| (start.0, end.0)).collect();
        (it.next.0, done, it.skipped, it.repeated)
    }

    #[test]
    fn forward_skips_what_was_open_and_keeps_what_was_settled_beyond() {
        let from = at(20, &[(25, 30), (50, 60)]);
        assert_eq!(landed(Some(&from), 20), (20, vec![(25, 30), (50, 60)], 0, 0));
        assert_eq!(landed(Some(&from), 40), (40, vec![(50, 60)], 15, 0));
        assert_eq!(landed(Some(&from), 55), (60, vec![], 25, 0), "on to what is open");
        assert_eq!(landed(Some(&from), 50), (60, vec![], 25, 0));
        assert_eq!(landed(Some(&from), 100), (100, vec![], 65, 0));
        assert_eq!(landed(None, 40), (40, vec![], 0, 0), "there was no position");
    }

    #[test]
    fn backward_runs_everything_again_also_what_was_settled_beyond() {
        let from = at(20, &[(25, 30), (50, 60)]);
        assert_eq!(landed(Some(&from), 10), (10, vec![], 0, 25));
        assert_eq!(landed(Some(&from), 19), (19, vec![], 0, 16));
    }

    #[test]
    fn what_is_not_there_any_more_is_not_counted() {
        assert_eq!(landed(Some(&at(3, &[])), 15), (15, vec![], 5, 0), "ten of them expired");
        assert_eq!(landed(Some(&at(120, &[])), 90), (90, vec![], 0, 10), "the topic was cut");
        assert_eq!(landed(Some(&at(120, &[(130, 140)])), 90), (90, vec![], 0, 10));
    }

    #[test]
    fn a_trigger_is_as_its_worst_partition() {
        use ShardState::{Running, Stopped, Waiting};
        assert_eq!(worst(&[Running, Waiting, Running]), Waiting);
        assert_eq!(worst(&[Running, Stopped, Waiting]), Stopped);
        assert_eq!(worst(&[Running]), Running);
        assert_eq!(worst(&[]), Stopped, "its function does not run");
        assert_eq!(owner("a/f/t"), ("a", "f"));
    }
}
