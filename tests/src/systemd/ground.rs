//! What the promise stands on: tools of Debian, a fresh Debian that is made once, and two versions
//! of the package.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::demand;
use crate::harness::{binaries, command};
use crate::promise::{During, NotShown, Run, broken};

/// What is run, and the package of Debian that has it.
const TOOLS: &[(&str, &str)] = &[
    ("debootstrap", "debootstrap"),
    ("lintian", "lintian"),
    ("dpkg-deb", "dpkg"),
    ("dpkg-shlibdeps", "dpkg-dev"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("pivot_root", "util-linux"),
    ("setpriv", "util-linux"),
];
/// What the fresh Debian has beside what every Debian has: a unit names manual pages, which are
/// looked up by `man`.
const INCLUDED: &str = "systemd,python3,man-db";
/// Packing takes longer on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(300);

/// Makes a Debian in memory, so that dpkg waits for no disk, and copies it to where it stays.
const MAKE_ROOT: &str = r#"
mkdir -p "$1"
mount -t tmpfs -o size=2g,mode=755 tmpfs "$1"
debootstrap --variant=minbase --include="$4" "$3" "$1" >"$2.log" 2>&1 || {
    tail -n 20 "$2.log" >&2
    exit 1
}
rm -f "$1"/var/cache/apt/archives/*.deb
cp -a "$1/." "$2"
"#;

/// The next version: the same program, and a node.toml that says something else.
const REPACK: &str = r#"
dpkg-deb -R "$1" tree
sed -i "s/^Version: .*/Version: $2/" tree/DEBIAN/control
printf '\n# A line that the version before did not have.\n' >>tree/etc/millrace/node.toml
dpkg-deb -Zgzip -z1 -b tree "$3"
rm -r tree
"#;

/// The package, and one that comes after it.
#[derive(Clone, Debug)]
pub(super) struct Packages {
    /// As deploy/package makes it.
    pub(super) old: PathBuf,
    /// Its version.
    pub(super) version: String,
    /// The next one.
    pub(super) new: PathBuf,
    /// Its version.
    pub(super) next: String,
}

/// Whether all is there that this takes.
///
/// # Errors
///
/// [`NotShown::Unchecked`] with what is missing.
pub(super) fn check() -> Result<(), NotShown> {
    let unchecked = |why: String| Err(NotShown::Unchecked(why));
    if !rustix::process::geteuid().is_root() {
        return unchecked("it boots a systemd, which takes root".to_owned());
    }
    for (tool, package) in TOOLS {
        if !is_there(tool) {
            return unchecked(format!("there is no {tool}: apt-get install {package}"));
        }
    }
    if !is_there("cargo-deb") {
        let how = "cargo install --locked --root target/tools cargo-deb";
        return unchecked(format!("there is no cargo-deb: {how}"));
    }
    Ok(())
}

/// Where tools are looked for: beside the build first.
fn search_path() -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = binaries::target().join("tools/bin");
    let all = std::iter::once(own).chain(std::env::split_paths(&path));
    let all = all.chain(["/usr/sbin".into(), "/sbin".into()]);
    std::env::join_paths(all).unwrap_or(path)
}

fn is_there(tool: &str) -> bool {
    std::env::split_paths(&search_path()).any(|folder| folder.join(tool).is_file())
}

/// A fresh Debian of this machine's release, which the binary was linked on; made where there is
/// none yet. Nothing is ever written into it.
///
/// # Errors
///
/// [`NotShown::Unchecked`] when it cannot be had.
pub(super) fn root(run: &Run) -> Result<PathBuf, NotShown> {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let mut lines = release.lines();
    let suite = lines.find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let suite = suite.ok_or_else(|| NotShown::Unchecked("this is no Debian".to_owned()))?;
    let folder = binaries::target().join("debian");
    let (root, complete) = (folder.join(suite), folder.join(format!("{suite}.complete")));
    let is_same = std::fs::read_to_string(&complete).is_ok_and(|it| it == INCLUDED);
    if is_same {
        return Ok(root);
    }
    run.note(format!("make a fresh Debian {suite}, once"));
    drop(std::fs::remove_dir_all(&root));
    std::fs::create_dir_all(&root).during("make a folder for a Debian")?;
    let mut make = Command::new("unshare");
    make.args(["--mount", "--propagation", "private", "sh", "-euc", MAKE_ROOT, "sh"]);
    make.arg(folder.join("at")).arg(&root).arg(suite).arg(INCLUDED).env("PATH", search_path());
    command::fetch(&mut make)?;
    std::fs::write(complete, INCLUDED).during("note that the Debian is complete")?;
    Ok(root)
}

/// Makes both packages of the binary that the promises run.
///
/// # Errors
///
/// When they cannot be made.
pub(super) fn packages(run: &Run) -> Result<Packages, NotShown> {
    run.note("make the package, and one that comes after it");
    let out = run.evidence.join("packages");
    let mut package = Command::new(binaries::root().join("deploy/package"));
    package.arg("--binary").arg(binaries::millrace()).arg("--out").arg(&out).arg("--fast");
    package.env("PATH", search_path()).env_remove("CARGO");
    let said = command::run(&mut package, PATIENCE)?;
    demand!(said.status == Some(0), "deploy/package ended with {:?}: {}", said.status, said.all());
    let old = only_deb(&out)?;
    let version = dpkg_deb(&["-f"], &old, &["Version"])?;
    let next = format!("{version}+next");
    let new = out.join("next.deb");
    let mut repack = Command::new("sh");
    repack.args(["-euc", REPACK, "sh"]).arg(&old).arg(&next).arg(&new).current_dir(&out);
    let said = command::run(&mut repack, PATIENCE)?;
    demand!(said.status == Some(0), "the next package: {}", said.all());
    Ok(Packages { old, version, new, next })
}

fn only_deb(folder: &Path) -> Result<PathBuf, NotShown> {
    let files = std::fs::read_dir(folder).during("look for the package")?;
    let paths = files.filter_map(|it| Some(it.ok()?.path()));
    let debs: Vec<PathBuf> =
        paths.filter(|it| it.extension().is_some_and(|it| it == "deb")).collect();
    match &debs[..] {
        [deb] => Ok(deb.clone()),
        _ => Err(broken(format!("deploy/package made {debs:?}"))),
    }
}

/// What `dpkg-deb` says of a package.
fn dpkg_deb(before: &[&str], deb: &Path, after: &[&str]) -> Result<String, NotShown> {
    let mut command = Command::new("dpkg-deb");
    let said = command::run(command.args(before).arg(deb).args(after), PATIENCE)?;
    demand!(said.status == Some(0), "dpkg-deb {before:?}: {}", said.all());
    Ok(said.stdout.trim().to_owned())
}
