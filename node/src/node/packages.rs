//! The packages of a node: each an archive under its digest, and, for processes, unpacked beside
//! it. An archive is durable before anybody is told that it is kept; what is read is checked.
//!
//! ```text
//! packages/<digest>       the archive: synced, renamed, the folder synced
//! packages/<digest>.d     its files, for processes: made again where they are not those of it
//! packages/.draft-*       what a kill left behind; goes at the next start
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use function::{NotADigest, Package, PackageDigest, PackageError};

const DRAFT: &str = ".draft-";

/// How long a package may wait for the deploy that it was sent for.
const UPLOADED_MAX: Duration = Duration::from_secs(15 * 60);

/// Why a package cannot be had or kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// It is not here.
    #[error("package {0} is not on this node")]
    Missing(String),
    /// What lies under its digest is something else; it was taken away.
    #[error("package {digest} is damaged: {reason}")]
    Damaged { digest: String, reason: String },
    /// The disk.
    #[error("cannot {verb} package {digest}: {source}")]
    Io { verb: &'static str, digest: String, source: std::io::Error },
}

impl StoreError {
    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::Missing(_) => "E0524",
            Self::Damaged { .. } => "E0525",
            Self::Io { .. } => "E0410",
        }
    }
}

/// See the [module documentation](self). Calls block on the disk.
#[derive(Debug)]
pub(super) struct PackageStore {
    dir: PathBuf,
    shelf: Mutex<Shelf>,
    /// One package is unpacked at a time.
    unpacking: Mutex<()>,
}

/// What this process knows of the folder.
#[derive(Debug, Default)]
struct Shelf {
    /// Archives that it wrote, or read whole.
    sound: BTreeSet<PackageDigest>,
    /// Those that it unpacked, or whose files it looked at.
    unpacked: BTreeSet<PackageDigest>,
    /// Sent for a deploy that has not come yet.
    uploaded: BTreeMap<PackageDigest, Instant>,
}

