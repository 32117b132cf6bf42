//! A function's bytes, by content: the same files give the same digest wherever they lie.
//! Everything about a package is bounded, and what is no plain file or folder is refused.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use unicode_normalization::UnicodeNormalization as _;

use crate::FunctionSpec;

/// The most files and folders of a package.
pub const ENTRIES_MAX: usize = 10_000;
/// The largest package.
pub const PACKAGE_BYTES_MAX: u64 = 256 << 20;
/// The largest file of one.
pub const FILE_BYTES_MAX: u64 = 64 << 20;
/// The deepest nesting of its folders.
pub const DEPTH_MAX: usize = 32;

/// Says which layout of the tree was hashed: another layout is another package.
const DOMAIN: &[u8] = b"millrace-package-v1\0";

/// SHA-256 over the normalised tree of a package.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PackageDigest([u8; 32]);

impl PackageDigest {
    /// Reads 64 hexadecimal digits in lower case.
    ///
    /// # Errors
    ///
    /// When the text is anything else.
    pub fn parse(text: &str) -> Result<Self, NotADigest> {
        text.to_owned().try_into()
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for PackageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PackageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackageDigest({self})")
    }
}

impl From<PackageDigest> for String {
    fn from(digest: PackageDigest) -> Self {
        digest.to_string()
    }
}

/// A text that is no digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 hexadecimal digits")]
pub struct NotADigest;

impl TryFrom<String> for PackageDigest {
    type Error = NotADigest;

    fn try_from(text: String) -> Result<Self, NotADigest> {
        let text = text.as_bytes();
        if text.len() != 64 || !text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(NotADigest);
        }
        let nibble = |byte: u8| if byte <= b'9' { byte - b'0' } else { byte - b'a' + 10 };
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = nibble(pair[0]) << 4 | nibble(pair[1]);
        }
        Ok(Self(bytes))
    }
}

/// Why files are no package.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A file or folder could not be read.
    #[error("read {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A link, a device, a socket or a pipe.
    #[error("{} is neither a plain file nor a folder", path.display())]
    NotPlain {
        /// Which.
        path: PathBuf,
    },
    /// A name that could mean another place on another system.
    #[error("the name {name:?} cannot be packaged: no control characters, '\\' or ':', and UTF-8")]
    BadName {
        /// The name as far as it can be shown.
        name: String,
    },
    /// Two names that are one on a file system that ignores case or composes characters.
    #[error("{first:?} and {second:?} are the same name on other file systems")]
    Twins {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// A limit is passed.
    #[error("{what} of the package: more than {limit}")]
    TooLarge {
        /// What of it.
        what: &'static str,
        /// How much there may be.
        limit: u64,
    },
    /// There is no file in it.
    #[error("the package is empty")]
    Empty,
    /// Bytes that are no archive of a package.
    #[error("the archive of the package is broken: {reason}")]
    Broken {
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl PackageError {
    /// The code of its explain page.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "E0218",
            _ => "E0220",
        }
    }
}

/// The files of a function, held in memory.
#[derive(Clone)]
pub struct Package {
    digest: PackageDigest,
    files: BTreeMap<String, Arc<[u8]>>,
}

impl fmt::Debug for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (digest, files) = (&self.digest, self.files.len());
        f.debug_struct("Package").field("digest", digest).field("files", &files).finish()
    }
}

impl Package {
    /// The package of a function in its application's folder: for wasm the component alone, else
    /// all of the function's folder.
    ///
    /// # Errors
    ///
    /// Those of [`Package::from_file`] and [`Package::from_dir`].
    pub fn of(dir: &Path, function: &FunctionSpec) -> Result<Self, PackageError> {
        let folder = dir.join(&function.path);
        match function.runtime.is_process() {
            true => Self::from_dir(&folder),
            false => Self::from_file(&folder.join(&function.handler)),
        }
    }

    /// The package of a single file: what a wasm function is.
    ///
    /// # Errors
    ///
    /// [`PackageError`] if it cannot be read, is too large or no plain file.
    pub fn from_file(path: &Path) -> Result<Self, PackageError> {
        let mut walk = Walk::default();
        let name = path.file_name().unwrap_or_default();
        let name = checked_name(name)?;
        let metadata = metadata(path)?;
        if !metadata.is_file() {
            return Err(PackageError::NotPlain { path: path.to_owned() });
        }
        walk.add_file(path, name)?;
        walk.finish()
    }

