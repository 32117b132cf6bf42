//! Nodes are exchanged for those of the build after this one, one by one and under load, back again
//! and forward; then the cluster writes what only that build reads, and older ones are refused.
//!
//! The build after this one is this source with a format of its own: a command, a field of the state
//! and one of the frames that the format before has no place for. It notes each start of a member as
//! soon as it may, so that what is written too soon is met by nodes that cannot read it. Two faults
//! of a build that does not wait are planted: its frames, and its commands.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::Mill;
use crate::demand;
use crate::harness::fleet::Slot;
use crate::harness::{binaries, command, wait};
use crate::promise::{During, Figures, NotShown, Run, broken};

/// Records a second.
const RATE: u64 = 300;
/// How long a node may take to be rid of its shards, to end, or to have said something.
const WITHIN: Duration = Duration::from_secs(60);
/// The cluster has a fourth node from the first step on.
const NODES: usize = 4;
/// The second trigger of the chain.
const TRIGGER: &str = "chain/second/second";
/// What plants a build that does not wait for its format.
const EARLY: &str = "MILLRACE_NEXT_WRITES_EARLY";
/// The exit status of what must not be started again as it is.
const UNUSABLE: i32 = 78;

/// Shows it.
///
/// # Errors
///
/// When it is broken; unchecked without Python, Java, Maven, or what they have to fetch.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let rounds = run.count("rounds", 1, 5);
    run.note("the build after this one");
    let next = binaries::build_next().map_err(broken)?;
    let mill = Mill::start(run, RATE, 10)?;
    let mut upgrade = Upgrade { mill, old: binaries::millrace(), next, rolled: 0, red: 0 };
    upgrade.join(run)?;
    for round in 0..rounds {
        run.note(format!("round {} of {rounds}: all nodes to the next build", round + 1));
        upgrade.roll_forward(round)?;
        run.note(format!("round {} of {rounds}: and back", round + 1));
        upgrade.roll_back()?;
    }
    run.note("a build that writes its format before that is active");
    upgrade.plant()?;
    run.note("all nodes to the next build, for good");
    upgrade.roll_forward(rounds)?;
    let refused = upgrade.finish(run)?;
    let Upgrade { mut mill, rolled, red, .. } = upgrade;
    let figures = mill.finish(run)?;
    let of_judge = figures.number("red_controls").unwrap_or_default();
    let all_red = of_judge + red;
    Ok(figures
        .with("rolled", rolled)
        .with("old_builds_refused", refused)
        .with("red_controls", all_red))
}

struct Upgrade {
    mill: Mill,
    old: PathBuf,
    next: PathBuf,
    /// Nodes that were exchanged.
    rolled: u64,
    /// Planted faults that were found.
    red: u64,
}

impl Upgrade {
    fn slots(&self) -> &[Slot] {
        &self.mill.fleet.slots
    }

    /// A node of the next build joins; while older ones are there its format cannot be active.
    fn join(&mut self, run: &Run) -> Result<(), NotShown> {
        run.note("a node of the next build joins");
        let (address, next) = (self.mill.brokers(), self.next.clone());
        self.mill.fleet.add_build(&run.evidence, &address, &next)?;
        self.mill.fleet.until_voters(NODES, WITHIN)?;
        let fourth = &self.slots()[3];
        let status = until_said(fourth)?;
        demand!(status["format"] == 1 && status["newest"] == 2, "{status}");
        let held_up = json!(["edge-1", "edge-2", "edge-3"]);
        demand!(status["held_up_by"] == held_up, "{status}");
        self.held_up()?;
        self.mill.settle().map(drop)
    }

    /// Planted: an operator ends the upgrade while an older build is there.
    fn held_up(&mut self) -> Result<(), NotShown> {
        let said =
            command::run(&mut self.slots()[3].user().command(&["upgrade", "finish"]), WITHIN)?;
        let text = said.all();
        let is_refused = text.contains("E0441") && text.contains("edge-1");
        demand!(said.status != Some(0) && is_refused, "`upgrade finish` too soon: {text}");
        self.red += 1;
        self.demand_format(1)
    }

    /// What every node that runs says is written.
    fn demand_format(&self, format: u8) -> Result<(), NotShown> {
        for slot in self.mill.fleet.up() {
            let status = status_of(slot)?;
            demand!(status["format"] == format, "{}: {status}", slot.name);
        }
        Ok(())
    }

    /// All nodes become the next build; what is changed meanwhile is so on both.
    fn roll_forward(&mut self, round: u64) -> Result<(), NotShown> {
        for node in 0..NODES {
            self.roll(node, true)?;
            if node == 1 {
                self.change(round)?;
            }
        }
        self.demand_format(1)?;
        self.demand_unseen()
    }

    fn roll_back(&mut self) -> Result<(), NotShown> {
        for node in 0..NODES {
            self.roll(node, false)?;
        }
        self.demand_format(1)?;
        self.demand_unseen()
    }

