//! The units and the package as systemd's and Debian's own checkers see them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::machine::{Machine, PATIENCE};
use crate::demand;
use crate::harness::node::Node;
use crate::promise::{During, Figures, NotShown, broken};

const FOLDER: &str = "/lib/systemd/system";
/// The units, and the exposure that each may have.
const UNITS: &[(&str, f64)] = &[("millrace", 1.5), ("millrace-spawner", 3.0)];
/// Unpacking and looking into each file takes long where the processors are busy.
const LINTIAN_PATIENCE: Duration = Duration::from_secs(600);

/// `systemd-analyze` of both units, in a machine that has the package.
///
/// # Errors
///
/// When it complains, or does not complain of planted mistakes.
pub(super) fn analyze(machine: &Machine) -> Result<Figures, NotShown> {
    let both = UNITS.iter().map(|(unit, _)| format!("{FOLDER}/{unit}.service"));
    let both = both.collect::<Vec<_>>().join(" ");
    let said = machine.run(&format!("systemd-analyze verify {both}"), PATIENCE)?;
    let is_silent = said.status == Some(0) && said.all().trim().is_empty();
    demand!(is_silent, "systemd-analyze verify: {:?}: {}", said.status, said.all());
    let mut figures = Figures::default();
    for (unit, most) in UNITS {
        let score = exposure(machine, &format!("{FOLDER}/{unit}.service"))?;
        let is_low = score <= *most;
        demand!(is_low, "{unit} has an exposure of {score}, {most} may be");
        figures.set(&format!("exposure_{unit}"), score);
    }
    // A key and a manual page that do not exist, and a unit that has lost its walls.
    machine.sh(&format!(
        "mkdir -p /srv/red; cd {FOLDER}
         sed 's/^WatchdogSec=/WatchdogSecs=/' millrace.service >/srv/red/misspelt.service
         sed 's/man:millrace(1)/man:mill(1)/' millrace.service >/srv/red/unexplained.service
         grep -v '^Protect' millrace.service >/srv/red/open.service"
    ))?;
    let said = machine.run("systemd-analyze verify /srv/red/misspelt.service", PATIENCE)?;
    demand!(said.all().contains("WatchdogSecs"), "verify does not see a misspelt key");
    let said = machine.run("systemd-analyze verify /srv/red/unexplained.service", PATIENCE)?;
    demand!(said.all().contains("mill(1)"), "verify does not see a page that is missing");
    let score = exposure(machine, "/srv/red/open.service")?;
    let is_high = 1.5 < score;
    demand!(is_high, "a unit without Protect*= has an exposure of {score} too");
    machine.sh("rm -r /srv/red")?;
    Ok(figures.with("units_red_controls", 3))
}

/// The overall exposure level, as `systemd-analyze security` has it.
fn exposure(machine: &Machine, unit: &str) -> Result<f64, NotShown> {
    let said = machine.sh(&format!("systemd-analyze security --offline=true {unit}"))?;
    let line = said.lines().find(|line| line.contains("Overall exposure level"));
    let score = line.and_then(|it| it.rsplit_once(": ")?.1.split_whitespace().next()?.parse().ok());
    score.ok_or_else(|| broken(format!("no exposure level: {said}")))
}

/// Starts lintian, which takes its time and needs none of the rest.
///
/// # Errors
///
/// When it cannot be started.
pub(super) fn lintian(deb: &Path, log: &Path) -> Result<Node, NotShown> {
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0"]);
    Node::start(lintian.arg(deb), log)
}

/// What lintian has to say in the end: nothing, and something of a package that is bad.
///
/// # Errors
///
/// When it is otherwise.
pub(super) fn linted(mut lintian: Node, folder: &Path) -> Result<Figures, NotShown> {
    let status = lintian.exited(LINTIAN_PATIENCE)?;
    demand!(status == 0, "lintian ended with {status}: {}", lintian.text());
    let bad = bad_package(folder)?;
    let mut other = self::lintian(&bad, &folder.join("lintian-red.log"))?;
    let status = other.exited(LINTIAN_PATIENCE)?;
    demand!(status == 2, "lintian let a bad package pass with {status}: {}", other.text());
    Ok(Figures::default().with("lintian_red_controls", 1))
}

/// A package without a copyright, a changelog or a description.
fn bad_package(folder: &Path) -> Result<std::path::PathBuf, NotShown> {
    let tree = folder.join("bad");
    std::fs::create_dir_all(tree.join("DEBIAN")).during("make a bad package")?;
    let control = "Package: bad\nVersion: 1\nArchitecture: all\nMaintainer: Nobody <n@n.example>\n\
                   Description: bad\n";
    std::fs::write(tree.join("DEBIAN/control"), control).during("make a bad package")?;
    let deb = folder.join("bad.deb");
    let mut build = Command::new("dpkg-deb");
    let said = crate::harness::command::run(build.arg("-b").arg(&tree).arg(&deb), PATIENCE)?;
    demand!(said.status == Some(0), "a bad package: {}", said.all());
    Ok(deb)
}
