//! What crossing costs: the same call at the caller's own node and at another one, in turn.

use std::time::{Duration, Instant};

use super::Stage;
use crate::demand;
use crate::harness::api::Api;
use crate::promise::{Figures, NotShown, Run};

/// What crossing may add at the median.
const ADDED_US_MAX: i64 = 150;
/// Calls before those that count.
const FIRST: u64 = 200;
const PATIENCE: Duration = Duration::from_secs(30);
const INPUT: &[u8] = b"{\"bed\":\"bed-4\",\"c\":34.2}";

/// Both in one run, in turn, so that whatever else the machine does falls on both.
pub(super) fn measure(stage: &Stage, run: &Run) -> Result<Figures, NotShown> {
    let count = run.count("pairs", 2_000, 10_000);
    run.note(format!("{count} calls here and there, in turn"));
    let api = stage.api(0)?;
    let paths = [0, 1].map(|slot| {
        let node = stage.name(slot);
        (node, format!("/v1/functions/calls/null:invoke?node={node}"))
    });
    let mut took = [Vec::new(), Vec::new()];
    for round in 0..FIRST + count {
        // Who goes first pays for what went on before.
        let first = usize::from(round % 2 == 1);
        for index in [first, 1 - first] {
            let (node, path) = &paths[index];
            let time = call(api, node, path)?;
            if FIRST <= round {
                took[index].push(time);
            }
        }
    }
    let [local, remote] = took.map(|mut times| {
        times.sort_unstable();
        times
    });
    let at = |times: &[u64], percent: usize| times[(times.len() - 1) * percent / 100];
    let added = at(&remote, 50).cast_signed() - at(&local, 50).cast_signed();
    let figures = Figures::default()
        .with("local_us_p50", at(&local, 50))
        .with("local_us_p99", at(&local, 99))
        .with("remote_us_p50", at(&remote, 50))
        .with("remote_us_p99", at(&remote, 99))
        .with("added_us_p50", added);
    if ADDED_US_MAX < added {
        let miss = format!("crossing adds {added} us at the median, {ADDED_US_MAX} may be");
        demand!(!run.full, "{miss} ({figures})");
        run.note(format!("MISSED: {miss}"));
    }
    Ok(figures)
}

/// One call, in microseconds.
fn call(api: &Api, node: &str, path: &str) -> Result<u64, NotShown> {
    let begun = Instant::now();
    let reply = api.send(path, &[], INPUT, PATIENCE)?;
    let took = begun.elapsed();
    demand!(reply.status == 200 && reply.body == INPUT, "a call at {node}: {}", reply.status);
    let ran = reply.headers.get("millrace-node").map(String::as_str);
    demand!(ran == Some(node), "a call at {node} ran at {ran:?}");
    Ok(took.as_micros() as u64)
}
