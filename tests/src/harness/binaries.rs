//! Finds and builds what the promises run: the node, the load generator, and the folders of the
//! checkout. Everything lies beside the prove binary, in the same target directory and profile.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the checkout.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent").to_owned()
}

/// The folder of this binary: that of a profile in the target directory.
fn profile() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let folder = own.parent().unwrap_or_else(|| Path::new("."));
    // A test binary lies in `deps/`, one deeper.
    let is_test = folder.ends_with("deps");
    let folder = if is_test { folder.parent().unwrap_or(folder) } else { folder };
    folder.to_owned()
}

/// The target directory this binary was built into.
#[must_use]
pub fn target() -> PathBuf {
    let profile = profile();
    profile.parent().unwrap_or_else(|| Path::new("target")).to_owned()
}

/// Whether this binary is a release.
#[must_use]
pub fn is_release() -> bool {
    profile().ends_with("release")
}

/// A binary of the workspace, built like this one.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    profile().join(name)
}

/// The node's binary.
#[must_use]
pub fn millrace() -> PathBuf {
    binary("millrace")
}

/// Cargo, as it was called.
#[must_use]
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    cargo
}

/// What the promises run, beside the interpreters and brokers of others.
const BUILT: &[&str] = &["millrace", "millrace-bench", "kafka-peer", "kafka-peer-mimalloc"];

/// Builds what the promises run, so that none is shown for yesterday's code.
///
/// # Errors
///
/// When it does not build.
pub fn build() -> Result<(), String> {
    let mut cargo = cargo();
    // The same selection of packages as the alias, so that features resolve the same.
    cargo.args(["build", "--quiet"]);
    for binary in BUILT {
        cargo.args(["--bin", binary]);
    }
    if is_release() {
        cargo.arg("--release");
    }
    cargo.env("CARGO_TARGET_DIR", target());
    match cargo.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("cargo build ended with {status}")),
        Err(error) => Err(format!("could not start cargo: {error}")),
    }
}

/// Builds the node as the build after this one would be, beside the other, and says where it lies.
/// Crates that do not know of formats are built once for both.
///
/// # Errors
///
/// When it does not build.
pub fn build_next() -> Result<PathBuf, String> {
    let mut cargo = cargo();
    cargo.args(["build", "--quiet", "--bin", "millrace-next", "--features"]);
    cargo.arg("millrace/next-version");
    if is_release() {
        cargo.arg("--release");
    }
    cargo.env("CARGO_TARGET_DIR", target());
    match cargo.status() {
        Ok(status) if status.success() => Ok(binary("millrace-next")),
        Ok(status) => Err(format!("cargo build of the next build ended with {status}")),
        Err(error) => Err(format!("could not start cargo: {error}")),
    }
}

/// A component of the tests, as committed.
#[must_use]
pub fn component(name: &str) -> PathBuf {
    root().join("tests/components").join(format!("{name}.wasm"))
}
