//! `millrace dev`: a node with one application, on a bus of its own or on Kafka, and hot reload.
//! It says at every step what to do next, and shows what comes out.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{Bus, Offset, TopicPartition};
use function::{FunctionSpec, Manifest};
use gateway::NodeView as _;
use gateway::api::ShardState;
use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use super::build;
use super::error::{CommandError, exit};
use super::program::program;
use super::serve::{Up, runtime, spawner, start_logging, wait_for_end};
use crate::cli::{DevArgs, Globals};
use crate::node::{Deployed, Node, Settings};

/// Saves that come this close together are one.
const SETTLE: Duration = Duration::from_millis(120);
/// Output records shown in a second; more are counted.
const SHOWN_A_SECOND: usize = 5;

/// Carries it out: returns when the node has drained.
///
/// # Errors
///
/// What keeps the node from starting.
pub fn run(args: &DevArgs, globals: &Globals) -> Result<(), CommandError> {
    let manifest = Manifest::load(&args.dir)?;
    let data = args.data.clone().unwrap_or_else(|| args.dir.join(".millrace"));
    // First of all: it must be there before the second thread is.
    let spawner = spawner()?;
    let settings = Settings::choose(&args.settings, true)?;
    // What functions say is shown in any case.
    drop(start_logging(globals, "warn"));
    runtime()?.block_on(async {
        let started_at = Instant::now();
        let logs: runtime::LogSink = Arc::new(|line: runtime::LogLine| {
            note(&format!("  log   {}  {}  {}", line.function, line.level, line.message));
        });
        // Before anything is read: what is saved from now on is deployed, if only later.
        let saves = Saves::of(&args.dir, &manifest);
        let name = manifest.app.to_string();
        let (where_to, kept) = match &settings.kafka {
            Some(kafka) => (format!("Kafka at {}", kafka.brokers), "positions"),
            None => ("embedded bus".to_owned(), "data"),
        };
        let up = Up::start(&data, &name, args.listen, spawner, Some(logs), settings).await?;
        say(&format!(
            "  millrace {}  one node, {where_to}, {kept} in {}",
            env!("CARGO_PKG_VERSION"),
            data.display()
        ));
        say(&format!("  control API  {}", up.url));
        let deployed = match start(&up.node, &args.dir, &manifest).await {
            Ok(deployed) => deployed,
            Err(error) => {
                up.end().await;
                return Err(error);
            }
        };
        show_start(&up.node, &manifest, &deployed, started_at.elapsed());
        let tail = tokio::spawn(show_outputs(up.node.clone(), shown_topics(&manifest, &deployed)));
        if !args.no_feed {
            match up.node.start_feed(&args.dir, &manifest).await {
                Ok(Some(feed)) => say(&format!(
                    "  feed  {} -> {}  {} records/s, from row {} of {}{}",
                    feed.file,
                    feed.topic,
                    feed.rate,
                    feed.next_row,
                    feed.rows,
                    if feed.rounds == 0 {
                        String::new()
                    } else {
                        format!(", round {}", feed.rounds + 1)
                    },
                )),
                Ok(None) => {}
                Err(error) => note(&error.render(false)),
            }
        }
        show_next(&manifest, &deployed);
        let reload = tokio::spawn(reload(up.node.clone(), args.dir.clone(), manifest, saves));
        wait_for_end(&up.node).await;
        reload.abort();
        say("\n  draining ...");
        let feed = up.node.feed_progress();
        let functions = up.node.status().functions;
        up.end().await;
        tail.abort();
        for it in functions {
            say(&format!("  {}  {} settled since the start", it.name, it.settled));
        }
        if let Some(feed) = feed {
            say(&format!("  feed  stopped at row {} of {}", feed.next_row, feed.rows));
        }
        say("  stopped; the next start goes on from here");
        Ok(())
    })
}

/// Brings up what was deployed into the node before, then the folder as it is now.
async fn start(node: &Node, dir: &Path, manifest: &Manifest) -> Result<Deployed, CommandError> {
    for (app, deployed) in node.restore(&[manifest]).await? {
        show_refused(&deployed);
        for (function, revision) in deployed.changed {
            say(&format!("  ok    {app}/{function}  was deployed before, revision {revision}"));
        }
    }
    let deployed = node.deploy(dir, manifest).await?;
    node.mark_up();
    Ok(deployed)
}

/// To stdout; a closed pipe is nobody's loss.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "{text}").and_then(|()| out.flush()));
}

/// To stderr.
fn note(text: &str) {
    drop(writeln!(std::io::stderr().lock(), "{}", text.trim_end()));
}

