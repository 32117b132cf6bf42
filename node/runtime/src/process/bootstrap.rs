//! Our own bootstraps: where they are put, and how an interpreter is started with them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::program::{Language, Program};

const PYTHON: &str = include_str!("bootstrap/millrace_bootstrap.py");
const NODE: &str = include_str!("bootstrap/millrace_bootstrap.cjs");

/// Starts a Python function: the bootstrap is a module, so that its compiled form is kept.
const PYTHON_START: &str = "import sys;sys.path.insert(0,sys.argv[1]);\
    import millrace_bootstrap as it;it.main()";

/// Puts the bootstraps below `dir`, in a folder named after their content; gives the folder.
pub(super) fn install(dir: &Path) -> io::Result<PathBuf> {
    let mut hash = Sha256::new();
    hash.update(PYTHON);
    hash.update(NODE);
    let digest: [u8; 32] = hash.finalize().into();
    let name: String = digest[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    let parent = dir.join("bootstrap");
    fs::create_dir_all(&parent)?;
    let parent = parent.canonicalize()?;
    let folder = parent.join(name);
    if !folder.is_dir() {
        let draft = tempfile::tempdir_in(&parent)?;
        fs::write(draft.path().join("millrace_bootstrap.py"), PYTHON)?;
        fs::write(draft.path().join("millrace_bootstrap.cjs"), NODE)?;
        let draft = draft.keep();
        if let Err(error) = fs::rename(&draft, &folder) {
            drop(fs::remove_dir_all(&draft));
            if !folder.is_dir() {
                return Err(error);
            }
        }
    }
    Ok(folder)
}

/// The command line of a worker.
pub(super) fn command(program: &Program, runtime: &Path, package: &Path) -> Vec<String> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let executable = executable(program, package);
    match program.language {
        Language::Python(_) => {
            vec![executable, "-c".to_owned(), PYTHON_START.to_owned(), text(runtime)]
        }
        Language::Node(_) => vec![executable, text(&runtime.join("millrace_bootstrap.cjs"))],
        Language::Provided => vec![executable],
    }
}

/// The file that is run.
pub(super) fn executable(program: &Program, package: &Path) -> String {
    let path = match program.language {
        Language::Provided => package.join("bootstrap"),
        Language::Python(_) | Language::Node(_) => program.path.clone(),
    };
    path.to_string_lossy().into_owned()
}
