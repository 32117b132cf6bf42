//! The promise `autoscale`: the load of one of fifty functions steps up and down again. Its instances
//! follow, the other functions notice nothing, and when all of the load comes to one partition of
//! many, that one is given what it needs, and the node that has it gives other shards away. One more
//! function has a minimum and a maximum of instances in the whole cluster, which hold, also while a
//! node is drained.
//!
//! ```text
//! autoscale.py ──▶ hot[6] ──▶ busy (Python, waits for each record) ──▶ hot.out
//!            ├───▶ q-00 .. q-48 ──▶ quiet-00 .. quiet-48 (wasm) ─────▶ quiet.out   (three nodes)
//!            └───▶ few[3] ──▶ few (Python, waits for each record) ───▶ few.out
//! ```
//!
//! How many instances there are is read from `/proc`; what came out, and when, by a client of Kafka
//! that is not ours. How many are needed follows from the rate and from how long the function waits.

mod bounds;
mod verdict;

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::fleet::{Fleet, Slot};
use crate::harness::kafka::{Broker, Kafka, Listeners};
use crate::harness::python::{self, Asked};
use crate::harness::{binaries, processes, wait};
use crate::promise::{During, Figures, NotShown, Run, broken};
use bounds::{Bounded, Bounds, Each};
use verdict::{Phase, Sample, Seen, Waits};

const CLIENT: &str = "aiokafka==0.14.0";
const PATIENCE: Duration = Duration::from_secs(120);
const NODES: usize = 3;
const PARTITIONS: usize = 6;
const QUIET: usize = 49;
/// Records a second before and after, of all partitions.
const LOW: u64 = 100;
/// Records a second that each quiet function gets.
const QUIET_RATE: u64 = 2;
/// Quiet records that are on their way when all is well.
const ON_THE_WAY: u64 = 10;
/// Instances that the high rate keeps busy by waiting alone.
const NEEDED: u64 = 9;
/// The same of the hot partition: more than two invocations at a time can do.
const NEEDED_HOT: u64 = 5;
/// Instances that wait for work go after this long: what PoolConfig and the manual say.
const IDLE_EXPIRY: Duration = Duration::from_secs(60);
/// What the bounded function may have in the whole cluster, and how long it waits for a record.
const BOUNDS: Bounds = Bounds { warm: 3, max: 4 };
const FEW_WAITS_MS: u64 = 20;
/// Records a second that keep twice as many busy.
const FEW_RATE: u64 = 2 * BOUNDS.max * 1_000 / FEW_WAITS_MS;
/// How long each of its loads lasts.
const FEW_FOR: Duration = Duration::from_secs(6);
/// A node that is hot for ten seconds gives shards away; it is looked every five, and what keeps a shard
/// busy is told over ten.
const RELIEVED_WITHIN: Duration = Duration::from_secs(30);
/// How often instances are counted.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Shows it.
///
/// # Errors
///
/// When it is broken; unchecked without Python, Java, Maven, or what they have to fetch.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let high = run.count("rate", 4_000, 20_000);
    let seconds = Duration::from_secs(run.count("seconds", 10, 30));
    run.note("fetch Kafka and a client of it");
    let kafka = Kafka::fetch()?;
    let python = python::with(&[CLIENT])?;
    let broker = Broker::start(&kafka, &run.evidence.join("broker"), Listeners::Plain)?;
    let address = broker.address();
    let words = [address.as_str(), &PARTITIONS.to_string(), &QUIET.to_string()];
    let mut load = Asked::start(&python, "autoscale.py", &words, &run.evidence)?;
    load.ask("topics", PATIENCE)?;
    run.note(format!("three nodes, {} functions", QUIET + 1));
    let app = make(&run.evidence.join("app"), high)?;
    let mut fleet = Fleet::form(&run.evidence, &address, NODES)?;
    fleet.slots[0].run(&["deploy", "--yes", &app])?;
    let mut pids = Vec::new();
    for slot in &mut fleet.slots {
        pids.push(slot.node()?.pid());
    }
    let mut stage = Stage { load, pids, slots: &fleet.slots };
    let seen = stage.play(run, high, seconds)?;
    run.note(seen.summary());
    let figures = verdict::judge(&seen, run.full)?;
    let plants = verdict::plants(&seen, run.full)?;
    run.note("a minimum and a maximum of the whole cluster");
    let seen = stage.bound()?;
    run.note(format!("{:?} at rest, {:?} after a drain", seen.rest, seen.drained));
    let bounded = bounds::judge(&seen, BOUNDS)?;
    let plants = plants + bounds::plants(&seen, BOUNDS)?;
    Ok(Figures::default()
        .with("functions", QUIET as u64 + 1)
        .with("rate_low", LOW)
        .with("rate_high", high)
        .with_all(figures)
        .with_all(bounded)
        .with("red_controls", plants))
}