fn show_start(node: &Node, manifest: &Manifest, deployed: &Deployed, took: Duration) {
    let (shards, held_up) = (node.shards(), node.status().held_up);
    for function in &manifest.functions {
        if deployed.refused.iter().any(|it| function.name == *it.function) {
            continue;
        }
        for trigger in &function.triggers {
            let id = manifest.trigger_id(function, trigger);
            if let Some(it) = held_up.iter().find(|it| it.trigger == id) {
                let state = if it.state == ShardState::Stopped { "has stopped" } else { "waits" };
                note(&format!("  {}  {id} {state}: {}", it.code, it.message));
                continue;
            }
            let done: i64 =
                shards.iter().filter(|it| it.trigger == id).filter_map(|it| it.next).sum();
            let so_far =
                if done == 0 { String::new() } else { format!("  goes on after {done} records") };
            say(&format!(
                "  ok    {}  {}  {} -> {}{so_far}",
                function.name,
                function.runtime,
                trigger.topics.join(", "),
                trigger.output_topic.as_deref().unwrap_or("(no output)"),
            ));
        }
    }
    show_refused(deployed);
    say(&format!("  ready in {} ms", took.as_millis()));
}

fn show_refused(deployed: &Deployed) {
    for it in &deployed.refused {
        let rest =
            if it.older_runs { "the revision before runs on" } else { "the other functions run" };
        let message = format!("function `{}` cannot start: {}", it.function, it.message);
        let error = CommandError::new(exit::FAILED, it.code, message);
        note(&error.help(format!("{rest}; mend it and save")).render(false));
    }
}

fn show_next(manifest: &Manifest, deployed: &Deployed) {
    let program = program();
    let outputs = shown_topics(manifest, deployed);
    let input = manifest.triggers().next().and_then(|(_, it)| it.topics.first().cloned());
    say("  watching for changes; Ctrl-C ends. In a second terminal:");
    if let (None, Some(input)) = (&manifest.feed, &input) {
        say(&format!("    {program} produce {input} -k a-key '{{\"hello\":\"world\"}}'"));
    }
    if let Some(output) = outputs.first() {
        say(&format!("    {program} consume {output} -n 1"));
    }
    say(&format!("    {program} status"));
}

/// Topics where something comes out at the end: written, and read by no function of it, those
/// left out that do not run.
fn shown_topics(manifest: &Manifest, deployed: &Deployed) -> Vec<String> {
    let runs = |function: &FunctionSpec| {
        let mut refused = deployed.refused.iter();
        !refused.any(|it| function.name == *it.function && !it.older_runs)
    };
    let triggers = || manifest.triggers().filter(|(function, _)| runs(function));
    let read: BTreeSet<&String> = triggers().flat_map(|(_, it)| &it.topics).collect();
    let written = triggers().filter_map(|(_, it)| it.output_topic.as_ref());
    let mut topics: Vec<String> = written.filter(|it| !read.contains(it)).cloned().collect();
    topics.sort();
    topics.dedup();
    topics
}

/// Prints records of the last topics as they come, a few a second.
async fn show_outputs(node: Node, topics: Vec<String>) -> Result<(), bus::Error> {
    let bus: Arc<dyn Bus> = node.bus();
    let mut assigned: Vec<(TopicPartition, Offset)> = Vec::new();
    for topic in &topics {
        for partition in 0..bus.topic(topic).map_or(0, |info| info.spec.partitions) {
            let partition = TopicPartition::new(topic.as_str(), partition);
            let end = bus.watermarks(&partition).await?.end;
            assigned.push((partition, end));
        }
    }
    if assigned.is_empty() {
        return Ok(());
    }
    let mut reader = bus.reader(assigned).await?;
    let (mut since, mut shown, mut more) = (Instant::now(), 0, 0);
    loop {
        let fetched = reader.fetch(1 << 20).await?;
        if Duration::from_secs(1) <= since.elapsed() {
            if 0 < more {
                say(&format!("  ... and {more} more"));
            }
            (since, shown, more) = (Instant::now(), 0, 0);
        }
        for bus::Fetched { partition, batch } in fetched {
            for record in batch.iter() {
                if SHOWN_A_SECOND <= shown {
                    more += 1;
                    continue;
                }
                shown += 1;
                let text = |bytes: Option<&[u8]>| {
                    let text = String::from_utf8_lossy(bytes.unwrap_or(b"-")).into_owned();
                    let text: String = text.chars().filter(|it| !it.is_control()).collect();
                    text.chars().take(200).collect::<String>()
                };
                let (key, value) = (text(record.key), text(record.value));
                say(&format!("  {partition}@{}  {key}  {value}", record.offset));
            }
        }
    }
}

/// What is saved in an application's folders.
struct Saves {
    /// Absent where nothing can be watched.
    watcher: Option<notify::RecommendedWatcher>,
    paths: mpsc::UnboundedReceiver<PathBuf>,
}

impl Saves {
    /// Everything from now on.
    fn of(dir: &Path, manifest: &Manifest) -> Self {
        let (saved, paths) = mpsc::unbounded_channel::<PathBuf>();
        let watched = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            if event.kind.is_access() {
                return;
            }
            for path in event.paths {
                // The receiver is gone only when the node ends.
                drop(saved.send(path));
            }
        });
        let watcher =
            watched.map_err(|error| note(&format!("  cannot watch for changes: {error}")));
        let mut this = Self { watcher: watcher.ok(), paths };
        this.watch(dir, manifest);
        this
    }

    /// Watches the folders that a manifest names, beside those it watches already.
    fn watch(&mut self, dir: &Path, manifest: &Manifest) {
        if let Some(watcher) = &mut self.watcher {
            watch(watcher, dir, manifest);
        }
    }
}

