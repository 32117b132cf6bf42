//! The promise that bad input of every kind ends in a clear error by name while the rest keeps
//! working, and that nothing acknowledged is lost. Each case is a run of the real binary.

mod bodies;
mod components;
mod disk;
mod files;
mod ground;
mod manifest;
mod neighbours;

use crate::demand;
use crate::promise::{Figures, NotShown, Run};
use ground::Ground;

/// One bad input, and what has to become of it.
struct Case {
    name: &'static str,
    run: fn(&Ground) -> Result<(), NotShown>,
}

const CASES: &[Case] = &[
    Case { name: "ten mistakes in a manifest", run: manifest::ten_mistakes },
    Case { name: "a component with a missing import", run: components::missing_import },
    Case { name: "a file that is no component", run: components::no_component },
    Case { name: "a trap", run: components::trap },
    Case { name: "an endless loop", run: components::endless_loop },
    Case { name: "a memory bomb", run: components::memory_bomb },
    Case { name: "an output to a topic not allowed", run: components::topic_not_allowed },
    Case { name: "an output over the limit", run: components::output_too_large },
    Case {
        name: "an output to a partition that is not there",
        run: components::partition_not_there,
    },
    Case { name: "a result for a record not in the batch", run: components::strange_result },
    Case { name: "a truncated answer", run: components::truncated_answer },
    Case { name: "garbage instead of the journal", run: files::garbage_journal },
    Case { name: "a truncated journal", run: files::truncated_journal },
    Case { name: "garbage in sled's files", run: files::garbage_sled },
    Case { name: "truncated files of sled", run: files::truncated_sled },
    Case { name: "garbage instead of the cluster's log", run: files::garbage_cluster },
    Case { name: "a truncated log of the cluster", run: files::truncated_cluster },
    Case { name: "garbage in the cache of compiled modules", run: files::garbage_cache },
    Case { name: "garbage in the lock file", run: files::garbage_lock },
    Case { name: "a second process on the data directory", run: neighbours::second_process },
    Case { name: "a port in use", run: neighbours::port_in_use },
    Case { name: "requests with nonsense in every place", run: bodies::nonsense },
    Case { name: "a full disk", run: disk::full },
];

/// Shows it.
///
/// # Errors
///
/// Every case that is broken, by name; unchecked when a case could not be checked.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let (mut broken, mut unchecked) = (Vec::new(), Vec::new());
    for (index, case) in CASES.iter().enumerate() {
        run.note(format!("{} of {}: {}", index + 1, CASES.len(), case.name));
        let ground = Ground::new(&run.evidence.join(case.name.replace(' ', "-")), run.seed)?;
        match (case.run)(&ground) {
            Ok(()) => drop(std::fs::remove_dir_all(&ground.dir)),
            Err(NotShown::Broken(why)) => {
                run.note(format!("{} is broken: {why}", case.name));
                broken.push(format!("{}: {why}", case.name));
            }
            Err(NotShown::Unchecked(why)) => unchecked.push(format!("{}: {why}", case.name)),
        }
    }
    demand!(broken.is_empty(), "{}", broken.join("\n  "));
    if !unchecked.is_empty() {
        return Err(NotShown::Unchecked(unchecked.join("; ")));
    }
    Ok(Figures::default().with("cases", CASES.len()))
}
