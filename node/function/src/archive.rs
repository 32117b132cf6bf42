//! A package as one run of bytes, as it is stored and sent: exactly what its digest is of.
//!
//! ```text
//! per file, in the order of their paths:  length (u64, little endian), path, length, bytes
//! ```
//!
//! What is read is as foreign as a folder is: every limit and every rule for names holds, and only
//! the one order is taken, so that a digest has one archive.

use std::collections::BTreeSet;

use crate::package::{DEPTH_MAX, FILE_BYTES_MAX, Package, PackageError, Walk, checked_name};

/// The largest archive: the largest package, and room for the names.
pub const ARCHIVE_BYTES_MAX: usize = (256 + 16) << 20;

impl Package {
    /// The package as one run of bytes.
    #[must_use]
    pub fn archive(&self) -> Vec<u8> {
        let names: usize = self.files().map(|(path, _)| path.len() + 16).sum();
        let size = usize::try_from(self.size_bytes()).expect("a package fits into memory");
        let mut out = Vec::with_capacity(names + size);
        for (path, bytes) in self.files() {
            for part in [path.as_bytes(), bytes] {
                out.extend_from_slice(&(part.len() as u64).to_le_bytes());
                out.extend_from_slice(part);
            }
        }
        out
    }

    /// The package in an archive.
    ///
    /// # Errors
    ///
    /// [`PackageError`] if it is cut short, passes a limit, or is none that [`Package::archive`]
    /// would write.
    pub fn from_archive(archive: &[u8]) -> Result<Self, PackageError> {
        let (mut walk, mut rest, mut last) = (Walk::default(), archive, None);
        let mut folders = BTreeSet::new();
        while !rest.is_empty() {
            let path = std::str::from_utf8(part(&mut rest)?)
                .map_err(|_| PackageError::Broken { reason: "a path is not UTF-8" })?;
            if last.is_some_and(|last| path <= last) {
                return Err(PackageError::Broken { reason: "its files are out of order" });
            }
            last = Some(path);
            check_path(path, &mut walk, &mut folders)?;
            let bytes = part(&mut rest)?;
            if FILE_BYTES_MAX < bytes.len() as u64 {
                let what = "bytes of a file";
                return Err(PackageError::TooLarge { what, limit: FILE_BYTES_MAX });
            }
            walk.add(path.to_owned(), bytes.into())?;
        }
        walk.finish()
    }
}

/// The next length and what it counts.
fn part<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], PackageError> {
    let short = || PackageError::Broken { reason: "it is cut short" };
    let (length, after) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| short())?;
    let (part, after) = after.split_at_checked(length).ok_or_else(short)?;
    *rest = after;
    Ok(part)
}

/// Every name on the way is one that a folder's files may have, and stays below it.
fn check_path<'a>(
    path: &'a str,
    walk: &mut Walk,
    folders: &mut BTreeSet<&'a str>,
) -> Result<(), PackageError> {
    if DEPTH_MAX < path.matches('/').count() {
        return Err(PackageError::TooLarge { what: "depth", limit: DEPTH_MAX as u64 });
    }
    for name in path.split('/') {
        checked_name(name.as_ref())?;
    }
    for (end, _) in path.match_indices('/') {
        if folders.insert(&path[..end]) {
            walk.note(&path[..end])?;
        }
    }
    walk.note(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (path, bytes) in files {
            for part in [path.as_bytes(), bytes] {
                out.extend_from_slice(&(part.len() as u64).to_le_bytes());
                out.extend_from_slice(part);
            }
        }
        out
    }

    #[test]
    fn a_package_comes_back_out_of_its_archive() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("lib/deep")).unwrap();
        for path in ["app.py", "lib/a.py", "lib/deep/b.py", "lib.py"] {
            std::fs::write(dir.path().join(path), path).unwrap();
        }
        let package = Package::from_dir(dir.path()).unwrap();
        let bytes = package.archive();
        let again = Package::from_archive(&bytes).unwrap();
        assert_eq!(again.digest(), package.digest());
        assert!(again.files().eq(package.files()));
        assert_eq!(again.archive(), bytes);
        for end in 1..bytes.len() {
            // Cut between two files it is another package, which its digest shows.
            let cut = Package::from_archive(&bytes[..end]);
            assert!(cut.is_err() || cut.is_ok_and(|it| it.digest() != package.digest()), "{end}");
        }
    }

    #[test]
    fn what_no_folder_could_hold_is_refused() {
        let named = |files: &[(&str, &[u8])]| Package::from_archive(&archive(files)).unwrap_err();
        for path in ["../a", "a/../b", "/a", "a//b", "a/", "", ".", "a\\b", "a:b", "a\nb"] {
            let error = named(&[(path, b"1")]);
            assert!(matches!(error, PackageError::BadName { .. }), "{path:?}: {error}");
        }
        for files in [["b", "a"], ["a", "a"]] {
            let error = named(&files.map(|path| (path, b"1".as_slice())));
            assert!(matches!(error, PackageError::Broken { .. }), "{error}");
        }
        for files in [["A", "a"], ["a", "a/b"], ["A/b", "a/c"]] {
            let error = named(&files.map(|path| (path, b"1".as_slice())));
            assert!(matches!(error, PackageError::Twins { .. }), "{files:?}: {error}");
        }
        let deep = "d/".repeat(DEPTH_MAX + 1) + "f";
        assert!(matches!(named(&[(&deep, b"1")]), PackageError::TooLarge { .. }));
        assert!(matches!(Package::from_archive(&[]), Err(PackageError::Empty)));
        let mut endless = archive(&[("a", b"1")]);
        endless[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(Package::from_archive(&endless), Err(PackageError::Broken { .. })));
        let many: Vec<String> = (0..crate::ENTRIES_MAX).map(|it| format!("{it:05}/f")).collect();
        let many: Vec<(&str, &[u8])> = many.iter().map(|it| (it.as_str(), &b""[..])).collect();
        assert!(matches!(named(&many), PackageError::TooLarge { what: "entries", .. }));
    }
}
