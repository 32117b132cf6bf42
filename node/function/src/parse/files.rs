//! Whether the files that a manifest names are there, within the application's folder.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use super::check::is_inside;
use super::kinds::{Draft, FeedDraft, FunctionDraft};
use super::log::Log;
use super::{Require, suggest};
use crate::{Runtime, code};

/// Checks every file and folder of the draft.
pub(super) fn check(log: &Log<'_>, draft: &Draft, dir: &Path, require: Require) {
    for function in draft.functions.iter().filter(|function| function.has_runtime) {
        check_function(log, function, dir, require);
    }
    if let Some(feed) = &draft.feed {
        check_feed(log, feed, dir);
    }
}

fn check_function(log: &Log<'_>, function: &FunctionDraft, dir: &Path, require: Require) {
    let Some(path) = function.path.as_ref().filter(|path| is_inside(&path.value)) else { return };
    let name = &function.spec.name;
    let folder = dir.join(&path.value);
    if !folder.is_dir() {
        let message = format!("the folder of function `{name}` is not there");
        let error = log.error(code::MISSING_FILE, &path.span, message).note("not a folder");
        let error = error.tried(folder.display().to_string());
        let meant = nearest_sibling(dir, &path.value).map(|meant| format!("path = \"{meant}\""));
        log.push(error.suggest(meant));
        return;
    }
    match function.spec.runtime {
        Runtime::Wasm => check_component(log, function, &folder, require),
        Runtime::Python(_) => check_module(log, function, &folder, &[".py", "/__init__.py"]),
        Runtime::Node(_) => check_module(log, function, &folder, &[".js", ".mjs", ".cjs"]),
        Runtime::Provided => check_bootstrap(log, function, &folder, require),
    }
}

fn check_component(log: &Log<'_>, function: &FunctionDraft, folder: &Path, require: Require) {
    let name = &function.spec.name;
    let Some(handler) = &function.handler else { return };
    if handler.value.contains(['/', '\\', '\0']) || handler.value.starts_with('.') {
        let message = format!("{:?} is not the name of a file", handler.value);
        let error = log.error(code::BAD_PATH, &handler.span, message);
        log.push(error.note("for wasm, the component's file inside `path`"));
        return;
    }
    let component = folder.join(&handler.value);
    if require == Require::Everything && !component.is_file() {
        let message = format!("the component of function `{name}` is not there");
        let error = log.error(code::MISSING_FILE, &handler.span, message).note("no such file");
        let error = error.tried(component.display().to_string());
        let is_crate = folder.join("Cargo.toml").is_file();
        log.push(if is_crate {
            error.help("`millrace build` makes it")
        } else {
            error.suggest(nearest_in(folder, &handler.value))
        });
    }
}

/// Whether the file is there that `module.function` names.
fn check_module(log: &Log<'_>, function: &FunctionDraft, folder: &Path, endings: &[&str]) {
    let Some(handler) = &function.handler else { return };
    let name = &function.spec.name;
    let Some((module, _)) = handler
        .value
        .rsplit_once('.')
        .filter(|(module, called)| !module.is_empty() && !called.is_empty() && is_inside(module))
    else {
        let message = format!("{:?} is not a module and a function of it", handler.value);
        let error = log.error(code::BAD_PATH, &handler.span, message);
        let error = error.note("the file's name without its ending, a dot, the function's name");
        log.push(error.help("write it as `handler = \"app.handler\"`"));
        return;
    };
    let mut places = vec![module.to_owned()];
    // Python takes dots between folders too.
    if endings.contains(&".py") {
        places.push(module.replace('.', "/"));
    }
    let there =
        |place: &String| endings.iter().any(|it| folder.join(format!("{place}{it}")).is_file());
    if !places.iter().any(there) {
        let file = format!("{module}{}", endings[0]);
        let message = format!("the module of function `{name}` is not there");
        let error = log.error(code::MISSING_FILE, &handler.span, message).note("no such file");
        let error = error.tried(folder.join(&file).display().to_string());
        let (_, called) = handler.value.rsplit_once('.').unwrap_or_default();
        let near = nearest_in(folder, &file).and_then(|file| {
            let stem = endings.iter().find_map(|it| file.strip_suffix(it))?.to_owned();
            Some(format!("handler = \"{stem}.{called}\""))
        });
        log.push(error.suggest(near));
    }
}

/// Whether the package has an executable of its own.
fn check_bootstrap(log: &Log<'_>, function: &FunctionDraft, folder: &Path, require: Require) {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(path) = &function.path else { return };
    let (name, file) = (&function.spec.name, folder.join("bootstrap"));
    let found = file.metadata();
    let (message, note) = match &found {
        Ok(it) if it.is_file() && it.permissions().mode() & 0o111 != 0 => return,
        Ok(_) => (format!("the bootstrap of function `{name}` cannot be run"), "not executable"),
        Err(_) if require == Require::Sources => return,
        Err(_) => (format!("the bootstrap of function `{name}` is not there"), "no such file"),
    };
    let error = log.error(code::MISSING_FILE, &path.span, message).note(note);
    let error = error.tried(file.display().to_string());
    log.push(error.help("`provided` runs the executable file `bootstrap` of the folder"));
}

fn check_feed(log: &Log<'_>, feed: &FeedDraft, dir: &Path) {
    let Some(file) = feed.file.as_ref().filter(|file| is_inside(&file.value)) else { return };
    let path = dir.join(&file.value);
    if !path.is_file() {
        let error = log.error(code::MISSING_FEED, &file.span, "the file of the feed is not there");
        let error = error.note("no such file").tried(path.display().to_string());
        let meant = nearest_sibling(dir, &file.value).map(|meant| format!("file = \"{meant}\""));
        log.push(error.suggest(meant));
        return;
    }
    let Some(key) = &feed.key else { return };
    let Some(columns) = columns(&path) else { return };
    if !columns.contains(&key.value) {
        let message = format!("the feed has no column {:?}", key.value);
        let error = log.error(code::MISSING_FEED, &key.span, message);
        let error = error.note(format!("columns are {}", columns.join(", ")));
        let meant = suggest::nearest(&key.value, columns.iter().map(String::as_str));
        log.push(error.suggest(meant.map(|column| format!("key = \"{column}\""))));
    }
}

/// The columns of a CSV file, by its first line. `None` for other files and for unreadable ones:
/// who reads the whole file reports those.
fn columns(path: &Path) -> Option<Vec<String>> {
    const HEAD_BYTES_MAX: u64 = 64 << 10;
    path.extension().filter(|extension| extension.eq_ignore_ascii_case("csv"))?;
    let mut head = Vec::new();
    fs::File::open(path).ok()?.take(HEAD_BYTES_MAX).read_to_end(&mut head).ok()?;
    let line_end = head.iter().position(|byte| *byte == b'\n')?;
    let line = std::str::from_utf8(&head[..line_end]).ok()?.trim_start_matches('\u{feff}');
    let column = |name: &str| name.trim().trim_matches('"').to_owned();
    Some(line.trim_end_matches('\r').split(',').map(column).collect())
}

/// The path with its last part replaced by the nearest one that exists beside it.
fn nearest_sibling(dir: &Path, path: &str) -> Option<String> {
    let (parent, name) = match path.trim_end_matches('/').rsplit_once('/') {
        Some((parent, name)) => (format!("{parent}/"), name),
        None => (String::new(), path),
    };
    nearest_in(&dir.join(&parent), name).map(|meant| format!("{parent}{meant}"))
}

fn nearest_in(folder: &Path, name: &str) -> Option<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    suggest::nearest(name, names.iter().map(String::as_str)).map(str::to_owned)
}