/// Deploys again whatever is saved. A broken save leaves what runs, and is shown.
async fn reload(node: Node, dir: PathBuf, mut manifest: Manifest, mut saves: Saves) {
    while let Some(path) = saves.paths.recv().await {
        let mut changed = vec![path];
        while let Ok(Some(path)) = tokio::time::timeout(SETTLE, saves.paths.recv()).await {
            changed.push(path);
        }
        let changed: Vec<PathBuf> =
            changed.into_iter().filter(|path| is_of_application(&dir, path)).collect();
        let is = |path: &PathBuf, ending: &str| path.extension().is_some_and(|it| it == ending);
        let source = |path: &&PathBuf| is(path, "rs") || path.ends_with("Cargo.toml");
        let relevant = changed.iter().any(|path| {
            path.ends_with(function::FILE_NAME)
                || is(path, "wasm")
                || source(&path)
                || is_in_process_function(&dir, &manifest, path)
        });
        if !relevant {
            continue;
        }
        let started_at = Instant::now();
        let loaded = match Manifest::load(&dir) {
            Ok(loaded) => loaded,
            Err(mistakes) => {
                note(&mistakes.render(false));
                note("  what ran before runs on; mend it and save");
                continue;
            }
        };
        let sources: Vec<PathBuf> = changed.iter().filter(source).cloned().collect();
        if !rebuild(&dir, &loaded, &sources).await {
            continue;
        }
        match node.deploy(&dir, &loaded).await {
            Ok(deployed) => {
                for (function, revision) in &deployed.changed {
                    say(&format!(
                        "  reloaded {function} in {} ms  revision {revision}",
                        started_at.elapsed().as_millis()
                    ));
                }
                show_refused(&deployed);
            }
            Err(error) => {
                note(&error.render(false));
                note("  what ran before runs on; mend it and save");
            }
        }
        manifest = loaded;
        saves.watch(&dir, &manifest);
    }
}

/// Whether a file is the application's own and not that of a tool, wherever the application lies.
fn is_of_application(dir: &Path, path: &Path) -> bool {
    let here = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let within = path.strip_prefix(&here).or_else(|_| path.strip_prefix(dir)).unwrap_or(path);
    let foreign = ["target", ".millrace", ".git", "__pycache__"];
    !within.components().any(|it| foreign.iter().any(|foreign| it.as_os_str() == *foreign))
}

/// Whether a file belongs to a function whose package is its whole folder.
fn is_in_process_function(dir: &Path, manifest: &Manifest, path: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    // What was deleted has no real path any more, its folder has.
    let folder = path.parent().map(real).unwrap_or_default();
    let processes = manifest.functions.iter().filter(|function| function.runtime.is_process());
    processes.map(|function| real(&dir.join(&function.path))).any(|it| folder.starts_with(it))
}

fn watch(watcher: &mut notify::RecommendedWatcher, dir: &Path, manifest: &Manifest) {
    let mut folders = vec![(dir.to_owned(), RecursiveMode::NonRecursive)];
    for function in &manifest.functions {
        let folder = dir.join(&function.path);
        if function.runtime.is_process() {
            folders.push((folder, RecursiveMode::Recursive));
            continue;
        }
        folders.push((folder.join("src"), RecursiveMode::Recursive));
        folders.push((folder, RecursiveMode::NonRecursive));
    }
    for (folder, mode) in folders {
        if folder.is_dir()
            && let Err(error) = watcher.watch(&folder, mode)
        {
            note(&format!("  cannot watch {}: {error}", folder.display()));
        }
    }
}

/// Compiles the functions whose sources were saved; false when one does not compile.
async fn rebuild(dir: &Path, manifest: &Manifest, sources: &[PathBuf]) -> bool {
    let real = |path: PathBuf| path.canonicalize().unwrap_or(path);
    for function in &manifest.functions {
        let folder = real(dir.join(&function.path));
        let is_saved = sources.iter().any(|path| real(path.clone()).starts_with(&folder));
        if !is_saved || !build::is_crate(dir, function) {
            continue;
        }
        say(&format!("  building {} ...", function.name));
        let (dir, function) = (dir.to_owned(), function.clone());
        let built = tokio::task::spawn_blocking(move || build::build_function(&dir, &function));
        match built.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                note(&error.render(false));
                note("  what ran before runs on; mend it and save");
                return false;
            }
            Err(_ended) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tools_write_is_left_out_but_not_an_application_that_lies_among_it() {
        let dir = Path::new("/srv/target/greenhouse");
        let is = |path: &str| is_of_application(dir, &dir.join(path));
        assert!(is("functions/hot/app.py") && is("millrace.toml"));
        for path in ["target/x", "functions/hot/target/a.wasm", ".git/HEAD", ".millrace/journal"] {
            assert!(!is(path), "{path}");
        }
        assert!(is_of_application(Path::new("."), &std::env::current_dir().unwrap().join("a.py")));
    }
}
