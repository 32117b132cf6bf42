//! The proof that positions survive a power cut at any moment: a process carries a script out on
//! the real store, under a layer that writes down what it does to its files. From that the files
//! are built as a power cut would leave them, at many moments, and the store is opened on them.

mod disk;
mod script;
mod trace;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use storage::SledPositions;

use self::disk::{Disk, Image, SyncKind};
use self::script::{MARKS, Model, Rows, STORE};
use self::trace::{Entry, What};
use crate::demand;
use crate::harness::command;
use crate::harness::rng::Rng;
use crate::promise::{During, Figures, NotShown, Run, broken};

pub use script::carry_out;

/// The layer, compiled by the promise.
const LAYER: &str = include_str!("../../preload/trace.c");
/// How the binary is called to carry the script out.
pub const HIDDEN: &str = "__store-script";

/// What a run saw.
#[derive(Debug, Default)]
struct Report {
    points: u64,
    /// Of those, where something that was not synced was lost.
    effective: u64,
    /// Of those, with a step on its way.
    in_step: u64,
    syncs: [u64; SyncKind::ALL.len()],
}

/// Why a run ended early.
enum Ended {
    /// The store was not as the model says.
    Red(String),
    Failed(NotShown),
}

impl From<NotShown> for Ended {
    fn from(why: NotShown) -> Self {
        Self::Failed(why)
    }
}

/// Shows it; how many left-out syncs turned it red.
///
/// # Errors
///
/// When it is broken, or cannot be shown without a C compiler.
pub fn run(
    run: &Run,
    operations: u64,
    points: u64,
    figures: &mut Figures,
) -> Result<u64, NotShown> {
    let dir = run.evidence.join("store");
    let recorded = record(run, operations, &dir)?;
    run.note(format!("the position store, {points} crash points"));
    let report = match recorded.check(points, None) {
        Ok(report) => report,
        Err(Ended::Red(why)) => return Err(broken(why)),
        Err(Ended::Failed(why)) => return Err(why),
    };
    demand!(points <= report.points, "{} crash points", report.points);
    demand!(report.points <= report.effective * 4, "few cuts lost a write: {report:?}");
    figures.set("store_operations", operations);
    figures.set("store_points", report.points);
    figures.set("store_effective", report.effective);
    figures.set("store_in_step", report.in_step);
    let mut red = 0;
    for kind in SyncKind::ALL {
        demand!(report.syncs[kind as usize] != 0, "no sync of kind {kind:?}");
        run.note(format!("the position store without its syncs of kind {kind:?}"));
        match recorded.check(points, Some(kind)) {
            Err(Ended::Red(why)) => {
                run.note(format!("red: {why}"));
                red += 1;
            }
            Ok(_) => demand!(false, "leaving out syncs of kind {kind:?} went unnoticed"),
            Err(Ended::Failed(why)) => return Err(why),
        }
    }
    figures.set("store_syncs_red", red);
    Ok(red)
}

/// A script and what it did to the disk.
struct Recorded {
    seed: u64,
    operations: u64,
    entries: Vec<Entry>,
    /// Where images are put.
    dir: PathBuf,
}

/// Has the script carried out under the layer.
fn record(run: &Run, operations: u64, dir: &Path) -> Result<Recorded, NotShown> {
    let root = dir.join("root");
    fs::create_dir_all(&root).during("make a folder")?;
    let root = root.canonicalize().during("find the folder")?;
    let (source, layer, file) = (dir.join("trace.c"), dir.join("trace.so"), dir.join("trace"));
    fs::write(&source, LAYER).during("write the layer")?;
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&layer).arg(&source).arg("-ldl");
    let said = command::run(&mut compiler, Duration::from_secs(60));
    let said = said.map_err(|why| NotShown::Unchecked(format!("no C compiler: {why}")))?;
    demand!(said.status == Some(0), "the layer does not compile: {}", said.all());

    run.note(format!("the position store: a script of {operations} operations"));
    let mut child = Command::new(std::env::current_exe().during("find this program")?);
    child.arg(HIDDEN).arg(run.seed.to_string()).arg(operations.to_string()).arg(&root);
    child.env("LD_PRELOAD", &layer).env("MILLRACE_TRACE_ROOT", &root);
    child.env("MILLRACE_TRACE_FILE", &file);
    let said = command::run(&mut child, Duration::from_secs(300))?;
    demand!(said.status == Some(0), "the script failed: {}", said.all());
    let entries = trace::parse(&fs::read(&file).during("read the trace")?)?;

    // What passed the layer by unseen would show here.
    let mut disk = Disk::new(None);
    for (index, entry) in entries.iter().enumerate() {
        follow(&mut disk, index, entry)?;
    }
    let (seen, real) = (disk.seen(MARKS), image_of(&root)?);
    let differs = |name: &&String| seen.get(*name) != real.get(*name);
    let name = seen.keys().chain(real.keys()).find(differs);
    demand!(name.is_none(), "{name:?} is not what was written down");
    Ok(Recorded { seed: run.seed, operations, entries, dir: dir.to_owned() })
}

fn follow(disk: &mut Disk, index: usize, entry: &Entry) -> Result<(), NotShown> {
    let possible = disk.on_entry(entry);
    possible.ok_or_else(|| broken(format!("entry {index} of the trace is impossible: {entry:?}")))
}

/// Every file and directory below `root`, but the marks.
fn image_of(root: &Path) -> Result<Image, NotShown> {
    let (mut image, mut left) = (Image::new(), vec![(String::new(), root.to_owned())]);
    while let Some((name, path)) = left.pop() {
        if path.is_file() {
            image.insert(name, Some(fs::read(&path).during("read a file")?));
            continue;
        }
        for entry in fs::read_dir(&path).during("list a folder")? {
            let entry = entry.during("list a folder")?;
            let last = entry.file_name().to_string_lossy().into_owned();
            let below = if name.is_empty() { last } else { format!("{name}/{last}") };
            if below != MARKS {
                left.push((below, entry.path()));
            }
        }
        image.insert(name, None);
    }
    Ok(image)
}