impl PackageStore {
    /// Opens the folder in a data directory, making it if there is none.
    pub(super) fn open(data_dir: &Path) -> std::io::Result<Self> {
        let dir = data_dir.join("packages");
        std::fs::create_dir_all(&dir)?;
        // Processes are started in it, from somewhere else.
        let dir = dir.canonicalize()?;
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(DRAFT.as_bytes()) {
                remove(&entry.path())?;
            }
        }
        // A process before this one may have been killed between a rename and its sync.
        std::fs::File::open(&dir)?.sync_all()?;
        std::fs::File::open(data_dir)?.sync_all()?;
        Ok(Self { dir, shelf: Mutex::default(), unpacking: Mutex::default() })
    }

    /// Whether the package is here, as far as can be seen without reading it.
    pub(super) fn has(&self, digest: PackageDigest) -> bool {
        self.shelf().sound.contains(&digest) || self.archive(digest).is_file()
    }

    /// Makes a package durable, unless it is.
    pub(super) fn keep(&self, package: &Package) -> Result<(), StoreError> {
        let digest = package.digest();
        let is_sound = self.shelf().sound.contains(&digest);
        if is_sound || self.read(digest).is_ok() {
            return Ok(());
        }
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::Builder::new().prefix(DRAFT).tempfile_in(&self.dir)?;
            file.write_all(&package.archive())?;
            file.as_file().sync_all()?;
            file.persist(self.archive(digest)).map_err(|error| error.error)?;
            std::fs::File::open(&self.dir)?.sync_all()
        };
        write().map_err(|source| io("keep", digest, source))?;
        self.shelf().sound.insert(digest);
        Ok(())
    }

    /// Keeps a package that was sent, until a deploy names it or it has waited too long.
    pub(super) fn receive(&self, package: &Package) -> Result<(), StoreError> {
        self.shelf().uploaded.insert(package.digest(), Instant::now());
        self.keep(package)
    }

    /// The deploy that these were sent for has come: what it did not name in the end may go.
    pub(super) fn expect_no_more<'a>(&self, came: impl Iterator<Item = &'a PackageDigest>) {
        let mut shelf = self.shelf();
        for digest in came {
            shelf.uploaded.remove(digest);
        }
    }

    /// The package of this digest, read and checked.
    pub(super) fn read(&self, digest: PackageDigest) -> Result<Package, StoreError> {
        let path = self.archive(digest);
        let archive = std::fs::read(&path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => StoreError::Missing(digest.to_string()),
            _ => io("read", digest, source),
        })?;
        let reason = match Package::from_archive(&archive) {
            Ok(package) if package.digest() == digest => {
                self.shelf().sound.insert(digest);
                return Ok(package);
            }
            Ok(package) => format!("its content is that of {}", package.digest()),
            Err(error @ PackageError::Broken { .. }) => error.to_string(),
            Err(error) => format!("it cannot be one: {error}"),
        };
        // Who is asked for it says that it is missing, and gets it again.
        self.shelf().sound.remove(&digest);
        remove(&path).map_err(|source| io("remove", digest, source))?;
        Err(StoreError::Damaged { digest: digest.to_string(), reason })
    }

    /// The folder with the package's files, as they are in it: what a process started in it may
    /// have changed before this start does not stay.
    pub(super) fn unpack(&self, package: &Package) -> Result<PathBuf, StoreError> {
        let digest = package.digest();
        let folder = self.folder(digest);
        let _one = self.unpacking.lock().unwrap_or_else(PoisonError::into_inner);
        if self.shelf().unpacked.contains(&digest) && folder.is_dir() {
            return Ok(folder);
        }
        let make = || -> std::io::Result<()> {
            if Package::from_dir(&folder).is_ok_and(|there| there.digest() == digest) {
                return set_modes(&folder, package);
            }
            remove(&folder)?;
            let draft = tempfile::Builder::new().prefix(DRAFT).tempdir_in(&self.dir)?;
            for (name, bytes) in package.files() {
                let path = draft.path().join(name);
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                std::fs::write(&path, bytes)?;
            }
            set_modes(draft.path(), package)?;
            // Nothing is synced: the archive is, and the next start looks at every file.
            std::fs::rename(draft.path(), &folder)?;
            // It lies elsewhere now: there is nothing to take away.
            drop(draft.keep());
            Ok(())
        };
        make().map_err(|source| io("unpack", digest, source))?;
        self.shelf().unpacked.insert(digest);
        Ok(folder)
    }

    /// Takes away what is not `named`: packages of revisions that are kept no more, and those that
    /// no deploy came to name.
    pub(super) fn sweep(&self, named: &BTreeSet<String>) -> std::io::Result<()> {
        {
            let uploaded = &mut self.shelf().uploaded;
            uploaded.retain(|digest, at| {
                !named.contains(&digest.to_string()) && at.elapsed() < UPLOADED_MAX
            });
        }
        for entry in std::fs::read_dir(&self.dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let digest = PackageDigest::parse(name.strip_suffix(".d").unwrap_or(&name));
            let Ok::<_, NotADigest>(digest) = digest else { continue };
            let is_wanted = named.contains(&digest.to_string());
            if is_wanted || self.shelf().uploaded.contains_key(&digest) {
                continue;
            }
            {
                let mut shelf = self.shelf();
                shelf.sound.remove(&digest);
                shelf.unpacked.remove(&digest);
            }
            remove(&self.dir.join(name))?;
        }
        Ok(())
    }

    fn archive(&self, digest: PackageDigest) -> PathBuf {
        self.dir.join(digest.to_string())
    }

    fn folder(&self, digest: PackageDigest) -> PathBuf {
        self.dir.join(format!("{digest}.d"))
    }

    fn shelf(&self) -> std::sync::MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn io(verb: &'static str, digest: PackageDigest, source: std::io::Error) -> StoreError {
    StoreError::Io { verb, digest: digest.to_string(), source }
}