    /// Exchanges a node as the runbook says.
    fn roll(&mut self, node: usize, is_forward: bool) -> Result<(), NotShown> {
        let program = if is_forward { self.next.clone() } else { self.old.clone() };
        let slot = &mut self.mill.fleet.slots[node];
        let name = slot.name.clone();
        slot.run(&["node", "drain", &name])?;
        let empty = wait::until(WITHIN, || {
            let members = slot.members().ok()?;
            let member = members.iter().find(|it| it["name"] == name.as_str())?;
            (member["shards"] == 0).then_some(())
        });
        empty.ok_or_else(|| broken(format!("{name} keeps shards")))?;
        self.exchange(node, &program)?;
        let slot = &self.mill.fleet.slots[node];
        slot.run(&["node", "undrain", &name])?;
        let status = until_said(slot)?;
        let newest = if is_forward { 2 } else { 1 };
        demand!(status["newest"] == newest, "{name} is another build: {status}");
        self.rolled += 1;
        self.mill.settle().map(drop)
    }

    /// Stops a node and starts it as this build.
    fn exchange(&mut self, node: usize, program: &Path) -> Result<(), NotShown> {
        let slot = &mut self.mill.fleet.slots[node];
        slot.stop(Signal::TERM, WITHIN)?;
        slot.become_build(program);
        slot.start()
    }

    /// In a cluster of two builds: an alias by the older, a pause by the newer one, and a trigger
    /// that is paused takes nothing wherever it runs.
    fn change(&mut self, round: u64) -> Result<(), NotShown> {
        let (newer, older) = (&self.slots()[0], &self.slots()[2]);
        let alias = format!("/v1/functions/chain/second/aliases/round-{round}");
        older.api()?.put(&alias, &json!({})).during("set an alias")?;
        newer.run(&["trigger", "pause", TRIGGER])?;
        for slot in self.mill.fleet.up() {
            let seen = wait::until(WITHIN, || {
                let aliases = slot.api().ok()?.get("/v1/functions/chain/second/aliases").ok()?;
                let triggers = slot.run(&["trigger", "list", "-o", "json"]).ok()?;
                let triggers: Value = serde_json::from_str(&triggers).ok()?;
                let mut triggers = triggers["triggers"].as_array()?.iter();
                let trigger = triggers.find(|it| it["trigger"] == TRIGGER)?;
                let is_seen = aliases.contains(&format!("round-{round}"));
                (is_seen && trigger["paused_since"].is_string()).then_some(())
            });
            seen.ok_or_else(|| broken(format!("{} does not know of the change", slot.name)))?;
        }
        older.run(&["trigger", "resume", TRIGGER])?;
        self.mill.settle().map(drop)
    }

    /// Nothing of the later format has come to any node.
    fn demand_unseen(&self) -> Result<(), NotShown> {
        for slot in self.mill.fleet.up() {
            let text = slot.api()?.get("/metrics").during("read metrics")?;
            let frames = labelled(&text, "millrace_exchange_frames_total", "format=\"2\"");
            let unknown =
                labelled(&text, "millrace_exchange_refused_total", "reason=\"unknown-version\"");
            let early = labelled(&text, "millrace_raft_dropped_total", "reason=\"early-format\"");
            let (name, found) = (&slot.name, [frames, unknown, early]);
            demand!(found == [0; 3], "{name} met the later format too soon: {found:?}");
        }
        Ok(())
    }

    /// One node of a build that does not wait: the others refuse its frames by name, pass over its
    /// commands, and go on.
    fn plant(&mut self) -> Result<(), NotShown> {
        for (what, name, label) in [
            ("frames", "millrace_exchange_refused_total", "reason=\"unknown-version\""),
            ("commands", "millrace_raft_dropped_total", "reason=\"early-format\""),
        ] {
            let next = self.next.clone();
            let slot = &mut self.mill.fleet.slots[3];
            slot.stop(Signal::TERM, WITHIN)?;
            slot.become_build(&next);
            slot.set_environment(EARLY, Some(what));
            slot.start_unheard()?;
            let found = wait::until(WITHIN, || {
                let met = |slot: &&Slot| {
                    let text = slot.api().ok().and_then(|api| api.get("/metrics").ok());
                    text.is_some_and(|text| 0 < labelled(&text, name, label))
                };
                // It asks the leader; entries of the log come to all.
                let least = if what == "frames" { 1 } else { 3 };
                let olds = self.slots()[..3].iter();
                (least <= olds.filter(met).count()).then_some(())
            });
            found.ok_or_else(|| broken(format!("early {what} are not found by the old nodes")))?;
            self.red += 1;
            for slot in &self.slots()[..3] {
                let status = status_of(slot)?;
                demand!(status["format"] == 1, "{}: {status}", slot.name);
            }
            let old = self.old.clone();
            let slot = &mut self.mill.fleet.slots[3];
            slot.kill()?;
            slot.set_environment(EARLY, None);
            slot.become_build(&old);
            slot.start()?;
            self.mill.settle()?;
        }
        // Counters begin anew with each process, and what is in its checkpoint none applies again:
        // the roll that follows exchanges all of them and is to find nothing.
        for slot in self.slots() {
            slot.run(&["raft", "snapshot"])?;
        }
        Ok(())
    }