impl Recorded {
    /// Cuts the power at `points` moments.
    fn check(&self, points: u64, dropped: Option<SyncKind>) -> Result<Report, Ended> {
        let moments = self.moments(points);
        let (mut disk, mut model) = (Disk::new(dropped), Model::new(self.seed, self.operations));
        let mut report = Report::default();
        let (mut marks_fd, mut unread) = (None, String::new());
        for (index, entry) in self.entries.iter().enumerate() {
            follow(&mut disk, index, entry)?;
            match &entry.what {
                What::Open { name, .. } if name == MARKS => marks_fd = Some(entry.fd),
                What::Write { bytes, .. } if marks_fd == Some(entry.fd) => {
                    unread.push_str(&String::from_utf8_lossy(bytes));
                    while let Some((mark, rest)) = unread.split_once('\n') {
                        model.on_mark(mark)?;
                        unread = rest.to_owned();
                    }
                }
                _ => {}
            }
            if moments.contains(&index) {
                self.cut(index, &disk, &model, &mut report)?;
            }
        }
        report.syncs = disk.syncs;
        Ok(report)
    }

    /// Half of the moments anywhere, half while a generation is made or removed, which is rare, and
    /// those where it has just been marked.
    fn moments(&self, points: u64) -> BTreeSet<usize> {
        let mut rng = Rng::new(self.seed, 3);
        let is_rare = |entry: &Entry| match &entry.what {
            What::MakeDir(_) | What::Remove(_) | What::Rename { .. } => true,
            What::Open { is_new, .. } => *is_new,
            What::Sync { is_data } => !is_data,
            _ => false,
        };
        let rare: Vec<usize> =
            (0..self.entries.len()).filter(|at| is_rare(&self.entries[*at])).collect();
        // Right after a mark is made, and before it is synced, is the one moment that shows what
        // the syncs before it are for.
        let is_marked = |at: &usize| match &self.entries[*at].what {
            What::Open { name, is_new, .. } => *is_new && name.ends_with("/complete"),
            _ => false,
        };
        let mut moments: BTreeSet<usize> =
            (0..self.entries.len()).filter(is_marked).take(points as usize / 4).collect();
        let wanted = (points as usize).min(self.entries.len() / 2);
        while moments.len() < wanted {
            let at = if rng.draw(2) == 0 && !rare.is_empty() {
                rare[rng.draw(rare.len() as u64) as usize] + rng.draw(4) as usize
            } else {
                rng.draw(self.entries.len() as u64) as usize
            };
            moments.insert(at.min(self.entries.len() - 1));
        }
        moments
    }

    fn cut(
        &self,
        index: usize,
        disk: &Disk,
        model: &Model,
        report: &mut Report,
    ) -> Result<(), Ended> {
        let (image, lost) = disk.cut(self.seed ^ ((index as u64) << 20), MARKS);
        report.points += 1;
        report.effective += u64::from(lost);
        report.in_step += u64::from(model.is_in_step());
        let dir = self.dir.join("cut");
        if dir.exists() {
            fs::remove_dir_all(&dir).during("remove an image")?;
        }
        lay_out(&dir, &image)?;
        let red = |why: String| {
            let seed = self.seed;
            Err(Ended::Red(format!("seed {seed}: power cut after file operation {index}: {why}")))
        };
        let opened = match SledPositions::open(&dir.join(STORE)) {
            Ok(opened) => opened,
            Err(error) => return red(format!("cannot open: {}", chain(&error))),
        };
        if let Some(damage) = &opened.damage {
            return red(format!("damaged: {}", chain(damage)));
        }
        let found: Rows = match opened.store.load() {
            Ok(found) => found.into_iter().collect(),
            Err(error) => return red(format!("cannot load: {}", chain(&error))),
        };
        let allowed = model.allowed();
        if !allowed.contains(&found) {
            return red(format!("{} rows; {}", found.len(), difference(&found, &allowed)));
        }
        drop(opened);
        fs::remove_dir_all(&dir).during("remove an image")?;
        Ok(())
    }
}

fn lay_out(dir: &Path, image: &Image) -> Result<(), NotShown> {
    for (name, content) in image {
        let path = if name.is_empty() { dir.to_owned() } else { dir.join(name) };
        let Some(content) = content else {
            fs::create_dir_all(&path).during("lay out a folder")?;
            continue;
        };
        let file = fs::File::create(&path).during("lay out a file")?;
        file.set_len(content.len() as u64).during("lay out a file")?;
        // Most of a log is zeros that were never written.
        for (at, chunk) in (0..).step_by(4096).zip(content.chunks(4096)) {
            if chunk.iter().any(|byte| *byte != 0) {
                file.write_all_at(chunk, at).during("lay out a file")?;
            }
        }
    }
    Ok(())
}

/// The first row that is not as the likeliest state has it.
fn difference(found: &Rows, allowed: &[Rows]) -> String {
    let Some(state) = allowed.last() else { return String::new() };
    let keys: BTreeSet<_> = found.keys().chain(state.keys()).collect();
    let key = keys.into_iter().find(|key| found.get(key) != state.get(key));
    let short = |rows: &Rows| {
        key.and_then(|key| rows.get(key)).map(|it| (it.epoch, it.next, it.completions.span()))
    };
    format!("{key:?} is {:?} instead of {:?}", short(found), short(state))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}
