//! The node as a unit of a real systemd: ready only when it is, a line of what it does, drained when
//! it is stopped, started again when it hangs or dies and not when its configuration is of no use.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::app::{Mill, is_drained};
use super::machine::{Machine, PATIENCE};
use crate::demand;
use crate::harness::{command, wait};
use crate::promise::{During, Figures, NotShown, broken, rounded, seconds};

const LOOK: &str = include_str!("look.py");
const READY: &str = "http://127.0.0.1:8081/readyz";
const DROP_IN: &str = "/run/systemd/system/millrace.service.d/red.conf";
/// WatchdogSec= of the unit, the time for its end, and its start.
const HUNG_MAX: Duration = Duration::from_secs(40);
/// What a node may take that was killed.
const KILLED_MAX: Duration = Duration::from_secs(15);
/// What the function takes to load, a little less.
const LOAD_S: f64 = 0.9;
/// `drain` of node.toml, and a little.
const STOP_MAX: Duration = Duration::from_secs(25);

/// Active comes after /readyz; a unit that says so at once, as one of another type does, is found.
pub(super) fn ready(machine: &Machine) -> Result<Figures, NotShown> {
    machine.write("/srv/look.py", LOOK)?;
    let looks = start_watched(machine)?;
    let early = active_before_ready(&looks);
    demand!(early == 0, "active before it was ready, {early} times: {looks:?}");
    let starting = looks.iter().filter(|it| it["state"] == "activating").count();
    demand!(0 < starting, "nobody looked while it started: {looks:?}");
    let refused = looks.iter().filter(|it| it["ready"] == 503).count();
    demand!(0 < refused, "/readyz was never asked while the node was not ready: {looks:?}");
    let after_load = started_after_load(machine)?;
    let is_late = LOAD_S <= after_load;
    demand!(is_late, "active {after_load} s after its function began to load");
    machine.write(DROP_IN, "[Service]\nType=exec\n")?;
    machine.sh("systemctl daemon-reload")?;
    let looks = start_watched(machine)?;
    demand!(0 < active_before_ready(&looks), "a unit that is active too early is not noticed");
    let red = started_after_load(machine)?;
    let is_early = red < LOAD_S;
    demand!(is_early, "a unit that is active too early is not noticed in the journal: {red} s");
    machine.sh(&format!("rm {DROP_IN}; systemctl daemon-reload; systemctl restart millrace"))?;
    Ok(Figures::default()
        .with("looks_while_starting", starting)
        .with("active_after_load_s", rounded(after_load, 2))
        .with("ready_red_controls", 2))
}

/// How long after the function began to load systemd called the unit started, in seconds: by the
/// system's journal, of the last start. What the node thinks of itself has no part in it.
fn started_after_load(machine: &Machine) -> Result<f64, NotShown> {
    let said = machine.sh("journalctl --sync; journalctl -q -o json -u millrace")?;
    let (mut loads, mut started) = (None, None);
    for line in said.lines() {
        let entry: Value = serde_json::from_str(line).during("read the system's journal")?;
        let at = entry["__MONOTONIC_TIMESTAMP"].as_str().and_then(|it| it.parse::<f64>().ok());
        match entry["MESSAGE"].as_str().unwrap_or_default() {
            "loads" => loads = loads.or(at),
            it if it.starts_with("Starting millrace.service") => (loads, started) = (None, None),
            it if it.starts_with("Started millrace.service") => started = at,
            _ => {}
        }
    }
    let both = started.zip(loads).map(|(started, loads)| (started - loads) / 1e6);
    both.ok_or_else(|| broken("the journal does not say when the unit started and its function"))
}

/// Stops the node and starts it, and looks at it meanwhile until it is well.
fn start_watched(machine: &Machine) -> Result<Vec<Value>, NotShown> {
    machine.sh("systemctl stop millrace")?;
    let look = ["python3", "/srv/look.py", "millrace.service", READY, "50"];
    let said = command::run(&mut machine.command(&look), PATIENCE)?;
    demand!(said.status == Some(0), "look.py: {}", said.all());
    let looks: Result<Vec<Value>, _> = said.stdout.lines().map(serde_json::from_str).collect();
    let looks = looks.during("read the looks")?;
    let last = looks.last().cloned().unwrap_or_default();
    demand!(last["state"] == "active" && last["ready"] == 200, "not well in the end: {last}");
    Ok(looks)
}

fn active_before_ready(looks: &[Value]) -> usize {
    looks.iter().filter(|it| it["state"] == "active" && it["ready"] != 200).count()
}

