//! What an operator types: the installation, the first three commands, deploy/UPGRADE.md command by
//! command while records are in flight, and the removal.

use std::time::Duration;

use super::app::{Mill, repeats};
use super::ground::Packages;
use super::machine::{Machine, PATIENCE};
use crate::demand;
use crate::harness::command;
use crate::promise::{During, Figures, NotShown, broken, seconds};

const FIRST: &str = include_str!("first.sh");
/// The runbook as the package brings it.
const RUNBOOK: &str = "/usr/share/doc/millrace/UPGRADE.md";
const FIRST_MAX_S: u64 = 60;
/// The example of the package until its first alert; says what that took in milliseconds.
const EXAMPLE: &str = r#"
set -eu
cd "$(mktemp -d)"
began=$(date +%s%3N)
setsid sh -c "COMMANDS" >log 2>&1 &
all=$!
until grep -q beaufort log; do
    [ $(($(date +%s%3N) - began)) -lt 60000 ] || { cat log >&2; exit 1; }
    sleep 0.05
done
echo $(($(date +%s%3N) - began))
kill -INT -$all
wait
"#;

/// The installation as docs/operations.md says; both units are active after it.
pub(super) fn install(machine: &Machine, packages: &Packages) -> Result<Figures, NotShown> {
    let name = format!("millrace_{}_local.deb", packages.version);
    machine.take(&packages.old, &format!("/srv/{name}"))?;
    let said = machine.run(&format!("apt-get install -y ./{name}"), 2 * PATIENCE)?;
    demand!(said.status == Some(0), "apt-get install: {}", said.all());
    let state = machine.sh("systemctl is-active millrace millrace-spawner")?;
    demand!(state == "active\nactive\n", "after the installation: {state}");
    Ok(Figures::default().with("install_s", seconds(said.took)))
}

/// The first three commands, by somebody who is not root, with no network but a loopback.
pub(super) fn first_commands(machine: &Machine) -> Result<Figures, NotShown> {
    machine.write("/usr/local/bin/first.sh", FIRST)?;
    let links = machine.sh("ls /sys/class/net")?;
    demand!(links.trim() == "lo", "the machine has a network: {links}");
    machine.sh("useradd --create-home --home-dir /srv/gardener gardener")?;
    let limit = Duration::from_secs(FIRST_MAX_S);
    let said = as_gardener(machine, &format!("sh /usr/local/bin/first.sh {FIRST_MAX_S} 34.2"))?;
    demand!(said.status == Some(0), "the first three commands: {}", said.all());
    let mut lines = said.stdout.lines();
    let took = lines.next().and_then(|it| it.trim().parse().ok()).map(Duration::from_millis);
    let took = took.ok_or_else(|| broken(format!("no time: {}", said.all())))?;
    demand!(took <= limit, "the alert came after {took:?}");
    let alert = lines.next().and_then(|it| serde_json::from_str::<serde_json::Value>(it).ok());
    let alert = alert.ok_or_else(|| broken(format!("no alert: {}", said.all())))?;
    demand!(alert["bed"] == "bed-4" && alert["c"] == 34.2, "another alert: {alert}");
    // A reading that is no reason for an alert brings none, and the clock ends the wait.
    let said = as_gardener(machine, "sh /usr/local/bin/first.sh 3 12.5")?;
    let is_over = said.status == Some(1) && said.stderr.contains("within 3 s");
    demand!(is_over, "no alert, and yet {:?}: {}", said.status, said.all());

    let said = as_gardener(machine, &EXAMPLE.replace("COMMANDS", example()?))?;
    demand!(said.status == Some(0), "the example of the package: {}", said.all());
    let example = said.stdout.trim().parse().map(Duration::from_millis);
    let example = example.during(format!("read the time of {}", said.all()))?;
    demand!(example <= limit, "the example's alert came after {example:?}");
    Ok(Figures::default()
        .with("first_alert_s", seconds(took))
        .with("example_alert_s", seconds(example))
        .with("first_red_controls", 1))
}

/// A script by somebody who has just logged in.
fn as_gardener(machine: &Machine, script: &str) -> Result<command::Said, NotShown> {
    let mut login = machine.command(&["runuser", "-l", "gardener", "-c", script]);
    command::run(&mut login, Duration::from_secs(3 * FIRST_MAX_S))
}

/// The commands that run the example of the package, as the README says them.
fn example() -> Result<&'static str, NotShown> {
    const README: &str = include_str!("../../../README.md");
    let mut code = README.split('`');
    let found = code.find(|it| it.starts_with("cp -r /usr/share/doc/millrace/examples/"));
    found.ok_or_else(|| broken("the README does not say how the package's example is run"))
}

