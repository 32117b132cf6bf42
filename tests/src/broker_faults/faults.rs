//! The faults, each made by the broker's own process or by the independent client, each confirmed,
//! each with what the node has to say and do while it lasts.

use std::time::Duration;

use rustix::process::Signal;

use super::app::{self, LINES, SMALL_LIMIT, STEADY};
use super::stage::{PATIENCE, Stage, now};
use crate::demand;
use crate::harness::kafka::REAUTHENTICATION;
use crate::harness::wait;
use crate::promise::{During, NotShown};

/// A record over [`SMALL_LIMIT`].
const LARGE: usize = SMALL_LIMIT + 10_000;
/// What is on its way when the brokers go may come out until here.
const LAST_OUTPUTS: i64 = 500;
/// Partitions that were added are read within this. A start that an outage cuts into waits for
/// requests that nobody answers any more, of 15 s each, and for its clients to connect again.
const GROWN_WITHIN: Duration = Duration::from_secs(60);
/// How often a fault is made that has to meet a moment.
const TRIES: usize = 4;

/// What the node logs when it has looked at a topic that got partitions.
const SEEN: &str = "the topic has other partitions";
/// And when it has decided, durably, that there are shards for them.
const DECIDED: &str = "partitions were added";

/// A broker that is away for a time, and comes back.
pub(super) fn stopped(stage: &mut Stage<'_>, outage: Duration) -> Result<(), NotShown> {
    stage.run.note(format!("the broker is stopped for {outage:?}"));
    stage.any_moment();
    stage.broker.stop()?;
    let down = now();
    wait::pause(outage);
    let up = now();
    stage.broker.start_again()?;
    stage.back("stopped", (down + LAST_OUTPUTS, up), now())
}

/// A broker that is killed as soon as the node has seen a partition that was added: the shard for
/// it starts when the broker is back.
pub(super) fn killed(stage: &mut Stage<'_>, outage: Duration) -> Result<(), NotShown> {
    stage.run.note("the broker is killed, and a partition was just added");
    stage.any_moment();
    let seen = stage.said(SEEN);
    stage.hand.grow("grow.in", 3)?;
    stage.hand.send("grow.in", 2, "grow", &[100; 20])?;
    stage.says(SEEN, seen)?;
    stage.broker.kill()?;
    let down = now();
    wait::pause(outage);
    let waits = stage.said("the shard waits to start");
    demand!(outage.is_zero() || 0 < waits, "no shard waited for the broker");
    stage.broker.start_again()?;
    let back = now();
    stage.back("killed", (down + LAST_OUTPUTS, (down + 1_000).min(back)), back)?;
    has_outputs(stage, "grow", 2)
}

/// The user is taken off the list, and put on it again.
pub(super) fn revoked(stage: &mut Stage<'_>) -> Result<(), NotShown> {
    stage.run.note("the node's credentials are revoked");
    stage.any_moment();
    stage.broker.permit(false)?;
    stage.until("E0416 in status", PATIENCE, |stage| {
        let status = stage.api.status()?;
        let warnings = status["warnings"].as_array().cloned().unwrap_or_default();
        let is_named = |it: &serde_json::Value| it.as_str().is_some_and(|it| it.contains("E0416"));
        Ok(warnings.iter().any(is_named) && status["health"] == "degraded")
    })?;
    // By then no connection is left that was let in before.
    wait::pause(REAUTHENTICATION);
    let down = now();
    wait::pause(Duration::from_secs(2));
    let up = now();
    stage.shows("E0416")?;
    stage.broker.permit(true)?;
    stage.back("authentication revoked", (down, up), now())?;
    stage.until("an end of E0416", PATIENCE, |stage| {
        Ok(stage.api.status()?["warnings"].as_array().is_none_or(Vec::is_empty))
    })
}

