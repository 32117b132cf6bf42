//! How this program is typed: what every "next:" line starts with, so that it works as printed.

use std::env;
use std::path::{Path, PathBuf};

/// The command that starts this very program: its name if PATH leads to it, else its path.
#[must_use]
pub fn program() -> String {
    let exe = env::current_exe().unwrap_or_else(|_| PathBuf::from("millrace"));
    typed(&exe, env::var_os("PATH").as_deref())
}

fn typed(exe: &Path, path: Option<&std::ffi::OsStr>) -> String {
    let name = exe.file_name().unwrap_or_default();
    let real = exe.canonicalize().unwrap_or_else(|_| exe.to_owned());
    // The first of that name decides, as in a shell.
    let first = path.into_iter().flat_map(env::split_paths).map(|dir| dir.join(name));
    let first = first.filter(|candidate| candidate.is_file()).find_map(|at| at.canonicalize().ok());
    if first == Some(real) {
        return name.to_string_lossy().into_owned();
    }
    quoted(&exe.to_string_lossy())
}

/// A word as a POSIX shell takes it.
#[must_use]
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:=,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_on_path_is_typed_by_name_and_another_by_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let exe = dir.path().join("millrace");
        std::fs::write(&exe, "").unwrap();
        assert_eq!(typed(&exe, Some(dir.path().as_os_str())), "millrace");
        assert_eq!(typed(&exe, Some("/nowhere".as_ref())), exe.display().to_string());
        let other = tempfile::tempdir().unwrap();
        std::fs::write(other.path().join("millrace"), "").unwrap();
        let both = env::join_paths([other.path(), dir.path()]).unwrap();
        assert_eq!(typed(&exe, Some(&both)), exe.display().to_string());
    }

    #[test]
    fn words_are_quoted_where_a_shell_would_split_them() {
        assert_eq!(quoted("a/b.c"), "a/b.c");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
