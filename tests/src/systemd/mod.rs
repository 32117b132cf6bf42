//! The promise `systemd`: the package and its units in a fresh Debian, with a real systemd as the
//! first process of namespaces of its own.
//!
//! ```text
//! deploy/package ──▶ lintian
//!       │
//!       ├──▶ machine without systemd: install, upgrade, remove, purge; files before and after
//!       └──▶ machine with systemd:    install, first commands, ready, stop, hung, killed, 78,
//!                                     the upgrade runbook, remove, purge
//! ```
//!
//! A machine is a layer of memory over a Debian that debootstrap makes once, below target/debian.
//! Its network is a loopback. What is in its files, its journal and its processes is read from
//! outside or with Debian's own tools; that a node calls itself ready is held against when systemd
//! and its function say that they started.

mod app;
mod ground;
mod life;
mod listing;
mod machine;
mod package;
mod runbook;
mod units;

use std::time::Duration;

use crate::promise::{Figures, NotShown, Run};
use app::Mill;
use machine::{Init, Machine};

/// Shows it.
///
/// # Errors
///
/// When it is broken; unchecked without root, Debian's tools, cargo-deb, or namespaces.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    ground::check()?;
    let root = ground::root(run)?;
    let packages = ground::packages(run)?;
    let lintian = units::lintian(&packages.old, &run.evidence.join("lintian.log"))?;
    let mut figures = Figures::default();

    run.note("the package in a fresh Debian: install, upgrade, remove, purge");
    let idle = Machine::start(&root, &run.evidence, "idle", Init::Idle)?;
    figures.extend("", package::life(&idle, &packages)?);
    drop(idle);

    run.note("a machine with systemd, and the package in it");
    let machine = Machine::start(&root, &run.evidence, "booted", Init::Systemd)?;
    let lived = live(run, &machine, &packages, &mut figures);
    if lived.is_err() {
        let said = machine.sh("journalctl -q -b --no-pager").unwrap_or_default();
        drop(std::fs::write(run.evidence.join("journal.log"), said));
    }
    lived?;
    drop(machine);

    run.note("lintian");
    figures.extend("", units::linted(lintian, &run.evidence)?);
    let red = red_controls(&figures);
    Ok(figures.with("red_controls", red))
}

/// All that happens to the package and its node in a machine that runs.
fn live(
    run: &Run,
    machine: &Machine,
    packages: &ground::Packages,
    figures: &mut Figures,
) -> Result<(), NotShown> {
    figures.extend("", runbook::install(machine, packages)?);
    run.note("the first three commands");
    figures.extend("", runbook::first_commands(machine)?);
    run.note("ready only when ready");
    let mut mill = Mill::deploy(machine)?;
    figures.extend("", life::ready(machine)?);
    life::status(machine, &mut mill)?;
    run.note("a stop drains");
    figures.extend("", life::stop(machine, &mut mill)?);
    run.note("a node that hangs");
    figures.extend("", life::hung(machine)?);
    run.note("a node and a spawner that are killed");
    figures.extend("", life::killed(machine, &mut mill)?);
    run.note("a configuration of no use");
    figures.extend("", life::useless(machine)?);
    run.note("the upgrade runbook");
    figures.extend("", runbook::upgrade(machine, packages, &mut mill)?);
    machine.sh("systemctl stop millrace")?;
    let planted = mill.verdict(&run.evidence)?;
    figures.set("records", mill.produced());
    figures.set("journal_red_controls", planted);
    run.note("remove, install again, and purge");
    machine.until("millrace", "ActiveState", Duration::from_secs(30), |it| it == "inactive")?;
    figures.extend("", runbook::remove(machine)?);
    Ok(())
}

/// Each part says how many of its planted faults it noticed.
const PARTS: &[&str] = &[
    "package", "units", "lintian", "first", "ready", "stop", "hung", "useless", "journal",
    "upgrade", "remove",
];

fn red_controls(figures: &Figures) -> u64 {
    PARTS.iter().map(|of| figures.number(&format!("{of}_red_controls")).unwrap_or(0)).sum()
}
