//! `millrace build`: compiles wasm functions with cargo and puts each component where the manifest
//! says. A component is replaced in one step, and only by one that is another.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use function::{FILE_NAME, FunctionSpec, Manifest};

use super::error::{CommandError, exit};
use super::program::{program, quoted};

/// Compiles the functions of an application.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace build                          every function of the application in this folder
  millrace build examples/weather         of another application
  millrace build . tidy gale              these functions only")]
pub struct BuildArgs {
    /// The application's folder, where millrace.toml lies.
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// The functions to build; all of them by default.
    pub functions: Vec<String>,
}

/// What functions are compiled for.
const TARGET: &str = "wasm32-wasip2";

/// A component's memory at its start, bytes: the stack (1 MiB), and room for a batch and its answer.
/// Each time that memory grows, and each time that it is taken back for the next instance, is a call
/// of the kernel that every core has to hear of.
const MEMORY_BYTES: usize = 2 << 20;

/// The first bytes of a component: the magic number, version 13, layer 1.
const COMPONENT_HEAD: [u8; 8] = *b"\0asm\x0d\0\x01\0";

/// A function that was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// The component, as the manifest names it.
    pub component: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Whether it is another than before.
    pub is_changed: bool,
    /// How long it took.
    pub took: Duration,
}

/// Carries it out.
///
/// # Errors
///
/// `E0106` without cargo, `E0107` without the target, `E0108` if a function does not compile,
/// `E0109` if that makes no component, and the mistakes of the manifest.
pub fn run(args: &BuildArgs) -> Result<(), CommandError> {
    let (dir, functions) = folder_and_functions(args, Path::new(".").join(FILE_NAME).is_file());
    let manifest = Manifest::load_unbuilt(&dir)?;
    let chosen = choose(&manifest, &functions)?;
    let mut built = 0;
    for function in chosen {
        if !is_crate(&dir, function) {
            if !functions.is_empty() {
                let folder = dir.join(&function.path);
                let message = format!("{} has no Cargo.toml", folder.display());
                return Err(CommandError::new(exit::FAILED, "E0112", message));
            }
            writeln!(io::stderr(), "skipped {}: it has no Cargo.toml", function.name)?;
            continue;
        }
        writeln!(io::stderr(), "building {} with cargo for {TARGET}", function.name)?;
        let done = build_function(&dir, function)?;
        report(&mut io::stdout().lock(), function, &done)?;
        built += 1;
    }
    if built == 0 {
        writeln!(io::stderr(), "nothing to build")?;
    }
    let folder = if dir == Path::new(".") {
        String::new()
    } else {
        format!(" {}", quoted(&dir.to_string_lossy()))
    };
    writeln!(io::stderr(), "next: {} dev{folder}", program())?;
    Ok(())
}

/// `millrace build tidy` means the function where there is no such application.
fn folder_and_functions(args: &BuildArgs, is_in_app: bool) -> (PathBuf, Vec<String>) {
    let mut functions = args.functions.clone();
    let text = args.dir.to_string_lossy();
    if is_in_app && function::Name::parse(&text).is_ok() && !args.dir.join(FILE_NAME).is_file() {
        functions.insert(0, text.into_owned());
        return (PathBuf::from("."), functions);
    }
    (args.dir.clone(), functions)
}

fn choose<'m>(
    manifest: &'m Manifest,
    names: &[String],
) -> Result<Vec<&'m FunctionSpec>, CommandError> {
    if names.is_empty() {
        return Ok(manifest.functions.iter().collect());
    }
    let find = |name: &String| {
        manifest.function(name).ok_or_else(|| {
            let message = format!("no function `{}`", name.escape_debug());
            let all: Vec<&str> = manifest.functions.iter().map(|one| one.name.as_str()).collect();
            let error = CommandError::new(exit::NOT_FOUND, "E0105", message);
            error.help(format!("functions are {}", all.join(", ")))
        })
    };
    names.iter().map(find).collect()
}

/// Whether a function is a cargo crate, and so can be built.
#[must_use]
pub fn is_crate(dir: &Path, function: &FunctionSpec) -> bool {
    dir.join(&function.path).join("Cargo.toml").is_file()
}

