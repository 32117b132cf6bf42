//! `millrace new`: an application that works, with one function in Python, in JavaScript, or in
//! Rust with the crate that functions are written with, so that nothing else is needed for it.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use function::Name;

use super::error::{CommandError, exit};
use super::program::{program, quoted};

/// Makes a new application.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace new greenhouse                        a folder greenhouse with all that is needed
  millrace new work/greenhouse                   the same in another place
  millrace new greenhouse --template python      the same function in Python
  millrace new greenhouse --template node        in JavaScript")]
pub struct NewArgs {
    /// The application's name, or the path of its folder, which ends with the name.
    pub name: PathBuf,
    /// What to start from. rust-wasm: a function in Rust, compiled to WebAssembly; python, node: one
    /// in Python or JavaScript, run by the interpreter of this machine.
    #[arg(long, value_name = "TEMPLATE", default_value = "rust-wasm")]
    pub template: String,
}

/// A file of a new application: its path, and its text. `{{app}}` stands for the name.
type Template = (&'static str, &'static str);

const PYTHON: [Template; 4] = [
    ("millrace.toml", include_str!("template/python/millrace.toml.in")),
    ("README.md", include_str!("template/python/README.md.in")),
    (".gitignore", include_str!("template/python/gitignore.in")),
    ("functions/hot-alert/app.py", include_str!("template/python/app.py.in")),
];

const NODE: [Template; 4] = [
    ("millrace.toml", include_str!("template/node/millrace.toml.in")),
    ("README.md", include_str!("template/node/README.md.in")),
    (".gitignore", include_str!("template/node/gitignore.in")),
    ("functions/hot-alert/index.mjs", include_str!("template/node/index.mjs.in")),
];

const RUST_WASM: [Template; 5] = [
    ("millrace.toml", include_str!("template/rust-wasm/millrace.toml.in")),
    ("README.md", include_str!("template/rust-wasm/README.md.in")),
    (".gitignore", include_str!("template/rust-wasm/gitignore.in")),
    ("functions/hot-alert/Cargo.toml", include_str!("template/rust-wasm/Cargo.toml.in")),
    ("functions/hot-alert/src/lib.rs", include_str!("template/rust-wasm/lib.rs.in")),
];

/// The crates that functions are written with. They are in no registry, so the application gets
/// the sources that this very node was built with: the two always understand each other.
const VENDOR: [Template; 8] = [
    ("vendor/guest/Cargo.toml", include_str!("../../guest/Cargo.toml")),
    ("vendor/guest/src/lib.rs", include_str!("../../guest/src/lib.rs")),
    ("vendor/guest/wit/function.wit", include_str!("../../guest/wit/function.wit")),
    ("vendor/frame/Cargo.toml", include_str!("../../frame/Cargo.toml")),
    ("vendor/frame/src/lib.rs", include_str!("../../frame/src/lib.rs")),
    ("vendor/frame/src/request.rs", include_str!("../../frame/src/request.rs")),
    ("vendor/frame/src/response.rs", include_str!("../../frame/src/response.rs")),
    ("vendor/frame/src/wire.rs", include_str!("../../frame/src/wire.rs")),
];

/// The templates of this version: their files, what is vendored beside them, and what comes next.
const TEMPLATES: [(&str, &[Template], &[Template], &str); 3] = [
    ("rust-wasm", &RUST_WASM, &VENDOR, "build"),
    ("python", &PYTHON, &[], "dev"),
    ("node", &NODE, &[], "dev"),
];

/// Carries it out.
///
/// # Errors
///
/// `E0208` for a name that cannot be one, `E0103` for an unknown template, `E0102` if the folder
/// holds something, `E0110` if a file cannot be written.
pub fn run(args: &NewArgs) -> Result<(), CommandError> {
    run_to(args, &mut io::stdout().lock())
}