/// A package keeps no modes: what can only be run is made so.
fn set_modes(folder: &Path, package: &Package) -> std::io::Result<()> {
    let set = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode));
    for (name, bytes) in package.files() {
        let runs = bytes.starts_with(b"#!") || bytes.starts_with(b"\x7fELF");
        set(&folder.join(name), if runs { 0o755 } else { 0o644 })?;
    }
    set(folder, 0o755)
}

/// Removes a file or a folder, if it is there.
fn remove(path: &Path) -> std::io::Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(files: &[(&str, &str)]) -> Package {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        Package::from_dir(dir.path()).unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir.join("packages")).unwrap();
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<String> =
            entries.map(|entry| name(entry).into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_kept_is_read_by_the_next_process_and_what_is_damaged_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let one = package(&[("app.py", "1")]);
        let store = PackageStore::open(dir.path()).unwrap();
        assert!(matches!(store.read(one.digest()), Err(StoreError::Missing(_))));
        store.keep(&one).unwrap();
        store.keep(&one).unwrap();
        std::fs::write(dir.path().join("packages/.draft-x"), "half").unwrap();
        let store = PackageStore::open(dir.path()).unwrap();
        assert_eq!(names(dir.path()), [one.digest().to_string()]);
        store.keep(&one).unwrap();
        assert!(store.read(one.digest()).unwrap().files().eq(one.files()));

        let path = dir.path().join("packages").join(one.digest().to_string());
        let bytes = std::fs::read(&path).unwrap();
        for (place, byte) in bytes.iter().enumerate() {
            let mut flipped = bytes.clone();
            flipped[place] = byte ^ 1;
            std::fs::write(&path, flipped).unwrap();
            let read = PackageStore::open(dir.path()).unwrap().read(one.digest());
            assert!(matches!(read, Err(StoreError::Damaged { .. })), "byte {place}: {read:?}");
            assert!(!path.exists(), "so that it is sent again");
        }
        let store = PackageStore::open(dir.path()).unwrap();
        assert!(!store.has(one.digest()));
        store.keep(&one).unwrap();
        assert!(store.has(one.digest()));
    }

    #[test]
    fn a_folder_is_what_its_package_is_at_every_start() {
        let dir = tempfile::tempdir().unwrap();
        let one = package(&[("app.py", "1"), ("bootstrap", "#!/bin/sh\n")]);
        let folder = PackageStore::open(dir.path()).unwrap().unpack(&one).unwrap();
        let mode = |name: &str| std::fs::metadata(folder.join(name)).unwrap().permissions().mode();
        assert_eq!((mode("app.py") & 0o777, mode("bootstrap") & 0o777), (0o644, 0o755));
        std::fs::write(folder.join("app.py"), "2").unwrap();
        std::fs::create_dir(folder.join("__pycache__")).unwrap();
        let store = PackageStore::open(dir.path()).unwrap();
        store.unpack(&one).unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("app.py")).unwrap(), "1");
        std::fs::remove_dir_all(&folder).unwrap();
        store.unpack(&one).unwrap();
        assert!(folder.join("bootstrap").is_file());
    }

    #[test]
    fn what_nobody_names_goes_but_not_what_was_just_sent() {
        let dir = tempfile::tempdir().unwrap();
        let store = PackageStore::open(dir.path()).unwrap();
        let [one, two, sent] = ["1", "2", "3"].map(|text| package(&[("app.py", text)]));
        store.keep(&one).unwrap();
        store.keep(&two).unwrap();
        store.receive(&sent).unwrap();
        store.unpack(&one).unwrap();
        store.sweep(&[two.digest().to_string()].into()).unwrap();
        let mut left = [two.digest().to_string(), sent.digest().to_string()];
        left.sort();
        assert_eq!(names(dir.path()), left);
        // Once its deploy has come it is as any other.
        store.expect_no_more([sent.digest()].iter());
        store.sweep(&[two.digest().to_string()].into()).unwrap();
        assert_eq!(names(dir.path()), [two.digest().to_string()]);
        store.sweep(&BTreeSet::new()).unwrap();
        assert!(names(dir.path()).is_empty());
    }
}
