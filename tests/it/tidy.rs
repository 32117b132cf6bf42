//! House rules, read from the sources themselves.
//!
//! A rule is worth a test here when breaking it costs more than a review comment: who may name a
//! dependency, who may know whom, what a pure core may not touch, and that every file says what
//! it is for. Each rule is a function of a list of files, tried on a file that breaks it.

use std::path::{Path, PathBuf};

use millrace_tests::promises::PROMISES;

/// A dependency, and the only places that may name it, in code or in a manifest.
const OWNERS: &[(&str, &[&str])] = &[
    ("redb", &["bus/", "node/cluster/", "tests/"]),
    ("raft", &["node/cluster/"]),
    ("slog", &["node/cluster/"]),
    // The bench's peer and the stranger of the promise are QUIC without anything of ours.
    (
        "quinn",
        &[
            "node/exchange/",
            "node/subscriber/",
            "bench/",
            "tests/src/exchange/",
            "tests/Cargo.toml",
        ],
    ),
    (
        "rustls",
        &[
            "node/exchange/",
            "node/subscriber/",
            "bench/",
            "tests/src/exchange/",
            "tests/Cargo.toml",
        ],
    ),
    ("rcgen", &["node/exchange/", "bench/", "tests/src/exchange/", "tests/Cargo.toml"]),
    ("webpki", &["node/exchange/", "node/subscriber/"]),
    // The bench's peer, its load and its counts are rdkafka as people use it: none of ours.
    ("rdkafka", &["bus/", "bench/"]),
    ("rdkafka_ffi", &["bus/"]),
    ("sled", &["storage/"]),
    ("bincode", &["storage/src/codec.rs", "storage/Cargo.toml"]),
    ("wasmtime", &["node/runtime/"]),
    ("wasmtime_wasi", &["node/runtime/"]),
    ("axum", &["node/gateway/"]),
    ("hyper", &["node/gateway/", "node/runtime/"]),
    ("nix", &["node/runtime/"]),
    ("libc", &["node/runtime/src/process/spawner/", "node/runtime/Cargo.toml"]),
    ("notify", &["node/src/", "node/tests/", "node/Cargo.toml"]),
    ("opentelemetry", &["node/src/node/traces.rs", "node/Cargo.toml"]),
    ("opentelemetry_http", &["node/src/node/traces.rs", "node/Cargo.toml"]),
    ("opentelemetry_otlp", &["node/src/node/traces.rs", "node/Cargo.toml"]),
    ("opentelemetry_sdk", &["node/src/node/traces.rs", "node/Cargo.toml"]),
    ("ratatui", &["node/src/commands/top", "node/Cargo.toml"]),
    ("clap", &["node/src/", "node/tests/", "node/Cargo.toml"]),
    ("clap_complete", &["node/src/", "node/tests/", "node/Cargo.toml"]),
    ("clap_mangen", &["node/src/commands/man.rs", "node/Cargo.toml"]),
    ("sd_notify", &["node/src/service.rs", "node/Cargo.toml"]),
];

/// The floors, lowest first. A crate knows crates of lower floors only; storage borrows the words
/// of bus, and the guest those of the frame.
const FLOORS: &[&[&str]] = &[
    &["rdkafka-ffi", "iot"],
    &["bus", "frame", "filter", "live"],
    &["storage", "guest"],
    &["function", "exchange", "subscriber", "conformance"],
    &["cluster", "runtime"],
    &["dispatch"],
    &["gateway"],
    &["millrace"],
    &["bench", "tests"],
];

/// Crates that must not know each other although their floors would let them.
const STRANGERS: &[(&str, &str, &str)] = &[
    ("runtime", "bus", "a runtime does not know what a partition is"),
    ("runtime", "storage", "a runtime keeps nothing"),
    ("runtime", "cluster", "a runtime does not know who owns what"),
    ("cluster", "runtime", "a cluster does not run anything"),
    ("exchange", "bus", "what crosses between nodes is bytes to it"),
    ("exchange", "storage", "what crosses between nodes is bytes to it"),
    ("exchange", "frame", "what crosses between nodes is bytes to it"),
    ("subscriber", "exchange", "a subscriber is no node"),
    ("storage", "frame", "a store does not know what a function is"),
];

/// Where each crate lives.
const CRATES: &[(&str, &str)] = &[
    ("bus", "bus"),
    ("rdkafka-ffi", "bus/rdkafka-ffi"),
    ("storage", "storage"),
    ("frame", "node/frame"),
    ("filter", "node/filter"),
    ("guest", "node/guest"),
    ("function", "node/function"),
    ("runtime", "node/runtime"),
    ("dispatch", "node/dispatch"),
    ("cluster", "node/cluster"),
    ("exchange", "node/exchange"),
    ("live", "node/live"),
    ("subscriber", "node/subscriber"),
    ("gateway", "node/gateway"),
    ("millrace", "node"),
    ("tests", "tests"),
    ("conformance", "tests/conformance"),
    ("bench", "bench"),
    ("iot", "bench/iot"),
];