struct Stage<'a> {
    load: Asked,
    pids: Vec<u32>,
    slots: &'a [Slot],
}

impl Stage<'_> {
    fn play(&mut self, run: &Run, high: u64, for_: Duration) -> Result<Seen, NotShown> {
        run.note("the load is low");
        self.load.ask(&format!("quiet {QUIET_RATE}"), PATIENCE)?;
        // Records that wait for the first start would get a second instance.
        self.load.ask(&format!("rate {PARTITIONS} -1"), PATIENCE)?;
        self.warm_up()?;
        self.load.ask(&format!("rate {LOW} -1"), PATIENCE)?;
        let is_low = || (self.instances() < NEEDED).then_some(());
        let low = wait::until(IDLE_EXPIRY + verdict::DOWN_GRACE, is_low);
        low.ok_or_else(|| broken(format!("{} instances at a low load", self.instances())))?;
        let (before, low) = self.phase(LOW, None, for_)?;
        run.note(format!("a step to {high} records/s"));
        let (during, up) = self.phase(high, None, for_)?;
        run.note("all of it to one partition");
        self.phase(LOW, None, Duration::from_secs(3))?;
        let rate = high * NEEDED_HOT / NEEDED;
        let shares = self.shares()?;
        let (during_hot, hot) = self.phase(rate, Some(PARTITIONS / 2), for_)?;
        run.note("until its node has given shards away");
        // All nodes still have the workers of the step: the one that gives most away is it.
        let given = |now: &[u64]| {
            let each = shares.iter().copied().zip(now.iter().copied());
            each.max_by_key(|(had, has)| had.saturating_sub(*has)).unwrap_or_default()
        };
        let gives = || {
            wait::pause(LOOK_EVERY);
            let (had, has) = given(&self.shares().ok()?);
            (2 * has <= had).then_some(())
        };
        // What came of it is judged below.
        let _gave = wait::until(RELIEVED_WITHIN, gives);
        let hot_shares = given(&self.shares()?);
        run.note("a step down, until what waits for work has gone");
        let (after, down) = self.phase(LOW, None, IDLE_EXPIRY + verdict::DOWN_GRACE)?;
        let quiet = [before, during, during_hot, after];
        let last = self.look()?;
        Ok(Seen {
            low,
            up,
            hot,
            hot_shares,
            down,
            quiet: quiet.map(|it| Waits::of(it.took_ms)),
            quiet_owed: last.quiet_sent.saturating_sub(last.quiet_seen),
            needed: NEEDED,
            needed_hot: NEEDED_HOT,
            idle_expiry: IDLE_EXPIRY,
        })
    }

    /// Gives the bounded function more than it may do, also while the last node is drained.
    fn bound(&mut self) -> Result<Bounded, NotShown> {
        self.load.ask("rate 0 -1", PATIENCE)?;
        let each = |stage: &Self| -> Each {
            std::array::from_fn(|at| Self::workers(stage.pids[at], "few"))
        };
        let rest = each(self);
        self.load.ask(&format!("few {FEW_RATE}"), PATIENCE)?;
        let mut loaded = Vec::new();
        let mut watch = |stage: &Self| {
            let began_at = Instant::now();
            while began_at.elapsed() < FEW_FOR {
                loaded.push(each(stage));
                wait::pause(LOOK_EVERY);
            }
        };
        watch(self);
        let last = &self.slots[NODES - 1];
        self.slots[0].run(&["node", "drain", &last.name])?;
        watch(self);
        let said = self.look()?;
        self.load.ask("few 0", PATIENCE)?;
        let is_left = || (each(self)[NODES - 1] == 0).then_some(());
        let _gone = wait::until(FEW_FOR, is_left);
        let owed = said.few_sent.saturating_sub(said.few_seen);
        Ok(Bounded { rest, loaded, owed, drained: each(self) })
    }

    /// Until every partition has given something, and quiet functions have worked off what came while
    /// they started.
    fn warm_up(&mut self) -> Result<(), NotShown> {
        let begun = wait::until(PATIENCE, || match self.look() {
            Ok(said) => {
                let owed = said.quiet_sent.saturating_sub(said.quiet_seen);
                let is_up = said.newest.iter().all(|it| 0 < *it) && QUIET as u64 <= said.quiet_seen;
                (is_up && owed <= ON_THE_WAY).then_some(Ok(()))
            }
            Err(error) => Some(Err(error)),
        });
        begun.ok_or_else(|| broken("not every function has an output"))?
    }

    /// Sends at a rate for a while, and counts instances meanwhile.
    fn phase(
        &mut self,
        rate: u64,
        only: Option<usize>,
        for_: Duration,
    ) -> Result<(Said, Phase), NotShown> {
        let first = self.look()?;
        let only = only.map_or_else(|| "-1".to_owned(), |it| it.to_string());
        self.load.ask(&format!("rate {rate} {only}"), PATIENCE)?;
        let began_at = Instant::now();
        let mut samples = Vec::new();
        while began_at.elapsed() < for_ {
            let instances = self.instances();
            samples.push(Sample { after: began_at.elapsed(), instances });
            wait::pause(LOOK_EVERY);
        }
        let last = self.look()?;
        let took = began_at.elapsed();
        let sent = last.sent.iter().sum::<u64>() - first.sent.iter().sum::<u64>();
        let owed = last.sent.iter().zip(&last.newest);
        let owed = owed.map(|(sent, newest)| sent.saturating_sub(*newest)).max().unwrap_or(0);
        Ok((last, Phase { samples, sent, took, owed_worst: owed }))
    }

    /// Workers of the busy function, on all nodes.
    fn instances(&self) -> u64 {
        self.pids.iter().map(|pid| Self::workers(*pid, "busy")).sum()
    }

    /// How many shards each node has.
    fn shares(&self) -> Result<Vec<u64>, NotShown> {
        let members = self.slots[0].members()?;
        let share = |slot: &Slot| {
            let member = members.iter().find(|it| it["name"] == slot.name.as_str());
            member.and_then(|it| it["shards"].as_u64()).unwrap_or_default()
        };
        Ok(self.slots.iter().map(share).collect())
    }

    fn workers(pid: u32, function: &str) -> u64 {
        let variable = format!("AWS_LAMBDA_FUNCTION_NAME={function}");
        let has = |pid: &u32, file: &str, word: &[u8]| {
            let said = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            said.split(|it| *it == 0).any(|it| it.windows(word.len()).any(|it| it == word))
        };
        let is_worker = |pid: &u32| {
            has(pid, "cmdline", b"millrace_bootstrap") && has(pid, "environ", variable.as_bytes())
        };
        processes::below(pid).into_iter().filter(is_worker).count() as u64
    }

    fn look(&mut self) -> Result<Said, NotShown> {
        let said = self.load.ask("look", PATIENCE)?;
        let numbers = |name: &str| -> Vec<u64> {
            let all = said[name].as_array().into_iter().flatten();
            all.filter_map(|it| it.as_i64().map(|it| u64::try_from(it).unwrap_or(0))).collect()
        };
        let number = |name: &str| {
            said[name].as_u64().ok_or_else(|| broken(format!("no {name} in {}", head(&said))))
        };
        Ok(Said {
            sent: numbers("sent"),
            newest: numbers("newest"),
            quiet_sent: number("quiet_sent")?,
            quiet_seen: number("quiet_seen")?,
            took_ms: numbers("took_ms"),
            few_sent: number("few_sent")?,
            few_seen: number("few_seen")?,
        })
    }
}

