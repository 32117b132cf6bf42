//! The CA of three nodes takes another's place again and again under load: first in peace, then with
//! a kill -9 of the node that leads at a moment that chance draws. Nothing is dropped, whoever has a
//! certificate of the old CA alone is shut out, and nobody before all others have another.
//!
//! ```text
//! load ──▶ three nodes ──▶ the judge          all the time
//! ca rotate ──▶ (kill the leader) ──▶ all renewed ──▶ --finish ──▶ the old certificate is refused
//! ```
//!
//! Who shows the old certificate is a peer of its own, with the files of a node that it copied
//! before: it is let in as long as both CAs are trusted, which shows that it could be.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Mill, NODES};
use crate::demand;
use crate::exchange::stranger::{self, Shown};
use crate::harness::command;
use crate::harness::fleet::Slot;
use crate::harness::wait;
use crate::promise::{During, Figures, NotShown, Run, broken};

/// Records a second.
const RATE: u64 = 500;
/// A stage asks for a look of each node, every second at the latest.
const WITHIN: Duration = Duration::from_secs(60);
/// All stages are over by then, more or less.
const KILLED_WITHIN: Duration = Duration::from_secs(3);
const PEER: &[u8] = b"millrace-peer/1";
const PING: u16 = 2;
/// What somebody is told who was let in and said something else first.
const NO_HELLO: &str = "no-hello";

/// Shows it.
///
/// # Errors
///
/// When it is broken; unchecked without Python, Java, Maven, or what they have to fetch.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let kills = run.count("kills", 3, 30);
    let mut mill = Mill::start(run, RATE, 12)?;
    run.note("a rotation in peace");
    let mut seen = Seen::default();
    peace(&mut mill, &mut seen)?;
    for kill in 0..kills {
        run.note(format!("rotation {} of {kills} with a kill of the leader", kill + 1));
        killed(&mut mill, &mut seen)?;
    }
    run.note("back again");
    aborted(&mut mill, &mut seen)?;
    let figures = mill.finish(run)?;
    Ok(Figures::default()
        .with("rotations", seen.rotations)
        .with("kills", kills)
        .with("stages_killed", seen.stages.join(" "))
        .with("slowest_ms", seen.slowest.as_millis() as u64)
        .with("old_certificates_refused", seen.refused)
        .with("let_in_before", seen.let_in)
        .with_all(figures))
}

/// What the rotations of a run showed.
#[derive(Default)]
struct Seen {
    rotations: u64,
    /// How far a rotation was when the leader was killed.
    stages: Vec<String>,
    slowest: Duration,
    refused: u64,
    let_in: u64,
}

/// What `millrace ca` prints as JSON.
fn ca(slot: &Slot, words: &[&str]) -> Result<Value, NotShown> {
    let said = slot.run(&[&["ca"], words, &["-o", "json"]].concat())?;
    serde_json::from_str(&said).during("read what `millrace ca` printed")
}

/// A command that has to be refused, with this in what it says; an election may come first.
fn refused(slot: &Slot, words: &[&str], with: &[&str]) -> Result<(), NotShown> {
    let mut last = String::new();
    let is_refused = wait::until(WITHIN, || {
        let said = match command::run(&mut slot.user().command(words), WITHIN) {
            Ok(said) => said,
            Err(error) => return Some(Err(error)),
        };
        last = said.all();
        match said.status {
            Some(0) => Some(Err(broken(format!("{words:?} was to be refused: {last}")))),
            _ => with.iter().all(|it| last.contains(it)).then_some(Ok(())),
        }
    });
    is_refused.unwrap_or_else(|| Err(broken(format!("{words:?}, and not {with:?}: {last}"))))
}

/// The newest CA, and how many are trusted.
fn trusted(status: &Value) -> (String, usize) {
    let cas = status["cas"].as_array().cloned().unwrap_or_default();
    let issues = cas.iter().find(|it| it["role"] == "issues");
    let issues = issues.and_then(|it| it["fingerprint"].as_str()).unwrap_or_default();
    (issues.to_owned(), cas.len())
}

/// Waits until every node has a certificate of the next CA, as all of them say.
fn until_renewed(mill: &Mill) -> Result<(), NotShown> {
    let is_waiting = |slot: &Slot| {
        let rotation = ca(slot, &["status"]).ok()?["rotation"].clone();
        let nobody = rotation["waits_for"].as_array().is_some_and(Vec::is_empty);
        (rotation["stage"] == "waiting" && nobody).then_some(())
    };
    let all = || mill.fleet.slots.iter().map(is_waiting).collect::<Option<Vec<()>>>();
    let told = || {
        let said = mill.fleet.slots.iter().map(|slot| ca(slot, &["status"]));
        said.map(|said| format!("{said:?}")).collect::<Vec<_>>().join("\n")
    };
    wait::until(WITHIN, all).map(drop).ok_or_else(|| broken(format!("not renewed: {}", told())))
}