/// Every command of the runbook in its order, each of which has to end well.
pub(super) fn upgrade(
    machine: &Machine,
    packages: &Packages,
    mill: &mut Mill<'_>,
) -> Result<Figures, NotShown> {
    let text = machine.run(&format!("cat {RUNBOOK} || zcat {RUNBOOK}.gz"), PATIENCE)?.stdout;
    let blocks = blocks(&text);
    demand!(6 <= blocks.len(), "the runbook has {} blocks of commands", blocks.len());
    // As the runbook calls it.
    machine.take(&packages.new, "/srv/millrace_NEW_amd64.deb")?;
    machine.sh("sed -i 's/^drain = .*/drain = \"19s\"/' /etc/millrace/node.toml")?;
    let functions =
        machine.sh("millrace functions -o json | grep -o '\"revision\": *\"[^\"]*\"'")?;
    let old = machine.show("millrace", "MainPID")?;
    let repeated = repeats(&mill.begun()?);
    demand!(0 < repeated, "the node was killed at work, and nothing counts as begun twice");
    mill.produce(60, Duration::from_millis(300))?;
    mill.is_at_work()?;
    let said = machine.run(&blocks.concat(), 2 * PATIENCE)?;
    demand!(said.status == Some(0), "the runbook ended with {:?}: {}", said.status, said.all());
    let version = machine.sh("dpkg-query -W -f '${Version}' millrace")?;
    demand!(version == packages.next, "{version} is installed, {} was to be", packages.next);
    machine.sh("grep -q '^drain = \"19s\"' /etc/millrace/node.toml")?;
    machine.sh("test ! -e /var/lib/millrace.before")?;
    demand!(machine.show("millrace", "MainPID")? != old, "the old node runs on");
    let after = machine.sh("millrace functions -o json | grep -o '\"revision\": *\"[^\"]*\"'")?;
    demand!(after == functions, "other functions than before: {after}, not {functions}");
    mill.is_done()?;
    let after = repeats(&mill.begun()?);
    demand!(after == repeated, "{} records were cut off by the upgrade", after - repeated);
    Ok(Figures::default()
        .with("upgrade_red_controls", 1)
        .with("runbook_blocks", blocks.len())
        .with("runbook_s", seconds(said.took)))
}

/// The commands that a text shows in fences of `sh`.
fn blocks(text: &str) -> Vec<String> {
    let parts = text.split("```sh\n").skip(1);
    parts.filter_map(|part| Some(part.split_once("```")?.0.to_owned())).collect()
}

/// The removal of a package whose node runs: it is stopped, its records stay, and a package that
/// comes back goes on with them; after the purge nothing of it is there.
pub(super) fn remove(machine: &Machine) -> Result<Figures, NotShown> {
    const LEFT: &str = "find / -xdev '(' -name '*millrace*' -o -user millrace ')' \
         -not -path '/srv/*' -not -path '/var/log/*' \
         -not -path '/run/systemd/*' -not -path '/proc/*' -not -path '/tmp/*'; ls -d /run/*millrace* || true";
    let uid = machine.sh("id -u millrace")?;
    machine.sh("systemctl start millrace")?;
    let functions = machine.sh("millrace functions")?;
    machine.sh("apt-get remove -y millrace")?;
    let active = machine.run("systemctl is-active millrace millrace-spawner", PATIENCE)?;
    demand!(!active.stdout.lines().any(|it| it == "active"), "still active: {}", active.stdout);
    let alive = machine.run(
        &format!(
            "for it in /proc/[0-9]*; do stat -c '%u %n' $it; done 2>/dev/null | grep '^{} '",
            uid.trim()
        ),
        PATIENCE,
    )?;
    demand!(alive.stdout.is_empty(), "processes are left: {}", alive.stdout);
    machine.sh("test -s /var/lib/millrace/journal.redb; test -e /etc/millrace/node.toml")?;
    machine.sh("apt-get install -y ./millrace_NEW_amd64.deb")?;
    let state = machine.sh("systemctl is-active millrace; systemctl is-enabled millrace")?;
    demand!(state == "active\nenabled\n", "installed again: {state}");
    machine.sh("grep -q '^drain = \"19s\"' /etc/millrace/node.toml")?;
    let after = machine.sh("millrace functions")?;
    demand!(after == functions, "installed again, it runs {after}, not {functions}");
    machine.sh("apt-get purge -y millrace")?;
    let left = machine.sh(LEFT)?;
    demand!(left.trim().is_empty(), "after the purge: {left}");
    // What this looks with sees what is left.
    machine.sh("mkdir /var/lib/millrace")?;
    demand!(!machine.sh(LEFT)?.trim().is_empty(), "a left-over is not noticed");
    let failed = machine.sh("systemctl --failed --no-legend --plain")?;
    demand!(failed.trim().is_empty(), "systemd is left with failed units: {failed}");
    let mut running = machine.command(&["systemctl", "is-system-running"]);
    let state = command::run(&mut running, PATIENCE).during("ask systemd")?;
    demand!(state.stdout.trim() == "running", "systemd is left {}", state.stdout);
    Ok(Figures::default().with("remove_red_controls", 1))
}