/// The line of status says how many records were settled since the start.
pub(super) fn status(machine: &Machine, mill: &mut Mill<'_>) -> Result<(), NotShown> {
    let before = mill.produced();
    mill.produce(40, Duration::ZERO)?;
    mill.is_done()?;
    let settled = mill.produced() - before;
    let wanted = format!("1 functions, {settled} records settled, 0 in flight");
    machine.until("millrace", "StatusText", Duration::from_secs(10), |it| it == wanted)?;
    Ok(())
}

/// `stop` lets end what is in flight, takes on nothing new, and says what it does. After SIGKILL the
/// same verdict has to find records that were begun and not ended.
pub(super) fn stop(machine: &Machine, mill: &mut Mill<'_>) -> Result<Figures, NotShown> {
    mill.produce(12, Duration::from_secs(3))?;
    mill.is_at_work()?;
    let asked_at = Instant::now();
    machine.sh("systemctl stop --no-block millrace")?;
    let mut told = None;
    let ended = wait::until(STOP_MAX, || {
        let said = machine.sh("systemctl show -p ActiveState -p StatusText millrace").ok()?;
        told = told.take().or_else(|| {
            let text = said.lines().find_map(|line| line.strip_prefix("StatusText=draining: "))?;
            (!text.contains(" 0 in flight")).then(|| text.to_owned())
        });
        said.contains("ActiveState=inactive").then(|| asked_at.elapsed())
    });
    let took = ended.ok_or_else(|| broken(format!("not stopped after {STOP_MAX:?}")))?;
    let told = told.ok_or_else(|| broken("no line of status says what it still drains"))?;
    let result = machine.show("millrace", "Result")?;
    let status = machine.show("millrace", "ExecMainStatus")?;
    demand!(result == "success" && status == "0", "stopped with {result}, status {status}");
    let (begun, done) = (mill.begun()?, mill.done()?);
    is_drained(&begun, &done).map_err(broken)?;
    let left = mill.produced() - done.len() as u64;
    demand!(0 < left, "all were done before it was stopped: nothing was shown");

    machine.sh("systemctl start millrace")?;
    mill.is_at_work()?;
    // The function says so a moment after the node has counted it.
    wait::pause(Duration::from_millis(500));
    machine.sh("systemctl kill --kill-who=main -s KILL millrace; systemctl stop millrace")?;
    let verdict = is_drained(&mill.begun()?, &mill.done()?);
    demand!(verdict.is_err(), "a node that was killed counts as drained");
    let extended = stop_beyond(machine, mill)?;
    Ok(Figures::default()
        .with("stop_s", seconds(took))
        .with("stop_said", told)
        .with("stop_left", left)
        .with("stop_extended_s", seconds(extended))
        .with("stop_red_controls", 1))
}

