//! The file of a backup: a gzipped tar whose first entry says what the others are.
//!
//! ```text
//! millrace-backup/manifest.json     {"format": 1, "made": {...}, "files": {NAME: {"bytes", "sha256"}}}
//! millrace-backup/manifest.sha256   the digest of manifest.json, in hexadecimal
//! millrace-backup/state.json        applications, triggers, positions
//! millrace-backup/packages/DIGEST   a package, as it is sent for a deploy
//! ```
//!
//! A later form keeps the first two, so that an older program can refuse it by name. Every byte of
//! the rest is under a digest, and nothing but what the manifest names may be there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use gateway::api::{BACKUP_FORMAT, Backup};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::error::{CommandError, exit};

const FOLDER: &str = "millrace-backup";
const MANIFEST: &str = "manifest.json";
const MANIFEST_SHA256: &str = "manifest.sha256";
const STATE: &str = "state.json";
const PACKAGES: &str = "packages";
/// The largest manifest and the largest state.
const TEXT_BYTES_MAX: u64 = 256 << 20;

/// What the file holds, as its first entry says.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    made: Made,
    files: BTreeMap<String, Listed>,
}

/// When and of what it was made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Made {
    cluster: String,
    version: String,
    at: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Listed {
    bytes: u64,
    sha256: String,
}

impl Listed {
    fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.len() as u64, sha256: hex(&Sha256::digest(bytes)) }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|it| format!("{it:02x}")).collect()
}

/// Writes the file. Packages are fetched twice: to know their digests, and to write them, so that
/// one at a time is in memory.
///
/// # Errors
///
/// When a package cannot be fetched or the file not be written.
pub(super) fn write(
    to: impl Write,
    backup: &Backup,
    mut package: impl FnMut(&str) -> Result<Vec<u8>, CommandError>,
    failed: impl Fn(&std::io::Error) -> CommandError,
) -> Result<(), CommandError> {
    let state = serde_json::to_vec_pretty(backup).expect("a backup is plain data");
    let mut files = BTreeMap::from([(STATE.to_owned(), Listed::of(&state))]);
    for digest in backup.packages() {
        files.insert(format!("{PACKAGES}/{digest}"), Listed::of(&package(&digest)?));
    }
    let Backup { cluster, version, at, .. } = backup.clone();
    let manifest = Manifest { format: BACKUP_FORMAT, made: Made { cluster, version, at }, files };
    let manifest = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
    let digest = hex(&Sha256::digest(&manifest));
    let mut archive = tar::Builder::new(GzEncoder::new(to, Compression::default()));
    let mut add = |name: &str, bytes: &[u8]| {
        let mut head = tar::Header::new_gnu();
        head.set_size(bytes.len() as u64);
        head.set_mode(0o600);
        archive.append_data(&mut head, format!("{FOLDER}/{name}"), bytes)
    };
    add(MANIFEST, &manifest).map_err(|error| failed(&error))?;
    add(MANIFEST_SHA256, digest.as_bytes()).map_err(|error| failed(&error))?;
    add(STATE, &state).map_err(|error| failed(&error))?;
    for digest in backup.packages() {
        let bytes = package(&digest)?;
        add(&format!("{PACKAGES}/{digest}"), &bytes).map_err(|error| failed(&error))?;
    }
    let finished = archive.into_inner().and_then(GzEncoder::finish);
    let mut to = finished.map_err(|error| failed(&error))?;
    to.flush().map_err(|error| failed(&error))
}