/// What a pure core may not touch: each is a way for the outside to leak in.
const IMPURE: &[&str] = &[
    ".await",
    "tokio::",
    "tracing::",
    "std::fs",
    "std::net",
    "Instant::now",
    "Timestamp::now",
    "SystemTime",
    "HashMap",
    "HashSet",
    "thread_rng",
    "rand::rng",
    "thread_local",
];

/// The cores there must be: a core that lost its marker is not looked at any more.
const CORES: &[&str] = &[
    "node/frame/",
    "node/filter/",
    "node/runtime/",
    "node/dispatch/src/offset_tracker.rs",
    "node/dispatch/src/shard.rs",
    "node/cluster/",
    "node/exchange/src/backoff.rs",
    "node/exchange/src/frame.rs",
    "node/exchange/src/token.rs",
    "node/gateway/src/merge.rs",
    "node/live/",
];

/// Files are split before they get longer.
const LINES_MAX: usize = 800;

/// Where `unsafe` may stand: the one call that loads a precompiled component, the spawner, what the
/// generated bindings of a guest expand to, and the border to librdkafka.
const UNSAFE: &[&str] = &[
    "node/runtime/src/wasm/engine.rs",
    "node/runtime/src/process/spawner/",
    "node/guest/src/",
    "bus/rdkafka-ffi/src/",
];

struct File {
    path: String,
    text: String,
}

impl File {
    /// Without its unit tests.
    fn code(&self) -> &str {
        self.text.split("#[cfg(test)]\nmod ").next().unwrap()
    }
}

#[test]
fn dependencies_are_named_where_they_belong() {
    let files = sources();
    assert_eq!(named_elsewhere(&files), NONE);
    let bad = [file("node/dispatch/src/lib.rs", "use sled::Db;")];
    assert_eq!(named_elsewhere(&bad).len(), 1, "the rule sees what breaks it");
    let bad = [file("node/dispatch/Cargo.toml", "[dependencies]\nsled = { workspace = true }")];
    assert_eq!(named_elsewhere(&bad).len(), 1, "the rule sees what breaks it");
}

#[test]
fn lower_floors_know_nothing_of_upper_ones() {
    let files = sources();
    assert_eq!(known_above(&files), NONE);
    let bad = [file("bus/Cargo.toml", "[dependencies]\nfunction = { workspace = true }")];
    assert_eq!(known_above(&bad).len(), 1, "the rule sees what breaks it");
    let bad = [file("node/runtime/Cargo.toml", "[dev-dependencies]\nbus.workspace = true")];
    assert_eq!(known_above(&bad).len(), 1, "the rule sees what breaks it");
}

#[test]
fn every_crate_of_the_workspace_has_a_floor_and_the_lints() {
    for file in sources().iter().filter(|file| file.path.ends_with("Cargo.toml")) {
        let Some(folder) = file.path.strip_suffix("/Cargo.toml") else { continue };
        if folder.starts_with("examples") || folder.starts_with("tests/components") {
            continue;
        }
        let known = CRATES.iter().find(|(_, it)| *it == folder);
        let (name, _) = known.unwrap_or_else(|| panic!("{folder} has no floor in {}", file!()));
        assert!(FLOORS.iter().any(|floor| floor.contains(name)), "{name} has no floor");
        // Functions outside the workspace depend on the guest's crate by its path.
        let has_lints = file.text.contains("[lints]\nworkspace = true")
            || ["guest", "frame", "iot"].contains(name);
        assert!(has_lints, "{folder} leaves the lints out");
    }
}