/// Everything that happens to topics while the node runs, at once: each trigger has its own.
pub(super) fn topics(stage: &mut Stage<'_>) -> Result<(), NotShown> {
    stage.run.note("topics are deleted, made again, given partitions and smaller limits");
    stage.unload("sink")?;
    stage.until("a drained sink", PATIENCE, |stage| {
        let all = |ends: Vec<(i64, i64)>| ends.iter().map(|(_, end)| end).sum::<i64>();
        Ok(all(stage.hand.ends("sink.in")?) == all(stage.hand.ends("sink.out")?))
    })?;
    let hand = &mut stage.hand;
    let file = hand.read("sink.out")?;
    std::fs::rename(&file, file.with_extension("before")).during("keep what was read")?;
    hand.delete("sink.out")?;
    for partition in 0..2 {
        hand.send("sink.in", partition, "sink", &[100; 20])?;
    }
    hand.delete("gone.in")?;
    hand.delete("again.in")?;
    app::make_input(hand, &app::find("again"))?;
    for partition in 0..2 {
        // More than there ever was: whoever goes on at the old offset reads these.
        hand.send("again.in", partition, "again anew", &[100; 2_000])?;
    }
    hand.grow("grow.in", 4)?;
    hand.send("grow.in", 3, "grow", &[100; 20])?;
    let mut sizes = [100; 21];
    sizes[10] = LARGE;
    hand.send("large.in", 0, "large", &sizes)?;
    hand.set("lower.out", "max.message.bytes", &SMALL_LIMIT.to_string())?;
    hand.send("lower.in", 0, "lower", &sizes)?;

    stage.stops("gone", "E0419")?;
    stage.stops("again", "E0417")?;
    stage.holds_up("sink", "waiting", "E0419")?;
    stage.shows("E0417")?;
    stage.others_run(&["gone", "again"])?;
    stage.cases.extend(["deleted", "deleted and recreated"]);
    has_outputs(stage, "grow", 3)?;
    stage.cases.push("partitions added");
    for (name, case) in [("large", "record over the limit"), ("lower", "limit lowered")] {
        stage.until(&format!("a dead letter of {name}"), PATIENCE, |stage| {
            Ok(stage.hand.ends(&format!("{name}.dead"))? == [(0, 1)])
        })?;
        stage.cases.push(case);
    }
    stage.hand.create("sink.out", 2, "")?;
    stage.until("sink goes on", PATIENCE, |stage| {
        let ends = stage.hand.ends("sink.out")?;
        Ok(ends.iter().map(|(_, end)| end).sum::<i64>() == 40)
    })?;
    stage.cases.push("output topic deleted");
    // The loads of topics that are gone are given up.
    for name in ["gone", "again"] {
        stage.hand.unload(&format!("{name}.in"), 0)?;
    }
    Ok(())
}

/// Waits until a partition that was added has outputs: as many of its topic as it has records
/// beside those of the load.
fn has_outputs(stage: &mut Stage<'_>, name: &str, partition: usize) -> Result<(), NotShown> {
    let (topic, group) = (format!("{name}.in"), format!("millrace.faults.faults.{name}.{name}"));
    let end = stage.hand.ends(&topic)?[partition].1;
    stage.until(&format!("{topic}[{partition}] read"), GROWN_WITHIN, |stage| {
        let committed = stage.hand.committed(&group, &topic, partition)?;
        Ok(committed.is_some_and(|it| end <= it))
    })
}

/// Records expire while the node is there and does not get to them.
pub(super) fn expired_meanwhile(stage: &mut Stage<'_>) -> Result<(), NotShown> {
    stage.run.note("records expire before the running node reads them");
    stage.hand.send("late.in", 0, "late", &[100; 50])?;
    stage.until("late read", PATIENCE, |stage| Ok(stage.hand.ends("late.out")? == [(0, 50)]))?;
    stage.node.signal(Signal::STOP)?;
    stage.hand.send("late.in", 0, "late", &[100; 2_000])?;
    let start = stage.hand.cut("late.in", 0)?;
    demand!(start == 2_050, "late.in begins at {start}");
    stage.hand.send("late.in", 0, "late", &[100; 50])?;
    stage.node.signal(Signal::CONT)?;
    stage.stops("late", "E0420")?;
    stage.shows("E0420")?;
    stage.others_run(&["gone", "again", "late"])?;
    stage.cases.push("offset expired while it runs");
    Ok(())
}

