//! What the journal and the store of the stopped node say: whether every record passed the chain
//! once and in order, whether each output has the mark of the revision that it names, and whether
//! packages are what their names say. Shares no code with what it judges.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::app::{MARK_BYTES, PARTITIONS, PARTS, Part, Revisions};
use crate::checker::{Checker, Origin, Outputs, Stage};
use crate::demand;
use crate::journal_reader::layout::Record;
use crate::journal_reader::{Follower, Journal, ORIGIN, Role};
use crate::kill::load::{self, VALUE_BYTES};
use crate::promise::{During, NotShown, broken};

/// What is hashed before an archive: docs of node/function/src/package.rs.
const DOMAIN: &[u8] = b"millrace-package-v1\0";

/// Which mark the code of each revision adds, by function and revision.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks(BTreeMap<(Part, String), String>);

impl Marks {
    /// From now on outputs of these revisions have to have these marks.
    pub(super) fn learn(&mut self, revisions: &Revisions, numbers: [u64; 3]) {
        for ((part, revision), number) in PARTS.iter().zip(revisions).zip(numbers) {
            self.0.insert((*part, revision.clone()), part.mark(number));
        }
    }

    /// Takes one revision of each function for another: nothing fits any more.
    pub(super) fn confuse(&mut self) {
        for mark in self.0.values_mut() {
            *mark = mark.replace('-', "_");
        }
    }

    /// How many revisions are known of a function.
    pub(super) fn count(&self, part: Part) -> usize {
        self.0.keys().filter(|(it, _)| *it == part).count()
    }
}

/// Three triggers in a chain.
pub(super) fn checker() -> Checker {
    let stage = |source: &str| Stage {
        source: source.to_owned(),
        partitions: PARTITIONS,
        outputs: Outputs::One,
    };
    Checker::new(vec![stage("in"), stage("a"), stage("b")])
}

/// What each topic is to the checker.
pub(super) fn follower() -> Follower {
    Follower::new(vec![
        Role::topic("in").source_of(0),
        Role::topic("mill.py.dead").dead_of(0),
        Role::topic("a").outputs_of(0).source_of(1),
        Role::topic("mill.js.dead").dead_of(1),
        Role::topic("b").outputs_of(1).source_of(2),
        Role::topic("mill.wasm.dead").dead_of(2),
        Role::topic("out").outputs_of(2),
    ])
}

/// What a reader of the journal looks at beside the checker.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Numbers in `in` and in `out`.
    pub(super) inputs: BTreeSet<u64>,
    pub(super) outputs: BTreeSet<u64>,
    /// Outputs by function and revision.
    pub(super) by_revision: BTreeMap<(Part, String), u64>,
    /// The first outputs that are not what their revision makes.
    strange: Vec<String>,
}

impl Seen {
    /// A record of a topic.
    pub(super) fn on_record(&mut self, marks: &Marks, topic: &str, record: &Record<'_>) {
        let value = record.value.unwrap_or_default();
        if topic == "in" {
            self.inputs.extend(load::number(value));
            return;
        }
        let Some(part) = PARTS.into_iter().find(|part| part.output() == topic) else { return };
        let revision = record.header(ORIGIN).and_then(Origin::parse).map(|it| it.revision);
        let revision = revision.unwrap_or_default();
        let (rest, mark) = value.split_at(value.len().saturating_sub(MARK_BYTES));
        let expected = marks.0.get(&(part, revision.clone()));
        let stages = PARTS.iter().position(|it| *it == part).unwrap_or(0);
        let is_whole = rest.len() == VALUE_BYTES + stages * MARK_BYTES
            && load::number(&rest[..VALUE_BYTES]).is_some();
        if expected.is_none_or(|expected| expected.as_bytes() != mark) || !is_whole {
            if self.strange.len() < 5 {
                let value = String::from_utf8_lossy(value).into_owned();
                self.strange.push(format!("{topic}@{} of {revision}: {value:?}", record.offset));
            }
            return;
        }
        *self.by_revision.entry((part, revision)).or_default() += 1;
        if part == Part::Wasm {
            self.outputs.extend(load::number(&rest[..VALUE_BYTES]));
        }
    }

    /// That every output was what its revision makes (CLU-3).
    ///
    /// # Errors
    ///
    /// The first that was not.
    pub(super) fn demand_marks(&self) -> Result<(), NotShown> {
        demand!(
            self.strange.is_empty(),
            "outputs that their revision does not make (CLU-3): {:?}",
            self.strange
        );
        Ok(())
    }
}

/// Everything once more, from the beginning, by a checker that has seen nothing yet.
///
/// # Errors
///
/// When the journal cannot be read.
pub(super) fn read_all(data: &Path, marks: &Marks) -> Result<(Checker, Seen), NotShown> {
    let (mut checker, mut seen) = (checker(), Seen::default());
    let journal = Journal::open(data)?;
    follower().follow(&journal, &mut checker, |topic, _, record| {
        seen.on_record(marks, topic, record);
    })?;
    checker.on_end();
    Ok((checker, seen))
}

/// The packages in a store, each of which has to be what its name says.
///
/// # Errors
///
/// One that is not.
pub(super) fn packages(data: &Path) -> Result<BTreeSet<String>, NotShown> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(data.join("packages")).during("list the packages")? {
        let entry = entry.during("list the packages")?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Copies, and drafts that a kill left.
        if name.ends_with(".d") || name.starts_with('.') {
            continue;
        }
        let bytes = std::fs::read(entry.path()).during("read a package")?;
        let digest = Sha256::new_with_prefix(DOMAIN).chain_update(&bytes).finalize();
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        if digest != name {
            return Err(broken(format!("package {name} is not whole: {digest}")));
        }
        found.insert(name);
    }
    Ok(found)
}
