//! The same with three nodes on one Kafka: whichever runs the record is killed, another one gets its
//! shards, and a supervisor starts the killed one again.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::verdict::Expected;
use super::{BATCH, KEYS, Mill, PATIENCE, Played, TOPICS, asked, is_done, manifest};
use crate::demand;
use crate::harness::api::ToProduce;
use crate::harness::fleet::{Fleet, Slot};
use crate::harness::wait;
use crate::promise::{During, NotShown, Run, broken};

const NODES: usize = 3;

/// Brings the records, then supervises the nodes until nothing is left to do.
///
/// # Errors
///
/// When a node ends by itself, or it takes too long.
pub(super) fn play(
    run: &Run,
    folder: &Path,
    brokers: &str,
    expected: &Expected,
) -> Result<Played, NotShown> {
    let mut fleet = Fleet::form_making_topics(folder, brokers, NODES)?;
    let mill = Mill::make(folder.to_owned(), None)?;
    let app = mill.app.display().to_string();
    let deploy = ["deploy", "--yes", app.as_str()];
    mill.write(TOPICS)?;
    fleet.slots[0].run(&deploy)?;
    for start in (0..expected.records).step_by(BATCH as usize) {
        let until = (start + BATCH).min(expected.records);
        let batch: Vec<ToProduce> = (start..until).map(|it| expected.record(it, KEYS)).collect();
        fleet.slots[0].api()?.produce("in", &batch)?;
    }
    let listener = TcpListener::bind("127.0.0.1:0").during("listen")?;
    let address = listener.local_addr().during("listen")?.to_string();
    listener.set_nonblocking(true).during("listen")?;
    mill.write(&manifest(&address, expected))?;

    let started_at = Instant::now();
    fleet.slots[0].run(&deploy)?;
    let mut played = Played { deaths: 0, slowest_start: Duration::ZERO, took: Duration::ZERO };
    let mut died = vec![0_u32; NODES];
    loop {
        if let Some((killer, file)) = asked(&listener)? {
            let node = fleet.slots.iter().position(|slot| file.starts_with(slot.folder()));
            let node = node.ok_or_else(|| broken(format!("no node has {}", file.display())))?;
            let slot = &mut fleet.slots[node];
            slot.kill()?;
            died[node] += 1;
            played.deaths += 1;
            run.note(format!("record {killer} ends {}: death {}", slot.name, played.deaths));
            let killed_at = Instant::now();
            slot.start()?;
            played.slowest_start = played.slowest_start.max(killed_at.elapsed());
            continue;
        }
        for slot in &mut fleet.slots {
            let (name, node) = (slot.name.clone(), slot.node()?);
            demand!(node.is_running(), "{name} ended by itself: {}", node.tail());
        }
        // A node that just came back may not know yet.
        if fleet.slots.iter().any(|slot| is_done_at(slot, expected)) {
            break;
        }
        let said = || fleet.slots[0].run(&["status", "-o", "json"]).unwrap_or_default();
        demand!(started_at.elapsed() < PATIENCE, "not done, {died:?} deaths: {}", said());
        wait::pause(Duration::from_millis(50));
    }
    played.took = started_at.elapsed();
    demand!(1 < died.iter().filter(|it| 0 < **it).count(), "only one node was killed: {died:?}");
    purge_at_one(&fleet)?;
    for slot in &mut fleet.slots {
        slot.stop(Signal::TERM, PATIENCE)?;
    }
    Ok(played)
}

/// What one node purges is listed by no other.
fn purge_at_one(fleet: &Fleet) -> Result<(), NotShown> {
    let open = |slot: &Slot| {
        let said = slot.run(&["dead-letter", "list", "mill.work.dead", "-o", "json"])?;
        let said: Value = serde_json::from_str(&said).during("read the list")?;
        let topics = said.as_array().ok_or_else(|| broken(format!("no list: {said}")))?;
        Ok::<_, NotShown>(topics.iter().filter_map(|it| it["open"].as_u64()).sum::<u64>())
    };
    for slot in &fleet.slots {
        demand!(0 < open(slot)?, "{} lists no dead letter", slot.name);
    }
    let [first, others @ ..] = fleet.slots.as_slice() else { return Ok(()) };
    first.run(&["dead-letter", "purge", "mill.work.dead", "--yes"])?;
    for slot in others {
        let none = wait::until(PATIENCE, || open(slot).is_ok_and(|open| open == 0).then_some(()));
        demand!(none.is_some(), "{} lists what {} has purged", slot.name, first.name);
    }
    Ok(())
}

fn is_done_at(slot: &Slot, expected: &Expected) -> bool {
    slot.api().is_ok_and(|api| is_done(api, expected).unwrap_or(false))
}