/// The node dies after it was decided that a partition was added, and before it has a position
/// there; and what happens to topics while no node runs.
pub(super) fn without_a_node(stage: &mut Stage<'_>) -> Result<(), NotShown> {
    stage.run.note("the node is killed between the decision for a partition and its position");
    let mut partitions = 4;
    loop {
        demand!(partitions < 4 + TRIES, "no kill met its moment");
        partitions += 1;
        if dies_with_a_new_partition(stage, partitions)? {
            break;
        }
        stage.run.note("the kill came too late: once more");
        stage.start_node()?;
    }
    stage.run.note("topics are deleted and made again, and records expire, without a node");
    for name in ["left", "swap", "old"] {
        stage.unload(name)?;
    }
    let hand = &mut stage.hand;
    hand.delete("left.in")?;
    hand.delete("swap.in")?;
    app::make_input(hand, &app::find("swap"))?;
    for partition in 0..2 {
        hand.send("swap.in", partition, "swap anew", &[100; 2_000])?;
        hand.send("old.in", partition, "old", &[100; 50])?;
        let (start, end) = (hand.cut("old.in", partition)?, hand.ends("old.in")?[partition].1);
        demand!(start == end, "old.in[{partition}] begins at {start}, not {end}");
        hand.send("old.in", partition, "old", &[100; 50])?;
    }
    stage.start_node()?;
    for (name, code, case) in [
        ("left", "E0419", "deleted without a node"),
        ("swap", "E0417", "recreated without a node"),
        ("old", "E0420", "offset expired without a node"),
    ] {
        stage.stops(name, code)?;
        stage.cases.push(case);
    }
    // What had stopped before has stopped again.
    for (name, code) in [("gone", "E0419"), ("again", "E0417"), ("late", "E0420")] {
        stage.stops(name, code)?;
    }
    make_anew(stage, "left")?;
    stage.stops("left", "E0417")?;
    stage.cases.push("a deleted topic comes back");
    stage.others_run(&["gone", "again", "late", "left", "swap", "old"])?;
    has_outputs(stage, "grow", partitions - 1)?;
    stage.cases.push("partition added and killed");
    stage.flows(STEADY)
}

/// Makes a topic that was deleted again, with other records.
fn make_anew(stage: &mut Stage<'_>, name: &str) -> Result<(), NotShown> {
    app::make_input(&mut stage.hand, &app::find(name))?;
    for partition in 0..2 {
        let (topic, values) = (format!("{name}.in"), format!("{name} anew"));
        stage.hand.send(&topic, partition, &values, &[100; 20])?;
    }
    Ok(())
}

/// Adds a partition, freezes the broker as soon as the node has seen it, and kills the node when it
/// has decided on a shard for it, which then cannot have a position.
fn dies_with_a_new_partition(stage: &mut Stage<'_>, partitions: usize) -> Result<bool, NotShown> {
    let (seen, decided) = (stage.said(SEEN), stage.said(DECIDED));
    stage.hand.grow("grow.in", partitions)?;
    stage.hand.send("grow.in", partitions - 1, "grow", &[100; 20])?;
    stage.says(SEEN, seen)?;
    stage.broker.pause()?;
    let found = stage.says(DECIDED, decided);
    let killed = stage.node.kill();
    stage.broker.resume()?;
    found?;
    demand!(killed?, "the node ended before it was killed");
    let group = "millrace.faults.faults.grow.grow";
    Ok(stage.hand.committed(group, "grow.in", partitions - 1)?.is_none())
}

/// Does what the pages of the errors say, and lets everything drain.
pub(super) fn heal(stage: &mut Stage<'_>) -> Result<i64, NotShown> {
    stage.run.note("heal, and drain");
    stage.stop_node()?;
    make_anew(stage, "gone")?;
    stage.app.heal(&["gone", "again", "left", "swap", "late", "old"])?;
    let healed_at = now();
    stage.start_node()?;
    let over = ["gone", "again", "sink", "left", "swap", "old"];
    for line in LINES.iter().filter(|line| 0 < line.rate && !over.contains(&line.name)) {
        stage.unload(line.name)?;
    }
    stage.until("an end of the lag", PATIENCE, |stage| {
        let status = stage.api.status()?;
        Ok(stage.api.lag().ok() == Some(0) && status["health"] == "healthy")
    })?;
    demand!(stage.held_up()?.is_empty(), "after all was healed: {:?}", stage.held_up()?);
    Ok(healed_at)
}
