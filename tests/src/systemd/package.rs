//! The package's life in a fresh Debian without a running systemd: install, upgrade, remove, purge,
//! and after each what of all files is other than it was.

use super::ground::Packages;
use super::listing::{Listing, unexpected};
use super::machine::Machine;
use super::units;
use crate::demand;
use crate::promise::{Figures, NotShown};

/// What dpkg and the making of a user leave in every Debian.
const BOOKKEEPING: &[&str] = &[
    "/etc/passwd",
    "/etc/passwd-",
    "/etc/group",
    "/etc/group-",
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/.pwd.lock",
    "/var/lib/dpkg/status",
    "/var/lib/dpkg/status-old",
    "/var/lib/dpkg/lock",
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/triggers/**",
    "/var/log/dpkg.log",
    // The index of all manual pages.
    "/var/cache/man/**",
    // What `systemctl` touches when units come or go: the next boot has none of it.
    "/run/systemd",
    "/run/systemd/systemd-units-load",
    // The folder where systemd's helper keeps who is enabled stays, empty.
    "/var/lib/systemd/deb-systemd-helper-enabled",
    "/var/lib/systemd/deb-systemd-helper-enabled/multi-user.target.wants",
    "/var/lib/systemd/deb-systemd-helper-masked",
];
/// What an installed package may have that is none of its files.
const INSTALLED: &[&str] = &[
    "/etc/millrace/**",
    "/var/lib/millrace/**",
    "/run/millrace",
    "/etc/systemd/system/multi-user.target.wants/millrace.service",
    "/var/lib/systemd/deb-systemd-helper-enabled/**",
    "/var/lib/dpkg/info/**",
];
/// What `remove` keeps: configuration, secrets, records, and what a purge will need.
const KEPT: &[&str] = &[
    "/etc/millrace/**",
    "/var/lib/millrace/**",
    "/etc/systemd/system/millrace.service",
    "/etc/systemd/system/millrace-spawner.service",
    "/etc/systemd/system/multi-user.target.wants/millrace.service",
    "/var/lib/systemd/deb-systemd-helper-enabled/**",
    "/var/lib/systemd/deb-systemd-helper-masked/**",
    "/var/lib/dpkg/info/millrace.list",
    "/var/lib/dpkg/info/millrace.postrm",
];
/// Left-overs that have to be noticed: how each is made and taken away.
const PLANTS: &[(&str, &str)] = &[
    ("mkdir /var/lib/millrace; echo >/var/lib/millrace/left", "rm -r /var/lib/millrace"),
    (
        "ln -s /lib/systemd/system/millrace.service /etc/systemd/system/left.service",
        "rm /etc/systemd/system/left.service",
    ),
    ("chmod 700 /usr/share/doc", "chmod 755 /usr/share/doc"),
    ("mv /usr/bin/env /usr/bin/other", "mv /usr/bin/other /usr/bin/env"),
];

/// Plays it.
///
/// # Errors
///
/// When something is left that should not be, or is gone that should be left.
pub(super) fn life(machine: &Machine, packages: &Packages) -> Result<Figures, NotShown> {
    machine.take(&packages.old, "/srv/old.deb")?;
    machine.take(&packages.new, "/srv/new.deb")?;
    let before = listed(machine)?;
    machine.sh("dpkg -i old.deb")?;
    let installed = installs(machine, &before)?;
    let mut figures = units::analyze(machine)?;
    machine.sh("sed -i 's/^drain = .*/drain = \"19s\"/' /etc/millrace/node.toml
         echo secret >/etc/millrace/credentials/kafka-password
         echo records >/var/lib/millrace/journal")?;
    machine.sh("dpkg --force-confold -i new.deb")?;
    is_kept(machine, "after the upgrade")?;
    let version = machine.sh("dpkg-query -W -f '${Version}' millrace")?;
    demand!(version == packages.next, "{version} is installed, {} was", packages.next);
    machine.sh("grep -q 'did not have' /etc/millrace/node.toml.dpkg-dist")?;

    machine.sh("dpkg -r millrace")?;
    is_kept(machine, "after the removal")?;
    let left = listed(machine)?.since(&before);
    let left = unexpected(&left, &[BOOKKEEPING, KEPT].concat());
    demand!(left.is_empty(), "after the removal: {left:?}");

    machine.sh("dpkg -P millrace")?;
    let purged = || Ok::<_, NotShown>(unexpected(&listed(machine)?.since(&before), BOOKKEEPING));
    let left = purged()?;
    demand!(left.is_empty(), "after the purge: {left:?}");
    only_the_user(machine)?;
    for (plant, mend) in PLANTS {
        machine.sh(plant)?;
        demand!(!purged()?.is_empty(), "`{plant}` is not noticed");
        machine.sh(mend)?;
    }
    demand!(purged()?.is_empty(), "after the planted left-overs: {:?}", purged()?);
    figures.set("files", installed);
    Ok(figures.with("package_red_controls", PLANTS.len()))
}

