//! A node of three is stopped and goes on later, with an old view of the world: a zombie. Others own
//! its shards by then. What it still puts out ends within two seconds, and what its late commits
//! move back is restored within as much; nothing is lost and keys keep their order in every epoch.

use std::time::Duration;

use bus::Timestamp;
use rustix::process::Signal;

use super::{Mill, NODES};
use crate::demand;
use crate::harness::wait;
use crate::promise::{Figures, NotShown, Run, broken};

/// Records a second.
const RATE: u64 = 500;
/// The shortest stop. Below a second nobody else takes over.
const STOP_MIN: Duration = Duration::from_millis(500);
/// The longest of those that are drawn, in CI; and of all.
const STOP_CI: Duration = Duration::from_secs(6);
const STOP_MAX: Duration = Duration::from_secs(60);
/// How long results of an old epoch may come after the node goes on, in milliseconds (OWN-5).
const STALE_MS_MAX: i64 = 2_000;

/// Shows it.
///
/// # Errors
///
/// When it is broken; unchecked without Python, Java, Maven, or what they have to fetch.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let stops = run.count("stops", 10, 60);
    let longest = if run.full { STOP_MAX } else { STOP_CI };
    let mut mill = Mill::start_with_zombies(run, RATE, 9)?;
    let (mut taken_over, mut stale_ms) = (0, Vec::new());
    for stop in 0..stops {
        let length = match stop {
            0 => STOP_MAX,
            _ => mill.rng.time(STOP_MIN, longest),
        };
        run.note(format!("stop {} of {stops}, for {:.1} s", stop + 1, length.as_secs_f64()));
        let stopped = mill.stop_for(length)?;
        taken_over += u64::from(stopped.is_taken_over);
        stale_ms.extend(stopped.stale_ms);
    }
    demand!(0 < taken_over, "nobody took over from a node that was stopped");
    let back_ms = mill.look()?.back_ms();
    let figures = mill.finish(run)?;
    let latest = stale_ms.iter().copied().max().unwrap_or_default();
    Ok(Figures::default()
        .with("stops", stops)
        .with("taken_over", taken_over)
        .with("stale_epochs", stale_ms.len())
        .with("stale_ms_max", latest)
        .with("offset_back_ms_max", back_ms)
        .with_all(figures))
}

/// What a stop has shown.
struct Stopped {
    /// Whether others had its shards when it went on.
    is_taken_over: bool,
    /// By shard and old epoch: how long after it went on a result of it came, in milliseconds.
    stale_ms: Vec<i64>,
}

impl Mill {
    /// Stops a node for so long, and waits until all is well again.
    fn stop_for(&mut self, length: Duration) -> Result<Stopped, NotShown> {
        let before = self.settle()?;
        let victim = self.rng.draw(NODES as u64) as usize;
        let node = self.fleet.slots[victim].node()?;
        node.signal(Signal::STOP)?;
        demand!(is_stopped(node.pid()), "SIGSTOP did not stop the node");
        wait::pause(length);
        let during = self.look()?;
        let at = Timestamp::now();
        self.fleet.slots[victim].node()?.signal(Signal::CONT)?;
        let after = self.settle()?;
        let (old, new) = (before.stale(), after.stale());
        let fresh = new.iter().filter(|(of, time)| old.get(*of) != Some(*time));
        let stale_ms: Vec<i64> = fresh.map(|(_, time)| time - at.0).collect();
        if let Some(late) = stale_ms.iter().find(|it| STALE_MS_MAX < **it) {
            return Err(broken(format!("OWN-5: a result of an old epoch {late} ms after SIGCONT")));
        }
        Ok(Stopped { is_taken_over: during.epochs() != before.epochs(), stale_ms })
    }
}

/// Whether the kernel says so.
fn is_stopped(pid: u32) -> bool {
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let state = stat.rsplit_once(") ")?.1.chars().next()?;
        (state == 'T').then_some(())
    };
    wait::until(Duration::from_secs(2), state).is_some()
}