#[test]
fn pure_cores_do_no_io_and_read_no_clock() {
    let files = sources();
    assert_eq!(impure(&files), NONE);
    let bad = [file("bus/src/x.rs", "//! A pure core: x.\nfn f() { g().await }")];
    assert_eq!(impure(&bad).len(), 1, "the rule sees what breaks it");
    for wanted in CORES {
        let mut there = files.iter().filter(|file| is_core(file));
        assert!(there.any(|file| file.path.starts_with(wanted)), "no pure core in {wanted}");
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for file in sources().iter().filter(|file| file.path.ends_with(".rs")) {
        assert!(file.text.starts_with("//! "), "{} does not open with a module doc", file.path);
    }
}

#[test]
fn no_file_is_longer_than_a_person_reads() {
    for file in sources().iter().filter(|file| file.path.ends_with(".rs")) {
        let lines = file.text.lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines, split it by {LINES_MAX}", file.path);
    }
}

#[test]
fn unsafe_code_is_where_it_is_explained() {
    let files = sources();
    assert_eq!(unsafe_elsewhere(&files), NONE);
    let bad = [file("bus/src/x.rs", &["//! X.\nfn f() { ", "unsafe", " { g() } }"].concat())];
    assert_eq!(unsafe_elsewhere(&bad).len(), 1, "the rule sees what breaks it");
}

#[test]
fn every_promise_is_listed_with_its_figures() {
    let readme = std::fs::read_to_string(root().join("tests/README.md")).unwrap();
    for promise in PROMISES {
        let row = readme.lines().find(|line| line.starts_with(&format!("| `{}`", promise.name)));
        assert!(row.is_some(), "tests/README.md has no row for `{}`", promise.name);
    }
}

#[test]
fn no_file_names_a_place_on_one_machine() {
    let places: Vec<String> = ["root", "home", "work"].iter().map(|it| format!("/{it}/")).collect();
    for file in sources() {
        for (line, text) in file.text.lines().enumerate() {
            // `https://host/work/` is a place on no machine.
            let found = places.iter().find(|place| {
                text.match_indices(place.as_str()).any(|(at, _)| {
                    !text[..at].ends_with(|before: char| before.is_alphanumeric() || before == '.')
                })
            });
            assert_eq!(found, None, "{}:{}: {text}", file.path, line + 1);
        }
    }
}

const NONE: Vec<String> = Vec::new();

fn named_elsewhere(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| is_ours(&file.path)) {
        for (word, owners) in OWNERS {
            if owners.iter().any(|owner| file.path.starts_with(owner)) {
                continue;
            }
            let named = if file.path.ends_with("Cargo.toml") {
                dependencies(&file.text).any(|name| name.replace('-', "_") == *word)
            } else {
                let (path, used) = (format!("{word}::"), format!("use {word};"));
                file.text.contains(&used) || contains_word(&file.text, &path)
            };
            if named {
                found.push(format!("{} names {word}, which is for {owners:?}", file.path));
            }
        }
    }
    found
}

/// The words of this file itself are not uses.
fn is_ours(path: &str) -> bool {
    path != "tests/it/tidy.rs" && !path.starts_with("examples/") && path != "Cargo.toml"
}

fn contains_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
    })
}

fn dependencies(manifest: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    manifest.lines().filter_map(move |line| {
        if let Some(table) = line.strip_prefix('[') {
            inside = table.contains("dependencies");
            return None;
        }
        let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
        (inside && !name.is_empty() && !name.starts_with('#')).then_some(name)
    })
}

fn known_above(files: &[File]) -> Vec<String> {
    let floor = |name: &str| FLOORS.iter().position(|floor| floor.contains(&name));
    let mut found = Vec::new();
    for (name, folder) in CRATES {
        let manifest = format!("{folder}/Cargo.toml");
        let Some(file) = files.iter().find(|file| file.path == manifest) else { continue };
        for known in dependencies(&file.text) {
            let known = known.strip_prefix("millrace-").unwrap_or(known);
            let (Some(own), Some(other)) = (floor(name), floor(known)) else { continue };
            if own <= other {
                found.push(format!("{name} knows {known}, which is not below it"));
            }
            for (who, whom, why) in STRANGERS {
                if who == name && *whom == known {
                    found.push(format!("{name} knows {known}, but {why}"));
                }
            }
        }
    }
    found
}

fn is_core(file: &File) -> bool {
    file.path.ends_with(".rs") && file.text.starts_with("//! A pure core:")
}

fn impure(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| is_core(file)) {
        for word in IMPURE {
            let mut lines = file.code().lines();
            if lines.any(|line| !line.trim_start().starts_with("//") && line.contains(word)) {
                found.push(format!("{} is a pure core but contains {word}", file.path));
            }
        }
    }
    found
}

fn unsafe_elsewhere(files: &[File]) -> Vec<String> {
    let (block, function) = (["unsafe", " {"].concat(), ["unsafe", " fn"].concat());
    let implementation = ["unsafe", " impl"].concat();
    let is_unsafe = |file: &&File| {
        let mut lines = file.text.lines().filter(|line| !line.trim_start().starts_with("//"));
        lines.any(|line| {
            line.contains(&block) || line.contains(&function) || line.contains(&implementation)
        })
    };
    let rust = files.iter().filter(|file| file.path.ends_with(".rs") && is_ours(&file.path));
    let elsewhere = rust.filter(|file| {
        !file.path.starts_with("tests/components/")
            && !UNSAFE.iter().any(|allowed| file.path.starts_with(allowed))
    });
    elsewhere.filter(is_unsafe).map(|file| file.path.clone()).collect()
}

fn file(path: &str, text: &str) -> File {
    File { path: path.to_owned(), text: text.to_owned() }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every text file of the project that people wrote, by its path from the root.
fn sources() -> Vec<File> {
    const KINDS: [&str; 5] = ["rs", "toml", "md", "sh", "wit"];
    let root = root();
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            let last = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                if last != "target" && (!last.starts_with('.') || last == ".ci") {
                    folders.push(path);
                }
                continue;
            }
            let kind = path.extension().and_then(|kind| kind.to_str()).unwrap_or_default();
            if KINDS.contains(&kind) || name == ".ci/run" {
                files.push(File { path: name, text: std::fs::read_to_string(&path).unwrap() });
            }
        }
    }
    assert!(!files.is_empty());
    files
}
