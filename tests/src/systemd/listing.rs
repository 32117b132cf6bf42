//! All files of a machine with what they are, and what became of them between two listings.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::promise::{During, NotShown};

/// What of a machine is no file of its own.
const NOT_FILES: &[&str] = &["/proc", "/sys", "/dev"];

/// What a file is, apart from what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    mode: u32,
    owner: (u32, u32),
    /// Of a folder these say which files it has, and those are listed.
    size_and_time: Option<(u64, i64, i64)>,
    link: Option<PathBuf>,
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It was not there.
    Added,
    /// It is not there any more.
    Gone,
    /// It is another.
    Changed,
}

/// All files below a root, by their absolute paths in it.
#[derive(Clone, Debug, Default)]
pub(super) struct Listing(BTreeMap<String, Entry>);

impl Listing {
    /// Of a machine's root.
    ///
    /// # Errors
    ///
    /// When a folder cannot be read.
    pub(super) fn of(root: &Path) -> Result<Self, NotShown> {
        let mut entries = BTreeMap::new();
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            let path = root.join(folder.trim_start_matches('/'));
            for entry in std::fs::read_dir(&path).during(format!("list {folder}/"))? {
                let entry = entry.during("list a folder")?;
                let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
                if NOT_FILES.contains(&name.as_str()) {
                    continue;
                }
                let is = entry.metadata().during(format!("look at {name}"))?;
                if is.is_dir() {
                    folders.push(name.clone());
                }
                entries.insert(
                    name,
                    Entry {
                        mode: is.mode(),
                        owner: (is.uid(), is.gid()),
                        size_and_time: (!is.is_dir())
                            .then(|| (is.size(), is.mtime(), is.mtime_nsec())),
                        link: std::fs::read_link(entry.path()).ok(),
                    },
                );
            }
        }
        Ok(Self(entries))
    }

    /// What differs from an earlier one.
    pub(super) fn since(&self, before: &Self) -> BTreeMap<String, Change> {
        let mut changes = BTreeMap::new();
        for (path, entry) in &self.0 {
            match before.0.get(path) {
                None => drop(changes.insert(path.clone(), Change::Added)),
                Some(was) if was != entry => drop(changes.insert(path.clone(), Change::Changed)),
                Some(_) => {}
            }
        }
        for path in before.0.keys().filter(|path| !self.0.contains_key(*path)) {
            changes.insert(path.clone(), Change::Gone);
        }
        changes
    }
}

/// Those changes that nobody expects. `/a/b` stands for itself, `/a/b/**` for all below it too.
pub(super) fn unexpected(
    changes: &BTreeMap<String, Change>,
    expected: &[&str],
) -> Vec<(String, Change)> {
    let is_expected = |path: &str| {
        expected.iter().any(|it| match it.strip_suffix("/**") {
            Some(folder) => path == folder || path.starts_with(&format!("{folder}/")),
            None => path == *it,
        })
    };
    let changes = changes.iter().filter(|(path, _)| !is_expected(path));
    changes.map(|(path, change)| (path.clone(), *change)).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn says_what_came_went_and_changed_and_what_of_it_nobody_expects() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("etc/mill")).unwrap();
        std::fs::write(root.join("etc/stays"), "a").unwrap();
        std::fs::write(root.join("etc/goes"), "a").unwrap();
        let before = Listing::of(root).unwrap();
        assert!(before.since(&before).is_empty());
        std::fs::remove_file(root.join("etc/goes")).unwrap();
        std::fs::write(root.join("etc/mill/new"), "a").unwrap();
        let other = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(root.join("etc/mill"), other).unwrap();
        let changes = Listing::of(root).unwrap().since(&before);
        let wanted = [
            ("/etc/goes", Change::Gone),
            ("/etc/mill", Change::Changed),
            ("/etc/mill/new", Change::Added),
        ];
        assert_eq!(changes, wanted.map(|(path, it)| (path.to_owned(), it)).into());
        assert_eq!(unexpected(&changes, &["/etc/mill/**"]).len(), 1);
        assert_eq!(unexpected(&changes, &["/etc/mill", "/etc/goes"]).len(), 1);
    }
}