fn listed(machine: &Machine) -> Result<Listing, NotShown> {
    Listing::of(&machine.path("/"))
}

/// Everything that is there after the installation is the package's or expected; how many files.
fn installs(machine: &Machine, before: &Listing) -> Result<u64, NotShown> {
    let own = machine.sh("dpkg -L millrace")?;
    let own: Vec<&str> = own.lines().collect();
    let changes = listed(machine)?.since(before);
    // Folders under /lib are the same as under /usr/lib.
    let merged: Vec<String> =
        own.iter().filter(|it| it.starts_with("/lib")).map(|it| format!("/usr{it}")).collect();
    let merged = merged.iter().map(String::as_str);
    let expected: Vec<&str> =
        BOOKKEEPING.iter().chain(INSTALLED).chain(&own).copied().chain(merged).collect();
    let strange = unexpected(&changes, &expected);
    demand!(strange.is_empty(), "after the installation: {strange:?}");
    let facts = machine.sh(
        "for path in /etc/millrace/node.toml /etc/millrace/credentials /var/lib/millrace \
             /usr/bin/millrace; do stat -c '%n %U %a' $path; done
         getent passwd millrace | cut -d: -f1,6,7
         systemctl is-enabled millrace
         for page in millrace millrace-serve millrace-spawner; do
             test -e /usr/share/man/man1/$page.1.gz; done
         test -e /usr/share/bash-completion/completions/millrace
         test -e /usr/share/zsh/vendor-completions/_millrace
         test -e /usr/share/fish/vendor_completions.d/millrace.fish",
    )?;
    let wanted = "/etc/millrace/node.toml root 644\n\
                  /etc/millrace/credentials root 700\n\
                  /var/lib/millrace millrace 700\n\
                  /usr/bin/millrace root 755\n\
                  millrace:/var/lib/millrace:/usr/sbin/nologin\n\
                  enabled\n";
    demand!(facts == wanted, "after the installation: {facts}");
    Ok(own.len() as u64)
}

/// What an operator wrote, secrets and records are as they were.
fn is_kept(machine: &Machine, when: &str) -> Result<(), NotShown> {
    let kept = machine.run(
        "grep -q '^drain = \"19s\"' /etc/millrace/node.toml
         grep -qx secret /etc/millrace/credentials/kafka-password
         grep -qx records /var/lib/millrace/journal",
        super::machine::PATIENCE,
    )?;
    demand!(kept.status == Some(0), "{when} configuration, secrets or records are gone");
    Ok(())
}

/// Of the accounts that were there nothing is other, and of the package there is its user.
fn only_the_user(machine: &Machine) -> Result<(), NotShown> {
    let mine = machine.sh("for file in passwd group shadow gshadow; do
             diff /etc/$file- /etc/$file | grep '^[<>]' || true; done")?;
    let strange: Vec<&str> = mine.lines().filter(|line| !line.starts_with("> millrace:")).collect();
    demand!(strange.is_empty(), "other accounts changed: {strange:?}");
    let locked = machine.sh("getent shadow millrace | cut -d: -f2")?;
    demand!(locked.starts_with('!'), "the user that stays is not locked: {locked}");
    Ok(())
}