fn report(
    out: &mut impl Write,
    function: &FunctionSpec,
    built: &Built,
) -> Result<(), CommandError> {
    let size = built.bytes.div_ceil(1024);
    let change = if built.is_changed { "" } else { ", unchanged" };
    let path = built.component.strip_prefix(".").unwrap_or(&built.component);
    let (name, path) = (&function.name, path.display());
    let took = built.took.as_secs_f64();
    writeln!(out, "built {name}  {size} KiB  {path}  ({took:.1} s{change})")?;
    Ok(())
}

/// Compiles one function and puts its component in place. Cargo's own messages go to stderr.
///
/// # Errors
///
/// As for [`run`].
pub fn build_function(dir: &Path, function: &FunctionSpec) -> Result<Built, CommandError> {
    let started_at = Instant::now();
    let folder = dir.join(&function.path);
    check_target(&folder)?;
    let artifact = cargo_build(&folder, function)?;
    let bytes =
        fs::read(&artifact).map_err(|error| CommandError::file("read", &artifact, &error))?;
    if !bytes.starts_with(&COMPONENT_HEAD) {
        let message = format!("{} is no component", artifact.display());
        let error = CommandError::new(exit::FAILED, "E0301", message);
        return Err(error.help(format!("functions are compiled for {TARGET}, with Rust 1.82 on")));
    }
    if bytes.len() as u64 > function::FILE_BYTES_MAX {
        let most = function::format_bytes(function::FILE_BYTES_MAX);
        let message = format!("the component of `{}` is larger than {most}", function.name);
        return Err(CommandError::new(exit::FAILED, "E0220", message));
    }
    let component = folder.join(&function.handler);
    let is_changed = replace(&component, &bytes)?;
    Ok(Built { component, bytes: bytes.len() as u64, is_changed, took: started_at.elapsed() })
}

/// Puts bytes in place in one step, unless they are there. Whoever reads sees the old or the new.
fn replace(path: &Path, bytes: &[u8]) -> Result<bool, CommandError> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(false);
    }
    let dir = path.parent().unwrap_or_else(|| Path::new("."));
    let write = || -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".millrace-").tempfile_in(dir)?;
        file.write_all(bytes)?;
        // A temporary file is its maker's alone; a component is as readable as its sources.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.as_file().set_permissions(mode)?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|error| CommandError::file("write", path, &error))?;
    Ok(true)
}

/// A program of the Rust tools: the one that the environment names, else by its name.
fn tool(variable: &str, name: &str) -> OsString {
    env::var_os(variable).filter(|path| !path.is_empty()).unwrap_or_else(|| name.into())
}

/// A tool in a function's folder. What was meant for the compilation of something else, such as
/// the node that this runs in, does not reach the function's.
fn command(variable: &str, name: &str, folder: &Path) -> Command {
    let mut command = Command::new(tool(variable, name));
    command.current_dir(folder);
    for foreign in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTDOCFLAGS"] {
        command.env_remove(foreign);
    }
    command
}

fn not_installed(tool: &str, error: &io::Error) -> CommandError {
    let message = format!("cannot run {tool}: {error}");
    CommandError::new(exit::FAILED, "E0106", message).help("install Rust: https://rustup.rs")
}

/// Whether the compiler of this folder has the target's standard library.
fn check_target(folder: &Path) -> Result<(), CommandError> {
    let mut rustc = command("RUSTC", "rustc", folder);
    rustc.args(["--print", "target-libdir", "--target", TARGET]).stderr(Stdio::null());
    let output = rustc.output().map_err(|error| not_installed("rustc", &error))?;
    let libdir = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && Path::new(libdir.trim()).is_dir() {
        return Ok(());
    }
    let message = format!("the target {TARGET} is not installed");
    Err(CommandError::new(exit::FAILED, "E0107", message)
        .help(format!("rustup target add {TARGET}")))
}

