//! `millrace.toml` -> [`Manifest`], or every mistake of the file at once.
//!
//! Reading never stops at a mistake: what cannot be read is reported and left out, and the rest is
//! read on. Only a file without a single error becomes a manifest.

mod check;
mod files;
mod filter;
mod kinds;
mod log;
mod planned;
mod section;
mod suggest;
mod syntax;
mod trigger;

#[cfg(test)]
mod tests;

use std::path::Path;

use self::log::Log;
use crate::{Diagnostic, Diagnostics, FILE_NAME, Manifest, Severity, code};

/// The largest manifest.
const MANIFEST_BYTES_MAX: usize = 1 << 20;

/// What of the files that a manifest names must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Require {
    /// All of them.
    Everything,
    /// Not the components: they are about to be built.
    Sources,
}

impl Manifest {
    /// Reads and checks `millrace.toml` in `dir`, and that all files it names are there.
    ///
    /// # Errors
    ///
    /// Every mistake of the file.
    pub fn load(dir: &Path) -> Result<Self, Diagnostics> {
        load(dir, Require::Everything)
    }

    /// As [`Manifest::load`], but handlers need not be there: what `millrace build` starts from.
    ///
    /// # Errors
    ///
    /// Every mistake of the file.
    pub fn load_unbuilt(dir: &Path) -> Result<Self, Diagnostics> {
        load(dir, Require::Sources)
    }

    /// Checks the text of a manifest without looking at any file; `file` is what mistakes call it.
    ///
    /// # Errors
    ///
    /// Every mistake of the text.
    pub fn parse(text: &str, file: &str) -> Result<Self, Diagnostics> {
        parse(text, file, None)
    }
}

fn load(dir: &Path, require: Require) -> Result<Manifest, Diagnostics> {
    let path = dir.join(FILE_NAME);
    let unreadable = |message: String| Diagnostic::error(code::UNREADABLE, FILE_NAME, message);
    let bytes = std::fs::read(&path).map_err(|error| {
        let one = unreadable("cannot read the manifest".to_owned());
        let one = one.tried(format!("{} ({error})", path.display()));
        one.help("`millrace new NAME` makes an application; name its folder to work on it")
    })?;
    if bytes.len() > MANIFEST_BYTES_MAX {
        let size = bytes.len();
        return Err(unreadable(format!("the manifest has {size} bytes, at most 1 MiB")).into());
    }
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let good = &bytes[..error.valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        unreadable(format!("the manifest is not UTF-8, first in line {line}"))
            .help("save it as UTF-8")
    })?;
    parse(text, FILE_NAME, Some((dir, require)))
}

fn parse(text: &str, file: &str, files: Option<(&Path, Require)>) -> Result<Manifest, Diagnostics> {
    let log = Log::new(file, text);
    let Some(document) = syntax::parse(&log) else { return Err(log.finish()) };
    let draft = kinds::read(&log, document.as_table());
    check::check(&log, &draft);
    if let Some((dir, require)) = files {
        files::check(&log, &draft, dir, require);
    }
    let manifest = draft.into_manifest();
    let found = log.finish();
    match manifest {
        Some(manifest) if found.iter().all(|one| one.severity == Severity::Warning) => {
            Ok(Manifest { warnings: found, ..manifest })
        }
        _ => Err(found),
    }
}
