//! The promise that no power cut leaves a state the model does not allow: the journal over a
//! simulated disk, the position store over a layer that forgets what was not synced. Each sync
//! that is needed is left out once, which has to be noticed.

use bus::embedded::{SyncKind, crash_points_journal};

use crate::promise::{During, Figures, NotShown, Run, panics_unprinted};
use crate::{crash_store, demand};

/// Operations of a script, at least.
const OPERATIONS: u64 = 2_000;

/// Shows it.
///
/// # Errors
///
/// When it is broken.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let points = u32::try_from(run.count("points", 500, 5_000)).during("count points")?;
    let mut figures = Figures::default();
    let mut red = journal(run, points, &mut figures)?;
    red += crash_store::run(run, OPERATIONS, u64::from(points), &mut figures)?;
    figures.set("red_controls", red);
    let all = ["journal_points", "store_points"].map(|it| figures.number(it).unwrap_or(0));
    let all: u64 = all.iter().sum();
    figures.set("crash_points", all);
    Ok(figures)
}

/// The journal; how many left-out syncs turned it red.
fn journal(run: &Run, points: u32, figures: &mut Figures) -> Result<u64, NotShown> {
    run.note(format!("the journal, {points} crash points"));
    let report = crash_points_journal(points, run.seed, None).during("the journal")?;
    demand!(OPERATIONS <= report.operations, "a script of {} operations", report.operations);
    demand!(u64::from(points) <= report.crash_points, "{} crash points", report.crash_points);
    // A cut that loses nothing shows nothing.
    demand!(report.effective * 4 >= report.crash_points, "few cuts lost a write: {report:?}");
    figures.set("journal_operations", report.operations);
    figures.set("journal_points", report.crash_points);
    figures.set("journal_effective", report.effective);
    figures.set("journal_crashes_in_recovery", report.crashes_in_recovery);
    let (mut red, mut covered) = (0, 0);
    for (index, kind) in SyncKind::ALL.iter().enumerate() {
        run.note(format!("the journal without its syncs of kind {kind:?}"));
        // What a journal without its syncs makes of its file may panic inside redb; the bus calls
        // that damage.
        let without = panics_unprinted(|| crash_points_journal(points, run.seed, Some(index)));
        match (without, kind.is_needed()) {
            (Err(_), true) => red += 1,
            (Ok(_), false) => covered += 1,
            (Ok(_), true) => {
                demand!(false, "leaving out syncs of kind {kind:?} went unnoticed");
            }
            (Err(why), false) => {
                demand!(false, "syncs of kind {kind:?} are needed after all: {why}");
            }
        }
    }
    figures.set("journal_syncs_red", red);
    figures.set("journal_syncs_covered", covered);
    Ok(red)
}
