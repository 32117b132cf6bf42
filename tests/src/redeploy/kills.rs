//! SIGKILL while a deploy is on its way: what was acknowledged is there whole, what was not is
//! absent or whole, and records pass once and in order all the while.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::app::{PARTS, PATIENCE, Revisions, revisions_of};
use super::{Mill, verdict};
use crate::demand;
use crate::harness::api::Api;
use crate::harness::node::Node;
use crate::harness::{command, wait};
use crate::promise::{During, NotShown, Run, broken};

/// Records a second meanwhile: the deploys are what this is about.
const RATE: u64 = 2_000;

/// What the kills found.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Kills while a deploy was on its way, past its plan.
    pub(super) kills: u64,
    /// Kills right after the acknowledgement: as telling, but not during a deploy.
    pub(super) after: u64,
    /// Counted ones whose deploy was acknowledged all the same.
    pub(super) acknowledged: u64,
    /// Counted ones that were not acknowledged, and are there.
    pub(super) whole: u64,
    /// Counted ones that were not acknowledged, and are not there.
    pub(super) absent: u64,
    /// Until everything ran again.
    pub(super) slowest_start: Duration,
}

/// What may be there after a kill.
struct Expected {
    before: Revisions,
    after: Revisions,
    /// The deploy was acknowledged: only `after` will do.
    acknowledged: bool,
    /// How long it took to its end; `None` = it was on its way when SIGKILL came.
    took: Option<Duration>,
}

/// Kills until so many count.
///
/// # Errors
///
/// When something is not as it was promised.
pub(super) fn run(mill: &mut Mill, run: &Run, kills: u64) -> Result<Tally, NotShown> {
    let mut tally = Tally::default();
    let mut window = window(mill)?;
    let mut expected: Option<Expected> = None;
    while tally.kills < kills {
        run.note(format!("{} of {kills} kills during deploys of {window:?}", tally.kills));
        demand!(tally.after <= 3 * kills + 10, "kills do not come to count: {tally:?}");
        let (node, api) = mill.app.serve()?;
        if let Some(expected) = expected.take() {
            check(mill, &node, &api, &expected, &mut tally)?;
        }
        let came = live_and_die(mill, node, api, window)?;
        match came.took {
            None => tally.kills += 1,
            Some(took) => {
                tally.after += 1;
                window = took;
            }
        }
        expected = Some(came);
    }
    let (node, api) = mill.app.serve()?;
    if let Some(expected) = expected {
        check(mill, &node, &api, &expected, &mut tally)?;
    }
    mill.drain(node, &api)?;
    Ok(tally)
}

/// How long a deploy takes from its plan to its end.
fn window(mill: &mut Mill) -> Result<Duration, NotShown> {
    let (node, api) = mill.app.serve()?;
    let after = propose(mill)?;
    let mut deploy = mill.app.start_deploy()?;
    wait_for_plan(&mut deploy)?;
    let planned_at = Instant::now();
    let status = wait::until(PATIENCE, || deploy.try_wait().ok().flatten());
    let took = planned_at.elapsed();
    demand!(status.is_some_and(|it| it.success()), "a deploy failed: {status:?}: {}", node.tail());
    demand!(revisions(&api)? == after, "another revision than the planned one is there");
    mill.drain(node, &api)?;
    Ok(took)
}

/// One life: a deploy of all three functions, and a kill at a random time of it.
fn live_and_die(
    mill: &mut Mill,
    mut node: Node,
    api: Api,
    window: Duration,
) -> Result<Expected, NotShown> {
    let before = revisions(&api)?;
    let sender = mill.load.start(api, RATE, u64::MAX);
    let after = propose(mill)?;
    let mut deploy = mill.app.start_deploy()?;
    wait_for_plan(&mut deploy)?;
    let planned_at = Instant::now();
    // Every other one when the command is appended and functions change, near the end.
    let earliest = if mill.rng.draw(2) == 0 { Duration::ZERO } else { window * 3 / 4 };
    let until = mill.rng.time(earliest, window + window / 8);
    let ended = wait::until(until, || deploy.try_wait().ok().flatten());
    let took = ended.map(|_| planned_at.elapsed());
    let was_killed = node.kill()?;
    let status = wait::until(PATIENCE, || deploy.try_wait().ok().flatten());
    command::end(&mut deploy);
    mill.load.stop();
    sender.join().map_err(|_| broken("the load panicked"))??;
    demand!(was_killed, "the node was gone before SIGKILL: {}", node.tail());
    let status = status.ok_or_else(|| broken("the deploy hangs after its node is gone"))?;
    mill.look()?;
    verdict::packages(&mill.app.data)?;
    Ok(Expected { before, after, acknowledged: status.success(), took })
}