    /// The package of all files below a folder, but for hidden ones and Python's `__pycache__`.
    ///
    /// # Errors
    ///
    /// [`PackageError`] if one cannot be read, a limit is passed, or something is not plain.
    pub fn from_dir(dir: &Path) -> Result<Self, PackageError> {
        let mut walk = Walk::default();
        walk.add_dir(dir, "", 0)?;
        walk.finish()
    }

    /// By what it is known.
    #[must_use]
    pub const fn digest(&self) -> PackageDigest {
        self.digest
    }

    /// The bytes of a file, by its path in the package.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&Arc<[u8]>> {
        self.files.get(path)
    }

    /// Every file, sorted by path.
    pub fn files(&self) -> impl ExactSizeIterator<Item = (&str, &Arc<[u8]>)> {
        self.files.iter().map(|(path, bytes)| (path.as_str(), bytes))
    }

    /// The bytes of all files.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.files.values().map(|bytes| bytes.len() as u64).sum()
    }
}

/// A tree being read.
#[derive(Default)]
pub(crate) struct Walk {
    files: BTreeMap<String, Arc<[u8]>>,
    /// Folded name -> name, of everything seen.
    folded: BTreeMap<String, String>,
    bytes: u64,
}

impl Walk {
    fn add_dir(&mut self, dir: &Path, prefix: &str, depth: usize) -> Result<(), PackageError> {
        if depth > DEPTH_MAX {
            return Err(PackageError::TooLarge { what: "depth", limit: DEPTH_MAX as u64 });
        }
        let io = |source| PackageError::Io { path: dir.to_owned(), source };
        for entry in fs::read_dir(dir).map_err(io)? {
            let entry = entry.map_err(io)?;
            if is_left_out(&entry.file_name()) {
                continue;
            }
            let name = format!("{prefix}{}", checked_name(&entry.file_name())?);
            let path = entry.path();
            let metadata = metadata(&path)?;
            if metadata.is_dir() {
                self.note(&name)?;
                self.add_dir(&path, &format!("{name}/"), depth + 1)?;
            } else if metadata.is_file() {
                self.add_file(&path, name)?;
            } else {
                return Err(PackageError::NotPlain { path });
            }
        }
        Ok(())
    }

    fn add_file(&mut self, path: &Path, name: String) -> Result<(), PackageError> {
        self.note(&name)?;
        let io = |source| PackageError::Io { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(io)?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(PackageError::TooLarge { what: "bytes of a file", limit: FILE_BYTES_MAX });
        }
        self.add(name, bytes.into())
    }

    /// Adds a file whose name was noted and whose size was looked at.
    pub(crate) fn add(&mut self, name: String, bytes: Arc<[u8]>) -> Result<(), PackageError> {
        self.bytes += bytes.len() as u64;
        if self.bytes > PACKAGE_BYTES_MAX {
            return Err(PackageError::TooLarge { what: "bytes", limit: PACKAGE_BYTES_MAX });
        }
        self.files.insert(name, bytes);
        Ok(())
    }

    /// Counts a name, and refuses its twin.
    pub(crate) fn note(&mut self, name: &str) -> Result<(), PackageError> {
        if self.folded.len() == ENTRIES_MAX {
            return Err(PackageError::TooLarge { what: "entries", limit: ENTRIES_MAX as u64 });
        }
        let folded: String = name.nfc().flat_map(char::to_lowercase).nfc().collect();
        match self.folded.insert(folded, name.to_owned()) {
            Some(first) => Err(PackageError::Twins { first, second: name.to_owned() }),
            None => Ok(()),
        }
    }

