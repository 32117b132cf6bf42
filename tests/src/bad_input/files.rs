//! Garbage and truncated files in the data directory: what is the truth is refused by name and
//! left alone, what is a view is rebuilt, and nothing acknowledged is lost.

use std::path::{Path, PathBuf};

use crate::bad_input::ground::{Function, Ground, goes_on, process, stop};
use crate::demand;
use crate::harness::rng::Rng;
use crate::promise::{During, NotShown};

const VALUES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn prepared(ground: &Ground) -> Result<(), NotShown> {
    ground.application(&[Function::of("identity")])?;
    process(ground, &VALUES)
}

/// Bytes that mean nothing.
fn garbage(seed: u64, length: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed, 3);
    (0..length).map(|_| rng.draw(256).to_le_bytes()[0]).collect()
}

#[derive(Clone, Copy)]
enum Harm {
    Garbage,
    Truncated,
}

fn harm(path: &Path, harm: Harm, seed: u64) -> Result<(), NotShown> {
    let bytes = std::fs::read(path).during(format!("read {}", path.display()))?;
    let harmed = match harm {
        Harm::Garbage => garbage(seed, bytes.len().clamp(64, 1 << 20)),
        Harm::Truncated => bytes[..bytes.len() / 2].to_vec(),
    };
    std::fs::write(path, harmed).during(format!("harm {}", path.display()))
}

/// A file that is the truth: harmed, the node refuses it by name and leaves it alone; put back,
/// everything is there.
fn truth(ground: &Ground, file: &str, says: &str, how: Harm) -> Result<(), NotShown> {
    prepared(ground)?;
    let path = ground.data.join(file);
    let good = std::fs::read(&path).during(format!("read {file}"))?;
    harm(&path, how, ground.seed)?;
    let harmed = std::fs::read(&path).during(format!("read {file}"))?;
    ground.refuses(&[says, "error[E"])?;
    let after = std::fs::read(&path).during(format!("read {file}"))?;
    demand!(harmed == after, "the node changed the damaged {file}");
    std::fs::write(&path, good).during(format!("put {file} back"))?;
    goes_on(ground, &VALUES).and_then(stop)
}

/// Files that are a view: harmed, the node rebuilds them, says so, and goes on.
fn view(ground: &Ground, folder: &str, how: Harm, says: Option<&str>) -> Result<(), NotShown> {
    prepared(ground)?;
    let files = files_of(&ground.data.join(folder))?;
    demand!(!files.is_empty(), "{folder} has no files to harm");
    for file in files {
        harm(&file, how, ground.seed)?;
    }
    let node = goes_on(ground, &VALUES)?;
    if let Some(word) = says {
        let text = node.text().to_lowercase();
        demand!(text.contains(word), "the node did not say {word:?}: {}", node.tail());
    }
    stop(node)
}

fn files_of(folder: &Path) -> Result<Vec<PathBuf>, NotShown> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).during(format!("list {}", folder.display()))? {
            let path = entry.during("list a folder")?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

pub(super) fn garbage_journal(ground: &Ground) -> Result<(), NotShown> {
    truth(ground, "journal.redb", "journal is damaged", Harm::Garbage)
}

pub(super) fn truncated_journal(ground: &Ground) -> Result<(), NotShown> {
    truth(ground, "journal.redb", "journal is damaged", Harm::Truncated)
}

pub(super) fn garbage_cluster(ground: &Ground) -> Result<(), NotShown> {
    truth(ground, "raft.redb", "cluster", Harm::Garbage)
}

pub(super) fn truncated_cluster(ground: &Ground) -> Result<(), NotShown> {
    truth(ground, "raft.redb", "cluster", Harm::Truncated)
}

pub(super) fn garbage_sled(ground: &Ground) -> Result<(), NotShown> {
    view(ground, "sled", Harm::Garbage, Some("position"))
}

pub(super) fn truncated_sled(ground: &Ground) -> Result<(), NotShown> {
    view(ground, "sled", Harm::Truncated, None)
}

pub(super) fn garbage_cache(ground: &Ground) -> Result<(), NotShown> {
    view(ground, "cache", Harm::Garbage, None)
}

pub(super) fn garbage_lock(ground: &Ground) -> Result<(), NotShown> {
    prepared(ground)?;
    std::fs::write(ground.data.join("lock"), garbage(ground.seed, 64)).during("harm the lock")?;
    goes_on(ground, &VALUES).and_then(stop)
}