/// New marks for all three functions, and the revisions that they lead to.
fn propose(mill: &mut Mill) -> Result<Revisions, NotShown> {
    mill.newest += 1;
    for part in PARTS {
        mill.app.write(part, mill.newest)?;
    }
    let after = mill.app.planned()?;
    mill.marks.learn(&after, [mill.newest; 3]);
    Ok(after)
}

/// The plan is shown: what comes now is sending and deploying.
fn wait_for_plan(deploy: &mut std::process::Child) -> Result<(), NotShown> {
    let stdout = deploy.stdout.take().ok_or_else(|| broken("the deploy has no output"))?;
    let mut lines = BufReader::new(stdout);
    loop {
        let mut line = String::new();
        let read = lines.read_line(&mut line).during("read a plan")?;
        demand!(read != 0, "a deploy ended before it showed its plan");
        // Its last line is the sum.
        if line.starts_with("mill: ") {
            // The pipe stays open: the command still has its outcome to say.
            std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
            return Ok(());
        }
    }
}

/// What is there after a kill, in the node's own words and in its store.
fn check(
    mill: &Mill,
    node: &Node,
    api: &Api,
    expected: &Expected,
    tally: &mut Tally,
) -> Result<(), NotShown> {
    let is_there = agrees(&revisions(api)?, expected)?;
    // What the node names, it has; what it does not name, it has no more.
    let (mut named, there) = (BTreeSet::new(), verdict::packages(&mill.app.data)?);
    for part in PARTS {
        let path = format!("/v1/functions/mill/{}/revisions", part.name());
        let list: Value = serde_json::from_str(&api.get(&path)?).during("read revisions")?;
        let packages = list["revisions"].as_array().into_iter().flatten();
        named.extend(packages.filter_map(|it| it["package"].as_str().map(str::to_owned)));
    }
    demand!(named == there, "the node names {named:?} and has {there:?}");
    let running = wait::until(PATIENCE, || all_run(api));
    demand!(running.is_some(), "not all functions run: {:?}", api.status());
    tally.slowest_start = tally.slowest_start.max(node.started_at.elapsed());
    if expected.took.is_none() {
        *match (expected.acknowledged, is_there) {
            (true, _) => &mut tally.acknowledged,
            (false, true) => &mut tally.whole,
            (false, false) => &mut tally.absent,
        } += 1;
    }
    Ok(())
}

/// Whether the new revisions are there; anything but all or none is broken.
fn agrees(now: &Revisions, expected: &Expected) -> Result<bool, NotShown> {
    if *now == expected.after {
        return Ok(true);
    }
    demand!(
        !expected.acknowledged,
        "a deploy was acknowledged and is lost (CLU-2): {now:?} instead of {:?}",
        expected.after
    );
    demand!(*now == expected.before, "a deploy is there in part: {now:?}");
    Ok(false)
}

fn revisions(api: &Api) -> Result<Revisions, NotShown> {
    let list: Value = serde_json::from_str(&api.get("/v1/functions")?).during("read functions")?;
    revisions_of(&list["functions"], |function| &function["runs"]["revision"])
}

fn all_run(api: &Api) -> Option<()> {
    let status = api.status().ok()?;
    let functions = status["functions"].as_array()?;
    let is_up = |it: &Value| matches!(it["state"].as_str(), Some("running" | "failing"));
    (functions.len() == PARTS.len() && functions.iter().all(is_up)).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revisions(text: &str) -> Revisions {
        text.split(' ').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap()
    }

    #[test]
    fn a_deploy_that_is_lost_or_halved_is_found() {
        let expected = |acknowledged| Expected {
            before: revisions("a b c"),
            after: revisions("d e f"),
            acknowledged,
            took: None,
        };
        assert!(agrees(&revisions("d e f"), &expected(true)).unwrap());
        assert!(agrees(&revisions("d e f"), &expected(false)).unwrap());
        assert!(!agrees(&revisions("a b c"), &expected(false)).unwrap());
        assert!(agrees(&revisions("a b c"), &expected(true)).is_err());
        assert!(agrees(&revisions("d b c"), &expected(false)).is_err());
        assert!(agrees(&revisions("d e c"), &expected(true)).is_err());
    }
}
