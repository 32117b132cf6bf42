//! The promise that a bad record costs itself, and what shares its batch a bounded time: `poison`, on
//! both buses.
//!
//! ```text
//! load ──▶ in[2] ─┬─▶ each (a call a record) ──▶ each-out    1 record of 10,000 raises, ends the
//!                 └─▶ whole (a call a batch) ──▶ whole-out   process, sleeps, or is no JSON
//!
//! none bad ─▶ exception ─▶ crash ─▶ timeout ─▶ undecodable ─▶ mixed ─▶ none bad
//! ```
//!
//! How long a record took is the time from when it was sent to when its output was in its topic: on
//! Kafka as the broker stamped it, on the embedded bus as one saw it who waited for it. What the bad
//! ones cost is what the handlers wrote down. The rest of the verdict is made by who reads the bus
//! without the node.

mod app;
mod brokers;
mod journal;
mod plan;
mod verdict;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::demand;
use crate::harness::api::Api;
use crate::harness::rng::Rng;
use crate::harness::wait;
use crate::promise::{During, Figures, NotShown, Run, broken, rounded};
use app::{App, Function};
use plan::Stretch;
use verdict::{Dead, OTHERS, Out, Seen, judge, mistakes};

/// How long what is left may take: a batch of bad ones, and a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often it is played at most, on a machine that does other things beside.
const PLAYS_MAX: u64 = 3;

/// What was read of a function's topics.
#[derive(Clone, Debug, Default)]
struct Results {
    outputs: Vec<Out>,
    dead: Vec<Dead>,
}

/// What is beneath the application: who brings records, and who reads what became of them.
trait Bus {
    /// Looks at outputs from now on.
    fn watch(&mut self, api: &Api) -> Result<(), NotShown>;

    /// Sends a stretch, so many records a second.
    fn send(&mut self, api: &Api, stretch: &Stretch, rate: u64) -> Result<(), NotShown>;

    /// All outputs are there.
    fn unwatch(&mut self) -> Result<(), NotShown>;

    /// Reads everything; the node has ended, but for who watched.
    fn read(&mut self) -> Result<BTreeMap<Function, Results>, NotShown>;
}

fn now_s() -> f64 {
    bus::Timestamp::now().0 as f64 / 1_000.0
}

/// Shows it.
///
/// # Errors
///
/// When it is broken; unchecked without Python, Java, Maven, or what they have to fetch.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    if !Command::new("python3").arg("-c").arg("").status().is_ok_and(|it| it.success()) {
        return Err(NotShown::Unchecked("there is no python3 on PATH".to_owned()));
    }
    let mut figures = Figures::default();
    run.note("on the embedded bus");
    let embedded = |run: &Run, within: &Path, plan: &[Stretch]| {
        let app = App::make(within, None)?;
        let mut bus = journal::Journaled::new(&app);
        play(run, &app, &mut bus, plan)
    };
    figures.extend("embedded_", quiet(run, "embedded", embedded)?);
    run.note("on Kafka");
    let kafka = |run: &Run, within: &Path, plan: &[Stretch]| {
        let mut bus = brokers::OnKafka::new(run, within)?;
        let app = App::make(within, Some(bus.address()))?;
        play(run, &app, &mut bus, plan)
    };
    figures.extend("kafka_", quiet(run, "kafka", kafka)?);
    Ok(figures)
}

/// Plays it, and once more where others were slow: what else a machine has to do passes, and what is
/// wrong with a node does not. Anything else that is wrong is wrong at once.
fn quiet(
    run: &Run,
    name: &str,
    play: impl Fn(&Run, &Path, &[Stretch]) -> Result<Figures, NotShown>,
) -> Result<Figures, NotShown> {
    let (alone, mixed) = (run.count("alone", 1, 10), run.count("mixed", 1, 10));
    demand!(0 < alone && 0 < mixed, "at least one bad record of each kind");
    let mut plays = 0;
    loop {
        let plan = plan::plan(&mut Rng::new(run.seed, plays), alone, mixed);
        plays += 1;
        let within = run.evidence.join(format!("{name}-{plays}"));
        std::fs::create_dir_all(&within).during("make a folder")?;
        match play(run, &within, &plan) {
            Err(NotShown::Broken(why)) if why.contains(OTHERS) && plays < PLAYS_MAX => {
                run.note(format!("once more: {why}"));
            }
            ended => return ended.map(|figures| figures.with("plays", plays)),
        }
    }
}

fn play(run: &Run, app: &App, bus: &mut impl Bus, plan: &[Stretch]) -> Result<Figures, NotShown> {
    let rate = run.count("rate", 4_000, 4_000);
    let (mut node, api) = app.serve()?;
    bus.watch(&api)?;
    for stretch in plan {
        run.note(format!("{} records, {}", stretch.to - stretch.from, stretch.name));
        bus.send(&api, stretch, rate)?;
        // What a bad one costs is not to fall into the next stretch.
        let is_settled = || {
            wait::pause(Duration::from_millis(50));
            (api.lag().ok()? == 0 && api.in_flight().ok()? == 0).then_some(())
        };
        let settled = wait::until(PATIENCE, is_settled);
        demand!(settled.is_some(), "lag {:?} after {}", api.lag(), stretch.name);
    }
    bus.unwatch()?;
    // Who watches asks the node once more.
    wait::pause(Duration::from_secs(1));
    let (status, _) = node.stop(Signal::TERM, Duration::from_secs(30))?;
    demand!(status == 0, "SIGTERM ended with status {status}: {}", node.tail());
    run.note("the final read");
    let mut figures = Figures::default();
    let (mut red, mut dead) = (0, 0);
    for (function, Results { outputs, dead: letters }) in bus.read()? {
        let seen = Seen { function, outputs, dead: letters, ran: app.ran(function)? };
        let name = function.name();
        let cost = judge(plan, &seen).map_err(|why| broken(format!("{name}: {why}")))?;
        for (mistake, seen) in mistakes(plan, &seen) {
            let noticed = judge(plan, &seen).err();
            let is_it = noticed.as_ref().is_some_and(|it| it.starts_with(mistake));
            demand!(is_it, "{name}: planted {mistake}, noticed {noticed:?}");
            red += 1;
        }
        dead += cost.dead;
        let clean = cost.p99_ms["before"].max(cost.p99_ms["after"]);
        let worst = cost.p99_ms.values().copied().fold(0.0, f64::max);
        figures.set(&format!("{name}_extra_max"), cost.extra);
        figures.set(&format!("{name}_beside_s"), rounded(cost.together_s, 2));
        figures.set(&format!("{name}_p99_without_ms"), rounded(clean, 0));
        figures.set(&format!("{name}_p99_worst_ms"), rounded(worst, 0));
    }
    let records = plan.last().map_or(0, |it| it.to);
    let counts = Figures::default().with("records", records).with("dead_letters", dead);
    let mut all = counts.with("red_controls", red);
    all.extend("", figures);
    Ok(all)
}
