//! Which executable runs a function: an interpreter of this machine, looked for once and by its
//! own account, or the package's own `bootstrap`.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long an interpreter may take to say what it is.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a function is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Language {
    /// Python 3, of this minor version where one is named.
    Python(Option<u8>),
    /// Node.js, of this major version where one is named.
    Node(Option<u16>),
    /// Whatever the package's `bootstrap` is.
    Provided,
}

/// An executable that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// What it runs.
    pub language: Language,
    /// Its path; empty for [`Language::Provided`], where the package has it.
    pub path: PathBuf,
    /// Its version, as it says.
    pub version: String,
}

/// There is no such executable here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{language} is not on this machine: {reason}")]
pub struct Missing {
    /// What was wanted.
    pub language: Language,
    /// What was looked for, and what was found instead.
    pub reason: String,
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Python(None) => f.write_str("python3"),
            Self::Python(Some(minor)) => write!(f, "python3.{minor}"),
            Self::Node(None) => f.write_str("node"),
            Self::Node(Some(major)) => write!(f, "node{major}"),
            Self::Provided => f.write_str("provided"),
        }
    }
}

impl Language {
    /// The name of its executable.
    fn executable(self) -> String {
        match self {
            // Installations of Node.js carry no version in their name.
            Self::Node(_) => "node".to_owned(),
            other => other.to_string(),
        }
    }

    /// What makes it print its own path and version, a line each.
    const fn question(self) -> [&'static str; 2] {
        match self {
            Self::Node(_) => ["-e", "console.log(process.execPath+'\\n'+process.versions.node)"],
            _ => [
                "-c",
                "import sys;print(sys.executable);print('.'.join(map(str,sys.version_info[:3])))",
            ],
        }
    }

    /// Whether a version is the one that is named.
    fn fits(self, version: &str) -> bool {
        let mut numbers = version.split('.').map(|it| it.parse::<u16>().ok());
        let (major, minor) = (numbers.next().flatten(), numbers.next().flatten());
        match self {
            Self::Python(named) => {
                major == Some(3) && named.is_none_or(|it| minor == Some(u16::from(it)))
            }
            Self::Node(named) => named.is_none_or(|it| major == Some(it)),
            Self::Provided => true,
        }
    }

    /// Looks for it in the folders of `path`, as PATH has them. Asks what it finds, so that a
    /// wrapper which only leads elsewhere is paid for once. Blocks.
    ///
    /// # Errors
    ///
    /// What was looked for, and where.
    pub fn find(self, path: Option<&OsStr>) -> Result<Program, Missing> {
        if self == Self::Provided {
            let (path, version) = (PathBuf::new(), String::new());
            return Ok(Program { language: self, path, version });
        }
        let missing = |reason: String| Missing { language: self, reason };
        let name = self.executable();
        let folders: Vec<PathBuf> =
            path.map(|path| std::env::split_paths(path).collect()).unwrap_or_default();
        let places = folders.iter().map(|folder| folder.join(&name));
        let found: Vec<PathBuf> = places.filter(|it| is_executable(it)).collect();
        if found.is_empty() {
            let shown: Vec<String> = folders.iter().map(|it| it.display().to_string()).collect();
            return Err(missing(format!("looked for `{name}` in {}", shown.join(", "))));
        }
        let mut tried = Vec::new();
        for place in found {
            match ask(self, &place) {
                Ok((path, version)) if self.fits(&version) => {
                    return Ok(Program { language: self, path, version });
                }
                Ok((_, version)) => tried.push(format!("{} is {version}", place.display())),
                Err(reason) => tried.push(format!("{} {reason}", place.display())),
            }
        }
        Err(missing(tried.join("; ")))
    }
}

fn is_executable(path: &Path) -> bool {
    let found = path.metadata();
    found.is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

/// What an interpreter says of itself.
#[expect(clippy::disallowed_methods, reason = "runs on a thread for what blocks")]
fn ask(language: Language, place: &Path) -> Result<(PathBuf, String), String> {
    let mut command = Command::new(place);
    command.args(language.question()).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("does not run: {error}"))?;
    let until = Instant::now() + PATIENCE;
    while child.try_wait().map_err(|error| error.to_string())?.is_none() {
        if until < Instant::now() {
            drop(child.kill().and_then(|()| child.wait()));
            return Err("does not answer".to_owned());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    match (lines.next(), lines.next()) {
        (Some(path), Some(version)) if output.status.success() && path.starts_with('/') => {
            Ok((path.into(), version.trim().to_owned()))
        }
        _ => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().find(|line| !line.is_empty()).unwrap_or_default();
            Err(format!("does not say what it is: {}", crate::logs::escaped(said)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(dir: &Path, name: &str, text: &str) {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn what_is_missing_says_where_it_was_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = Some(dir.path().as_os_str());
        let error = Language::Python(Some(99)).find(path).unwrap_err().to_string();
        assert!(error.starts_with("python3.99 is not on this machine: looked for"), "{error}");
        assert!(error.contains(&dir.path().display().to_string()), "{error}");
        script(dir.path(), "node", "#!/bin/sh\necho /opt/node; echo 18.1.0\n");
        let error = Language::Node(Some(20)).find(path).unwrap_err().to_string();
        assert!(error.contains("is 18.1.0"), "{error}");
        script(dir.path(), "python3", "#!/bin/sh\necho 'no such version' >&2; exit 127\n");
        let error = Language::Python(None).find(path).unwrap_err().to_string();
        assert!(error.contains("no such version"), "{error}");
    }

    #[test]
    fn what_is_found_says_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        script(dir.path(), "python3.12", "#!/bin/sh\necho /opt/python; echo 3.12.1\n");
        script(dir.path(), "node", "#!/bin/sh\necho /opt/node; echo 20.2.0\n");
        let path = Some(dir.path().as_os_str());
        let python = Language::Python(Some(12)).find(path).unwrap();
        assert_eq!((python.path, python.version), ("/opt/python".into(), "3.12.1".to_owned()));
        assert_eq!(Language::Node(Some(20)).find(path).unwrap().version, "20.2.0");
        assert_eq!(Language::Provided.find(None).unwrap().path, PathBuf::new());
    }
}
