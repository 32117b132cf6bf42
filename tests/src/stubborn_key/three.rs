//! The stubborn key with three nodes on one Kafka: while it fails its shard is handed over, as
//! planned, and then its owner is killed. What is parked goes on at whoever owns it next.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::brokers::OnKafka;
use super::{App, Bus as _, HOT_EVERY, judged, window};
use crate::demand;
use crate::harness::fleet::{Fleet, Slot};
use crate::harness::wait;
use crate::promise::{During, Figures, NotShown, Run, broken, rounded};

const NODES: usize = 3;
/// Until a shard that moves has its parked records again.
const MOVED_WITHIN: Duration = Duration::from_secs(30);

/// Plays it.
///
/// # Errors
///
/// When it is broken; unchecked without Python, Java, Maven, or what they have to fetch.
pub(super) fn play(run: &Run, rate: u64) -> Result<Figures, NotShown> {
    let within = run.evidence.join("three");
    std::fs::create_dir_all(&within).during("make a folder")?;
    let mut bus = OnKafka::new(run, &within)?;
    let brokers = bus.address();
    let mut fleet = Fleet::form_making_topics(&within, &brokers, NODES)?;
    let app = App::make(&within, Some(brokers))?;
    app.heal(true)?;
    fleet.slots[0].run(&["deploy", "--yes", &app.dir.display().to_string()])?;
    bus.load(fleet.slots[0].api()?, rate)?;
    wait::pause(Duration::from_secs(3));
    let before = window(&mut bus, 5)?;
    run.note(format!("{rate} records a second; one key fails"));
    app.heal(false)?;
    wait::pause(Duration::from_secs(2));
    let failing = window(&mut bus, run.count("failing", 8, 600))?;

    let (first, parked) = owner(&fleet, MOVED_WITHIN)?;
    let name = fleet.slots[first].name.clone();
    run.note(format!("{name} drains, {parked} records parked"));
    fleet.slots[first].run(&["node", "drain", &name])?;
    let (second, kept) = next_owner(&fleet, first)?;
    demand!(parked <= kept, "of {parked} parked records {kept} went along");
    fleet.slots[first].run(&["node", "undrain", &name])?;
    // It may have taken the key's shard back by then.
    let (second, _) = owner(&fleet, MOVED_WITHIN).unwrap_or((second, kept));
    run.note(format!("SIGKILL for {}, {kept} records parked", fleet.slots[second].name));
    fleet.slots[second].kill()?;
    let killed_at = Instant::now();
    let (_, found) = next_owner(&fleet, second)?;
    let found_s = killed_at.elapsed().as_secs_f64();
    // What was parked in the last second may not be in the group yet; it is read again.
    demand!(kept <= found + rate / HOT_EVERY, "of {kept} parked records {found} were found");
    fleet.slots[second].start()?;

    run.note(format!("the key heals, {found} records parked"));
    app.heal(true)?;
    let healed_at = Instant::now();
    until_none_is_parked(&fleet)?;
    let healed_s = healed_at.elapsed().as_secs_f64();
    let after = window(&mut bus, 5)?;
    bus.finish(fleet.slots[0].api()?)?;
    let drained = wait::until(Duration::from_secs(60), || {
        wait::pause(Duration::from_millis(100));
        let lag = fleet.slots[0].api().ok()?.lag().ok()?;
        (lag == 0 && all_parked(&fleet) == Some(0)).then_some(())
    });
    demand!(drained.is_some(), "parked {:?}", all_parked(&fleet));
    for slot in &mut fleet.slots {
        slot.stop(Signal::TERM, Duration::from_secs(30))?;
    }
    run.note("the final read");
    let it = bus.judge([before, failing, after])?;
    Ok(judged(&it)?
        .with("moves", 2)
        .with("parked_max", found)
        .with("found_after_s", rounded(found_s, 1))
        .with("healed_after_s", rounded(healed_s, 1)))
}

/// How many records a node has parked, by itself.
fn parked(slot: &Slot) -> Option<u64> {
    let said = slot.api().ok()?.get(&format!("/v1/status?node={}", slot.name)).ok()?;
    let said: serde_json::Value = serde_json::from_str(&said).ok()?;
    Some(said["functions"][0]["parked"].as_u64().unwrap_or_default())
}

fn all_parked(fleet: &Fleet) -> Option<u64> {
    fleet.up().map(parked).sum()
}

/// Who has parked records, and how many. Only one key fails.
fn owner(fleet: &Fleet, within: Duration) -> Result<(usize, u64), NotShown> {
    let found = wait::until(within, || {
        let of = |(node, slot): (usize, &Slot)| Some((node, parked(slot)?));
        let all: Vec<_> = fleet.slots.iter().enumerate().filter_map(of).collect();
        all.into_iter().find(|(_, parked)| 0 < *parked)
    });
    found.ok_or_else(|| broken("nothing is parked"))
}

/// Who has them once it is not this node any more.
fn next_owner(fleet: &Fleet, before: usize) -> Result<(usize, u64), NotShown> {
    let found = wait::until(MOVED_WITHIN, || {
        wait::pause(Duration::from_millis(50));
        let (node, parked) = owner(fleet, Duration::ZERO).ok()?;
        (node != before).then_some((node, parked))
    });
    found.ok_or_else(|| broken(format!("node {} keeps the stubborn key", before + 1)))
}

fn until_none_is_parked(fleet: &Fleet) -> Result<(), NotShown> {
    let out = wait::until(Duration::from_secs(120), || {
        wait::pause(Duration::from_millis(100));
        (all_parked(fleet)? == 0).then_some(())
    });
    out.ok_or_else(|| broken(format!("parked {:?}", all_parked(fleet))))
}