/// Runs cargo; gives the one component that it made.
fn cargo_build(folder: &Path, function: &FunctionSpec) -> Result<PathBuf, CommandError> {
    let mut cargo = command("CARGO", "cargo", folder);
    let memory = format!("link-arg=--initial-memory={MEMORY_BYTES}");
    cargo
        .arg("--config")
        .arg(format!("target.{TARGET}.rustflags = [\"-C\", \"{memory}\"]"))
        .args(["build", "--release", "--target", TARGET, "--target-dir", "target"])
        .arg("--message-format=json-render-diagnostics")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let child = cargo.spawn().map_err(|error| not_installed("cargo", &error))?;
    let output = child.wait_with_output().map_err(|error| not_installed("cargo", &error))?;
    if !output.status.success() {
        let message = format!("function `{}` does not compile", function.name);
        let error = CommandError::new(exit::FAILED, "E0108", message);
        return Err(error.help("cargo says why, above; the component of before is untouched"));
    }
    let manifest = folder.join("Cargo.toml");
    let manifest = manifest.canonicalize().unwrap_or(manifest);
    let mut made = artifacts(&String::from_utf8_lossy(&output.stdout), &manifest);
    match (made.pop(), made.is_empty()) {
        (Some(one), true) => Ok(one),
        (one, _) => {
            let count = made.len() + usize::from(one.is_some());
            let message = format!("function `{}` made {count} components", function.name);
            let error = CommandError::new(exit::FAILED, "E0109", message);
            Err(error.help("one is needed: `[lib] crate-type = [\"cdylib\"]` in its Cargo.toml"))
        }
    }
}

/// The `.wasm` files of the crate with this manifest, out of cargo's messages.
fn artifacts(messages: &str, manifest: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for message in messages.lines().filter_map(|line| serde_json::from_str(line).ok()) {
        let message: serde_json::Value = message;
        let is_ours = message["reason"] == "compiler-artifact"
            && message["manifest_path"].as_str().is_some_and(|path| Path::new(path) == manifest);
        if !is_ours {
            continue;
        }
        let files = message["filenames"].as_array().into_iter().flatten();
        let files = files.filter_map(|file| file.as_str()).map(PathBuf::from);
        found.extend(files.filter(|file| file.extension().is_some_and(|end| end == "wasm")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(dir: &str, functions: &[&str]) -> BuildArgs {
        let functions = functions.iter().map(|name| (*name).to_owned()).collect();
        BuildArgs { dir: dir.into(), functions }
    }

    #[test]
    fn a_lone_name_is_a_function_of_the_application_here() {
        let (dir, functions) = folder_and_functions(&args("tidy", &["gale"]), true);
        assert_eq!((dir, functions), (".".into(), vec!["tidy".to_owned(), "gale".to_owned()]));
        let (dir, functions) = folder_and_functions(&args("tidy", &[]), false);
        assert_eq!((dir, functions), ("tidy".into(), Vec::new()));
        let (dir, functions) = folder_and_functions(&args("examples/weather", &[]), true);
        assert_eq!((dir, functions), ("examples/weather".into(), Vec::new()));
    }

    #[test]
    fn a_function_that_is_not_there_is_named_with_those_that_are() {
        let text = "[app]\nname = \"x\"\n[function.tidy]\nruntime = \"wasm\"\n\
            handler = \"tidy.wasm\"\npath = \"functions/tidy\"\n";
        let manifest = Manifest::parse(text, "millrace.toml").unwrap();
        assert_eq!(choose(&manifest, &[]).unwrap().len(), 1);
        let error = choose(&manifest, &["tidi".to_owned()]).unwrap_err();
        assert_eq!((error.exit, error.code), (exit::NOT_FOUND, Some("E0105")));
        assert!(error.help.unwrap().contains("tidy"));
    }

    #[test]
    fn a_component_is_replaced_by_another_and_only_by_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tidy.wasm");
        assert!(replace(&path, b"1").unwrap());
        assert!(!replace(&path, b"1").unwrap());
        assert!(replace(&path, b"2").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"2");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn only_the_crate_itself_counts_among_cargos_messages() {
        let messages = r#"
            {"reason":"compiler-artifact","manifest_path":"/a/Cargo.toml","filenames":["/t/a.wasm"]}
            {"reason":"compiler-artifact","manifest_path":"/b/Cargo.toml","filenames":["/t/b.wasm"]}
            {"reason":"compiler-artifact","manifest_path":"/a/Cargo.toml","filenames":["/t/a.rlib"]}
            {"reason":"build-finished","success":true}
            not json"#;
        assert_eq!(artifacts(messages, Path::new("/a/Cargo.toml")), [Path::new("/t/a.wasm")]);
    }
}