fn head(said: &Value) -> String {
    said.to_string().chars().take(200).collect()
}

/// What the client outside has seen.
struct Said {
    sent: Vec<u64>,
    newest: Vec<u64>,
    quiet_sent: u64,
    quiet_seen: u64,
    took_ms: Vec<u64>,
    few_sent: u64,
    few_seen: u64,
}

/// The function waits for each record, as one does that asks somebody else: that costs no core.
fn make(dir: &Path, high: u64) -> Result<String, NotShown> {
    let wait_s = NEEDED as f64 / high as f64;
    let handler = format!(
        "import time\n\n\ndef handler(value, context):\n    time.sleep({wait_s})\n    partition, number = \
         value.split()\n    if int(number) % 20 == 0:\n        return value.decode()\n"
    );
    let mut manifest = format!(
        "[app]\nname = \"fifty\"\n\n[topic.hot]\npartitions = {PARTITIONS}\n\n[topic.\"hot.out\"]\n\
         partitions = 1\n\n[topic.\"quiet.out\"]\npartitions = 1\n\n[function.busy]\nruntime = \
         \"python3\"\npath = \"busy\"\nhandler = \"app.handler\"\n\n[[function.busy.trigger]]\ntopics \
         = [\"hot\"]\nstart = \"earliest\"\ndecode = \"none\"\ndead-letter = \"all.dead\"\nbatch = {{ \
         records = 20 }}\noutput = {{ topic = \"hot.out\" }}\n"
    );
    for number in 0..QUIET {
        let topic = format!("[topic.q-{number:02}]\npartitions = 1\n\n");
        let function = format!(
            "[function.quiet-{number:02}]\nruntime = \"wasm\"\npath = \"quiet\"\nhandler = \
             \"identity.wasm\"\n\n[[function.quiet-{number:02}.trigger]]\ntopics = \
             [\"q-{number:02}\"]\nstart = \"earliest\"\ndead-letter = \"all.dead\"\noutput = {{ topic = \
             \"quiet.out\" }}\n"
        );
        write!(manifest, "\n{topic}{function}").during("write the manifest")?;
    }
    let Bounds { warm, max } = BOUNDS;
    write!(
        manifest,
        "\n[topic.few]\npartitions = 3\n\n[topic.\"few.out\"]\npartitions = \
         1\n\n[function.few]\nruntime = \"python3\"\npath = \"few\"\nhandler = \
         \"app.handler\"\ninstances = {{ cluster-warm = {warm}, cluster-max = {max} \
         }}\n\n[[function.few.trigger]]\ntopics = [\"few\"]\nstart = \"earliest\"\ndecode = \
         \"none\"\ndead-letter = \"all.dead\"\noutput = {{ topic = \"few.out\" }}\n"
    )
    .during("write the manifest")?;
    let bounded = format!(
        "import time\n\n\ndef handler(value, context):\n    time.sleep({})\n    return \
         value.decode()\n",
        FEW_WAITS_MS as f64 / 1e3
    );
    for folder in ["busy", "quiet", "few"] {
        std::fs::create_dir_all(dir.join(folder)).during("make the application")?;
    }
    let component = dir.join("quiet/identity.wasm");
    std::fs::copy(binaries::component("identity"), component).during("copy a component")?;
    std::fs::write(dir.join("busy/app.py"), handler).during("write the function")?;
    std::fs::write(dir.join("few/app.py"), bounded).during("write the function")?;
    std::fs::write(dir.join("millrace.toml"), manifest).during("write the manifest")?;
    Ok(dir.display().to_string())
}