fn run_to(args: &NewArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let name = parse_name(&args.name)?;
    let Some((_, files, vendored, next)) = TEMPLATES.iter().find(|it| it.0 == args.template) else {
        let message = format!("no template `{}`", args.template.escape_debug());
        let error = CommandError::new(exit::USAGE, "E0103", message);
        return Err(error.help(format!("templates are {}", TEMPLATES.map(|it| it.0).join(", "))));
    };
    let dir = &args.name;
    check_free(dir)?;
    for (path, text) in files.iter().chain(*vendored) {
        write(&dir.join(path), &text.replace("{{app}}", name.as_str()))?;
    }
    let shown = dir.display();
    writeln!(out, "made {shown}/: the function hot-alert, from topic readings to topic alerts")?;
    let folder = quoted(&dir.to_string_lossy());
    writeln!(out, "next: cd {folder} && {} {next}", program())?;
    Ok(())
}

fn parse_name(path: &Path) -> Result<Name, CommandError> {
    let text = path.file_name().unwrap_or_default().to_string_lossy();
    Name::parse(&text).map_err(|error| {
        let message = format!("{text:?} cannot be the name of an application: {error}");
        let one = CommandError::new(exit::USAGE, "E0208", message);
        match Name::near(&text) {
            Some(near) => one.help(format!("did you mean `{near}`?")),
            None => one,
        }
    })
}

/// Refuses a folder that holds something.
fn check_free(dir: &Path) -> Result<(), CommandError> {
    let is_empty = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => false,
        Err(error) => return Err(CommandError::file("look into", dir, &error)),
    };
    if is_empty {
        return Ok(());
    }
    let message = format!("{} is there already", dir.display());
    Err(CommandError::new(exit::CONFLICT, "E0102", message).help("choose another name"))
}

fn write(path: &Path, text: &str) -> Result<(), CommandError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| CommandError::file("make", parent, &error))?;
    }
    fs::write(path, text).map_err(|error| CommandError::file("write", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(path: PathBuf, template: &str) -> Result<String, CommandError> {
        let mut out = Vec::new();
        run_to(&NewArgs { name: path, template: template.to_owned() }, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_new_application_has_a_manifest_without_a_mistake() {
        for (template, files, vendored, next) in TEMPLATES {
            let dir = tempfile::tempdir().unwrap();
            let app = dir.path().join("greenhouse");
            let said = made(app.clone(), template).unwrap();
            assert!(said.contains("next: cd ") && said.trim_end().ends_with(next), "{said}");
            let manifest = function::Manifest::load_unbuilt(&app).unwrap();
            assert_eq!(manifest.app, "greenhouse");
            assert!(manifest.warnings.is_empty(), "{}", manifest.warnings);
            for (path, _) in files.iter().chain(vendored) {
                let text = fs::read_to_string(app.join(path)).unwrap();
                assert!(!text.contains("{{"), "{path}");
            }
            let again = made(app, template).unwrap_err();
            assert_eq!((again.exit, again.code), (exit::CONFLICT, Some("E0102")));
        }
    }

    #[test]
    fn what_cannot_be_made_is_refused_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let error = made(dir.path().join("Green House"), "node").unwrap_err();
        assert_eq!((error.exit, error.code), (exit::USAGE, Some("E0208")));
        assert_eq!(error.help.as_deref(), Some("did you mean `green-house`?"));
        let args = NewArgs { name: dir.path().join("x"), template: "cobol".to_owned() };
        assert_eq!(run_to(&args, &mut Vec::new()).unwrap_err().code, Some("E0103"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    /// A file added to one of the crates would be missing from every new application.
    #[test]
    fn all_sources_of_the_vendored_crates_are_embedded() {
        let node = Path::new(env!("CARGO_MANIFEST_DIR"));
        for folder in ["guest/src", "guest/wit", "frame/src"] {
            for entry in fs::read_dir(node.join(folder)).unwrap().map(Result::unwrap) {
                let name = entry.file_name().into_string().unwrap();
                let path = format!("vendor/{folder}/{name}");
                let is_test = name.starts_with("tests");
                assert!(is_test || VENDOR.iter().any(|(vendored, _)| *vendored == path), "{path}");
            }
        }
    }
}
