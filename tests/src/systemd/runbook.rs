//! What an operator types: the installation, the first three commands, deploy/UPGRADE.md command by
//! command while records are in flight, and the removal.

use std::time::Duration;

use super::app::Mill;
use super::ground::Packages;
use super::machine::{Machine, PATIENCE};
use crate::demand;
use crate::harness::command;
use crate::promise::{During, Figures, NotShown, broken, seconds};

const FIRST: &str = include_str!("first.sh");
/// The runbook as the package brings it.
const RUNBOOK: &str = "/usr/share/doc/millrace/UPGRADE.md";
const FIRST_MAX_S: u64 = 60;

/// The installation as docs/operations.md says; both units are active after it.
pub(super) fn install(machine: &Machine, packages: &Packages) -> Result<Figures, NotShown> {
    let name = format!("millrace_{}_local.deb", packages.version);
    machine.take(&packages.old, &format!("/root/{name}"))?;
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
    machine.sh("useradd --create-home gardener")?;
    let limit = FIRST_MAX_S.to_string();
    let script = format!("sh /usr/local/bin/first.sh {limit}");
    let mut first = machine.command(&["runuser", "-l", "gardener", "-c", &script]);
    let said = command::run(&mut first, Duration::from_secs(3 * FIRST_MAX_S))?;
    demand!(said.status == Some(0), "the first three commands: {}", said.all());
    let mut lines = said.stdout.lines();
    let took = lines.next().and_then(|it| it.trim().parse().ok()).map(Duration::from_millis);
    let took = took.ok_or_else(|| broken(format!("no time: {}", said.all())))?;
    demand!(took <= Duration::from_secs(FIRST_MAX_S), "the alert came after {took:?}");
    let alert = lines.next().and_then(|it| serde_json::from_str::<serde_json::Value>(it).ok());
    let alert = alert.ok_or_else(|| broken(format!("no alert: {}", said.all())))?;
    demand!(alert["bed"] == "bed-4" && alert["c"] == 34.2, "another alert: {alert}");
    Ok(Figures::default().with("first_alert_s", seconds(took)))
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
    machine.take(&packages.new, "/root/millrace_NEW_amd64.deb")?;
    machine.sh("sed -i 's/^drain = .*/drain = \"19s\"/' /etc/millrace/node.toml")?;
    let functions =
        machine.sh("millrace functions -o json | grep -o '\"revision\": *\"[^\"]*\"'")?;
    let old = machine.show("millrace", "MainPID")?;
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
    Ok(Figures::default()
        .with("runbook_blocks", blocks.len())
        .with("runbook_s", seconds(said.took)))
}

/// The commands that a text shows in fences of `sh`.
fn blocks(text: &str) -> Vec<String> {
    let parts = text.split("```sh\n").skip(1);
    parts.filter_map(|part| Some(part.split_once("```")?.0.to_owned())).collect()
}

/// The removal of a package whose node runs: it is stopped, its records stay until the purge, and
/// then nothing of it is there.
pub(super) fn remove(machine: &Machine) -> Result<(), NotShown> {
    const LEFT: &str = "find / -xdev '(' -name '*millrace*' -o -user millrace ')' \
         -not -path '/root/*' -not -path '/home/*' -not -path '/var/log/*' \
         -not -path '/run/systemd/*' -not -path '/proc/*' -not -path '/tmp/*'; ls -d /run/*millrace* || true";
    let uid = machine.sh("id -u millrace")?;
    machine.sh("systemctl start millrace; apt-get remove -y millrace")?;
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
    Ok(())
}