    /// The format rises while a node is away; then older builds are refused, whatever they know.
    fn finish(&mut self, run: &Run) -> Result<u64, NotShown> {
        run.note("the upgrade is finished while a node is away");
        let status = until_said(&self.slots()[0])?;
        demand!(status["held_up_by"] == json!([]), "{status}");
        self.mill.fleet.slots[2].stop(Signal::TERM, WITHIN)?;
        self.slots()[0].run(&["upgrade", "finish"])?;
        let written = wait::until(WITHIN, || self.is_written().ok()?.then_some(()));
        written.ok_or_else(|| broken(format!("the later format: {:?}", self.is_written())))?;
        self.slots()[0].run(&["raft", "snapshot"])?;
        run.note("an old build that has not heard of it starts");
        let before = self.mill.look()?;
        self.refused(2)?;
        let text = self.slots()[0].api()?.get("/metrics").during("read metrics")?;
        let told = labelled(&text, "millrace_exchange_refused_total", "reason=\"unread-format\"");
        demand!(0 < told, "edge-1 has not counted that it refused an old build");
        self.mill.fleet.slots[2].start()?;
        run.note("an old build whose log has it starts");
        self.mill.fleet.slots[1].stop(Signal::TERM, WITHIN)?;
        self.refused(1)?;
        self.mill.fleet.slots[1].start()?;
        run.note("an old build wants to join");
        self.refused_to_join()?;
        let after = self.mill.settle()?;
        demand!(before.epochs() != after.epochs(), "no shard moved while nodes were away");
        self.demand_format(2)?;
        Ok(3)
    }

    /// Whether every node that runs hears the later format, and all of them have noted their start.
    fn is_written(&self) -> Result<bool, NotShown> {
        let mut is_all = true;
        for slot in self.mill.fleet.up() {
            let text = slot.api()?.get("/metrics").during("read metrics")?;
            let frames = labelled(&text, "millrace_exchange_frames_total", "format=\"2\"");
            let status = status_of(slot)?;
            let notes = status["notes"].as_object().map_or(0, serde_json::Map::len);
            is_all &= 0 < frames && status["format"] == 2 && NODES - 1 <= notes;
        }
        Ok(is_all)
    }

    /// A node that is down starts as the old build: it ends by name, having run nothing.
    fn refused(&mut self, node: usize) -> Result<(), NotShown> {
        let (old, next) = (self.old.clone(), self.next.clone());
        let slot = &mut self.mill.fleet.slots[node];
        slot.become_build(&old);
        let (status, text) = slot.start_in_vain(WITHIN)?;
        slot.become_build(&next);
        let name = &slot.name;
        demand!(status == UNUSABLE && text.contains("E0440"), "{name}: {status}: {text}");
        demand!(!text.contains("panicked"), "{name}: {text}");
        Ok(())
    }

    fn refused_to_join(&self) -> Result<(), NotShown> {
        let first = &self.slots()[0];
        let mut joiner = first.replaced("edge-9")?;
        joiner.become_build(&self.old);
        let said = first.run(&["node", "token", "-o", "json"])?;
        let said: Value = serde_json::from_str(&said).during("read the token")?;
        let token = said["token"].as_str().unwrap_or_default();
        let why = joiner.join_with(token, first).err().map(|error| error.to_string());
        let why = why.ok_or_else(|| broken("an old build joined"))?;
        demand!(why.contains("E0440"), "an old build was refused otherwise: {why}");
        let members = first.members()?;
        demand!(members.len() == NODES, "an old build is a member: {members:?}");
        Ok(())
    }
}

fn status_of(slot: &Slot) -> Result<Value, NotShown> {
    let said = slot.run(&["upgrade", "status", "-o", "json"])?;
    serde_json::from_str(&said).during("read what `upgrade status` printed")
}

/// The status once every node has said what it reads.
fn until_said(slot: &Slot) -> Result<Value, NotShown> {
    let said = wait::until(WITHIN, || {
        let status = status_of(slot).ok()?;
        let mut members = status["members"].as_array()?.iter();
        members.all(|it| it["newest"].is_u64()).then_some(status)
    });
    said.ok_or_else(|| broken(format!("who reads what: {:?}", status_of(slot))))
}

/// The sum of a metric over those of its rows that have this label.
fn labelled(text: &str, name: &str, label: &str) -> u64 {
    let rows = text.lines().filter(|it| it.starts_with(name) && it.contains(label));
    let values = rows.filter_map(|it| it.rsplit(' ').next()?.parse::<f64>().ok());
    values.map(|value| value as u64).sum()
}