/// Ends the window, and waits until no node trusts the old CA any more.
fn finish(mill: &Mill, old: &str) -> Result<(), NotShown> {
    ca(&mill.fleet.slots[0], &["rotate", "--finish"])?;
    let is_over = |slot: &Slot| {
        let status = ca(slot, &["status"]).ok()?;
        let (issues, cas) = trusted(&status);
        (status["rotation"].is_null() && cas == 1 && issues != old).then_some(())
    };
    let all = || mill.fleet.slots.iter().map(is_over).collect::<Option<Vec<()>>>();
    wait::until(WITHIN, all).map(drop).ok_or_else(|| broken("the old CA is still trusted"))
}

/// A node's certificate and key, as they are on its disk now.
fn copy(slot: &Slot) -> Result<Shown, NotShown> {
    let path: PathBuf = slot.data.join("cluster/identity.json");
    Shown::of_file(&path)
}

/// Whether a node lets in who shows this.
fn is_let_in(slot: &Slot, shown: &Shown) -> Result<bool, NotShown> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.during("start a runtime")?.block_on(async {
        let address = slot.address().parse().during("read an address")?;
        let (_quic, connection) = stranger::dial(address, PEER, Some(shown)).await?;
        let Ok(connection) = connection else { return Ok(false) };
        // Who says hello takes the place of the node that it was copied from. Who says something else
        // is told so, and only if its certificate was believed.
        drop(stranger::send(&connection, &stranger::request(1, PING, 0, b"")).await);
        let ended = tokio::time::timeout(WITHIN, connection.closed()).await;
        let ended = ended.during("wait for the end of a connection")?.to_string();
        demand!(
            ended.contains(NO_HELLO) || ended.contains("cryptographic"),
            "neither let in nor refused: {ended}"
        );
        Ok(ended.contains(NO_HELLO))
    })
}

/// How often a node has refused somebody for this reason, and how often its log says so.
fn refusals(slot: &Slot, reason: &str) -> Result<(u64, usize), NotShown> {
    let text = slot.api()?.get("/metrics").during("read metrics")?;
    let label = format!("reason=\"{reason}\"");
    let lines = text.lines().filter(|it| it.starts_with("millrace_exchange_refused_total{"));
    let counts = lines.filter(|it| it.contains(&label)).filter_map(|it| it.rsplit(' ').next());
    let counted = counts.filter_map(|it| it.parse::<f64>().ok()).sum::<f64>() as u64;
    let log = slot.log()?;
    let logged = log.lines().filter(|it| it.contains("refused") && it.contains(reason)).count();
    Ok((counted, logged))
}

/// The old certificate gets nowhere, and that is counted and logged.
fn shut_out(mill: &Mill, old: &Shown, seen: &mut Seen) -> Result<(), NotShown> {
    let slot = &mill.fleet.slots[0];
    let before = refusals(slot, "unknown-issuer")?;
    demand!(!is_let_in(slot, old)?, "a certificate of the old CA is let in");
    let after = wait::until(Duration::from_secs(5), || {
        let now = refusals(slot, "unknown-issuer").ok()?;
        (before.0 < now.0 && before.1 < now.1).then_some(())
    });
    after.ok_or_else(|| broken(format!("a refusal was not counted and logged: {before:?}")))?;
    seen.refused += 1;
    demand!(is_let_in(slot, &copy(&mill.fleet.slots[1])?)?, "nor is a certificate of the new CA");
    seen.let_in += 1;
    Ok(())
}