    /// Hashes the tree: per file, in the order of their paths, the path and the bytes, each after
    /// its length.
    pub(crate) fn finish(self) -> Result<Package, PackageError> {
        if self.files.is_empty() {
            return Err(PackageError::Empty);
        }
        let mut hash = Sha256::new_with_prefix(DOMAIN);
        for (path, bytes) in &self.files {
            for part in [path.as_bytes(), bytes] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        Ok(Package { digest: PackageDigest(hash.finalize().into()), files: self.files })
    }
}

/// What belongs to a tool and not to the function: hidden files and folders, and what Python
/// compiles for itself.
fn is_left_out(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") || name == "__pycache__"
}

/// What is there, without following links.
fn metadata(path: &Path) -> Result<fs::Metadata, PackageError> {
    let io = |source| PackageError::Io { path: path.to_owned(), source };
    fs::symlink_metadata(path).map_err(io)
}

pub(crate) fn checked_name(name: &std::ffi::OsStr) -> Result<String, PackageError> {
    let bad = || PackageError::BadName { name: name.to_string_lossy().into_owned() };
    let text = name.to_str().ok_or_else(bad)?;
    let is_strange = |c: char| c.is_control() || matches!(c, '\\' | ':' | '/');
    if text.is_empty() || text == "." || text == ".." || text.contains(is_strange) {
        return Err(bad());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, files: &[(&str, &[u8])]) {
        for (path, bytes) in files {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    fn package(files: &[(&str, &[u8])]) -> Package {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), files);
        Package::from_dir(dir.path()).unwrap()
    }

    #[test]
    fn the_digest_is_of_the_content_alone() {
        let one = package(&[("a", b"1"), ("b/c", b"2")]);
        let again = package(&[("b/c", b"2"), ("a", b"1")]);
        assert_eq!(one.digest(), again.digest());
        for other in [
            package(&[("a", b"1"), ("b/c", b"3")]),
            package(&[("a", b"1"), ("b/d", b"2")]),
            package(&[("a", b"1b"), ("c", b"2")]),
            package(&[("a", b"1")]),
        ] {
            assert_ne!(one.digest(), other.digest());
        }
        assert_eq!((one.files().len(), one.size_bytes()), (2, 2));
        assert_eq!(one.file("b/c").unwrap().as_ref(), b"2");
    }

    #[test]
    fn a_single_file_is_a_tree_of_one() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &[("tidy.wasm", b"\0asm")]);
        let file = Package::from_file(&dir.path().join("tidy.wasm")).unwrap();
        assert_eq!(file.digest(), Package::from_dir(dir.path()).unwrap().digest());
        assert!(matches!(Package::from_file(dir.path()), Err(PackageError::NotPlain { .. })));
        let missing = Package::from_file(&dir.path().join("none")).unwrap_err();
        assert_eq!(missing.code(), "E0218");
    }

    #[test]
    fn what_is_not_plain_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Package::from_dir(dir.path()), Err(PackageError::Empty)));
        write(dir.path(), &[("a", b"1")]);
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        let error = Package::from_dir(dir.path()).unwrap_err();
        assert!(matches!(error, PackageError::NotPlain { .. }), "{error}");
        assert_eq!(error.code(), "E0220");
        assert!(Package::from_file(&dir.path().join("link")).is_err());
    }

    #[test]
    fn names_that_mean_other_places_and_twins_are_refused() {
        for names in [["a:b", "c"], ["a\\b", "c"], ["a\nb", "c"]] {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), &names.map(|name| (name, b"1".as_slice())));
            let error = Package::from_dir(dir.path()).unwrap_err();
            assert!(matches!(error, PackageError::BadName { .. }), "{error}");
        }
        for names in [["Read.me", "read.ME"], ["\u{e9}", "e\u{301}"]] {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), &names.map(|name| (name, b"1".as_slice())));
            let error = Package::from_dir(dir.path()).unwrap_err();
            assert!(matches!(error, PackageError::Twins { .. }), "{error}");
        }
    }

    #[test]
    fn every_limit_holds() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d/".repeat(DEPTH_MAX + 1));
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("f"), "1").unwrap();
        let error = Package::from_dir(dir.path()).unwrap_err();
        assert!(matches!(error, PackageError::TooLarge { what: "depth", .. }), "{error}");

        let dir = tempfile::tempdir().unwrap();
        let large = File::create(dir.path().join("large")).unwrap();
        large.set_len(FILE_BYTES_MAX + 1).unwrap();
        let error = Package::from_dir(dir.path()).unwrap_err();
        assert!(matches!(error, PackageError::TooLarge { what: "bytes of a file", .. }), "{error}");

        let mut walk = Walk::default();
        for number in 0..ENTRIES_MAX {
            walk.note(&number.to_string()).unwrap();
        }
        assert!(matches!(walk.note("x"), Err(PackageError::TooLarge { what: "entries", .. })));
    }

    #[test]
    fn a_digest_reads_back_and_nothing_else_does() {
        let digest = package(&[("a", b"1")]).digest();
        let text = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<PackageDigest>(&text).unwrap(), digest);
        for bad in ["", "00", &"g".repeat(64), &"A".repeat(64), &"0".repeat(65)] {
            assert!(PackageDigest::try_from((*bad).to_owned()).is_err(), "{bad}");
        }
    }
}
