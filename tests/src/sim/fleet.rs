//! The part of the promise about whole clusters: at least three nodes that agree by raft, own their
//! shards by the replicated state, and keep all of CLU, OWN and DEL whatever befalls them.

use super::{Bug, Kind, Sum, all, red};
use crate::demand;
use crate::promise::{Figures, NotShown, Run};

/// Faults that have an effect, in each life.
const FAULTS_LEAST: u64 = 5;

/// Where CI's lives begin.
const FIRST: u64 = 1;

/// Shows it, and adds its figures.
pub(super) fn show(run: &Run, seeds: u64, figures: &mut Figures) -> Result<(), NotShown> {
    // The same lives each time, but for who asks for others.
    let is_asked = run.full || run.flags.contains_key("fleets");
    let first = if is_asked { run.seed } else { FIRST };
    run.note(format!("{seeds} whole clusters from seed {first}"));
    let sum = all(Kind::Fleet, first, seeds)?;
    count(&sum, figures);
    demand!(200 <= sum.records_least, "a fleet of {} records", sum.records_least);
    demand!(FAULTS_LEAST <= sum.faults_least, "a fleet of {} faults", sum.faults_least);
    let it = sum.fleet;
    let rarest = [
        it.crashes,
        it.power_cuts,
        it.disks_lost,
        it.cuts,
        it.stops,
        it.without_kafka,
        it.transfers,
        it.joined,
        it.removed,
        it.drained,
        it.retired,
        it.minorities,
        it.installs,
        it.handed_over,
        it.taken_over,
        it.rebalanced,
    ];
    let rarest = rarest.into_iter().min().unwrap_or_default();
    demand!(0 < rarest || seeds < 500, "some fault never struck a fleet: {figures}");
    figures.set("fleet_red_controls", Bug::OF_FLEET.len());
    for bug in Bug::OF_FLEET {
        run.note(format!("a whole cluster with a planted bug: {}", bug.name()));
        let (within, _) = red(Kind::Fleet, first, bug)?;
        let red = format!("at seed {within} ({})", bug.breaks());
        figures.set(&format!("fleet_red_{}", bug.name()), red);
    }
    Ok(())
}

fn count(sum: &Sum, figures: &mut Figures) {
    let it = sum.fleet;
    let counts = [
        ("fleet_seeds", sum.lives),
        ("fleet_records", sum.total.records),
        ("fleet_outputs", sum.total.outputs),
        ("fleet_duplicates", sum.kafka.tally.duplicates),
        ("fleet_faults", it.faults),
        ("fleet_faults_least", sum.faults_least),
        ("fleet_crashes", it.crashes),
        ("fleet_power_cuts", it.power_cuts),
        ("fleet_disks_lost", it.disks_lost),
        ("fleet_cuts", it.cuts),
        ("fleet_stops", it.stops),
        ("fleet_without_kafka", it.without_kafka),
        ("fleet_transfers", it.transfers),
        ("fleet_joined", it.joined),
        ("fleet_removed", it.removed),
        ("fleet_drained", it.drained),
        ("fleet_retired", it.retired),
        ("fleet_minorities_broken", it.minorities),
        ("fleet_installs", it.installs),
        ("fleet_deploys", it.deploys),
        ("fleet_changes", it.changes),
        ("fleet_reads", it.reads),
        ("fleet_assigned", it.assigned),
        ("fleet_handed_over", it.handed_over),
        ("fleet_taken_over", it.taken_over),
        ("fleet_rebalanced", it.rebalanced),
        ("fleet_rebalance_moved", it.moved),
        ("fleet_healed_within_ms", it.healed_within / 1_000),
        ("fleet_fenced", sum.total.fenced),
        ("fleet_checks", it.checks + sum.total.checks),
        ("fleet_played_twice", sum.twice),
    ];
    counts.iter().for_each(|(name, count)| figures.set(name, *count));
}

#[cfg(test)]
mod tests {
    use super::super::play;
    use super::*;

    #[test]
    fn fleets_hold_and_repeat_themselves() {
        let sum = all(Kind::Fleet, 1, 20).unwrap();
        assert_eq!((sum.lives, sum.twice), (20, 1));
        assert!(FAULTS_LEAST <= sum.faults_least && 200 <= sum.records_least, "{sum:?}");
    }

    #[test]
    fn what_a_machine_that_stays_broken_has_parked_is_owed() {
        // The end was once taken for reached when positions said that all is settled, before another
        // owner had run what is parked.
        play(Kind::Fleet, 1_211, None).unwrap();
        let why = play(Kind::Fleet, 1_211, Some(Bug::NobodyRelieved)).unwrap_err();
        assert!(why.starts_with("OWN-4") && why.contains("owes"), "{why}");
    }

    #[test]
    fn fleets_that_were_broken_once_hold() {
        // CLU-1: a candidate that stood still counted its votes behind the leader of a later term.
        play(Kind::Fleet, 604, None).unwrap();
        // OWN-4: a machine looked again for each of its shards, and for each of those looks.
        play(Kind::Fleet, 1_000_278, None).unwrap();
        // OWN-3: a machine joined while another stood still, which was taken for rest.
        play(Kind::Fleet, 77_000_236, None).unwrap();
    }

    #[test]
    fn planted_bugs_are_noticed() {
        // The rest takes tens of lives each: the promise plays them.
        let soon = [
            Bug::EpochsIgnored,
            Bug::InstallInTwo,
            Bug::DeployedEarly,
            Bug::ParkForgotten,
            Bug::NobodyRelieved,
        ];
        for bug in soon {
            red(Kind::Fleet, 1, bug).unwrap();
        }
    }
}