/// Reads the file to its end and checks every byte of it. `package` gets each package that is whole.
///
/// # Errors
///
/// `E0581` when it is damaged or no backup, `E0582` when it is of a later form.
pub(super) fn read(
    path: &Path,
    mut package: impl FnMut(&str, Vec<u8>) -> Result<(), CommandError>,
) -> Result<Backup, CommandError> {
    let file = File::open(path).map_err(|error| CommandError::file("read", path, &error))?;
    let damaged = |why: &str| damaged(path, why);
    let mut archive = tar::Archive::new(GzDecoder::new(file));
    let cut_short = |error: std::io::Error| damaged(&format!("it cannot be read: {error}"));
    let mut entries = archive.entries().map_err(cut_short)?;
    let mut next = |name: Option<&str>, bytes_max: u64| {
        let Some(entry) = entries.next() else { return Ok(None) };
        let mut entry = entry.map_err(cut_short)?;
        let found = entry.path().map_err(cut_short)?.to_string_lossy().into_owned();
        let found = found.strip_prefix(&format!("{FOLDER}/")).map(str::to_owned);
        let found = found.filter(|found| name.is_none_or(|name| name == found));
        let found = found.ok_or_else(|| damaged("something else lies in it"))?;
        let mut bytes = Vec::new();
        entry.by_ref().take(bytes_max + 1).read_to_end(&mut bytes).map_err(cut_short)?;
        if bytes_max < bytes.len() as u64 {
            return Err(damaged(&format!("{found} is larger than it may be")));
        }
        Ok(Some((found, bytes)))
    };
    let first = next(Some(MANIFEST), TEXT_BYTES_MAX).ok().flatten();
    let (_, text) = first.ok_or_else(|| damaged("it is no backup of Millrace"))?;
    let digest = next(Some(MANIFEST_SHA256), 64)?.map(|it| it.1);
    if digest.as_deref() != Some(hex(&Sha256::digest(&text)).as_bytes()) {
        return Err(damaged("its list of contents is not what was written"));
    }
    let form: Form = serde_json::from_slice(&text).map_err(|_| damaged("its list is no list"))?;
    if BACKUP_FORMAT < form.format {
        let (path, form) = (path.display(), form.format);
        let message = format!("{path} has form {form}, this program reads up to {BACKUP_FORMAT}");
        return Err(CommandError::new(exit::CONFLICT, "E0582", message)
            .help("restore it with a newer program"));
    }
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|_| damaged("its list cannot be read"))?;
    let mut left = manifest.files;
    let mut backup: Option<Backup> = None;
    while let Some((name, bytes)) =
        next(None, TEXT_BYTES_MAX.max(function::ARCHIVE_BYTES_MAX as u64))?
    {
        if left.remove(&name) != Some(Listed::of(&bytes)) {
            return Err(damaged(&format!("{} is not what was written", name.escape_debug())));
        }
        match name.strip_prefix(&format!("{PACKAGES}/")) {
            Some(digest) => package(digest, bytes)?,
            None => backup = serde_json::from_slice(&bytes).ok(),
        }
    }
    if let Some(name) = left.keys().next() {
        return Err(damaged(&format!("{name} is missing")));
    }
    let backup = backup.ok_or_else(|| damaged("its state cannot be read"))?;
    Ok(backup)
}

/// What of a manifest every form has.
#[derive(Deserialize)]
struct Form {
    format: u32,
}

fn damaged(path: &Path, why: &str) -> CommandError {
    let message = format!("{} cannot be restored: {why}", path.display());
    CommandError::new(exit::CONFLICT, "E0581", message)
        .help("take another backup, or a copy of this one that is whole; nothing was changed")
}

#[cfg(test)]
mod tests {
    use gateway::api::{AppBackup, FunctionBackup, RevisionBackup};

    use super::*;

    fn backup() -> Backup {
        let revision = RevisionBackup { package: "abc".into(), ..RevisionBackup::default() };
        let function = FunctionBackup { revisions: vec![revision], ..FunctionBackup::default() };
        let app = AppBackup { name: "a".into(), functions: vec![function], ..AppBackup::default() };
        Backup { format: BACKUP_FORMAT, apps: vec![app], ..Backup::default() }
    }

    fn written() -> Vec<u8> {
        let mut bytes = Vec::new();
        let failed = |error: &std::io::Error| panic!("{error}");
        write(&mut bytes, &backup(), |digest| Ok(digest.as_bytes().to_vec()), failed).unwrap();
        bytes
    }

    fn read_back(bytes: &[u8]) -> (Result<Backup, CommandError>, Vec<String>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let mut packages = Vec::new();
        let read = read(file.path(), |digest, bytes| {
            assert_eq!(digest.as_bytes(), bytes);
            packages.push(digest.to_owned());
            Ok(())
        });
        (read, packages)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (read, packages) = read_back(&written());
        assert_eq!((read.unwrap(), packages), (backup(), vec!["abc".to_owned()]));
    }

    #[test]
    fn a_file_that_is_cut_or_changed_anywhere_is_refused_or_says_the_same() {
        let bytes = written();
        for at in 0..bytes.len() {
            let (cut, _) = read_back(&bytes[..at]);
            if let Ok(cut) = cut {
                // Behind the last entry there is nothing but the end of the archive.
                assert_eq!(cut, backup(), "cut at {at}");
            }
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            if let Ok(read) = read_back(&flipped).0 {
                assert_eq!(read, backup(), "flipped at {at}");
            }
        }
        assert_eq!(read_back(&bytes[..bytes.len() / 2]).0.unwrap_err().code, Some("E0581"));
    }

    #[test]
    fn a_foreign_and_a_newer_file_are_told_apart() {
        assert_eq!(read_back(b"hello").0.unwrap_err().code, Some("E0581"));
        let text = br#"{"format": 2, "anything": true}"#;
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
        for (name, bytes) in
            [(MANIFEST, &text[..]), (MANIFEST_SHA256, hex(&Sha256::digest(text)).as_bytes())]
        {
            let mut head = tar::Header::new_gnu();
            head.set_size(bytes.len() as u64);
            archive.append_data(&mut head, format!("{FOLDER}/{name}"), bytes).unwrap();
        }
        let newer = archive.into_inner().unwrap().finish().unwrap();
        assert_eq!(read_back(&newer).0.unwrap_err().code, Some("E0582"));
    }
}