/// A drain that takes longer than `TimeoutStopSec=` is waited for, because the node asks for it.
fn stop_beyond(machine: &Machine, mill: &Mill<'_>) -> Result<Duration, NotShown> {
    const GIVEN: Duration = Duration::from_secs(2);
    // What the node before was killed at is not what this one has to end.
    let before = mill.begun()?;
    machine.write(DROP_IN, &format!("[Service]\nTimeoutStopSec={}\n", GIVEN.as_secs()))?;
    machine.sh("systemctl daemon-reload; systemctl reset-failed millrace || true
         systemctl start millrace")?;
    mill.is_at_work()?;
    let asked_at = Instant::now();
    machine.sh("systemctl stop millrace")?;
    let took = asked_at.elapsed();
    demand!(GIVEN < took, "the drain ended after {took:?}: nothing was shown");
    let result = machine.show("millrace", "Result")?;
    demand!(result == "success", "a drain of {took:?} ended with {result}");
    let mut begun = mill.begun()?;
    begun.retain(|record, times| before.get(record) != Some(times));
    demand!(!begun.is_empty(), "a drain of nothing: nothing was shown");
    is_drained(&begun, &mill.done()?).map_err(broken)?;
    machine.sh(&format!("rm {DROP_IN}; systemctl daemon-reload; systemctl start millrace"))?;
    mill.is_done()?;
    Ok(took)
}

/// A node that stands still is ended by its watchdog and started again.
pub(super) fn hung(machine: &Machine) -> Result<Figures, NotShown> {
    let took = ended_by(machine, "STOP", HUNG_MAX)?;
    let said = machine.sh("journalctl -q -o cat -u millrace")?;
    demand!(said.contains("Watchdog timeout"), "no watchdog ended it: {said}");
    // A unit that has no watchdog stays hung.
    machine.write(DROP_IN, "[Service]\nWatchdogSec=0\n")?;
    machine.sh("systemctl daemon-reload; systemctl restart millrace")?;
    let hung = ended_by(machine, "STOP", took + Duration::from_secs(3));
    demand!(hung.is_err(), "a node without a watchdog was started again, too: {hung:?}");
    machine.sh(&format!(
        "systemctl kill --kill-who=main -s CONT millrace; rm {DROP_IN}
         systemctl daemon-reload; systemctl restart millrace"
    ))?;
    Ok(Figures::default().with("hung_s", seconds(took)).with("hung_red_controls", 1))
}

/// A node and a spawner that were killed are started again, the spawner without its node.
pub(super) fn killed(machine: &Machine, mill: &mut Mill<'_>) -> Result<Figures, NotShown> {
    let took = ended_by(machine, "KILL", KILLED_MAX)?;
    let (node, spawner) = (pid(machine, "millrace")?, pid(machine, "millrace-spawner")?);
    machine.sh(&format!("kill -KILL {spawner}"))?;
    let unit = "millrace-spawner";
    let is_other = |it: &str| it != spawner && it != "0";
    machine.until(unit, "MainPID", KILLED_MAX, is_other)?;
    machine.until(unit, "ActiveState", KILLED_MAX, |it| it == "active")?;
    demand!(pid(machine, "millrace")? == node, "the node ended with its spawner");
    // Its workers are started by the new one.
    mill.produce(20, Duration::ZERO)?;
    mill.is_done()?;
    demand!(pid(machine, "millrace")? == node, "the node ended after its spawner");
    Ok(Figures::default().with("killed_s", seconds(took)))
}

fn pid(machine: &Machine, unit: &str) -> Result<String, NotShown> {
    let pid = machine.show(unit, "MainPID")?;
    demand!(pid != "0", "{unit} does not run");
    Ok(pid)
}

/// How long it took from a signal until another process was active, by itself.
fn ended_by(machine: &Machine, signal: &str, within: Duration) -> Result<Duration, NotShown> {
    machine.until("millrace", "ActiveState", PATIENCE, |it| it == "active")?;
    let (old, restarts) = (pid(machine, "millrace")?, machine.show("millrace", "NRestarts")?);
    let sent_at = Instant::now();
    machine.sh(&format!("kill -{signal} {old}"))?;
    if signal == "STOP" {
        let stat = machine.sh(&format!("cat /proc/{old}/stat"))?;
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with(['T', 't']));
        demand!(state == Some(true), "SIGSTOP did not stop it: {stat}");
    }
    machine.until("millrace", "MainPID", within, |it| it != old && it != "0")?;
    machine.until("millrace", "ActiveState", within, |it| it == "active")?;
    let took = sent_at.elapsed();
    let after = machine.show("millrace", "NRestarts")?;
    let count = |it: &str| it.parse::<u64>().unwrap_or_default();
    demand!(count(&after) == count(&restarts) + 1, "{restarts} restarts before, {after} after");
    Ok(took)
}

/// A configuration of no use ends the node with 78, named in the journal, and nobody tries again;
/// with a unit that would, the same look has to see it.
pub(super) fn useless(machine: &Machine) -> Result<Figures, NotShown> {
    machine.sh(
        "cp -p /etc/millrace/node.toml good.toml; echo '[nonsense]' >>/etc/millrace/node.toml",
    )?;
    let restarts = restarts_of_a_failure(machine)?;
    demand!(restarts == 0, "a configuration of no use was tried {restarts} times again");
    let said = machine.sh("journalctl -q -n 20 -o cat -u millrace")?;
    demand!(said.contains("nonsense"), "the journal does not say what is wrong: {said}");
    machine.write(DROP_IN, "[Service]\nRestartPreventExitStatus=\n")?;
    machine.sh("systemctl daemon-reload")?;
    let restarts = restarts_of_a_failure(machine)?;
    demand!(0 < restarts, "a unit that tries again is not noticed");
    machine.sh(&format!(
        "systemctl stop millrace; rm {DROP_IN}; systemctl daemon-reload
         cp -p good.toml /etc/millrace/node.toml; systemctl reset-failed millrace || true
         systemctl start millrace"
    ))?;
    Ok(Figures::default().with("useless_red_controls", 1))
}

/// How often systemd starts a node again, within four seconds, that ends with 78.
fn restarts_of_a_failure(machine: &Machine) -> Result<u64, NotShown> {
    machine.sh("systemctl stop millrace; systemctl reset-failed millrace || true")?;
    let started = machine.run("systemctl start millrace", PATIENCE)?;
    demand!(started.status != Some(0), "it started with a configuration of no use");
    let status = machine.show("millrace", "ExecMainStatus")?;
    demand!(status == "78", "it ended with {status} instead of 78");
    wait::pause(Duration::from_secs(4));
    let restarts = machine.show("millrace", "NRestarts")?;
    restarts.parse().during("read NRestarts")
}