/// Nobody is killed: not even a shard changes hands, and no node refuses another.
fn peace(mill: &mut Mill, seen: &mut Seen) -> Result<(), NotShown> {
    let before = mill.settle()?;
    let slots = &mill.fleet.slots;
    let (old, _) = trusted(&ca(&slots[0], &["status"])?);
    let certificate = copy(&slots[1])?;
    demand!(is_let_in(&slots[0], &certificate)?, "a copy of a good certificate is not let in");
    let token = token(&slots[0])?;
    let began = Instant::now();
    ca(&slots[0], &["rotate", "--window", "1d"])?;
    refused(&slots[2], &["ca", "rotate"], &["E0594", "already"])?;
    until_renewed(mill)?;
    seen.slowest = seen.slowest.max(began.elapsed());
    // Both are trusted: the old certificate, and a token that names the old CA.
    demand!(is_let_in(&mill.fleet.slots[0], &certificate)?, "the window is not for both");
    seen.let_in += 2;
    let guest = mill.fleet.slots[0].replaced("edge-9")?;
    guest.join_with(&token, &mill.fleet.slots[0])?;
    // It has joined and was never started: who ends the window now would shut it out.
    refused(&mill.fleet.slots[1], &["ca", "rotate", "--finish"], &["E0594", "edge-9"])?;
    mill.fleet.slots[1].run(&["node", "remove", "edge-9"])?;
    let late = self::token(&mill.fleet.slots[0])?;
    demand!(late.contains(&trusted(&ca(&mill.fleet.slots[0], &["status"])?).0), "an old token");
    for slot in &mill.fleet.slots {
        let all = slot.api()?.metric("millrace_exchange_refused_total").during("read metrics")?;
        let strangers = refusals(slot, NO_HELLO)?.0;
        demand!(all == strangers, "{} refused {} members", slot.name, all - strangers);
    }
    finish(mill, &old)?;
    let after = mill.settle()?;
    demand!(before.epochs() == after.epochs(), "a shard changed hands: {before:?}, {after:?}");
    for slot in &mill.fleet.slots {
        let refused = refusals(slot, "unknown-issuer")?;
        demand!(refused == (0, 0), "{} refused a member: {refused:?}", slot.name);
    }
    shut_out(mill, &certificate, seen)?;
    let stale = mill.fleet.slots[0].replaced("edge-8")?;
    let foreign = stale.join_with(&token, &mill.fleet.slots[0]);
    demand!(foreign.is_err(), "a token that names a CA that is gone lets somebody in");
    seen.rotations += 1;
    Ok(())
}

/// The leader is killed at some moment, and comes back.
fn killed(mill: &mut Mill, seen: &mut Seen) -> Result<(), NotShown> {
    mill.settle()?;
    let (old, _) = trusted(&ca(&mill.fleet.slots[0], &["status"])?);
    let certificate = copy(&mill.fleet.slots[1])?;
    let leader = mill.fleet.leader().ok_or_else(|| broken("nobody leads"))?;
    let other = (leader + 1) % NODES;
    let began = Instant::now();
    ca(&mill.fleet.slots[other], &["rotate", "--window", "1d"])?;
    wait::pause(mill.rng.time(Duration::ZERO, KILLED_WITHIN));
    mill.fleet.slots[leader].kill()?;
    let said = wait::until(WITHIN, || {
        let status = ca(&mill.fleet.slots[other], &["status"]).ok()?;
        let rotation = status["rotation"].clone();
        // Who is gone has either done its part, or is waited for.
        rotation["stage"].as_str().map(str::to_owned).map(|stage| (stage, rotation))
    });
    let (stage, rotation) = said.ok_or_else(|| broken("the rotation is gone with its leader"))?;
    seen.stages.push(stage);
    let name = mill.fleet.slots[leader].name.clone();
    let is_missing = rotation["waits_for"].as_array().is_some_and(|it| it.contains(&name.into()));
    if is_missing {
        // RS-18: it would be shut out.
        refused(&mill.fleet.slots[other], &["ca", "rotate", "--finish"], &["E0594"])?;
    }
    mill.fleet.slots[leader].start()?;
    until_renewed(mill)?;
    seen.slowest = seen.slowest.max(began.elapsed());
    finish(mill, &old)?;
    shut_out(mill, &certificate, seen)?;
    seen.rotations += 1;
    Ok(())
}

/// A rotation that is taken back when all have renewed leads back to the CA there was.
fn aborted(mill: &mut Mill, seen: &mut Seen) -> Result<(), NotShown> {
    mill.settle()?;
    let (old, _) = trusted(&ca(&mill.fleet.slots[0], &["status"])?);
    ca(&mill.fleet.slots[1], &["rotate"])?;
    until_renewed(mill)?;
    let certificate = copy(&mill.fleet.slots[1])?;
    ca(&mill.fleet.slots[2], &["rotate", "--abort"])?;
    until_renewed(mill)?;
    finish(mill, "")?;
    let (now, _) = trusted(&ca(&mill.fleet.slots[0], &["status"])?);
    demand!(now == old, "an abort led to {now}, not back to {old}");
    shut_out(mill, &certificate, seen)?;
    seen.rotations += 1;
    Ok(())
}

fn token(slot: &Slot) -> Result<String, NotShown> {
    Ok(slot.run(&["node", "token"])?.trim().to_owned())
}
